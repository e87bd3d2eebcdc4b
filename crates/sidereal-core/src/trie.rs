//! The prefix trie over semantic IDs, in flat arrays.
//!
//! # How does it work without child pointers?
//! Sort the distinct semantic IDs. Number the nodes of each depth in that order. Then the children of node `n` are
//! consecutive nodes of the next depth, and the e-th edge at depth `d` leads to the e-th node at depth `d + 1`: an
//! edge's number *is* its child. What remains per depth is where each node's edges begin (`first_child`) and the code on
//! each edge (`edge_code`): 5 bytes a node where a level has at most 256 codes.
//!
//! ```text
//! semantic IDs   (0,1) (0,3) (2,1)          depth 0   root          first_child [0,2]   edge_code [0,2]
//!                                           depth 1   0:"0" 1:"2"   first_child [0,2,3] edge_code [1,3,1]
//!                                           depth 2   the leaves 0, 1, 2
//! ```
//!
//! # Where are the leaves below a node?
//! They are an interval, because leaves are sorted too. At the last inner depth `first_child` is that interval; above,
//! its ends are followed down, a look at each depth. A table for the first levels would repeat what is there: a node
//! that has all K children finds a code at its own place ([`Codes::position`]).
//!
//! # And semantic IDs of different lengths?
//! All have L codes. A shorter one ends with codes that its maker keeps for the purpose (one more code a level); below
//! the first of them a node has one child, so this costs 5 bytes a level.
//!
//! # What if a file lies?
//! Opening checks lengths alone, not the numbers in the arrays. Every look at them is bounded, so that a damaged file
//! can give wrong answers and never a panic; [`Trie::verify`] reads all of it.

use std::ops::Range;

use crate::array_file::{ArrayFile, Column, Entry};
use crate::error::{Error, Result};
use crate::semantic_id::SemanticIds;

pub(crate) mod build;
mod codes;

pub use codes::{Codes, CodesIter};

use build::{TrieBuilder, in_order};
use codes::CodeColumn;

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
    edge_code: CodeColumn,    // [edges]
}

impl Depth {
    fn edges(&self) -> usize {
        self.edge_code.all().len()
    }

    /// The first edge of a node, or the number of edges behind the last node.
    #[inline]
    fn start(&self, node: u32) -> u32 {
        let edges = self.edges() as u32;
        self.first_child.get(node as usize).map_or(edges, |&edge| edge.min(edges))
    }
}

/// Parents that are looked at one by one before one further off is guessed: a line of the cache.
const NEXT: usize = 16;

/// Where in ascending numbers `wanted` probably stands.
fn guess(numbers: &[u32], wanted: u32) -> usize {
    let (Some(&first), Some(&last)) = (numbers.first(), numbers.last()) else { return 0 };
    let apart = i64::from(last.saturating_sub(first)).max(1);
    let places = numbers.len() as i64 - 1;
    // A damaged file may hold numbers that are not ascending: the guess is then a bad one, but a place.
    let along = |difference: i64| {
        let steps = i128::from(difference) * i128::from(places) / i128::from(apart);
        steps.clamp(-i128::from(places), places.into()) as i64
    };
    let at = along(i64::from(wanted) - i64::from(first)).clamp(0, places);
    let off = i64::from(wanted) - i64::from(numbers[at as usize]);
    (at + along(off)).clamp(0, places) as usize
}

/// How many of the ascending numbers are at most `wanted`, looked for from `near` outwards in growing steps.
fn partition_point_near(numbers: &[u32], wanted: u32, near: usize) -> usize {
    let near = near.min(numbers.len());
    let (mut low, mut high) = (near, near);
    let mut step = 4;
    while numbers.get(high).is_some_and(|&number| number <= wanted) {
        (low, high, step) = (high + 1, (high + step).min(numbers.len()), step * 2);
    }
    step = 4;
    while low > 0 && low <= near && numbers.get(low - 1).is_some_and(|&number| number > wanted) {
        (high, low, step) = (low - 1, low.saturating_sub(step), step * 2);
    }
    let between = numbers.get(low..high.max(low)).unwrap_or(&[]);
    low + between.partition_point(|&number| number <= wanted)
}

