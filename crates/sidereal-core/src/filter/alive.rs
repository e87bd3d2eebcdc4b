//! Which items, leaves and nodes of a segment are alive, a bit each.
//!
//! A node is alive if an item below it is. Keeping a bit for every node of every depth, and not only for the leaves,
//! makes the question one look for the search, and a removed item costs the nodes that die with it.

use super::bits::Bits;
use crate::catalog::segment::Segment;

/// Alive items of a segment and the nodes above them.
#[derive(Debug, Clone)]
pub struct AliveSet {
    items: Bits,
    /// Nodes of depth 1 to L, `[L]`; the root is alive where an item is.
    nodes: Vec<Bits>,
    count: u32,
}

impl AliveSet {
    /// The given items of a segment, removed ones left out.
    pub(crate) fn new(segment: &Segment, wanted: &Bits) -> Self {
        let trie = segment.trie();
        let mut items = Bits::none(segment.items());
        let mut nodes: Vec<Bits> = (1..=trie.levels()).map(|depth| Bits::none(trie.nodes(depth) as u32)).collect();
        let mut count = 0;
        for item in wanted.iter() {
            let Some(leaf) = segment.leaf_of(item) else { continue };
            items.set(item);
            count += 1;
            if let Some(leaves) = nodes.last_mut() {
                leaves.set(leaf);
            }
        }
        for depth in (1..trie.levels()).rev() {
            let (above, below) = nodes.split_at_mut(depth);
            let (Some(parents), Some(children)) = (above.last_mut(), below.first()) else { continue };
            let mut parent = 0;
            for child in children.iter() {
                parent = trie.parent_from(depth + 1, child, parent);
                parents.set(parent);
            }
        }
        Self { items, nodes, count }
    }

    /// How many items are alive.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Whether an item is alive.
    #[inline]
    pub fn item(&self, item: u32) -> bool {
        self.items.get(item)
    }

    /// The alive items.
    pub fn items(&self) -> &Bits {
        &self.items
    }

    /// Whether an item below the node is alive.
    #[inline]
    pub fn node(&self, depth: usize, node: u32) -> bool {
        match depth.checked_sub(1).map(|at| self.nodes.get(at)) {
            None => self.count > 0,
            Some(nodes) => nodes.is_some_and(|nodes| nodes.get(node)),
        }
    }

    /// The alive nodes of depths 1 to L.
    pub fn nodes(&self, depth: usize) -> Option<&Bits> {
        self.nodes.get(depth.checked_sub(1)?)
    }

    /// How many of some nodes of a depth are alive.
    pub(crate) fn count_in(&self, depth: usize, nodes: std::ops::Range<u32>) -> u32 {
        let at = depth.checked_sub(1).and_then(|at| self.nodes.get(at));
        at.map_or(u32::from(self.count > 0), |bits| bits.count_in(nodes))
    }

    /// Takes an item out, and the leaf and nodes that have no other.
    pub(crate) fn remove(&mut self, segment: &Segment, item: u32) {
        if !self.items.get(item) {
            return;
        }
        self.items.clear(item);
        self.count -= 1;
        let Some(leaf) = segment.leaf_of(item) else { return };
        if segment.postings(leaf).iter().any(|&other| self.items.get(other)) {
            return;
        }
        let trie = segment.trie();
        let mut node = leaf;
        for depth in (1..=trie.levels()).rev() {
            self.nodes[depth - 1].clear(node);
            let parent = trie.parent(depth, node);
            if depth == 1 || self.nodes[depth - 1].any_in(trie.children(depth - 1, parent).0) {
                break;
            }
            node = parent;
        }
    }
}
