//! Codebooks side by side: each quantizes its own stretch of a vector's columns.
//!
//! The D columns are cut into L sub-vectors of equal width; where L does not divide D, the first ones get a column more.

use rayon::prelude::*;

use sidereal_core::{Error, Progress, Result, SemanticIds};
use sidereal_nn::rng::Rng;

use crate::algebra::product::{squared_distance, squared_norm};
use crate::arrays::{ArraySet, NamedArray};
use crate::clustering::kmeans::{KMeans, KMeansOptions, fit};
use crate::codebooks::nearest::NearestCodeword;
use crate::codebooks::search::SearchScratch;
use crate::encode::BLOCK;

/// Checks that there is a column for every level.
///
/// # Errors
/// Names `{method}.codes`.
pub(crate) fn check_levels(method: &str, levels: usize, width: usize) -> Result<()> {
    if levels <= width {
        return Ok(());
    }
    let problem = format!("{levels} levels cut vectors of width {width} into parts without columns");
    let mend = format!("give at most {width} numbers of codes, or wider embeddings");
    Err(Error::config(format!("{method}.codes"), problem, mend))
}

/// First column of every sub-vector and, last, D: `[L + 1]`.
pub(crate) fn cuts(width: usize, levels: usize) -> Vec<usize> {
    (0..=levels).map(|l| l * (width / levels) + l.min(width % levels)).collect()
}

/// Copies a stretch of columns, [M, D] to [M, d].
pub(crate) fn columns(rows: &[f32], width: usize, from: usize, to: usize, out: &mut Vec<f32>) {
    out.clear();
    out.extend(rows.chunks_exact(width).flat_map(|row| &row[from..to]));
}

/// # Shapes
/// L codebooks of [K_l, d_l], with sum d_l = D
#[derive(Debug, Clone)]
pub(crate) struct ProductCodebooks {
    codes: Vec<u32>,
    /// `[L + 1]`
    cuts: Vec<usize>,
    levels: Vec<NearestCodeword>,
}

impl ProductCodebooks {
    /// Takes one codebook for every sub-vector, each [K_l, d_l].
    pub(crate) fn new(width: usize, codebooks: Vec<Vec<f32>>) -> Self {
        let cuts = cuts(width, codebooks.len());
        let prepare = |(codebook, cut): (Vec<f32>, &[usize])| NearestCodeword::new(codebook, cut[1] - cut[0]);
        let levels: Vec<NearestCodeword> = codebooks.into_iter().zip(cuts.windows(2)).map(prepare).collect();
        Self { codes: levels.iter().map(|level| level.codes() as u32).collect(), cuts, levels }
    }

    pub(crate) fn load(width: usize, codes: &[u32], arrays: &mut ArraySet) -> Result<Self> {
        let cuts = cuts(width, codes.len());
        let take =
            |(l, &k): (usize, &u32)| arrays.take(&format!("codebooks.{l}"), &[k as usize, cuts[l + 1] - cuts[l]]);
        let codebooks: Vec<Vec<f32>> = codes.iter().enumerate().map(take).collect::<Result<_>>()?;
        Ok(Self::new(width, codebooks))
    }

    pub(crate) fn arrays(&self) -> Vec<NamedArray> {
        let codebook = |(l, level): (usize, &NearestCodeword)| {
            let shape = [level.codes(), self.cuts[l + 1] - self.cuts[l]];
            NamedArray::new(format!("codebooks.{l}"), &shape, level.codewords().to_vec())
        };
        self.levels.iter().enumerate().map(codebook).collect()
    }

    /// D.
    pub(crate) fn width(&self) -> usize {
        self.cuts.last().copied().unwrap_or(0)
    }

    /// K of every level, `[L]`.
    pub(crate) fn codes(&self) -> &[u32] {
        &self.codes
    }

    /// [K, d_l]
    pub(crate) fn codebook(&self, level: usize) -> &[f32] {
        self.levels.get(level).map_or(&[], |search| search.codewords())
    }

