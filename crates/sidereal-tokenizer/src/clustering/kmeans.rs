//! k-means: seeding, assignment, means, until nothing moves.
//!
//! Lloyd's iterations on exact assignments. What is summed is summed in f64 and in row order, and an iteration touches
//! only the rows that changed cluster, so the result has the same bytes for any number of threads, and late iterations
//! cost little beside their product. Assignments can be held to equal cluster sizes, and codewords can be moved by
//! mini-batches instead. Every method of the k-means family and the start of RQ-VAE use this.

use rayon::prelude::*;
use sidereal_core::{Error, Result};
use sidereal_nn::rng::Rng;

use crate::algebra::product::{squared_distance, squared_norm};
use crate::clustering::capacity::Balancing;
use crate::clustering::mini_batch;
use crate::clustering::seeding::seed_rows;
use crate::codebooks::nearest::NearestCodeword;
use crate::codebooks::search::SearchScratch;

/// Rows of one parallel block; fixed, so that results do not depend on the number of threads.
const BLOCK: usize = 2048;
const NOWHERE: u32 = u32::MAX;

/// What k-means is to do.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct KMeansOptions {
    /// K, 1 to 65,536.
    pub(crate) codes: usize,
    /// Most assignments of all rows.
    pub(crate) max_iterations: usize,
    /// Ends when an iteration lowers the error by less than this share.
    pub(crate) tolerance: f64,
    /// Keeps codewords at length 1.
    pub(crate) spherical: bool,
    /// Seeds are drawn from a sample of this many rows when there are more.
    pub(crate) seeding_rows: usize,
}

impl KMeansOptions {
    /// The settings that the methods of the k-means family share, checked.
    ///
    /// # Errors
    /// Names the key of the method.
    pub(crate) fn check(method: &str, max_iterations: usize, tolerance: f64, seeding_rows: usize) -> Result<()> {
        if max_iterations == 0 || max_iterations > 100_000 {
            let (key, problem) = (format!("{method}.max_iterations"), format!("{max_iterations} iterations"));
            return Err(Error::config(key, problem, "give 1 to 100000; 20 to 30 suffice"));
        }
        if !(0.0..1.0).contains(&tolerance) {
            let (key, problem) = (format!("{method}.tolerance"), format!("{tolerance} is not a share"));
            return Err(Error::config(key, problem, "give 0 or a small share such as 0.0001"));
        }
        if seeding_rows == 0 {
            let (key, problem) = (format!("{method}.seeding_rows_per_code"), "no rows to draw seeds from");
            return Err(Error::config(key, problem, "give 1 or more; 16 is usual"));
        }
        Ok(())
    }

    /// Rows that seeds are drawn from.
    pub(crate) fn seeding_rows(per_code: usize, codes: u32) -> usize {
        per_code.saturating_mul(codes as usize).max(16_384)
    }
}

/// How rows find their clusters while a codebook is fitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Iterations {
    /// Every row to its nearest codeword.
    Lloyd,
    /// Every cluster gets the same number of rows, one more or less, at the least total distance; seeds are any rows.
    Balanced,
    /// As Lloyd's, but codewords move after every batch of this many rows.
    MiniBatch {
        /// At least 1.
        rows: usize,
    },
}

/// A fitted codebook.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct KMeans {
    /// [K, d]; codewords from `used` on are copies of codeword 0, which wins every tie against them.
    pub(crate) codewords: Vec<f32>,
    /// Codewords that rows were there for.
    pub(crate) used: usize,
    /// Iterations run.
    pub(crate) iterations: usize,
    /// Mean squared distance of a row to its codeword, before the last step of means.
    pub(crate) error: f64,
}

/// Fits a codebook to rows; `watch(iteration, mean squared error)` is called after each iteration.
///
/// # Shapes
/// `rows`: [N, d], N >= 1
pub(crate) fn fit(
    rows: &[f32],
    width: usize,
    options: &KMeansOptions,
    rng: &mut Rng,
    watch: &mut dyn FnMut(usize, f64),
) -> KMeans {
    Clusters::seed(rows, width, options, rng).fit(rows, options, None, watch)
}

