//! Mini-batch k-means: codewords move after every batch, so that few passes over many rows suffice.
//!
//! Sculley, *Web-scale k-means clustering*, WWW 2010: a codeword is the mean of all rows that it was ever given, so each
//! batch moves it less than the one before. *Differs from the paper*: rows are drawn without replacement, pass by pass,
//! and a batch's rows are summed before they are added, in f64 and in row order.

use rayon::prelude::*;
use sidereal_nn::rng::Rng;

use crate::algebra::product::squared_distance;
use crate::clustering::kmeans::{KMeansOptions, normalise};
use crate::codebooks::nearest::NearestCodeword;
use crate::codebooks::search::SearchScratch;

/// Rows of one parallel block; fixed, so that results do not depend on the number of threads.
const BLOCK: usize = 512;

/// Moves the codewords in use; an iteration is a pass over all rows, and `watch(pass, mean squared error)` is told the
/// error that batches had before they moved anything.
///
/// # Shapes
/// `codewords`: [K, d]; `used`: `[K]`; `rows`: [N, d]
pub(crate) fn move_codewords(
    codewords: &mut [f32],
    used: &[bool],
    rows: &[f32],
    batch: usize,
    options: &KMeansOptions,
    rng: &mut Rng,
    watch: &mut dyn FnMut(usize, f64),
) {
    let width = codewords.len() / used.len();
    let mut order: Vec<usize> = (0..rows.len() / width).collect();
    let mut weights = vec![0u64; used.len()];
    let mut last = f64::INFINITY;
    for pass in 1..=options.max_iterations {
        shuffle(&mut order, rng);
        let mut error = 0.0;
        for batch in order.chunks(batch.max(1)) {
            error += step(codewords, used, rows, batch, &mut weights, options.spherical);
        }
        let error = error / order.len().max(1) as f64;
        watch(pass, error);
        if last - error <= options.tolerance * error.max(f64::MIN_POSITIVE) {
            break;
        }
        last = error;
    }
}

/// One batch; answers the sum of squared distances of its rows before codewords moved.
fn step(
    codewords: &mut [f32],
    used: &[bool],
    rows: &[f32],
    batch: &[usize],
    weights: &mut [u64],
    spherical: bool,
) -> f64 {
    let width = codewords.len() / used.len();
    let values: Vec<f32> = batch.iter().flat_map(|&i| &rows[i * width..(i + 1) * width]).copied().collect();
    let search = NearestCodeword::with_unused(codewords.to_vec(), width, used);
    let mut found = vec![(0u16, 0f64); batch.len()];
    let blocks = found.par_chunks_mut(BLOCK).zip(values.par_chunks(BLOCK * width));
    blocks.for_each_init(SearchScratch::default, |scratch, (found, rows)| {
        search.search(rows, scratch, |row, code| {
            let distance = squared_distance(&rows[row * width..(row + 1) * width], search.codeword(code));
            found[row] = (code, distance);
        });
    });
    let mut members: Vec<Vec<usize>> = vec![Vec::new(); used.len()];
    found.iter().enumerate().for_each(|(row, &(code, _))| members[usize::from(code)].push(row));
    let clusters = codewords.par_chunks_mut(width).zip(weights).zip(members);
    clusters.filter(|(_, rows)| !rows.is_empty()).for_each(|((codeword, weight), rows)| {
        let before = *weight as f64;
        *weight += rows.len() as u64;
        let mut sum: Vec<f64> = codeword.iter().map(|&c| f64::from(c) * before).collect();
        for row in rows {
            sum.iter_mut().zip(&values[row * width..]).for_each(|(s, &v)| *s += f64::from(v));
        }
        codeword.iter_mut().zip(&sum).for_each(|(c, s)| *c = (s / *weight as f64) as f32);
        if spherical {
            normalise(codeword);
        }
    });
    found.iter().map(|(_, distance)| distance).sum()
}

fn shuffle(order: &mut [usize], rng: &mut Rng) {
    for i in (1..order.len()).rev() {
        order.swap(i, rng.below(i + 1));
    }
}
