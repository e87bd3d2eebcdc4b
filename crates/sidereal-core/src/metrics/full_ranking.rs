//! From the scores of a whole catalog to a rank and a list.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use crate::item::ItemIndex;

/// The 0-based rank of a target, ties counted against it: how many other items score at least as much.
///
/// Items of `seen` (in any order, repeats allowed) are out of the running, as if they scored minus infinity. A target
/// that is itself seen ranks last. A score that is not a number counts as ahead of the target, and a target whose own
/// score is not a number ranks last: a broken model never looks good.
///
/// # Shapes
/// `scores`: `[N]`
///
/// # Panics
/// If the target or an item of `seen` is not below N.
pub fn rank_of_target(scores: &[f32], target: ItemIndex, seen: Option<&[ItemIndex]>) -> u32 {
    let last = scores.len() as u32 - 1;
    let own = scores[target as usize];
    let seen = seen.unwrap_or(&[]);
    if own.is_nan() || own == f32::NEG_INFINITY || seen.contains(&target) {
        return last;
    }
    let ahead = |score: f32| score >= own || score.is_nan();
    let whole = scores.iter().map(|&score| u32::from(ahead(score))).sum::<u32>() - 1;
    if seen.is_empty() {
        return whole;
    }
    let mut seen = seen.to_vec();
    seen.sort_unstable();
    seen.dedup();
    whole - seen.iter().filter(|&&item| ahead(scores[item as usize])).count() as u32
}

/// The best `k` items by (score descending, item ascending), without `seen` and without items whose score is minus
/// infinity or not a number.
///
/// # Shapes
/// `scores`: `[N]`; answer: at most k
pub fn top_k(scores: &[f32], k: usize, seen: Option<&[ItemIndex]>) -> Vec<(ItemIndex, f32)> {
    let mut seen = seen.unwrap_or(&[]).to_vec();
    seen.sort_unstable();
    // The heap's top is the worst entry kept; most items fail the one comparison with it.
    let mut kept: BinaryHeap<Entry> = BinaryHeap::with_capacity(k + 1);
    let mut floor = f32::NEG_INFINITY;
    for (item, &score) in (0u32..).zip(scores) {
        // Items come in ascending order, so one that only equals the worst entry kept stands behind it.
        if score > floor && seen.binary_search(&item).is_err() {
            if kept.len() == k {
                kept.pop();
            }
            if k > 0 {
                kept.push(Entry { item, score });
            }
            if kept.len() == k {
                floor = kept.peek().map_or(f32::INFINITY, |worst| worst.score);
            }
        }
    }
    kept.into_sorted_vec().into_iter().map(|entry| (entry.item, entry.score)).collect()
}

/// Ordered so that the better entry is the smaller one.
#[derive(PartialEq)]
struct Entry {
    item: ItemIndex,
    score: f32,
}

impl Eq for Entry {}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_score = other.score.partial_cmp(&self.score).unwrap_or(Ordering::Equal);
        by_score.then(self.item.cmp(&other.item))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn rank_and_list_equal_a_full_sort_of_scores_with_seen_items_at_minus_infinity(
            // Few distinct values, so that ties are the rule.
            scores in prop::collection::vec((-3i8..4).prop_map(f32::from), 1..40),
            target in 0usize..40,
            seen in prop::collection::vec(0usize..40, 0..12),
            k in 0usize..45,
        ) {
            let n = scores.len();
            let target = (target % n) as u32;
            let seen: Vec<u32> = seen.iter().map(|s| (s % n) as u32).collect();
            let mut masked = scores.clone();
            seen.iter().for_each(|&s| masked[s as usize] = f32::NEG_INFINITY);

            let own = masked[target as usize];
            let slow = (0..n).filter(|&i| i as u32 != target && masked[i] >= own).count() as u32;
            prop_assert_eq!(rank_of_target(&scores, target, Some(&seen)), slow);

            let mut order: Vec<(u32, f32)> = (0u32..).zip(masked).filter(|e| e.1 > f32::NEG_INFINITY).collect();
            order.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            order.truncate(k);
            prop_assert_eq!(top_k(&scores, k, Some(&seen)), order);
        }
    }

    #[test]
    fn scores_that_are_not_numbers_never_help_a_target() {
        assert_eq!(rank_of_target(&[f32::NAN, 1.0, 0.0], 1, None), 1);
        assert_eq!(rank_of_target(&[f32::NAN, 1.0, 0.0], 0, None), 2);
        assert_eq!(top_k(&[f32::NAN, 1.0, f32::NEG_INFINITY], 3, None), [(1, 1.0)]);
    }
}
