//! Products of rows with codewords, nearly right and quickly, with a bound on their error: what searches screen with.
//!
//! Let x be a row, m the mean of the first level's codewords, x' = x - m, and c' = c - m for codewords of the first level,
//! c' = c for those of later levels; the distance of x to a sum of codewords, one a level, is that of x' to the sum of the
//! c'. All x'.c' of a block of rows are one product of matrices, in bf16 where the processor has it and in f32 elsewhere.
//!
//! With p the exact and q the computed product, r what rounding to bf16 changed in x' and s what it changed in c',
//! Cauchy-Schwarz gives |p - q| <= |r| |c'| + |x' + r| |s| + g |x' + r| |c' + s|, where g = (D + 2) u, u = 2^-24, bounds the
//! error of the sum whatever its order (Higham, *Accuracy and Stability of Numerical Algorithms*, section 3.1). |r| is
//! measured for every row and k = max |s| / |c'| for every level. So the error is at most a |c'|, with one factor a for all
//! codewords of a level: long codewords have a wide margin without widening that of the others. In f32 r and s are 0.
//!
//! The few products that the screen leaves in doubt are made again by [`Screen::products_again`], in f32 from x' and c',
//! with a sum of 64 lanes: its g is (D / 64 + 8) u.
//!
//! Scores that are put together from products, squared lengths and tables of products of codewords add an error of
//! u (8 l + 48) (|x'| + S) for level l, from 0, again as a factor of 2 |c'|: S sums the longest codewords' lengths up to
//! that level, no term is larger than |c'| (|x'| + S) and each is rounded once or twice. It covers a residual that was
//! itself rounded to f32 after every level.

use sidereal_nn::kernels::bf16::{rounded, widened};
use sidereal_nn::kernels::instructions::{sum_of_lanes, vectorised};

use crate::algebra::bf16::{self, Bf16Columns, Bf16Rows, PANEL};
use crate::algebra::product::{product, squared_norm, transposed};

/// Products of one block of rows: they stay in the second-level cache.
const PRODUCTS_PER_BLOCK: usize = 1 << 17;
/// Half a unit in the last place of 1.0, f32.
const UNIT_ROUNDOFF: f32 = 5.960_464_5e-8;
/// Twice that of f64.
const DISTANCE_ROUNDOFF: f32 = 2.3e-16;
/// Narrower codewords are screened in f32: rounding rows costs more than it saves.
const NARROWEST_BF16: usize = 64;
/// Squared reaches beyond this are not screened: sums could leave the range of f32.
const LARGEST_SQUARE: f32 = 1e36;
/// Lanes of [`Screen::products_again`].
const LANES: usize = 64;
/// Products that [`Screen::products_again`] makes side by side.
const TOGETHER: usize = 4;

/// What the products are made in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kernel {
    F32,
    Bf16,
}

impl Kernel {
    /// The fastest that this processor has for codewords of this width.
    pub(crate) fn for_width(width: usize) -> Self {
        if width >= NARROWEST_BF16 && bf16::is_available() { Self::Bf16 } else { Self::F32 }
    }
}

#[derive(Debug, Clone)]
enum Columns {
    /// [D, columns]
    F32(Vec<f32>),
    Bf16(Bf16Columns),
}

/// One level's columns: its codewords, then zeros to a multiple of [`PANEL`].
#[derive(Debug, Clone)]
pub(crate) struct ScreenLevel {
    start: usize,
    /// |c'|^2; infinite for codewords that are never an answer.
    pub(crate) squares: Vec<f32>,
    /// |c'|, rounded up; 0 where the square is infinite.
    pub(crate) lengths: Vec<f32>,
    /// S of the module's text, rounded up.
    reach: f32,
    /// k of the module's text.
    rounding: f32,
}

/// Stacked codebooks, made ready for screening.
#[derive(Debug, Clone)]
pub(crate) struct Screen {
    /// m
    centre: Vec<f32>,
    levels: Vec<ScreenLevel>,
    /// c', [columns, D]
    codewords: Vec<f32>,
    columns: Columns,
}

/// Rows of a block and their products.
#[derive(Debug, Default)]
pub(crate) struct ScreenScratch {
    rounded: Bf16Rows,
    centred: Vec<f32>,
    /// [M, columns]
    products: Vec<f32>,
    lengths: Vec<RowLengths>,
}

/// Lengths of x' and of r, rounded up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RowLengths {
    length: f32,
    change: f32,
}

