//! The innermost loops of products: a few rows by one or two registers of columns.
//!
//! Columns come in blocks of 16, step by step ([`Line`]): one load serves all rows of a tile, and one word of a row, which
//! every lane gets, serves all its columns. A row's sum runs over the steps in order in one lane, so it does not depend
//! on how rows are cut into tiles.

use super::bf16;
use super::instructions::Instructions;
use super::precision::Precision;

#[cfg(target_arch = "x86_64")]
mod x86;

/// Columns of a block.
pub(crate) const LANES: usize = 16;

/// One step of a block: a word of each of its columns.
#[repr(C, align(64))]
#[derive(Debug, Clone, Copy, Default)]
pub struct Line(pub(crate) [u32; LANES]);

impl Line {
    pub(crate) const ZERO: Self = Self([0; LANES]);
}

// SAFETY: sixteen words, 64 bytes, without padding; zeros are words too.
unsafe impl bytemuck::Zeroable for Line {}
// SAFETY: as above, and any bytes are words.
unsafe impl bytemuck::Pod for Line {}

/// What becomes of a sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    /// It is written.
    Set,
    /// It is added to what is there.
    Add,
    /// The larger of it and 0 is written.
    Relu,
}

/// What sums of bytes need to become numbers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Columns<'a> {
    /// What a column's whole numbers are multiplied with, for whole blocks.
    pub(super) scales: &'a [f32],
    /// Sums of the columns' bytes, for whole blocks.
    pub(super) sums: &'a [i32],
}

/// A product: `out = rows * columns`, or what [`Write`] says.
#[derive(Debug)]
pub(super) struct Job<'a> {
    pub(super) precision: Precision,
    /// Rows of `depth` words, `step` apart; behind the words of bytes stand the row's scale and its zero point.
    pub(super) rows: &'a [u32],
    pub(super) step: usize,
    pub(super) count: usize,
    /// Blocks of `depth` lines.
    pub(super) lines: &'a [Line],
    pub(super) depth: usize,
    /// Columns that count; the last block may have more.
    pub(super) columns: usize,
    /// Only where bytes are multiplied.
    pub(super) bytes: Option<Columns<'a>>,
    pub(super) out: &'a mut [f32],
    pub(super) out_step: usize,
    pub(super) write: Write,
}

impl Job<'_> {
    /// Words of a row that kernels read.
    fn row_words(&self) -> usize {
        self.depth + if self.bytes.is_some() { ROW_FACTS } else { 0 }
    }

    /// Computes it with these instructions.
    ///
    /// # Panics
    /// If a slice is shorter than the sizes say.
    pub(super) fn run(mut self, instructions: Instructions) {
        let blocks = self.columns.div_ceil(LANES);
        if self.count == 0 || blocks == 0 {
            return;
        }
        assert!(self.rows.len() >= (self.count - 1) * self.step + self.row_words(), "rows of a product are too short");
        assert!(self.lines.len() >= blocks * self.depth, "columns of a product are too short");
        assert!(self.out.len() >= (self.count - 1) * self.out_step + self.columns, "a product ends behind its slice");
        assert!(self.out_step >= self.columns || self.count == 1, "rows of a product overlap");
        assert_eq!(self.bytes.is_some(), self.precision == Precision::Int8);
        if let Some(bytes) = self.bytes {
            assert!(bytes.scales.len() >= blocks * LANES && bytes.sums.len() >= blocks * LANES);
        }
        #[cfg(target_arch = "x86_64")]
        if x86::run(&mut self, instructions) {
            return;
        }
        let _ = instructions;
        self.run_portable();
    }

    fn run_portable(&mut self) {
        match self.precision {
            Precision::F32 => {
                self.tiles(|sum: f32, x, w| sum + f32::from_bits(x) * f32::from_bits(w), |sum, _, _, _| sum)
            }
            Precision::Bf16 => self.tiles(
                |sum: f32, x, w| {
                    let (x, w) = (bf16::of_word(x), bf16::of_word(w));
                    sum + (x[0] * w[0] + x[1] * w[1])
                },
                |sum, _, _, _| sum,
            ),
            Precision::Int8 => self.tiles(
                |sum: i32, x, w| {
                    let (x, w) = (x.to_ne_bytes(), w.to_ne_bytes());
                    x.iter().zip(w).fold(sum, |sum, (&x, w)| sum + i32::from(x) * i32::from(w as i8))
                },
                |sum, bytes, facts, column| match (bytes, facts) {
                    (Some(bytes), &[scale, zero, ..]) => {
                        (sum - zero as i32 * bytes.sums[column]) as f32 * bytes.scales[column] * f32::from_bits(scale)
                    }
                    _ => f32::NAN,
                },
            ),
        }
    }

    fn tiles<S: Copy + Default>(
        &mut self,
        step: impl Fn(S, u32, u32) -> S,
        finish: impl Fn(S, Option<Columns<'_>>, &[u32], usize) -> f32,
    ) {
        const ROWS: usize = 4;
        for (block, first_column) in (0..self.columns).step_by(LANES).enumerate() {
            let lines = &self.lines[block * self.depth..(block + 1) * self.depth];
            let columns = LANES.min(self.columns - first_column);
            for first in (0..self.count).step_by(ROWS) {
                let mut sums = [[S::default(); LANES]; ROWS];
                let count = ROWS.min(self.count - first);
                let row = |r: usize| &self.rows[(first + r) * self.step..][..self.row_words()];
                let rows: [&[u32]; ROWS] = std::array::from_fn(|r| row(r.min(count - 1)));
                for (p, line) in lines.iter().enumerate() {
                    for (sums, row) in sums.iter_mut().zip(rows) {
                        for (sum, w) in sums.iter_mut().zip(line.0) {
                            *sum = step(*sum, row[p], w);
                        }
                    }
                }
                for (r, sums) in sums.iter().enumerate().take(count) {
                    let out = &mut self.out[(first + r) * self.out_step + first_column..][..columns];
                    for (c, (out, sum)) in out.iter_mut().zip(sums).enumerate() {
                        let facts = &rows[r][self.depth..];
                        self.write.apply(out, finish(*sum, self.bytes, facts, first_column + c));
                    }
                }
            }
        }
    }
}

/// Words behind a row of bytes: its scale and its zero point.
pub(super) const ROW_FACTS: usize = 2;

impl Write {
    #[inline(always)]
    fn apply(self, out: &mut f32, value: f32) {
        match self {
            Self::Set => *out = value,
            Self::Add => *out += value,
            // NaN stays NaN.
            Self::Relu => *out = if value < 0.0 { 0.0 } else { value },
        }
    }
}
