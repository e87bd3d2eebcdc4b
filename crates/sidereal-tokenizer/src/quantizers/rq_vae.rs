//! RQ-VAE: an autoencoder whose latent is quantized residual by residual.
//!
//! *Paper*: Lee et al., arXiv 2203.01941, section 3.1; as an item tokenizer TIGER, arXiv 2305.05065, section 3.1.
//! *Differs from the papers*: the residual passed on is r - sg(e), so every level's commitment reaches the encoder and
//! every codebook sees its own level's loss only (LC-Rec subtracts the straight-through value instead); gradients pass
//! the choice of codewords once, from the sum of all levels to the latent, and so does the rotation; codebooks start
//! from k-means; codes that an epoch never used restart at residuals; the net of the lowest collision rate is kept.
//! Other estimators, codebook updates, SimVQ, Sinkhorn's mapping and input norms are options, with their papers there.
//! *Checked against*: `tests/fixtures/rqvae` (codes, latents, losses, gradients), written by
//! `benches/peers/make_fixtures.py`.
//!
//! # Shapes
//! Embeddings [N, D] to latents [N, d] by the encoder; L codebooks [K_l, d]; semantic IDs [N, L]; their sums [N, d]
//! back to [N, D] by the decoder.

use serde::{Deserialize, Serialize};

use sidereal_core::{Embeddings, SemanticIds};
use sidereal_nn::kernels::Precision;
use sidereal_nn::schedule::Schedule;

use super::net_training::{check_hidden, check_not_negative, check_positive, check_sizes};
use super::{LevelsSee, MethodConfig, MethodKind, Quantizer, Scratch, Status, Trained, Training};
use crate::Result;
use crate::align::AlignConfig;
use crate::arrays::{ArraySet, NamedArray};
use crate::codebooks::residual::ResidualCodebooks;
use crate::encode::check_width;
use crate::mlp::Mlp;
use crate::pre_step::PreStep;
use crate::training_items::TrainingItems;

mod codebooks;
mod estimators;
mod input_norm;
mod model;
mod options;
mod progressed;
mod quantise;
mod start;
mod training;

pub use options::{CodebookUpdate, Ema, Estimator, Gumbel, InputNorm, Reduction, Sinkhorn};
pub(crate) use training::{Place, Steps, train};

/// Settings of RQ-VAE.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RqVaeConfig {
    /// K of every level. Default: three levels of 256 (TIGER).
    pub codes: Vec<u32>,
    /// What is done to embeddings first, in order. Default: standardise, without which codes collapse on many embeddings.
    pub pre_steps: Vec<PreStep>,
    /// Widths between D and d; the decoder mirrors them. Default: 512, 256, 128 (TIGER).
    pub hidden: Vec<usize>,
    /// d. Default: 32 (TIGER).
    pub latent: usize,
    /// How squared differences become one number.
    pub reduction: Reduction,
    /// Weight of the commitment beside the codebook loss. Default: 0.25 (TIGER).
    pub commitment: f64,
    /// Weight of the quantization loss beside the reconstruction.
    pub quantization_weight: f64,
    /// AdamW's base rate.
    pub learning_rate: f64,
    /// AdamW's decay.
    pub weight_decay: f64,
    /// How the rate changes over the steps.
    pub schedule: Schedule,
    /// Largest norm of a step's gradient.
    pub clip_norm: f64,
    /// Items of a step.
    pub batch: usize,
    /// Most passes over the items.
    pub epochs: usize,
    /// Epochs between evaluations: all items are encoded, and the best net so far is kept.
    pub evaluate_every: usize,
    /// Ends after this many evaluations without a gain; 0 never ends early.
    pub patience: usize,
    /// Moves codes that an epoch never used to residuals of random items.
    pub restart_dead_codes: bool,
    /// How gradients pass the choice of codewords.
    pub estimator: Estimator,
    /// What moves codewords.
    pub codebook_update: CodebookUpdate,
    /// Codebooks keep their start and are seen through one learnt linear map a level (SimVQ, Zhu et al., arXiv
    /// 2411.02038).
    pub sim_vq: bool,
    /// Levels whose codes are spread evenly over each training batch.
    pub sinkhorn: Sinkhorn,
    /// What is done to the encoder's inputs.
    pub input_norm: InputNorm,
    /// What the nets multiply in, in training and in encoding alike: f32, or bf16, about twice as fast where the processor
    /// has it. Sums, codebooks and the choice of codewords stay f32.
    #[serde(skip_serializing_if = "Precision::is_f32")]
    pub precision: Precision,
    /// Losses that pull codes towards behaviour.
    pub align: AlignConfig,
}

