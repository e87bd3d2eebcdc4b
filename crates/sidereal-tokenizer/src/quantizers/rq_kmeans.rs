//! Residual k-means: every level clusters what the levels before left over.
//!
//! *Paper*: GRID (Ju et al., arXiv 2507.22224), which finds it at least as good as RQ-VAE for recommendation; OneRec
//! (Deng et al., arXiv 2502.18965) uses a balanced form. It has no nets, is deterministic and takes minutes on a CPU,
//! so it is the default.
//! *Differs from the papers*: Lloyd's iterations on all rows instead of mini-batches; greedy k-means++ seeds from a
//! sample; no balancing. `normalize_residuals` gives GRID's variant, `spherical` keeps codewords at length 1 (for use
//! with it).
//! *Checked against*: `tests/fixtures/rkmeans` (faiss codebooks and codes), written by
//! `benches/peers/make_fixtures.py`.
//!
//! # Shapes
//! Embeddings [N, D]; L codebooks [K_l, D]; semantic IDs [N, L].

use serde::{Deserialize, Serialize};

use sidereal_core::{Embeddings, Error, SemanticIds};
use sidereal_nn::rng::Rng;

use super::{MethodConfig, MethodKind, Model, Quantizer, Scratch, Status, Trained, Training};
use crate::Result;
use crate::arrays::{ArraySet, NamedArray};
use crate::kmeans::{KMeansOptions, fit};
use crate::pre_step::PreStep;
use crate::residual::ResidualCodebooks;
use crate::training_items::TrainingItems;

/// Settings of residual k-means.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RqKmeansConfig {
    /// K of every level. Default: three levels of 256, the best of GRID's on Amazon data.
    pub codes: Vec<u32>,
    /// What is done to embeddings first, in order.
    pub pre_steps: Vec<PreStep>,
    /// Most iterations of a level.
    pub max_iterations: usize,
    /// A level ends when an iteration lowers its error by less than this share.
    pub tolerance: f64,
    /// Keeps codewords at length 1.
    pub spherical: bool,
    /// Scales residuals to length 1 before every level.
    pub normalize_residuals: bool,
    /// Seeds are drawn from a sample of this many rows a codeword (at least 16,384 rows).
    pub seeding_rows_per_code: usize,
}

impl Default for RqKmeansConfig {
    fn default() -> Self {
        Self {
            codes: vec![256; 3],
            pre_steps: Vec::new(),
            max_iterations: 30,
            tolerance: 1e-4,
            spherical: false,
            normalize_residuals: false,
            seeding_rows_per_code: 16,
        }
    }
}

impl MethodKind for RqKmeansConfig {
    const PAPER: &'static str = "GRID, arXiv 2507.22224; OneRec, arXiv 2502.18965 (balanced)";
    const STATUS: Status = Status::Stable;

    fn with_codes(codes: Vec<u32>) -> Self {
        Self { codes, ..Self::default() }
    }
}

/// What is recorded of a level's training.
#[derive(Debug, Serialize)]
struct LevelRecord {
    iterations: usize,
    mean_squared_error: f64,
    used: usize,
    codes: u32,
    seeding_rows: usize,
}

impl MethodConfig for RqKmeansConfig {
    fn codes(&self) -> &[u32] {
        &self.codes
    }

    fn pre_steps(&self) -> &[PreStep] {
        &self.pre_steps
    }

    fn check(&self) -> Result<()> {
        if self.max_iterations == 0 || self.max_iterations > 100_000 {
            let problem = format!("{} iterations", self.max_iterations);
            return Err(Error::config("rq-kmeans.max_iterations", problem, "give 1 to 100000; 20 to 30 suffice").into());
        }
        if !(0.0..1.0).contains(&self.tolerance) {
            let problem = format!("{} is not a share", self.tolerance);
            return Err(Error::config("rq-kmeans.tolerance", problem, "give 0 or a small share such as 0.0001").into());
        }
        if self.seeding_rows_per_code == 0 {
            let mend = "give 1 or more; 16 is usual";
            return Err(Error::config("rq-kmeans.seeding_rows_per_code", "no rows to draw seeds from", mend).into());
        }
        Ok(())
    }