impl Trie {
    /// Builds the trie of semantic IDs in any order, repeats allowed.
    ///
    /// # Errors
    /// Codes that are not below their level's number; no rows, or too many.
    ///
    /// # Shapes
    /// `sids`: [N, L]; `codes_per_level`: `[L]`
    pub fn build(sids: &SemanticIds, codes_per_level: &[u32]) -> Result<Self> {
        sids.check_codes(codes_per_level)?;
        let n = sids.len();
        if n == 0 || u32::try_from(n).is_err() {
            let problem = format!("a trie cannot hold {n} leaves");
            return Err(Error::input("semantic IDs", problem, "give between 1 and 2^32 - 1 items"));
        }
        let mut trie = TrieBuilder::new(codes_per_level, n);
        in_order(sids, codes_per_level, None, &mut trie);
        Ok(trie.finish())
    }

    /// L.
    pub fn levels(&self) -> usize {
        self.depths.len()
    }

    /// Number of nodes at a depth: 1 at depth 0, the number of leaves at depth L.
    pub fn nodes(&self, depth: usize) -> usize {
        depth.checked_sub(1).map_or(1, |above| self.depths.get(above).map_or(0, Depth::edges))
    }

    /// Number of leaves: distinct semantic IDs.
    pub fn leaves(&self) -> u32 {
        self.leaves
    }

    /// Bytes of its arrays.
    pub fn bytes(&self) -> usize {
        self.entries().iter().map(|entry| entry.array.bytes().len()).sum()
    }

    /// The children of a node: their numbers at `depth + 1` and the codes that lead there, ascending. None where there
    /// is no such node, and below a leaf.
    #[inline]
    pub fn children(&self, depth: usize, node: u32) -> (Range<u32>, Codes<'_>) {
        let Some(d) = self.depths.get(depth) else { return (0..0, Codes::Bytes(&[])) };
        let ends = d.first_child.get(node as usize..).and_then(|from| from.first_chunk::<2>());
        let &[start, end] = ends.unwrap_or(&[0, 0]);
        let end = end.min(d.edges() as u32);
        let start = start.min(end);
        (start..end, d.edge_code.slice(start as usize, end as usize))
    }

    /// The leaves below a node.
    pub fn leaves_below(&self, depth: usize, node: u32) -> Range<u32> {
        let below = self.depths.get(depth..).unwrap_or(&[]);
        let first = |node: u32| below.iter().fold(node, |node, d| d.start(node)).min(self.leaves);
        let (start, end) = (first(node), first(node.saturating_add(1)));
        start.min(end)..end
    }

    /// The child of a node along a code.
    pub fn child(&self, depth: usize, node: u32, code: u16) -> Option<u32> {
        let (range, codes) = self.children(depth, node);
        codes.position(code).map(|at| range.start + at as u32)
    }

    /// The parent, at `depth - 1`, of a node; the root's is the root.
    pub fn parent(&self, depth: usize, node: u32) -> u32 {
        let Some(above) = depth.checked_sub(1).and_then(|above| self.depths.get(above)) else { return 0 };
        (above.first_child.partition_point(|&first| first <= node) as u32).saturating_sub(1)
    }

    /// As [`Trie::parent`], beginning at a node that is not behind it: quick for nodes in order.
    ///
    /// A node that is not among the next few is guessed: children lie almost evenly over their parents, so a place along
    /// the straight line, put right once, is a few nodes off. That reads two or three cache lines, where halving ten million
    /// nodes reads twenty.
    pub(crate) fn parent_from(&self, depth: usize, node: u32, from: u32) -> u32 {
        let Some(above) = depth.checked_sub(1).and_then(|above| self.depths.get(above)) else { return 0 };
        let later = above.first_child.get(from as usize + 1..).unwrap_or(&[]);
        let next = later.len().min(NEXT);
        let near = if next > 0 && later[next - 1] <= node { guess(later, node) } else { 0 };
        from + partition_point_near(later, node, near) as u32
    }

    /// The parents, at `depth - 1`, of nodes in ascending order.
    pub fn parents(&self, depth: usize, nodes: &[u32]) -> Vec<u32> {
        let parents = nodes.iter().scan(0, |parent, &node| {
            *parent = self.parent_from(depth, node, *parent);
            Some(*parent)
        });
        parents.collect()
    }

    /// The arrays of a depth below L, for a search that keeps the trie elsewhere: where the edges of each node begin and
    /// where the last end, `[nodes + 1]`, and the code on each edge, `[edges]`. An edge's number is its child's.
    ///
    /// Nothing here is bounded: whoever copies the arrays of a file looks at [`Trie::verify`] first.
    pub fn edges(&self, depth: usize) -> Option<(&[u32], Codes<'_>)> {
        self.depths.get(depth).map(|d| (&d.first_child[..], d.edge_code.all()))
    }

