//! TIGER: a small T5 over semantic IDs.
//!
//! The history is the codes of the most recent items, oldest first; the target is the codes of the next. Training is
//! teacher-forced cross-entropy over the sliding window of every training history.
//!
//! *Paper*: Rajput et al., "Recommender Systems with Generative Retrieval", 2305.05065, sections 3 and 4.
//! *Differs from the paper*: no user token (GRID, 2507.22224, measures that none is best); AdamW with a cosine instead
//! of T5X's optimiser and 200,000 steps; collisions are kept in postings by default; the beam search is constrained
//! to the catalog, so no invalid ID is ever dropped.
//! *Checked against*: see [`super::t5`], which is the whole network.
//!
//! # Shapes
//! history `[B, H * L]` -> codes `[B, L]`

use std::path::Path;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use sidereal_core::{Catalog, CodeVocab};
use sidereal_nn::params::Params;

use super::t5::{FeedForward, T5, T5Config};
use super::{Cost, ModelConfig, ModelKind, Role, Shape, Status};
use crate::Result;
use crate::batches::Batch;
use crate::dropout::Dropout;
use crate::network::{Materials, Network, Row};
use crate::ranker::{CodeRanker, Ranker};
use crate::scoring::ScoreNorm;
use crate::training::TrainingConfig;

/// The `[generator.tiger]` table of a recipe. Sizes are those of the paper (section 4, implementation details).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TigerConfig {
    /// Width of the residual stream.
    pub d_model: usize,
    /// Width inside the feed-forward sub-layer.
    pub d_ff: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width of a head.
    pub d_kv: usize,
    /// Encoder blocks, and as many decoder blocks.
    pub layers: usize,
    /// Chance that a value is dropped in training.
    pub dropout: f32,
    /// The feed-forward sub-layer.
    pub feed_forward: FeedForward,
    /// Most recent items that the model sees.
    pub max_history: usize,
    /// Over which tokens scores are normalised.
    pub score_norm: ScoreNorm,
    /// How it is trained.
    pub training: TrainingConfig,
}

impl Default for TigerConfig {
    fn default() -> Self {
        Self {
            d_model: 128,
            d_ff: 1024,
            heads: 6,
            d_kv: 64,
            layers: 4,
            dropout: 0.1,
            feed_forward: FeedForward::Relu,
            max_history: 20,
            score_norm: ScoreNorm::Level,
            training: TrainingConfig::default(),
        }
    }
}

impl TigerConfig {
    /// The network for a vocabulary of codes.
    ///
    /// # Errors
    /// Sizes that no model can have.
    pub fn t5(&self, vocab: &CodeVocab) -> Result<T5Config> {
        let config = T5Config {
            vocab_size: vocab.size() as usize,
            d_model: self.d_model,
            d_kv: self.d_kv,
            d_ff: self.d_ff,
            num_layers: self.layers,
            num_decoder_layers: Some(self.layers),
            num_heads: self.heads,
            relative_attention_num_buckets: 32,
            relative_attention_max_distance: 128,
            dropout_rate: self.dropout,
            layer_norm_epsilon: 1e-6,
            feed_forward_proj: self.feed_forward,
            tie_word_embeddings: true,
            scale_decoder_outputs: Some(true),
            pad_token_id: CodeVocab::PAD,
            eos_token_id: CodeVocab::EOS,
            decoder_start_token_id: CodeVocab::PAD,
        };
        config.check("generator.tiger")?;
        Ok(config)
    }
}

impl ModelKind for TigerConfig {
    const PAPER: &'static str = "Rajput et al., Recommender Systems with Generative Retrieval, arXiv 2305.05065";
    const STATUS: Status = Status::Stable;
    const ROLE: Role = Role::Generator;
    const SUMMARY: &'static str = "a small T5 encoder-decoder over the codes of the history";
}

impl ModelConfig for TigerConfig {
    fn training(&self) -> &TrainingConfig {
        &self.training
    }

    fn training_mut(&mut self) -> &mut TrainingConfig {
        &mut self.training
    }

    fn max_history(&self) -> usize {
        self.max_history
    }

    fn score_norm(&self) -> ScoreNorm {
        self.score_norm
    }

    fn check(&self, codes_per_level: &[u32]) -> Result<()> {
        self.t5(&CodeVocab::new(CodeVocab::FIRST_CODE, codes_per_level)).map(drop)
    }

    fn cost(&self, shape: &Shape<'_>) -> Cost {
        let vocab = CodeVocab::new(CodeVocab::FIRST_CODE, shape.codes_per_level);
        self.t5(&vocab).map(|t5| t5.cost(shape, self.max_history)).unwrap_or_default()
    }

    fn build(&self, materials: &Materials<'_>, seed: u64) -> Result<Box<dyn Network>> {
        let t5 = T5::new(self.t5(&materials.vocab())?, seed, materials.device)?;
        Ok(Box::new(Tiger::new(self.clone(), t5, materials)))
    }

    fn load(&self, dir: &Path, materials: &Materials<'_>) -> Result<Box<dyn Network>> {
        Ok(Box::new(Tiger::new(self.clone(), T5::load(dir, materials.device)?, materials)))
    }
}

/// A T5 over a catalog's codes.
#[derive(Debug)]
struct Tiger {
    config: TigerConfig,
    vocab: CodeVocab,
    catalog: Catalog,
    t5: T5,
}

impl Tiger {
    fn new(config: TigerConfig, t5: T5, materials: &Materials<'_>) -> Self {
        Self { config, vocab: materials.vocab(), catalog: materials.catalog.clone(), t5 }
    }
}

impl Network for Tiger {
    fn params(&self) -> &Params {
        self.t5.params()
    }

    fn loss(&self, rows: &[Row<'_>], noise: Option<u64>) -> Result<Tensor> {
        let batch = Batch::new(&self.catalog, &self.vocab, rows, self.config.max_history);
        let dropout = Dropout::of_step(self.t5.config().dropout_rate, noise);
        self.t5.loss(&batch, self.config.training.label_smoothing, &dropout)
    }

    fn ranker(&self, materials: &Materials<'_>) -> Result<Box<dyn Ranker>> {
        let inference = self.t5.inference(&materials.vocab())?;
        Ok(Box::new(CodeRanker::new(inference, self.config.score_norm, self.config.max_history)))
    }

    fn save_weights(&self, path: &Path) -> Result<()> {
        self.t5.save_weights(path)
    }

    fn load_weights(&mut self, path: &Path) -> Result<()> {
        self.t5 = T5::load_weights(self.t5.config().clone(), path, self.t5.device())?;
        Ok(())
    }

    fn save(&self, dir: &Path) -> Result<()> {
        self.t5.save(dir)
    }
}