    fn train(&self, items: &TrainingItems<'_>, training: &Training<'_>) -> Result<Trained> {
        let rows = items.vectors;
        let width = rows.width();
        let mut residuals = rows.values().to_vec();
        let mut codebooks = ResidualCodebooks::new(width);
        let mut records = Vec::new();
        for (level, &codes) in self.codes.iter().enumerate() {
            let length = self.normalize_residuals.then(|| normalise_rows(&mut residuals, width));
            let seeding_rows = self.seeding_rows_per_code.saturating_mul(codes as usize).max(16_384);
            let options = KMeansOptions {
                codes: codes as usize,
                max_iterations: self.max_iterations,
                tolerance: self.tolerance,
                spherical: self.spherical,
                seeding_rows,
            };
            let task = format!("k-means, level {} of {}", level + 1, self.codes.len());
            training.progress.start(&task, Some(self.max_iterations as u64), "iterations");
            let mut rng = Rng::new(training.seed, &format!("rq-kmeans level {level}"));
            let fitted = fit(&residuals, width, &options, &mut rng, &mut |_, error| {
                training.progress.advance(1);
                training.progress.note(&format!("error {error:.5}"));
            });
            training.progress.finish();
            records.push(LevelRecord {
                iterations: fitted.iterations,
                mean_squared_error: fitted.error,
                used: fitted.used,
                codes,
                seeding_rows: seeding_rows.min(rows.rows()),
            });
            codebooks.push(fitted.codewords, length);
            codebooks.subtract_level(level, &mut residuals);
        }
        let record = serde_json::json!({ "levels": records });
        Ok(Trained { model: Model::Quantizer(Box::new(RqKmeans { codebooks })), record })
    }

    fn load(&self, width: usize, arrays: &mut ArraySet) -> Result<Box<dyn Quantizer>> {
        let codebooks = ResidualCodebooks::load(width, &self.codes, self.normalize_residuals, arrays)?;
        Ok(Box::new(RqKmeans { codebooks }))
    }
}

/// Scales rows to length 1; answers their mean length before.
fn normalise_rows(rows: &mut [f32], width: usize) -> f32 {
    use rayon::prelude::*;
    let lengths: Vec<f64> = rows.par_chunks_mut(width).map(crate::kmeans::normalise).collect();
    (lengths.iter().sum::<f64>() / lengths.len().max(1) as f64) as f32
}

/// A fitted stack of codebooks over the embeddings themselves.
#[derive(Debug, Clone)]
pub struct RqKmeans {
    codebooks: ResidualCodebooks,
}

impl RqKmeans {
    /// Takes codebooks that were made elsewhere, each [K_l, D].
    ///
    /// # Errors
    /// Codebooks that are empty, ragged, too large or not finite; the level is named.
    pub fn from_codebooks(width: usize, codebooks: Vec<Vec<f32>>) -> Result<Self> {
        let mut stack = ResidualCodebooks::new(width);
        for (level, codewords) in codebooks.into_iter().enumerate() {
            let codes = codewords.len().checked_div(width).unwrap_or(0);
            let fits = codes * width == codewords.len() && (1..=crate::codes::MAX_CODES as usize).contains(&codes);
            if !fits || codewords.iter().any(|v| !v.is_finite()) {
                let problem =
                    format!("{} values are not 1 to 65536 finite codewords of width {width}", codewords.len());
                return Err(Error::input(format!("codebook {level}"), problem, "export the codebooks again").into());
            }
            stack.push(codewords, None);
        }
        crate::codes::check_codes(stack.codes())?;
        Ok(Self { codebooks: stack })
    }
}

impl Quantizer for RqKmeans {
    fn width(&self) -> usize {
        self.codebooks.width()
    }

