//! Paired tests between two rows of a table over the same users.
//!
//! Two methods err on the same hard users, so their own intervals may overlap although one is clearly better: what
//! counts is the difference user by user. The p-value is that of the sign-flip permutation test (Fisher 1935): if the
//! rows were exchangeable, each user's difference could as well have the other sign.

use rayon::prelude::*;
use serde::{Serialize, Serializer};

use crate::error::{Error, Result};
use crate::metrics::bootstrap::{Bootstrap, Interval, of_means};
use crate::metrics::draws::Draws;
use crate::metrics::ranking::{Metric, total};

/// Sign flips per test: the smallest p-value is one in this many.
const FLIPS: u64 = 9_999;

/// Permutations draw from streams that no bootstrap uses.
const FLIP_STREAM: u64 = 1 << 63;

/// What a paired comparison found.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PairedTest {
    /// Of what.
    #[serde(serialize_with = "by_name")]
    pub metric: Metric,
    /// Users compared.
    pub users: usize,
    /// Mean of the first row less that of the second.
    pub difference: f64,
    /// Bootstrap interval of the difference.
    pub interval: Interval,
    /// Two-sided: how often rows that are equally good would differ by as much. Not corrected for several tests.
    pub p_value: f64,
    /// Users for whom the first row is better.
    pub wins: usize,
    /// Users for whom the second is.
    pub losses: usize,
}

fn by_name<S: Serializer>(metric: &Metric, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(metric)
}

/// Compares two rows, user by user.
///
/// # Errors
/// Rows over other numbers of users.
pub fn paired_test(
    first: &[Option<u32>],
    second: &[Option<u32>],
    metric: Metric,
    bootstrap: &Bootstrap,
) -> Result<PairedTest> {
    let values = |ranks: &[Option<u32>]| ranks.iter().map(|&rank| metric.of_rank(rank)).collect::<Vec<f64>>();
    paired_values(&values(first), &values(second), metric, bootstrap)
}

/// Compares two rows by a value of the metric a user: its mean over several trainings, say.
///
/// # Errors
/// Rows over other numbers of users.
pub fn paired_values(first: &[f64], second: &[f64], metric: Metric, bootstrap: &Bootstrap) -> Result<PairedTest> {
    if first.len() != second.len() {
        let problem = format!("a row over {} users and one over {} cannot be paired", first.len(), second.len());
        return Err(Error::mismatch(problem, "rank the same users, in the same order, with both methods"));
    }
    let differences: Vec<f64> = first.iter().zip(second).map(|(a, b)| a - b).collect();
    let users = differences.len();
    let interval = of_means(&differences, 1, bootstrap)[0];
    // A user without a difference has none with the other sign either.
    let moved: Vec<f64> = differences.into_iter().filter(|&difference| difference != 0.0).collect();
    let wins = moved.iter().filter(|&&difference| difference > 0.0).count();
    Ok(PairedTest {
        metric,
        users,
        difference: total(moved.iter().copied()) / users.max(1) as f64,
        interval,
        p_value: sign_flip(&moved, bootstrap.seed),
        wins,
        losses: moved.len() - wins,
    })
}

fn sign_flip(differences: &[f64], seed: u64) -> f64 {
    let observed = differences.iter().sum::<f64>().abs();
    // Sums of the same terms in another grouping differ in their last digits: those are as extreme.
    let bar = observed - 1e-12 * differences.iter().map(|d| d.abs()).sum::<f64>();
    let as_extreme = (0..FLIPS)
        .into_par_iter()
        .filter(|number| {
            let mut draws = Draws::new(seed, FLIP_STREAM | number);
            let mut sum = 0.0;
            for part in differences.chunks(64) {
                let mut signs = draws.next();
                for &difference in part {
                    // The sign bit, without a branch that no processor could foresee.
                    sum += f64::from_bits(difference.to_bits() ^ (signs & 1) << 63);
                    signs >>= 1;
                }
            }
            sum.abs() >= bar
        })
        .count();
    (as_extreme + 1) as f64 / (FLIPS + 1) as f64
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn row(hits: impl Fn(u32) -> bool) -> Vec<Option<u32>> {
        (0..600).map(|user| hits(user).then_some(0)).collect()
    }

    #[test]
    fn a_row_does_not_differ_from_itself() {
        let a = row(|user| user % 3 == 0);
        let test = paired_test(&a, &a, Metric::Recall(10), &Bootstrap::default()).unwrap();
        assert_eq!((test.difference, test.p_value, test.wins, test.losses), (0.0, 1.0, 0, 0));
    }

    #[test]
    fn the_permutation_p_value_is_that_of_the_exact_sign_test_on_hits() {
        // Ten users decide, eight of them for the first row: P(|X - 5| >= 3) with X ~ Binomial(10, 1/2).
        let test = paired_test(&row(|u| u < 8), &row(|u| u == 8 || u == 9), Metric::Recall(1), &Bootstrap::default());
        let test = test.unwrap();
        assert_eq!((test.users, test.wins, test.losses), (600, 8, 2));
        assert!((test.difference - 6.0 / 600.0).abs() < 1e-15);
        assert!((test.p_value - 112.0 / 1024.0).abs() < 0.01, "{}", test.p_value);
    }

    #[test]
    fn pairing_finds_a_difference_that_the_rows_own_intervals_hide() {
        let (a, b) = (row(|user| user % 5 == 0 || user % 50 == 1), row(|user| user % 5 == 0));
        let options = Bootstrap::default();
        let own = |ranks| crate::metrics::intervals(ranks, &[Metric::Ndcg(10)], &options)[0];
        assert!(own(&a).low < own(&b).high);
        let test = paired_test(&a, &b, Metric::Ndcg(10), &options).unwrap();
        assert!(test.p_value < 0.01 && test.interval.low > 0.0, "{test:?}");
        let turned = paired_test(&b, &a, Metric::Ndcg(10), &options).unwrap();
        assert_eq!((turned.difference, turned.p_value, turned.wins), (-test.difference, test.p_value, test.losses));
        assert!(paired_test(&a, &b[1..], Metric::Mrr, &options).unwrap_err().to_string().contains("599"));
    }
}
