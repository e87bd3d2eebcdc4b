//! Beam search over residual codes: the W best beginnings of a row's codes are kept at every level.
//!
//! Taking the nearest codeword level by level is greedy; a beam finds codes whose sum is nearer to the row (Babenko and
//! Lempitsky, *Additive quantization*, CVPR 2014, section 3.2; faiss' ResidualQuantizer does the same). With x the row
//! and c_j the codewords chosen so far, |x - sum c_j|^2 = |x|^2 + sum |c_j|^2 - 2 sum x.c_j + 2 sum c_j.c_k: one product
//! of the rows with each codebook, and tables of products of codewords, serve the whole beam, so a beam costs hardly
//! more matrix work than no beam.
//!
//! As in the search for one nearest codeword, scores in f32 only screen. Their error is at most
//! e = u (2 (D + 2) (|x| + S) S + (2 (l + 1) (l + 3) + 2) (|x| + S)^2), with S the sum of the longest codewords' lengths;
//! what lies within 2 e of the W-th best is compared by distances in f64, and equal distances go to the smaller codes. So
//! the beam is a function of the row and the codebooks alone.

use rayon::prelude::*;

use sidereal_core::{Error, Result};
use sidereal_nn::rng::Rng;

use crate::algebra::product::product;
use crate::clustering::kmeans::sample_rows;
use crate::codebooks::nearest::{UNIT_ROUNDOFF, length_at_most};
use crate::codebooks::residual::ResidualCodebooks;
use crate::encode::BLOCK;

/// Widest beam.
const MOST_BEAMS: usize = 64;
/// Most entries of the tables, 1 GiB.
const MOST_ENTRIES: usize = 1 << 28;
/// Rows whose products are made at a time.
const ROWS: usize = 256;

/// Checks the width of a beam and the size of the tables that it needs.
///
/// # Errors
/// Names `key`.
pub(crate) fn check_beam(key: &str, beam: usize, codes: &[u32]) -> Result<()> {
    if beam == 0 || beam > MOST_BEAMS {
        let mend = format!("give 1 (no beam) to {MOST_BEAMS}; faiss uses 5");
        return Err(Error::config(key, format!("a beam of {beam}"), mend));
    }
    let entries = |level: usize| codes[..level].iter().map(|&k| k as usize * codes[level] as usize).sum::<usize>();
    let entries: usize = (0..codes.len()).map(entries).sum();
    if beam > 1 && entries > MOST_ENTRIES {
        let problem = format!("the tables of a beam need {entries} entries for these codes, of {MOST_ENTRIES} at most");
        return Err(Error::config(key, problem, "use fewer codes or levels, or a beam of 1"));
    }
    Ok(())
}

/// What a stack of codebooks needs beside itself for a beam search.
#[derive(Debug, Clone)]
pub(crate) struct BeamSearch {
    beam: usize,
    /// For level l and every level j before it 2 c_j.c_l, [K_j, K_l].
    tables: Vec<Vec<Vec<f32>>>,
}

/// The beam of one row.
#[derive(Debug, Default)]
struct Beam {
    /// [W, l], ascending.
    codes: Vec<u16>,
    /// `[W]`
    scores: Vec<f32>,
    /// Scores of all ways to go on, [W, K].
    next: Vec<f32>,
    /// Those that may be among the best, by number.
    close: Vec<(f64, usize)>,
    spare: (Vec<u16>, Vec<f32>),
    residual: Vec<f64>,
}

impl BeamSearch {
    /// Makes the tables of codebooks whose residuals are not normalised.
    pub(crate) fn new(codebooks: &ResidualCodebooks, beam: usize) -> Self {
        let levels = codebooks.levels();
        let table = |l: usize, j: usize| {
            let (earlier, level) = (&levels[j], &levels[l]);
            let mut table = vec![0f32; earlier.codes() * level.codes()];
            product(earlier.codewords(), codebooks.width(), level.columns(), level.codes(), &mut table);
            table.iter_mut().for_each(|v| *v *= 2.0);
            table
        };
        Self { beam, tables: (0..levels.len()).map(|l| (0..l).map(|j| table(l, j)).collect()).collect() }
    }

