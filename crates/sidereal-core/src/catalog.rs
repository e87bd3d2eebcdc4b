//! The catalog: which item has which semantic ID, and the trie of all of them.

use serde::{Deserialize, Serialize};

use crate::array_file::Column;
use crate::artifact::sha256_bytes;
use crate::collision::CollisionPolicy;
use crate::error::Result;
use crate::item::ItemIndex;
use crate::semantic_id::SemanticIds;
use crate::trie::Trie;

mod build;
mod diff;
mod file;
mod life;

pub use diff::{Diff, MapRow, Motion, diff};
pub use file::{FILE, FORMAT_VERSION};
pub use life::Change;

use life::Life;

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
    trie: Trie,
    codes: Column<u16>,          // [N, L]
    leaf_of: Column<u32>,        // [N], NO_LEAF for a removed item
    postings_start: Column<u32>, // [leaves + 1]
    postings: Column<u32>,       // [alive items]
    id_start: Column<u64>,       // [N + 1]
    id_bytes: Column<u8>,
    version: String,
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
        self.header.items as usize
    }

    /// Never: a catalog has an item.
    pub fn is_empty(&self) -> bool {
        self.header.items == 0
    }

    /// How many items are not removed.
    pub fn alive(&self) -> usize {
        self.postings.len()
    }

    /// Whether an item is not removed.
    ///
    /// # Panics
    /// If there is no such item.
    #[inline]
    pub fn is_alive(&self, item: ItemIndex) -> bool {
        self.leaf_of(item).is_some()
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

    /// The prefix trie over the distinct semantic IDs.
    pub fn trie(&self) -> &Trie {
        &self.trie
    }

    /// The items of a leaf, in ranking order; none where there is no such leaf.
    #[inline]
    pub fn postings(&self, leaf: u32) -> &[ItemIndex] {
        let ends = self.postings_start.get(leaf as usize..).and_then(|from| from.first_chunk::<2>());
        let &[start, end] = ends.unwrap_or(&[0, 0]);
        let items = self.postings.get(start as usize..end as usize).unwrap_or(&[]);
        // A file that names items that are not there has none here: whoever asks may use them as they are.
        if items.iter().all(|&item| item < self.header.items) { items } else { &[] }
    }

    /// The leaf that holds an item; none for a removed one.
    ///
    /// # Panics
    /// If there is no such item; so for the accessors below.
    #[inline]
    pub fn leaf_of(&self, item: ItemIndex) -> Option<u32> {
        Some(self.leaf_of[item as usize]).filter(|&leaf| leaf < self.trie.leaves())
    }

    /// An item's semantic ID, `[L]`; a removed item keeps its own.
    #[inline]
    pub fn semantic_id(&self, item: ItemIndex) -> &[u16] {
        let levels = self.levels();
        &self.codes[item as usize * levels..(item as usize + 1) * levels]
    }

    /// All semantic IDs, [N, L].
    ///
    /// # Errors
    /// Never for a catalog that was built or opened.
    pub fn semantic_ids(&self) -> Result<SemanticIds> {
        SemanticIds::new(self.levels(), self.codes.to_vec())
    }

    /// The semantic IDs without the suffix level, [N, tokenizer levels].
    ///
    /// # Errors
    /// Never for a catalog that was built or opened.
    pub fn tokenizer_semantic_ids(&self) -> Result<SemanticIds> {
        let levels = self.header.tokenizer_levels;
        SemanticIds::new(
            levels,
            self.codes.chunks_exact(self.levels()).flat_map(|row| &row[..levels]).copied().collect(),
        )
    }

    /// The user's id of an item.
    pub fn item_id(&self, item: ItemIndex) -> &str {
        let range = self.id_start[item as usize] as usize..self.id_start[item as usize + 1] as usize;
        self.id_bytes.get(range).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default()
    }

    /// A hash of the content: items, semantic IDs, order of postings.
    pub fn version(&self) -> &str {
        &self.version
    }

    fn content_version(&self) -> String {
        let header = serde_json::to_string(&self.header).unwrap_or_default();
        let parts = [
            header.as_bytes(),
            bytemuck::cast_slice(&self.codes),
            bytemuck::cast_slice(&self.postings),
            bytemuck::cast_slice(&self.id_start),
            &self.id_bytes,
        ];
        let hashes: String = parts.iter().map(|part| sha256_bytes(part)).collect();
        sha256_bytes(hashes.as_bytes())[..16].to_owned()
    }
}
