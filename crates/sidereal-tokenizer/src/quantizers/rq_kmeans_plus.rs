//! RQ-KMeans+: residual k-means that goes on as a net, which starts as the identity.
//!
//! *Paper*: GPR (Zhang et al., arXiv 2511.10138), which starts the codebooks of an RQ-VAE from residual
//! k-means and lets a residual encoder z = x + MLP(x) adapt to them; MiniOneRec (Kong et al., arXiv 2510.24431) has it in
//! its code.
//! *Differs from the papers*: MiniOneRec's decoder is a plain MLP that starts at random; here it mirrors the encoder, x^ =
//! q + MLP(q) with a last layer of 0, so that training starts exactly as residual k-means, which is evaluated too: the net
//! of the lowest collision rate is kept, and may be that start. The MLPs have one hidden layer of 512 (there 2048, 1024,
//! 512, 256, 128, 64), k-means is plain (there balanced: `kmeans_balanced`).
//! *Checked against*: the start against residual quantization, in `rq_vae/model.rs`; the training is that of RQ-VAE.
//!
//! # Shapes
//! Embeddings [N, D] to latents [N, D]; L codebooks [K_l, D]; semantic IDs [N, L]; their sums back to [N, D].

use serde::{Deserialize, Serialize};

use sidereal_core::Error;
use sidereal_nn::kernels::Precision;
use sidereal_nn::schedule::Schedule;

use super::rq_vae::{CodebookUpdate, Estimator, Plan, Reduction, RqVae, RqVaeConfig, Sinkhorn, train};
use super::{MethodConfig, MethodKind, Quantizer, Status, Trained, Training};
use crate::Result;
use crate::align::AlignConfig;
use crate::arrays::ArraySet;
use crate::clustering::capacity::MOST_CODES;
use crate::pre_step::PreStep;
use crate::training_items::TrainingItems;

const NAME: &str = "rq-kmeans-plus";

/// Settings of RQ-KMeans+.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RqKmeansPlusConfig {
    /// K of every level. Default: three levels of 256 (MiniOneRec).
    pub codes: Vec<u32>,
    /// What is done to embeddings first, in order.
    pub pre_steps: Vec<PreStep>,
    /// Widths between D and D; the decoder mirrors them.
    pub hidden: Vec<usize>,
    /// How squared differences become one number.
    pub reduction: Reduction,
    /// Weight of the commitment beside the codebook loss. Default: 0.25 (MiniOneRec).
    pub commitment: f64,
    /// Weight of the quantization loss beside the reconstruction. Default: 1 (MiniOneRec).
    pub quantization_weight: f64,
    /// AdamW's base rate. Default: 0.0001 (MiniOneRec).
    pub learning_rate: f64,
    /// AdamW's decay. Default: 0 (MiniOneRec).
    pub weight_decay: f64,
    /// How the rate changes over the steps.
    pub schedule: Schedule,
    /// Largest norm of a step's gradient.
    pub clip_norm: f64,
    /// Items of a step. Default: 2048 (MiniOneRec).
    pub batch: usize,
    /// Most passes over the items.
    pub epochs: usize,
    /// Epochs between evaluations: all items are encoded, and the best net so far is kept.
    pub evaluate_every: usize,
    /// Ends after this many evaluations without a gain; 0 never ends early.
    pub patience: usize,
    /// Moves codes that an epoch never used to residuals of random items.
    pub restart_dead_codes: bool,
    /// Most iterations of the k-means that the codebooks start from, on all items.
    pub kmeans_iterations: usize,
    /// Its clusters are of equal size, floor(N / K) rows, one more or less, as MiniOneRec's. Default: plain k-means.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub kmeans_balanced: bool,
    /// How gradients pass the choice of codewords.
    pub estimator: Estimator,
    /// What moves codewords.
    pub codebook_update: CodebookUpdate,
    /// Levels whose codes are spread evenly over each training batch.
    pub sinkhorn: Sinkhorn,
    /// What the nets multiply in, in training and in encoding alike: f32 or bf16.
    #[serde(skip_serializing_if = "Precision::is_f32")]
    pub precision: Precision,
    /// Losses that pull codes towards behaviour.
    pub align: AlignConfig,
}

impl Default for RqKmeansPlusConfig {
    fn default() -> Self {
        Self {
            codes: vec![256; 3],
            pre_steps: Vec::new(),
            hidden: vec![512],
            reduction: Reduction::Mean,
            commitment: 0.25,
            quantization_weight: 1.0,
            learning_rate: 1e-4,
            weight_decay: 0.0,
            schedule: Schedule::Constant { warmup_steps: 0 },
            clip_norm: 1.0,
            batch: 2048,
            epochs: 200,
            evaluate_every: 10,
            patience: 10,
            restart_dead_codes: true,
            kmeans_iterations: 30,
            kmeans_balanced: false,
            estimator: Estimator::StraightThrough,
            codebook_update: CodebookUpdate::Gradient,
            sinkhorn: Sinkhorn::default(),
            precision: Precision::F32,
            align: AlignConfig::default(),
        }
    }
}

