//! Matrix products: `gemm` on one thread for each block, blocks cut by size alone, so that the bytes never depend on the
//! number of threads.

use gemm::Parallelism;
use rayon::prelude::*;

use super::cpu::unfilled;

/// A matrix in memory: element (i, j) is `values[i * row + j * column]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Matrix<'a> {
    values: &'a [f32],
    row: usize,
    column: usize,
}

impl<'a> Matrix<'a> {
    /// Rows of `width` elements, one behind the other.
    pub(crate) fn rows(values: &'a [f32], width: usize) -> Self {
        Self::strided(values, width, 1)
    }

    /// Any strides.
    pub(crate) fn strided(values: &'a [f32], row: usize, column: usize) -> Self {
        Self { values, row, column }
    }

    /// The transposed matrix, without a copy.
    pub(crate) fn t(self) -> Self {
        Self { row: self.column, column: self.row, ..self }
    }

    fn holds(&self, rows: usize, columns: usize) -> bool {
        rows == 0 || columns == 0 || (rows - 1) * self.row + (columns - 1) * self.column < self.values.len()
    }
}

/// Where a product is written: element (i, j) of `[m, n]` at `start + i * row + j`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target {
    start: *mut f32,
    row: usize,
}

// SAFETY: a target is a place, not an owner; who writes to it from several threads keeps the places apart.
unsafe impl Send for Target {}
// SAFETY: as above.
unsafe impl Sync for Target {}

impl Target {
    /// A target in `out`, whose rows are `row` elements apart.
    pub(crate) fn new(out: &mut [f32], row: usize) -> Self {
        Self { start: out.as_mut_ptr(), row }
    }

    /// The same rows, `offset` elements further.
    ///
    /// # Safety
    /// The place must lie in the slice of [`Target::new`].
    pub(crate) unsafe fn at(self, offset: usize) -> Self {
        // SAFETY: the caller's promise.
        Self { start: unsafe { self.start.add(offset) }, row: self.row }
    }

    /// Row `i` as a slice of `width` elements.
    ///
    /// # Safety
    /// The row must lie in the slice of [`Target::new`], and no other slice of it may be alive.
    pub(crate) unsafe fn row_mut<'a>(self, i: usize, width: usize) -> &'a mut [f32] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(i * self.row), width) }
    }
}