impl Default for RqVaeConfig {
    fn default() -> Self {
        Self {
            codes: vec![256; 3],
            pre_steps: vec![PreStep::Standardise],
            hidden: vec![512, 256, 128],
            latent: 32,
            reduction: Reduction::Mean,
            commitment: 0.25,
            quantization_weight: 1.0,
            learning_rate: 1e-3,
            weight_decay: 1e-4,
            schedule: Schedule::Constant { warmup_steps: 0 },
            clip_norm: 1.0,
            batch: 1024,
            epochs: 200,
            evaluate_every: 10,
            patience: 10,
            restart_dead_codes: true,
            estimator: Estimator::StraightThrough,
            codebook_update: CodebookUpdate::Gradient,
            sim_vq: false,
            sinkhorn: Sinkhorn::default(),
            input_norm: InputNorm::None,
            precision: Precision::F32,
            align: AlignConfig::default(),
        }
    }
}

impl MethodKind for RqVaeConfig {
    const PAPER: &'static str = "RQ-VAE, arXiv 2203.01941; TIGER, arXiv 2305.05065, section 3.1";
    const STATUS: Status = Status::Stable;

    fn with_codes(codes: Vec<u32>) -> Self {
        Self { codes, ..Self::default() }
    }
}

impl RqVaeConfig {
    /// D, hidden widths, d.
    fn widths(&self, width: usize) -> Vec<usize> {
        [width].into_iter().chain(self.hidden.iter().copied()).chain([self.latent]).collect()
    }

    /// Checks every setting; `method` is the table that they stand in.
    pub(crate) fn check_as(&self, method: &str) -> Result<()> {
        check_hidden(method, &self.hidden)?;
        check_sizes(
            method,
            &[
                ("latent", self.latent),
                ("batch", self.batch),
                ("epochs", self.epochs),
                ("evaluate_every", self.evaluate_every),
            ],
        )?;
        check_positive(
            method,
            &[
                ("quantization_weight", self.quantization_weight),
                ("learning_rate", self.learning_rate),
                ("clip_norm", self.clip_norm),
            ],
        )?;
        check_not_negative(method, &[("commitment", self.commitment), ("weight_decay", self.weight_decay)])?;
        options::check(self, method)?;
        self.align.check(method)
    }
}

/// What the training that RQ-VAE and its relatives share is to do.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The method's name, for messages, progress and generators.
    pub(crate) method: &'static str,
    pub(crate) config: RqVaeConfig,
    /// Encoder and decoder are branches beside the identity, and the start itself is evaluated.
    pub(crate) residual: bool,
    /// The k-means that codebooks start from sees this many items at most.
    pub(crate) start_rows: usize,
    /// Its most iterations.
    pub(crate) start_iterations: usize,
    /// Its clusters are of equal size.
    pub(crate) start_balanced: bool,
}

impl Plan {
    /// Plain RQ-VAE.
    pub(crate) fn rq_vae(config: &RqVaeConfig) -> Self {
        let most = config.codes.iter().copied().max().unwrap_or(1) as usize;
        Self {
            method: "rq-vae",
            config: config.clone(),
            residual: false,
            start_rows: (10 * most).max(config.batch),
            // More gains nothing, because training moves them anyway.
            start_iterations: 25,
            start_balanced: false,
        }
    }

    /// The widths of an encoder for prepared vectors of `width`, down to the latent's.
    pub(crate) fn encoder_widths(&self, width: usize) -> Vec<usize> {
        self.config.widths(width)
    }
}

impl MethodConfig for RqVaeConfig {
    fn codes(&self) -> &[u32] {
        &self.codes
    }

    fn pre_steps(&self) -> &[PreStep] {
        &self.pre_steps
    }

    fn check(&self) -> Result<()> {
        self.check_as("rq-vae")
    }

    fn train(&self, items: &TrainingItems<'_>, training: &Training<'_>) -> Result<Trained> {
        train(Plan::rq_vae(self), items, training)
    }

