//! Beam search over residual codes: the W best beginnings of a row's codes are kept at every level.
//!
//! Taking the nearest codeword level by level is greedy; a beam finds codes whose sum is nearer to the row (Babenko and
//! Lempitsky, *Additive quantization*, CVPR 2014, section 3.2; faiss' ResidualQuantizer does the same). The search itself is
//! [`crate::codebooks::search`]; here is what bounds it, and what training takes from it.

use rayon::prelude::*;

use sidereal_core::{Error, Result};
use sidereal_nn::rng::Rng;

use crate::clustering::kmeans::sample_rows;
use crate::codebooks::residual::ResidualCodebooks;
use crate::codebooks::search::{MOST_WANTED, SearchScratch};
use crate::encode::BLOCK;

/// Widest beam.
const MOST_BEAMS: usize = MOST_WANTED;
/// Most entries of the tables, 1 GiB.
const MOST_ENTRIES: usize = 1 << 28;

/// Checks the width of a beam and the size of the tables that it needs.
///
/// # Errors
/// Names `key`.
pub(crate) fn check_beam(key: &str, beam: usize, codes: &[u32]) -> Result<()> {
    if beam == 0 || beam > MOST_BEAMS {
        let mend = format!("give 1 (no beam) to {MOST_BEAMS}; faiss uses 5");
        return Err(Error::config(key, format!("a beam of {beam}"), mend));
    }
    let entries = table_entries(codes);
    if beam > 1 && entries > MOST_ENTRIES {
        let problem = format!("the tables of a beam need {entries} entries for these codes, of {MOST_ENTRIES} at most");
        return Err(Error::config(key, problem, "use fewer codes or levels, or a beam of 1"));
    }
    Ok(())
}

/// Products of codewords that a search over all levels at once keeps.
pub(crate) fn table_entries(codes: &[u32]) -> usize {
    let of = |level: usize| codes[..level].iter().map(|&k| k as usize * codes[level] as usize).sum::<usize>();
    (0..codes.len()).map(of).sum()
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
    let search = codebooks.search(beam);
    let blocks: Vec<Vec<u16>> = rows
        .par_chunks(BLOCK * width)
        .map_init(SearchScratch::default, |scratch, rows| {
            let mut codes = Vec::new();
            search.search(rows, beam, scratch, |_, found| codes.extend_from_slice(found));
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn stack(width: usize, codebooks: &[&[f32]]) -> ResidualCodebooks {
        let mut stack = ResidualCodebooks::new(width);
        codebooks.iter().for_each(|c| stack.push(c.to_vec(), None));
        stack
    }

    /// Squared distance of a row to the sum of codewords, in f64.
    fn squared_error(stack: &ResidualCodebooks, row: &[f32], before: &[u16], last: u16) -> f64 {
        let mut residual: Vec<f64> = row.iter().map(|&v| f64::from(v)).collect();
        for (level, &code) in stack.levels().iter().zip(before.iter().chain([&last])) {
            residual.iter_mut().zip(level.codeword(code)).for_each(|(r, &c)| *r -= f64::from(c));
        }
        residual.iter().map(|r| r * r).sum()
    }

    fn codes_of(stack: &ResidualCodebooks, beam: usize, rows: &[f32]) -> Vec<u16> {
        let mut codes = vec![0; rows.len() / stack.width() * stack.levels().len()];
        let levels = stack.levels().len();
        stack.search(beam).search(rows, 1, &mut SearchScratch::default(), |row, found| {
            codes[row * levels..(row + 1) * levels].copy_from_slice(found);
        });
        codes
    }

    #[test]
    fn a_wider_beam_leaves_less_error() {
        let mut rng = sidereal_nn::rng::Rng::new(3, "noise");
        let mut noise = |count: usize| -> Vec<f32> { (0..count).map(|_| rng.normal() as f32).collect() };
        let (rows, codebooks) = (noise(500 * 8), [noise(16 * 8), noise(16 * 8), noise(16 * 8)]);
        let stack = stack(8, &[&codebooks[0], &codebooks[1], &codebooks[2]]);
        let error = |beam: usize| -> f64 {
            let codes = codes_of(&stack, beam, &rows);
            let of = |(row, codes): (&[f32], &[u16])| squared_error(&stack, row, &codes[..2], codes[2]);
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
