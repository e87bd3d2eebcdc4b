//! Which leaves of the trie are alive for one request.
//!
//! A filter acts inside the trie, never afterwards: a dead leaf is not a candidate, and neither is a node whose leaves
//! are all dead, so a beam search still finds as many items as it was asked for (methods: filters applied inside the
//! trie never lose results).

use crate::catalog::Catalog;
use crate::item::ItemIndex;
use crate::trie::Trie;

/// The items that one request must not return.
#[derive(Debug, Clone, Default)]
pub struct LeafFilter {
    dead_leaves: Vec<u32>,
    dead_items: Vec<ItemIndex>,
}

impl LeafFilter {
    /// Every item may be returned.
    pub fn allow_all() -> Self {
        Self::default()
    }

    /// The given items must not be returned. A leaf dies when all its items are denied.
    ///
    /// # Panics
    /// If an item is not in the catalog.
    pub fn deny_items(catalog: &Catalog, items: &[ItemIndex]) -> Self {
        let mut dead_items = items.to_vec();
        dead_items.sort_unstable();
        dead_items.dedup();
        let mut touched: Vec<u32> = dead_items.iter().filter_map(|&item| catalog.leaf_of(item)).collect();
        touched.sort_unstable();
        touched.dedup();
        touched.retain(|&leaf| catalog.postings(leaf).iter().all(|item| dead_items.binary_search(item).is_ok()));
        Self { dead_leaves: touched, dead_items }
    }

    /// Whether any leaf below the node is alive.
    #[inline]
    pub fn alive(&self, trie: &Trie, depth: usize, node: u32) -> bool {
        if self.dead_leaves.is_empty() {
            return true;
        }
        let leaves = trie.leaves_below(depth, node);
        // A node with more leaves than there are dead ones is alive without a search.
        if (leaves.end - leaves.start) as usize > self.dead_leaves.len() {
            return true;
        }
        let below = |leaf: u32| self.dead_leaves.partition_point(|&dead| dead < leaf);
        below(leaves.end) - below(leaves.start) < (leaves.end - leaves.start) as usize
    }

    /// Whether the item itself may be returned (a leaf may be alive though some of its items are not).
    #[inline]
    pub fn item_alive(&self, item: ItemIndex) -> bool {
        self.dead_items.binary_search(&item).is_err()
    }

    /// How many distinct items are denied.
    pub fn denied(&self) -> usize {
        self.dead_items.len()
    }
}
