//! Weights in panels, as the product reads them.
//!
//! `gemm` copies a weight matrix into panels whenever it meets more than 48 rows, at every call. A weight does not
//! change, so it is stored in panels once, and products go through it at most 48 rows at a time, which `gemm` then
//! leaves in place: 10 to 15 % on the 50 to 80 rows of a beam step or a history.

use super::kernels::{Output, View, matmul};

/// Columns of a panel: four AVX-512 registers, the width of gemm's widest kernel.
const PANEL: usize = 64;
/// Rows of one product: eight of its six-row tiles.
const ROWS: usize = 48;

/// A weight matrix `[I, O]` as panels of up to 64 columns, each `[I, width]`.
#[derive(Debug, Clone)]
pub(super) struct Packed {
    panels: Vec<f32>,
    input: usize,
    output: usize,
}

impl Packed {
    /// From a row-major matrix.
    ///
    /// # Shapes
    /// `values`: `[I, O]`
    pub(super) fn new(values: &[f32], output: usize) -> Self {
        let input = values.len().checked_div(output).unwrap_or(0);
        let mut panels = Vec::with_capacity(values.len());
        for start in (0..output).step_by(PANEL) {
            let end = (start + PANEL).min(output);
            for row in values.chunks_exact(output) {
                panels.extend_from_slice(&row[start..end]);
            }
        }
        Self { panels, input, output }
    }

    /// O.
    pub(super) fn output(&self) -> usize {
        self.output
    }

    /// `out = x w`, or `out += x w`; rows of `out` are `out_step` apart.
    ///
    /// # Shapes
    /// `x`: `[R, I]`; `out`: `[R, O]`
    pub(super) fn product(&self, out: &mut [f32], out_step: usize, x: &[f32], rows: usize, add: bool) {
        for start in (0..self.output).step_by(PANEL) {
            let width = PANEL.min(self.output - start);
            let panel = &self.panels[start * self.input..(start + width) * self.input];
            let weight = View::new(panel, self.input, width, width);
            for first in (0..rows).step_by(ROWS) {
                let count = ROWS.min(rows - first);
                let x = View::new(&x[first * self.input..(first + count) * self.input], count, self.input, self.input);
                let data = &mut out[first * out_step + start..];
                matmul(Output { data, row_step: out_step, column_step: 1, add }, x, weight);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_through_panels_is_the_plain_product() {
        for (rows, input, output) in [(1, 3, 5), (50, 7, 64), (97, 16, 200), (3, 4, 0)] {
            let values = |len: usize| (0..len).map(|i| ((i * 37 + 11) % 17) as f32 - 8.0).collect::<Vec<f32>>();
            let (x, w) = (values(rows * input), values(input * output));
            let (mut plain, mut packed) = (vec![1.0; rows * output], vec![1.0; rows * output]);
            for add in [true, false] {
                Packed::new(&w, output).product(&mut packed, output, &x, rows, add);
                let view = View::new(&w, input, output, output);
                let out = Output { data: &mut plain, row_step: output, column_step: 1, add };
                matmul(out, View::new(&x, rows, input, input), view);
                assert_eq!(plain, packed, "whole numbers are exact");
            }
        }
    }
}
