//! The nearest codeword of a row, exactly: a fast f32 product screens, f64 decides the close calls.
//!
//! For row x and codeword c, the screen computes s = |c|^2 - 2 x.c, which orders codewords as the distance does. Its
//! rounding error is bounded, whatever the order in which a kernel sums (Higham, *Accuracy and Stability of Numerical
//! Algorithms*, section 3.1): |error| <= e = 2 g |x| max|c| + 3 u max|c|^2, with u = 2^-24 and g = (D + 2) u. So the
//! true nearest codeword is among those with s <= min s + 2 e. Where only one is, it is the answer; rows with more
//! compare these by distances in f64, summed in a fixed order; equal distances go to the smaller code.
//!
//! Codes therefore do not depend on the kernel, the number of threads, or which rows travel in one batch.

use crate::algebra::product::{product, squared_distance, squared_norm, transposed};

/// Floats of one block of screening scores: they stay in the second-level cache.
const SCORES_PER_BLOCK: usize = 1 << 17;
const LANES: usize = 16;
/// Half a unit in the last place of 1.0, f32.
pub(crate) const UNIT_ROUNDOFF: f32 = 5.960_464_5e-8;

/// A codebook made ready for searching.
///
/// # Shapes
/// `codewords`: [K, d]
#[derive(Debug, Clone)]
pub(crate) struct NearestCodeword {
    width: usize,
    codewords: Vec<f32>,
    columns: Vec<f32>,
    squared_norms: Vec<f32>,
    used: Vec<bool>,
    largest_norm: f32,
}

impl NearestCodeword {
    /// Prepares a codebook of at most 65,536 codewords.
    pub(crate) fn new(codewords: Vec<f32>, width: usize) -> Self {
        let used = vec![true; codewords.len() / width];
        Self::with_unused(codewords, width, &used)
    }

    /// Prepares a codebook some of whose codewords are never an answer.
    pub(crate) fn with_unused(codewords: Vec<f32>, width: usize, used: &[bool]) -> Self {
        let mut largest = 0f64;
        let squared_norms = codewords
            .chunks_exact(width)
            .zip(used)
            .map(|(codeword, &used)| {
                let squared = squared_norm(codeword);
                largest = if used { largest.max(squared) } else { largest };
                if used { squared as f32 } else { f32::INFINITY }
            })
            .collect();
        let columns = transposed(&codewords, width); // [d, K]
        // Rounded up: this goes into an upper bound.
        let largest_norm = (largest.sqrt() * (1.0 + 1e-6)) as f32;
        Self { width, codewords, columns, squared_norms, used: used.to_vec(), largest_norm }
    }

    /// K.
    pub(crate) fn codes(&self) -> usize {
        self.squared_norms.len()
    }

    /// The codeword of a code, [d].
    pub(crate) fn codeword(&self, code: u16) -> &[f32] {
        &self.codewords[usize::from(code) * self.width..][..self.width]
    }

    /// All codewords as columns, [d, K].
    pub(crate) fn columns(&self) -> &[f32] {
        &self.columns
    }

    /// Squared lengths, `[K]`.
    pub(crate) fn squared_norms(&self) -> &[f32] {
        &self.squared_norms
    }

    /// Length of the longest codeword, rounded up.
    pub(crate) fn largest_norm(&self) -> f32 {
        self.largest_norm
    }

    /// All codewords, [K, d].
    pub(crate) fn codewords(&self) -> &[f32] {
        &self.codewords
    }

    /// Hands the code of every row to `found(row number, code)`, in row order.
    ///
    /// # Shapes
    /// `rows`: [M, d]; `scores` is scratch of any length.
    pub(crate) fn search(&self, rows: &[f32], scores: &mut Vec<f32>, mut found: impl FnMut(usize, u16)) {
        let codes = self.codes();
        let block = (SCORES_PER_BLOCK / codes).clamp(16, 512);
        for (at, rows) in rows.chunks(block * self.width).enumerate() {
            let count = rows.len() / self.width;
            scores.resize(count * codes, 0.0);
            product(rows, self.width, &self.columns, codes, scores); // [m, K]
            for (i, (row, products)) in rows.chunks_exact(self.width).zip(scores.chunks_exact(codes)).enumerate() {
                found(at * block + i, self.decide(row, products));
            }
        }
    }

    /// The nearest code of one row, given its products with all codewords.
    fn decide(&self, row: &[f32], products: &[f32]) -> u16 {
        let margin = self.margin(row);
        let least = least_score(products, &self.squared_norms);
        let limit = least + margin;
        if !limit.is_finite() {
            // Squares left the range of f32, so the screen says nothing.
            return self.nearest_of(row, (0..self.codes()).filter(|&code| self.used[code]));
        }
        let (close, first) = count_up_to(limit, products, &self.squared_norms);
        if close == 1 {
            return first as u16;
        }
        let scores = products.iter().zip(&self.squared_norms).enumerate();
        self.nearest_of(row, scores.filter(|&(_, (&p, &n))| score(p, n) <= limit).map(|(code, _)| code))
    }

