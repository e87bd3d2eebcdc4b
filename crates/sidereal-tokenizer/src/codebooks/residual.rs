//! A stack of codebooks, each for what the ones before left over.
//!
//! Level l picks the codeword nearest to the residual, which is then subtracted. Residuals are f32 and codewords are
//! found exactly, so codes are a function of the row and the codebooks alone. With `normalize`, the residual is scaled
//! to length 1 before every level; its length is not in the codes, so a vector is put together again with the mean
//! lengths seen in training.

use rayon::prelude::*;

use sidereal_core::{Error, Result, SemanticIds};

use crate::algebra::product::squared_norm;
use crate::arrays::{ArraySet, NamedArray};
use crate::clustering::kmeans::normalise;
use crate::codebooks::nearest::NearestCodeword;
use crate::codebooks::search::{CodeSearch, SearchScratch};
use crate::encode::BLOCK;

/// # Shapes
/// L codebooks of [K_l, d]
#[derive(Debug, Clone)]
pub(crate) struct ResidualCodebooks {
    width: usize,
    codes: Vec<u32>,
    levels: Vec<NearestCodeword>,
    /// Mean length of the residual before each level, `[L]`; empty when residuals are not normalised.
    lengths: Vec<f32>,
}

impl ResidualCodebooks {
    /// Codebooks of latent width `width`, none yet.
    pub(crate) fn new(width: usize) -> Self {
        Self { width, codes: Vec::new(), levels: Vec::new(), lengths: Vec::new() }
    }

    /// Adds a level; `length` is the mean length of its residuals when they are normalised.
    pub(crate) fn push(&mut self, codewords: Vec<f32>, length: Option<f32>) {
        self.codes.push((codewords.len() / self.width) as u32);
        self.levels.push(NearestCodeword::new(codewords, self.width));
        self.lengths.extend(length);
    }

    pub(crate) fn load(width: usize, codes: &[u32], normalize: bool, arrays: &mut ArraySet) -> Result<Self> {
        let mut stack = Self::new(width);
        let lengths = if normalize { arrays.take("lengths", &[codes.len()])? } else { Vec::new() };
        for (level, &k) in codes.iter().enumerate() {
            let codewords = arrays.take(&format!("codebooks.{level}"), &[k as usize, width])?;
            stack.push(codewords, lengths.get(level).copied());
        }
        Ok(stack)
    }

    pub(crate) fn arrays(&self) -> Vec<NamedArray> {
        let codebook = |(level, search): (usize, &NearestCodeword)| {
            NamedArray::new(format!("codebooks.{level}"), &[search.codes(), self.width], search.codewords().to_vec())
        };
        let lengths =
            (!self.lengths.is_empty()).then(|| NamedArray::new("lengths", &[self.lengths.len()], self.lengths.clone()));
        self.levels.iter().enumerate().map(codebook).chain(lengths).collect()
    }

    /// d.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// K of every level, `[L]`.
    pub(crate) fn codes(&self) -> &[u32] {
        &self.codes
    }

    /// Whether residuals are scaled to length 1 before each level.
    pub(crate) fn is_normalised(&self) -> bool {
        !self.lengths.is_empty()
    }

    /// The codebooks, ready for searching, `[L]`.
    pub(crate) fn levels(&self) -> &[NearestCodeword] {
        &self.levels
    }

    /// [K, d]
    pub(crate) fn codebook(&self, level: usize) -> &[f32] {
        self.levels.get(level).map_or(&[], |search| search.codewords())
    }

    /// A search over all levels at once, which needs no residuals, where these are not normalised.
    pub(crate) fn search(&self, beam: usize) -> CodeSearch {
        let codebooks = self.levels.iter().map(|level| level.codewords().clone()).collect();
        CodeSearch::new(codebooks, self.width, beam)
    }

