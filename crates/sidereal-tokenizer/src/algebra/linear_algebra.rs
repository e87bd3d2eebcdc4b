//! The few decompositions that methods need: in f64, by `faer`, on the calling thread, so that bytes do not depend on
//! the number of threads.

use faer::linalg::solvers::Solve;
use faer::{Mat, MatRef, Side};
use rayon::prelude::*;

use sidereal_core::{Error, Result};

/// Rows that are summed at a time; fixed, so that sums do not depend on the number of threads.
const BLOCK: usize = 1024;
/// Columns of `a` whose products one thread takes.
const PANEL: usize = 64;

/// The sum of outer products of the rows of two matrices, in f64: A^T B.
///
/// # Shapes
/// `a`: [N, P]; `b`: [N, Q]; the answer: [P, Q]
pub(crate) fn cross_product(a: &[f32], a_width: usize, b: &[f32], b_width: usize) -> Vec<f64> {
    let mut out = vec![0f64; a_width * b_width];
    out.par_chunks_mut(PANEL * b_width).enumerate().for_each(|(panel, out)| {
        let first = panel * PANEL;
        let columns = out.len() / b_width;
        let (mut left, mut right) = (Vec::new(), Vec::new());
        for (a, b) in a.chunks(BLOCK * a_width).zip(b.chunks(BLOCK * b_width)) {
            left.clear();
            right.clear();
            left.extend(a.chunks_exact(a_width).flat_map(|row| &row[first..first + columns]).map(|&v| f64::from(v)));
            right.extend(b.iter().map(|&v| f64::from(v)));
            let rows = left.len() / columns;
            let left = MatRef::from_row_major_slice(&left, rows, columns);
            let right = MatRef::from_row_major_slice(&right, rows, b_width);
            let sum = faer::MatMut::from_row_major_slice_mut(out, columns, b_width);
            faer::linalg::matmul::matmul(sum, faer::Accum::Add, left.transpose(), right, 1.0, faer::Par::Seq);
        }
    });
    out
}

/// Eigenvalues of a symmetric matrix, largest first, and the eigenvector of each, a row each. The sign of a vector is
/// such that its largest component is positive.
///
/// # Errors
/// Values that are not finite.
///
/// # Shapes
/// [n, n] to `[n]` and [n, n]
pub(crate) fn symmetric_eigen(matrix: &[f64], n: usize) -> Result<(Vec<f64>, Vec<f64>)> {
    check_finite(matrix, "eigenvalues")?;
    let decomposed = MatRef::from_row_major_slice(matrix, n, n).self_adjoint_eigen(Side::Lower);
    let decomposed = decomposed.map_err(|_| no_decomposition("eigenvalues"))?;
    let (values, vectors) = (decomposed.S().column_vector(), decomposed.U());
    let (mut sorted, mut rows) = (Vec::with_capacity(n), Vec::with_capacity(n * n));
    for at in (0..n).rev() {
        sorted.push(values[at]);
        let largest =
            (0..n).map(|i| vectors[(i, at)]).fold(0f64, |most, v| if v.abs() > most.abs() { v } else { most });
        let sign = if largest < 0.0 { -1.0 } else { 1.0 };
        rows.extend((0..n).map(|i| sign * vectors[(i, at)]));
    }
    Ok((sorted, rows))
}

/// The orthogonal matrix R for which X R is nearest to Y, given X^T Y (Schönemann, Psychometrika 1966): U V^T of its
/// singular vectors.
///
/// # Errors
/// Values that are not finite.
///
/// # Shapes
/// [n, n] to [n, n]
pub(crate) fn procrustes(cross: &[f64], n: usize) -> Result<Vec<f64>> {
    check_finite(cross, "singular values")?;
    let decomposed = MatRef::from_row_major_slice(cross, n, n).thin_svd();
    let decomposed = decomposed.map_err(|_| no_decomposition("singular values"))?;
    let rotation: Mat<f64> = decomposed.U() * decomposed.V().transpose();
    Ok((0..n).flat_map(|i| (0..n).map(move |j| (i, j))).map(|at| rotation[at]).collect())
}

