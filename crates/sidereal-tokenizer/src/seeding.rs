//! k-means++ seeding by rejection: the exact distribution, at the speed of a matrix product.
//!
//! k-means++ (Arthur and Vassilvitskii, SODA 2007, section 2.2) draws each next centre with probability proportional to
//! the squared distance to the centres so far. Taken literally, that reads the whole matrix once a centre. Here a batch
//! of candidates is drawn from the distribution as it stands, their distances to all rows come from one product, and
//! then each candidate in turn is kept with probability (its squared distance by now) / (the one it was drawn with).
//! Rejection sampling makes the kept ones follow the distribution of the one-by-one procedure.

use rayon::prelude::*;
use sidereal_nn::rng::Rng;

use crate::product::{product, squared_distance, squared_norm, transposed};

/// Most candidates in a batch.
const BATCH: usize = 32;
/// Rows of one parallel block; fixed, so that results do not depend on the number of threads.
const BLOCK: usize = 512;

/// Draws up to `centres` rows; fewer when there are fewer distinct rows.
///
/// # Shapes
/// `rows`: [M, d]; the answer holds row numbers.
pub(crate) fn seed_rows(rows: &[f32], width: usize, centres: usize, rng: &mut Rng) -> Vec<usize> {
    let count = rows.len() / width;
    if count == 0 || centres == 0 {
        return Vec::new();
    }
    let row = |i: usize| &rows[i * width..(i + 1) * width];
    let norms: Vec<f64> = rows.par_chunks(width).map(squared_norm).collect();
    let mut chosen = vec![rng.below(count)];
    let first = row(chosen[0]);
    let mut distances: Vec<f64> = rows.par_chunks(width).map(|r| squared_distance(r, first)).collect();
    let mut batch = 1;
    while chosen.len() < centres {
        let sums: Vec<f64> = distances
            .iter()
            .scan(0.0, |sum, d| {
                *sum += d;
                Some(*sum)
            })
            .collect();
        let total = sums[count - 1];
        if total <= 0.0 {
            break;
        }
        let wanted = batch.min(centres - chosen.len());
        let drawn: Vec<usize> = (0..wanted)
            .map(|_| {
                let at = rng.uniform() * total;
                let i = sums.partition_point(|&sum| sum <= at).min(count - 1);
                // Rounding can land behind the last row of positive distance.
                if distances[i] > 0.0 { i } else { distances.iter().rposition(|&d| d > 0.0).unwrap_or(i) }
            })
            .collect();
        let kept = keep(&drawn, &distances, |a, b| squared_distance(row(a), row(b)), rng);
        shorten(rows, width, &norms, &kept, &mut distances);
        chosen.extend(&kept);
        batch = (batch * 2).min(BATCH);
    }
    chosen
}

/// Goes through the candidates in turn and rejects those that earlier ones of the batch have made less likely.
fn keep(drawn: &[usize], distances: &[f64], between: impl Fn(usize, usize) -> f64, rng: &mut Rng) -> Vec<usize> {
    let mut kept: Vec<usize> = Vec::with_capacity(drawn.len());
    for &candidate in drawn {
        let before = distances[candidate];
        let now = kept.iter().map(|&k| between(k, candidate)).fold(before, f64::min);
        // One number is drawn for every candidate, so that the stream does not depend on the data.
        if rng.uniform() * before < now {
            kept.push(candidate);
        }
    }
    kept
}

/// Lowers every row's distance to that of the nearest of `centres`.
fn shorten(rows: &[f32], width: usize, norms: &[f64], centres: &[usize], distances: &mut [f64]) {
    let packed: Vec<f32> = centres.iter().flat_map(|&c| &rows[c * width..(c + 1) * width]).copied().collect(); // [C, d]
    let columns = transposed(&packed, width); // [d, C]
    let blocks = rows.par_chunks(BLOCK * width).zip(norms.par_chunks(BLOCK)).zip(distances.par_chunks_mut(BLOCK));
    blocks.for_each(|((rows, row_norms), distances)| {
        let mut products = vec![0f32; row_norms.len() * centres.len()];
        product(rows, width, &columns, centres.len(), &mut products); // [block, C]
        let lines = rows.chunks_exact(width).zip(products.chunks_exact(centres.len()));
        for ((row, products), (&row_norm, distance)) in lines.zip(row_norms.iter().zip(distances)) {
            for ((&dot, &centre), packed) in products.iter().zip(centres).zip(packed.chunks_exact(width)) {
                let scale = row_norm + norms[centre];
                let quick = scale - 2.0 * f64::from(dot);
                // Where the two nearly cancel (or left the range of f32), the product's rounding would show.
                let other = if quick > 1e-3 * scale { quick } else { squared_distance(row, packed) };
                *distance = distance.min(other);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_distinct_row_is_drawn_once_when_there_are_few() {
        let rows = [0.0f32, 1.0, 0.0, 1.0, 5.0, 5.0, 5.0, 0.0];
        for seed in 0..20 {
            let chosen = seed_rows(&rows, 1, 8, &mut Rng::new(seed, "test"));
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
            let chosen = seed_rows(&rows, 1, 3, &mut rng);
            let mut set = [chosen[0], chosen[1], chosen[2]];
            set.sort_unstable();
            *seen.entry(set).or_insert(0.0) += 1.0 / f64::from(draws);
        }
        for (set, p) in exact {
            let q = seen.get(&set).copied().unwrap_or(0.0);
            assert!((p - q).abs() < 0.015, "{set:?}: {q} drawn, {p} expected");
        }
    }
}
