//! Products of rows that are rounded to bf16 and measured: whoever screens with them needs a bound on their error, so what
//! rounding changed is handed out with the rows.

use sidereal_nn::kernels::bf16::{rounded, widened};
use sidereal_nn::kernels::instructions::{Instructions, sum_of_lanes, vectorised};
use sidereal_nn::kernels::{Operand, Precision, Weights, Write};

/// Columns are filled up with zeros to a multiple of this.
pub(crate) const PANEL: usize = 32;
/// Elements that are rounded at a time.
const STEP: usize = 32;

/// A matrix of columns, packed for the kernel.
#[derive(Debug, Clone)]
pub(crate) struct Bf16Columns(Weights);

/// Rows, rounded: [M, width], filled up with zeros to an even width.
#[derive(Debug, Default)]
pub(crate) struct Bf16Rows {
    values: Vec<u16>,
}

/// Squared lengths of a row and of what rounding changed in it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Rounded {
    pub(crate) squared_length: f32,
    pub(crate) squared_change: f32,
}

/// Whether this processor has the dot product of bf16: elsewhere f32 is as fast and closer.
pub(crate) fn is_available() -> bool {
    Instructions::current() >= Instructions::Avx512Bf16
}

impl Bf16Columns {
    /// Packs columns that are given as rows, [O, I]; O is filled up with zeros to a multiple of [`PANEL`].
    pub(crate) fn pack(columns: &[f32], width: usize) -> Self {
        let mut columns = columns.to_vec();
        columns.resize((columns.len() / width).next_multiple_of(PANEL) * width, 0.0);
        Self(Weights::of_columns(&columns, width, Precision::Bf16))
    }

    /// Columns, with those that were filled up.
    pub(crate) fn columns(&self) -> usize {
        self.0.output()
    }

    /// The product of `count` rows with all columns.
    ///
    /// # Shapes
    /// `out`: [count, columns]
    ///
    /// # Panics
    /// If the lengths do not fit.
    pub(crate) fn product(&self, rows: &Bf16Rows, count: usize, out: &mut [f32]) {
        assert_eq!(out.len(), count * self.columns());
        let rows = Operand::of_bf16(&rows.values, count, self.0.input());
        self.0.product(out, self.columns(), rows, Write::Set);
    }
}

impl Bf16Rows {
    /// Rounds rows less `centre`; hands the lengths of each to `measured`.
    ///
    /// # Shapes
    /// `rows`: [M, D]; `centre`: `[D]`
    pub(crate) fn round(&mut self, rows: &[f32], centre: &[f32], mut measured: impl FnMut(Rounded)) {
        let width = centre.len();
        let padded = width.next_multiple_of(2);
        self.values.resize(rows.len() / width * padded, 0);
        for (row, out) in rows.chunks_exact(width).zip(self.values.chunks_exact_mut(padded)) {
            measured(round_row(row, centre, out));
        }
    }
}

vectorised! {
    fn round_row(row: &[f32], centre: &[f32], out: &mut [u16]) -> Rounded {
        let (mut length, mut change) = ([0f32; STEP], [0f32; STEP]);
        let whole = row.len() / STEP * STEP;
        let (head, tail) = out.split_at_mut(whole);
        let steps = row[..whole].chunks_exact(STEP).zip(centre[..whole].chunks_exact(STEP));
        for ((row, centre), out) in steps.zip(head.chunks_exact_mut(STEP)) {
            for i in 0..STEP {
                let value = row[i] - centre[i];
                out[i] = rounded(value);
                let lost = value - widened(out[i]);
                length[i] += value * value;
                change[i] += lost * lost;
            }
        }
        tail.fill(0);
        for (i, (row, centre)) in row[whole..].iter().zip(&centre[whole..]).enumerate() {
            let value = row - centre;
            tail[i] = rounded(value);
            let lost = value - widened(tail[i]);
            length[i] += value * value;
            change[i] += lost * lost;
        }
        Rounded { squared_length: sum_of_lanes(length), squared_change: sum_of_lanes(change) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_kernel_is_the_product_of_rounded_values(
            width in 1usize..100,
            columns in 1usize..80,
            count in 1usize..20,
            raw in prop::collection::vec(-1f32..1.0, 100 * 100),
        ) {
            let (rows, rest) = raw.split_at(count * width);
            let (centre, weights) = (&rest[..width], &rest[width..][..columns * width]);
            let packed = Bf16Columns::pack(weights, width);
            prop_assert_eq!(packed.columns(), columns.next_multiple_of(PANEL));
            let mut out = vec![f32::NAN; count * packed.columns()];
            let (mut rounded_rows, mut lengths) = (Bf16Rows::default(), Vec::new());
            rounded_rows.round(rows, centre, |measured| lengths.push(measured));
            packed.product(&rounded_rows, count, &mut out);
            for (r, row) in rows.chunks(width).enumerate() {
                let values: Vec<f32> = row.iter().zip(centre).map(|(x, m)| x - m).collect();
                let half: Vec<f32> = values.iter().map(|&v| widened(rounded(v))).collect();
                let length: f32 = values.iter().map(|v| v * v).sum();
                let change: f32 = values.iter().zip(&half).map(|(v, h)| (v - h) * (v - h)).sum();
                prop_assert!((lengths[r].squared_length - length).abs() <= 1e-5 * length);
                prop_assert!((lengths[r].squared_change - change).abs() <= 1e-5 * change);
                prop_assert!(change <= length * (1.0 / 65536.0));
                for (c, column) in weights.chunks(width).enumerate() {
                    let terms = half.iter().zip(column).map(|(h, &w)| f64::from(*h) * f64::from(widened(rounded(w))));
                    let (want, reach) = terms.fold((0.0, 0.0), |(s, m), t| (s + t, m + t.abs()));
                    let bound = (width + 2) as f64 * 2f64.powi(-24) * reach;
                    let found = f64::from(out[r * packed.columns() + c]);
                    prop_assert!((found - want).abs() <= bound, "{found} {want}");
                }
                let filled = &out[r * packed.columns() + columns..(r + 1) * packed.columns()];
                prop_assert!(filled.iter().all(|&v| v == 0.0));
            }
        }
    }
}