    /// Hands the best codes of every row to `found(row number, codes [kept, L])`, in row order and ascending by code;
    /// `keep` is the number of them, fewer where there are fewer.
    ///
    /// # Shapes
    /// `rows`: [M, d]; `products` is scratch of any length.
    pub(crate) fn search(
        &self,
        codebooks: &ResidualCodebooks,
        rows: &[f32],
        keep: usize,
        products: &mut Vec<f32>,
        mut found: impl FnMut(usize, &[u16]),
    ) {
        let (width, levels) = (codebooks.width(), codebooks.levels());
        let mut beam = Beam::default();
        for (block, rows) in rows.chunks(ROWS * width).enumerate() {
            let count = rows.len() / width;
            products.resize(count * levels.iter().map(|l| l.codes()).sum::<usize>(), 0.0);
            let mut rest = &mut products[..];
            let mut of_levels: Vec<&[f32]> = Vec::with_capacity(levels.len());
            for level in levels {
                let (now, later) = rest.split_at_mut(count * level.codes());
                product(rows, width, level.columns(), level.codes(), now); // [m, K]
                of_levels.push(now);
                rest = later;
            }
            for (i, row) in rows.chunks_exact(width).enumerate() {
                beam.codes.clear();
                beam.scores.clear();
                beam.scores.push(0.0);
                for (l, products) in of_levels.iter().enumerate() {
                    let codes = levels[l].codes();
                    let wanted = if l + 1 == levels.len() { keep } else { self.beam };
                    self.go_on(codebooks, row, l, &products[i * codes..(i + 1) * codes], wanted, &mut beam);
                }
                found(block * ROWS + i, &beam.codes);
            }
        }
    }

    /// Codes of a block, the best of the beam of each row.
    ///
    /// # Shapes
    /// `rows`: [M, d]; `codes`: [M, L]
    pub(crate) fn encode_rows(
        &self,
        codebooks: &ResidualCodebooks,
        rows: &[f32],
        products: &mut Vec<f32>,
        codes: &mut [u16],
    ) {
        let levels = self.tables.len();
        self.search(codebooks, rows, 1, products, |row, found| {
            codes[row * levels..(row + 1) * levels].copy_from_slice(found);
        });
    }

    /// Replaces a beam by the best of its continuations at level `l`.
    fn go_on(
        &self,
        codebooks: &ResidualCodebooks,
        row: &[f32],
        l: usize,
        products: &[f32],
        wanted: usize,
        beam: &mut Beam,
    ) {
        let level = &codebooks.levels()[l];
        let codes = level.codes();
        beam.next.resize(beam.scores.len() * codes, 0.0);
        for (w, (next, &score)) in beam.next.chunks_exact_mut(codes).zip(&beam.scores).enumerate() {
            for ((next, &norm), &product) in next.iter_mut().zip(level.squared_norms()).zip(products) {
                *next = score + (norm - (product + product));
            }
            for (table, &code) in self.tables[l].iter().zip(&beam.codes[w * l..(w + 1) * l]) {
                let line = &table[usize::from(code) * codes..][..codes];
                next.iter_mut().zip(line).for_each(|(next, v)| *next += v);
            }
        }
        let wanted = wanted.min(beam.next.len());
        let limit = smallest(&beam.next, wanted) + margin(codebooks, row, l);
        beam.close.clear();
        let within = |score: f32| !limit.is_finite() || score <= limit;
        let numbers = beam.next.iter().enumerate().filter(|&(_, &score)| within(score));
        beam.close.extend(numbers.map(|(number, _)| (0.0, number)));
        if beam.close.len() > wanted {
            for (distance, number) in &mut beam.close {
                let before = &beam.codes[*number / codes * l..][..l];
                *distance = squared_error(codebooks, row, before, (*number % codes) as u16, &mut beam.residual);
            }
            beam.close.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            beam.close.truncate(wanted);
            beam.close.sort_unstable_by_key(|&(_, number)| number);
        }
        let (new_codes, new_scores) = &mut beam.spare;
        new_codes.clear();
        new_scores.clear();
        for &(_, number) in &beam.close {
            new_codes.extend_from_slice(&beam.codes[number / codes * l..][..l]);
            new_codes.push((number % codes) as u16);
            new_scores.push(beam.next[number]);
        }
        std::mem::swap(&mut beam.codes, new_codes);
        std::mem::swap(&mut beam.scores, new_scores);
    }
}

