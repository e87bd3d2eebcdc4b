//! Attention of one head: softmax(q k + bias) v, a few rows of queries at a time.
//!
//! Keys and values of a head are packed once and met by many queries: keys with a column for each token, values with a
//! step for each token. A tile's scores stay in the first cache from the one product to the other.

use super::bf16;
use super::instructions::{Instructions, vectorised};
use super::loops::{self, MAX_POSITIONS};
use super::operand::Rows;
use super::precision::Precision;
use super::tile::{Job, LANES, Line, Write};

/// Rows of queries that are looked at together.
const ROWS: usize = 12;

/// Sizes of one head's keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// How they are held: f32 or bf16.
    pub precision: Precision,
    /// Tokens to look at.
    pub tokens: usize,
    /// Width of a key and of a value.
    pub width: usize,
}

/// Numbers that are added to scores: row `r`'s begin at `start - r * back`.
#[derive(Debug, Clone, Copy)]
pub struct Bias<'a> {
    /// Those of all rows, which may overlap.
    pub values: &'a [f32],
    /// Where those of the first row begin.
    pub start: usize,
    /// How much earlier those of the next row begin.
    pub back: usize,
}

impl Head {
    fn key_lines(&self) -> usize {
        self.tokens.div_ceil(LANES) * self.precision.words(self.width)
    }

    fn value_lines(&self) -> usize {
        self.width.div_ceil(LANES) * self.precision.words(self.tokens)
    }

    /// Lines that its keys and values take.
    pub fn lines(&self) -> usize {
        self.key_lines() + self.value_lines()
    }

    /// Space that [`Head::attend`] needs.
    pub fn space(&self) -> usize {
        ROWS * (self.padded() + self.precision.words(self.tokens) + self.precision.words(self.width))
    }

    /// Tokens with those that fill the last block.
    fn padded(&self) -> usize {
        self.tokens.next_multiple_of(LANES)
    }

    /// Puts keys and values in order.
    ///
    /// # Shapes
    /// `keys`, `values`: rows of `width`, one for each token; `lines`: [`Head::lines`]
    ///
    /// # Panics
    /// If a slice is too short.
    pub fn pack(&self, lines: &mut [Line], keys: Rows<'_>, values: Rows<'_>) {
        assert!(self.precision != Precision::Int8, "keys and values are f32 or bf16");
        let (width, tokens) = (self.width, self.tokens);
        let (key_lines, value_lines) = lines[..self.lines()].split_at_mut(self.key_lines());
        if self.key_lines() == 0 {
            return;
        }
        pack_keys(key_lines, self.precision, keys, tokens, width);
        pack_values(value_lines, self.precision, values, tokens, width);
    }

    /// Looks at packed keys and values; rows of `out` are `out_step` apart. Nothing to look at gives 0.
    ///
    /// # Shapes
    /// `queries`: `count` rows of `width`; `out`: as many; `lines`: of [`Head::pack`]; `space`: [`Head::space`]
    ///
    /// # Panics
    /// If a slice is too short.
    #[allow(clippy::too_many_arguments)]
    pub fn attend(
        &self,
        out: &mut [f32],
        out_step: usize,
        queries: Rows<'_>,
        count: usize,
        lines: &[Line],
        bias: Option<Bias<'_>>,
        space: &mut [f32],
        instructions: Instructions,
    ) {
        self.tiles(out, out_step, queries, count, lines, space, instructions, |first, scores, _| {
            let (tokens, padded) = (self.tokens, self.padded());
            loops::softmax(scores, padded, tokens, bias.map(|bias| bias.of_row(first)));
        });
    }