/// As [`fit`], with another way to assign rows.
pub(crate) fn fit_by(
    iterations: Iterations,
    rows: &[f32],
    width: usize,
    options: &KMeansOptions,
    rng: &mut Rng,
    watch: &mut dyn FnMut(usize, f64),
) -> KMeans {
    match iterations {
        Iterations::Lloyd => fit(rows, width, options, rng, watch),
        Iterations::Balanced => {
            // Far rows make good seeds for the least error, but nobody wants to share a cluster with them.
            let seeds = sample_rows(rows.len() / width, options.codes, rng);
            let mut codewords: Vec<f32> =
                seeds.iter().flat_map(|&i| &rows[i * width..(i + 1) * width]).copied().collect();
            codewords.resize(options.codes * width, 0.0);
            let clusters = Clusters::new(codewords, seeds.len(), width, rows.len() / width);
            clusters.fit(rows, options, Some(Balancing::default()), watch)
        }
        Iterations::MiniBatch { rows: batch } => {
            let mut clusters = Clusters::seed(rows, width, options, rng);
            mini_batch::move_codewords(&mut clusters.codewords, &clusters.used, rows, batch, options, rng, watch);
            // One step on all rows: it counts what is used, fills what is empty and tells the error.
            clusters.fit(rows, &KMeansOptions { max_iterations: 1, ..options.clone() }, None, &mut |_, _| {})
        }
    }
}

/// Lloyd's iterations from codewords that are there already, the first `used` of which are in use.
///
/// # Shapes
/// `rows`: [N, d]; `codewords`: [K, d]
pub(crate) fn fit_from(
    codewords: Vec<f32>,
    used: usize,
    rows: &[f32],
    width: usize,
    options: &KMeansOptions,
) -> KMeans {
    Clusters::new(codewords, used, width, rows.len() / width).fit(rows, options, None, &mut |_, _| {})
}

/// The state between iterations.
struct Clusters {
    width: usize,
    /// [K, d]
    codewords: Vec<f32>,
    /// `[K]`; a cluster is unused until a row is found for it.
    used: Vec<bool>,
    /// `[N]`
    assignment: Vec<u32>,
    /// [K, d]
    sums: Vec<f64>,
    /// `[K]`
    counts: Vec<u64>,
}

impl Clusters {
    fn seed(rows: &[f32], width: usize, options: &KMeansOptions, rng: &mut Rng) -> Self {
        let count = rows.len() / width;
        // As many candidates for a seed as scikit-learn takes.
        let trials = 2 + (options.codes as f64).ln() as usize;
        let mut codewords: Vec<f32> = if count > options.seeding_rows {
            let sample = sample_rows(count, options.seeding_rows, rng);
            let values: Vec<f32> = sample.iter().flat_map(|&i| &rows[i * width..(i + 1) * width]).copied().collect();
            let seeds = seed_rows(&values, width, options.codes, trials, rng);
            seeds.iter().flat_map(|&i| &values[i * width..(i + 1) * width]).copied().collect()
        } else {
            let seeds = seed_rows(rows, width, options.codes, trials, rng);
            seeds.iter().flat_map(|&i| &rows[i * width..(i + 1) * width]).copied().collect()
        };
        let seeded = codewords.len() / width;
        if options.spherical {
            for codeword in codewords.chunks_exact_mut(width) {
                normalise(codeword);
            }
        }
        codewords.resize(options.codes * width, 0.0);
        Self::new(codewords, seeded, width, count)
    }

    /// Clusters around codewords, without rows yet.
    fn new(codewords: Vec<f32>, used: usize, width: usize, count: usize) -> Self {
        let codes = codewords.len() / width;
        Self {
            width,
            used: (0..codes).map(|k| k < used).collect(),
            assignment: vec![NOWHERE; count],
            sums: vec![0.0; codewords.len()],
            counts: vec![0; codes],
            codewords,
        }
    }

    /// Assignments and means in turn.
    fn fit(
        mut self,
        rows: &[f32],
        options: &KMeansOptions,
        mut balancing: Option<Balancing>,
        watch: &mut dyn FnMut(usize, f64),
    ) -> KMeans {
        let total: f64 = rows.par_chunks(BLOCK * self.width).map(squared_norm).collect::<Vec<_>>().iter().sum();
        let (mut error, mut iterations) = (f64::INFINITY, 0);
        while iterations < options.max_iterations.max(1) {
            iterations += 1;
            let moved = self.assign(rows, balancing.as_mut());
            let refilled = self.refill(rows);
            let now = self.update(total, options.spherical);
            watch(iterations, now / self.assignment.len() as f64);
            let gained = error - now;
            error = now;
            if !refilled && (!moved || gained <= options.tolerance * now.max(f64::MIN_POSITIVE)) {
                break;
            }
        }
        let error = error / self.assignment.len() as f64;
        let (codewords, used) = self.into_codewords();
        KMeans { codewords, used, iterations, error }
    }

