//! The loops of CPU inference over plain slices: products, normalisation, softmax.
//!
//! Every loop is written once and compiled twice: for the baseline of the target and, on x86-64, for AVX2, chosen at
//! run time. Sums run over 16 independent lanes in a fixed order, so results do not depend on who calls.

/// A matrix inside a slice: element (r, c) is at `start + r * row_step + c * column_step`.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) data: &'a [f32],
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) row_step: usize,
    pub(super) column_step: usize,
}

impl<'a> View<'a> {
    /// A row-major matrix whose rows are `row_step` apart.
    pub(super) fn new(data: &'a [f32], rows: usize, columns: usize, row_step: usize) -> Self {
        Self { data, rows, columns, row_step, column_step: 1 }
    }
}

/// Where the result of a product goes, and whether it is added to what is there.
pub(super) struct Output<'a> {
    pub(super) data: &'a mut [f32],
    pub(super) row_step: usize,
    pub(super) column_step: usize,
    pub(super) add: bool,
}

impl<'a> Output<'a> {
    /// Overwrites a row-major matrix.
    pub(super) fn write(data: &'a mut [f32], row_step: usize) -> Self {
        Self { data, row_step, column_step: 1, add: false }
    }
}

fn fits(len: usize, rows: usize, columns: usize, row_step: usize, column_step: usize) -> bool {
    rows == 0 || columns == 0 || (rows - 1) * row_step + (columns - 1) * column_step < len
}

/// `out = a b` or `out += a b`, on the calling thread.
///
/// # Shapes
/// `a`: `[M, K]`, `b`: `[K, N]`, `out`: `[M, N]`
pub(super) fn matmul(out: Output<'_>, a: View<'_>, b: View<'_>) {
    let (m, n, k) = (a.rows, b.columns, a.columns);
    assert_eq!(k, b.rows, "inner sizes of a product differ");
    assert!(fits(a.data.len(), m, k, a.row_step, a.column_step), "the left matrix ends behind its slice");
    assert!(fits(b.data.len(), k, n, b.row_step, b.column_step), "the right matrix ends behind its slice");
    assert!(fits(out.data.len(), m, n, out.row_step, out.column_step), "the product ends behind its slice");
    if m == 0 || n == 0 {
        return;
    }
    // SAFETY: the three assertions above keep every element that gemm touches inside its slice, and `out` is a unique
    // borrow, so it overlaps neither input.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.data.as_mut_ptr(),
            out.column_step as isize,
            out.row_step as isize,
            out.add,
            a.data.as_ptr(),
            a.column_step as isize,
            a.row_step as isize,
            b.data.as_ptr(),
            b.column_step as isize,
            b.row_step as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// Compiles a function for the baseline and for AVX2, and chooses at run time.
macro_rules! for_each_instruction_set {
    ($(#[$doc:meta])* fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block) => {
        $(#[$doc])*
        #[allow(clippy::too_many_arguments)]
        pub(super) fn $name($($arg: $type),*) $(-> $result)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn body($($arg: $type),*) $(-> $result)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                #[allow(clippy::too_many_arguments)]
                fn avx2($($arg: $type),*) $(-> $result)? {
                    body($($arg),*)
                }
                if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
                    // SAFETY: the processor has the features that `avx2` is compiled for.
                    return unsafe { avx2($($arg),*) };
                }
            }
            body($($arg),*)
        }
    };
}

const LANES: usize = 16;

/// Replaces every value by e^(value - top); their sum.
#[inline(always)]
fn exp_and_sum(values: &mut [f32], top: f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let mut chunks = values.chunks_exact_mut(LANES);
    for chunk in &mut chunks {
        for (lane, v) in lanes.iter_mut().zip(chunk) {
            *v = exp(*v - top);
            *lane += *v;
        }
    }
    let mut rest = 0.0;
    for v in chunks.into_remainder() {
        *v = exp(*v - top);
        rest += *v;
    }
    lanes.iter().sum::<f32>() + rest
}

