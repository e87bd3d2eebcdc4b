//! The nearest sums of codewords, one a level: products screen, f64 decides the close calls.
//!
//! With x the row and c_j the codewords chosen so far, |x - sum c_j|^2 = |x|^2 + sum |c_j|^2 - 2 sum x.c_j + 2 sum c_j.c_k:
//! one product of the rows with all codebooks, and tables of products of codewords, serve every level and every beginning
//! of codes that is kept, so later levels need no residuals.
//!
//! *What the codes are*: at every level all continuations of the W beginnings that were kept are ordered by their distance
//! to the row, in f64, summed in a fixed order, equal distances by their codes; the first W are kept. With W = 1 the
//! distance is that of the residual, which is rounded to f32 after every level, to the codeword; otherwise residuals are f64.
//!
//! *How they are found*: scores, which order continuations as distances do, have known bounds on their error
//! ([`Screen`]), so each is between a lower and an upper end. A continuation whose lower end is above the W-th smallest
//! upper end is not among the first W; where more than W are left their products are made again, in f32; what is still
//! left has places taken by those whose upper end is below the (W + 1)-th smallest lower end, and only the rest is
//! compared by distances. So codes depend neither on the kernel, nor the number of threads, nor the rows of a batch.

use std::sync::Arc;

use sidereal_nn::kernels::instructions::vectorised;

use crate::algebra::product::{product_f64, squared_distance};
use crate::codebooks::screen::{Kernel, Margins, RowLengths, Screen, ScreenScratch};

/// Scores that are looked at together.
const LANES: usize = 16;
/// Most beginnings that can be kept.
pub(crate) const MOST_WANTED: usize = 64;

/// A stack of codebooks, ready for searching.
#[derive(Debug, Clone)]
pub(crate) struct CodeSearch {
    width: usize,
    /// [K_l, D] each.
    codebooks: Vec<Arc<[f32]>>,
    /// Codewords of the first level that can be an answer; all of the later ones can.
    used: Vec<bool>,
    /// W
    beam: usize,
    screen: Screen,
    /// For level l and every level j before it 2 c_j.c_l, [K_j, K_l'], with zeros where the screen has them.
    tables: Vec<Vec<Vec<f32>>>,
}

/// What a search works in; of any content.
#[derive(Debug, Default)]
pub(crate) struct SearchScratch {
    screen: ScreenScratch,
    beam: Beam,
}

/// The beginnings of one row's codes.
#[derive(Debug, Default)]
struct Beam {
    /// [W, l], ascending.
    codes: Vec<u16>,
    /// `[W]`; 0 of a single one, whose score orders nothing.
    scores: Vec<f32>,
    /// |c'|^2 - 2 x'.c' of a level.
    line: Vec<f32>,
    /// Scores of all ways to go on, [W, K'].
    next: Vec<f32>,
    close: Vec<Continuation>,
    /// Codes whose products were made again at this level.
    again: Vec<usize>,
    ends: Vec<f32>,
    spare: (Vec<u16>, Vec<f32>),
    residual: Residual,
}

/// What is looked for at a level.
#[derive(Debug, Clone, Copy)]
struct Step {
    level: usize,
    last: bool,
    wanted: usize,
}

/// A way to go on that may be among the first.
#[derive(Debug, Clone, Copy)]
struct Continuation {
    /// Its place in the scores: beginning * K' + code.
    number: usize,
    lower: f32,
    upper: f32,
    distance: f64,
}

impl CodeSearch {
    /// Prepares codebooks of one width; `beam` beginnings are kept at every level.
    pub(crate) fn new(codebooks: Vec<Arc<[f32]>>, width: usize, beam: usize) -> Self {
        let used = vec![true; codebooks[0].len() / width];
        Self::with_kernel(codebooks, width, beam, &used, Kernel::for_width(width))
    }