    /// Gives every row its nearest codeword, or under capacities the best one; says whether any changed.
    fn assign(&mut self, rows: &[f32], balancing: Option<&mut Balancing>) -> bool {
        let before = self.assignment.clone();
        if let Some(balancing) = balancing {
            self.assignment = balancing.assign(rows, self.width, &self.codewords, &self.used);
        } else {
            let search = NearestCodeword::with_unused(self.codewords.clone(), self.width, &self.used);
            let blocks = self.assignment.par_chunks_mut(BLOCK).zip(rows.par_chunks(BLOCK * self.width));
            blocks.for_each_init(SearchScratch::default, |scratch, (assignment, rows)| {
                search.search(rows, scratch, |row, code| assignment[row] = code.into());
            });
        }
        let now = &self.assignment;
        let changes: Vec<Change> = (0..now.len())
            .filter(|&row| now[row] != before[row])
            .map(|row| Change { row, from: before[row], to: now[row] })
            .collect();
        self.apply(rows, &changes);
        !changes.is_empty()
    }

    /// Moves rows between clusters: every cluster's sum takes its changes in the order given.
    fn apply(&mut self, rows: &[f32], changes: &[Change]) {
        let mut by_cluster: Vec<Vec<(usize, bool)>> = vec![Vec::new(); self.counts.len()];
        for change in changes {
            if change.from != NOWHERE {
                by_cluster[change.from as usize].push((change.row, false));
            }
            by_cluster[change.to as usize].push((change.row, true));
        }
        let width = self.width;
        let sums = self.sums.par_chunks_mut(width).zip(&mut self.counts);
        sums.zip(by_cluster).for_each(|((sum, count), changes)| {
            for (row, joins) in changes {
                let values = &rows[row * width..(row + 1) * width];
                if joins {
                    *count += 1;
                    sum.iter_mut().zip(values).for_each(|(s, &v)| *s += f64::from(v));
                } else {
                    *count -= 1;
                    sum.iter_mut().zip(values).for_each(|(s, &v)| *s -= f64::from(v));
                }
            }
        });
    }

    /// Gives each empty cluster the row that is farthest from its own codeword; says whether it did.
    fn refill(&mut self, rows: &[f32]) -> bool {
        let empty: Vec<u32> = (0..self.counts.len() as u32).filter(|&k| self.counts[k as usize] == 0).collect();
        if empty.is_empty() {
            return false;
        }
        let width = self.width;
        let row_of = |row: usize| &rows[row * width..(row + 1) * width];
        let mut far: Vec<(f64, usize)> = self
            .assignment
            .par_iter()
            .enumerate()
            .map(|(row, &code)| (squared_distance(row_of(row), &self.codewords[code as usize * width..][..width]), row))
            .filter(|&(distance, _)| distance > 0.0)
            .collect();
        far.par_sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let mut counts = self.counts.clone();
        let (mut changes, mut at_distance): (Vec<Change>, Vec<f64>) = (Vec::new(), Vec::new());
        for (distance, row) in far {
            let Some(&to) = empty.get(changes.len()) else { break };
            let from = self.assignment[row];
            // Equal rows have equal distances, and would only make equal codewords.
            let mut same = changes.iter().zip(&at_distance).rev().take_while(|(_, d)| **d == distance);
            // The last row of a cluster stays.
            if counts[from as usize] > 1 && !same.any(|(c, _)| row_of(c.row) == row_of(row)) {
                counts[from as usize] -= 1;
                changes.push(Change { row, from, to });
                at_distance.push(distance);
            }
        }
        for change in &changes {
            self.assignment[change.row] = change.to;
            self.used[change.to as usize] = true;
        }
        for &k in empty.iter().skip(changes.len()) {
            self.used[k as usize] = false;
        }
        self.apply(rows, &changes);
        !changes.is_empty()
    }

    /// Moves codewords to the means of their rows; answers the sum of squared distances to them.
    fn update(&mut self, total: f64, spherical: bool) -> f64 {
        let clusters = self.codewords.par_chunks_mut(self.width).zip(self.sums.par_chunks_mut(self.width));
        let gains: Vec<f64> = clusters
            .zip(&self.counts)
            .map(|((codeword, sum), &count)| {
                if count == 0 {
                    // What additions and subtractions left behind.
                    sum.fill(0.0);
                    return 0.0;
                }
                let length = sum.iter().map(|s| s * s).sum::<f64>().sqrt();
                let divisor = if spherical { length } else { count as f64 };
                if divisor > 0.0 {
                    codeword.iter_mut().zip(&*sum).for_each(|(c, s)| *c = (s / divisor) as f32);
                }
                let product: f64 = codeword.iter().zip(&*sum).map(|(&c, s)| f64::from(c) * s).sum();
                2.0 * product - count as f64 * squared_norm(codeword)
            })
            .collect();
        (total - gains.iter().sum::<f64>()).max(0.0)
    }

