//! Product quantization: the columns are cut into sub-vectors, each with a codebook of its own.
//!
//! *Paper*: Jégou, Douze and Schmid, *Product quantization for nearest neighbor search*, IEEE TPAMI 33(1), 2011, section
//! 2.2. RPG (Hou et al., arXiv 2506.05781) makes semantic IDs of its codes, which have no order: a level says as much as
//! any other.
//! *Differs from the paper*: a width that the levels do not divide is allowed; the first sub-vectors get a column more.
//! *Checked against*: brute force over sub-vectors; faiss' ProductQuantizer for the error of the fit.
//!
//! # Shapes
//! Embeddings [N, D]; L codebooks [K_l, d_l] with sum d_l = D; semantic IDs [N, L].

use serde::{Deserialize, Serialize};

use sidereal_core::{Embeddings, SemanticIds};

use super::{LevelsSee, MethodConfig, MethodKind, Model, Quantizer, Scratch, Status, Trained, Training};
use crate::Result;
use crate::arrays::{ArraySet, NamedArray};
use crate::clustering::kmeans::{KMeans, KMeansOptions};
use crate::codebooks::product_codebooks::{ProductCodebooks, ProductTraining, check_levels};
use crate::pre_step::PreStep;
use crate::training_items::{FitOn, TrainingItems};

/// Settings of product quantization.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PqConfig {
    /// K of every sub-vector. Default: 16 of 256, the fewest of RPG.
    pub codes: Vec<u32>,
    /// What is done to embeddings first, in order.
    pub pre_steps: Vec<PreStep>,
    /// Items that it is fitted on: `all`, or those `seen` in the training histories.
    #[serde(skip_serializing_if = "FitOn::is_usual")]
    pub fit: FitOn,
    /// Most iterations of a sub-vector's k-means.
    pub max_iterations: usize,
    /// It ends when an iteration lowers its error by less than this share.
    pub tolerance: f64,
    /// Seeds are drawn from a sample of this many rows a codeword (at least 16,384 rows).
    pub seeding_rows_per_code: usize,
}

impl Default for PqConfig {
    fn default() -> Self {
        Self {
            codes: vec![256; 16],
            pre_steps: Vec::new(),
            fit: FitOn::All,
            max_iterations: 30,
            tolerance: 1e-4,
            seeding_rows_per_code: 16,
        }
    }
}

impl MethodKind for PqConfig {
    const PAPER: &'static str = "Jégou et al., TPAMI 2011; RPG, arXiv 2506.05781";
    const STATUS: Status = Status::Stable;

    fn with_codes(codes: Vec<u32>) -> Self {
        Self { codes, ..Self::default() }
    }
}

impl MethodConfig for PqConfig {
    fn codes(&self) -> &[u32] {
        &self.codes
    }

    fn pre_steps(&self) -> &[PreStep] {
        &self.pre_steps
    }

    fn fit_on(&self) -> FitOn {
        self.fit
    }

    fn check(&self) -> Result<()> {
        Ok(KMeansOptions::check("pq", self.max_iterations, self.tolerance, self.seeding_rows_per_code)?)
    }

    fn train(&self, items: &TrainingItems<'_>, training: &Training<'_>) -> Result<Trained> {
        let rows = items.vectors;
        check_levels("pq", self.codes.len(), rows.width())?;
        let plan = ProductTraining {
            codes: &self.codes,
            max_iterations: self.max_iterations,
            tolerance: self.tolerance,
            seeding_rows_per_code: self.seeding_rows_per_code,
            seed: training.seed,
        };
        let fitted = plan.fit(rows.values(), rows.width(), training.progress);
        let record = serde_json::json!({ "levels": level_records(&fitted) });
        let codebooks = ProductCodebooks::new(rows.width(), fitted.into_iter().map(|f| f.codewords).collect());
        Ok(Trained { model: Model::Quantizer(Box::new(Pq { codebooks })), record })
    }

    fn load(&self, width: usize, arrays: &mut ArraySet) -> Result<Box<dyn Quantizer>> {
        check_levels("pq", self.codes.len(), width)?;
        Ok(Box::new(Pq { codebooks: ProductCodebooks::load(width, &self.codes, arrays)? }))
    }
}

/// What is recorded of the codebooks' training.
pub(super) fn level_records(fitted: &[KMeans]) -> Vec<serde_json::Value> {
    let record =
        |f: &KMeans| serde_json::json!({ "iterations": f.iterations, "mean_squared_error": f.error, "used": f.used });
    fitted.iter().map(record).collect()
}

/// Fitted codebooks of sub-vectors.
#[derive(Debug, Clone)]
pub struct Pq {
    codebooks: ProductCodebooks,
}

impl Quantizer for Pq {
    fn width(&self) -> usize {
        self.codebooks.width()
    }

    fn codes_per_level(&self) -> &[u32] {
        self.codebooks.codes()
    }

    fn encode_rows(&self, rows: &[f32], scratch: &mut Scratch, codes: &mut [u16]) {
        self.codebooks.encode_rows(rows, &mut scratch.residuals, &mut scratch.search, codes);
    }

    fn reconstruct(&self, ids: &SemanticIds) -> Result<Embeddings> {
        Ok(Embeddings::new(ids.len(), self.width(), self.codebooks.decode(ids)?)?)
    }

    fn latents(&self, rows: &Embeddings) -> Result<Embeddings> {
        crate::encode::check_width(self.width(), rows)?;
        Ok(rows.clone())
    }

    /// Of the sub-vectors, the first l are known and the others count whole.
    fn residual_energy(&self, rows: &Embeddings, ids: &SemanticIds) -> Result<Option<Vec<f64>>> {
        crate::encode::check_width(self.width(), rows)?;
        Ok(Some(self.codebooks.residual_energy(rows.values(), ids)?))
    }

    /// The codewords of a sub-vector, [K, d_l].
    fn codebook(&self, level: usize) -> &[f32] {
        self.codebooks.codebook(level)
    }

    fn levels_see(&self) -> LevelsSee {
        LevelsSee::SubVectors
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

    #[test]
    fn more_levels_than_columns_are_refused_with_the_key() {
        let rows = Embeddings::new(2, 3, vec![1.0; 6]).unwrap();
        let training = Training::new(1, &NoProgress);
        let Err(error) = PqConfig::with_codes(vec![2; 4]).train(&TrainingItems::new(&rows), &training) else {
            panic!("four parts of three columns")
        };
        let error = error.to_string();
        assert!(error.contains("pq.codes") && error.contains("at most 3"), "{error}");
        PqConfig::with_codes(vec![2; 3]).train(&TrainingItems::new(&rows), &training).unwrap();
    }
}