/// Bounds on the errors of one row's scores at one level.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Margins {
    /// Of scores from the screen's products, as a factor of |c'|.
    pub(crate) coarse: f32,
    /// Of scores from products that were made again, as a factor of |c'|.
    pub(crate) fine: f32,
    /// Added to both: underflow, and the rounding of distances in f64.
    pub(crate) fixed: f32,
    /// Added to both where scores of several beginnings are compared.
    carried: f32,
}

impl Screen {
    /// Prepares codebooks of one width, [K_l, D] each; `used` tells which codewords of a level can be an answer.
    pub(crate) fn new(codebooks: &[&[f32]], width: usize, used: impl Fn(usize, usize) -> bool, kernel: Kernel) -> Self {
        let centre = mean(codebooks[0], width, |code| used(0, code));
        let columns: usize = codebooks.iter().map(|c| (c.len() / width).next_multiple_of(PANEL)).sum();
        let mut codewords = Vec::with_capacity(columns * width);
        let mut levels: Vec<ScreenLevel> = Vec::with_capacity(codebooks.len());
        for (l, codebook) in codebooks.iter().enumerate() {
            let start = codewords.len() / width;
            match l {
                0 => codebook
                    .chunks_exact(width)
                    .for_each(|c| codewords.extend(c.iter().zip(&centre).map(|(c, m)| c - m))),
                _ => codewords.extend_from_slice(codebook),
            }
            let count = codewords.len() / width - start;
            let before = levels.last().map_or(0.0, |level| level.reach);
            levels.push(level(start, before, &codewords[start * width..], width, kernel, |code| used(l, code)));
            codewords.resize((start + count.next_multiple_of(PANEL)) * width, 0.0);
        }
        let columns = match kernel {
            Kernel::F32 => Columns::F32(transposed(&codewords, width)),
            Kernel::Bf16 => Columns::Bf16(Bf16Columns::pack(&codewords, width)),
        };
        Self { centre, levels, codewords, columns }
    }

    pub(crate) fn level(&self, level: usize) -> &ScreenLevel {
        &self.levels[level]
    }

    /// c' of a level, with the zeros at the end, [K', D].
    pub(crate) fn codewords(&self, level: usize) -> &[f32] {
        let width = self.centre.len();
        &self.codewords[self.levels[level].start * width..][..self.levels[level].squares.len() * width]
    }

    fn total(&self) -> usize {
        self.codewords.len() / self.centre.len()
    }

    /// Rows that are screened at a time.
    pub(crate) fn block(&self) -> usize {
        (PRODUCTS_PER_BLOCK / self.total()).clamp(32, 512) / 8 * 8
    }

    /// Makes all products of a block of rows, [M, D].
    pub(crate) fn make_products(&self, rows: &[f32], scratch: &mut ScreenScratch) {
        let (width, total) = (self.centre.len(), self.total());
        let count = rows.len() / width;
        // Squares below the normal range add up to less than this.
        let lost = (2.0 * width as f32 * f32::MIN_POSITIVE).sqrt();
        let length = |square: f32| square.sqrt() * (1.001 + width as f32 * UNIT_ROUNDOFF) + lost;
        scratch.products.resize(count * total, 0.0);
        scratch.lengths.clear();
        match &self.columns {
            Columns::Bf16(columns) => {
                scratch.rounded.round(rows, &self.centre, |found| {
                    let (length, change) = (length(found.squared_length), length(found.squared_change));
                    scratch.lengths.push(RowLengths { length, change });
                });
                columns.product(&scratch.rounded, count, &mut scratch.products);
            }
            Columns::F32(columns) => {
                scratch.centred.clear();
                for row in rows.chunks_exact(width) {
                    let square = append_centred(row, &self.centre, &mut scratch.centred);
                    scratch.lengths.push(RowLengths { length: length(square), change: 0.0 });
                }
                product(&scratch.centred, width, columns, total, &mut scratch.products);
            }
        }
    }

