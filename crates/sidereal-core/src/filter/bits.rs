//! A set of numbers below a bound, a bit each, in chunks that copies share until one of them is changed.

use std::sync::Arc;

/// Words of a chunk.
const WORDS: usize = 64;
/// Numbers of a chunk.
const CHUNK: u32 = 64 * WORDS as u32;

type Chunk = Arc<[u64; WORDS]>;

/// A set of numbers below a bound. A copy costs a pointer for 4096 numbers, a change of a copy one chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bits {
    len: u32,
    chunks: Vec<Chunk>,
}

impl Bits {
    /// None of the numbers below `len`.
    pub fn none(len: u32) -> Self {
        let empty: Chunk = Arc::new([0; WORDS]);
        Self { len, chunks: vec![empty; len.div_ceil(CHUNK) as usize] }
    }

    /// All numbers below `len`.
    pub fn all(len: u32) -> Self {
        Self::none(len).not()
    }

    /// The numbers of `members` that are below `len`.
    pub fn of(len: u32, members: impl IntoIterator<Item = u32>) -> Self {
        let mut bits = Self::none(len);
        members.into_iter().for_each(|number| bits.set(number));
        bits
    }

    /// The bound.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether the bound is 0.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether a number is in the set.
    #[inline]
    pub fn get(&self, number: u32) -> bool {
        let (chunk, word, bit) = place(number);
        self.chunks.get(chunk).is_some_and(|words| words[word] & bit != 0)
    }

    /// Puts a number in; nothing happens at or beyond the bound.
    #[inline]
    pub fn set(&mut self, number: u32) {
        if number < self.len {
            let (chunk, word, bit) = place(number);
            Arc::make_mut(&mut self.chunks[chunk])[word] |= bit;
        }
    }

    /// Takes a number out.
    pub fn clear(&mut self, number: u32) {
        if self.get(number) {
            let (chunk, word, bit) = place(number);
            Arc::make_mut(&mut self.chunks[chunk])[word] &= !bit;
        }
    }

    /// How many numbers are in the set.
    pub fn count(&self) -> u32 {
        self.chunks.iter().flat_map(|chunk| chunk.iter()).map(|word| word.count_ones()).sum()
    }

    /// How many of a range of numbers are in the set.
    pub fn count_in(&self, range: std::ops::Range<u32>) -> u32 {
        self.words(range).map(|(_, word)| word.count_ones()).sum()
    }

    /// Whether any of a range of numbers is in the set.
    pub fn any_in(&self, range: std::ops::Range<u32>) -> bool {
        self.words(range).any(|(_, word)| word != 0)
    }

    /// The numbers, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.words(0..self.len).flat_map(|(first, word)| {
            std::iter::successors(Some(word), |left| Some(left & left.wrapping_sub(1)))
                .take_while(|&left| left != 0)
                .map(move |left| first + left.trailing_zeros())
        })
    }

    /// The numbers that are in both sets.
    pub fn and(self, other: &Self) -> Self {
        self.combine(other, |a, b| a & b)
    }

    /// The numbers that are in either set.
    pub fn or(self, other: &Self) -> Self {
        self.combine(other, |a, b| a | b)
    }

    /// The numbers below the bound that are not in the set.
    #[allow(clippy::should_implement_trait)]
    pub fn not(self) -> Self {
        let every: Chunk = Arc::new([u64::MAX; WORDS]);
        let full = Self { len: self.len, chunks: vec![every; self.chunks.len()] };
        let mut bits = self.combine(&full, |a, b| !a & b);
        let tail = bits.len % CHUNK;
        if let Some(last) = bits.chunks.last_mut().filter(|_| tail > 0) {
            for (word, bits) in Arc::make_mut(last).iter_mut().enumerate() {
                let kept = tail.saturating_sub(word as u32 * 64).min(64);
                *bits &= u64::MAX.checked_shr(64 - kept).unwrap_or(0);
            }
        }
        bits
    }

    /// Words are combined chunk by chunk; a chunk that many places share is computed once for a run of them.
    fn combine(mut self, other: &Self, word: impl Fn(u64, u64) -> u64) -> Self {
        let mut last: Option<(Chunk, Chunk, Chunk)> = None;
        let nothing: Chunk = Arc::new([0; WORDS]);
        for (at, mine) in self.chunks.iter_mut().enumerate() {
            let theirs = other.chunks.get(at).unwrap_or(&nothing);
            let same = last.as_ref().filter(|(a, b, _)| Arc::ptr_eq(a, mine) && Arc::ptr_eq(b, theirs));
            let done = match same {
                Some((_, _, done)) => Arc::clone(done),
                None => {
                    let done: Chunk = Arc::new(std::array::from_fn(|i| word(mine[i], theirs[i])));
                    last = Some((Arc::clone(mine), Arc::clone(theirs), Arc::clone(&done)));
                    done
                }
            };
            *mine = done;
        }
        self
    }

    /// The words that hold a range, with their first numbers; bits outside the range are 0.
    fn words(&self, range: std::ops::Range<u32>) -> impl Iterator<Item = (u32, u64)> + '_ {
        let (start, end) = (range.start, range.end.min(self.len).max(range.start));
        (start / 64..end.div_ceil(64)).map(move |at| {
            let first = at * 64;
            let (chunk, word, _) = place(first);
            let below = |number: u32| match number.saturating_sub(first) {
                64.. => u64::MAX,
                bits => (1u64 << bits) - 1,
            };
            (first, self.chunks.get(chunk).map_or(0, |words| words[word]) & below(end) & !below(start))
        })
    }
}

#[inline]
fn place(number: u32) -> (usize, usize, u64) {
    ((number / CHUNK) as usize, (number / 64) as usize % WORDS, 1 << (number % 64))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn a_bit_set_is_a_set(
            len in prop_oneof![0u32..10, 4090u32..4100, 8192u32..8200, 1u32..20_000],
            a in prop::collection::btree_set(0u32..20_000, 0..200),
            b in prop::collection::btree_set(0u32..20_000, 0..200),
            from in 0u32..20_000,
            span in 0u32..9_000,
        ) {
            let below = |set: &BTreeSet<u32>| set.iter().copied().filter(|&n| n < len).collect::<BTreeSet<u32>>();
            let bits = |set: &BTreeSet<u32>| Bits::of(len, set.iter().copied());
            let all: BTreeSet<u32> = (0..len).collect();
            let (sa, sb) = (below(&a), below(&b));
            let check = |bits: Bits, set: BTreeSet<u32>| -> Result<(), TestCaseError> {
                prop_assert_eq!(bits.iter().collect::<Vec<_>>(), set.iter().copied().collect::<Vec<_>>());
                prop_assert_eq!(bits.count() as usize, set.len());
                let expected = set.range(from..from + span).count();
                prop_assert_eq!(bits.count_in(from..from + span) as usize, expected);
                prop_assert_eq!(bits.any_in(from..from + span), expected > 0);
                prop_assert!(!bits.get(len) && !bits.get(u32::MAX));
                Ok(())
            };
            check(bits(&a), sa.clone())?;
            check(bits(&a).and(&bits(&b)), &sa & &sb)?;
            check(bits(&a).or(&bits(&b)), &sa | &sb)?;
            check(bits(&a).not(), &all - &sa)?;
            check(Bits::all(len), all.clone())?;
            let mut less = bits(&a);
            b.iter().for_each(|&n| less.clear(n));
            check(less, &sa - &sb)?;
            check(bits(&a), sa.clone())?;
        }
    }
}
