//! The one matrix product of the numeric code, and exact distances beside it.

use sidereal_nn::kernels::instructions::vectorised;

/// `out = rows * columns`.
///
/// `columns` is stored [I, O], ready for the product: the transposed view that a linear layer's [O, I] weight makes
/// runs at a third of the speed.
///
/// # Shapes
/// - `rows`: [M, I]
/// - `columns`: [I, O]
/// - `out`: [M, O]
///
/// # Panics
/// If the lengths do not fit; callers hold checked sizes.
pub(crate) fn product(rows: &[f32], inner: usize, columns: &[f32], outer: usize, out: &mut [f32]) {
    checked_product(rows, inner, columns, outer, out, 1.0);
}

/// The same in f64.
///
/// # Panics
/// As [`product`].
pub(crate) fn product_f64(rows: &[f64], inner: usize, columns: &[f64], outer: usize, out: &mut [f64]) {
    checked_product(rows, inner, columns, outer, out, 1.0);
}

fn checked_product<T: Copy + Default + 'static>(
    rows: &[T],
    inner: usize,
    columns: &[T],
    outer: usize,
    out: &mut [T],
    one: T,
) {
    let count = rows.len().checked_div(inner).unwrap_or(0);
    assert!(rows.len() == count * inner && columns.len() == inner * outer && out.len() == count * outer);
    // SAFETY: the three slices have exactly the lengths that the strides below reach, checked above, and `out` cannot
    // overlap the others because it is borrowed mutably.
    unsafe {
        gemm::gemm(
            count,
            outer,
            inner,
            out.as_mut_ptr(),
            1,
            outer as isize,
            false,
            rows.as_ptr(),
            1,
            inner as isize,
            columns.as_ptr(),
            1,
            outer as isize,
            T::default(),
            one,
            false,
            false,
            false,
            // Rows are split over threads by the callers, in blocks that do not depend on the number of threads.
            gemm::Parallelism::None,
        );
    }
}

/// Rows of one padded product.
const PADDED_ROWS: usize = 256;

/// Appends `rows * columns` to `out`, in products of one shape: short blocks are filled up with zeros. So every row is
/// summed in the same order, and its result does not depend on the rows beside it.
///
/// # Shapes
/// - `rows`: [M, I]
/// - `columns`: [I, O]
/// - appended: [M, O]
pub(crate) fn padded_product(
    rows: &[f32],
    inner: usize,
    columns: &[f32],
    outer: usize,
    padding: &mut Vec<f32>,
    out: &mut Vec<f32>,
) {
    for rows in rows.chunks(PADDED_ROWS * inner) {
        let start = out.len();
        if rows.len() == PADDED_ROWS * inner {
            out.resize(start + PADDED_ROWS * outer, 0.0);
            product(rows, inner, columns, outer, &mut out[start..]);
            continue;
        }
        padding.clear();
        padding.extend_from_slice(rows);
        padding.resize(PADDED_ROWS * (inner + outer), 0.0);
        let (from, to) = padding.split_at_mut(PADDED_ROWS * inner);
        product(from, inner, columns, outer, to);
        out.extend_from_slice(&to[..rows.len() / inner * outer]);
    }
}

/// [R, C] to [C, R].
pub(crate) fn transposed(values: &[f32], columns: usize) -> Vec<f32> {
    let rows = values.len() / columns;
    let mut out = vec![0.0; values.len()];
    for (r, row) in values.chunks_exact(columns).enumerate() {
        for (c, &v) in row.iter().enumerate() {
            out[c * rows + r] = v;
        }
    }
    out
}

const LANES: usize = 8;

/// Sum over `f(a, b)` in f64, in an order that is fixed, so that every machine gets the same bits.
#[inline(always)]
fn ordered_sum(a: &[f32], b: &[f32], f: impl Fn(f64, f64) -> f64) -> f64 {
    let mut lanes = [0f64; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let tail: f64 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(&x, &y)| f(x.into(), y.into())).sum();
    for (x, y) in a_chunks.zip(b_chunks) {
        for lane in 0..LANES {
            lanes[lane] += f(x[lane].into(), y[lane].into());
        }
    }
    lanes.iter().sum::<f64>() + tail
}

vectorised! {
    /// Squared Euclidean distance in f64.
    pub(crate) fn squared_distance(a: &[f32], b: &[f32]) -> f64 {
        ordered_sum(a, b, |x, y| (x - y) * (x - y))
    }
}

vectorised! {
    /// Squared Euclidean length in f64.
    pub(crate) fn squared_norm(a: &[f32]) -> f64 {
        ordered_sum(a, a, |x, _| x * x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn product_equals_the_definition() {
        let (m, i, o) = (5, 7, 3);
        let a: Vec<f32> = (0..m * i).map(|v| v as f32 - 9.0).collect();
        let b: Vec<f32> = (0..i * o).map(|v| (v * v % 11) as f32).collect();
        let mut out = vec![f32::NAN; m * o];
        product(&a, i, &b, o, &mut out);
        for r in 0..m {
            for c in 0..o {
                let want: f32 = (0..i).map(|k| a[r * i + k] * b[k * o + c]).sum();
                assert_eq!(out[r * o + c], want);
            }
        }
        assert_eq!(transposed(&transposed(&a, i), m), a);
    }

    #[test]
    fn a_padded_product_gives_a_row_the_same_bits_whatever_travels_with_it() {
        let (m, i, o) = (600, 13, 7);
        let a: Vec<f32> = (0..m * i).map(|v| (v as f32 * 0.7).sin()).collect();
        let b: Vec<f32> = (0..i * o).map(|v| (v as f32 * 1.3).cos()).collect();
        let (mut padding, mut all) = (Vec::new(), Vec::new());
        padded_product(&a, i, &b, o, &mut padding, &mut all);
        assert_eq!(all.len(), m * o);
        for (start, end) in [(0, 1), (3, 259), (255, 257), (599, 600)] {
            let mut part = Vec::new();
            padded_product(&a[start * i..end * i], i, &b, o, &mut padding, &mut part);
            assert_eq!(part, all[start * o..end * o], "rows {start} to {end}");
        }
        let want: f32 = (0..i).map(|k| a[3 * i + k] * b[k * o + 2]).sum();
        assert!((all[3 * o + 2] - want).abs() < 1e-5);
    }

    #[test]
    fn distances_survive_values_whose_squares_leave_f32() {
        let a = [3e30f32; 11];
        let b = [0f32; 11];
        assert!((squared_distance(&a, &b) / (11.0 * 9e60) - 1.0).abs() < 1e-6);
        assert_eq!(squared_norm(&b), 0.0);
    }
}