    /// The node that a prefix of codes leads to, if any item has that prefix.
    pub fn find(&self, prefix: &[u16]) -> Option<u32> {
        if prefix.len() > self.levels() {
            return None;
        }
        prefix.iter().enumerate().try_fold(0, |node, (depth, &code)| self.child(depth, node, code))
    }

    /// The semantic ID of a leaf, `[L]`.
    pub fn semantic_id(&self, leaf: u32) -> Vec<u16> {
        let mut codes = vec![0; self.levels()];
        let mut node = leaf;
        for (depth, code) in codes.iter_mut().enumerate().rev() {
            *code = self.depths[depth].edge_code.all().get(node as usize).unwrap_or(0);
            node = self.parent(depth + 1, node);
        }
        codes
    }

    /// The arrays of the trie for [`crate::array_file::write_arrays`], names starting with `trie.`.
    pub(crate) fn entries(&self) -> Vec<Entry<'_>> {
        let mut entries = Vec::new();
        for (depth, d) in self.depths.iter().enumerate() {
            entries.push(Entry::flat(first_child_name(depth), crate::array_file::Array::U32(&d.first_child)));
            entries.push(Entry::flat(edge_code_name(depth), d.edge_code.array()));
        }
        entries
    }

    /// Opens the arrays written from [`Trie::entries`], memory-mapped. Only their lengths are checked.
    pub(crate) fn open(file: &ArrayFile, codes_per_level: &[u32]) -> Result<Self> {
        let mut depths: Vec<Depth> = Vec::with_capacity(codes_per_level.len());
        let mut nodes = 1;
        for (depth, &codes) in codes_per_level.iter().enumerate() {
            let first_child: Column<u32> = file.column(&first_child_name(depth))?;
            let edge_code = CodeColumn::open(file, &edge_code_name(depth), codes)?;
            let edges = edge_code.all().len();
            if first_child.len() != nodes + 1 || u32::try_from(edges).is_err() {
                let problem = format!("the trie's depth {depth} has other lengths than the depth above says");
                return Err(Error::artifact(file.path(), problem, "the file is damaged: build the catalog again"));
            }
            depths.push(Depth { first_child, edge_code });
            nodes = edges;
        }
        Ok(Self { depths, leaves: nodes as u32 })
    }

    /// Reads the whole structure.
    ///
    /// # Errors
    /// Says what is not as it must be.
    pub fn verify(&self, codes_per_level: &[u32]) -> Result<(), String> {
        for (depth, d) in self.depths.iter().enumerate() {
            let (edges, codes) = (d.edges(), d.edge_code.all());
            let sound = d.first_child.first() == Some(&0)
                && d.first_child.last().map(|&e| e as usize) == Some(edges)
                && d.first_child.windows(2).all(|w| w[0] < w[1]);
            if !sound {
                return Err(format!("the trie's depth {depth} is inconsistent"));
            }
            let most = codes_per_level.get(depth).copied().unwrap_or(0);
            if codes.iter().any(|code| u32::from(code) >= most) {
                return Err(format!("a code at the trie's depth {depth} is not below {most}"));
            }
            for node in 0..self.nodes(depth) as u32 {
                let (_, codes) = self.children(depth, node);
                if !codes.iter().zip(codes.iter().skip(1)).all(|(a, b)| a < b) {
                    return Err(format!("codes at the trie's depth {depth} are not ascending"));
                }
            }
        }
        Ok(())
    }
}

fn first_child_name(depth: usize) -> String {
    format!("trie.{depth}.first_child")
}

fn edge_code_name(depth: usize) -> String {
    format!("trie.{depth}.edge_code")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn looking_outwards_from_any_place_finds_what_halving_finds(
            mut numbers in prop::collection::vec(0u32..500, 0..200), wanted in 0u32..510, near in 0usize..210,
        ) {
            numbers.sort_unstable();
            let found = numbers.partition_point(|&number| number <= wanted);
            prop_assert_eq!(partition_point_near(&numbers, wanted, near), found);
            prop_assert_eq!(partition_point_near(&numbers, wanted, guess(&numbers, wanted)), found);
        }

        #[test]
        fn numbers_in_no_order_give_some_place(
            numbers in prop::collection::vec(any::<u32>(), 0..20), wanted in any::<u32>(),
        ) {
            prop_assert!(partition_point_near(&numbers, wanted, guess(&numbers, wanted)) <= numbers.len());
        }
    }
}