    /// The same with some codewords of the first level that are never an answer, and a kernel of choice.
    pub(crate) fn with_kernel(
        codebooks: Vec<Arc<[f32]>>,
        width: usize,
        beam: usize,
        used: &[bool],
        kernel: Kernel,
    ) -> Self {
        let all: Vec<&[f32]> = codebooks.iter().map(|c| &c[..]).collect();
        let screen = Screen::new(&all, width, |level, code| level > 0 || used[code], kernel);
        let table = |l: usize, j: usize| doubled_products(screen.codewords(j), screen.codewords(l), width);
        let tables = (0..codebooks.len()).map(|l| (0..l).map(|j| table(l, j)).collect()).collect();
        Self { width, codebooks, used: used.to_vec(), beam, screen, tables }
    }

    /// K of a level.
    pub(crate) fn codes(&self, level: usize) -> usize {
        self.codebooks[level].len() / self.width
    }

    /// K', the codes of a level with those that fill up its last panel.
    fn stride(&self, level: usize) -> usize {
        self.screen.level(level).squares.len()
    }

    /// Hands the best codes of every row to `found(row number, codes [kept, L])`, in row order and ascending by code;
    /// `keep` is the number of them, fewer where there are fewer.
    ///
    /// # Shapes
    /// `rows`: [M, D]
    pub(crate) fn search(
        &self,
        rows: &[f32],
        keep: usize,
        scratch: &mut SearchScratch,
        mut found: impl FnMut(usize, &[u16]),
    ) {
        let levels = self.codebooks.len();
        let SearchScratch { screen, beam } = scratch;
        let block = self.screen.block();
        for (at, rows) in rows.chunks(block * self.width).enumerate() {
            self.screen.make_products(rows, screen);
            for (i, row) in rows.chunks_exact(self.width).enumerate() {
                beam.codes.clear();
                beam.scores.clear();
                beam.scores.push(0.0);
                for level in 0..levels {
                    let last = level + 1 == levels;
                    let step = Step { level, last, wanted: if last { keep } else { self.beam } };
                    let (lengths, products) = screen.row(&self.screen, i, level);
                    self.go_on(row, step, lengths, products, beam);
                }
                found(at * block + i, &beam.codes);
            }
        }
    }

    /// Replaces the beginnings by the first of their continuations.
    fn go_on(&self, row: &[f32], step: Step, lengths: RowLengths, products: &mut [f32], beam: &mut Beam) {
        let Step { level, last, wanted } = step;
        let wanted = wanted.min(beam.scores.len() * self.codes(level));
        match self.screen.margins(level, lengths) {
            Some(margins) => {
                let margins = if beam.scores.len() > 1 { margins.with_beginnings() } else { margins };
                self.score(level, products, beam);
                self.pick(level, wanted, &margins, beam);
                if beam.close.len() > wanted || (wanted > 1 && !last) {
                    self.score_again(row, level, products, &margins, beam);
                    beam.keep_possible(wanted, 0.0);
                }
            }
            None => self.list_all(level, beam),
        }
        if beam.close.len() > wanted {
            self.compare_distances(row, level, wanted, beam);
        }
        self.keep(level, beam);
    }

    /// Lists all continuations, for rows or codewords that leave the range of scores at this and all later levels.
    fn list_all(&self, level: usize, beam: &mut Beam) {
        let (codes, stride) = (self.codes(level), self.stride(level));
        beam.next.clear();
        beam.next.resize(beam.scores.len() * stride, 0.0);
        beam.close.clear();
        for w in 0..beam.scores.len() {
            let possible = (0..codes).filter(|&code| level > 0 || self.used[code]);
            let end = |code| Continuation { number: w * stride + code, lower: 0.0, upper: 0.0, distance: 0.0 };
            beam.close.extend(possible.map(end));
        }
    }

    /// Scores of all continuations from the screen's products.
    fn score(&self, level: usize, products: &[f32], beam: &mut Beam) {
        let squares = &self.screen.level(level).squares;
        beam.line.resize(squares.len(), 0.0);
        score_line(squares, products, &mut beam.line);
        beam.next.resize(beam.scores.len() * squares.len(), 0.0);
        for (w, next) in beam.next.chunks_exact_mut(squares.len()).enumerate() {
            let before = &beam.codes[w * level..(w + 1) * level];
            let table = |j: usize| &self.tables[level][j][usize::from(before[j]) * squares.len()..][..squares.len()];
            match level {
                0 => next.copy_from_slice(&beam.line),
                1 => add_lines(&beam.line, table(0), beam.scores[w], next),
                _ => {
                    add_lines(&beam.line, table(0), 0.0, next);
                    (1..level - 1).for_each(|j| add_line(table(j), 0.0, next));
                    add_line(table(level - 1), beam.scores[w], next);
                }
            }
        }
    }

