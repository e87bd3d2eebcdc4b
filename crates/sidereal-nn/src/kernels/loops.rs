//! The loops of inference that are no products: normalisation, softmax, activations, attention over a few positions.
//!
//! Sums run over 16 independent lanes in a fixed order, so results do not depend on who calls.

use super::attention::Bias;
use super::instructions::{sum_of_lanes, vectorised};
use super::row::{dot, exp, max, square_sum, sum_of};

const LANES: usize = 16;

vectorised! {
    /// `out = x / sqrt(mean(x^2) + eps) * weight`, row by row.
    ///
    /// # Shapes
    /// `x`, `out`: `[R, D]`; `weight`: `[D]`
    pub fn rms_norm(out: &mut [f32], x: &[f32], weight: &[f32], eps: f32) {
        let width = weight.len();
        for (out, x) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
            let scale = 1.0 / (square_sum(x) / width as f32 + eps).sqrt();
            for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
                *out = x * scale * weight;
            }
        }
    }
}

vectorised! {
    /// `x = gelu(x) * gate` with the tanh approximation, in place. tanh is taken from e^(-2|u|).
    pub fn gelu_gate(x: &mut [f32], gate: &[f32]) {
        for (x, gate) in x.iter_mut().zip(gate) {
            let u = 0.797_884_6 * (*x + 0.044_715 * *x * *x * *x);
            let e = exp(-2.0 * u.abs());
            let tanh = (1.0 - e) / (1.0 + e);
            *x = 0.5 * *x * (1.0 + if u < 0.0 { -tanh } else { tanh }) * gate;
        }
    }
}

vectorised! {
    /// Softmax of the first `columns` of every row after a bias is added, in place.
    ///
    /// # Shapes
    /// `scores`: rows of `step`
    pub fn softmax(scores: &mut [f32], step: usize, columns: usize, bias: Option<Bias<'_>>) {
        for (row, scores) in scores.chunks_exact_mut(step).enumerate() {
            let scores = &mut scores[..columns];
            if let Some(bias) = bias {
                let start = bias.start - row * bias.back;
                for (score, bias) in scores.iter_mut().zip(&bias.values[start..start + columns]) {
                    *score += bias;
                }
            }
            let scale = 1.0 / exp_and_sum(scores, max(scores));
            for score in scores.iter_mut() {
                *score *= scale;
            }
        }
    }
}

vectorised! {
    /// Softmax of every row over its first `columns` scores and the few that stand elsewhere, in place.
    ///
    /// # Shapes
    /// `scores`: rows of `step`, or none; `beside`: rows of `few`
    pub fn softmax_beside(scores: &mut [f32], step: usize, columns: usize, beside: &mut [f32], few: usize) {
        for (row, beside) in beside.chunks_exact_mut(few.max(1)).enumerate() {
            let scores = if columns == 0 { &mut [][..] } else { &mut scores[row * step..row * step + columns] };
            let top = max(scores).max(max(beside));
            let scale = 1.0 / (exp_and_sum(scores, top) + exp_and_sum(beside, top));
            for score in scores.iter_mut().chain(beside) {
                *score *= scale;
            }
        }
    }
}

vectorised! {
    /// The inner product of two rows.
    pub fn inner_product(a: &[f32], b: &[f32]) -> f32 {
        dot(a, b)
    }
}

vectorised! {
    /// `sum += factor * x`.
    pub fn add_scaled(sum: &mut [f32], factor: f32, x: &[f32]) {
        super::row::add_scaled(sum, factor, x);
    }
}

vectorised! {
    /// `x = silu(x) * up`, in place.
    pub fn silu_gate(x: &mut [f32], up: &[f32]) {
        for (x, up) in x.iter_mut().zip(up) {
            *x = *x / (1.0 + exp(-*x)) * up;
        }
    }
}

vectorised! {
    /// Turns pairs of features, one of each half of a head, by the angles of a position, and multiplies them by `scale`.
    ///
    /// # Shapes
    /// `heads`: heads of `2 * cos.len()` features; `cos`, `sin`: `[dk / 2]`
    pub fn turn_heads(heads: &mut [f32], cos: &[f32], sin: &[f32], scale: f32) {
        let half = cos.len();
        for head in heads.chunks_exact_mut(2 * half) {
            let (first, second) = head.split_at_mut(half);
            for ((a, b), (cos, sin)) in first.iter_mut().zip(second).zip(cos.iter().zip(sin)) {
                (*a, *b) = ((*a * cos - *b * sin) * scale, (*b * cos + *a * sin) * scale);
            }
        }
    }
}

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
    sum_of_lanes(lanes) + rest
}

