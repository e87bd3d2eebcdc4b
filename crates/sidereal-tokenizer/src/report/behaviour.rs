//! What users and categories say about the codes.

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize};

use sidereal_core::metrics::popularity::{Bucket, PopularityBuckets};
use sidereal_core::{Error, Histories, ItemIndex, Result, SemanticIds, Split};

use super::structure::{shared_prefix, sorted};

/// Share of items that share their semantic ID, by popularity; none where a bucket has no items. The buckets are those
/// of [`PopularityBuckets`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CollisionByPopularity {
    /// Of the most popular fifth of the items with interactions.
    pub head: Option<f64>,
    /// Of the next two fifths.
    pub mid: Option<f64>,
    /// Of the least popular two fifths.
    pub tail: Option<f64>,
    /// Of the items without interactions.
    pub cold: Option<f64>,
}

/// Whether items that are bought together share prefixes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CoPurchase {
    /// Pairs looked at.
    pub pairs: usize,
    /// Share of pairs that share at least the first 1 to L codes, `[L]`.
    pub shared: Vec<f64>,
    /// The same share among all pairs of different items, exactly, `[L]`.
    pub random: Vec<f64>,
    /// `shared` over `random`, `[L]`; none where no two items share a prefix.
    pub lift: Vec<Option<f64>>,
}

/// Pairs of different items that follow one another among each user's first `ends[user]` events.
pub fn consecutive_pairs(histories: &Histories, ends: &[u32]) -> Vec<(ItemIndex, ItemIndex)> {
    let users = (0..histories.len()).zip(ends);
    let training = users.map(|(user, &end)| histories.items_of(user).iter().take(end as usize));
    training.flat_map(|items| items.clone().zip(items.skip(1))).filter(|(a, b)| a != b).map(|(&a, &b)| (a, b)).collect()
}

/// Pairs of different items of which the second is a held-out target and the first stands before it, but for those that
/// follow one another, in either order, in some training part: nothing that learnt from these has seen such a pair.
pub fn held_out_pairs(histories: &Histories, split: &Split) -> Vec<(ItemIndex, ItemIndex)> {
    let either = |(a, b): (ItemIndex, ItemIndex)| (a.min(b), a.max(b));
    let known: HashSet<(ItemIndex, ItemIndex)> =
        consecutive_pairs(histories, &split.train_end).into_iter().map(either).collect();
    let examples = split.validation.iter().chain(&split.test);
    let pairs = examples.filter_map(|example| Some((*example.history(histories).last()?, example.target(histories))));
    pairs.filter(|&(a, b)| a != b && !known.contains(&either((a, b)))).collect()
}

pub(super) fn co_purchase(ids: &SemanticIds, pairs: &[(ItemIndex, ItemIndex)]) -> Result<CoPurchase> {
    let levels = ids.levels();
    let mut shared = vec![0u64; levels];
    for &(a, b) in pairs {
        let unknown = [a, b].into_iter().find(|&i| i as usize >= ids.len());
        if let Some(item) = unknown {
            let problem = format!("a co-purchase names item {item}, but there are {} semantic IDs", ids.len());
            return Err(Error::mismatch(problem, "give histories and semantic IDs of the same catalog"));
        }
        let depth = shared_prefix(ids.row(a as usize), ids.row(b as usize));
        shared.iter_mut().take(depth).for_each(|count| *count += 1);
    }
    let order = sorted(ids);
    let all = ids.len() as f64 * (ids.len() as f64 - 1.0);
    let random: Vec<f64> = (1..=levels)
        .map(|depth| {
            let same = order.chunk_by(|&a, &b| ids.row(a)[..depth] == ids.row(b)[..depth]);
            let pairs: f64 = same.map(|bucket| bucket.len() as f64 * (bucket.len() as f64 - 1.0)).sum();
            if all > 0.0 { pairs / all } else { 0.0 }
        })
        .collect();
    let shared: Vec<f64> = shared.iter().map(|&count| count as f64 / pairs.len().max(1) as f64).collect();
    let lift = shared.iter().zip(&random).map(|(s, r)| (*r > 0.0).then(|| s / r)).collect();
    Ok(CoPurchase { pairs: pairs.len(), shared, random, lift })
}