#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    let (left, right) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f32 = left.remainder().iter().zip(right.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in left.zip(right) {
        for (lane, (x, y)) in lanes.iter_mut().zip(x.iter().zip(y)) {
            *lane += x * y;
        }
    }
    lanes.iter().sum::<f32>() + rest
}

#[inline(always)]
fn max(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest = chunks.remainder().iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for chunk in chunks {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane = if v > *lane { v } else { *lane };
        }
    }
    lanes.iter().copied().fold(rest, f32::max)
}

#[allow(clippy::excessive_precision)] // Digits as published, rounded by the compiler.
/// e^x for x <= 0, relative error about 1e-7: Cody-Waite reduction and a degree-6 polynomial. NaN stays NaN.
#[inline(always)]
fn exp(x: f32) -> f32 {
    // Below this the result is 0 to f32's normal range; `max` would turn NaN into a number.
    let x = if x < -87.0 { -87.0 } else { x };
    // Adding and subtracting 1.5 * 2^23 rounds to an integer without a call into libm.
    const ROUND: f32 = 12_582_912.0;
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * 0.693_359_4 - n * -2.121_944_4e-4;
    let mut p = 1.987_569_1e-4f32;
    p = p * r + 1.398_2e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 5.000_000_1e-1;
    // The low bits of `shifted` are the integer: 2^n without a conversion (a NaN stays one through `p`).
    let power = f32::from_bits(shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23);
    (p * r * r + r + 1.0) * power
}

for_each_instruction_set! {
    /// `out = x / sqrt(mean(x^2) + eps) * weight`, row by row.
    ///
    /// # Shapes
    /// `x`, `out`: `[R, D]`; `weight`: `[D]`
    fn rms_norm(out: &mut [f32], x: &[f32], weight: &[f32], eps: f32) {
        let width = weight.len();
        for (out, x) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
            let scale = 1.0 / (dot(x, x) / width as f32 + eps).sqrt();
            for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
                *out = x * scale * weight;
            }
        }
    }
}

for_each_instruction_set! {
    /// max(x, 0), in place.
    fn relu(x: &mut [f32]) {
        for x in x {
            *x = if *x < 0.0 { 0.0 } else { *x };
        }
    }
}

for_each_instruction_set! {
    /// `x = gelu(x) * gate` with the tanh approximation, in place. tanh is taken from e^(-2|u|).
    fn gelu_gate(x: &mut [f32], gate: &[f32]) {
        for (x, gate) in x.iter_mut().zip(gate) {
            let u = 0.797_884_6 * (*x + 0.044_715 * *x * *x * *x);
            let e = exp(-2.0 * u.abs());
            let tanh = (1.0 - e) / (1.0 + e);
            *x = 0.5 * *x * (1.0 + if u < 0.0 { -tanh } else { tanh }) * gate;
        }
    }
}

for_each_instruction_set! {
    /// Softmax of every row after a bias is added, in place. Row `r`'s bias begins at `bias_start - r * bias_back`.
    ///
    /// # Shapes
    /// `scores`: `[R, T]`; `bias`: anything that holds the rows' slices, or empty for none
    fn softmax(scores: &mut [f32], columns: usize, bias: &[f32], bias_start: usize, bias_back: usize) {
        for (row, scores) in scores.chunks_exact_mut(columns).enumerate() {
            if !bias.is_empty() {
                let start = bias_start - row * bias_back;
                for (score, bias) in scores.iter_mut().zip(&bias[start..start + columns]) {
                    *score += bias;
                }
            }
            let top = max(scores);
            let scale = 1.0 / exp_and_sum(scores, top);
            for score in scores.iter_mut() {
                *score *= scale;
            }
        }
    }
}

for_each_instruction_set! {
    /// ln of the summed exponentials of a row. NaN if the row holds one.
    fn log_sum_exp(row: &[f32]) -> f32 {
        let top = max(row);
        let mut lanes = [0f32; LANES];
        let chunks = row.chunks_exact(LANES);
        let rest: f32 = chunks.remainder().iter().map(|v| exp(v - top)).sum();
        for chunk in chunks {
            for (lane, v) in lanes.iter_mut().zip(chunk) {
                *lane += exp(v - top);
            }
        }
        top + (lanes.iter().sum::<f32>() + rest).ln()
    }
}

