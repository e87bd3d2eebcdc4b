//! Loops over one row. All are inlined into the function that [`super::instructions::vectorised`] compiles, and take the
//! instructions of that; sums run in 16 lanes whatever the instructions, so their order never changes.

use super::instructions::sum_of_lanes;

const LANES: usize = 16;

/// `e^x` to 2 ulp, without a branch, so that loops over it vectorise (the reduction and polynomial of Cephes' `expf`).
/// Below -87 it is exactly 0, above 88 it stays at `e^88`, and NaN stays NaN.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to the nearest integer and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let tiny = x < -87.0;
    let x = if tiny { -87.0 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * 0.693_359_4 - n * -2.121_944_4e-4;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_2e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    let y = p * r * r + r + 1.0;
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    if tiny { 0.0 } else { power * y }
}

/// Adds up `map` of every element.
#[inline(always)]
pub(crate) fn sum_of(x: &[f32], map: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, v) in lanes.iter_mut().zip(chunk) {
            *lane += map(*v);
        }
    }
    for (lane, v) in lanes.iter_mut().zip(rest) {
        *lane += map(*v);
    }
    sum_of_lanes(lanes)
}

/// The sum.
#[inline(always)]
pub(crate) fn sum(x: &[f32]) -> f32 {
    sum_of(x, |v| v)
}

/// The sum of squares.
#[inline(always)]
pub(crate) fn square_sum(x: &[f32]) -> f32 {
    sum_of(x, |v| v * v)
}

/// The sum of squared distances from `center`.
#[inline(always)]
pub(crate) fn square_sum_around(x: &[f32], center: f32) -> f32 {
    sum_of(x, |v| (v - center) * (v - center))
}

/// The inner product.
#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let (a_rest, b_rest) = (a_chunks.remainder(), b_chunks.remainder());
    for (a, b) in a_chunks.zip(b_chunks) {
        for i in 0..LANES {
            lanes[i] += a[i] * b[i];
        }
    }
    for ((lane, a), b) in lanes.iter_mut().zip(a_rest).zip(b_rest) {
        *lane += a * b;
    }
    sum_of_lanes(lanes)
}

/// The largest element, NaN passed over; -inf of an empty row.
#[inline(always)]
pub(crate) fn max(x: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, v) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, *v);
        }
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |a, b| larger(a, *b))
}

/// The least element, NaN passed over; infinity of an empty row.
#[inline(always)]
pub(crate) fn min(x: &[f32]) -> f32 {
    let smaller = |a: f32, b: f32| if b < a { b } else { a };
    let mut lanes = [f32::INFINITY; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, v) in lanes.iter_mut().zip(chunk) {
            *lane = smaller(*lane, *v);
        }
    }
    lanes.iter().chain(rest).fold(f32::INFINITY, |a, b| smaller(a, *b))
}

/// `sum += factor * x`.
#[inline(always)]
pub(crate) fn add_scaled(sum: &mut [f32], factor: f32, x: &[f32]) {
    for (sum, x) in sum.iter_mut().zip(x) {
        *sum += factor * x;
    }
}

/// Replaces scores by their softmax; a row of nothing but -inf becomes 0.
#[inline(always)]
pub(crate) fn softmax(row: &mut [f32]) {
    let top = max(row);
    // Not `top == -inf` alone: a row of NaN must stay NaN.
    if top == f32::NEG_INFINITY && !row.iter().any(|v| v.is_nan()) {
        row.fill(0.0);
        return;
    }
    for v in row.iter_mut() {
        *v = exp(*v - top);
    }
    let scale = 1.0 / sum(row);
    for v in row.iter_mut() {
        *v *= scale;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn exp_is_within_two_ulp_and_keeps_nan() {
        let mut worst = 0f64;
        for i in -8_600_000..8_800_000 {
            let x = i as f32 * 1e-5;
            let exact = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) - exact).abs() / exact);
        }
        assert!(worst < 2.4e-7, "{worst:e}");
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(f32::INFINITY) > 1e38);
    }

    #[test]
    fn sums_and_products_are_right_for_every_length() {
        for n in 0..70usize {
            let a: Vec<f32> = (0..n).map(|i| i as f32 - 20.0).collect();
            let b: Vec<f32> = (0..n).map(|i| (i * i % 7) as f32).collect();
            assert_eq!(sum(&a), a.iter().sum::<f32>());
            assert_eq!(square_sum(&a), a.iter().map(|v| v * v).sum::<f32>());
            assert_eq!(dot(&a, &b), a.iter().zip(&b).map(|(a, b)| a * b).sum::<f32>());
            assert_eq!(max(&a), a.iter().copied().fold(f32::NEG_INFINITY, f32::max));
            assert_eq!(min(&a), a.iter().copied().fold(f32::INFINITY, f32::min));
        }
    }

    #[test]
    fn a_softmax_sums_to_one_or_is_zero_where_all_is_masked() {
        let mut row: Vec<f32> = (0..37).map(|i| (i as f32).sin() * 50.0).collect();
        row[3] = f32::NEG_INFINITY;
        softmax(&mut row);
        assert!((sum(&row) - 1.0).abs() < 1e-6 && row[3] == 0.0);
        let mut masked = vec![f32::NEG_INFINITY; 20];
        softmax(&mut masked);
        assert_eq!(masked, vec![0.0; 20]);
        let mut broken = vec![f32::NAN, f32::NEG_INFINITY];
        softmax(&mut broken);
        assert!(broken[0].is_nan());
        softmax(&mut []);
    }
}
