//! Items in leaves: the part of a catalog that a search walks. A catalog has one, and a second while it serves.

use super::NO_LEAF;
use crate::array_file::Column;
use crate::item::ItemIndex;
use crate::trie::Trie;
use crate::trie::build::{InOrder, TrieBuilder};

/// Items numbered from 0, their codes, the leaves that hold them, and the trie over the leaves.
///
/// The numbers may come from a file that nobody has read: every look at them is bounded.
#[derive(Debug, Clone)]
pub(crate) struct Segment {
    pub(super) trie: Trie,
    pub(super) codes: Column<u16>,          // [N, L]
    pub(super) leaf_of: Column<u32>,        // [N], NO_LEAF for a removed item
    pub(super) postings_start: Column<u32>, // [leaves + 1]
    pub(super) postings: Column<u32>,       // [alive items]
}

impl Segment {
    /// N, removed items included.
    pub(crate) fn items(&self) -> u32 {
        self.leaf_of.len() as u32
    }

    pub(crate) fn trie(&self) -> &Trie {
        &self.trie
    }

    /// The items of a leaf, in ranking order; none where there is no such leaf.
    #[inline]
    pub(crate) fn postings(&self, leaf: u32) -> &[ItemIndex] {
        let ends = self.postings_start.get(leaf as usize..).and_then(|from| from.first_chunk::<2>());
        let &[start, end] = ends.unwrap_or(&[0, 0]);
        let items = self.postings.get(start as usize..end as usize).unwrap_or(&[]);
        // A file that names items that are not there has none here: whoever asks may use them as they are.
        if items.iter().all(|&item| item < self.items()) { items } else { &[] }
    }

    /// The leaf that holds an item; none for a removed one, and where there is no such item.
    #[inline]
    pub(crate) fn leaf_of(&self, item: ItemIndex) -> Option<u32> {
        self.leaf_of.get(item as usize).copied().filter(|&leaf| leaf < self.trie.leaves())
    }

    /// An item's codes, `[L]`.
    ///
    /// # Panics
    /// If there is no such item.
    #[inline]
    pub(crate) fn semantic_id(&self, item: ItemIndex) -> &[u16] {
        let levels = self.trie.levels();
        &self.codes[item as usize * levels..(item as usize + 1) * levels]
    }
}

/// Leaves, postings and trie while items come by semantic ID and then in the order of postings.
pub(super) struct SegmentBuilder {
    trie: TrieBuilder,
    postings_start: Vec<u32>,
    postings: Vec<ItemIndex>,
    leaf_of: Vec<u32>,
}

impl SegmentBuilder {
    /// Of `alive` of the `items`.
    pub(super) fn new(codes_per_level: &[u32], items: u32, alive: usize) -> Self {
        Self {
            trie: TrieBuilder::new(codes_per_level, alive),
            postings_start: Vec::with_capacity(alive + 1),
            postings: Vec::with_capacity(alive),
            leaf_of: vec![NO_LEAF; items as usize],
        }
    }

    /// The segment of all items that came.
    ///
    /// # Shapes
    /// `codes`: [N, L]
    pub(super) fn finish(mut self, codes: Column<u16>) -> Segment {
        self.postings_start.push(self.postings.len() as u32);
        self.postings_start.shrink_to_fit();
        Segment {
            trie: self.trie.finish(),
            codes,
            leaf_of: self.leaf_of.into(),
            postings_start: self.postings_start.into(),
            postings: self.postings.into(),
        }
    }
}

impl InOrder for SegmentBuilder {
    #[inline]
    fn row(&mut self, row: u32, shared: usize, code: impl Fn(usize) -> u16) {
        if self.postings.is_empty() || shared < self.trie.levels() {
            self.postings_start.push(self.postings.len() as u32);
            self.trie.leaf(shared, code);
        }
        self.leaf_of[row as usize] = self.postings_start.len() as u32 - 1;
        self.postings.push(row);
    }
}
