//! New items in a list of items: places for them that move no item that has one.

use std::collections::{BTreeSet, HashMap};

use rayon::prelude::*;

use sidereal_core::{Error, ItemId, Result};

use crate::algebra::product::squared_distance;
use crate::behaviour::code_tree::room;
use crate::behaviour::cooccurrence::CoOccurrences;
use crate::item_table::ItemTable;
use crate::training_items::TrainingItems;

/// Items of which a list knows some.
pub struct Growth<'a> {
    /// The list as it is.
    pub(crate) table: &'a ItemTable,
    /// All items, those of the list and new ones.
    pub(crate) items: &'a TrainingItems<'a>,
    /// Their ids, `[N]`.
    pub(crate) ids: &'a [ItemId],
    /// Those that the list has, ascending.
    pub(crate) known: Vec<usize>,
    /// The others, ascending.
    pub(crate) new: Vec<usize>,
}

impl<'a> Growth<'a> {
    /// Tells the items of a list from the new ones.
    ///
    /// # Errors
    /// No ids.
    pub(crate) fn new(table: &'a ItemTable, items: &'a TrainingItems<'a>, method: &str) -> Result<Self> {
        let ids = items.needed_ids(method)?;
        let (known, new) = (0..ids.len()).partition(|&item| table.find(ids[item].as_str()).is_some());
        Ok(Self { table, items, ids, known, new })
    }

    /// For each new item one of the list whose categories it shares: the first with the same path, or with as much of
    /// it as there is.
    ///
    /// # Errors
    /// No categories.
    pub(crate) fn by_category(&self, method: &str) -> Result<Vec<Option<usize>>> {
        let paths = self.items.needed_categories(method)?;
        let mut same: HashMap<&[String], usize> = HashMap::new();
        let mut below = same.clone();
        for &item in &self.known {
            let path = paths[item].as_slice();
            same.entry(path).or_insert(item);
            for depth in 0..=path.len() {
                below.entry(&path[..depth]).or_insert(item);
            }
        }
        let near = |&item: &usize| {
            let path = paths[item].as_slice();
            let shared = || (0..=path.len()).rev().find_map(|depth| below.get(&path[..depth]));
            same.get(path).or_else(shared).copied()
        };
        Ok(self.new.iter().map(near).collect())
    }

    /// For each new item one of the list: the one that users have near it most often, or the nearest by vector.
    pub(crate) fn by_behaviour(&self, window: usize) -> Vec<Option<usize>> {
        let counts = self.items.histories.map(|histories| CoOccurrences::count(&histories, self.items.len(), window));
        let is_known = |item: usize| self.known.binary_search(&item).is_ok();
        let near = |&item: &usize| {
            let neighbours = counts.iter().flat_map(|counts| counts.row(item)).filter(|&(i, _)| is_known(i as usize));
            // Of equal counts the smaller item.
            let most = neighbours.max_by_key(|&(i, count)| (count, std::cmp::Reverse(i)));
            most.map(|(i, _)| i as usize).or_else(|| self.nearest(item))
        };
        self.new.par_iter().map(near).collect()
    }

    fn nearest(&self, item: usize) -> Option<usize> {
        let distance = |&other: &usize| squared_distance(self.items.vectors.row(item), self.items.vectors.row(other));
        let compare = |a: &&usize, b: &&usize| distance(a).total_cmp(&distance(b));
        self.known.iter().min_by(compare).copied()
    }

    /// The semantic ID of an item of the list, `[L]`.
    pub(crate) fn codes_of(&self, item: usize) -> &'a [u16] {
        self.table.find(self.ids[item].as_str()).unwrap_or(&[])
    }

    /// A free semantic ID for each new item, under as many codes of its neighbour's as have room.
    ///
    /// # Errors
    /// No room left.
    ///
    /// # Shapes
    /// `neighbours`: `[M]`; the answer: [M, L], flat
    pub(crate) fn free_near(&self, neighbours: &[Option<usize>], method: &str) -> Result<Vec<u16>> {
        let sizes = self.table.codes_per_level();
        let mut taken: BTreeSet<Vec<u16>> = self.table.semantic_ids().rows().map(<[_]>::to_vec).collect();
        let mut found = Vec::with_capacity(neighbours.len() * sizes.len());
        for neighbour in neighbours {
            let near = neighbour.map_or(&[][..], |item| self.codes_of(item));
            let depths = (0..sizes.len().min(near.len() + 1)).rev();
            let Some(free) = depths.map(|depth| &near[..depth]).find_map(|prefix| first_free(&taken, prefix, sizes))
            else {
                return Err(no_room(self.table.ids().len() + self.new.len(), sizes, method));
            };
            found.extend_from_slice(&free);
            taken.insert(free);
        }
        Ok(found)
    }
}