/// The matrix W that makes |X W - Y|^2 + penalty |W|^2 least, given X^T X and X^T Y.
///
/// # Errors
/// Values that are not finite; a penalty too small for columns that depend on each other.
///
/// # Shapes
/// `xx`: [n, n]; `xy`: [n, m]; the answer: [n, m]
pub(crate) fn ridge(xx: &[f64], n: usize, xy: &[f64], m: usize, penalty: f64) -> Result<Vec<f64>> {
    check_finite(xx, "linear map")?;
    check_finite(xy, "linear map")?;
    let mut damped = MatRef::from_row_major_slice(xx, n, n).to_owned();
    (0..n).for_each(|i| damped[(i, i)] += penalty);
    let decomposed = damped.llt(Side::Lower).map_err(|_| no_decomposition("linear map"))?;
    let solved: Mat<f64> = decomposed.solve(MatRef::from_row_major_slice(xy, n, m));
    let solved: Vec<f64> = (0..n).flat_map(|i| (0..m).map(move |j| (i, j))).map(|at| solved[at]).collect();
    check_finite(&solved, "linear map")?;
    Ok(solved)
}

fn check_finite(matrix: &[f64], what: &str) -> Result<()> {
    if matrix.iter().all(|v| v.is_finite()) { Ok(()) } else { Err(no_decomposition(what)) }
}

fn no_decomposition(what: &str) -> Error {
    let mend = "check the embeddings for extreme values, or standardise them first";
    Error::input("embeddings", format!("their {what} cannot be found"), mend)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use sidereal_nn::rng::Rng;

    fn noise(count: usize) -> Vec<f32> {
        let mut rng = Rng::new(2, "noise");
        (0..count).map(|_| rng.normal() as f32).collect()
    }

    #[test]
    fn cross_products_equal_their_definition() {
        let (n, p, q) = (1500, 70, 3);
        let (a, b) = (noise(n * p), noise(n * q));
        let found = cross_product(&a, p, &b, q);
        for i in 0..p {
            for j in 0..q {
                let want: f64 = (0..n).map(|r| f64::from(a[r * p + i]) * f64::from(b[r * q + j])).sum();
                assert!((found[i * q + j] - want).abs() < 1e-9, "{i} {j}");
            }
        }
    }

    #[test]
    fn eigenvectors_come_largest_first_and_give_the_matrix_back() {
        let n = 6;
        let rows = noise(40 * n);
        let matrix = cross_product(&rows, n, &rows, n);
        let (values, vectors) = symmetric_eigen(&matrix, n).unwrap();
        assert!(values.windows(2).all(|w| w[0] >= w[1]));
        for i in 0..n {
            for j in 0..n {
                let back: f64 = (0..n).map(|k| values[k] * vectors[k * n + i] * vectors[k * n + j]).sum();
                assert!((back - matrix[i * n + j]).abs() < 1e-9);
            }
        }
        assert!(symmetric_eigen(&[f64::NAN], 1).is_err());
    }

    #[test]
    fn procrustes_finds_the_rotation_that_was_applied() {
        let angle = 0.7f32;
        let (sin, cos) = angle.sin_cos();
        let x = noise(50 * 2);
        let y: Vec<f32> = x.chunks(2).flat_map(|p| [cos * p[0] - sin * p[1], sin * p[0] + cos * p[1]]).collect();
        let rotation = procrustes(&cross_product(&x, 2, &y, 2), 2).unwrap();
        let want = [cos, sin, -sin, cos];
        assert!(rotation.iter().zip(want).all(|(r, w)| (r - f64::from(w)).abs() < 1e-6), "{rotation:?}");
    }

    #[test]
    fn ridge_solves_its_normal_equations() {
        let (n, m) = (5, 3);
        let (x, y) = (noise(40 * n), noise(40 * m));
        let (xx, xy) = (cross_product(&x, n, &x, n), cross_product(&x, n, &y, m));
        let solved = ridge(&xx, n, &xy, m, 0.7).unwrap();
        for i in 0..n {
            for j in 0..m {
                let left: f64 =
                    (0..n).map(|k| (xx[i * n + k] + if i == k { 0.7 } else { 0.0 }) * solved[k * m + j]).sum();
                assert!((left - xy[i * m + j]).abs() < 1e-9);
            }
        }
        assert!(ridge(&[0.0], 1, &[1.0], 1, 0.0).is_err());
    }
}
