//! Matrix products in the precision of a training: in f32, or of values that are rounded to bf16 and added up in f32.
//!
//! Both sides are rounded and laid out anew for every product, which costs a few per cent of it. A row's sums do not
//! depend on the rows beside it, so the bytes never depend on the number of threads.

use rayon::prelude::*;

use super::cpu::unfilled;
use super::product::{Matrix, product};
use crate::kernels::{Precision, Rows, Weights, Write, operand_words, prepare, prepare_columns};

/// A matrix of a product, row-major or as the transposed of a row-major one.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Side<'a> {
    /// Rows one behind the other.
    Rows(&'a [f32]),
    /// The rows are columns of the matrix that is meant.
    Columns(&'a [f32]),
}

impl<'a> Side<'a> {
    /// As a view, [rows, columns].
    fn matrix(self, rows: usize, columns: usize) -> Matrix<'a> {
        match self {
            Side::Rows(values) => Matrix::rows(values, columns),
            Side::Columns(values) => Matrix::rows(values, rows).t(),
        }
    }
}

/// `a * b` `[m, n]`, row-major; a is `[m, k]`, b `[k, n]`. Bytes are too coarse for gradients: they are taken as bf16.
pub(crate) fn product_in(precision: Precision, sizes: [usize; 3], a: Side<'_>, b: Side<'_>) -> Vec<f32> {
    let [m, n, k] = sizes;
    match precision {
        Precision::F32 => product(sizes, a.matrix(m, k), b.matrix(k, n)),
        Precision::Bf16 | Precision::Int8 => rounded_product(sizes, a, b),
    }
}

/// Rows of a task: a few tiles.
const TASK_ROWS: usize = 96;

/// `a * b` `[m, n]`, row-major, of values rounded to bf16; a is `[m, k]`, b `[k, n]`.
pub(crate) fn rounded_product([m, n, k]: [usize; 3], a: Side<'_>, b: Side<'_>) -> Vec<f32> {
    if m == 0 || n == 0 || k == 0 {
        return vec![0.0; m * n];
    }
    let weights = match b {
        Side::Rows(values) => Weights::new(&values[..k * n], n, Precision::Bf16),
        Side::Columns(values) => Weights::of_columns(&values[..k * n], k, Precision::Bf16),
    };
    let mut out = unfilled(m * n);
    let task = |(space, turned): &mut (Vec<f32>, Vec<u32>), (i, out): (usize, &mut [f32])| {
        let (first, count) = (i * TASK_ROWS, out.len() / n);
        space.resize(operand_words(Precision::Bf16, TASK_ROWS, k), 0.0);
        let operand = match a {
            Side::Rows(values) => {
                prepare(Precision::Bf16, Rows { data: &values[first * k..], step: k }, count, k, space)
            }
            Side::Columns(values) => prepare_columns(&values[..k * m], m, [first, count], space, turned),
        };
        weights.product(out, n, operand, Write::Set);
    };
    out.par_chunks_mut(TASK_ROWS * n).enumerate().for_each_init(Default::default, task);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::bf16;
    use crate::rng::Rng;

    fn random(count: usize, seed: u64) -> Vec<f32> {
        let mut rng = Rng::new(seed, "rounded product");
        (0..count).map(|_| rng.normal() as f32).collect()
    }

    fn transposed(values: &[f32], columns: usize) -> Vec<f32> {
        let rows = values.len() / columns;
        (0..values.len()).map(|at| values[at % rows * columns + at / rows]).collect()
    }

    #[test]
    fn products_equal_the_sum_of_their_rounded_terms_whichever_way_the_matrices_lie() {
        let rounded = |v: f32| f64::from(bf16::widened(bf16::rounded(v)));
        for [m, n, k] in [[1, 1, 1], [3, 5, 7], [70, 33, 20], [200, 17, 33], [97, 40, 65], [2, 2, 0], [0, 3, 4]] {
            let (a, b) = (random(m * k, 1), random(k * n, 2));
            let (a_t, b_t) = match k {
                0 => (Vec::new(), Vec::new()),
                k => (transposed(&a, k), transposed(&b, n)),
            };
            let want: Vec<f64> = (0..m * n)
                .map(|i| (0..k).map(|l| rounded(a[i / n * k + l]) * rounded(b[l * n + i % n])).sum())
                .collect();
            for a in [Side::Rows(&a), Side::Columns(&a_t)] {
                for b in [Side::Rows(&b), Side::Columns(&b_t)] {
                    let found = rounded_product([m, n, k], a, b);
                    assert_eq!(found.len(), m * n);
                    for (found, want) in found.iter().zip(&want) {
                        assert!((f64::from(*found) - want).abs() < 1e-4, "{m} {n} {k}: {found} for {want}");
                    }
                }
            }
        }
    }

    #[test]
    fn products_have_the_same_bytes_for_every_thread_count() -> Result<(), rayon::ThreadPoolBuildError> {
        let [m, n, k] = [700, 130, 150];
        let (a, b) = (random(m * k, 1), random(k * n, 2));
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
            Ok(pool.install(|| rounded_product([m, n, k], Side::Columns(&a), Side::Columns(&b))))
        };
        let one = run(1)?;
        assert!(run(2)? == one && run(5)? == one);
        Ok(())
    }
}
