//! Rows of numbers as kernels read them.

use super::bf16;
use super::instructions::vectorised;
use super::pairs;
use super::precision::Precision;
use super::row;
use super::tile::ROW_FACTS;

/// Rows inside a slice, `step` apart.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    /// From the first element of the first row.
    pub data: &'a [f32],
    /// From a row to the next.
    pub step: usize,
}

impl<'a> Rows<'a> {
    pub(super) fn row(&self, row: usize, width: usize) -> &'a [f32] {
        &self.data[row * self.step..row * self.step + width]
    }
}

/// Rows in the precision of a product.
#[derive(Debug, Clone, Copy)]
pub struct Operand<'a> {
    pub(super) precision: Precision,
    pub(super) words: &'a [u32],
    /// Words from a row to the next.
    pub(super) step: usize,
    pub(super) rows: usize,
    /// Elements of a row.
    pub(super) width: usize,
}

impl<'a> Operand<'a> {
    /// Rows that were rounded to bf16 by someone else, zeros behind the last element of an odd width.
    ///
    /// # Shapes
    /// `values`: `[rows, width rounded up to even]`
    ///
    /// # Panics
    /// If there are fewer values.
    pub fn of_bf16(values: &'a [u16], rows: usize, width: usize) -> Self {
        let step = Precision::Bf16.words(width);
        assert!(values.len() >= 2 * rows * step, "{} values are not {rows} rows of {width}", values.len());
        let words = bytemuck::cast_slice(&values[..2 * rows * step]);
        Self { precision: Precision::Bf16, words, step, rows, width }
    }
}

/// Words of a prepared row.
fn row_words(precision: Precision, width: usize) -> usize {
    match precision {
        Precision::F32 | Precision::Bf16 => precision.words(width),
        Precision::Int8 => precision.words(width) + ROW_FACTS,
    }
}

/// How much space [`prepare`] needs.
pub fn operand_words(precision: Precision, rows: usize, width: usize) -> usize {
    if precision == Precision::F32 { 0 } else { rows * row_words(precision, width) }
}

/// Rounds `count` rows for products; rows of f32 are taken as they are.
///
/// # Shapes
/// `x`: rows of `width`; `space`: at least [`operand_words`]
///
/// # Panics
/// If `x` or `space` is shorter.
pub fn prepare<'a>(precision: Precision, x: Rows<'a>, count: usize, width: usize, space: &'a mut [f32]) -> Operand<'a> {
    if precision == Precision::F32 {
        let words = bytemuck::cast_slice(x.data);
        return Operand { precision, words, step: x.step, rows: count, width };
    }
    let step = row_words(precision, width);
    let words = &mut space[..count * step];
    for (row, out) in words.chunks_exact_mut(step.max(1)).enumerate() {
        let row = x.row(row, width);
        match precision {
            Precision::F32 | Precision::Bf16 => bf16::round_row(bytemuck::cast_slice_mut(out), row),
            Precision::Int8 => {
                let (bytes, facts) = out.split_at_mut(step - ROW_FACTS);
                let (scale, zero) = row_to_bytes(bytemuck::cast_slice_mut(bytes), row);
                facts[0] = scale;
                facts[1] = f32::from_bits(zero);
            }
        }
    }
    Operand { precision, words: bytemuck::cast_slice(words), step, rows: count, width }
}

/// Rounds `count` columns of a matrix to bf16, from column `first` on, as the rows of a product; `turned` is for words the
/// wrong way round.
///
/// # Shapes
/// `x`: `[I, O]`; `space`: at least [`operand_words`] of `count` rows of I
///
/// # Panics
/// If there are fewer columns, or `space` is shorter.
pub fn prepare_columns<'a>(
    x: &[f32],
    output: usize,
    [first, count]: [usize; 2],
    space: &'a mut [f32],
    turned: &mut Vec<u32>,
) -> Operand<'a> {
    let precision = Precision::Bf16;
    let width = x.len().checked_div(output).unwrap_or(0);
    let step = precision.words(width);
    let words: &mut [u32] = bytemuck::cast_slice_mut(&mut space[..count * step]);
    pairs::rows_of_columns(words, x, output, [first, count], turned);
    Operand { precision, words, step, rows: count, width }
}

vectorised! {
    /// Rounds a row to bytes between its least and its largest value, 0 among them, which stays exact. What a value was is
    /// (byte - zero point) * scale; the scale is NaN where a value is not finite. What `out` has beyond the row becomes 0.
    fn row_to_bytes(out: &mut [u8], values: &[f32]) -> (f32, u32) {
        // Adding it rounds to the nearest integer and leaves that in the low bits.
        const ROUND: f32 = 12_582_912.0;
        let (low, high) = (row::min(values).min(0.0), row::max(values).max(0.0));
        let range = high - low;
        // Not finite times 0 is NaN.
        let damage = row::sum_of(values, |v| v * 0.0);
        let scale = if range > 0.0 { range / 255.0 } else { 1.0 };
        let per_scale = 1.0 / scale;
        let zero = (-low * per_scale + 0.5).floor();
        let (head, tail) = out.split_at_mut(values.len());
        for (out, value) in head.iter_mut().zip(values) {
            let place = value * per_scale + zero;
            let place = if place > 255.0 { 255.0 } else { place };
            let place = if place < 0.0 { 0.0 } else { place };
            *out = (place + ROUND).to_bits() as u8;
        }
        tail.fill(0);
        (scale + damage, zero as u32)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn bytes_are_within_half_a_step_of_their_values(
            values in prop::collection::vec(-3f32..5.0, 1..70),
            shift in -4f32..4.0,
        ) {
            let row: Vec<f32> = values.iter().map(|v| v + shift).collect();
            let mut bytes = vec![7u8; row.len().next_multiple_of(4)];
            let (scale, zero) = row_to_bytes(&mut bytes, &row);
            for (value, byte) in row.iter().zip(&bytes) {
                let back = (f32::from(*byte) - zero as f32) * scale;
                prop_assert!((back - value).abs() <= 0.51 * scale + 1e-6, "{value} became {back}, step {scale}");
            }
            prop_assert!(bytes[row.len()..].iter().all(|&b| b == 0));
        }
    }

    #[test]
    fn a_row_of_zeros_stays_zero_and_one_with_nan_says_so() {
        let mut bytes = [1u8; 8];
        assert_eq!(row_to_bytes(&mut bytes, &[0.0; 5]), (1.0, 0));
        assert_eq!(bytes, [0; 8]);
        for damage in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(row_to_bytes(&mut bytes, &[1.0, damage, 2.0]).0.is_nan());
        }
    }
}