    /// 2 e of the module's text, rounded up.
    fn margin(&self, row: &[f32]) -> f32 {
        let width = self.width as f32;
        let norm = length_at_most(row);
        let largest = self.largest_norm;
        let relative = UNIT_ROUNDOFF * (2.0 * (width + 2.0) * norm * largest + 3.0 * largest * largest);
        // Products below the normal range lose more than a relative error: one smallest normal number for each.
        2.02 * (relative + 4.0 * width * f32::MIN_POSITIVE)
    }

    fn nearest_of(&self, row: &[f32], codes: impl Iterator<Item = usize>) -> u16 {
        let mut best = (f64::INFINITY, 0);
        for code in codes {
            let distance = squared_distance(row, self.codeword(code as u16));
            if distance < best.0 {
                best = (distance, code);
            }
        }
        best.1 as u16
    }
}

/// The length of a row, rounded up.
#[inline]
pub(crate) fn length_at_most(row: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    let chunks = row.chunks_exact(LANES);
    let tail: f32 = chunks.remainder().iter().map(|v| v * v).sum();
    for chunk in chunks {
        for (lane, v) in lanes.iter_mut().zip(chunk) {
            *lane += v * v;
        }
    }
    (lanes.iter().sum::<f32>() + tail).sqrt() * (1.01 + row.len() as f32 * UNIT_ROUNDOFF)
}

#[inline]
fn score(product: f32, squared_norm: f32) -> f32 {
    squared_norm - (product + product)
}

fn least_score(products: &[f32], squared_norms: &[f32]) -> f32 {
    let mut lanes = [f32::INFINITY; LANES];
    let (p, n) = (products.chunks_exact(LANES), squared_norms.chunks_exact(LANES));
    let tail = p.remainder().iter().zip(n.remainder()).map(|(&p, &n)| score(p, n)).fold(f32::INFINITY, f32::min);
    for (p, n) in p.zip(n) {
        for lane in 0..LANES {
            let s = score(p[lane], n[lane]);
            lanes[lane] = if s < lanes[lane] { s } else { lanes[lane] };
        }
    }
    lanes.into_iter().fold(tail, f32::min)
}

/// How many scores are at most `limit`, and the first of them.
fn count_up_to(limit: f32, products: &[f32], squared_norms: &[f32]) -> (usize, usize) {
    let (mut close, mut first) = (0, 0);
    for (at, (p, n)) in products.chunks(LANES).zip(squared_norms.chunks(LANES)).enumerate() {
        let within = |lane: usize| score(p[lane], n[lane]) <= limit;
        let any = match p.len() {
            LANES => (0..LANES).fold(false, |any, lane| any | within(lane)),
            _ => true,
        };
        if any {
            for lane in (0..p.len()).filter(|&lane| within(lane)) {
                if close == 0 {
                    first = at * LANES + lane;
                }
                close += 1;
            }
        }
    }
    (close, first)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn codes_of(search: &NearestCodeword, rows: &[f32]) -> Vec<u16> {
        let mut codes = Vec::new();
        search.search(rows, &mut Vec::new(), |row, code| {
            assert_eq!(row, codes.len());
            codes.push(code);
        });
        codes
    }

    fn brute_force(rows: &[f32], codewords: &[f32], width: usize) -> Vec<u16> {
        let nearest = |row: &[f32]| {
            let distances = codewords.chunks(width).map(|c| squared_distance(row, c));
            let mut best = (f64::INFINITY, 0);
            for (code, distance) in distances.enumerate() {
                if distance < best.0 {
                    best = (distance, code as u16);
                }
            }
            best.1
        };
        rows.chunks(width).map(nearest).collect()
    }

    proptest! {
        #[test]
        fn search_equals_brute_force_in_f64(
            width in 1usize..40,
            codes in 1usize..70,
            scale in prop::sample::select(vec![1e-30f32, 1e-10, 1.0, 1e15, 1e25]),
            raw in prop::collection::vec(-4i32..5, 40 * 90),
        ) {
            // Small whole numbers make many exact ties.
            let rows: Vec<f32> = raw[..20 * width].iter().map(|&v| v as f32 * scale).collect();
            let codewords: Vec<f32> = raw[20 * width..][..codes * width].iter().map(|&v| v as f32 * scale).collect();
            let search = NearestCodeword::new(codewords.clone(), width);
            let codes = codes_of(&search, &rows);
            prop_assert_eq!(&codes, &brute_force(&rows, &codewords, width));
            let one_by_one: Vec<u16> = rows.chunks(width).flat_map(|row| codes_of(&search, row)).collect();
            prop_assert_eq!(codes, one_by_one);
        }
    }

    #[test]
    fn unused_codewords_are_never_an_answer() {
        let search = NearestCodeword::with_unused(vec![5.0, 0.0, 1.0], 1, &[true, false, true]);
        assert_eq!(codes_of(&search, &[0.0, 0.1, 4.0]), [2, 2, 0]);
    }

    #[test]
    fn nearly_equal_codewords_are_told_apart() {
        // The two distances differ by less than f32 can see in |c|^2 - 2 x.c.
        let width = 64;
        let mut codewords = vec![1000.0f32; 2 * width];
        codewords[0] = 1000.0 + 2.0 * 6.2e-5;
        codewords[width] = 1000.0 + 6.2e-5;
        let row = vec![1000.0f32; width];
        assert_eq!(codes_of(&NearestCodeword::new(codewords, width), &row), [1]);
    }
}