/// `scale * a * b` on this thread, written to `target`.
///
/// # Safety
/// All of `[m, n]` behind `target` must lie in its slice, and nobody else may read or write it meanwhile.
pub(crate) unsafe fn product_into([m, n, k]: [usize; 3], target: Target, a: Matrix<'_>, b: Matrix<'_>, scale: f32) {
    assert!(a.holds(m, k) && b.holds(k, n), "a product reads outside its matrices");
    // SAFETY: a and b were checked just now; the target is the caller's promise.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            target.start,
            1,
            target.row as isize,
            false,
            a.values.as_ptr(),
            a.column as isize,
            a.row as isize,
            b.values.as_ptr(),
            b.column as isize,
            b.row as isize,
            0.0,
            scale,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

/// Multiplications that make a block worth a thread.
const BLOCK_WORK: usize = 1 << 25;
/// Fewest rows or columns of a block: narrower ones spend their time on packing.
const BLOCK_SIDE: usize = 160;

/// How many blocks a side is cut into: a power of two, a function of the sizes alone.
pub(crate) fn blocks(side: usize, work: usize) -> usize {
    let most = (work / BLOCK_WORK).min(side / BLOCK_SIDE).max(1);
    1 << most.ilog2()
}

/// `a * b` `[m, n]`, row-major.
pub(crate) fn product([m, n, k]: [usize; 3], a: Matrix<'_>, b: Matrix<'_>) -> Vec<f32> {
    if m == 0 || n == 0 || k == 0 {
        return vec![0.0; m * n];
    }
    assert!(a.holds(m, k) && b.holds(k, n), "a product reads outside its matrices");
    let work = m * n * k;
    if m > n && k > n && a.row == 1 && b.column == 1 {
        // A weight's gradient with more inputs than outputs: `gemm` wants the longer side along the rows of the result,
        // so the transposed product and a transposition are a third faster.
        let across = product([n, m, k], b.t(), a.t());
        let mut out = unfilled(m * n);
        transpose(&mut out, &across, n, m);
        return out;
    }
    let mut out = unfilled(m * n);
    let target = Target::new(&mut out, n);
    let cut_rows = m >= n;
    let side = if cut_rows { m } else { n };
    let size = side.div_ceil(blocks(side, work)).next_multiple_of(16);
    let count = side.div_ceil(size);
    // Every block would pack a transposed weight for itself: lay it out once.
    let mut laid_out = Vec::new();
    let b = if cut_rows && count > 1 && b.row == 1 && b.column >= k {
        laid_out = transposed(b, k, n);
        Matrix::rows(&laid_out, n)
    } else {
        b
    };
    let block = |i: usize| {
        let (start, len) = (i * size, size.min(side - i * size));
        // SAFETY: each block writes its own rows or columns of `out`.
        unsafe {
            if cut_rows {
                let a = Matrix { values: &a.values[start * a.row..], ..a };
                product_into([len, n, k], target.at(start * n), a, b, 1.0);
            } else {
                let b = Matrix { values: &b.values[start * b.column..], ..b };
                product_into([m, len, k], target.at(start), a, b, 1.0);
            }
        }
    };
    match count {
        1 => block(0),
        count => (0..count).into_par_iter().for_each(block),
    }
    drop(laid_out);
    out
}

/// A transposed view `[rows, columns]` as a row-major copy.
pub(crate) fn transposed(view: Matrix<'_>, rows: usize, columns: usize) -> Vec<f32> {
    let mut out = unfilled(rows * columns);
    if view.row == 1 && view.column == rows {
        transpose(&mut out, view.values, columns, rows);
    } else {
        for (i, out) in out.chunks_exact_mut(columns.max(1)).enumerate() {
            for (j, v) in out.iter_mut().enumerate() {
                *v = view.values[i * view.row + j * view.column];
            }
        }
    }
    out
}

/// `out` `[columns, rows]` = the transposed `x` `[rows, columns]`, in tiles that fit the cache's lines.
fn transpose(out: &mut [f32], x: &[f32], rows: usize, columns: usize) {
    const TILE: usize = 16;
    assert!(out.len() == rows * columns && x.len() >= rows * columns);
    for i0 in (0..rows).step_by(TILE) {
        for j0 in (0..columns).step_by(TILE) {
            for j in j0..columns.min(j0 + TILE) {
                for i in i0..rows.min(i0 + TILE) {
                    out[j * rows + i] = x[i * columns + j];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::rng::Rng;

    fn random(count: usize, seed: u64) -> Vec<f32> {
        let mut rng = Rng::new(seed, "product");
        (0..count).map(|_| rng.normal() as f32).collect()
    }

    #[test]
    fn products_equal_the_sum_of_their_terms() {
        for (m, n, k) in [
            (1, 1, 1),
            (3, 5, 7),
            (70, 33, 20),
            (33, 20, 70),
            (1, 40, 64),
            (40, 1, 64),
            (2, 2, 0),
            (0, 3, 4),
            (2100, 130, 150),
        ] {
            let (a, b) = (random(m * k, 1), random(k * n, 2));
            let plain = product([m, n, k], Matrix::rows(&a, k), Matrix::rows(&b, n));
            let a_t: Vec<f32> = (0..k * m).map(|i| a[i % m.max(1) * k + i / m.max(1)]).collect();
            let b_t: Vec<f32> = (0..n * k).map(|i| b[i % k.max(1) * n + i / k.max(1)]).collect();
            let transposed = product([m, n, k], Matrix::rows(&a_t, m).t(), Matrix::rows(&b_t, k).t());
            assert_eq!(plain.len(), m * n);
            for i in 0..m * n {
                let expected: f64 = (0..k).map(|l| f64::from(a[i / n * k + l]) * f64::from(b[l * n + i % n])).sum();
                assert!((f64::from(plain[i]) - expected).abs() < 1e-4);
                assert!((f64::from(transposed[i]) - expected).abs() < 1e-4);
            }
        }
    }

    #[test]
    fn large_products_have_the_same_bytes_for_every_thread_count() {
        for (m, n, k) in [(2000, 128, 300), (128, 1024, 700), (1024, 128, 700)] {
            let (a, b) = (random(m * k, 1), random(k * n, 2));
            let run = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| product([m, n, k], Matrix::rows(&a, k), Matrix::rows(&b, n)))
            };
            assert!(blocks(m.max(n), m * n * k) > 1);
            assert_eq!(run(1), run(2));
            assert_eq!(run(1), run(5));
        }
    }
}