    /// As [`Head::attend`] without a bias, where each row looks at `positions` of its own beside the packed ones: `own` of a
    /// row and a position gives its key and its value, in f32.
    ///
    /// # Panics
    /// If a slice is too short, or there are more positions than [`MAX_POSITIONS`].
    #[allow(clippy::too_many_arguments)]
    pub fn attend_beside<'o>(
        &self,
        out: &mut [f32],
        out_step: usize,
        queries: Rows<'_>,
        count: usize,
        lines: &[Line],
        positions: usize,
        own: &dyn Fn(usize, usize) -> [&'o [f32]; 2],
        space: &mut [f32],
        instructions: Instructions,
    ) {
        assert!(positions <= MAX_POSITIONS, "{positions} positions of a row's own");
        let mut looks = [0f32; ROWS * MAX_POSITIONS];
        let (tokens, padded, width) = (self.tokens, self.padded(), self.width);
        for first in (0..count).step_by(ROWS) {
            let rows = ROWS.min(count - first);
            let looks = &mut looks[..rows * positions];
            for (row, looks) in looks.chunks_exact_mut(positions.max(1)).enumerate() {
                let query = queries.row(first + row, width);
                looks
                    .iter_mut()
                    .enumerate()
                    .for_each(|(p, look)| *look = loops::inner_product(query, own(first + row, p)[0]));
            }
            let queries = Rows { data: &queries.data[first * queries.step..], ..queries };
            let out = &mut out[first * out_step..];
            self.tiles(out, out_step, queries, rows, lines, space, instructions, |_, scores, rows| {
                loops::softmax_beside(scores, padded, tokens, &mut looks[..rows * positions], positions);
            });
            if tokens == 0 {
                loops::softmax_beside(&mut [], 0, 0, looks, positions);
            }
            for (row, looks) in looks.chunks_exact(positions.max(1)).enumerate() {
                for (p, &look) in looks.iter().enumerate() {
                    loops::add_scaled(&mut out[row * out_step..][..width], look, own(first + row, p)[1]);
                }
            }
        }
    }

    /// Scores of a few rows of queries at a time, what `softmax` makes of them (given the first of the rows and how many
    /// there are), and with that the sums of values.
    #[allow(clippy::too_many_arguments)]
    fn tiles(
        &self,
        out: &mut [f32],
        out_step: usize,
        queries: Rows<'_>,
        count: usize,
        lines: &[Line],
        space: &mut [f32],
        instructions: Instructions,
        mut softmax: impl FnMut(usize, &mut [f32], usize),
    ) {
        let (tokens, width, padded) = (self.tokens, self.width, self.padded());
        if tokens == 0 {
            for row in 0..count {
                out[row * out_step..row * out_step + width].fill(0.0);
            }
            return;
        }
        let (keys, values) = lines[..self.lines()].split_at(self.key_lines());
        let (query_words, weight_words) = (self.precision.words(width), self.precision.words(tokens));
        let (scores, rest) = space.split_at_mut(ROWS * padded);
        let (weights, rest) = rest.split_at_mut(ROWS * weight_words);
        let query_space = &mut rest[..ROWS * query_words];
        for first in (0..count).step_by(ROWS) {
            let rows = ROWS.min(count - first);
            let queries = Rows { data: &queries.data[first * queries.step..], ..queries };
            let query = self.words(queries, rows, width, query_space);
            let to = Target { out: scores, step: padded, columns: padded };
            self.product(to, query, rows, keys, query_words, instructions);
            softmax(first, &mut scores[..rows * padded], rows);
            let looks = self.words(Rows { data: scores, step: padded }, rows, tokens, weights);
            let to = Target { out: &mut out[first * out_step..], step: out_step, columns: width };
            self.product(to, looks, rows, values, weight_words, instructions);
        }
    }

    fn product(
        &self,
        to: Target<'_>,
        (rows, step): (&[u32], usize),
        count: usize,
        lines: &[Line],
        depth: usize,
        instructions: Instructions,
    ) {
        let job = Job {
            precision: self.precision,
            rows,
            step,
            count,
            lines,
            depth,
            columns: to.columns,
            bytes: None,
            out: to.out,
            out_step: to.step,
            write: Write::Set,
        };
        job.run(instructions);
    }

