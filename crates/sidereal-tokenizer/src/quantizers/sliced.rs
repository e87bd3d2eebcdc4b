//! Latents that are cut into slices, each with a codebook of its own: what FSQ, LFQ and parallel experts have in common.

use std::sync::Arc;

use rayon::prelude::*;

use sidereal_core::{Error, Result, SemanticIds};

use crate::algebra::product::squared_norm;
use crate::encode::BLOCK;

/// Codewords of every slice.
///
/// # Shapes
/// L codebooks of [K_l, w_l]; latents are the slices side by side, [N, d] with d the sum of w_l.
#[derive(Debug, Clone)]
pub(super) struct SlicedCodebooks {
    codes: Vec<u32>,
    slices: Vec<Slice>,
}

#[derive(Debug, Clone)]
struct Slice {
    start: usize,
    width: usize,
    /// [K, w]; levels with the same codewords share them.
    codewords: Arc<[f32]>,
}

impl SlicedCodebooks {
    /// Joins codebooks, each with the width of its codewords (1 or more).
    pub(super) fn new(codebooks: impl IntoIterator<Item = (usize, Arc<[f32]>)>) -> Self {
        let (mut codes, mut slices, mut start) = (Vec::new(), Vec::new(), 0);
        for (width, codewords) in codebooks {
            codes.push((codewords.len() / width) as u32);
            slices.push(Slice { start, width, codewords });
            start += width;
        }
        Self { codes, slices }
    }

    /// K of every level, `[L]`.
    pub(super) fn codes(&self) -> &[u32] {
        &self.codes
    }

    /// d.
    pub(super) fn width(&self) -> usize {
        self.slices.last().map_or(0, |last| last.start + last.width)
    }

    /// [K, w]
    pub(super) fn codebook(&self, level: usize) -> &[f32] {
        self.slices.get(level).map_or(&[], |slice| &slice.codewords)
    }

    fn codewords<'a>(&'a self, codes: &'a [u16]) -> impl Iterator<Item = (&'a Slice, &'a [f32])> {
        self.slices
            .iter()
            .zip(codes)
            .map(|(slice, &code)| (slice, &slice.codewords[code as usize * slice.width..][..slice.width]))
    }

    /// The codewords of every semantic ID side by side.
    ///
    /// # Shapes
    /// [N, L] to [N, d]
    pub(super) fn side_by_side(&self, ids: &SemanticIds) -> Result<Vec<f32>> {
        self.check(ids)?;
        let mut out = Vec::with_capacity(ids.len() * self.width());
        for codes in ids.codes().chunks_exact(self.slices.len()) {
            self.codewords(codes).for_each(|(_, codeword)| out.extend_from_slice(codeword));
        }
        Ok(out)
    }

    /// What is left of the latents when the first l slices are known, in squares, summed over the items, [L + 1].
    pub(super) fn residual_energy(&self, latents: &[f32], ids: &SemanticIds) -> Result<Vec<f64>> {
        self.check(ids)?;
        let (width, levels) = (self.width(), self.slices.len());
        if latents.len() != ids.len() * width {
            let problem = format!("{} vectors, but {} semantic IDs", latents.len() / width, ids.len());
            return Err(Error::mismatch(problem, "give both for the same items"));
        }
        let blocks = latents.par_chunks(BLOCK * width).zip(ids.codes().par_chunks(BLOCK * levels));
        let partial: Vec<Vec<f64>> = blocks
            .map(|(rows, codes)| {
                let mut energy = vec![0.0; levels + 1];
                for (row, codes) in rows.chunks_exact(width).zip(codes.chunks_exact(levels)) {
                    let mut left = squared_norm(row);
                    energy[0] += left;
                    for (level, (slice, codeword)) in self.codewords(codes).enumerate() {
                        let part = &row[slice.start..][..slice.width];
                        left += crate::algebra::product::squared_distance(part, codeword) - squared_norm(part);
                        energy[level + 1] += left.max(0.0);
                    }
                }
                energy
            })
            .collect();
        Ok(partial.iter().fold(vec![0.0; levels + 1], |mut total, energy| {
            total.iter_mut().zip(energy).for_each(|(t, e)| *t += e);
            total
        }))
    }

    fn check(&self, ids: &SemanticIds) -> Result<()> {
        if ids.levels() != self.slices.len() {
            let problem = format!("semantic IDs of {} levels, but {} codebooks", ids.levels(), self.slices.len());
            return Err(Error::mismatch(problem, "use the tokenizer that made these semantic IDs"));
        }
        ids.check_codes(&self.codes)
    }
}

/// Runs `f` on blocks of rows over all threads and joins what it appends, [N, D] to [N, d].
pub(super) fn in_blocks(rows: &[f32], width: usize, f: impl Fn(&[f32], &mut Vec<f32>) + Sync) -> Vec<f32> {
    let blocks = rows.par_chunks(BLOCK * width).map(|rows| {
        let mut out = Vec::new();
        f(rows, &mut out);
        out
    });
    blocks.collect::<Vec<_>>().concat()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn energy_and_codewords_equal_their_definition() {
        let books =
            SlicedCodebooks::new([(2, Arc::from([0.0f32, 1.0, 2.0, 2.0])), (1, Arc::from([0.5f32, -1.0, 4.0]))]);
        assert_eq!((books.codes(), books.width()), (&[2u32, 3][..], 3));
        assert_eq!(books.codebook(1), [0.5, -1.0, 4.0]);
        let ids = SemanticIds::new(2, vec![1, 2, 0, 1]).unwrap();
        assert_eq!(books.side_by_side(&ids).unwrap(), [2.0, 2.0, 4.0, 0.0, 1.0, -1.0]);
        let energy = books.residual_energy(&[2.0, 3.0, 4.5, 1.0, 1.0, -1.0], &ids).unwrap();
        let want = [4.0 + 9.0 + 20.25 + 3.0, 1.0 + 20.25 + 1.0 + 1.0, 1.0 + 0.25 + 1.0];
        assert!(energy.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-9), "{energy:?}");
        assert!(books.side_by_side(&SemanticIds::new(2, vec![2, 0]).unwrap()).is_err());
        assert!(books.side_by_side(&SemanticIds::new(1, vec![0]).unwrap()).is_err());
        assert!(books.residual_energy(&[0.0; 3], &ids).is_err());
    }
}
