//! A catalog after the one before: items are added at the end or removed, and nothing that was published moves.
//!
//! A removed item keeps its index and its codes (histories name it) and loses its leaf. Its semantic ID is not given to
//! another item, so it can come back as what it was.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};

use super::segment::SegmentBuilder;
use super::{Catalog, Header};
use crate::error::{Error, Result};
use crate::item::{ItemId, ItemIndex};
use crate::semantic_id::SemanticIds;
use crate::trie::build::visit_sorted;

/// Most versions that a catalog remembers: their names must fit the file's header.
const MAX_ANCESTORS: usize = 16_384;

/// What a catalog remembers of those before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Life {
    /// Items that the first catalog was built of.
    built_items: u32,
    /// Versions before this one, oldest first; the last is the parent.
    ancestors: Vec<String>,
}

impl Life {
    pub(super) fn is_sound(&self, items: u32) -> bool {
        !self.ancestors.is_empty() && self.built_items > 0 && self.built_items <= items
    }
}

/// What happens to a catalog at once.
#[derive(Debug, Clone, Copy, Default)]
pub struct Change<'a> {
    /// Ids of new items, `[M]`.
    pub add: &'a [ItemId],
    /// Their semantic IDs, suffix included, [M, L]; absent where nothing is added.
    pub add_ids: Option<&'a SemanticIds>,
    /// Removed items that come back under the semantic ID they had.
    pub restore: &'a [ItemIndex],
    /// Items to remove.
    pub remove: &'a [ItemIndex],
}

/// Items by semantic ID, and then those that stay before those that come: what stays is in this order already.
///
/// # Shapes
/// `codes`: [M, L]
pub(super) fn joined(
    levels: usize,
    codes: &[u16],
    stay: impl Iterator<Item = ItemIndex>,
    mut come: Vec<ItemIndex>,
) -> Vec<ItemIndex> {
    let row = |item: ItemIndex| &codes[item as usize * levels..][..levels];
    come.sort_unstable_by(|&a, &b| row(a).cmp(row(b)).then(a.cmp(&b)));
    let mut order = Vec::with_capacity(stay.size_hint().1.unwrap_or(0) + come.len());
    let mut come = come.into_iter().peekable();
    for item in stay {
        while let Some(new) = come.next_if(|&new| row(new) < row(item)) {
            order.push(new);
        }
        order.push(item);
    }
    order.extend(come);
    order
}

impl Catalog {
    /// The catalog after a change: the same indexes and semantic IDs, new items at the end.
    ///
    /// Items that come into a leaf stand behind those that are there, in the order of their indexes.
    ///
    /// # Errors
    /// A new item whose id is in the catalog (also of a removed one: restore it); an item to remove that is removed, or
    /// to restore that is not; codes that do not fit; a change that leaves no item, or changes nothing.
    pub fn change(&self, change: &Change<'_>) -> Result<Self> {
        if self.live.is_some() {
            return self.merged()?.change(change);
        }
        self.check_codes_of(change)?;
        let new_rows = change.add.len();
        if change.add.is_empty() && change.restore.is_empty() && change.remove.is_empty() {
            return Err(Error::input("catalog", "there is nothing to change", "name items to add or to remove"));
        }
        self.check_new(change.add)?;
        self.check_states(change)?;
        let life = Some(self.next_life()?);
        let Some(items) = u32::try_from(self.len() + new_rows).ok().filter(|&items| items < super::NO_LEAF) else {
            let problem = format!("{} items do not fit a 32-bit number", self.len() + new_rows);
            return Err(Error::input("catalog", problem, "split the catalog"));
        };
        let removed: HashSet<ItemIndex> = change.remove.iter().copied().collect();
        let mut codes = self.base.codes.to_vec();
        codes.extend(change.add_ids.iter().flat_map(|sids| sids.codes()));
        let come = change.restore.iter().copied().chain(self.len() as u32..items).collect();
        let header = Header { items, life, ..self.header.clone() };
        let ids = self.ids().chain(change.add.iter().map(ItemId::as_str));
        self.next(header, codes, come, |item| !removed.contains(&item), ids)
    }