/// What the whole beam of every row leaves over, to train the next level on: up to `limit` residuals, drawn when there
/// are more.
///
/// # Shapes
/// `rows`: [N, d]; the answer: [R, d]
pub(crate) fn residuals_of_beams(
    codebooks: &ResidualCodebooks,
    beam: usize,
    rows: &[f32],
    limit: usize,
    rng: &mut Rng,
) -> Vec<f32> {
    let (width, levels) = (codebooks.width(), codebooks.levels().len());
    let search = BeamSearch::new(codebooks, beam);
    let blocks: Vec<Vec<u16>> = rows
        .par_chunks(BLOCK * width)
        .map_init(Vec::new, |products, rows| {
            let mut codes = Vec::new();
            search.search(codebooks, rows, beam, products, |_, found| codes.extend_from_slice(found));
            codes
        })
        .collect();
    let codes = blocks.concat(); // [N, W, l]
    let each = codes.len() / levels / (rows.len() / width).max(1);
    let picked = sample_rows(codes.len() / levels, limit, rng);
    let mut residuals = vec![0f32; picked.len() * width];
    residuals.par_chunks_mut(width).zip(&picked).for_each(|(residual, &at)| {
        residual.copy_from_slice(&rows[at / each * width..][..width]);
        for (level, &code) in codebooks.levels().iter().zip(&codes[at * levels..]) {
            residual.iter_mut().zip(level.codeword(code)).for_each(|(r, c)| *r -= c);
        }
    });
    residuals
}

/// 2 e of the module's text, rounded up.
fn margin(codebooks: &ResidualCodebooks, row: &[f32], l: usize) -> f32 {
    let (width, depth) = (codebooks.width() as f32, l as f32);
    let norm = length_at_most(row);
    let sum: f32 = codebooks.levels()[..=l].iter().map(|level| level.largest_norm()).sum();
    let terms = 2.0 * (depth + 1.0) * (depth + 3.0) + 2.0;
    let relative = UNIT_ROUNDOFF * (2.0 * (width + 2.0) * norm * sum + terms * (norm + sum) * (norm + sum));
    // Tables hold products of codewords, summed over the width as well.
    let tables = UNIT_ROUNDOFF * 2.0 * (width + 2.0) * sum * sum;
    2.02 * (relative + tables + 4.0 * width * (depth + 1.0) * f32::MIN_POSITIVE)
}

/// The n-th smallest of scores, n from 1; infinity when any is NaN.
fn smallest(scores: &[f32], n: usize) -> f32 {
    const LANES: usize = 16;
    let mut best = [f32::INFINITY; MOST_BEAMS];
    let best = &mut best[..n];
    let mut nan = false;
    for scores in scores.chunks(LANES) {
        let worst = best[n - 1];
        if !scores.iter().fold(false, |any, &s| any | (s < worst) | s.is_nan()) {
            continue;
        }
        for &score in scores {
            nan |= score.is_nan();
            if score < best[n - 1] {
                let at = best.partition_point(|&b| b <= score);
                best.copy_within(at..n - 1, at + 1);
                best[at] = score;
            }
        }
    }
    if nan { f32::INFINITY } else { best[n - 1] }
}

