//! What rankers on the CPU have in common: space for the rows of a product, heads over codes, rows of a table.

use sidereal_nn::kernels::loops::log_sum_exp;
use sidereal_nn::kernels::{Operand, Precision, Rows, Weights, Write, operand_words, prepare};

use crate::pool::{Buffer, Pool};
use crate::scoring::{CodeScores, ScoreNorm};

/// Space for the operand of one product.
pub(super) struct Workspace {
    precision: Precision,
    space: Buffer<f32>,
}

impl Workspace {
    /// For products of `rows` of at most these widths.
    pub(super) fn new(numbers: &Pool<f32>, precision: Precision, rows: usize, widths: &[usize]) -> Self {
        let words = widths.iter().map(|&width| operand_words(precision, rows, width)).max().unwrap_or(0);
        Self { precision, space: numbers.take(words) }
    }

    /// Rows ready for a product, `[rows, width]`.
    pub(super) fn rows<'a>(&'a mut self, x: &'a [f32], rows: usize, width: usize) -> Operand<'a> {
        self.rows_apart(x, width, rows, width)
    }

    /// The same of rows that begin `step` apart.
    pub(super) fn rows_apart<'a>(&'a mut self, x: &'a [f32], step: usize, rows: usize, width: usize) -> Operand<'a> {
        prepare(self.precision, Rows { data: x, step }, rows, width, &mut self.space)
    }
}

/// What makes log-probabilities of codes from states, in bf16 where weights are bytes.
#[derive(Debug)]
pub(super) struct CodeHeads {
    /// By level: `[D, K]`.
    pub(super) levels: Vec<Weights>,
    /// `[D, tokens of no level]`: what full normalisation counts beside codes. None where each level's head is over its
    /// own codes alone.
    pub(super) others: Option<Weights>,
    /// By level: codes for which the model has no token.
    pub(super) missing: Vec<Vec<u16>>,
}

impl CodeHeads {
    /// Log-probabilities of a level's codes, minus infinity for those without a token.
    ///
    /// # Shapes
    /// `states`: `[rows, D]`
    pub(super) fn scores(
        &self,
        numbers: &Pool<f32>,
        states: &[f32],
        rows: usize,
        level: usize,
        norm: ScoreNorm,
    ) -> CodeScores {
        let head = &self.levels[level];
        let (width, codes) = (head.input(), head.output());
        let mut work = Workspace::new(numbers, head.precision(), rows, &[width]);
        let operand = work.rows(states, rows, width);
        let mut values = numbers.take(rows * codes);
        head.product(&mut values, codes, operand, Write::Set);
        // The logits of all other tokens, where probabilities are over all.
        let others = self.others.iter().filter(|_| norm == ScoreNorm::Full).flat_map(|others| {
            let levels = self.levels.iter().enumerate().filter(|(other, _)| *other != level);
            levels.map(|(_, head)| head).chain([others]).filter(|head| head.output() > 0)
        });
        let apart: usize = others.clone().map(Weights::output).sum();
        let mut logits = numbers.take(rows * apart);
        let mut start = 0;
        for head in others {
            head.product(&mut logits[start..], apart, operand, Write::Set);
            start += head.output();
        }
        for (r, row) in values.chunks_exact_mut(codes).enumerate() {
            for &code in self.missing.get(level).into_iter().flatten() {
                row[usize::from(code)] = f32::NEG_INFINITY;
            }
            let total = log_sum_exp(row, &logits[r * apart..(r + 1) * apart]);
            row.iter_mut().for_each(|logit| *logit -= total);
        }
        CodeScores::pooled(values, codes)
    }
}

/// A row of a row-major matrix.
pub(super) fn row_of(data: &[f32], row: usize, width: usize) -> &[f32] {
    &data[row * width..(row + 1) * width]
}

/// Consecutive rows of one request, which is the first of each pair.
pub(super) fn segments(request_of: &[u32]) -> Vec<(usize, std::ops::Range<usize>)> {
    let mut start = 0;
    request_of
        .chunk_by(|a, b| a == b)
        .map(|rows| {
            let range = start..start + rows.len();
            start = range.end;
            (rows[0] as usize, range)
        })
        .collect()
}

/// Which row of each step before a prefix went through, after rows were continued from `parents`: `[steps]` of `[R]`.
pub(super) fn continued(through: &[Vec<u32>], parents: &[u32], steps: usize) -> Vec<Vec<u32>> {
    let of_parents = |of: &Vec<u32>| parents.iter().map(|&parent| of[parent as usize]).collect();
    let mut next: Vec<Vec<u32>> = through.iter().map(of_parents).collect();
    // At the first step `parents` are requests, and there is no earlier row to go through.
    if steps > 0 {
        next.push(parents.to_vec());
    }
    next
}
