//! Building a trie: one sort of packed semantic IDs, and one pass.
//!
//! The codes of a row are packed side by side into one integer, the first level highest, with the row's number in the
//! lowest bits. These integers are all different, so sorting them is free of ties: the order depends on nothing but the
//! input. Walking over them, the highest bit in which a key differs from the one before tells at which level a new node
//! begins. Semantic IDs of more bits than an integer has are compared row by row.

use super::codes::{CodeColumn, fits_a_byte};
use super::{Depth, Trie};
use crate::semantic_id::SemanticIds;

/// Bits that the codes of a level need.
fn code_bits(codes: u32) -> u32 {
    u32::BITS - codes.saturating_sub(1).leading_zeros()
}

/// What is done with rows in the order of their semantic IDs.
pub(crate) trait InOrder {
    /// A row, and how many codes it shares with the row before: L if it is the same semantic ID, 0 at the first.
    fn row(&mut self, row: u32, shared: usize, code: impl Fn(usize) -> u16);
}

/// Visits the rows that `sequence` lists (all, where there is none) by semantic ID and then by their place there.
///
/// # Shapes
/// `sids`: [N, L], codes below `codes_per_level`: `[L]`; `sequence`: rows, each once
pub(crate) fn in_order(
    sids: &SemanticIds,
    codes_per_level: &[u32],
    sequence: Option<&[u32]>,
    visitor: &mut impl InOrder,
) {
    let layout = Layout::new(codes_per_level, sequence.map_or(sids.len(), <[u32]>::len));
    match layout.bits() {
        0..=64 => layout.visit::<u64>(sids, sequence, visitor),
        65..=128 => layout.visit::<u128>(sids, sequence, visitor),
        _ => by_rows(sids, sequence, visitor),
    }
}

/// An integer that holds a semantic ID and a row's place.
trait Key: Copy + Ord {
    fn empty() -> Self;
    fn push(self, bits: u32, value: u64) -> Self;
    /// The bits from `shift` on, as many as fit.
    fn bits_from(self, shift: u32) -> u64;
    /// How many of the lowest bits hold all differences.
    fn differing_bits(self, other: Self) -> u32;
}

macro_rules! key {
    ($($t:ty),*) => { $(impl Key for $t {
        fn empty() -> Self { 0 }
        #[inline]
        fn push(self, bits: u32, value: u64) -> Self { self.checked_shl(bits).unwrap_or(0) | value as $t }
        #[inline]
        fn bits_from(self, shift: u32) -> u64 { self.checked_shr(shift).unwrap_or(0) as u64 }
        #[inline]
        fn differing_bits(self, other: Self) -> u32 { <$t>::BITS - (self ^ other).leading_zeros() }
    })* };
}
key!(u64, u128);

/// Where the codes of each level lie in a key.
struct Layout {
    level_bits: Vec<u32>,
    /// Lowest bit of each level, `[L]`.
    shifts: Vec<u32>,
    row_bits: u32,
    rows: usize,
}

impl Layout {
    fn new(codes_per_level: &[u32], rows: usize) -> Self {
        let level_bits: Vec<u32> = codes_per_level.iter().map(|&codes| code_bits(codes)).collect();
        let row_bits = usize::BITS - rows.saturating_sub(1).leading_zeros();
        let mut above = row_bits;
        let mut shifts: Vec<u32> = level_bits.iter().rev().map(|bits| (above, above += bits).0).collect();
        shifts.reverse();
        Self { level_bits, shifts, row_bits, rows }
    }

    fn bits(&self) -> u32 {
        self.level_bits.iter().fold(self.row_bits, |sum, bits| sum.saturating_add(*bits))
    }

    fn visit<K: Key>(&self, sids: &SemanticIds, sequence: Option<&[u32]>, visitor: &mut impl InOrder) {
        let number = |place: usize| sequence.map_or(place, |rows| rows[place] as usize);
        let mut keys: Vec<K> = (0..self.rows)
            .map(|place| {
                let codes = sids.row(number(place)).iter().zip(&self.level_bits);
                let key = codes.fold(K::empty(), |key, (&code, &bits)| key.push(bits, u64::from(code)));
                key.push(self.row_bits, place as u64)
            })
            .collect();
        keys.sort_unstable();
        // The level whose bits hold the highest difference; L where only the places differ.
        let level_of: Vec<usize> = (0..=self.bits())
            .map(|bits| self.shifts.iter().position(|&shift| bits > shift).unwrap_or(self.shifts.len()))
            .collect();
        let mask = |bits: u32| u64::MAX.checked_shr(64 - bits).unwrap_or(0);
        let masks: Vec<u64> = self.level_bits.iter().map(|&bits| mask(bits)).collect();
        let place_mask = mask(self.row_bits);
        let mut before = None;
        for key in keys {
            let shared = before.map_or(0, |before: K| level_of[key.differing_bits(before) as usize]);
            let row = number((key.bits_from(0) & place_mask) as usize) as u32;
            visitor.row(row, shared, |level| (key.bits_from(self.shifts[level]) & masks[level]) as u16);
            before = Some(key);
        }
    }
}