    /// Codes of a block; `part` and `scratch` are of any content.
    ///
    /// # Shapes
    /// `rows`: [M, D]; `codes`: [M, L]
    pub(crate) fn encode_rows(
        &self,
        rows: &[f32],
        part: &mut Vec<f32>,
        scratch: &mut SearchScratch,
        codes: &mut [u16],
    ) {
        let levels = self.levels.len();
        for (l, (level, cut)) in self.levels.iter().zip(self.cuts.windows(2)).enumerate() {
            columns(rows, self.width(), cut[0], cut[1], part);
            level.search(part, scratch, |row, code| codes[row * levels + l] = code);
        }
    }

    /// Codes of all rows, over all threads: [N, D] to [N, L].
    pub(crate) fn encode(&self, rows: &[f32]) -> Vec<u16> {
        let levels = self.levels.len();
        let mut codes = vec![0; rows.len() / self.width() * levels];
        let blocks = rows.par_chunks(BLOCK * self.width()).zip(codes.par_chunks_mut(BLOCK * levels));
        blocks.for_each_init(Default::default, |(part, scratch), (rows, codes)| {
            self.encode_rows(rows, part, scratch, codes);
        });
        codes
    }

    /// Sum of squared distances of rows to what their codes stand for.
    ///
    /// # Shapes
    /// `rows`: [N, D]; `codes`: [N, L]
    pub(crate) fn total_error(&self, rows: &[f32], codes: &[u16]) -> f64 {
        let of_row = |(row, codes): (&[f32], &[u16])| -> f64 {
            let parts = self.levels.iter().zip(self.cuts.windows(2)).zip(codes);
            parts.map(|((level, cut), &code)| squared_distance(&row[cut[0]..cut[1]], level.codeword(code))).sum()
        };
        let rows = rows.par_chunks(self.width()).zip(codes.par_chunks(self.levels.len()));
        rows.map(of_row).collect::<Vec<f64>>().iter().sum()
    }

    /// Codewords side by side.
    ///
    /// # Shapes
    /// [N, L] to [N, D]
    pub(crate) fn decode(&self, ids: &SemanticIds) -> Result<Vec<f32>> {
        self.check(ids)?;
        let mut out = vec![0f32; ids.len() * self.width()];
        let rows = out.par_chunks_mut(self.width()).zip(ids.codes().par_chunks(self.levels.len()));
        rows.for_each(|(out, codes)| {
            for ((level, cut), &code) in self.levels.iter().zip(self.cuts.windows(2)).zip(codes) {
                out[cut[0]..cut[1]].copy_from_slice(level.codeword(code));
            }
        });
        Ok(out)
    }

    /// Squared length of what is left when only the first l sub-vectors are known, summed over the rows, [L + 1]: a
    /// sub-vector that is not known counts whole.
    ///
    /// # Shapes
    /// `rows`: [N, D]
    pub(crate) fn residual_energy(&self, rows: &[f32], ids: &SemanticIds) -> Result<Vec<f64>> {
        self.check(ids)?;
        if rows.len() != ids.len() * self.width() {
            let problem = format!("{} vectors, but {} semantic IDs", rows.len() / self.width(), ids.len());
            return Err(Error::mismatch(problem, "give both for the same items"));
        }
        let levels = self.levels.len();
        let blocks = rows.par_chunks(BLOCK * self.width()).zip(ids.codes().par_chunks(BLOCK * levels));
        // Whole and left over, for every sub-vector.
        let partial: Vec<Vec<[f64; 2]>> = blocks
            .map(|(rows, codes)| {
                let mut energy = vec![[0.0; 2]; levels];
                for (row, codes) in rows.chunks_exact(self.width()).zip(codes.chunks_exact(levels)) {
                    for (l, (level, &code)) in self.levels.iter().zip(codes).enumerate() {
                        let part = &row[self.cuts[l]..self.cuts[l + 1]];
                        energy[l][0] += squared_norm(part);
                        energy[l][1] += squared_distance(part, level.codeword(code));
                    }
                }
                energy
            })
            .collect();
        let sum = |l: usize, which: usize| partial.iter().map(|energy| energy[l][which]).sum::<f64>();
        let (whole, left): (Vec<f64>, Vec<f64>) = (0..levels).map(|l| (sum(l, 0), sum(l, 1))).unzip();
        Ok((0..=levels).map(|known| left[..known].iter().sum::<f64>() + whole[known..].iter().sum::<f64>()).collect())
    }