/// The most positions that a prefix can have: semantic IDs are short, and their scores live on the stack.
pub(super) const MAX_LEVELS: usize = 32;

for_each_instruction_set! {
    /// Attention of one prefix over its own few positions, all heads: `positions[p]` holds position p's query, key and
    /// value, one after the other; the query is that of the last position.
    ///
    /// # Shapes
    /// `out`: `[H * dk]`; `positions`: P rows of [3 * H * dk]; `bias`: `[H, P]`
    fn attend_prefix(out: &mut [f32], positions: &[&[f32]], bias: &[f32], head_width: usize) {
        let inner = out.len();
        let count = positions.len();
        let query = positions[count - 1];
        for (head, out) in out.chunks_exact_mut(head_width).enumerate() {
            let at = head * head_width;
            let mut weights = [0f32; MAX_LEVELS];
            let weights = &mut weights[..count];
            for (p, weight) in weights.iter_mut().enumerate() {
                let key = &positions[p][inner + at..inner + at + head_width];
                *weight = dot(&query[at..at + head_width], key) + bias[head * count + p];
            }
            let top = weights.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let mut total = 0.0;
            for weight in weights.iter_mut() {
                *weight = exp(*weight - top);
                total += *weight;
            }
            out.fill(0.0);
            for (p, weight) in weights.iter().enumerate() {
                let value = &positions[p][2 * inner + at..2 * inner + at + head_width];
                let weight = weight / total;
                for (out, value) in out.iter_mut().zip(value) {
                    *out += weight * value;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_agrees_with_libm_over_the_range_of_a_softmax() {
        for i in 0..=87_000 {
            let x = -(i as f32) / 1000.0;
            let (ours, theirs) = (exp(x), x.exp());
            assert!((ours - theirs).abs() <= 3e-7 * theirs, "exp({x}): {ours} and {theirs}");
        }
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(f32::NEG_INFINITY) < 1e-37);
    }

    #[test]
    fn softmax_takes_each_rows_own_slice_of_the_bias() {
        let mut scores = vec![0.0f32; 6];
        let bias = [0.0, 1.0, 2.0, 3.0];
        softmax(&mut scores, 3, &bias, 1, 1);
        let expected = |bias: [f32; 3]| {
            let total: f32 = bias.iter().map(|b| b.exp()).sum();
            bias.map(|b| b.exp() / total)
        };
        for (ours, theirs) in scores.iter().zip(expected([1.0, 2.0, 3.0]).iter().chain(&expected([0.0, 1.0, 2.0]))) {
            assert!((ours - theirs).abs() < 1e-6);
        }
    }

    #[test]
    fn matmul_writes_and_adds_through_strides() {
        let (a, b) = ([1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]);
        let mut out = [0.0; 4];
        matmul(Output::write(&mut out, 2), View::new(&a, 2, 2, 2), View::new(&b, 2, 2, 2));
        assert_eq!(out, [19.0, 22.0, 43.0, 50.0]);
        let add = Output { data: &mut out, row_step: 2, column_step: 1, add: true };
        matmul(add, View::new(&a, 2, 2, 2), View::new(&b, 2, 2, 2));
        assert_eq!(out, [38.0, 44.0, 86.0, 100.0]);
        let transposed = Output { data: &mut out, row_step: 1, column_step: 2, add: false };
        matmul(transposed, View::new(&a, 2, 2, 2), View::new(&b, 2, 2, 2));
        assert_eq!(out, [19.0, 43.0, 22.0, 50.0]);
    }

    #[test]
    fn a_row_with_nan_has_no_log_sum() {
        let mut row = vec![0.5f32; 40];
        row[20] = f32::NAN;
        assert!(log_sum_exp(&row).is_nan());
        assert!((log_sum_exp(&[0.0; 8]) - 8f32.ln()).abs() < 1e-6);
    }
}
