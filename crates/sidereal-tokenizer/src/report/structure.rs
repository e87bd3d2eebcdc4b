//! What the codes alone say.

use serde::{Deserialize, Serialize};

use sidereal_core::metrics::gini;
use sidereal_core::{Result, SemanticIds};

use super::QualityReport;

/// Use of one level.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Level {
    /// Codes that occur.
    pub used: usize,
    /// K.
    pub codes: u32,
    /// e^entropy: the number of equally frequent codes that would be as uncertain.
    pub perplexity: f64,
    /// Of the code frequencies, in nats.
    pub entropy: f64,
    /// Mean number of codes that follow a prefix that ends before this level.
    pub mean_branching: f64,
    /// Most codes that follow one prefix.
    pub max_branching: usize,
    /// Codes that no item has: `codes` less `used`.
    #[serde(default)]
    pub dead: usize,
    /// How unevenly items fall on all K codes: 0 where all have as many, near 1 where one has all.
    #[serde(default)]
    pub gini: f64,
    /// Share of items that have their prefix up to this level for themselves.
    #[serde(default)]
    pub unique: f64,
}

/// The part of the report that needs nothing but codes.
///
/// # Errors
/// Codes that are not below `codes_per_level`.
pub fn structure(ids: &SemanticIds, codes_per_level: &[u32]) -> Result<QualityReport> {
    ids.check_codes(codes_per_level)?;
    let order = sorted(ids);
    let depth = ids.levels();
    // Prefixes of depth d begin where two neighbours in sorted order differ within their first d codes.
    let mut prefixes = vec![0usize; depth];
    let mut branching = vec![Branching::default(); depth];
    for (i, &item) in order.iter().enumerate() {
        let shared = match i {
            0 => None,
            _ => Some(shared_prefix(ids.row(order[i - 1]), ids.row(item))),
        };
        for level in 0..depth {
            if shared.is_none_or(|shared| shared <= level) {
                prefixes[level] += 1;
                // A new node at this depth is one more child; its parent is new too if they differ already above.
                branching[level].add(shared.is_none_or(|shared| shared < level));
            }
        }
    }
    let unique = alone(ids, &order);
    let (mut items_in_collision, mut max_bucket) = (0, 0);
    for bucket in order.chunk_by(|&a, &b| ids.row(a) == ids.row(b)) {
        max_bucket = max_bucket.max(bucket.len());
        items_in_collision += if bucket.len() > 1 { bucket.len() } else { 0 };
    }
    let unique_ids = prefixes.last().copied().unwrap_or(0);
    let levels = (0..depth)
        .map(|level| {
            let counts = code_counts(ids, level, codes_per_level[level]);
            let used = counts.iter().filter(|&&count| count > 0).count();
            let entropy = entropy(&counts);
            let parents = if level == 0 { usize::from(!ids.is_empty()) } else { prefixes[level - 1] };
            Level {
                used,
                codes: codes_per_level[level],
                perplexity: entropy.exp(),
                entropy,
                mean_branching: prefixes[level] as f64 / parents.max(1) as f64,
                max_branching: branching[level].most(),
                dead: counts.len() - used,
                gini: gini(&counts),
                unique: unique[level] as f64 / ids.len().max(1) as f64,
            }
        })
        .collect();
    Ok(QualityReport {
        items: ids.len(),
        unique_ids,
        collision_rate: (ids.len() - unique_ids) as f64 / ids.len().max(1) as f64,
        items_in_collision,
        max_bucket,
        levels,
        prefixes,
        reconstruction: None,
        neighbours: None,
        category_purity: None,
        collisions_by_popularity: None,
        co_purchase: None,
        co_purchase_held_out: None,
    })
}

/// Items in the order of their semantic IDs, equal ones by item.
pub(super) fn sorted(ids: &SemanticIds) -> Vec<usize> {
    let mut order: Vec<usize> = (0..ids.len()).collect();
    order.sort_unstable_by(|&a, &b| ids.row(a).cmp(ids.row(b)).then(a.cmp(&b)));
    order
}