impl RqKmeansPlusConfig {
    /// The shared training with a latent as wide as the inputs.
    fn plan(&self, width: usize) -> Plan {
        let config = RqVaeConfig {
            codes: self.codes.clone(),
            pre_steps: self.pre_steps.clone(),
            hidden: self.hidden.clone(),
            latent: width,
            reduction: self.reduction,
            commitment: self.commitment,
            quantization_weight: self.quantization_weight,
            learning_rate: self.learning_rate,
            weight_decay: self.weight_decay,
            schedule: self.schedule,
            clip_norm: self.clip_norm,
            batch: self.batch,
            epochs: self.epochs,
            evaluate_every: self.evaluate_every,
            patience: self.patience,
            restart_dead_codes: self.restart_dead_codes,
            estimator: self.estimator,
            codebook_update: self.codebook_update,
            sinkhorn: self.sinkhorn.clone(),
            precision: self.precision,
            align: self.align.clone(),
            ..RqVaeConfig::default()
        };
        Plan {
            method: NAME,
            config,
            residual: true,
            start_rows: usize::MAX,
            start_iterations: self.kmeans_iterations,
            start_balanced: self.kmeans_balanced,
        }
    }
}

impl MethodKind for RqKmeansPlusConfig {
    const PAPER: &'static str = "GPR, arXiv 2511.10138; MiniOneRec, arXiv 2510.24431";
    const STATUS: Status = Status::Experimental;

    fn with_codes(codes: Vec<u32>) -> Self {
        Self { codes, ..Self::default() }
    }
}

impl MethodConfig for RqKmeansPlusConfig {
    fn codes(&self) -> &[u32] {
        &self.codes
    }

    fn pre_steps(&self) -> &[PreStep] {
        &self.pre_steps
    }

    fn check(&self) -> Result<()> {
        if !(1..=100_000).contains(&self.kmeans_iterations) {
            let (key, mend) = (format!("{NAME}.kmeans_iterations"), "give 1 to 100000; 20 to 30 suffice");
            return Err(Error::config(key, format!("{} iterations", self.kmeans_iterations), mend).into());
        }
        if let Some(&codes) = self.codes.iter().find(|&&k| self.kmeans_balanced && k > MOST_CODES) {
            let problem = format!("a level has {codes} codes; balancing takes at most {MOST_CODES}");
            let mend = "use more levels of fewer codes, or kmeans_balanced = false";
            return Err(Error::config(format!("{NAME}.kmeans_balanced"), problem, mend).into());
        }
        // Any width will do: it comes with the items.
        self.plan(1).config.check_as(NAME)
    }

    fn train(&self, items: &TrainingItems<'_>, training: &Training<'_>) -> Result<Trained> {
        train(self.plan(items.vectors.width()), items, training)
    }

    fn encoder_plan(&self, width: usize) -> Option<Plan> {
        Some(self.plan(width))
    }

    fn load(&self, width: usize, arrays: &mut ArraySet) -> Result<Box<dyn Quantizer>> {
        Ok(Box::new(RqVae::take(&self.plan(width), width, arrays)?))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{ItemTokenizer, TokenizerConfig};
    use sidereal_core::{Embeddings, NoProgress};
    use sidereal_nn::rng::Rng;

    /// Rows of each code of the first level, when nothing was trained after k-means.
    fn shares(kmeans_balanced: bool) -> Vec<usize> {
        let mut rng = Rng::new(4, "rows");
        // A crowd and a few far away: nearest codewords share rows out unevenly.
        let spread = |row: usize| if row < 150 { 0.1 } else { 3.0 };
        let values = (0..200 * 4).map(|at| (rng.normal() * spread(at / 4)) as f32).collect();
        let rows = Embeddings::new(200, 4, values).unwrap();
        let config = RqKmeansPlusConfig {
            codes: vec![8],
            epochs: 1,
            learning_rate: 1e-12,
            kmeans_balanced,
            ..Default::default()
        };
        let config = TokenizerConfig::RqKmeansPlus(config);
        let tokenizer = ItemTokenizer::train(&config, &rows, 1, &NoProgress).unwrap();
        let mut shares = vec![0; 8];
        tokenizer.encode(&rows).unwrap().codes().iter().for_each(|&code| shares[usize::from(code)] += 1);
        shares
    }

    #[test]
    fn a_balanced_start_shares_rows_out_more_evenly() {
        let (plain, balanced) = (shares(false), shares(true));
        let most = |shares: &[usize]| shares.iter().max().copied().unwrap();
        assert!(most(&balanced) < most(&plain), "{balanced:?} after a balanced start, {plain:?} after a plain one");
    }

    #[test]
    fn balancing_more_codes_than_it_can_is_refused_with_the_key() {
        let config = RqKmeansPlusConfig { codes: vec![4096], kmeans_balanced: true, ..Default::default() };
        let error = config.check().unwrap_err().to_string();
        assert!(error.contains("rq-kmeans-plus.kmeans_balanced") && error.contains("4096"), "{error}");
    }
}