    /// Codewords in use first; the others become copies of the first.
    fn into_codewords(self) -> (Vec<f32>, usize) {
        let used: Vec<&[f32]> = self
            .codewords
            .chunks_exact(self.width)
            .zip(&self.used)
            .filter(|(_, used)| **used)
            .map(|(c, _)| c)
            .collect();
        let first = used.first().copied().unwrap_or(&self.codewords[..self.width]);
        let unused = self.counts.len() - used.len();
        let codewords = used.iter().copied().chain(std::iter::repeat_n(first, unused)).flatten().copied().collect();
        (codewords, used.len())
    }
}

struct Change {
    row: usize,
    from: u32,
    to: u32,
}

/// Scales a row to length 1; a zero row stays.
pub(crate) fn normalise(row: &mut [f32]) -> f64 {
    let length = squared_norm(row).sqrt();
    if length > 0.0 {
        row.iter_mut().for_each(|v| *v = (f64::from(*v) / length) as f32);
    }
    length
}

/// `wanted` different row numbers of `count`, ascending.
pub(crate) fn sample_rows(count: usize, wanted: usize, rng: &mut Rng) -> Vec<usize> {
    let mut all: Vec<usize> = (0..count).collect();
    for i in 0..wanted.min(count) {
        let j = i + rng.below(count - i);
        all.swap(i, j);
    }
    all.truncate(wanted);
    all.sort_unstable();
    all
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn options(codes: usize) -> KMeansOptions {
        KMeansOptions { codes, max_iterations: 50, tolerance: 0.0, spherical: false, seeding_rows: 10_000 }
    }

    fn fit_with(rows: &[f32], width: usize, options: &KMeansOptions, seed: u64) -> KMeans {
        fit(rows, width, options, &mut Rng::new(seed, "test"), &mut |_, _| {})
    }

    fn noise(count: usize, seed: u64) -> Vec<f32> {
        let mut rng = Rng::new(seed, "noise");
        (0..count).map(|_| rng.normal() as f32).collect()
    }

    #[test]
    fn well_separated_clusters_are_found() {
        let mut rows = noise(400 * 5, 1);
        for (i, row) in rows.chunks_exact_mut(5).enumerate() {
            row.iter_mut().for_each(|v| *v *= 0.01);
            row[i % 4] += 10.0;
        }
        let found = fit_with(&rows, 5, &options(4), 3);
        assert_eq!(found.used, 4);
        assert!(found.error < 5.0 * 1.2e-4, "{}", found.error);
        for axis in 0..4 {
            let near = found.codewords.chunks(5).filter(|c| (c[axis] - 10.0).abs() < 0.01).count();
            assert_eq!(near, 1);
        }
    }

    #[test]
    fn the_reported_error_is_that_of_the_codebook() {
        let rows = noise(600 * 7, 2);
        let found = fit_with(&rows, 7, &options(16), 4);
        let search = NearestCodeword::new(found.codewords.clone(), 7);
        let mut sum = 0.0;
        search.search(&rows, &mut Default::default(), |i, code| {
            sum += squared_distance(&rows[i * 7..(i + 1) * 7], search.codeword(code));
        });
        assert!((sum / 600.0 / found.error - 1.0).abs() < 1e-6, "{} and {}", sum / 600.0, found.error);
    }

    #[test]
    fn every_iteration_lowers_the_error() {
        let rows = noise(3000 * 6, 7);
        let mut errors = Vec::new();
        fit(&rows, 6, &options(32), &mut Rng::new(1, "test"), &mut |_, error| errors.push(error));
        assert!(errors.len() > 3);
        assert!(errors.windows(2).all(|w| w[1] <= w[0] * (1.0 + 1e-9)), "{errors:?}");
    }

    #[test]
    fn surplus_codewords_stay_unused_and_finite() {
        let rows = [1.0f32, 2.0, 1.0, 2.0, 4.0, 4.0, 1.0];
        for spherical in [false, true] {
            let found = fit_with(&rows, 1, &KMeansOptions { spherical, ..options(6) }, 9);
            assert!(found.codewords.iter().all(|v| v.is_finite()));
            assert_eq!(found.codewords.len(), 6);
            assert!(found.used <= 3);
            let search = NearestCodeword::new(found.codewords.clone(), 1);
            search.search(&rows, &mut Default::default(), |_, code| assert!(usize::from(code) < found.used));
        }
        let found = fit_with(&rows, 1, &options(6), 9);
        assert_eq!((found.used, found.error), (3, 0.0));
    }

    #[test]
    fn rows_outside_the_seeding_sample_refill_empty_clusters() {
        // The sample sees two distinct rows at most; the other eight can only come from refilling.
        let rows: Vec<f32> = (0..10).map(|v| v as f32).collect();
        let found = fit_with(&rows, 1, &KMeansOptions { seeding_rows: 2, ..options(10) }, 11);
        assert_eq!((found.used, found.error), (10, 0.0));
    }

    #[test]
    fn the_same_bytes_come_out_for_one_and_two_threads() {
        let rows = noise(5000 * 12, 3);
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| fit_with(&rows, 12, &KMeansOptions { seeding_rows: 1000, ..options(64) }, 5))
        };
        assert_eq!(run(1), run(2));
    }

    #[test]
    fn every_way_to_iterate_gives_the_same_bytes_for_one_and_two_threads() {
        let rows = noise(3000 * 6, 3);
        for iterations in [Iterations::Balanced, Iterations::MiniBatch { rows: 700 }] {
            let run = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let mut rng = Rng::new(1, "test");
                pool.install(|| fit_by(iterations, &rows, 6, &options(20), &mut rng, &mut |_, _| {}))
            };
            assert_eq!(run(1), run(2), "{iterations:?}");
        }
    }

    #[test]
    fn balanced_iterations_lower_the_error_and_even_out_the_nearest_codes() {
        // A dense heap and a thin cloud: plain k-means spends most codewords on the cloud.
        let mut rows = noise(2000 * 4, 12);
        rows[..1500 * 4].iter_mut().for_each(|v| *v *= 0.05);
        let sizes = |iterations| {
            let mut errors = Vec::new();
            let mut rng = Rng::new(1, "test");
            let found = fit_by(iterations, &rows, 4, &options(16), &mut rng, &mut |_, e| errors.push(e));
            assert!(errors.windows(2).all(|w| w[1] <= w[0] * (1.0 + 1e-6)), "{iterations:?}: {errors:?}");
            let mut sizes = [0f64; 16];
            let search = NearestCodeword::new(found.codewords, 4);
            search.search(&rows, &mut Default::default(), |_, code| sizes[usize::from(code)] += 1.0);
            sizes.iter().map(|n| (n - 125.0).powi(2)).sum::<f64>()
        };
        assert!(sizes(Iterations::Balanced) < 0.5 * sizes(Iterations::Lloyd));
    }

    #[test]
    fn mini_batches_come_close_to_the_error_of_all_rows() {
        let mut rows = noise(6000 * 5, 13);
        for (i, row) in rows.chunks_exact_mut(5).enumerate() {
            row.iter_mut().for_each(|v| *v *= 0.3);
            row[i % 5] += 2.0 + (i % 4) as f32;
        }
        let error =
            |iterations| fit_by(iterations, &rows, 5, &options(40), &mut Rng::new(2, "test"), &mut |_, _| {}).error;
        let (all, batches) = (error(Iterations::Lloyd), error(Iterations::MiniBatch { rows: 500 }));
        assert!(batches < 1.06 * all, "{batches} and {all}");
        // A batch of more rows than there are is all of them.
        assert!(error(Iterations::MiniBatch { rows: 1 << 40 }) < 1.06 * all);
    }

    #[test]
    fn no_way_to_iterate_fails_on_few_or_equal_rows() {
        for iterations in [Iterations::Lloyd, Iterations::Balanced, Iterations::MiniBatch { rows: 2 }] {
            for rows in [vec![3.0f32; 2], vec![1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 2.0, 1.0], vec![0.0; 40]] {
                let found = fit_by(iterations, &rows, 2, &options(6), &mut Rng::new(1, "test"), &mut |_, _| {});
                assert!(found.codewords.iter().all(|v| v.is_finite()), "{iterations:?}");
                assert_eq!(found.codewords.len(), 12);
            }
        }
    }

    #[test]
    fn a_fit_that_goes_on_from_a_codebook_only_improves_it() {
        let rows = noise(800 * 3, 6);
        let short = fit_with(&rows, 3, &KMeansOptions { max_iterations: 2, ..options(12) }, 1);
        let longer = fit_from(short.codewords, short.used, &rows, 3, &options(12));
        assert!(longer.error < short.error);
    }

    #[test]
    fn spherical_codewords_have_length_one() {
        let rows = noise(500 * 4, 8);
        let found = fit_with(&rows, 4, &KMeansOptions { spherical: true, ..options(8) }, 5);
        for codeword in found.codewords.chunks(4) {
            assert!((squared_norm(codeword) - 1.0).abs() < 1e-6);
        }
    }
}
