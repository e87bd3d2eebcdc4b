//! How often items stand near each other in histories: a sparse matrix in compressed rows.
//!
//! A pair `step` places apart counts 1/step from the earlier item to the later one, and half of that back. All these
//! weights, up to six steps, are whole multiples of 1/120: they are added as integers, so a sum
//! does not depend on its order and equal evidence is exactly equal.

use rayon::prelude::*;
use sidereal_core::ItemIndex;

/// One whole count.
const UNITS: u32 = 120;

/// The farthest step with whole units, there and back.
const MAX_REACH: usize = 6;

/// Which pairs a directed count is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// The column came after the row.
    After,
    /// The column came before the row.
    Before,
}

/// Counts from an item (row) to another (column).
#[derive(Debug)]
pub(crate) struct Cooccurrence {
    /// Where each row begins, `[N + 1]`.
    offsets: Vec<usize>,
    /// Ascending within a row.
    columns: Vec<ItemIndex>,
    /// In [`UNITS`].
    units: Vec<u32>,
}

impl Cooccurrence {
    /// Counts all pairs at most `reach` steps apart in sequences of items below `items`, backwards by half.
    pub(crate) fn count<'a, I>(sequences: impl Fn() -> I, reach: usize, items: usize) -> Self
    where
        I: Iterator<Item = &'a [ItemIndex]>,
    {
        Self::collect(sequences, reach, items, |earlier, later, units, visit| {
            visit(earlier, later, units);
            visit(later, earlier, units / 2);
        })
    }

    /// Counts pairs in one direction alone, in full.
    pub(crate) fn directed<'a, I>(sequences: impl Fn() -> I, reach: usize, items: usize, direction: Direction) -> Self
    where
        I: Iterator<Item = &'a [ItemIndex]>,
    {
        Self::collect(sequences, reach, items, |earlier, later, units, visit| match direction {
            Direction::After => visit(earlier, later, units),
            Direction::Before => visit(later, earlier, units),
        })
    }

    /// `entries(earlier, later, units, visit)` says which cells a pair counts in.
    fn collect<'a, I>(
        sequences: impl Fn() -> I,
        reach: usize,
        items: usize,
        cells: impl Fn(ItemIndex, ItemIndex, u32, &mut dyn FnMut(ItemIndex, ItemIndex, u32)),
    ) -> Self
    where
        I: Iterator<Item = &'a [ItemIndex]>,
    {
        assert!(reach <= MAX_REACH, "weights of farther steps are no whole units");
        let mut ends = vec![0usize; items];
        let each = |sequence: &[ItemIndex], visit: &mut dyn FnMut(ItemIndex, ItemIndex, u32)| {
            pairs(sequence, reach, |earlier, later, units| cells(earlier, later, units, visit));
        };
        sequences().for_each(|sequence| each(sequence, &mut |from, _, _| ends[from as usize] += 1));
        let mut total = 0;
        for end in &mut ends {
            // Becomes the place of the row's next entry, and with the last one its end.
            total += std::mem::replace(end, total);
        }
        // An entry is its column and its units, packed so that sorting brings equal columns together.
        let mut entries = vec![0u64; total];
        sequences().for_each(|sequence| {
            each(sequence, &mut |from, to, units| {
                entries[ends[from as usize]] = u64::from(to) << 32 | u64::from(units);
                ends[from as usize] += 1;
            });
        });
        let rows: Vec<Vec<(ItemIndex, u32)>> = (0..items)
            .into_par_iter()
            .map(|row| merged(&entries[if row == 0 { 0 } else { ends[row - 1] }..ends[row]]))
            .collect();
        let mut counts = Self { offsets: vec![0], columns: Vec::new(), units: Vec::new() };
        for row in rows {
            counts.columns.extend(row.iter().map(|entry| entry.0));
            counts.units.extend(row.iter().map(|entry| entry.1));
            counts.offsets.push(counts.columns.len());
        }
        counts
    }

    /// The counts of one row, by ascending column.
    pub(crate) fn row(&self, item: ItemIndex) -> impl Iterator<Item = (ItemIndex, f64)> {
        let range = self.offsets[item as usize]..self.offsets[item as usize + 1];
        let counts = self.units[range.clone()].iter().map(|&units| f64::from(units) / f64::from(UNITS));
        self.columns[range].iter().copied().zip(counts)
    }
}

/// Calls `visit(earlier, later, units)` for every pair.
fn pairs(sequence: &[ItemIndex], reach: usize, mut visit: impl FnMut(ItemIndex, ItemIndex, u32)) {
    for (place, &earlier) in sequence.iter().enumerate() {
        for (step, &later) in (1u32..).zip(&sequence[place + 1..]).take(reach) {
            visit(earlier, later, UNITS / step);
        }
    }
}

fn merged(entries: &[u64]) -> Vec<(ItemIndex, u32)> {
    let mut entries = entries.to_vec();
    entries.sort_unstable();
    let column = |entry: &u64| (entry >> 32) as ItemIndex;
    entries
        .chunk_by(|a, b| column(a) == column(b))
        // Beyond 35 million co-occurrences of one pair the count stays where it is.
        .map(|same| (column(&same[0]), same.iter().fold(0u32, |sum, entry| sum.saturating_add(*entry as u32))))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn counts_equal_a_dense_sum_over_all_pairs(
            sequences in prop::collection::vec(prop::collection::vec(0u32..7, 0..12), 0..8),
            reach in 1usize..6,
        ) {
            let mut dense = [[0.0f64; 7]; 7];
            for s in &sequences {
                for (i, j) in (0..s.len()).flat_map(|i| (i + 1..s.len()).map(move |j| (i, j))).filter(|(i, j)| j - i <= reach) {
                    dense[s[i] as usize][s[j] as usize] += 1.0 / (j - i) as f64;
                    dense[s[j] as usize][s[i] as usize] += 0.5 / (j - i) as f64;
                }
            }
            let sparse = Cooccurrence::count(|| sequences.iter().map(Vec::as_slice), reach, 7);
            for (row, expected) in (0u32..).zip(dense) {
                let mut found = [0.0; 7];
                let columns: Vec<u32> = sparse.row(row).map(|entry| entry.0).collect();
                prop_assert!(columns.windows(2).all(|pair| pair[0] < pair[1]));
                sparse.row(row).for_each(|(column, count)| found[column as usize] = count);
                prop_assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12), "{found:?} {expected:?}");
            }
        }
    }
}