    fn check(&self, ids: &SemanticIds) -> Result<()> {
        if ids.levels() != self.levels.len() {
            let problem = format!("semantic IDs of {} levels, but {} codebooks", ids.levels(), self.levels.len());
            return Err(Error::mismatch(problem, "use the tokenizer that made these semantic IDs"));
        }
        ids.check_codes(&self.codes)
    }
}

/// What fitting a codebook to every sub-vector takes.
pub(crate) struct ProductTraining<'a> {
    /// K of every level, `[L]`.
    pub(crate) codes: &'a [u32],
    pub(crate) max_iterations: usize,
    pub(crate) tolerance: f64,
    pub(crate) seeding_rows_per_code: usize,
    pub(crate) seed: u64,
}

impl ProductTraining<'_> {
    /// Settings of one level's k-means.
    pub(crate) fn options(&self, level: usize) -> KMeansOptions {
        KMeansOptions {
            codes: self.codes[level] as usize,
            max_iterations: self.max_iterations,
            tolerance: self.tolerance,
            spherical: false,
            seeding_rows: KMeansOptions::seeding_rows(self.seeding_rows_per_code, self.codes[level]),
        }
    }

    /// Fits every codebook by k-means from seeds.
    ///
    /// # Shapes
    /// `rows`: [N, D]
    pub(crate) fn fit(&self, rows: &[f32], width: usize, progress: &dyn Progress) -> Vec<KMeans> {
        let cuts = cuts(width, self.codes.len());
        let mut part = Vec::new();
        let fit_level = |(l, cut): (usize, &[usize])| {
            columns(rows, width, cut[0], cut[1], &mut part);
            let task = format!("k-means, sub-vector {} of {}", l + 1, self.codes.len());
            progress.start(&task, Some(self.max_iterations as u64), "iterations");
            // The same stream whatever the method, so that PQ is where OPQ starts.
            let mut rng = Rng::new(self.seed, &format!("product codebook {l}"));
            let fitted = fit(&part, cut[1] - cut[0], &self.options(l), &mut rng, &mut |_, error| {
                progress.advance(1);
                progress.note(&format!("error {error:.5}"));
            });
            progress.finish();
            fitted
        };
        cuts.windows(2).enumerate().map(fit_level).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_first_parts_get_the_columns_that_are_left_over() {
        assert_eq!(cuts(7, 3), [0, 3, 5, 7]);
        assert_eq!(cuts(8, 4), [0, 2, 4, 6, 8]);
        assert_eq!(cuts(3, 3), [0, 1, 2, 3]);
    }

    #[test]
    fn codes_are_the_nearest_of_each_part_and_energies_add_up() {
        let codebooks = ProductCodebooks::new(3, vec![vec![0.0, 0.0, 1.0, 1.0], vec![-1.0, 2.0]]);
        let rows = [0.9f32, 1.2, 2.5, 0.1, -0.2, -3.0];
        let codes = codebooks.encode(&rows);
        assert_eq!(codes, [1, 1, 0, 0]);
        let ids = SemanticIds::new(2, codes).unwrap();
        assert_eq!(codebooks.decode(&ids).unwrap(), [1.0, 1.0, 2.0, 0.0, 0.0, -1.0]);
        let energy = codebooks.residual_energy(&rows, &ids).unwrap();
        let want = [17.55, 15.35, 4.35];
        assert!(energy.iter().zip(want).all(|(e, w)| (e - w).abs() < 1e-5), "{energy:?}");
    }
}
