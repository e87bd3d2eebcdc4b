//! Matching of two sets of equal size, one to one.
//!
//! The exact one is the Hungarian method in its shortest-augmenting-path form (Jonker and Volgenant, Computing 1987):
//! rows are added one by one, each along the cheapest path of alternating edges, with prices that keep all reduced
//! costs from falling below 0. O(n^3), whole numbers throughout.

use std::collections::HashMap;

/// Largest set that is matched exactly.
pub(super) const EXACT: usize = 1024;

/// The column of every row such that the sum of the counts is greatest.
///
/// Exact up to [`EXACT`]; beyond it the largest counts first, ties by row and column.
///
/// # Shapes
/// `counts`: pairs (row, column) below `n`; the answer: a permutation, `[n]`
pub(super) fn best_match(counts: &HashMap<(u16, u16), u64>, n: usize) -> Vec<u16> {
    if n > EXACT {
        return greedy(counts, n);
    }
    let mut costs = vec![0i64; n * n];
    for (&(row, column), &count) in counts {
        costs[usize::from(row) * n + usize::from(column)] = -(count as i64);
    }
    hungarian(&costs, n).into_iter().map(|column| column as u16).collect()
}

fn greedy(counts: &HashMap<(u16, u16), u64>, n: usize) -> Vec<u16> {
    let mut pairs: Vec<(u64, u16, u16)> = counts.iter().map(|(&(row, column), &count)| (count, row, column)).collect();
    pairs.sort_unstable_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)).then(a.2.cmp(&b.2)));
    let (mut column_of, mut used) = (vec![None; n], vec![false; n]);
    for (_, row, column) in pairs {
        if column_of[usize::from(row)].is_none() && !used[usize::from(column)] {
            column_of[usize::from(row)] = Some(column);
            used[usize::from(column)] = true;
        }
    }
    let mut rest = (0..n).filter(|&column| !used[column]).map(|column| column as u16);
    column_of.into_iter().map(|column| column.or_else(|| rest.next()).unwrap_or(0)).collect()
}

/// The column of every row such that the sum of the costs is least.
///
/// # Shapes
/// `costs`: [n, n]; the answer: a permutation, `[n]`
fn hungarian(costs: &[i64], n: usize) -> Vec<usize> {
    const NONE: usize = usize::MAX;
    let (mut row_price, mut column_price) = (vec![0i64; n], vec![0i64; n]);
    let mut row_of = vec![NONE; n];
    for first in 0..n {
        // Cheapest reduced cost by which a path from `first` reaches each column, and the column before it.
        let (mut reach, mut before, mut done) = (vec![i64::MAX; n], vec![NONE; n], vec![false; n]);
        let (mut row, mut from) = (first, NONE);
        let last = loop {
            let (mut least, mut next) = (i64::MAX, NONE);
            for column in (0..n).filter(|&column| !done[column]) {
                let reduced = costs[row * n + column] - row_price[row] - column_price[column];
                if reduced < reach[column] {
                    reach[column] = reduced;
                    before[column] = from;
                }
                if reach[column] < least {
                    (least, next) = (reach[column], column);
                }
            }
            // Prices move so that the cheapest column costs nothing.
            row_price[first] += least;
            for column in 0..n {
                if done[column] {
                    row_price[row_of[column]] += least;
                    column_price[column] -= least;
                } else {
                    reach[column] -= least;
                }
            }
            done[next] = true;
            from = next;
            if row_of[next] == NONE {
                break next;
            }
            row = row_of[next];
        };
        // Along the path every column takes the row of the one before it.
        let mut column = last;
        while before[column] != NONE {
            row_of[column] = row_of[before[column]];
            column = before[column];
        }
        row_of[column] = first;
    }
    let mut column_of = vec![0; n];
    row_of.iter().enumerate().for_each(|(column, &row)| column_of[row] = column);
    column_of
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn permutations(n: usize) -> Vec<Vec<usize>> {
        if n == 0 {
            return vec![Vec::new()];
        }
        let shorter = permutations(n - 1);
        shorter.iter().flat_map(|p| (0..n).map(|at| [&p[..at], &[n - 1], &p[at..]].concat())).collect()
    }

    proptest! {
        #[test]
        fn no_permutation_costs_less_than_the_matching(n in 1usize..7, raw in prop::collection::vec(-9i64..10, 49)) {
            let costs = &raw[..n * n];
            let sum = |columns: &[usize]| columns.iter().enumerate().map(|(row, &c)| costs[row * n + c]).sum::<i64>();
            let found = hungarian(costs, n);
            let least = permutations(n).iter().map(|p| sum(p)).min();
            prop_assert_eq!(Some(sum(&found)), least);
            let mut sorted = found;
            sorted.sort_unstable();
            prop_assert_eq!(sorted, (0..n).collect::<Vec<_>>());
        }

        #[test]
        fn the_greedy_matching_is_a_permutation_that_takes_the_largest_counts(
            raw in prop::collection::btree_map((0u16..9, 0u16..9), 1u64..100, 0..30),
        ) {
            let counts: HashMap<(u16, u16), u64> = raw.clone().into_iter().collect();
            let found = greedy(&counts, 9);
            let mut sorted = found.clone();
            sorted.sort_unstable();
            prop_assert_eq!(sorted, (0u16..9).collect::<Vec<_>>());
            let most = raw.values().max().copied();
            let taken = raw.iter().any(|(&(row, c), &count)| Some(count) == most && found[usize::from(row)] == c);
            prop_assert!(taken || raw.is_empty());
        }
    }
}
