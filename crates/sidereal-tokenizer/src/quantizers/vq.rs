//! Vector quantization: one level, the nearest of K codewords.
//!
//! *Paper*: Lloyd, *Least squares quantization in PCM*, IEEE Transactions on Information Theory 28(2), 1982.
//! *Differs from the paper*: greedy k-means++ seeds; empty clusters are given the row that is farthest from its codeword.
//! *Checked against*: it is residual k-means of one level, and runs the same code.
//!
//! # Shapes
//! Embeddings [N, D]; one codebook [K, D]; semantic IDs [N, 1].

use serde::{Deserialize, Serialize};

use sidereal_core::Error;

use super::rq_kmeans::RqKmeansConfig;
use super::{MethodConfig, MethodKind, Quantizer, Status, Trained, Training};
use crate::Result;
use crate::arrays::ArraySet;
use crate::clustering::kmeans::KMeansOptions;
use crate::pre_step::PreStep;
use crate::training_items::TrainingItems;

/// Settings of vector quantization.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VqConfig {
    /// K, as a list of one.
    pub codes: Vec<u32>,
    /// What is done to embeddings first, in order.
    pub pre_steps: Vec<PreStep>,
    /// Most iterations.
    pub max_iterations: usize,
    /// Ends when an iteration lowers the error by less than this share.
    pub tolerance: f64,
    /// Seeds are drawn from a sample of this many rows a codeword (at least 16,384 rows).
    pub seeding_rows_per_code: usize,
}

impl Default for VqConfig {
    fn default() -> Self {
        Self {
            codes: vec![1024],
            pre_steps: Vec::new(),
            max_iterations: 30,
            tolerance: 1e-4,
            seeding_rows_per_code: 16,
        }
    }
}

impl MethodKind for VqConfig {
    const PAPER: &'static str = "Lloyd, IEEE TIT 1982";
    const STATUS: Status = Status::Stable;

    fn with_codes(codes: Vec<u32>) -> Self {
        Self { codes, ..Self::default() }
    }
}

impl VqConfig {
    fn as_residual(&self) -> RqKmeansConfig {
        RqKmeansConfig {
            codes: self.codes.clone(),
            max_iterations: self.max_iterations,
            tolerance: self.tolerance,
            seeding_rows_per_code: self.seeding_rows_per_code,
            ..RqKmeansConfig::default()
        }
    }
}

impl MethodConfig for VqConfig {
    fn codes(&self) -> &[u32] {
        &self.codes
    }

    fn pre_steps(&self) -> &[PreStep] {
        &self.pre_steps
    }

    fn check(&self) -> Result<()> {
        if self.codes.len() != 1 {
            let problem = format!("{} levels, but vq has one", self.codes.len());
            let mend = "give one number of codes (codes = [1024]), or use rq-kmeans for several levels";
            return Err(Error::config("vq.codes", problem, mend).into());
        }
        Ok(KMeansOptions::check("vq", self.max_iterations, self.tolerance, self.seeding_rows_per_code)?)
    }

    fn train(&self, items: &TrainingItems<'_>, training: &Training<'_>) -> Result<Trained> {
        self.as_residual().train(items, training)
    }

    fn load(&self, width: usize, arrays: &mut ArraySet) -> Result<Box<dyn Quantizer>> {
        self.as_residual().load(width, arrays)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn several_levels_are_refused_with_the_mend() {
        let error = VqConfig::with_codes(vec![16, 16]).check().unwrap_err().to_string();
        assert!(error.contains("vq.codes") && error.contains("rq-kmeans"), "{error}");
        VqConfig::default().check().unwrap();
    }
}
