//! Weights in the order in which kernels read them.
//!
//! A weight does not change, so it is rounded and put in order once, and a product neither copies nor converts it.

use rayon::prelude::*;

use super::bf16;
use super::instructions::Instructions;
use super::operand::Operand;
use super::pairs;
use super::precision::Precision;
use super::tile::{Columns, Job, LANES, Line, Write};

/// A weight matrix `[I, O]` as blocks of 16 columns.
#[derive(Debug, Clone)]
pub struct Weights {
    precision: Precision,
    instructions: Instructions,
    input: usize,
    output: usize,
    /// Words of a column.
    depth: usize,
    lines: Vec<Line>,
    /// For bytes, of whole blocks: what a column's bytes are multiplied with, and their sums.
    scales: Vec<f32>,
    sums: Vec<i32>,
}

/// Lines that are worth a thread.
const TOGETHER: usize = 1 << 12;
/// The most rows of a matrix of bytes: sums of more products could leave 32 bits.
const MOST_BYTES: usize = 1 << 16;

impl Weights {
    /// From a row-major matrix.
    ///
    /// # Shapes
    /// `values`: `[I, O]`
    pub fn new(values: &[f32], output: usize, precision: Precision) -> Self {
        let input = values.len().checked_div(output).unwrap_or(0);
        if precision == Precision::Bf16 {
            return Self::of_pairs(input, output, |lines, first, _| {
                pairs::lines_of_rows(lines, values, output, first);
            });
        }
        Self::of(input, output, precision, |i, o| values[i * output + o])
    }

    /// From columns that are given as rows.
    ///
    /// # Shapes
    /// `columns`: `[O, I]`
    pub fn of_columns(columns: &[f32], input: usize, precision: Precision) -> Self {
        let output = columns.len().checked_div(input).unwrap_or(0);
        if precision == Precision::Bf16 {
            return Self::of_pairs(input, output, |lines, first, space| {
                pairs::lines_of_columns(lines, columns, input, first, space);
            });
        }
        Self::of(input, output, precision, |i, o| columns[o * input + i])
    }

    /// In bf16: `block` fills the lines of the block that begins at a column.
    fn of_pairs(input: usize, output: usize, block: impl Fn(&mut [Line], usize, &mut Vec<u32>) + Sync) -> Self {
        let precision = Precision::Bf16;
        let depth = precision.words(input);
        let mut lines = vec![Line::ZERO; output.div_ceil(LANES) * depth];
        let fill = |space: &mut Vec<u32>, (i, lines): (usize, &mut [Line])| block(lines, i * LANES, space);
        let blocks = lines.par_chunks_mut(depth.max(1)).enumerate();
        blocks.with_min_len(TOGETHER.div_ceil(depth.max(1))).for_each_init(Vec::new, fill);
        let (scales, sums) = (Vec::new(), Vec::new());
        Self { precision, instructions: Instructions::current(), input, output, depth, lines, scales, sums }
    }

    fn of(input: usize, output: usize, precision: Precision, value: impl Fn(usize, usize) -> f32) -> Self {
        let precision = if precision == Precision::Int8 && input > MOST_BYTES { Precision::Bf16 } else { precision };
        let depth = precision.words(input);
        let blocks = output.div_ceil(LANES);
        let mut lines = vec![Line::ZERO; blocks * depth];
        let (mut scales, mut sums) = (Vec::new(), Vec::new());
        if precision == Precision::Int8 {
            scales.resize(blocks * LANES, 1.0);
            sums.resize(blocks * LANES, 0);
        }
        for o in 0..output {
            let column = |i: usize| if i < input { value(i, o) } else { 0.0 };
            let lines = lines[o / LANES * depth..].iter_mut().take(depth);
            let words = lines.map(|line| &mut line.0[o % LANES]).enumerate();
            match precision {
                Precision::F32 => words.for_each(|(p, word)| *word = column(p).to_bits()),
                // Bytes that were too many.
                Precision::Bf16 => words.for_each(|(p, word)| *word = bf16::word(column(2 * p), column(2 * p + 1))),
                Precision::Int8 => {
                    let most = (0..input).map(|i| value(i, o).abs()).fold(0.0, f32::max);
                    let scale = if most > 0.0 { most / 127.0 } else { 1.0 };
                    for (p, word) in words {
                        let bytes = [0, 1, 2, 3].map(|e| (column(4 * p + e) / scale).round() as i8);
                        sums[o] += bytes.iter().map(|&b| i32::from(b)).sum::<i32>();
                        *word = u32::from_ne_bytes(bytes.map(|b| b as u8));
                    }
                    scales[o] = scale;
                }
            }
        }
        Self { precision, instructions: Instructions::current(), input, output, depth, lines, scales, sums }
    }

    /// I.
    pub fn input(&self) -> usize {
        self.input
    }

    /// O.
    pub fn output(&self) -> usize {
        self.output
    }