/// The error of a list without room.
pub(crate) fn no_room(items: usize, codes: &[u32], method: &str) -> Error {
    let problem = format!("{items} items do not fit the semantic IDs of {method} with {codes:?}");
    Error::mismatch(problem, "train a tokenizer with more codes or levels")
}

/// The smallest semantic ID under a prefix that is not taken.
fn first_free(taken: &BTreeSet<Vec<u16>>, prefix: &[u16], sizes: &[u32]) -> Option<Vec<u16>> {
    let below = &sizes[prefix.len()..];
    let number = |codes: &[u16]| {
        codes[prefix.len()..]
            .iter()
            .zip(below)
            .fold(0usize, |sum, (&code, &k)| sum.saturating_mul(k as usize).saturating_add(usize::from(code)))
    };
    let under = taken.range(prefix.to_vec()..).take_while(|codes| codes.starts_with(prefix));
    // Numbers ascend from 0 without a gap until the first free one.
    let free = under.enumerate().take_while(|(at, codes)| number(codes) == *at).count();
    if free >= room(below) {
        return None;
    }
    let mut codes = prefix.to_vec();
    codes.resize(sizes.len(), 0);
    crate::behaviour::code_tree::write_number(free, below, &mut codes[prefix.len()..]);
    Some(codes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use sidereal_core::{Embeddings, SemanticIds};

    #[test]
    fn new_items_take_the_first_free_place_under_their_neighbours_prefix() {
        let ids: Vec<ItemId> = (0..7).map(|i| ItemId::from(i.to_string())).collect();
        let sids = SemanticIds::new(2, vec![0, 0, 0, 1, 1, 1]).unwrap();
        let table = ItemTable::new(ids[..3].to_vec(), sids, vec![3, 2]).unwrap();
        let vectors = Embeddings::new(7, 1, vec![0.0, 5.0, 9.0, 8.0, 8.5, 0.1, 0.2]).unwrap();
        let items = TrainingItems { ids: Some(&ids), ..TrainingItems::new(&vectors) };
        let growth = Growth::new(&table, &items, "test").unwrap();
        let near = growth.by_behaviour(5);
        assert_eq!(near, [Some(2), Some(2), Some(0), Some(0)]);
        let error = growth.free_near(&near, "test").unwrap_err().to_string();
        assert!(error.contains("7 items") && error.contains("[3, 2]"), "{error}");
        assert_eq!(growth.free_near(&near[..3], "test").unwrap(), [1, 0, 2, 0, 2, 1]);
    }

    #[test]
    fn categories_lead_to_the_same_path_or_as_much_of_it_as_there_is() {
        let path = |text: &str| text.split('/').filter(|p| !p.is_empty()).map(str::to_owned).collect::<Vec<_>>();
        let paths: Vec<Vec<String>> =
            ["a/x", "a", "b", "", "a", "a/y", "c", "", "a/x"].iter().map(|p| path(p)).collect();
        let ids: Vec<ItemId> = (0..9).map(|i| ItemId::from(i.to_string())).collect();
        let sids = SemanticIds::new(1, vec![0, 1, 2, 3]).unwrap();
        let table = ItemTable::new(ids[..4].to_vec(), sids, vec![99]).unwrap();
        let vectors = Embeddings::new(9, 1, vec![0.0; 9]).unwrap();
        let items = TrainingItems { ids: Some(&ids), categories: Some(&paths), ..TrainingItems::new(&vectors) };
        let growth = Growth::new(&table, &items, "test").unwrap();
        assert_eq!(growth.by_category("test").unwrap(), [Some(1), Some(0), Some(0), Some(3), Some(0)]);
    }
}