    /// Rows as words: those of f32 as they are, others rounded into `space`; and words from a row to the next.
    fn words<'a>(&self, rows: Rows<'a>, count: usize, width: usize, space: &'a mut [f32]) -> (&'a [u32], usize) {
        if self.precision == Precision::F32 {
            return (bytemuck::cast_slice(rows.data), rows.step);
        }
        let words = self.precision.words(width);
        for (row, out) in space.chunks_exact_mut(words).take(count).enumerate() {
            bf16::round_row(bytemuck::cast_slice_mut(out), &rows.data[row * rows.step..][..width]);
        }
        (bytemuck::cast_slice(space), words)
    }
}

vectorised! {
    /// A column for each token.
    fn pack_keys(lines: &mut [Line], precision: Precision, keys: Rows<'_>, tokens: usize, width: usize) {
        // Words of a row, a part at a time.
        const PART: usize = 64;
        let depth = precision.words(width);
        for (block, lines) in lines.chunks_exact_mut(depth).enumerate() {
            for lane in 0..LANES {
                let token = block * LANES + lane;
                if token >= tokens {
                    lines.iter_mut().for_each(|line| line.0[lane] = 0);
                    continue;
                }
                let elements = PART * precision.elements();
                for (part, lines) in keys.row(token, width).chunks(elements).zip(lines.chunks_mut(PART)) {
                    let mut words = [0u32; PART];
                    match precision {
                        Precision::F32 => words.iter_mut().zip(part).for_each(|(word, value)| *word = value.to_bits()),
                        _ => {
                            let halves: &mut [u16] = bytemuck::cast_slice_mut(&mut words);
                            halves.iter_mut().zip(part).for_each(|(half, value)| *half = bf16::rounded(*value));
                        }
                    }
                    for (line, word) in lines.iter_mut().zip(words) {
                        line.0[lane] = word;
                    }
                }
            }
        }
    }
}

vectorised! {
    /// A step for each token, or for two neighbours.
    fn pack_values(lines: &mut [Line], precision: Precision, values: Rows<'_>, tokens: usize, width: usize) {
        let depth = precision.words(tokens);
        for (block, lines) in lines.chunks_exact_mut(depth).enumerate() {
            let columns = LANES.min(width - block * LANES);
            // The token's columns of this block, zeros behind the last of either.
            let of = |token: usize| {
                let mut row = [0f32; LANES];
                if token < tokens {
                    row[..columns].copy_from_slice(&values.row(token, width)[block * LANES..][..columns]);
                }
                row
            };
            for (p, line) in lines.iter_mut().enumerate() {
                match precision {
                    Precision::F32 => line.0 = of(p).map(f32::to_bits),
                    _ => {
                        let (first, second) = (of(2 * p), of(2 * p + 1));
                        for (lane, word) in line.0.iter_mut().enumerate() {
                            *word = bf16::word(first[lane], second[lane]);
                        }
                    }
                }
            }
        }
    }
}

/// Where a product goes.
struct Target<'a> {
    out: &'a mut [f32],
    step: usize,
    columns: usize,
}

