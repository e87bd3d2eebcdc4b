//! Greedy k-means++ seeding by rejection: the exact distribution, at the speed of a matrix product.
//!
//! k-means++ (Arthur and Vassilvitskii, SODA 2007, section 2.2) draws each next centre with probability proportional
//! to the squared distance to the centres so far; its greedy form draws 2 + ln K candidates and takes the one that
//! lowers the sum of squared distances most, which misses far fewer clusters. Taken literally, both read the whole
//! matrix once a centre. Here a batch of candidates is drawn from the distribution as it stands, and one product gives
//! their distances to all rows. Then each candidate in turn is kept with probability (its squared distance by now) /
//! (the one it was drawn with): rejection sampling makes the kept ones follow the distribution of the one-by-one
//! procedure.

use rayon::prelude::*;
use sidereal_nn::rng::Rng;

use crate::algebra::product::{product, squared_distance, squared_norm, transposed};

/// Most candidates in a batch.
const BATCH: usize = 64;
/// Rows of one parallel block; fixed, so that results do not depend on the number of threads.
const BLOCK: usize = 512;

/// Draws up to `centres` rows; fewer when there are fewer distinct rows. With `trials` of 1 this is plain k-means++.
///
/// # Shapes
/// `rows`: [M, d]; the answer holds row numbers.
pub(crate) fn seed_rows(rows: &[f32], width: usize, centres: usize, trials: usize, rng: &mut Rng) -> Vec<usize> {
    let count = rows.len() / width;
    if count == 0 || centres == 0 {
        return Vec::new();
    }
    let norms: Vec<f64> = rows.par_chunks(width).map(squared_norm).collect();
    let mut chosen = vec![rng.below(count)];
    let first = &rows[chosen[0] * width..][..width];
    let mut distances: Vec<f64> = rows.par_chunks(width).map(|row| squared_distance(row, first)).collect();
    let mut batch = trials;
    while chosen.len() < centres {
        let drawn = draw(&distances, batch.min((centres - chosen.len()).saturating_mul(trials)), rng);
        if drawn.is_empty() {
            break;
        }
        let candidates: Vec<usize> = drawn.iter().map(|&(row, _)| row).collect();
        let to_candidates = distances_to(rows, width, &norms, &candidates); // [M, C]
        let mut group = Vec::new();
        for (c, &(row, before)) in drawn.iter().enumerate() {
            // One number is drawn for every candidate, so that the stream does not depend on the data.
            if rng.uniform() * before < distances[row] {
                group.push(c);
            }
            let complete = group.len() == trials || c + 1 == drawn.len();
            if complete && !group.is_empty() && chosen.len() < centres {
                chosen.push(candidates[take_best(&mut distances, &to_candidates, candidates.len(), &group)]);
                group.clear();
            }
        }
        batch = (batch * 2).min(BATCH.max(trials));
    }
    chosen
}

/// Candidates by squared distance, each with the distance that it was drawn with; none when all distances are 0.
fn draw(distances: &[f64], wanted: usize, rng: &mut Rng) -> Vec<(usize, f64)> {
    let mut total = 0.0;
    let sums: Vec<f64> = distances
        .iter()
        .map(|d| {
            total += d;
            total
        })
        .collect();
    let Some(last) = distances.iter().rposition(|&d| d > 0.0) else { return Vec::new() };
    let mut one = || {
        let at = rng.uniform() * total;
        // Rounding can land behind the last row of positive distance.
        let row = sums.partition_point(|&sum| sum <= at).min(last);
        (row, distances[row])
    };
    (0..wanted).map(|_| one()).collect()
}

/// Squared distances of all rows to the candidates, [M, C].
fn distances_to(rows: &[f32], width: usize, norms: &[f64], candidates: &[usize]) -> Vec<f64> {
    let row = |&c: &usize| &rows[c * width..(c + 1) * width];
    let packed: Vec<f32> = candidates.iter().flat_map(row).copied().collect(); // [C, d]
    let columns = transposed(&packed, width); // [d, C]
    let count = candidates.len();
    let mut out = vec![0f64; norms.len() * count];
    let blocks = rows.par_chunks(BLOCK * width).zip(norms.par_chunks(BLOCK)).zip(out.par_chunks_mut(BLOCK * count));
    blocks.for_each_init(Vec::new, |products, ((rows, row_norms), out)| {
        products.resize(row_norms.len() * count, 0f32);
        product(rows, width, &columns, count, products); // [block, C]
        let lines = rows.chunks_exact(width).zip(products.chunks_exact(count)).zip(row_norms);
        for (((row, products), &row_norm), out) in lines.zip(out.chunks_exact_mut(count)) {
            for (c, (out, &dot)) in out.iter_mut().zip(products).enumerate() {
                let scale = row_norm + norms[candidates[c]];
                let quick = scale - 2.0 * f64::from(dot);
                // Where the two nearly cancel (or left the range of f32), the product's rounding would show.
                let exact = || squared_distance(row, &packed[c * width..(c + 1) * width]);
                *out = if quick > 1e-3 * scale { quick } else { exact() };
            }
        }
    });
    out
}