    /// Bounds for scores of a row at a level; none where they could leave the range of f32.
    pub(crate) fn margins(&self, level: usize, row: RowLengths) -> Option<Margins> {
        let (depth, width) = (level as f32, self.centre.len() as f32);
        let ScreenLevel { reach, rounding, .. } = self.levels[level];
        let square = (row.length + reach) * (row.length + reach);
        if square.is_nan() || square >= LARGEST_SQUARE {
            return None;
        }
        let sums = UNIT_ROUNDOFF * (8.0 * depth + 48.0) * (row.length + reach);
        let rounded = row.length + row.change;
        let coarse = row.change + rounded * rounding + UNIT_ROUNDOFF * (width + 4.0) * rounded + sums;
        let fine = UNIT_ROUNDOFF * (width / LANES as f32 + 9.0) * row.length + sums;
        let exact = DISTANCE_ROUNDOFF * (width + 4.0 * depth + 16.0) * square;
        let fixed = exact + 16.0 * (depth + 1.0) * width * f32::MIN_POSITIVE;
        let carried = 2.0 * fine * reach + UNIT_ROUNDOFF * (depth + 4.0) * square;
        Some(Margins { coarse: 2.04 * coarse, fine: 2.04 * fine, fixed: 1.02 * fixed, carried: 1.02 * carried })
    }

    /// Makes x'.c' again for some codes of a level, in f32 and an order that is fixed.
    pub(crate) fn products_again(&self, row: &[f32], level: usize, codes: &[usize], products: &mut [f32]) {
        let width = self.centre.len();
        let start = self.levels[level].start;
        let codeword = |code: usize| &self.codewords[(start + code) * width..][..width];
        for codes in codes.chunks(TOGETHER) {
            // Short groups repeat their first code: codewords come from far caches, and four arrive as fast as one.
            let group = [0, 1, 2, 3].map(|i| codeword(*codes.get(i).unwrap_or(&codes[0])));
            for (&code, product) in codes.iter().zip(products_of_centred(row, &self.centre, group)) {
                products[code] = product;
            }
        }
    }
}

impl Margins {
    /// Bounds where scores of several beginnings are compared.
    pub(crate) fn with_beginnings(self) -> Self {
        Self { fixed: self.fixed + self.carried, ..self }
    }
}

impl ScreenScratch {
    /// Lengths of a row, and its products with the columns of a level.
    pub(crate) fn row<'a>(&'a mut self, screen: &Screen, row: usize, level: usize) -> (RowLengths, &'a mut [f32]) {
        let ScreenLevel { start, squares, .. } = &screen.levels[level];
        let at = row * screen.total() + start;
        (self.lengths[row], &mut self.products[at..at + squares.len()])
    }
}

/// A level of the columns from `start` on; `before` is the reach of the levels before.
fn level(
    start: usize,
    before: f32,
    codewords: &[f32],
    width: usize,
    kernel: Kernel,
    used: impl Fn(usize) -> bool,
) -> ScreenLevel {
    let count = codewords.len() / width;
    let padded = count.next_multiple_of(PANEL);
    let (mut squares, mut lengths) = (vec![f32::INFINITY; padded], vec![0f32; padded]);
    let (mut longest, mut rounding) = (0f32, 0f64);
    for (code, codeword) in codewords.chunks_exact(width).enumerate().filter(|&(code, _)| used(code)) {
        let square = squared_norm(codeword);
        squares[code] = square as f32;
        lengths[code] = (square.sqrt() * (1.0 + 1e-6)) as f32 + f32::MIN_POSITIVE;
        // Keeps what is not a number: such a level is not screened.
        longest = if longest.is_nan() || lengths[code] <= longest { longest } else { lengths[code] };
        if kernel == Kernel::Bf16 && square > 0.0 {
            rounding = rounding.max((change(codeword) / square).sqrt());
        }
    }
    ScreenLevel { start, squares, lengths, reach: (before + longest) * 1.000_001, rounding: (rounding * 1.001) as f32 }
}

vectorised! {
    /// What rounding to bf16 changes in a codeword: its squared length.
    fn change(codeword: &[f32]) -> f64 {
        let mut lanes = [0f64; 8];
        for values in codeword.chunks(lanes.len()) {
            for (lane, &v) in lanes.iter_mut().zip(values) {
                let lost = f64::from(v - widened(rounded(v)));
                *lane += lost * lost;
            }
        }
        lanes.iter().sum()
    }
}

/// The mean of the used codewords.
fn mean(codewords: &[f32], width: usize, used: impl Fn(usize) -> bool) -> Vec<f32> {
    let mut sum = vec![0f64; width];
    let mut count = 0;
    for (_, codeword) in codewords.chunks_exact(width).enumerate().filter(|&(code, _)| used(code)) {
        sum.iter_mut().zip(codeword).for_each(|(sum, &v)| *sum += f64::from(v));
        count += 1;
    }
    sum.into_iter().map(|sum| (sum / f64::from(count.max(1))) as f32).collect()
}