    /// Codes of a block, level by level; `residuals` comes in as latents and leaves as what no level could say.
    ///
    /// # Shapes
    /// `residuals`: [M, d]; `codes`: [M, L]
    pub(crate) fn encode_rows(&self, residuals: &mut [f32], scratch: &mut SearchScratch, codes: &mut [u16]) {
        let levels = self.levels.len();
        for (level, search) in self.levels.iter().enumerate() {
            if !self.lengths.is_empty() {
                residuals.chunks_exact_mut(self.width).for_each(|row| {
                    normalise(row);
                });
            }
            search.search(residuals, scratch, |row, code| codes[row * levels + level] = code);
            for (row, codes) in residuals.chunks_exact_mut(self.width).zip(codes.chunks_exact(levels)) {
                subtract(row, search.codeword(codes[level]));
            }
        }
    }

    /// Subtracts a level's nearest codewords from residuals that were normalised already, over all threads, [N, d].
    pub(crate) fn subtract_level(&self, level: usize, residuals: &mut [f32]) {
        let search = &self.levels[level];
        residuals.par_chunks_mut(BLOCK * self.width).for_each_init(Default::default, |(scratch, codes), rows| {
            let codes: &mut Vec<u16> = codes;
            codes.clear();
            search.search(rows, scratch, |_, code| codes.push(code));
            for (row, &code) in rows.chunks_exact_mut(self.width).zip(&*codes) {
                subtract(row, search.codeword(code));
            }
        });
    }

    /// Sums of codewords.
    ///
    /// # Shapes
    /// [N, L] to [N, d]
    pub(crate) fn sums(&self, ids: &SemanticIds) -> Result<Vec<f32>> {
        self.check(ids)?;
        let mut out = vec![0f32; ids.len() * self.width];
        let rows = out.par_chunks_mut(self.width).zip(ids.codes().par_chunks(self.levels.len()));
        rows.for_each(|(out, codes)| {
            let mut scale = 1.0;
            for (level, (search, &code)) in self.levels.iter().zip(codes).enumerate() {
                scale *= self.lengths.get(level).copied().unwrap_or(1.0);
                out.iter_mut().zip(search.codeword(code)).for_each(|(v, c)| *v += scale * c);
            }
        });
        Ok(out)
    }

    /// Squared length of what is left before the first and after every level, summed over the rows, [L + 1].
    pub(crate) fn residual_energy(&self, latents: &[f32], ids: &SemanticIds) -> Result<Vec<f64>> {
        self.check(ids)?;
        if latents.len() != ids.len() * self.width {
            let problem = format!("{} vectors, but {} semantic IDs", latents.len() / self.width, ids.len());
            return Err(Error::mismatch(problem, "give both for the same items"));
        }
        let levels = self.levels.len();
        let blocks = latents.par_chunks(BLOCK * self.width).zip(ids.codes().par_chunks(BLOCK * levels));
        let partial: Vec<Vec<f64>> = blocks
            .map(|(rows, codes)| {
                let mut energy = vec![0.0; levels + 1];
                for (row, codes) in rows.chunks_exact(self.width).zip(codes.chunks_exact(levels)) {
                    let mut residual = row.to_vec();
                    energy[0] += squared_norm(&residual);
                    let mut scale = 1.0;
                    for (level, (search, &code)) in self.levels.iter().zip(codes).enumerate() {
                        scale *= self.lengths.get(level).copied().unwrap_or(1.0);
                        residual.iter_mut().zip(search.codeword(code)).for_each(|(r, c)| *r -= scale * c);
                        energy[level + 1] += squared_norm(&residual);
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
        if ids.levels() != self.levels.len() {
            let problem = format!("semantic IDs of {} levels, but {} codebooks", ids.levels(), self.levels.len());
            return Err(Error::mismatch(problem, "use the tokenizer that made these semantic IDs"));
        }
        ids.check_codes(&self.codes)
    }
}

fn subtract(row: &mut [f32], codeword: &[f32]) {
    row.iter_mut().zip(codeword).for_each(|(r, c)| *r -= c);
}
