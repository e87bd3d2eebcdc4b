//! The grid of a level: a code is a number of bins in several dimensions, counted with the first fastest.

use serde::{Deserialize, Serialize};

/// How a grid of an even number of bins, which has no bin in its middle, is shifted so that 0 stays near 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shift {
    /// The tangent, over a half width of (n - 1)(1 - 0.001) / 2: as in RecGPT.
    #[default]
    Tan,
    /// The inverse of the bound, over a half width of (n - 1)(1 + 0.001) / 2: as in vector-quantize-pytorch. 0 becomes
    /// 0 exactly.
    Atanh,
}

const EPS: f64 = 1e-3;
/// Most bins of a dimension that [`bins_of`] uses.
const MOST_BINS: u32 = 16;
/// More than this only where a prime factor demands it; the paper's own grids use 5 to 8.
const USUAL_BINS: u32 = 8;

/// The bins whose product is `codes`: as few dimensions as possible of at most 8 bins (up to 16 for multiples of 11 and
/// 13), as even as possible. 15,360 is [8, 8, 8, 6, 5], 1,000 is [8, 5, 5, 5] and 240 is [8, 6, 5], as in the paper;
/// 256 is [8, 8, 4]. None for 1 and for multiples of primes beyond 13.
pub fn bins_of(codes: u32) -> Option<Vec<u32>> {
    let mut best: Option<Vec<u32>> = None;
    factorise(codes, MOST_BINS, &mut Vec::new(), &mut best);
    best
}

/// Walks the products of non-increasing factors of at most `most`.
fn factorise(rest: u32, most: u32, factors: &mut Vec<u32>, best: &mut Option<Vec<u32>>) {
    let cost = |factors: &[u32]| {
        let unusual = factors.iter().filter(|&&f| f > USUAL_BINS).count();
        (unusual, factors.len(), factors.first().copied().unwrap_or(0))
    };
    if rest == 1 {
        if !factors.is_empty() && best.as_ref().is_none_or(|best| cost(factors) < cost(best)) {
            *best = Some(factors.clone());
        }
        return;
    }
    for factor in (2..=most.min(rest)).rev().filter(|&f| rest.is_multiple_of(f)) {
        factors.push(factor);
        factorise(rest / factor, factor, factors, best);
        factors.pop();
    }
}

/// # Shapes
/// All `[b]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Grid {
    bins: Vec<u32>,
    pub(super) half: Vec<f32>,
    pub(super) offset: Vec<f32>,
    pub(super) shift: Vec<f32>,
}

impl Grid {
    /// A grid of these bins, each 2 or more.
    pub fn new(bins: &[u32], shift: Shift) -> Self {
        let eps = match shift {
            Shift::Tan => -EPS,
            Shift::Atanh => EPS,
        };
        let half: Vec<f64> = bins.iter().map(|&n| (f64::from(n) - 1.0) * (1.0 + eps) / 2.0).collect();
        let offset: Vec<f64> = bins.iter().map(|n| if n.is_multiple_of(2) { 0.5 } else { 0.0 }).collect();
        let shifts = half.iter().zip(&offset).map(|(half, offset)| match shift {
            Shift::Tan => (offset / half).tan() as f32,
            Shift::Atanh => (offset / half).atanh() as f32,
        });
        Self {
            bins: bins.to_vec(),
            shift: shifts.collect(),
            half: half.iter().map(|&v| v as f32).collect(),
            offset: offset.iter().map(|&v| v as f32).collect(),
        }
    }

    /// Bins of every dimension, `[b]`.
    pub fn bins(&self) -> &[u32] {
        &self.bins
    }

    /// b.
    pub fn width(&self) -> usize {
        self.bins.len()
    }

    /// K, the product of the bins.
    pub fn codes(&self) -> u32 {
        self.bins.iter().product()
    }

    /// tanh(v + shift) half - offset: within half a bin of the grid's ends.
    pub fn bound(&self, dimension: usize, v: f32) -> f32 {
        (v + self.shift[dimension]).tanh() * self.half[dimension] - self.offset[dimension]
    }

    /// Half of the bins, rounded down: what numbers are divided by, and what is added to make them count from 0.
    pub(super) fn half_width(&self, dimension: usize) -> u32 {
        self.bins[dimension] / 2
    }

    /// Bounded numbers on the scale of codewords, `[b]` to `[b]`.
    pub(super) fn bound_row(&self, numbers: &[f32], out: &mut [f32]) {
        for (dimension, (v, out)) in numbers.iter().zip(out).enumerate() {
            *out = self.bound(dimension, *v) / self.half_width(dimension) as f32;
        }
    }

    /// The code of numbers before the bound, `[b]`. Rounded first and made an integer then.
    pub fn code(&self, numbers: &[f32]) -> u32 {
        let mut code = 0;
        for (dimension, v) in numbers.iter().enumerate().rev() {
            let bin = self.bound(dimension, *v).round() as i64 + i64::from(self.half_width(dimension));
            let last = i64::from(self.bins[dimension]) - 1;
            code = code * self.bins[dimension] + bin.clamp(0, last) as u32;
        }
        code
    }