vectorised! {
    /// ln of the summed exponentials of a row that stands at two places. NaN if the row holds one.
    pub fn log_sum_exp(row: &[f32], rest: &[f32]) -> f32 {
        let top = max(row).max(max(rest));
        top + (sum_of(row, |v| exp(v - top)) + sum_of(rest, |v| exp(v - top))).ln()
    }
}

/// The most positions that [`attend_prefix`] takes: semantic IDs are short, and their scores live on the stack.
pub const MAX_POSITIONS: usize = 32;

vectorised! {
    /// Attention of one prefix over its own few positions, all heads: `positions[p]` holds position p's query, key and
    /// value, one after the other; the query is that of the last position.
    ///
    /// # Shapes
    /// `out`: `[H * dk]`; `positions`: P rows of [3 * H * dk]; `bias`: `[H, P]`
    pub fn attend_prefix(out: &mut [f32], positions: &[&[f32]], bias: &[f32], head_width: usize) {
        let inner = out.len();
        let count = positions.len();
        let query = positions[count - 1];
        // Heads whose weights stand side by side, so that one exponential serves many.
        let together = (MAX_POSITIONS / count).max(1);
        for (group, out) in out.chunks_mut(together * head_width).enumerate() {
            let heads = out.len() / head_width;
            let first = group * together;
            let mut weights = [f32::NEG_INFINITY; MAX_POSITIONS];
            for (h, weights) in weights.chunks_exact_mut(count).take(heads).enumerate() {
                let at = (first + h) * head_width;
                let query = &query[at..at + head_width];
                for (p, weight) in weights.iter_mut().enumerate() {
                    *weight = dot(query, &positions[p][inner + at..][..head_width]) + bias[(first + h) * count + p];
                }
                let top = weights.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                weights.iter_mut().for_each(|weight| *weight -= top);
            }
            weights.iter_mut().for_each(|weight| *weight = exp(*weight));
            for ((h, out), weights) in out.chunks_exact_mut(head_width).enumerate().zip(weights.chunks_exact(count)) {
                let at = 2 * inner + (first + h) * head_width;
                let share = 1.0 / weights.iter().sum::<f32>();
                for (p, weight) in weights.iter().enumerate() {
                    let (value, weight) = (&positions[p][at..at + head_width], weight * share);
                    if p == 0 {
                        out.iter_mut().zip(value).for_each(|(out, value)| *out = weight * value);
                    } else {
                        out.iter_mut().zip(value).for_each(|(out, value)| *out += weight * value);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn softmax_takes_each_rows_own_slice_of_the_bias() {
        let mut scores = vec![0.0f32; 8];
        let values = [0.0, 1.0, 2.0, 3.0];
        softmax(&mut scores, 4, 3, Some(Bias { values: &values, start: 1, back: 1 }));
        let expected = |bias: [f32; 3]| {
            let total: f32 = bias.iter().map(|b| b.exp()).sum();
            bias.map(|b| b.exp() / total)
        };
        let want = [expected([1.0, 2.0, 3.0]), expected([0.0, 1.0, 2.0])];
        for (row, want) in scores.chunks(4).zip(want) {
            for (ours, theirs) in row.iter().zip(want) {
                assert!((ours - theirs).abs() < 1e-6);
            }
            assert_eq!(row[3], 0.0);
        }
    }

    #[test]
    fn heads_are_turned_as_complex_numbers_and_gates_are_silu() {
        let mut heads = [1.0f32, 2.0, 3.0, 4.0, 0.5, -1.0, 2.0, 0.0];
        let (cos, sin) = ([0.6, 0.0], [0.8, 1.0]);
        turn_heads(&mut heads, &cos, &sin, 2.0);
        let want = [2.0 * (0.6 - 2.4), -8.0, 2.0 * (1.8 + 0.8), 4.0, 2.0 * (0.3 - 1.6), 0.0, 2.0 * (1.2 + 0.4), -2.0];
        assert!(heads.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-5), "{heads:?}");
        let mut gate = [-3.0f32, 0.0, 2.0];
        silu_gate(&mut gate, &[1.0, 5.0, 3.0]);
        let silu = |x: f32| x / (1.0 + (-x).exp());
        assert!(gate.iter().zip([silu(-3.0), 0.0, 3.0 * silu(2.0)]).all(|(a, b)| (a - b).abs() < 1e-6), "{gate:?}");
    }

    #[test]
    fn a_row_with_nan_has_no_log_sum() {
        let mut row = vec![0.5f32; 40];
        row[20] = f32::NAN;
        assert!(log_sum_exp(&row, &[]).is_nan() && log_sum_exp(&[0.0], &row).is_nan());
        assert!((log_sum_exp(&[0.0; 8], &[0.0; 21]) - 29f32.ln()).abs() < 1e-6);
    }
}