fn by_rows(sids: &SemanticIds, sequence: Option<&[u32]>, visitor: &mut impl InOrder) {
    let mut order: Vec<u32> = match sequence {
        Some(rows) => rows.to_vec(),
        None => (0..sids.len() as u32).collect(),
    };
    order.sort_by(|&a, &b| sids.row(a as usize).cmp(sids.row(b as usize)));
    visit_sorted(sids.levels(), sids.codes(), &order, visitor);
}

/// Visits rows that are sorted already.
///
/// # Shapes
/// `codes`: [N, L]; `order`: rows of it
pub(crate) fn visit_sorted(levels: usize, codes: &[u16], order: &[u32], visitor: &mut impl InOrder) {
    let mut before: &[u16] = &[];
    for &row in order {
        let now = &codes[row as usize * levels..][..levels];
        let shared = now.iter().zip(before).take_while(|(a, b)| a == b).count();
        visitor.row(row, shared, |level| now[level]);
        before = now;
    }
}

/// A trie while its leaves come in order.
pub(crate) struct TrieBuilder {
    depths: Vec<Growing>,
}

struct Growing {
    first_child: Vec<u32>,
    edge_code: GrowingCodes,
}

enum GrowingCodes {
    Bytes(Vec<u8>),
    Words(Vec<u16>),
}

impl GrowingCodes {
    fn len(&self) -> usize {
        match self {
            Self::Bytes(codes) => codes.len(),
            Self::Words(codes) => codes.len(),
        }
    }
}

impl TrieBuilder {
    /// Begins a trie of at most `leaves` leaves.
    pub(crate) fn new(codes_per_level: &[u32], leaves: usize) -> Self {
        let levels = codes_per_level.len();
        let mut most_nodes = 1usize;
        let depths = codes_per_level.iter().enumerate().map(|(level, &codes)| {
            let nodes = most_nodes;
            most_nodes = most_nodes.saturating_mul(codes as usize).min(leaves);
            // Deep levels have about as many nodes as leaves; where there can be fewer, the room is what can be.
            let edges = if level + 1 == levels { leaves } else { most_nodes };
            let mut first_child = Vec::with_capacity(nodes + 1);
            if level == 0 {
                first_child.push(0);
            }
            let edge_code = match fits_a_byte(codes) {
                true => GrowingCodes::Bytes(Vec::with_capacity(edges)),
                false => GrowingCodes::Words(Vec::with_capacity(edges)),
            };
            Growing { first_child, edge_code }
        });
        Self { depths: depths.collect() }
    }

    /// L.
    pub(crate) fn levels(&self) -> usize {
        self.depths.len()
    }

    /// Adds a leaf that shares its first `shared` codes with the leaf before.
    #[inline]
    pub(crate) fn leaf(&mut self, shared: usize, code: impl Fn(usize) -> u16) {
        for (level, depth) in self.depths.iter_mut().enumerate().skip(shared) {
            if level > shared {
                depth.first_child.push(depth.edge_code.len() as u32);
            }
            match &mut depth.edge_code {
                GrowingCodes::Bytes(codes) => codes.push(code(level) as u8),
                GrowingCodes::Words(codes) => codes.push(code(level)),
            }
        }
    }

    /// The trie of all leaves that came.
    pub(crate) fn finish(self) -> Trie {
        let leaves = self.depths.last().map_or(0, |depth| depth.edge_code.len() as u32);
        let depths = self.depths.into_iter().map(|mut depth| {
            depth.first_child.push(depth.edge_code.len() as u32);
            depth.first_child.shrink_to_fit();
            let edge_code = match depth.edge_code {
                GrowingCodes::Bytes(mut codes) => {
                    codes.shrink_to_fit();
                    CodeColumn::Bytes(codes.into())
                }
                GrowingCodes::Words(mut codes) => {
                    codes.shrink_to_fit();
                    CodeColumn::Words(codes.into())
                }
            };
            Depth { first_child: depth.first_child.into(), edge_code }
        });
        Trie { depths: depths.collect(), leaves }
    }
}

impl InOrder for TrieBuilder {
    #[inline]
    fn row(&mut self, _row: u32, shared: usize, code: impl Fn(usize) -> u16) {
        // A repeated semantic ID shares all its codes, so this adds nothing.
        self.leaf(shared, code);
    }
}