    /// Lists the continuations that may be among the first `wanted`.
    fn pick(&self, level: usize, wanted: usize, margins: &Margins, beam: &mut Beam) {
        let lengths = &self.screen.level(level).lengths;
        let mut least = [f32::INFINITY; MOST_WANTED];
        for next in beam.next.chunks_exact(lengths.len()) {
            least_uppers(next, lengths, margins.coarse, &mut least);
        }
        // Each of these is the upper end of another continuation, so the n-th is not below the n-th of all.
        let limit = match wanted {
            1 => least.into_iter().fold(f32::INFINITY, f32::min),
            _ => *least.select_nth_unstable_by(wanted - 1, f32::total_cmp).1,
        };
        // Infinite where fewer lanes are in use than continuations wanted: then all are listed.
        let limit = (limit + 2.0 * margins.fixed).min(f32::MAX);
        beam.close.clear();
        for (w, next) in beam.next.chunks_exact(lengths.len()).enumerate() {
            list_lower(next, lengths, margins.coarse, limit, w * lengths.len(), &mut beam.close);
        }
        beam.keep_possible(wanted, 2.0 * margins.fixed);
    }

    /// Makes the products of the listed continuations again, and their scores.
    fn score_again(&self, row: &[f32], level: usize, products: &mut [f32], margins: &Margins, beam: &mut Beam) {
        let screened = self.screen.level(level);
        let stride = screened.squares.len();
        beam.again.clear();
        beam.again.extend(beam.close.iter().map(|c| c.number % stride));
        beam.again.sort_unstable();
        beam.again.dedup();
        self.screen.products_again(row, level, &beam.again, products);
        for continuation in &mut beam.close {
            let (w, code) = (continuation.number / stride, continuation.number % stride);
            let before = &beam.codes[w * level..(w + 1) * level];
            let tables = self.tables[level].iter().zip(before);
            let line = screened.squares[code] - (products[code] + products[code]);
            let score = tables.fold(line, |sum, (table, &c)| sum + table[usize::from(c) * stride + code]);
            let score = score + beam.scores[w];
            let margin = margins.fine * screened.lengths[code] + margins.fixed;
            beam.next[continuation.number] = score;
            *continuation = Continuation { lower: score - margin, upper: score + margin, ..*continuation };
        }
    }

    /// Takes the first `wanted` of the listed, by distance where the ends do not tell.
    fn compare_distances(&self, row: &[f32], level: usize, wanted: usize, beam: &mut Beam) {
        let stride = self.stride(level);
        beam.ends.clear();
        beam.ends.extend(beam.close.iter().map(|c| c.lower));
        beam.ends.sort_unstable_by(f32::total_cmp);
        let beyond = beam.ends[wanted];
        // Those in doubt go to the end of the list.
        beam.close.sort_unstable_by_key(|c| (c.upper >= beyond, c.number));
        let sure = beam.close.iter().filter(|c| c.upper < beyond).count();
        beam.residual.of = None;
        for continuation in &mut beam.close[sure..] {
            let (w, code) = (continuation.number / stride, continuation.number % stride);
            if beam.residual.of != Some(w) {
                let before = self.codebooks.iter().zip(&beam.codes[w * level..(w + 1) * level]);
                let before = before.map(|(codebook, &c)| &codebook[usize::from(c) * self.width..][..self.width]);
                beam.residual.make(row, w, self.beam > 1, before);
            }
            continuation.distance = beam.residual.distance(&self.codebooks[level][code * self.width..][..self.width]);
        }
        beam.close[sure..].sort_unstable_by(|a, b| a.distance.total_cmp(&b.distance).then(a.number.cmp(&b.number)));
        beam.close.truncate(wanted);
        beam.close.sort_unstable_by_key(|c| c.number);
    }

