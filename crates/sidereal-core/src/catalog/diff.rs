//! What differs between two catalogs, item by item: the map by which whoever stored semantic IDs moves to new ones.

use std::collections::HashMap;

use serde::Serialize;

use super::Catalog;
use crate::item::ItemIndex;

/// What became of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Motion {
    /// Only the new catalog has it.
    Added,
    /// Only the old catalog has it.
    Removed,
    /// Both have it, under other semantic IDs.
    Moved,
    /// Both have it, under the same semantic ID.
    Unchanged,
}

impl Motion {
    /// The name in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Moved => "moved",
            Self::Unchanged => "unchanged",
        }
    }
}

/// One item of a migration map.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MapRow {
    /// The user's id.
    pub item_id: String,
    /// What became of it.
    pub change: Motion,
    /// Its semantic ID before; none if it was not there.
    pub old_semantic_id: Option<Vec<u16>>,
    /// Its semantic ID now; none if it is not there.
    pub new_semantic_id: Option<Vec<u16>>,
}

/// The difference of two catalogs by item id; removed items count as not there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diff {
    /// Version of the old catalog.
    pub old_version: String,
    /// Version of the new one.
    pub new_version: String,
    /// Whether the new one came from the old one by added and removed items alone.
    pub descends: bool,
    /// Items that only the new one has.
    pub added: usize,
    /// Items that only the old one has.
    pub removed: usize,
    /// Items under another semantic ID.
    pub moved: usize,
    /// Items under the same semantic ID.
    pub unchanged: usize,
    /// Every item: the old catalog's in its order, then those that were added.
    #[serde(skip)]
    pub rows: Vec<MapRow>,
}

/// Compares two catalogs.
pub fn diff(old: &Catalog, new: &Catalog) -> Diff {
    let alive = |catalog: &Catalog| -> Vec<ItemIndex> {
        (0..catalog.len() as ItemIndex).filter(|&item| catalog.is_alive(item)).collect()
    };
    let (old_items, new_items) = (alive(old), alive(new));
    let in_new: HashMap<&str, ItemIndex> = new_items.iter().map(|&item| (new.item_id(item), item)).collect();
    let in_old: HashMap<&str, ItemIndex> = old_items.iter().map(|&item| (old.item_id(item), item)).collect();
    let row = |id: &str, before: Option<&[u16]>, now: Option<&[u16]>| MapRow {
        item_id: id.to_owned(),
        change: match (before, now) {
            (None, _) => Motion::Added,
            (_, None) => Motion::Removed,
            (before, now) if before == now => Motion::Unchanged,
            _ => Motion::Moved,
        },
        old_semantic_id: before.map(<[u16]>::to_vec),
        new_semantic_id: now.map(<[u16]>::to_vec),
    };
    let kept = old_items.iter().map(|&item| {
        let id = old.item_id(item);
        row(id, Some(old.semantic_id(item)), in_new.get(id).map(|&item| new.semantic_id(item)))
    });
    let added = new_items.iter().filter(|&&item| !in_old.contains_key(new.item_id(item)));
    let rows: Vec<MapRow> =
        kept.chain(added.map(|&item| row(new.item_id(item), None, Some(new.semantic_id(item))))).collect();
    let count = |motion: Motion| rows.iter().filter(|row| row.change == motion).count();
    Diff {
        old_version: old.version().to_owned(),
        new_version: new.version().to_owned(),
        descends: new.descends_from(old.version()),
        added: count(Motion::Added),
        removed: count(Motion::Removed),
        moved: count(Motion::Moved),
        unchanged: count(Motion::Unchanged),
        rows,
    }
}
