//! How often items stand near each other in histories: a symmetric sparse matrix in compressed rows.
//!
//! Collaborative vectors, the collaborative indexer and the co-occurrence pairs of the alignment losses read it. Counts
//! are whole numbers, so they do not depend on any order.

use rayon::prelude::*;

use sidereal_core::ItemIndex;

use crate::training_items::TrainingHistories;

/// Symmetric counts [N, N] of items at most `window` steps apart; an item does not stand near itself.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct CoOccurrences {
    /// Where each row begins, `[N + 1]`.
    offsets: Vec<usize>,
    /// Ascending within a row.
    columns: Vec<u32>,
    counts: Vec<u32>,
}

impl CoOccurrences {
    /// Counts all pairs of items below `items` that are at most `window` steps apart.
    pub(crate) fn count(histories: &TrainingHistories<'_>, items: usize, window: usize) -> Self {
        let mut ends = vec![0usize; items];
        histories.iter().for_each(|history| pairs(history, window, |from, _| ends[from as usize] += 1));
        let mut total = 0;
        for end in &mut ends {
            // Becomes the place of the row's next entry, and with the last one its end.
            total += std::mem::replace(end, total);
        }
        let mut entries = vec![0u32; total];
        histories.iter().for_each(|history| {
            pairs(history, window, |from, to| {
                entries[ends[from as usize]] = to;
                ends[from as usize] += 1;
            });
        });
        let mut rest = entries.as_mut_slice();
        let mut rows = Vec::with_capacity(items);
        for (row, &end) in ends.iter().enumerate() {
            let start = if row == 0 { 0 } else { ends[row - 1] };
            let (head, tail) = rest.split_at_mut(end - start);
            rows.push(head);
            rest = tail;
        }
        let merged: Vec<Vec<(u32, u32)>> = rows
            .into_par_iter()
            .map(|row| {
                row.sort_unstable();
                row.chunk_by(|a, b| a == b).map(|same| (same[0], same.len() as u32)).collect()
            })
            .collect();
        Self::from_rows(merged)
    }

    fn from_rows(rows: Vec<Vec<(u32, u32)>>) -> Self {
        let mut counts = Self { offsets: vec![0], columns: Vec::new(), counts: Vec::new() };
        for row in rows {
            counts.columns.extend(row.iter().map(|entry| entry.0));
            counts.counts.extend(row.iter().map(|entry| entry.1));
            counts.offsets.push(counts.columns.len());
        }
        counts
    }

    /// N.
    pub(crate) fn items(&self) -> usize {
        self.offsets.len() - 1
    }

    /// An item's neighbours, ascending, with their counts.
    pub(crate) fn row(&self, item: usize) -> impl ExactSizeIterator<Item = (u32, u32)> + Clone {
        let range = self.offsets[item]..self.offsets[item + 1];
        self.columns[range.clone()].iter().copied().zip(self.counts[range].iter().copied())
    }

    /// The sum of an item's counts.
    pub(crate) fn total_of(&self, item: usize) -> u64 {
        self.row(item).map(|(_, count)| u64::from(count)).sum()
    }

    /// The same without pairs of items that are not kept.
    pub(crate) fn only(&self, kept: impl Fn(usize) -> bool + Sync) -> Self {
        let row = |item: usize| match kept(item) {
            true => self.row(item).filter(|&(other, _)| kept(other as usize)).collect(),
            false => Vec::new(),
        };
        Self::from_rows((0..self.items()).into_par_iter().map(row).collect())
    }

    /// The same without counts below `least`.
    pub(crate) fn at_least(&self, least: u32) -> Self {
        let kept = |item: usize| self.row(item).filter(|&(_, count)| count >= least).collect();
        Self::from_rows((0..self.items()).into_par_iter().map(kept).collect())
    }

    /// The counts among some items only, numbered by their place in `members`, which is ascending.
    pub(crate) fn among(&self, members: &[u32]) -> Self {
        let row = |&member: &u32| {
            let (mut at, mut kept) = (0, Vec::new());
            for (other, count) in self.row(member as usize) {
                at += members[at..].partition_point(|&m| m < other);
                if members.get(at) == Some(&other) {
                    kept.push((at as u32, count));
                }
            }
            kept
        };
        Self::from_rows(members.par_iter().map(row).collect())
    }
}

/// Calls back with both directions of every pair.
fn pairs(history: &[ItemIndex], window: usize, mut found: impl FnMut(u32, u32)) {
    for (at, &from) in history.iter().enumerate() {
        for &to in history[at + 1..].iter().take(window).filter(|&&to| to != from) {
            found(from, to);
            found(to, from);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use sidereal_core::Histories;

    #[test]
    fn counts_equal_their_definition_and_only_training_parts_count() {
        let users = vec!["a".to_owned(), "b".to_owned()];
        let histories = Histories::new(users, vec![0, 4, 7], vec![0, 1, 0, 3, 1, 0, 2], None, None).unwrap();
        let counts = CoOccurrences::count(&TrainingHistories::new(&histories, &[4, 2]), 4, 2);
        let row = |i| counts.row(i).collect::<Vec<_>>();
        assert_eq!(row(0), [(1, 3), (3, 1)]);
        assert_eq!(row(1), [(0, 3), (3, 1)]);
        assert_eq!(row(2), []);
        assert_eq!(row(3), [(0, 1), (1, 1)]);
        assert_eq!((counts.total_of(0), counts.items()), (4, 4));
        assert_eq!(counts.at_least(2).row(1).collect::<Vec<_>>(), [(0, 3)]);
        let among = counts.among(&[1, 2, 3]);
        assert_eq!(among.row(0).collect::<Vec<_>>(), [(2, 1)]);
        assert_eq!(among.row(2).collect::<Vec<_>>(), [(0, 1)]);
    }
}