    /// The catalog behind this one: items that stay keep their order, those that come stand behind them in their leaves.
    ///
    /// # Shapes
    /// `codes`: [M, L] of all items of `header`
    pub(super) fn next<'a>(
        &self,
        header: Header,
        codes: Vec<u16>,
        come: Vec<ItemIndex>,
        stays: impl Fn(ItemIndex) -> bool,
        ids: impl Iterator<Item = &'a str>,
    ) -> Result<Self> {
        let levels = self.levels();
        // Items that stay are sorted already; those that come are few.
        let stay = self.base.postings.iter().copied().filter(|&item| stays(item));
        let order = joined(levels, &codes, stay, come);
        if order.is_empty() {
            let mend = "keep one, or build another catalog";
            return Err(Error::input("catalog", "the change would leave no item", mend));
        }
        let mut segment = SegmentBuilder::new(self.codes_per_level(), header.items, order.len());
        visit_sorted(levels, &codes, &order, &mut segment);
        Ok(Self::of_parts(header, segment.finish(codes.into()), ids))
    }

    /// The version that this catalog was changed from; none where it was built.
    pub fn parent(&self) -> Option<&str> {
        self.header.life.as_ref()?.ancestors.last().map(String::as_str)
    }

    /// Versions before this one, oldest first.
    pub fn ancestors(&self) -> &[String] {
        self.header.life.as_ref().map_or(&[], |life| &life.ancestors)
    }

    /// Whether it is that version, or came from it by added and removed items alone: then no item of that version has
    /// another index or semantic ID here.
    pub fn descends_from(&self, version: &str) -> bool {
        self.version() == version
            || self.version == version
            || self.ancestors().iter().any(|ancestor| ancestor == version)
    }

    /// How many items the first catalog was built of; those behind them were added.
    pub fn built_items(&self) -> usize {
        self.header.life.as_ref().map_or(self.header.items, |life| life.built_items) as usize
    }

    /// The items that were removed, ascending.
    pub fn removed(&self) -> impl Iterator<Item = ItemIndex> + '_ {
        (0..self.len() as ItemIndex).filter(|&item| !self.is_alive(item))
    }

    /// The index of every item id, removed items included. Build it once for many look-ups.
    pub fn index_by_id(&self) -> HashMap<&str, ItemIndex> {
        self.ids().zip(0..).collect()
    }

    pub(super) fn next_life(&self) -> Result<Life> {
        let mut ancestors = self.ancestors().to_vec();
        ancestors.push(self.version.clone());
        if ancestors.len() > MAX_ANCESTORS {
            let problem = format!("it has changed {MAX_ANCESTORS} times already");
            let mend = "build the catalog again from the items that it has now, and train the generator on it";
            return Err(Error::input("catalog", problem, mend));
        }
        Ok(Life { built_items: self.built_items() as u32, ancestors })
    }

    /// Every new item must have a semantic ID of this catalog's levels and codes.
    pub(super) fn check_codes_of(&self, change: &Change<'_>) -> Result<()> {
        let new_rows = change.add_ids.map_or(0, SemanticIds::len);
        if change.add.len() != new_rows {
            let problem = format!("{} new items but {new_rows} semantic IDs", change.add.len());
            return Err(Error::mismatch(problem, "give every new item one"));
        }
        if let Some(sids) = change.add_ids {
            sids.check_codes(self.codes_per_level())?;
        }
        Ok(())
    }

    /// All item ids, in the order of their indexes.
    pub(super) fn ids(&self) -> impl Iterator<Item = &str> {
        (0..self.len() as ItemIndex).map(|item| self.item_id(item))
    }

    fn check_new(&self, add: &[ItemId]) -> Result<()> {
        let mut seen = HashSet::with_capacity(add.len());
        if let Some(twice) = add.iter().find(|id| !seen.insert(id.as_str())) {
            let problem = format!("new item id {:?} appears a second time", twice.as_str());
            return Err(Error::input("items", problem, "remove one of the two"));
        }
        let there: Vec<ItemIndex> = match add.is_empty() {
            true => Vec::new(),
            false => (0..self.header.items).filter(|&item| seen.contains(self.item_id(item))).collect(),
        };
        match there.first() {
            None => Ok(()),
            Some(&first) => {
                let state = if self.is_alive(first) { "is in the catalog" } else { "was removed" };
                let problem =
                    format!("{} of the new item ids are taken: {:?} {state}", there.len(), self.item_id(first));
                Err(Error::input("items", problem, "leave them out, or restore what was removed"))
            }
        }
    }

    pub(super) fn check_states(&self, change: &Change<'_>) -> Result<()> {
        for (items, alive, word) in [(change.remove, true, "remove"), (change.restore, false, "restore")] {
            let mut seen = HashSet::with_capacity(items.len());
            for &item in items {
                let problem = match item {
                    item if item as usize >= self.len() => format!("there is no item {item} to {word}"),
                    item if self.is_alive(item) != alive => {
                        let state = if alive { "was removed already" } else { "was not removed" };
                        format!("item {:?} {state}", self.item_id(item))
                    }
                    item if !seen.insert(item) => format!("item {:?} is named twice", self.item_id(item)),
                    _ => continue,
                };
                return Err(Error::input(format!("items to {word}"), problem, "leave it out"));
            }
        }
        Ok(())
    }
}