    fn codes_per_level(&self) -> &[u32] {
        self.codebooks.codes()
    }

    fn encode_rows(&self, rows: &[f32], scratch: &mut Scratch, codes: &mut [u16]) {
        scratch.residuals.clear();
        scratch.residuals.extend_from_slice(rows);
        self.codebooks.encode_rows(&mut scratch.residuals, &mut scratch.scores, codes);
    }

    fn reconstruct(&self, ids: &SemanticIds) -> Result<Embeddings> {
        Ok(Embeddings::new(ids.len(), self.width(), self.codebooks.sums(ids)?)?)
    }

    fn latents(&self, rows: &Embeddings) -> Result<Embeddings> {
        crate::encode::check_width(self.width(), rows)?;
        Ok(rows.clone())
    }

    fn residual_energy(&self, rows: &Embeddings, ids: &SemanticIds) -> Result<Option<Vec<f64>>> {
        crate::encode::check_width(self.width(), rows)?;
        Ok(Some(self.codebooks.residual_energy(rows.values(), ids)?))
    }

    fn last_level_distances(&self, rows: &Embeddings, ids: &SemanticIds) -> Result<Option<Vec<f32>>> {
        crate::encode::check_width(self.width(), rows)?;
        Ok(Some(self.codebooks.last_level_distances(rows.values(), ids)?))
    }

    fn codebook(&self, level: usize) -> &[f32] {
        self.codebooks.codebook(level)
    }

    fn arrays(&self) -> Vec<NamedArray> {
        self.codebooks.arrays()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use sidereal_core::NoProgress;

    fn noise(rows: usize, width: usize) -> Embeddings {
        let mut rng = Rng::new(4, "noise");
        Embeddings::new(rows, width, (0..rows * width).map(|_| rng.normal() as f32).collect()).unwrap()
    }

    #[test]
    fn what_training_subtracts_is_what_encoding_subtracts() {
        let rows = noise(700, 6);
        for normalize_residuals in [false, true] {
            let mut config = RqKmeansConfig::with_codes(vec![16, 8]);
            config.normalize_residuals = normalize_residuals;
            let trained = config.train(&TrainingItems::new(&rows), &Training::new(1, &NoProgress)).unwrap();
            let Model::Quantizer(quantizer) = trained.model else { panic!("k-means makes a quantizer") };
            let mut codes = vec![0; 700 * 2];
            quantizer.encode_rows(rows.values(), &mut Scratch::default(), &mut codes);
            let ids = SemanticIds::new(2, codes).unwrap();
            let energy = quantizer.residual_energy(&rows, &ids).unwrap().unwrap();
            assert!(energy[0] > energy[1] && energy[1] > energy[2], "{energy:?}");
            if !normalize_residuals {
                let error = trained.record["levels"][1]["mean_squared_error"].as_f64().unwrap();
                assert!((energy[2] / 700.0 / error - 1.0).abs() < 1e-3);
                let back = quantizer.reconstruct(&ids).unwrap();
                let apart: f64 = (0..700).map(|i| crate::product::squared_distance(rows.row(i), back.row(i))).sum();
                assert!((apart / energy[2] - 1.0).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn impossible_settings_name_their_key() {
        let base = RqKmeansConfig::with_codes(vec![4]);
        let error = |config: RqKmeansConfig| config.check().unwrap_err().to_string();
        assert!(error(RqKmeansConfig { max_iterations: 0, ..base.clone() }).contains("max_iterations"));
        assert!(error(RqKmeansConfig { tolerance: f64::NAN, ..base.clone() }).contains("tolerance"));
        assert!(error(RqKmeansConfig { seeding_rows_per_code: 0, ..base }).contains("seeding_rows_per_code"));
        assert!(RqKmeans::from_codebooks(2, vec![vec![1.0]]).is_err());
        assert!(RqKmeans::from_codebooks(0, vec![vec![1.0]]).is_err());
        assert!(RqKmeans::from_codebooks(1, vec![]).is_err());
    }
}