impl Bias<'_> {
    /// The bias from row `first` on.
    fn of_row(self, first: usize) -> Self {
        Self { start: self.start - first * self.back, ..self }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn attention_is_the_plain_sum_over_tokens(
            (count, tokens, width) in (1usize..20, 0usize..40, 1usize..40),
            raw in prop::collection::vec(-1f32..1.0, 20 * 41 + 2 * 40 * 43 + 60),
        ) {
            let (queries, rest) = raw.split_at(20 * 41);
            let (keys, rest) = rest.split_at(40 * 43);
            let (values, bias) = rest.split_at(40 * 43);
            let of = |data: &[f32], row: usize, step: usize| data[row * step..row * step + width].to_vec();
            for precision in [Precision::F32, Precision::Bf16] {
                let near = |v: f32| match precision {
                    Precision::F32 => f64::from(v),
                    _ => f64::from(bf16::widened(bf16::rounded(v))),
                };
                let dot = |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(a, b)| near(*a) * near(*b)).sum() };
                let head = Head { precision, tokens, width };
                let mut lines = vec![Line::default(); head.lines()];
                head.pack(&mut lines, Rows { data: keys, step: 43 }, Rows { data: values, step: 43 });
                for instructions in Instructions::ALL {
                    let mut out = vec![9f32; count * 44];
                    let mut space = vec![f32::NAN; head.space()];
                    let slope = Bias { values: bias, start: 19, back: 1 };
                    let queries_in = Rows { data: queries, step: 41 };
                    head.attend(&mut out, 44, queries_in, count, &lines, Some(slope), &mut space, instructions);
                    for r in 0..count {
                        let query = of(queries, r, 41);
                        let score = |t: usize| dot(&query, &of(keys, t, 43)) + f64::from(bias[19 - r + t]);
                        let parts: Vec<f64> = (0..tokens).map(|t| score(t).exp()).collect();
                        let total: f64 = parts.iter().sum();
                        for c in 0..width {
                            let part = |(t, p): (usize, &f64)| p / total * near(values[t * 43 + c]);
                            let want: f64 = parts.iter().enumerate().map(part).sum();
                            let bound = if precision == Precision::F32 { 1e-5 } else { 6e-3 };
                            let found = f64::from(out[r * 44 + c]);
                            prop_assert!((found - want).abs() < bound, "{precision:?} {instructions:?}: {found} {want}");
                        }
                        prop_assert!(out[r * 44 + width..(r + 1) * 44].iter().all(|&v| v == 9.0));
                    }
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn positions_of_a_rows_own_are_looked_at_like_the_packed_ones(
            (count, tokens, own, width) in (1usize..30, 0usize..40, 1usize..6, 1usize..40),
            raw in prop::collection::vec(-1f32..1.0, 30 * 40 + 2 * 40 * 40 + 2 * 30 * 6 * 40),
        ) {
            let (queries, rest) = raw.split_at(30 * 40);
            let (keys, rest) = rest.split_at(40 * 40);
            let (values, rest) = rest.split_at(40 * 40);
            let (own_keys, own_values) = rest.split_at(30 * 6 * 40);
            let dot = |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum() };
            let of = |row: usize, p: usize| [own_keys, own_values].map(|data| &data[(row * 6 + p) * 40..][..width]);
            let head = Head { precision: Precision::F32, tokens, width };
            let mut lines = vec![Line::default(); head.lines()];
            head.pack(&mut lines, Rows { data: keys, step: 40 }, Rows { data: values, step: 40 });
            let mut out = vec![9f32; count * 44];
            let mut space = vec![f32::NAN; head.space()];
            let rows = Rows { data: queries, step: 40 };
            let current = Instructions::current();
            head.attend_beside(&mut out, 44, rows, count, &lines, own, &of, &mut space, current);
            for r in 0..count {
                let query = &queries[r * 40..][..width];
                let packed = (0..tokens).map(|t| (dot(query, &keys[t * 40..][..width]).exp(), &values[t * 40..][..width]));
                let beside = (0..own).map(|p| (dot(query, of(r, p)[0]).exp(), of(r, p)[1]));
                let all: Vec<(f64, &[f32])> = packed.chain(beside).collect();
                let total: f64 = all.iter().map(|(weight, _)| weight).sum();
                for c in 0..width {
                    let want: f64 = all.iter().map(|(weight, value)| weight / total * f64::from(value[c])).sum();
                    let found = f64::from(out[r * 44 + c]);
                    prop_assert!((found - want).abs() < 1e-5, "row {r}: {found} for {want}");
                }
                prop_assert!(out[r * 44 + width..(r + 1) * 44].iter().all(|&v| v == 9.0));
            }
        }
    }
}