    /// The codeword of a code, `[b]`: from -1 to about 1.
    pub fn codeword(&self, code: u32) -> impl Iterator<Item = f32> {
        let mut rest = code;
        (0..self.width()).map(move |dimension| {
            let bin = rest % self.bins[dimension];
            rest /= self.bins[dimension];
            let half = self.half_width(dimension) as f32;
            (bin as f32 - half) / half
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Numbers that the bound takes to these bounded values.
    fn unbound(grid: &Grid, bounded: &[f64]) -> Vec<f32> {
        let invert = |(i, v): (usize, &f64)| {
            let inner = (v + f64::from(grid.offset[i])) / f64::from(grid.half[i]);
            (inner.clamp(-0.999_999, 0.999_999).atanh() - f64::from(grid.shift[i])) as f32
        };
        bounded.iter().enumerate().map(invert).collect()
    }

    #[test]
    fn codes_and_codewords_are_one_to_one_over_all_15360_codes() {
        for shift in [Shift::Tan, Shift::Atanh] {
            let grid = Grid::new(&[8, 8, 8, 6, 5], shift);
            assert_eq!(grid.codes(), 15_360);
            let mut seen = std::collections::HashSet::new();
            for code in 0..15_360 {
                let codeword: Vec<f32> = grid.codeword(code).collect();
                let bins = [8, 8, 8, 6, 5];
                let back: u32 = (0..5).rev().fold(0, |index, i| {
                    let half = (bins[i] / 2) as f32;
                    index * bins[i] + (codeword[i] * half + half).round() as u32
                });
                assert_eq!(back, code);
                // Numbers that land on the codeword, and a third of a bin beside it, have its code.
                for aside in [-0.3, 0.0, 0.3] {
                    let half = |i: usize| f64::from(bins[i] / 2);
                    let bounded: Vec<f64> = (0..5).map(|i| f64::from(codeword[i]) * half(i) + aside).collect();
                    assert_eq!(grid.code(&unbound(&grid, &bounded)), code, "{shift:?} {aside}");
                }
                assert!(seen.insert(codeword.iter().map(|v| v.to_bits()).collect::<Vec<_>>()));
            }
        }
    }

    #[test]
    fn both_bounds_equal_their_formulas() {
        for bins in 2..=16u32 {
            let half = |eps: f64| (f64::from(bins) - 1.0) * (1.0 + eps) / 2.0;
            let offset = if bins % 2 == 0 { 0.5 } else { 0.0 };
            let tan = Grid::new(&[bins], Shift::Tan);
            let atanh = Grid::new(&[bins], Shift::Atanh);
            for step in -40..=40 {
                let v = f64::from(step) * 0.25;
                let want = (v + (offset / half(-1e-3)).tan()).tanh() * half(-1e-3) - offset;
                assert!((f64::from(tan.bound(0, v as f32)) - want).abs() < 1e-5, "{bins} {v}");
                let want = (v + (offset / half(1e-3)).atanh()).tanh() * half(1e-3) - offset;
                assert!((f64::from(atanh.bound(0, v as f32)) - want).abs() < 1e-4, "{bins} {v}");
            }
            assert!(atanh.bound(0, 0.0).abs() < 1e-4);
            for grid in [tan, atanh] {
                assert_eq!(grid.code(&[-50.0]), 0);
                assert_eq!(grid.code(&[50.0]), bins - 1);
                assert!(grid.code(&[f32::NAN]) < bins && grid.code(&[f32::INFINITY]) < bins);
            }
        }
    }

    #[test]
    fn bins_multiply_to_the_codes_and_are_those_of_the_paper_where_it_has_them() {
        for (codes, bins) in [
            (240, vec![8, 6, 5]),
            (256, vec![8, 8, 4]),
            (1_000, vec![8, 5, 5, 5]),
            (4_375, vec![7, 5, 5, 5, 5]),
            (15_360, vec![8, 8, 8, 6, 5]),
            (64_000, vec![8, 8, 8, 5, 5, 5]),
            (16, vec![4, 4]),
            (13, vec![13]),
            (22, vec![11, 2]),
        ] {
            assert_eq!(bins_of(codes), Some(bins), "{codes}");
        }
        for codes in 1..=65_536u32 {
            let mut rest = codes;
            for prime in [2, 3, 5, 7, 11, 13] {
                while rest % prime == 0 {
                    rest /= prime;
                }
            }
            match bins_of(codes) {
                Some(bins) => {
                    assert_eq!(bins.iter().product::<u32>(), codes);
                    assert!(bins.iter().all(|b| (2..=16).contains(b)));
                }
                None => assert!(rest > 1 || codes == 1, "{codes}"),
            }
        }
    }
}