pub(super) fn shared_prefix(a: &[u16], b: &[u16]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// Counts children of consecutive parents.
#[derive(Clone, Default)]
struct Branching {
    current: usize,
    most: usize,
}

impl Branching {
    fn add(&mut self, new_parent: bool) {
        self.most = self.most();
        self.current = if new_parent { 1 } else { self.current + 1 };
    }

    fn most(&self) -> usize {
        self.most.max(self.current)
    }
}

/// Items that share their prefix of each depth with no other, `[L]`.
fn alone(ids: &SemanticIds, order: &[usize]) -> Vec<usize> {
    let mut alone = vec![0; ids.levels()];
    let shared = |a: Option<&usize>, b: usize| a.map_or(0, |&a| shared_prefix(ids.row(a), ids.row(b)));
    for (at, &item) in order.iter().enumerate() {
        let before = at.checked_sub(1).and_then(|before| order.get(before));
        let longest = shared(before, item).max(shared(order.get(at + 1), item));
        // Alone from the depth on at which both neighbours in sorted order differ.
        alone.iter_mut().skip(longest).for_each(|count| *count += 1);
    }
    alone
}

/// Items of each code of a level, `[K]`.
///
/// # Panics
/// On a code that is not below `codes`.
pub fn code_counts(ids: &SemanticIds, level: usize, codes: u32) -> Vec<u32> {
    let mut counts = vec![0; codes as usize];
    for row in ids.rows() {
        counts[usize::from(row[level])] += 1;
    }
    counts
}

/// Of the frequencies, in nats.
fn entropy(counts: &[u32]) -> f64 {
    let total: f64 = counts.iter().map(|&count| f64::from(count)).sum();
    let used = counts.iter().filter(|&&count| count > 0);
    used.map(|&count| f64::from(count) / total).map(|p| -p * p.ln()).sum::<f64>().max(0.0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-12
    }

    #[test]
    fn a_small_index_gives_the_figures_worked_out_by_hand() {
        // Prefix tree: 0 -> {0 -> {0, 1}, 1 -> {0}}, 2 -> {1 -> {3}}; (0,0,1) holds three items, (2,1,3) two.
        let rows = [[0, 0, 1], [2, 1, 3], [0, 1, 0], [0, 0, 0], [0, 0, 1], [2, 1, 3], [0, 0, 1], [2, 1, 2]];
        let ids = SemanticIds::new(3, rows.concat()).unwrap();
        let report = structure(&ids, &[4, 2, 4]).unwrap();
        assert_eq!((report.items, report.unique_ids, report.items_in_collision, report.max_bucket), (8, 5, 5, 3));
        assert!(close(report.collision_rate, 3.0 / 8.0));
        assert_eq!(report.prefixes, [2, 3, 5]);
        let used: Vec<usize> = report.levels.iter().map(|l| l.used).collect();
        assert_eq!(used, [2, 2, 4]);
        // Level 0: 5 of 8 and 3 of 8. Level 1: 4 and 4. Level 2: 2, 3, 1, 2.
        let entropy = |counts: &[f64]| counts.iter().map(|c| -c / 8.0 * (c / 8.0).ln()).sum::<f64>();
        assert!(close(report.levels[0].entropy, entropy(&[5.0, 3.0])));
        assert!(close(report.levels[1].perplexity, 2.0));
        assert!(close(report.levels[2].perplexity, entropy(&[2.0, 3.0, 1.0, 2.0]).exp()));
        let branching: Vec<(f64, usize)> = report.levels.iter().map(|l| (l.mean_branching, l.max_branching)).collect();
        assert_eq!(branching, [(2.0, 2), (1.5, 2), (5.0 / 3.0, 2)]);
        let dead: Vec<usize> = report.levels.iter().map(|l| l.dead).collect();
        assert_eq!(dead, [2, 0, 0]);
        // (0,1,0) is alone from depth 2 on, (0,0,0) and (2,1,2) at depth 3.
        let unique: Vec<f64> = report.levels.iter().map(|l| l.unique).collect();
        assert_eq!(unique, [0.0, 1.0 / 8.0, 3.0 / 8.0]);
        // By its definition: the mean difference of two codes over twice the mean.
        let differences: f64 =
            [5.0, 0.0, 3.0, 0.0].iter().flat_map(|a| [5.0, 0.0, 3.0, 0.0].map(|b: f64| (a - b).abs())).sum();
        assert!(close(report.levels[0].gini, differences / (2.0 * 4.0 * 8.0)));
        assert!(close(report.levels[1].gini, 0.0));
    }

    #[test]
    fn an_empty_index_has_no_figures_that_are_not_numbers() {
        let report = structure(&SemanticIds::new(2, vec![]).unwrap(), &[4, 4]).unwrap();
        assert_eq!((report.items, report.unique_ids, report.max_bucket), (0, 0, 0));
        assert!(report.levels.iter().all(|l| l.perplexity.is_finite() && l.mean_branching == 0.0));
    }

    #[test]
    fn a_code_outside_its_level_is_refused() {
        let error = structure(&SemanticIds::new(2, vec![0, 5]).unwrap(), &[4, 4]).unwrap_err().to_string();
        assert!(error.contains("code 5") && error.contains("item 0"), "{error}");
    }
}