/// Squared distance of a row to the sum of codewords, in f64.
fn squared_error(
    codebooks: &ResidualCodebooks,
    row: &[f32],
    before: &[u16],
    last: u16,
    residual: &mut Vec<f64>,
) -> f64 {
    residual.clear();
    residual.extend(row.iter().map(|&v| f64::from(v)));
    for (level, &code) in codebooks.levels().iter().zip(before.iter().chain([&last])) {
        residual.iter_mut().zip(level.codeword(code)).for_each(|(r, &c)| *r -= f64::from(c));
    }
    residual.iter().map(|r| r * r).sum()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn stack(width: usize, codebooks: &[&[f32]]) -> ResidualCodebooks {
        let mut stack = ResidualCodebooks::new(width);
        codebooks.iter().for_each(|c| stack.push(c.to_vec(), None));
        stack
    }

    fn codes_of(stack: &ResidualCodebooks, beam: usize, rows: &[f32]) -> Vec<u16> {
        let mut codes = vec![0; rows.len() / stack.width() * stack.levels().len()];
        BeamSearch::new(stack, beam).encode_rows(stack, rows, &mut Vec::new(), &mut codes);
        codes
    }

    /// The beam search as it is defined, in f64, every continuation compared.
    fn brute_force(stack: &ResidualCodebooks, beam: usize, row: &[f32]) -> Vec<u16> {
        let mut kept: Vec<Vec<u16>> = vec![Vec::new()];
        for (l, level) in stack.levels().iter().enumerate() {
            let mut all: Vec<(f64, Vec<u16>)> = Vec::new();
            for codes in &kept {
                for code in 0..level.codes() as u16 {
                    let error = squared_error(stack, row, codes, code, &mut Vec::new());
                    all.push((error, codes.iter().copied().chain([code]).collect()));
                }
            }
            all.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            all.truncate(if l + 1 == stack.levels().len() { 1 } else { beam });
            kept = all.into_iter().map(|(_, codes)| codes).collect();
        }
        kept.remove(0)
    }

    proptest! {
        #[test]
        fn beam_search_equals_brute_force_in_f64(
            width in 1usize..20,
            codes in 1usize..20,
            beam in 1usize..7,
            scale in prop::sample::select(vec![1e-30f32, 1e-10, 1.0, 1e15, 1e25]),
            raw in prop::collection::vec(-4i32..5, 20 * 80),
        ) {
            // Small whole numbers make many exact ties.
            let value = |v: &i32| *v as f32 * scale;
            let rows: Vec<f32> = raw[..12 * width].iter().map(value).collect();
            let codebook = |l: usize| -> Vec<f32> {
                raw[(12 + l * 20) * width..][..(codes - l.min(codes - 1)) * width].iter().map(value).collect()
            };
            let stack = stack(width, &[&codebook(0), &codebook(1), &codebook(2)]);
            let found = codes_of(&stack, beam, &rows);
            let want: Vec<u16> = rows.chunks(width).flat_map(|row| brute_force(&stack, beam, row)).collect();
            prop_assert_eq!(&found, &want);
            let alone: Vec<u16> = rows.chunks(width).flat_map(|row| codes_of(&stack, beam, row)).collect();
            prop_assert_eq!(found, alone);
        }
    }

    #[test]
    fn a_wider_beam_leaves_less_error() {
        let mut rng = sidereal_nn::rng::Rng::new(3, "noise");
        let mut noise = |count: usize| -> Vec<f32> { (0..count).map(|_| rng.normal() as f32).collect() };
        let (rows, codebooks) = (noise(500 * 8), [noise(16 * 8), noise(16 * 8), noise(16 * 8)]);
        let stack = stack(8, &[&codebooks[0], &codebooks[1], &codebooks[2]]);
        let error = |beam: usize| -> f64 {
            let codes = codes_of(&stack, beam, &rows);
            let of =
                |(row, codes): (&[f32], &[u16])| squared_error(&stack, row, &codes[..2], codes[2], &mut Vec::new());
            rows.chunks(8).zip(codes.chunks(3)).map(of).sum()
        };
        let errors = [1, 2, 5, 16].map(error);
        assert!(errors.windows(2).all(|w| w[1] < w[0]), "{errors:?}");
    }

    #[test]
    fn impossible_beams_are_refused() {
        check_beam("key", 5, &[8192; 3]).unwrap();
        assert!(check_beam("key", 0, &[8]).unwrap_err().to_string().contains("key"));
        assert!(check_beam("key", 65, &[8]).unwrap_err().to_string().contains("64"));
        assert!(check_beam("key", 2, &[65_536; 256]).unwrap_err().to_string().contains("entries"));
        check_beam("key", 1, &[65_536; 256]).unwrap();
    }
}