    /// Makes the listed continuations the beginnings of the next level.
    fn keep(&self, level: usize, beam: &mut Beam) {
        let stride = self.stride(level);
        let (codes, scores) = &mut beam.spare;
        codes.clear();
        scores.clear();
        for continuation in &beam.close {
            codes.extend_from_slice(&beam.codes[continuation.number / stride * level..][..level]);
            codes.push((continuation.number % stride) as u16);
            scores.push(if beam.close.len() > 1 { beam.next[continuation.number] } else { 0.0 });
        }
        if beam.close.is_empty() {
            // No codeword can be an answer.
            codes.push(0);
            scores.push(0.0);
        }
        std::mem::swap(&mut beam.codes, codes);
        std::mem::swap(&mut beam.scores, scores);
    }
}

impl Beam {
    /// Drops the listed continuations that cannot be among the first `wanted`; ends are off by half of `slack` each.
    fn keep_possible(&mut self, wanted: usize, slack: f32) {
        if self.close.len() > wanted {
            self.ends.clear();
            self.ends.extend(self.close.iter().map(|c| c.upper));
            self.ends.sort_unstable_by(f32::total_cmp);
            let limit = self.ends[wanted - 1] + slack;
            self.close.retain(|c| c.lower <= limit);
        }
    }
}

/// What a beginning leaves of a row.
#[derive(Debug, Default)]
struct Residual {
    /// Which beginning this is of.
    of: Option<usize>,
    rounded: Vec<f32>,
    /// Empty where residuals are rounded.
    exact: Vec<f64>,
}

impl Residual {
    fn make<'a>(&mut self, row: &[f32], of: usize, exact: bool, before: impl Iterator<Item = &'a [f32]>) {
        self.of = Some(of);
        self.rounded.clear();
        self.exact.clear();
        if exact {
            self.exact.extend(row.iter().map(|&v| f64::from(v)));
            for codeword in before {
                self.exact.iter_mut().zip(codeword).for_each(|(r, &c)| *r -= f64::from(c));
            }
        } else {
            self.rounded.extend_from_slice(row);
            for codeword in before {
                self.rounded.iter_mut().zip(codeword).for_each(|(r, c)| *r -= c);
            }
        }
    }

    /// Squared distance to a codeword.
    fn distance(&self, codeword: &[f32]) -> f64 {
        if self.exact.is_empty() {
            return squared_distance(&self.rounded, codeword);
        }
        let differences = self.exact.iter().zip(codeword).map(|(r, &c)| r - f64::from(c));
        differences.map(|d| d * d).sum()
    }
}

/// 2 a.b of all rows, [A, D] and [B, D] to [A, B], summed in f64.
fn doubled_products(a: &[f32], b: &[f32], width: usize) -> Vec<f32> {
    let count = b.len() / width;
    let columns: Vec<f64> =
        (0..width).flat_map(|d| b.chunks_exact(width).map(move |b| 2.0 * f64::from(b[d]))).collect();
    let mut sums = Vec::new();
    let mut table = Vec::with_capacity(a.len() / width * count);
    for rows in a.chunks(64 * width) {
        let rows: Vec<f64> = rows.iter().map(|&v| f64::from(v)).collect();
        sums.resize(rows.len() / width * count, 0.0);
        product_f64(&rows, width, &columns, count, &mut sums);
        table.extend(sums.iter().map(|&v| v as f32));
    }
    table
}

vectorised! {
    fn score_line(squares: &[f32], products: &[f32], line: &mut [f32]) {
        for ((line, square), product) in line.iter_mut().zip(squares).zip(products) {
            *line = square - (product + product);
        }
    }
}

vectorised! {
    fn add_lines(line: &[f32], table: &[f32], score: f32, next: &mut [f32]) {
        for ((next, line), table) in next.iter_mut().zip(line).zip(table) {
            *next = (line + table) + score;
        }
    }
}

vectorised! {
    fn add_line(table: &[f32], score: f32, next: &mut [f32]) {
        for (next, table) in next.iter_mut().zip(table) {
            *next = (*next + table) + score;
        }
    }
}