    fn encoder_plan(&self, _width: usize) -> Option<Plan> {
        Some(Plan::rq_vae(self))
    }

    fn load(&self, width: usize, arrays: &mut ArraySet) -> Result<Box<dyn Quantizer>> {
        Ok(Box::new(RqVae::take(&Plan::rq_vae(self), width, arrays)?))
    }
}

/// A fitted encoder, decoder and stack of codebooks.
#[derive(Debug, Clone)]
pub struct RqVae {
    encoder: Mlp,
    decoder: Mlp,
    codebooks: ResidualCodebooks,
    /// The encoder is younger than the rest, and reads vectors of another model.
    retrained: bool,
}

impl RqVae {
    /// The net that a plan makes for inputs of `width`, from its arrays.
    pub(crate) fn take(plan: &Plan, width: usize, arrays: &mut ArraySet) -> Result<Self> {
        let encoder = Mlp::load("enc", &plan.config.widths(width), plan.residual, arrays)?;
        let mut encoder = encoder.in_precision(plan.config.precision);
        if plan.config.input_norm == InputNorm::Layer {
            encoder = encoder.normalising();
        }
        Self::behind(encoder, plan, width, false, arrays)
    }

    /// The net with an encoder that was retrained for inputs of `width`, always in f32; the decoder gives back `width_out`.
    pub(crate) fn take_retrained(plan: &Plan, width: usize, width_out: usize, arrays: &mut ArraySet) -> Result<Self> {
        let encoder = Mlp::load("enc", &plan.config.widths(width), false, arrays)?;
        Self::behind(encoder, plan, width_out, true, arrays)
    }

    fn behind(encoder: Mlp, plan: &Plan, width: usize, retrained: bool, arrays: &mut ArraySet) -> Result<Self> {
        let mut widths = plan.config.widths(width);
        widths.reverse();
        let decoder = Mlp::load("dec", &widths, plan.residual, arrays)?.in_precision(plan.config.precision);
        let codebooks = ResidualCodebooks::load(plan.config.latent, &plan.config.codes, false, arrays)?;
        Ok(Self { encoder, decoder, codebooks, retrained })
    }

    /// The same codebooks and decoder behind an encoder for vectors of another model.
    pub(crate) fn with_encoder(&self, encoder: Mlp) -> Self {
        Self { encoder, retrained: true, ..self.clone() }
    }

    /// d.
    pub(crate) fn latent(&self) -> usize {
        self.codebooks.width()
    }
}

impl Quantizer for RqVae {
    fn width(&self) -> usize {
        self.encoder.inputs()
    }

    fn codes_per_level(&self) -> &[u32] {
        self.codebooks.codes()
    }

    fn encode_rows(&self, rows: &[f32], scratch: &mut Scratch, codes: &mut [u16]) {
        scratch.residuals.clear();
        self.encoder.forward_rows(rows, &mut scratch.hidden, &mut scratch.residuals); // [M, d]
        self.codebooks.encode_rows(&mut scratch.residuals, &mut scratch.search, codes);
    }

    fn reconstruct(&self, ids: &SemanticIds) -> Result<Embeddings> {
        let sums = self.codebooks.sums(ids)?; // [N, d]
        Ok(Embeddings::new(ids.len(), self.decoder.outputs(), self.decoder.forward_all(&sums))?)
    }

    fn reconstructs_inputs(&self) -> bool {
        !self.retrained
    }

    fn latents(&self, rows: &Embeddings) -> Result<Embeddings> {
        check_width(self.width(), rows)?;
        Ok(Embeddings::new(rows.rows(), self.codebooks.width(), self.encoder.forward_all(rows.values()))?)
    }

    fn residual_energy(&self, rows: &Embeddings, ids: &SemanticIds) -> Result<Option<Vec<f64>>> {
        Ok(Some(self.codebooks.residual_energy(self.latents(rows)?.values(), ids)?))
    }

    fn codebook(&self, level: usize) -> &[f32] {
        self.codebooks.codebook(level)
    }

    fn levels_see(&self) -> LevelsSee {
        LevelsSee::Residuals { normalised: false }
    }

    fn arrays(&self) -> Vec<NamedArray> {
        let mut arrays = self.encoder.arrays("enc");
        arrays.extend(self.decoder.arrays("dec"));
        arrays.extend(self.codebooks.arrays());
        arrays
    }
}
