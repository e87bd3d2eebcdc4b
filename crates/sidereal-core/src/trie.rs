//! The prefix trie over semantic IDs, in flat arrays.
//!
//! # How does it work without child pointers?
//! Sort the distinct semantic IDs. Number the nodes of each depth in that order. Then the children of node `n` are
//! consecutive nodes of the next depth, and the e-th edge at depth `d` leads to the e-th node at depth `d + 1`: an
//! edge's number *is* its child. What remains per depth is where each node's edges begin (`first_child`), the code on
//! each edge (`edge_code`), and the first leaf below each node (`first_leaf`), because leaves are sorted too and the
//! leaves below a node are an interval. About 10 bytes a node.
//!
//! ```text
//! semantic IDs   (0,1) (0,3) (2,1)          depth 0   root          first_child [0,2]   edge_code [0,2]
//!                                           depth 1   0:"0" 1:"2"   first_child [0,2,3] edge_code [1,3,1]
//!                                           depth 2   the leaves 0, 1, 2
//! ```

use std::ops::Range;

use crate::array_file::{Array, ArrayFile, Column, Entry};
use crate::error::{Error, Result};
use crate::semantic_id::SemanticIds;

/// A prefix trie of fixed depth L over distinct semantic IDs. Depth 0 is the root, depth L the leaves.
#[derive(Debug, Clone)]
pub struct Trie {
    depths: Vec<Depth>,
    leaves: u32,
}

/// The nodes of one depth and their edges to the next.
#[derive(Debug, Clone)]
struct Depth {
    first_child: Column<u32>, // [nodes + 1]
    edge_code: Column<u16>,   // [edges]
    first_leaf: Column<u32>,  // [nodes + 1]
}

impl Trie {
    /// Builds the trie of semantic IDs that are sorted and distinct.
    ///
    /// # Errors
    /// Rows that are not strictly ascending; none at all.
    pub fn from_sorted(sids: &SemanticIds) -> Result<Self> {
        let (levels, n) = (sids.levels(), sids.len());
        let leaves = u32::try_from(n).ok().filter(|&n| n > 0).ok_or_else(|| {
            Error::input("semantic IDs", format!("a trie cannot hold {n} leaves"), "give between 1 and 2^32 - 1 items")
        })?;
        let mut depths: Vec<Depth> = Vec::with_capacity(levels);
        // The rows at which a new node of the current depth begins.
        let mut starts: Vec<u32> = vec![0];
        for level in 0..levels {
            let mut first_child = Vec::with_capacity(starts.len() + 1);
            let mut edge_code = Vec::new();
            let mut next_starts = Vec::new();
            for (node, &start) in starts.iter().enumerate() {
                first_child.push(next_starts.len() as u32);
                let end = starts.get(node + 1).copied().unwrap_or(leaves);
                let mut last: Option<u16> = None;
                for row in start..end {
                    let code = sids.row(row as usize)[level];
                    if last == Some(code) && level + 1 < levels {
                        continue;
                    }
                    if last.is_some_and(|last| last >= code) {
                        let problem = format!("row {row} is not after the row before it");
                        return Err(Error::input("semantic IDs", problem, "sort them and drop repeats"));
                    }
                    edge_code.push(code);
                    next_starts.push(row);
                    last = Some(code);
                }
            }
            first_child.push(next_starts.len() as u32);
            let mut first_leaf = starts;
            first_leaf.push(leaves);
            depths.push(Depth {
                first_child: first_child.into(),
                edge_code: edge_code.into(),
                first_leaf: first_leaf.into(),
            });
            starts = next_starts;
        }
        Ok(Self { depths, leaves })
    }

    /// L.
    pub fn levels(&self) -> usize {
        self.depths.len()
    }

    /// Number of nodes at a depth: 1 at depth 0, the number of leaves at depth L.
    pub fn nodes(&self, depth: usize) -> usize {
        self.depths.get(depth).map_or(self.leaves as usize, |d| d.first_leaf.len() - 1)
    }

    /// Number of leaves: distinct semantic IDs.
    pub fn leaves(&self) -> u32 {
        self.leaves
    }

    /// The children of a node: their numbers at `depth + 1` and the codes that lead there, ascending.
    ///
    /// # Panics
    /// If there is no such node, or it is a leaf.
    #[inline]
    pub fn children(&self, depth: usize, node: u32) -> (Range<u32>, &[u16]) {
        let d = &self.depths[depth];
        let range = d.first_child[node as usize]..d.first_child[node as usize + 1];
        (range.clone(), &d.edge_code[range.start as usize..range.end as usize])
    }

    /// The leaves below a node.
    ///
    /// # Panics
    /// If there is no such node.
    #[inline]
    pub fn leaves_below(&self, depth: usize, node: u32) -> Range<u32> {
        match self.depths.get(depth) {
            Some(d) => d.first_leaf[node as usize]..d.first_leaf[node as usize + 1],
            None => node..node + 1,
        }
    }

