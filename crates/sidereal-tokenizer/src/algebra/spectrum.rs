//! The leading eigenvectors of a large symmetric matrix that is only known by its products.
//!
//! Randomised subspace iteration (Halko, Martinsson and Tropp, SIAM Review 2011, algorithm 4.4) with Rayleigh and
//! Ritz's step at the end. The start is drawn from a seed, sums of inner products are in f64 and in a fixed order, so
//! the result has the same bytes for any number of threads. Matrices of at most 128 rows are decomposed exactly.

use rayon::prelude::*;

use sidereal_core::Result;
use sidereal_nn::rng::Rng;

use crate::algebra::linear_algebra::{cross_product, symmetric_eigen};
use crate::algebra::product::product;

/// Rows that are multiplied at a time; fixed, so that results do not depend on the number of threads.
const BLOCK: usize = 1024;
/// Rows up to which the matrix is written out.
const DENSE: usize = 128;
/// Directions weaker than this share of the strongest (in squares) are rounding.
const NEGLIGIBLE: f64 = 1e-10;

/// How far to go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    /// Eigenvectors wanted.
    pub(crate) count: usize,
    /// Directions carried beside them; they speed up convergence.
    pub(crate) surplus: usize,
    /// Products with the matrix.
    pub(crate) iterations: usize,
}

/// The largest eigenvalues of a positive semidefinite matrix [n, n] and, in columns, their eigenvectors; columns past
/// the matrix's rank are 0. `apply` multiplies the matrix with a block [n, w].
///
/// # Errors
/// Products that are not finite.
///
/// # Shapes
/// to `[count]` and [n, count]
pub(crate) fn leading_eigenpairs(
    apply: &dyn Fn(&[f32], usize) -> Vec<f32>,
    n: usize,
    effort: Effort,
    rng: &mut Rng,
) -> Result<(Vec<f64>, Vec<f32>)> {
    let count = effort.count;
    let (values, vectors, width) = if n <= DENSE { exact(apply, n)? } else { iterated(apply, n, effort, rng)? };
    let kept = width.min(count);
    let mut columns = vec![0f32; n * count];
    for (to, from) in columns.chunks_exact_mut(count).zip(vectors.chunks_exact(width)) {
        to[..kept].copy_from_slice(&from[..kept]);
    }
    fix_signs(&mut columns, count);
    let mut sorted = vec![0.0; count];
    sorted[..kept].copy_from_slice(&values[..kept]);
    Ok((sorted, columns))
}

type Pairs = (Vec<f64>, Vec<f32>, usize);

fn exact(apply: &dyn Fn(&[f32], usize) -> Vec<f32>, n: usize) -> Result<Pairs> {
    let mut identity = vec![0f32; n * n];
    identity.iter_mut().step_by(n + 1).for_each(|v| *v = 1.0);
    let (values, vectors) = symmetric_eigen(&symmetrised(&apply(&identity, n), n), n)?;
    let columns = (0..n * n).map(|at| vectors[at % n * n + at / n] as f32).collect();
    Ok((values, columns, n))
}

fn iterated(apply: &dyn Fn(&[f32], usize) -> Vec<f32>, n: usize, effort: Effort, rng: &mut Rng) -> Result<Pairs> {
    let width = (effort.count + effort.surplus).min(n);
    let mut basis: Vec<f32> = (0..n * width).map(|_| rng.normal() as f32).collect();
    for _ in 0..effort.iterations {
        basis = orthonormal(&apply(&basis, width), width)?;
    }
    let image = apply(&basis, width);
    let projected = cross_product(&basis, width, &image, width);
    let mirrored = |at: usize| 0.5 * (projected[at] + projected[at % width * width + at / width]);
    let symmetric: Vec<f64> = (0..width * width).map(mirrored).collect();
    let (values, vectors) = symmetric_eigen(&symmetric, width)?;
    let turn: Vec<f32> = (0..width * width).map(|at| vectors[at % width * width + at / width] as f32).collect();
    Ok((values, times(&basis, width, &turn), width))
}

