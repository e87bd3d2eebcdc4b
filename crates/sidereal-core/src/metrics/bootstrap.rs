//! Bootstrap percentile intervals over users (Efron 1979): how far a mean would move with other users of the kind.
//!
//! They say nothing about the seed of a training: for that, train with several.

use rayon::prelude::*;
use serde::Serialize;

use crate::metrics::draws::Draws;
use crate::metrics::ranking::Metric;

/// How to resample.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Bootstrap {
    /// Resamples drawn, each of as many users as there are.
    pub resamples: usize,
    /// Share of resamples between the ends of an interval.
    pub confidence: f64,
    /// Seed of the draws.
    pub seed: u64,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Self { resamples: 1000, confidence: 0.95, seed: 0 }
    }
}

/// The ends of an interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// Intervals of the means of several metrics, all from the same resamples.
pub fn intervals(ranks: &[Option<u32>], metrics: &[Metric], bootstrap: &Bootstrap) -> Vec<Interval> {
    let values: Vec<f64> =
        ranks.iter().flat_map(|&rank| metrics.iter().map(move |metric| metric.of_rank(rank))).collect(); // [users, M]
    of_means(&values, metrics.len(), bootstrap)
}

/// Intervals of the column means of `values`, one row a user.
///
/// # Shapes
/// `values`: [users, columns]
pub fn of_means(values: &[f64], columns: usize, bootstrap: &Bootstrap) -> Vec<Interval> {
    let users = values.len() / columns.max(1);
    if users == 0 || bootstrap.resamples == 0 {
        return vec![Interval { low: 0.0, high: 0.0 }; columns];
    }
    let means: Vec<Vec<f64>> = (0..bootstrap.resamples as u64)
        .into_par_iter()
        .map(|number| {
            let mut draws = Draws::new(bootstrap.seed, number);
            let mut sums = vec![0.0; columns];
            for _ in 0..users {
                let user = draws.below(users) * columns;
                sums.iter_mut().zip(&values[user..user + columns]).for_each(|(sum, value)| *sum += value);
            }
            sums.iter_mut().for_each(|sum| *sum /= users as f64);
            sums
        })
        .collect(); // [resamples, columns]
    (0..columns)
        .map(|column| {
            let mut sorted: Vec<f64> = means.iter().map(|row| row[column]).collect();
            sorted.sort_by(f64::total_cmp);
            let outside = (1.0 - bootstrap.confidence) / 2.0;
            Interval { low: quantile(&sorted, outside), high: quantile(&sorted, 1.0 - outside) }
        })
        .collect()
}

/// The quantile of sorted values, linear between neighbours.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = share.clamp(0.0, 1.0) * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    below + (above - below) * place.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_of_a_hit_rate_is_that_of_a_proportion() {
        let ranks: Vec<Option<u32>> = (0..4000).map(|user| (user % 10 == 0).then_some(2)).collect();
        let both = intervals(&ranks, &[Metric::Recall(10), Metric::Ndcg(10)], &Bootstrap::default());
        let half_width = 1.96 * (0.1f64 * 0.9 / 4000.0).sqrt();
        assert!((both[0].low - (0.1 - half_width)).abs() < 0.0015, "{both:?}");
        assert!((both[0].high - (0.1 + half_width)).abs() < 0.0015, "{both:?}");
        // All hits are at one rank, so NDCG is the hit rate times a constant, resample by resample.
        assert!((both[1].low - both[0].low / 4f64.log2()).abs() < 1e-12);
    }

    #[test]
    fn the_same_seed_gives_the_same_interval_whatever_the_number_of_threads() {
        let ranks: Vec<Option<u32>> = (0..500).map(|user| (user % 3 > 0).then_some(user % 17)).collect();
        let draw = |seed| intervals(&ranks, &[Metric::Mrr], &Bootstrap { seed, ..Bootstrap::default() });
        let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().map(|pool| pool.install(|| draw(7)));
        assert_eq!(one.ok(), Some(draw(7)));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn users_who_are_all_alike_leave_no_doubt_and_no_users_no_interval() {
        let alike = intervals(&[Some(1); 9], &[Metric::MrrAt(5)], &Bootstrap::default());
        assert_eq!(alike, [Interval { low: 0.5, high: 0.5 }]);
        assert_eq!(intervals(&[], &[Metric::Mrr], &Bootstrap::default()), [Interval { low: 0.0, high: 0.0 }]);
    }
}
