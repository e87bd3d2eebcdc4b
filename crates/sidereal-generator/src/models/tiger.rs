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

use serde::{Deserialize, Serialize};
use sidereal_core::{CodeVocab, Error as CoreError};

use super::t5::{FeedForward, T5Config};
use crate::Result;
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
        if self.max_history == 0 || self.max_history > 1 << 16 {
            let problem = format!("{} items", self.max_history);
            let key = "generator.tiger.max_history";
            return Err(CoreError::config(key, problem, "give between 1 and 65536; the paper has 20").into());
        }
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
