//! How a search goes down a catalog: one prefix at a time, whether it was built in or came while the catalog serves.

use super::Catalog;
use crate::item::ItemIndex;
use crate::trie::{CodesIter, Trie};

/// Where a segment has no such prefix.
const NONE: u32 = u32::MAX;

/// A prefix of semantic IDs: its node in the trie that was built, and in the one of what came later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    base: u32,
    delta: u32,
}

impl Node {
    /// In the trie that was built.
    #[inline]
    pub(crate) fn base(self) -> Option<u32> {
        Some(self.base).filter(|&node| node != NONE)
    }

    /// In the trie of what came later.
    #[inline]
    pub(crate) fn delta(self) -> Option<u32> {
        Some(self.delta).filter(|&node| node != NONE)
    }
}

/// The children of a node with their codes, ascending.
#[derive(Debug, Clone)]
pub struct Children<'a> {
    base: Side<'a>,
    delta: Side<'a>,
}

/// The children that are left in one segment.
#[derive(Debug, Clone)]
struct Side<'a> {
    node: u32,
    code: Option<u16>,
    codes: CodesIter<'a>,
}

impl<'a> Side<'a> {
    fn new(trie: &'a Trie, depth: usize, node: u32) -> Self {
        let (nodes, codes) = trie.children(depth, node);
        let mut codes = codes.iter();
        Self { node: nodes.start, code: codes.next(), codes }
    }

    #[inline]
    fn take(&mut self) -> u32 {
        self.code = self.codes.next();
        self.node += 1;
        self.node - 1
    }
}

impl Iterator for Children<'_> {
    type Item = (u16, Node);

    #[inline]
    fn next(&mut self) -> Option<(u16, Node)> {
        let Some(later) = self.delta.code else {
            return self.base.code.map(|code| (code, Node { base: self.base.take(), delta: NONE }));
        };
        match self.base.code {
            Some(code) if code < later => Some((code, Node { base: self.base.take(), delta: NONE })),
            Some(code) if code == later => Some((code, Node { base: self.base.take(), delta: self.delta.take() })),
            _ => Some((later, Node { base: NONE, delta: self.delta.take() })),
        }
    }
}

impl Catalog {
    /// The empty prefix.
    pub fn root(&self) -> Node {
        let later = self.live.as_ref().is_some_and(|live| live.delta.trie().leaves() > 0);
        Node { base: 0, delta: if later { 0 } else { NONE } }
    }

    /// Whether [`Catalog::trie`] has all semantic IDs: none came while the catalog serves.
    pub fn is_all_built(&self) -> bool {
        self.root().delta().is_none()
    }

    /// The children of a prefix of `depth` codes.
    #[inline]
    pub fn children(&self, depth: usize, node: Node) -> Children<'_> {
        let base = Side::new(&self.base.trie, depth, node.base);
        let delta = match &self.live {
            Some(live) => Side::new(live.delta.trie(), depth, node.delta),
            None => Side { node: 0, code: None, codes: CodesIter::none() },
        };
        Children { base, delta }
    }

    /// The number of a whole semantic ID: that of its leaf in [`Catalog::trie`], or, where only later items have it, a
    /// number behind those.
    pub fn leaf(&self, node: Node) -> u32 {
        node.base().unwrap_or_else(|| self.base.trie.leaves().saturating_add(node.delta))
    }

    /// All numbers that [`Catalog::leaf`] can give are below this.
    pub fn leaves(&self) -> u32 {
        self.base.trie.leaves() + self.live.as_ref().map_or(0, |live| live.delta.trie().leaves())
    }

    /// The items of a semantic ID, in ranking order: those that were built in, then those that came later. Some may be
    /// removed ([`Catalog::is_alive`]).
    pub fn items_of(&self, leaf: u32) -> impl Iterator<Item = ItemIndex> + '_ {
        let later = self.live.as_ref().map_or(&[][..], |live| live.items_of(leaf, self.base.trie.leaves()));
        let first = self.header.items;
        self.postings(leaf).iter().copied().chain(later.iter().map(move |item| first + item))
    }

    /// Leaves in the order of their semantic IDs.
    pub fn compare_leaves(&self, a: u32, b: u32) -> std::cmp::Ordering {
        let built = self.base.trie.leaves();
        if a < built && b < built { a.cmp(&b) } else { self.semantic_id_of(a).cmp(&self.semantic_id_of(b)) }
    }

    /// The codes of a leaf, `[L]`.
    pub fn semantic_id_of(&self, leaf: u32) -> Vec<u16> {
        match (leaf.checked_sub(self.base.trie.leaves()), &self.live) {
            (Some(later), Some(live)) => live.delta.trie().semantic_id(later),
            _ => self.base.trie.semantic_id(leaf),
        }
    }
}