vectorised! {
    /// (x - m).c of a few c.
    fn products_of_centred(row: &[f32], centre: &[f32], codewords: [&[f32]; TOGETHER]) -> [f32; TOGETHER] {
        let mut lanes = [[0f32; LANES]; TOGETHER];
        let width = row.len();
        let (centre, codewords) = (&centre[..width], codewords.map(|c| &c[..width]));
        let whole = width / LANES * LANES;
        let mut at = 0;
        while at < whole {
            let (x, m) = (&row[at..at + LANES], &centre[at..at + LANES]);
            for (lanes, codeword) in lanes.iter_mut().zip(codewords) {
                let c = &codeword[at..at + LANES];
                for lane in 0..LANES {
                    lanes[lane] += (x[lane] - m[lane]) * c[lane];
                }
            }
            at += LANES;
        }
        for (lanes, codeword) in lanes.iter_mut().zip(codewords) {
            for i in whole..width {
                lanes[i - whole] += (row[i] - centre[i]) * codeword[i];
            }
        }
        let mut sums = [0f32; TOGETHER];
        for (sum, lanes) in sums.iter_mut().zip(lanes) {
            *sum = sum_of_lanes(lanes);
        }
        sums
    }
}

vectorised! {
    /// Appends x - m; answers its squared length.
    fn append_centred(row: &[f32], centre: &[f32], out: &mut Vec<f32>) -> f32 {
        let start = out.len();
        out.extend(row.iter().zip(centre).map(|(x, m)| x - m));
        let mut lanes = [0f32; LANES];
        for values in out[start..].chunks(LANES) {
            for (lane, v) in lanes.iter_mut().zip(values) {
                *lane += v * v;
            }
        }
        sum_of_lanes(lanes)
    }
}

/// Every kernel that this processor has.
#[cfg(test)]
pub(crate) fn kernels() -> Vec<Kernel> {
    let bf16 = bf16::is_available().then_some(Kernel::Bf16);
    [Kernel::F32].into_iter().chain(bf16).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn products_are_as_near_as_the_margins_say(
            width in 1usize..150,
            codes in 1usize..40,
            magnitude in prop::sample::select(vec![1e-18f32, 1e-6, 1.0, 1e9]),
            offset in prop::sample::select(vec![0f32, 1.0, 30.0]),
            raw in prop::collection::vec(-1f32..1.0, 150 * 90),
        ) {
            let value = |v: &f32| (v + offset) * magnitude;
            let rows: Vec<f32> = raw[..9 * width].iter().map(value).collect();
            let first: Vec<f32> = raw[9 * width..][..codes * width].iter().map(value).collect();
            let second: Vec<f32> = raw[50 * width..][..codes * width].iter().map(|v| v * v * v * magnitude).collect();
            for kernel in kernels() {
                let screen = Screen::new(&[&first, &second], width, |_, _| true, kernel);
                let mut scratch = ScreenScratch::default();
                screen.make_products(&rows, &mut scratch);
                for (i, row) in rows.chunks(width).enumerate() {
                    let from_centre: Vec<f64> =
                        row.iter().zip(&screen.centre).map(|(&x, &m)| f64::from(x) - f64::from(m)).collect();
                    for l in 0..2 {
                        let (lengths, products) = scratch.row(&screen, i, l);
                        let margins = screen.margins(l, lengths).unwrap_or_else(|| panic!("{lengths:?}"));
                        let screened: Vec<f32> = products.to_vec();
                        let all: Vec<usize> = (0..codes).collect();
                        screen.products_again(row, l, &all, products);
                        for (code, codeword) in [&first, &second][l].chunks(width).enumerate() {
                            let moved = |d: usize| if l == 0 { f64::from(screen.centre[d]) } else { 0.0 };
                            let exact: f64 = (0..width).map(|d| from_centre[d] * (f64::from(codeword[d]) - moved(d))).sum();
                            let length = f64::from(screen.levels[l].lengths[code]);
                            for (found, margin) in [(screened[code], margins.coarse), (products[code], margins.fine)] {
                                // Scores hold twice the product.
                                let bound = 0.5 * (f64::from(margin) * length + f64::from(margins.fixed));
                                prop_assert!((f64::from(found) - exact).abs() <= bound, "{kernel:?} {found} {exact} {bound}");
                            }
                        }
                    }
                }
            }
        }
    }
}