/// An orthonormal basis of the columns' span, [n, w]; columns that it does not need are 0.
fn orthonormal(columns: &[f32], width: usize) -> Result<Vec<f32>> {
    let (values, vectors) = symmetric_eigen(&cross_product(columns, width, columns, width), width)?;
    let limit = values.first().copied().unwrap_or(0.0) * NEGLIGIBLE;
    let turn: Vec<f32> = (0..width * width)
        .map(|at| {
            let (from, to) = (at / width, at % width);
            let value = values[to];
            if value > limit && value > 0.0 { (vectors[to * width + from] / value.sqrt()) as f32 } else { 0.0 }
        })
        .collect();
    Ok(times(columns, width, &turn))
}

/// [n, w] times [w, w].
fn times(rows: &[f32], width: usize, matrix: &[f32]) -> Vec<f32> {
    let mut out = vec![0f32; rows.len()];
    let blocks = out.par_chunks_mut(BLOCK * width).zip(rows.par_chunks(BLOCK * width));
    blocks.for_each(|(out, rows)| product(rows, width, matrix, width, out));
    out
}

fn symmetrised(matrix: &[f32], n: usize) -> Vec<f64> {
    (0..n * n).map(|at| 0.5 * (f64::from(matrix[at]) + f64::from(matrix[at % n * n + at / n]))).collect()
}

/// Makes the largest component of every column positive.
fn fix_signs(columns: &mut [f32], width: usize) {
    for column in 0..width {
        let values = columns.iter().skip(column).step_by(width);
        let largest = values.fold(0f32, |most, &v| if v.abs() > most.abs() { v } else { most });
        if largest < 0.0 {
            columns.iter_mut().skip(column).step_by(width).for_each(|v| *v = -*v);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn iterated_eigenvectors_equal_the_exact_ones() {
        // A matrix with a clear gap: random rank 6 plus a little of everything.
        let (n, rank) = (300, 6);
        let mut rng = Rng::new(1, "matrix");
        let factors: Vec<f32> = (0..n * rank).map(|at| (rng.normal() * f64::from(1 << (at % rank))) as f32).collect();
        let mut dense = vec![0f32; n * n];
        for i in 0..n {
            for j in 0..n {
                dense[i * n + j] = (0..rank).map(|r| factors[i * rank + r] * factors[j * rank + r]).sum();
            }
            dense[i * n + i] += 1.0;
        }
        let apply = |block: &[f32], width: usize| {
            let mut out = vec![0f32; block.len()];
            product(&dense, n, block, width, &mut out);
            out
        };
        let effort = Effort { count: 5, surplus: 4, iterations: 20 };
        let (values, vectors) = leading_eigenpairs(&apply, n, effort, &mut Rng::new(2, "start")).unwrap();
        let (want, rows) = symmetric_eigen(&symmetrised(&dense, n), n).unwrap();
        for k in 0..5 {
            assert!((values[k] / want[k] - 1.0).abs() < 1e-4, "{values:?}");
            let cosine: f64 = (0..n).map(|i| f64::from(vectors[i * 5 + k]) * rows[k * n + i]).sum();
            assert!(cosine > 0.9999, "{k}: {cosine}");
        }
    }

    #[test]
    fn small_and_deficient_matrices_give_zeros_past_their_rank() {
        let apply = |block: &[f32], width: usize| {
            let sums: Vec<f32> = (0..width).map(|c| block.iter().skip(c).step_by(width).sum()).collect();
            block.chunks(width).flat_map(|_| sums.clone()).collect()
        };
        for n in [1, 3, 200] {
            let effort = Effort { count: 4, surplus: 2, iterations: 5 };
            let (values, vectors) = leading_eigenpairs(&apply, n, effort, &mut Rng::new(2, "start")).unwrap();
            assert!((values[0] / n as f64 - 1.0).abs() < 1e-4, "{values:?}");
            assert!(values[1..].iter().all(|v| v.abs() < 1e-3), "{values:?}");
            assert!(vectors.iter().step_by(4).all(|v| (f64::from(*v) - (n as f64).sqrt().recip()).abs() < 1e-4));
        }
    }
}