/// The candidate of a group that lowers the sum of distances most; lowers the distances accordingly.
fn take_best(distances: &mut [f64], to_candidates: &[f64], count: usize, group: &[usize]) -> usize {
    let partial: Vec<Vec<f64>> = distances
        .par_chunks(BLOCK)
        .zip(to_candidates.par_chunks(BLOCK * count))
        .map(|(distances, lines)| {
            let mut sums = vec![0f64; group.len()];
            for (&distance, line) in distances.iter().zip(lines.chunks_exact(count)) {
                sums.iter_mut().zip(group).for_each(|(sum, &c)| *sum += distance.min(line[c]));
            }
            sums
        })
        .collect();
    let mut best = (f64::INFINITY, group[0]);
    for (g, &c) in group.iter().enumerate() {
        let sum: f64 = partial.iter().map(|sums| sums[g]).sum();
        if sum < best.0 {
            best = (sum, c);
        }
    }
    distances.iter_mut().zip(to_candidates.chunks_exact(count)).for_each(|(d, line)| *d = d.min(line[best.1]));
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_distinct_row_is_drawn_once_when_there_are_few() {
        let rows = [0.0f32, 1.0, 0.0, 1.0, 5.0, 5.0, 5.0, 0.0];
        for seed in 0..20 {
            let chosen = seed_rows(&rows, 1, 8, 3, &mut Rng::new(seed, "test"));
            let mut values: Vec<f32> = chosen.iter().map(|&i| rows[i]).collect();
            values.sort_by(f32::total_cmp);
            assert_eq!(values, [0.0, 1.0, 5.0]);
        }
    }

    #[test]
    fn rejection_draws_from_the_distribution_of_the_one_by_one_procedure() {
        // Second and third centre given the first, on four points of a line, against the exact probabilities.
        let rows = [0.0f32, 1.0, 3.0, 7.0];
        let mut exact = std::collections::BTreeMap::new();
        let d = |a: usize, b: usize| f64::from(rows[a] - rows[b]).powi(2);
        for a in 0..4 {
            let second: f64 = (0..4).map(|i| d(a, i)).sum();
            for b in (0..4).filter(|&b| b != a) {
                let third: f64 = (0..4).map(|i| d(a, i).min(d(b, i))).sum();
                for c in (0..4).filter(|&c| c != a && c != b) {
                    let p = 0.25 * d(a, b) / second * d(a, c).min(d(b, c)) / third;
                    let mut set = [a, b, c];
                    set.sort_unstable();
                    *exact.entry(set).or_insert(0.0) += p;
                }
            }
        }
        let draws = 20_000;
        let mut rng = Rng::new(5, "test");
        let mut seen = std::collections::BTreeMap::new();
        for _ in 0..draws {
            let chosen = seed_rows(&rows, 1, 3, 1, &mut rng);
            let mut set = [chosen[0], chosen[1], chosen[2]];
            set.sort_unstable();
            *seen.entry(set).or_insert(0.0) += 1.0 / f64::from(draws);
        }
        for (set, p) in exact {
            let q = seen.get(&set).copied().unwrap_or(0.0);
            assert!((p - q).abs() < 0.015, "{set:?}: {q} drawn, {p} expected");
        }
    }

    #[test]
    fn greedy_seeds_miss_fewer_clusters_than_plain_ones() {
        // 40 clusters on a line; a missed cluster costs a squared gap.
        let rows: Vec<f32> = (0..400).map(|i| (i % 40) as f32 * 100.0 + (i / 40) as f32 * 0.1).collect();
        let missed = |trials: usize| -> usize {
            let one = |seed| {
                let chosen = seed_rows(&rows, 1, 40, trials, &mut Rng::new(seed, "test"));
                let mut found: Vec<usize> = chosen.iter().map(|&i| i % 40).collect();
                found.sort_unstable();
                found.dedup();
                40 - found.len()
            };
            (0..10).map(one).sum()
        };
        assert!(missed(6) <= missed(1), "{} and {}", missed(6), missed(1));
        assert!(missed(6) <= 2, "{}", missed(6));
    }
}
