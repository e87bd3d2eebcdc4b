//! Semantic IDs that are listed item by item, as the indexers that learn no codebook make them.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use sidereal_core::array_file::{Array, ArrayFile, Entry, write_arrays};
use sidereal_core::{Error, ItemId, Result, SemanticIds};

const MEND: &str = "the file is damaged or of another version: train the tokenizer again";

/// Items and their semantic IDs.
#[derive(Debug, Clone)]
pub struct ItemTable {
    ids: Vec<ItemId>,
    sids: SemanticIds,
    codes_per_level: Vec<u32>,
    row_of: HashMap<ItemId, usize>,
}

impl ItemTable {
    /// Joins ids and codes.
    ///
    /// # Errors
    /// Lengths that differ, an id that appears twice, a code that its level does not have.
    ///
    /// # Shapes
    /// `ids`: `[N]`; `sids`: [N, L]; `codes_per_level`: `[L]`
    pub fn new(ids: Vec<ItemId>, sids: SemanticIds, codes_per_level: Vec<u32>) -> Result<Self> {
        if ids.len() != sids.len() {
            let problem = format!("{} items, but {} semantic IDs", ids.len(), sids.len());
            return Err(Error::mismatch(problem, "give every item one"));
        }
        sids.check_codes(&codes_per_level)?;
        let mut row_of = HashMap::with_capacity(ids.len());
        for (row, id) in ids.iter().enumerate() {
            if row_of.insert(id.clone(), row).is_some() {
                let problem = format!("item id {:?} appears a second time", id.as_str());
                return Err(Error::input("items", problem, "remove one of the two"));
            }
        }
        Ok(Self { ids, sids, codes_per_level, row_of })
    }

    /// The ids, in the order of training. `[N]`
    pub fn ids(&self) -> &[ItemId] {
        &self.ids
    }

    /// Their semantic IDs, [N, L].
    pub fn semantic_ids(&self) -> &SemanticIds {
        &self.sids
    }

    /// K of every level, `[L]`.
    pub fn codes_per_level(&self) -> &[u32] {
        &self.codes_per_level
    }

    /// An item's semantic ID, `[L]`.
    pub fn find(&self, id: &str) -> Option<&[u16]> {
        self.row_of.get(id).map(|&row| self.sids.row(row))
    }

    /// The semantic IDs of these items.
    ///
    /// # Errors
    /// Items that are not in the table; the first is named.
    ///
    /// # Shapes
    /// `[M]` to [M, L]
    pub fn look_up(&self, ids: &[ItemId]) -> Result<SemanticIds> {
        let mut codes = Vec::with_capacity(ids.len() * self.sids.levels());
        for id in ids {
            let Some(found) = self.find(id.as_str()) else {
                let problem = format!("item {:?} has no semantic ID: this method lists items one by one", id.as_str());
                let mend = "add it with `sidereal catalog add`, or use a method that encodes vectors (rq-kmeans)";
                return Err(Error::input("items", problem, mend));
            };
            codes.extend_from_slice(found);
        }
        SemanticIds::new(self.sids.levels(), codes)
    }

    /// The same and items behind it.
    ///
    /// # Shapes
    /// `codes`: [M, L], flat
    pub(crate) fn with_more(&self, new: impl Iterator<Item = ItemId>, codes: &[u16]) -> Result<Self> {
        let ids = self.ids.iter().cloned().chain(new).collect();
        let codes = [self.sids.codes(), codes].concat();
        Self::new(ids, SemanticIds::new(self.sids.levels(), codes)?, self.codes_per_level.clone())
    }

    pub(crate) fn save(&self, path: &Path) -> Result<()> {
        let mut start = vec![0u64];
        let mut bytes = Vec::new();
        for id in &self.ids {
            bytes.extend_from_slice(id.as_str().as_bytes());
            start.push(bytes.len() as u64);
        }
        let shape = [self.sids.len(), self.sids.levels()];
        let entries = [
            Entry::shaped("codes", &shape, Array::U16(self.sids.codes())),
            Entry::flat("id_start", Array::U64(&start)),
            Entry::flat("id_bytes", Array::U8(&bytes)),
        ];
        write_arrays(path, &entries, &BTreeMap::new())
    }

    pub(crate) fn load(path: &Path, codes_per_level: &[u32]) -> Result<Self> {
        let file = ArrayFile::open(path)?;
        let bad = |problem: &str| Error::artifact(path, problem, MEND);
        let start = file.column::<u64>("id_start")?;
        let bytes = file.column::<u8>("id_bytes")?;
        let sids = SemanticIds::new(codes_per_level.len(), file.column::<u16>("codes")?.to_vec())?;
        let id = |range: &[u64]| {
            let bytes = bytes.get(range[0] as usize..range[1] as usize)?;
            std::str::from_utf8(bytes).ok().map(ItemId::from)
        };
        let ids: Option<Vec<ItemId>> = start.windows(2).map(id).collect();
        let ids = ids.ok_or_else(|| bad("its item ids are damaged"))?;
        Self::new(ids, sids, codes_per_level.to_vec()).map_err(|e| bad(&e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_table_comes_back_from_disk_and_names_items_that_it_does_not_know() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("items.safetensors");
        let ids: Vec<ItemId> = ["a", "", "\u{e9}"].into_iter().map(ItemId::from).collect();
        let sids = SemanticIds::new(2, vec![1, 2, 0, 0, 2, 1]).unwrap();
        let table = ItemTable::new(ids.clone(), sids.clone(), vec![3, 3]).unwrap();
        table.save(&path).unwrap();
        let again = ItemTable::load(&path, &[3, 3]).unwrap();
        assert_eq!(again.look_up(&ids).unwrap(), sids);
        assert!(again.look_up(&[ItemId::from("b")]).unwrap_err().to_string().contains("\"b\""));
        assert!(ItemTable::load(&path, &[3, 2]).unwrap_err().to_string().contains("damaged"));
        assert!(ItemTable::new(vec![ids[0].clone(); 3], sids, vec![3, 3]).unwrap_err().to_string().contains("second"));
    }
}