    /// What [`super::prepare`] must make of the rows of a product.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The product of rows with all columns; rows of `out` are `out_step` apart.
    ///
    /// # Shapes
    /// `x`: `[R, I]`; `out`: `[R, O]`
    ///
    /// # Panics
    /// If the operand was prepared for other weights, or `out` is too short.
    pub fn product(&self, out: &mut [f32], out_step: usize, x: Operand<'_>, write: Write) {
        assert_eq!((self.precision, self.input), (x.precision, x.width), "rows were prepared for other weights");
        let bytes = Columns { scales: &self.scales, sums: &self.sums };
        let job = Job {
            precision: self.precision,
            rows: x.words,
            step: x.step,
            count: x.rows,
            lines: &self.lines,
            depth: self.depth,
            columns: self.output,
            bytes: (self.precision == Precision::Int8).then_some(bytes),
            out,
            out_step,
            write,
        };
        job.run(self.instructions);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kernels::{Rows, operand_words, prepare};

    /// `instructions` is set as it would be found on a lesser processor.
    fn packed(values: &[f32], output: usize, precision: Precision, instructions: Instructions) -> Weights {
        Weights { instructions, ..Weights::new(values, output, precision) }
    }

    /// What a value becomes in a row, and in a column with this largest magnitude.
    fn rounded(precision: Precision, row: &[f32], column: &[f32]) -> (Vec<f64>, Vec<f64>) {
        let all = |values: &[f32], map: &dyn Fn(f32) -> f64| values.iter().map(|&v| map(v)).collect();
        match precision {
            Precision::F32 => (all(row, &f64::from), all(column, &f64::from)),
            Precision::Bf16 => {
                let half = |v: f32| f64::from(bf16::widened(bf16::rounded(v)));
                (all(row, &half), all(column, &half))
            }
            Precision::Int8 => {
                let mut space = vec![0.0; operand_words(precision, 1, row.len())];
                let operand = prepare(precision, Rows { data: row, step: row.len() }, 1, row.len(), &mut space);
                let facts = &operand.words[precision.words(row.len())..];
                let (scale, zero) = (f32::from_bits(facts[0]), facts[1] as f32);
                let bytes: &[u8] = bytemuck::cast_slice(operand.words);
                let back = |b: &u8| f64::from(f32::from(*b) - zero) * f64::from(scale);
                let most = column.iter().fold(0f32, |m, v| m.max(v.abs()));
                let step = if most > 0.0 { most / 127.0 } else { 1.0 };
                let near = |v: f32| f64::from((v / step).round()) * f64::from(step);
                (bytes[..row.len()].iter().map(back).collect(), all(column, &near))
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn every_kernel_is_the_product_of_rounded_values(
            (rows, input, output) in (1usize..20, 1usize..70, 1usize..75),
            spare in 0usize..3,
            raw in prop::collection::vec(-1f32..1.0, 20 * 70 + 70 * 75),
        ) {
            let (x, rest) = raw.split_at(rows * input);
            let w = &rest[..input * output];
            for precision in Precision::ALL {
                let mut space = vec![0.0; operand_words(precision, rows, input)];
                for instructions in Instructions::ALL {
                    let weights = packed(w, output, precision, instructions);
                    let operand = prepare(precision, Rows { data: x, step: input }, rows, input, &mut space);
                    let step = output + spare;
                    for write in [Write::Set, Write::Add, Write::Relu] {
                        let mut out = vec![0.25f32; rows * step];
                        weights.product(&mut out, step, operand, write);
                        for (r, row) in x.chunks_exact(input).enumerate() {
                            for o in 0..output {
                                let column: Vec<f32> = (0..input).map(|i| w[i * output + o]).collect();
                                let (row, column) = rounded(precision, row, &column);
                                let sum: f64 = row.iter().zip(&column).map(|(a, b)| a * b).sum();
                                let want = match write {
                                    Write::Set => sum,
                                    Write::Add => 0.25 + sum,
                                    Write::Relu => sum.max(0.0),
                                };
                                let found = f64::from(out[r * step + o]);
                                prop_assert!(
                                    (found - want).abs() < 2e-5,
                                    "{precision:?} {instructions:?} {write:?} ({r}, {o}): {found} for {want}"
                                );
                            }
                            prop_assert!(out[r * step + output..(r + 1) * step].iter().all(|&v| v == 0.25));
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn bytes_give_the_same_sums_with_all_instructions() {
        let values = |len: usize| (0..len).map(|i| ((i * 7919 + 13) % 251) as f32 / 125.0 - 1.0).collect::<Vec<f32>>();
        let (x, w) = (values(9 * 1001), values(1001 * 40));
        let mut space = vec![0.0; operand_words(Precision::Int8, 9, 1001)];
        let operand = prepare(Precision::Int8, Rows { data: &x, step: 1001 }, 9, 1001, &mut space);
        let outs = Instructions::ALL.map(|instructions| {
            let mut out = vec![0.0; 9 * 40];
            packed(&w, 40, Precision::Int8, instructions).product(&mut out, 40, operand, Write::Set);
            out
        });
        assert!(outs.iter().all(|out| *out == outs[0]));
    }

    #[test]
    fn a_row_that_is_not_finite_gives_no_number() {
        let w = [0.5f32; 6];
        for precision in Precision::ALL {
            for instructions in Instructions::ALL {
                for write in [Write::Set, Write::Relu] {
                    let mut space = vec![0.0; operand_words(precision, 1, 3)];
                    let operand = prepare(precision, Rows { data: &[1.0, f32::NAN, 2.0], step: 3 }, 1, 3, &mut space);
                    let mut out = [0.0; 2];
                    packed(&w, 2, precision, instructions).product(&mut out, 2, operand, write);
                    assert!(out.iter().all(|v| v.is_nan()), "{precision:?} {instructions:?} {write:?}");
                }
            }
        }
    }

    #[test]
    fn nothing_times_nothing_is_nothing() {
        let weights = Weights::new(&[], 0, Precision::Bf16);
        let nothing = prepare(Precision::Bf16, Rows { data: &[], step: 0 }, 3, 0, &mut []);
        weights.product(&mut [], 0, nothing, Write::Set);
        assert_eq!((weights.input(), weights.output()), (0, 0));
    }
}
