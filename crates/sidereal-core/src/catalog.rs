//! The catalog: which item has which semantic ID, and the trie of all of them.

use serde::{Deserialize, Serialize};

use std::sync::Arc;

use crate::array_file::Column;
use crate::artifact::sha256_bytes;
use crate::collision::CollisionPolicy;
use crate::error::Result;
use crate::filter::AliveSet;
use crate::item::ItemIndex;
use crate::semantic_id::SemanticIds;
use crate::trie::Trie;

mod build;
mod diff;
mod file;
mod life;
mod live;
pub(crate) mod segment;
mod walk;

pub use diff::{Diff, MapRow, Motion, diff};
pub use file::{FILE, FORMAT_VERSION};
pub use life::Change;

pub use live::{LiveCatalog, MAX_KEPT};
pub use walk::{Children, Node};

use life::Life;
use live::Live;
use segment::Segment;

/// Where `leaf_of` says that an item was removed.
const NO_LEAF: u32 = u32::MAX;

/// Items, their semantic IDs, the leaves that hold them, and the trie over the leaves. Memory-mapped when opened, which
/// reads none of it: [`Catalog::verify`] does.
///
/// A leaf is a distinct semantic ID; its *postings* are the items that share it, ordered by the prior (training
/// popularity) and then by item. That order is part of the result: items of one leaf get one score.
///
/// An item's index and semantic ID never change. A catalog that has lived ([`Catalog::change`]) lists removed items too:
/// they keep their codes, for the histories that name them, but have no leaf, so no ranking can hold them.
#[derive(Debug, Clone)]
pub struct Catalog {
    header: Header,
    base: Segment,
    id_start: Column<u64>, // [N + 1]
    id_bytes: Column<u8>,
    version: String,
    /// What changed while it serves; none for a catalog of a file.
    live: Option<Arc<Live>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    format_version: u32,
    items: u32,
    codes_per_level: Vec<u32>,
    policy: CollisionPolicy,
    /// Levels that the tokenizer wrote; one fewer than all with the suffix policy.
    tokenizer_levels: usize,
    /// How it came from catalogs before it; absent where it was built.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    life: Option<Life>,
}

impl Catalog {
    /// N, removed items included: every item index below it is one.
    pub fn len(&self) -> usize {
        self.header.items as usize + self.live.as_ref().map_or(0, |live| live.delta.items() as usize)
    }

    /// Never: a catalog has an item.
    pub fn is_empty(&self) -> bool {
        self.header.items == 0
    }

    /// How many items are not removed.
    pub fn alive(&self) -> usize {
        let built = self.alive_set().map_or(self.base.postings.len(), |alive| alive.count() as usize);
        built + self.live.as_ref().map_or(0, |live| live.delta.postings.len())
    }

    /// Whether an item is not removed.
    #[inline]
    pub fn is_alive(&self, item: ItemIndex) -> bool {
        match item.checked_sub(self.header.items) {
            None => self.alive_set().map_or_else(|| self.base.leaf_of(item).is_some(), |alive| alive.item(item)),
            Some(later) => self.live.as_ref().is_some_and(|live| live.delta.leaf_of(later).is_some()),
        }
    }

    /// What is left of the base, where something was removed while it serves.
    pub(crate) fn alive_set(&self) -> Option<&Arc<AliveSet>> {
        self.live.as_ref()?.alive.as_ref()
    }

    /// L, the suffix level included.
    pub fn levels(&self) -> usize {
        self.header.codes_per_level.len()
    }

    /// K of every level, `[L]`.
    pub fn codes_per_level(&self) -> &[u32] {
        &self.header.codes_per_level
    }

    /// How collisions were handled.
    pub fn policy(&self) -> CollisionPolicy {
        self.header.policy
    }

    /// Levels that the tokenizer wrote, without the suffix.
    pub fn tokenizer_levels(&self) -> usize {
        self.header.tokenizer_levels
    }

    /// The prefix trie over the distinct semantic IDs, without those that came while it serves: a search asks
    /// [`Catalog::children`] instead.
    pub fn trie(&self) -> &Trie {
        &self.base.trie
    }

    /// The items of a leaf of [`Catalog::trie`], in ranking order; none where there is no such leaf.
    #[inline]
    pub fn postings(&self, leaf: u32) -> &[ItemIndex] {
        self.base.postings(leaf)
    }

    /// The leaf that holds an item; none for a removed one. As [`Catalog::leaf`] numbers them.
    #[inline]
    pub fn leaf_of(&self, item: ItemIndex) -> Option<u32> {
        match item.checked_sub(self.header.items) {
            None => self.base.leaf_of(item).filter(|_| self.is_alive(item)),
            Some(later) => self.live.as_ref()?.leaf_of(later, self.base.trie.leaves()),
        }
    }

    /// An item's semantic ID, `[L]`; a removed item keeps its own.
    ///
    /// # Panics
    /// If there is no such item; so for the accessor below.
    #[inline]
    pub fn semantic_id(&self, item: ItemIndex) -> &[u16] {
        match (item.checked_sub(self.header.items), &self.live) {
            (Some(later), Some(live)) => live.delta.semantic_id(later),
            _ => self.base.semantic_id(item),
        }
    }

    /// The user's id of an item.
    pub fn item_id(&self, item: ItemIndex) -> &str {
        if let (Some(later), Some(live)) = (item.checked_sub(self.header.items), &self.live) {
            return &live.ids[later as usize];
        }
        let range = self.id_start[item as usize] as usize..self.id_start[item as usize + 1] as usize;
        self.id_bytes.get(range).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default()
    }

    /// All semantic IDs, [N, L].
    ///
    /// # Errors
    /// Never for a catalog that was built or opened.
    pub fn semantic_ids(&self) -> Result<SemanticIds> {
        SemanticIds::new(self.levels(), self.codes().to_vec())
    }

    /// The semantic IDs without the suffix level, [N, tokenizer levels].
    ///
    /// # Errors
    /// Never for a catalog that was built or opened.
    pub fn tokenizer_semantic_ids(&self) -> Result<SemanticIds> {
        let levels = self.header.tokenizer_levels;
        let codes = self.codes();
        SemanticIds::new(levels, codes.chunks_exact(self.levels()).flat_map(|row| &row[..levels]).copied().collect())
    }

    /// [N, L]
    fn codes(&self) -> std::borrow::Cow<'_, [u16]> {
        match &self.live {
            Some(live) => [&*self.base.codes, &*live.delta.codes].concat().into(),
            None => (&*self.base.codes).into(),
        }
    }

    /// A hash of the content: items, semantic IDs, order of postings. While it serves, that of the base and the number
    /// of the change.
    pub fn version(&self) -> &str {
        self.live.as_ref().map_or(&self.version, |live| &live.version)
    }

    fn content_version(&self) -> String {
        let header = serde_json::to_string(&self.header).unwrap_or_default();
        let parts = [
            header.as_bytes(),
            bytemuck::cast_slice(&self.base.codes),
            bytemuck::cast_slice(&self.base.postings),
            bytemuck::cast_slice(&self.id_start),
            &self.id_bytes,
        ];
        let hashes: String = parts.iter().map(|part| sha256_bytes(part)).collect();
        sha256_bytes(hashes.as_bytes())[..16].to_owned()
    }
}