    /// The child of a node along a code.
    pub fn child(&self, depth: usize, node: u32, code: u16) -> Option<u32> {
        let (range, codes) = self.children(depth, node);
        codes.binary_search(&code).ok().map(|at| range.start + at as u32)
    }

    /// The node that a prefix of codes leads to, if any item has that prefix.
    pub fn find(&self, prefix: &[u16]) -> Option<u32> {
        if prefix.len() > self.levels() {
            return None;
        }
        prefix.iter().enumerate().try_fold(0, |node, (depth, &code)| self.child(depth, node, code))
    }

    /// The semantic ID of a leaf, `[L]`.
    ///
    /// # Panics
    /// If there is no such leaf.
    pub fn semantic_id(&self, leaf: u32) -> Vec<u16> {
        assert!(leaf < self.leaves, "leaf {leaf} of {}", self.leaves);
        let mut node = 0u32;
        (0..self.levels())
            .map(|depth| {
                let (range, codes) = self.children(depth, node);
                // The child whose leaves hold `leaf`: the last one that begins at or before it.
                let first = |child: u32| self.leaves_below(depth + 1, child).start;
                let (mut low, mut high) = (range.start, range.end);
                while high - low > 1 {
                    let mid = low + (high - low) / 2;
                    if first(mid) <= leaf { low = mid } else { high = mid }
                }
                node = low;
                codes[(low - range.start) as usize]
            })
            .collect()
    }

    /// The arrays of the trie for [`crate::array_file::write_arrays`], names starting with `trie.`.
    pub(crate) fn entries(&self) -> Vec<Entry<'_>> {
        let mut entries = Vec::new();
        for (depth, d) in self.depths.iter().enumerate() {
            entries.push(Entry::flat(format!("trie.{depth}.first_child"), Array::U32(&d.first_child)));
            entries.push(Entry::flat(format!("trie.{depth}.edge_code"), Array::U16(&d.edge_code)));
            entries.push(Entry::flat(format!("trie.{depth}.first_leaf"), Array::U32(&d.first_leaf)));
        }
        entries
    }

    /// Opens the arrays written from [`Trie::entries`], memory-mapped, and checks that they describe a trie.
    pub(crate) fn open(file: &ArrayFile, levels: usize, leaves: u32) -> Result<Self> {
        let mut depths = Vec::with_capacity(levels);
        for depth in 0..levels {
            depths.push(Depth {
                first_child: file.column(&format!("trie.{depth}.first_child"))?,
                edge_code: file.column(&format!("trie.{depth}.edge_code"))?,
                first_leaf: file.column(&format!("trie.{depth}.first_leaf"))?,
            });
        }
        let trie = Self { depths, leaves };
        trie.check()
            .map_err(|problem| Error::artifact(file.path(), problem, "the file is damaged: build the catalog again"))?;
        Ok(trie)
    }

    fn check(&self) -> Result<(), String> {
        let mut nodes = 1usize;
        for (depth, d) in self.depths.iter().enumerate() {
            let edges = d.edge_code.len();
            let sound = d.first_child.len() == nodes + 1
                && d.first_leaf.len() == nodes + 1
                && d.first_child.first() == Some(&0)
                && d.first_child.last().map(|&e| e as usize) == Some(edges)
                && d.first_leaf.first() == Some(&0)
                && d.first_leaf.last() == Some(&self.leaves)
                && d.first_child.windows(2).all(|w| w[0] < w[1])
                && d.first_leaf.windows(2).all(|w| w[0] < w[1]);
            if !sound {
                return Err(format!("the trie's depth {depth} is inconsistent"));
            }
            let ascending = d
                .first_child
                .windows(2)
                .all(|w| d.edge_code[w[0] as usize..w[1] as usize].windows(2).all(|codes| codes[0] < codes[1]));
            if !ascending {
                return Err(format!("codes at the trie's depth {depth} are not ascending"));
            }
            // A node's first leaf is its first child's first leaf: otherwise intervals and edges disagree.
            if let Some(next) = self.depths.get(depth + 1) {
                let agree = next.first_leaf.len() == edges + 1
                    && (0..nodes).all(|n| next.first_leaf[d.first_child[n] as usize] == d.first_leaf[n]);
                if !agree {
                    return Err(format!("leaves below the trie's depth {depth} are inconsistent"));
                }
            } else if !(0..nodes).all(|n| d.first_child[n] == d.first_leaf[n]) {
                return Err(format!("leaves below the trie's depth {depth} are inconsistent"));
            }
            nodes = edges;
        }
        if nodes != self.leaves as usize { Err("the trie's leaves are inconsistent".to_owned()) } else { Ok(()) }
    }
}