vectorised! {
    /// Lowers every lane to the smallest upper end in it.
    fn least_uppers(scores: &[f32], lengths: &[f32], margin: f32, lanes: &mut [f32; MOST_WANTED]) {
        for (scores, lengths) in scores.chunks(MOST_WANTED).zip(lengths.chunks(MOST_WANTED)) {
            for ((lane, score), length) in lanes.iter_mut().zip(scores).zip(lengths) {
                let upper = score + margin * length;
                *lane = if upper < *lane { upper } else { *lane };
            }
        }
    }
}

vectorised! {
    /// Lists the scores whose lower end is at most `limit`.
    fn list_lower(
        scores: &[f32], lengths: &[f32], margin: f32, limit: f32, start: usize, close: &mut Vec<Continuation>,
    ) {
        for (at, (scores, lengths)) in scores.chunks_exact(LANES).zip(lengths.chunks_exact(LANES)).enumerate() {
            let mut lower = [0f32; LANES];
            for lane in 0..LANES {
                lower[lane] = scores[lane] - margin * lengths[lane];
            }
            if !lower.iter().fold(false, |any, &l| any | (l <= limit)) {
                continue;
            }
            for (lane, &lower) in lower.iter().enumerate() {
                if lower <= limit {
                    let number = start + at * LANES + lane;
                    let upper = scores[lane] + margin * lengths[lane];
                    close.push(Continuation { number, lower, upper, distance: 0.0 });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::codebooks::screen::kernels;

    fn codes_of(search: &CodeSearch, rows: &[f32]) -> Vec<u16> {
        let mut codes = Vec::new();
        search.search(rows, 1, &mut SearchScratch::default(), |_, found| codes.extend_from_slice(found));
        codes
    }

    /// The codes as they are defined: every continuation compared by its distance.
    fn brute_force(codebooks: &[Arc<[f32]>], width: usize, beam: usize, row: &[f32]) -> Vec<u16> {
        let mut kept: Vec<Vec<u16>> = vec![Vec::new()];
        for (l, codebook) in codebooks.iter().enumerate() {
            let mut all: Vec<(f64, Vec<u16>)> = Vec::new();
            for codes in &kept {
                let chosen = |j: usize| &codebooks[j][usize::from(codes[j]) * width..][..width];
                let (mut rounded, mut exact) = (row.to_vec(), row.iter().map(|&v| f64::from(v)).collect::<Vec<f64>>());
                for j in 0..l {
                    rounded.iter_mut().zip(chosen(j)).for_each(|(r, c)| *r -= c);
                    exact.iter_mut().zip(chosen(j)).for_each(|(r, &c)| *r -= f64::from(c));
                }
                for (code, codeword) in codebook.chunks(width).enumerate() {
                    let squares = exact.iter().zip(codeword).map(|(r, &c)| (r - f64::from(c)) * (r - f64::from(c)));
                    let distance = if beam > 1 { squares.sum() } else { squared_distance(&rounded, codeword) };
                    all.push((distance, codes.iter().copied().chain([code as u16]).collect()));
                }
            }
            all.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            all.truncate(if l + 1 == codebooks.len() { 1 } else { beam });
            kept = all.into_iter().map(|(_, codes)| codes).collect();
            kept.sort();
        }
        kept.remove(0)
    }

    /// Checks every kernel against the definition, and rows alone against rows together.
    fn check(codebooks: &[Arc<[f32]>], width: usize, beam: usize, rows: &[f32]) {
        let want: Vec<u16> = rows.chunks(width).flat_map(|row| brute_force(codebooks, width, beam, row)).collect();
        for kernel in kernels() {
            let used = vec![true; codebooks[0].len() / width];
            let search = CodeSearch::with_kernel(codebooks.to_vec(), width, beam, &used, kernel);
            assert_eq!(codes_of(&search, rows), want, "{kernel:?}, beam {beam}");
            let alone: Vec<u16> = rows.chunks(width).flat_map(|row| codes_of(&search, row)).collect();
            assert_eq!(alone, want, "{kernel:?}, beam {beam}, rows alone");
        }
    }

    proptest! {
        #[test]
        fn ties_go_to_the_smaller_codes_at_every_magnitude(
            width in 1usize..70,
            codes in 1usize..40,
            beam in 1usize..7,
            scale in prop::sample::select(vec![1e-30f32, 1e-18, 1e-10, 1.0, 1e9, 1e15, 1e25]),
            raw in prop::collection::vec(-4i32..5, 70 * 132),
        ) {
            // Small whole numbers make many exact ties.
            let value = |v: &i32| *v as f32 * scale;
            let rows: Vec<f32> = raw[..12 * width].iter().map(value).collect();
            let codebook = |l: usize| -> Arc<[f32]> {
                raw[(12 + l * 40) * width..][..(codes - l.min(codes - 1)) * width].iter().map(value).collect()
            };
            check(&[codebook(0), codebook(1), codebook(2)], width, beam, &rows);
        }

        #[test]
        fn clustered_and_odd_rows_get_the_codes_of_the_definition(
            width in 60usize..140,
            codes in 30usize..70,
            beam in prop::sample::select(vec![1usize, 1, 3, 5]),
            spread in prop::sample::select(vec![1f32, 1e-2, 1e-4, 1e-7]),
            offset in prop::sample::select(vec![0f32, 1.0, 100.0]),
            odd in prop::sample::select(vec![1e-30f32, 1e-12, 1e6, 1e12, 1e30]),
            raw in prop::collection::vec(-1f32..1.0, 140 * 170),
        ) {
            // Rows and codewords crowd around a few centres, so that many distances are nearly equal.
            let crowd = |from: usize, count: usize| -> Vec<f32> {
                let at = |i: usize, d: usize| offset + raw[(i % 3) * width + d] + spread * raw[(from + i) * width + d];
                (0..count * width).map(|v| at(v / width, v % width)).collect()
            };
            let mut rows = crowd(3, 14);
            rows[..width].fill(0.0);
            rows[width..2 * width].fill(0.3);
            rows[2 * width..3 * width].iter_mut().for_each(|v| *v *= odd);
            let first = crowd(20, codes);
            rows[3 * width..4 * width].copy_from_slice(&first[width..2 * width]);
            let mut second: Vec<f32> = raw[95 * width..][..codes * width].iter().map(|v| v * spread).collect();
            // Some codewords twice, one zero, one long.
            second.copy_within(..4 * width, 5 * width);
            second[9 * width..10 * width].fill(0.0);
            second[10 * width..11 * width].iter_mut().for_each(|v| *v *= 50.0);
            let third: Vec<f32> = second.iter().rev().map(|v| v * 0.5).collect();
            check(&[first.into(), second.into(), third.into()], width, beam, &rows);
        }
    }

    #[test]
    fn codewords_of_unlike_magnitudes_are_told_apart() {
        let width = 64;
        let lengths = [1e-30f32, 1e-20, 1e-10, 1e-3, 1.0, 1e3, 1e10, 1e17, 1e20, 1e30];
        let of = |f: &dyn Fn(usize, f32) -> f32| -> Vec<f32> {
            lengths.iter().flat_map(|&length| (0..width).map(move |d| (d, length))).map(|(d, l)| f(d, l)).collect()
        };
        let codebook: Arc<[f32]> = of(&|d, l| l * (1.0 + d as f32).sin()).into();
        let other: Arc<[f32]> = of(&|d, l| l * (2.0 + d as f32).cos()).into();
        let rows = of(&|d, l| l * (1.1 + d as f32).sin());
        for beam in [1, 4] {
            check(&[codebook.clone(), other.clone()], width, beam, &rows);
        }
    }

    #[test]
    fn searching_all_levels_at_once_is_searching_level_by_level() {
        let mut rng = sidereal_nn::rng::Rng::new(5, "rows");
        let mut noise = |count: usize| -> Vec<f32> { (0..count).map(|_| rng.normal() as f32).collect() };
        let width = 96;
        let mut stack = crate::codebooks::residual::ResidualCodebooks::new(width);
        for codes in [64, 33, 100, 32] {
            stack.push(noise(codes * width), None);
        }
        let mut rows = noise(700 * width);
        let at_once = codes_of(&stack.search(1), &rows);
        let mut codes = vec![0; 700 * 4];
        stack.encode_rows(&mut rows, &mut SearchScratch::default(), &mut codes);
        assert_eq!(at_once, codes);
    }
}