pub(super) fn collisions_by_popularity(ids: &SemanticIds, popularity: &[u32]) -> CollisionByPopularity {
    let mut collides = vec![false; ids.len()];
    for bucket in sorted(ids).chunk_by(|&a, &b| ids.row(a) == ids.row(b)).filter(|bucket| bucket.len() > 1) {
        bucket.iter().for_each(|&item| collides[item] = true);
    }
    let buckets = PopularityBuckets::new(popularity);
    let share = |bucket: Bucket| {
        let items = (0..ids.len() as ItemIndex).filter(|&item| buckets.of(item) == bucket);
        let colliding = items.filter(|&item| collides[item as usize]).count();
        let items = buckets.items(bucket);
        (items > 0).then(|| colliding as f64 / items as f64)
    };
    let [head, mid, tail, cold] = Bucket::ALL.map(share);
    CollisionByPopularity { head, mid, tail, cold }
}

pub(super) fn category_purity(ids: &SemanticIds, categories: &[Option<String>]) -> Vec<f64> {
    let order: Vec<usize> = sorted(ids).into_iter().filter(|&item| categories[item].is_some()).collect();
    let largest = |bucket: &[usize]| {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for category in bucket.iter().filter_map(|&item| categories[item].as_deref()) {
            *counts.entry(category).or_default() += 1;
        }
        counts.into_values().max().unwrap_or(0)
    };
    (1..=ids.levels())
        .map(|depth| {
            let same = order.chunk_by(|&a, &b| ids.row(a)[..depth] == ids.row(b)[..depth]);
            same.map(largest).sum::<usize>() as f64 / order.len().max(1) as f64
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn ids() -> SemanticIds {
        SemanticIds::new(2, [[0, 0], [0, 0], [0, 1], [1, 0], [1, 1]].concat()).unwrap()
    }

    #[test]
    fn co_purchase_lift_compares_with_all_pairs() {
        let found = co_purchase(&ids(), &[(0, 1), (0, 2), (3, 0), (4, 3)]).unwrap();
        assert_eq!(found.shared, [0.75, 0.25]);
        // 3 items under code 0 and 2 under code 1: (6 + 2) of 20 ordered pairs; one pair has equal IDs: 2 of 20.
        assert_eq!(found.random, [0.4, 0.1]);
        assert_eq!(found.lift, [Some(0.75 / 0.4), Some(0.25 / 0.1)]);
        assert!(co_purchase(&ids(), &[(0, 5)]).unwrap_err().to_string().contains("item 5"));
    }

    #[test]
    fn purity_counts_the_largest_category_of_each_prefix() {
        let categories: Vec<Option<String>> =
            [Some("a"), Some("b"), Some("a"), None, Some("c")].map(|c| c.map(str::to_owned)).to_vec();
        assert_eq!(category_purity(&ids(), &categories), [0.75, 0.75]);
    }

    #[test]
    fn popular_and_rare_items_are_counted_apart() {
        // With interactions, by popularity: 4, 1, 0, 2; items 0 and 1 share their ID.
        let found = collisions_by_popularity(&ids(), &[3, 5, 2, 0, 9]);
        let expected = CollisionByPopularity { head: Some(0.0), mid: Some(1.0), tail: Some(0.0), cold: Some(0.0) };
        assert_eq!(found, expected);
        assert_eq!(collisions_by_popularity(&ids(), &[1; 5]).cold, None);
    }

    #[test]
    fn pairs_come_from_the_training_part_only() {
        let users = vec!["u".to_owned(), "v".to_owned()];
        let histories = Histories::new(users, vec![0, 4, 6], vec![1, 1, 2, 3, 4, 5], None, None).unwrap();
        assert_eq!(consecutive_pairs(&histories, &[3, 2]), [(1, 2), (4, 5)]);
    }

    #[test]
    fn held_out_pairs_are_transitions_that_no_training_part_has() {
        // Training parts: 0 1 and 1 0 2 5; then come validation and test targets.
        let users = vec!["u".to_owned(), "v".to_owned()];
        let histories = Histories::new(users, vec![0, 4, 10], vec![0, 1, 2, 2, 1, 0, 2, 5, 3, 4], None, None).unwrap();
        let split = Split::new(&histories, sidereal_core::SplitRule::LeaveOneOut).unwrap();
        assert_eq!(split.train_end, [2, 4]);
        assert_eq!(held_out_pairs(&histories, &split), [(1, 2), (5, 3), (3, 4)]);
        // 2 -> 0 follows as 0 -> 2 in training.
        let users = vec!["u".to_owned(), "v".to_owned()];
        let histories = Histories::new(users, vec![0, 4, 7], vec![0, 2, 2, 0, 1, 3, 3], None, None).unwrap();
        let split = Split::new(&histories, sidereal_core::SplitRule::LeaveOneOut).unwrap();
        assert_eq!(held_out_pairs(&histories, &split), [(1, 3)]);
    }
}
