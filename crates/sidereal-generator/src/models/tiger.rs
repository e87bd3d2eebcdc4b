//! TIGER: a small T5 over semantic IDs, and what later papers add to it.
//!
//! The history is the codes of the most recent items, oldest first; the target is the codes of the next. Training is
//! teacher-forced cross-entropy over the sliding window of every training history. Everything beyond that is a key of
//! the table which is off by default; the presets switch on what their papers have.
//!
//! *Paper*: Rajput et al., "Recommender Systems with Generative Retrieval", 2305.05065, sections 3 and 4. Of the keys:
//! `separator`, `output = "per-level"`: GRID, 2507.22224; `temperature`: LETTER, 2405.07314, ranking-guided generation
//! loss; `in_item_positions`, `dual_branch`: DiscRec, 2506.15576; `item_vectors`, `contrastive`: LIGER, 2411.18814.
//! *Differs from the paper*: no user token unless asked for (GRID measures that none is best), and one sample in ten is
//! then learnt from as of an unknown user, so that a question without user can be answered; AdamW with a cosine instead
//! of T5X's optimiser and 200,000 steps; collisions are kept in postings by default; the beam search is constrained
//! to the catalog, so no invalid ID is ever dropped.
//! *Checked against*: see [`super::t5`], which is the whole network.
//!
//! # Shapes
//! history `[B, H * L]` -> codes `[B, L]`

mod presets;

use std::path::Path;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use sidereal_core::{Catalog, CodeVocab, Embeddings, Error as CoreError};
use sidereal_nn::params::Params;
use sidereal_nn::rng::Rng;

use super::t5::{Extensions, FeedForward, Objective, T5, T5Config, T5Inference};
use super::{Cost, ModelConfig, ModelKind, Needs, Preset, Role, Shape, Status, is_default};
use crate::Result;
use crate::batches::Batch;
use crate::dropout::Dropout;
use crate::history_layout::HistoryLayout;
use crate::network::{Materials, Network, Row};
use crate::ranker::{CodeRanker, Ranker};
use crate::scoring::ScoreNorm;
use crate::training::TrainingConfig;

/// What turns the decoder's states into scores of codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Output {
    /// The embedding table, over the whole vocabulary.
    #[default]
    Tied,
    /// A matrix of its own, over the whole vocabulary.
    Untied,
    /// A matrix for each level, over that level's codes alone.
    PerLevel,
}

/// The `[generator.tiger]` table of a recipe. Sizes are those of the paper (section 4, implementation details).
///
/// Keys from `user_tokens` on are left out of files where they have their default, so that the runs and files of a
/// plain TIGER stay what they were before there were such keys.
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
    /// User tokens, over which users are spread; 0: the model sees no user. The paper has 2000.
    #[serde(skip_serializing_if = "is_default")]
    pub user_tokens: u32,
    /// Whether a token stands between the items of a history.
    #[serde(skip_serializing_if = "is_default")]
    pub separator: bool,
    /// What turns the decoder's states into scores of codes.
    #[serde(skip_serializing_if = "is_default")]
    pub output: Output,
    /// Divides the logits in the training loss: below 1 it is harder on codes that come near the right one.
    #[serde(skip_serializing_if = "is_one")]
    pub temperature: f32,
    /// Whether a token's place in its item has a learnt vector.
    #[serde(skip_serializing_if = "is_default")]
    pub in_item_positions: bool,
    /// Whether an attention among the tokens of one item stands beside the embeddings, with a gate between both.
    #[serde(skip_serializing_if = "is_default")]
    pub dual_branch: bool,
    /// Whether code embeddings begin as the tokenizer's codewords.
    #[serde(skip_serializing_if = "is_default")]
    pub codebook_embeddings: bool,
    /// Whether the items' vectors, projected, are added to their tokens.
    #[serde(skip_serializing_if = "is_default")]
    pub item_vectors: bool,
    /// Weight of a contrast that teaches the decoder to say the next item's vector; 0: no such head.
    #[serde(skip_serializing_if = "is_default")]
    pub contrastive: f32,
    /// How it is trained.
    pub training: TrainingConfig,
}

fn is_one(value: &f32) -> bool {
    *value == 1.0
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
            user_tokens: 0,
            separator: false,
            output: Output::Tied,
            temperature: 1.0,
            in_item_positions: false,
            dual_branch: false,
            codebook_embeddings: false,
            item_vectors: false,
            contrastive: 0.0,
            training: TrainingConfig::default(),
        }
    }
}

impl TigerConfig {
    /// The network's sizes for a vocabulary of codes.
    ///
    /// # Errors
    /// Sizes that no model can have.
    pub fn t5(&self, vocab: &CodeVocab) -> Result<T5Config> {
        self.t5_at("generator.tiger", vocab)
    }

    /// The same, where `place` is the table's place in a recipe.
    pub(super) fn t5_at(&self, place: &str, vocab: &CodeVocab) -> Result<T5Config> {
        let fail = |key: &str, problem: String, mend: &str| {
            Err(CoreError::config(format!("{place}, {key}"), problem, mend).into())
        };
        if self.user_tokens > 1 << 20 {
            return fail("user_tokens", format!("{} tokens", self.user_tokens), "give at most 1048576, or 0 for none");
        }
        if !(self.temperature.is_finite() && self.temperature > 0.0) {
            return fail("temperature", format!("{} is not above 0", self.temperature), "use 1, or a little less");
        }
        if !(self.contrastive.is_finite() && self.contrastive >= 0.0) {
            let problem = format!("{} is not a weight from 0 up", self.contrastive);
            return fail("contrastive", problem, "use 0 for none, or 1");
        }
        if self.dual_branch && !self.d_model.is_multiple_of(2) {
            let problem = format!("the dual branch has 2 heads, which cannot share a width of {}", self.d_model);
            return fail("d_model", problem, "give an even width, or switch dual_branch off");
        }
        let config = T5Config {
            vocab_size: self.layout(vocab).vocab_size(),
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
            // Heads of levels stand beside the table's, which is then no head at all.
            tie_word_embeddings: self.output != Output::Untied,
            scale_decoder_outputs: Some(self.output == Output::Tied),
            pad_token_id: CodeVocab::PAD,
            eos_token_id: CodeVocab::EOS,
            decoder_start_token_id: CodeVocab::PAD,
        };
        config.check(place)?;
        Ok(config)
    }

    /// What the tokens of a history are.
    pub fn layout(&self, vocab: &CodeVocab) -> HistoryLayout {
        HistoryLayout {
            users: self.user_tokens,
            separator: self.separator,
            item_marks: self.item_vectors,
            ..HistoryLayout::plain(vocab, self.max_history)
        }
    }

    fn extensions(&self, vocab: &CodeVocab, vector_width: usize) -> Extensions {
        Extensions {
            layout: self.layout(vocab),
            in_item_positions: self.in_item_positions,
            dual_branch: self.dual_branch,
            level_heads: self.output == Output::PerLevel,
            item_vectors: self.item_vectors,
            vector_head: self.contrastive > 0.0,
            vector_width,
        }
    }

    /// The item vectors, where a key looks at them.
    fn vectors<'a>(&self, place: &str, materials: &Materials<'a>) -> Result<Option<&'a Embeddings>> {
        let key = match (self.item_vectors, self.contrastive > 0.0) {
            (true, _) => "item_vectors",
            (_, true) => "contrastive",
            _ => return Ok(None),
        };
        materials.need_vectors(&format!("{place}, {key}")).map(Some)
    }

    /// A network with first weights; `place` is the table's place in a recipe.
    pub(super) fn build_at(&self, place: &str, materials: &Materials<'_>, seed: u64) -> Result<Tiger> {
        let vocab = materials.vocab();
        let vectors = self.vectors(place, materials)?;
        let extensions = self.extensions(&vocab, vectors.map_or(0, Embeddings::width));
        let t5 = T5::extended(self.t5_at(place, &vocab)?, extensions, vectors, seed, materials.device)?;
        if self.codebook_embeddings {
            let codebooks = materials.need_codebooks(&format!("{place}, codebook_embeddings"))?;
            t5.begin_with_codebooks(&vocab, codebooks, seed)?;
        }
        Ok(Tiger::new(self.clone(), t5, materials))
    }

    /// A network with the weights of a folder; `place` is the table's place in a recipe.
    pub(super) fn load_at(&self, place: &str, dir: &Path, materials: &Materials<'_>) -> Result<Tiger> {
        let vectors = self.vectors(place, materials)?;
        let extensions = self.extensions(&materials.vocab(), vectors.map_or(0, Embeddings::width));
        Ok(Tiger::new(self.clone(), T5::load_extended(dir, extensions, vectors, materials.device)?, materials))
    }
}

impl ModelKind for TigerConfig {
    const PAPER: &'static str = "Rajput et al., Recommender Systems with Generative Retrieval, arXiv 2305.05065";
    const STATUS: Status = Status::Stable;
    const ROLE: Role = Role::Generator;
    const SUMMARY: &'static str = "a small T5 encoder-decoder over the codes of the history";
    const PRESETS: &'static [Preset] = presets::PRESETS;
}

impl ModelConfig for TigerConfig {
    super::shared_keys!();

    fn score_norm(&self) -> ScoreNorm {
        self.score_norm
    }

    fn needs(&self) -> Needs {
        Needs { vectors: self.item_vectors || self.contrastive > 0.0, codebooks: self.codebook_embeddings }
    }

    fn check(&self, codes_per_level: &[u32]) -> Result<()> {
        self.t5(&CodeVocab::new(CodeVocab::FIRST_CODE, codes_per_level)).map(drop)
    }

    fn cost(&self, shape: &Shape<'_>) -> Cost {
        let vocab = CodeVocab::new(CodeVocab::FIRST_CODE, shape.codes_per_level);
        let Ok(t5) = self.t5(&vocab) else { return Cost::default() };
        let levels = vocab.levels().max(1) as f64;
        let beside =
            f64::from(u8::from(self.separator)) * shape.mean_history + f64::from(u8::from(self.user_tokens > 0));
        let mean_history = shape.mean_history + beside / levels;
        let plain = t5.cost(&Shape { mean_history, ..*shape }, self.max_history);
        let added = self.extensions(&vocab, shape.vector_width).cost(&t5, &Shape { mean_history, ..*shape });
        let untied = if self.output == Output::Untied { (self.d_model * t5.vocab_size) as f64 } else { 0.0 };
        Cost {
            parameters: plain.parameters + untied + added.parameters,
            train_target: plain.train_target + added.train_target,
            answer: plain.answer + added.answer,
            activations: plain.activations + added.activations,
        }
    }

    fn build(&self, materials: &Materials<'_>, seed: u64) -> Result<Box<dyn Network>> {
        Ok(Box::new(self.build_at("generator.tiger", materials, seed)?))
    }

    fn load(&self, dir: &Path, materials: &Materials<'_>) -> Result<Box<dyn Network>> {
        Ok(Box::new(self.load_at("generator.tiger", dir, materials)?))
    }
}

/// A T5 over a catalog's codes.
#[derive(Debug)]
pub(super) struct Tiger {
    config: TigerConfig,
    layout: HistoryLayout,
    catalog: Catalog,
    t5: T5,
}

impl Tiger {
    fn new(config: TigerConfig, t5: T5, materials: &Materials<'_>) -> Self {
        let layout = config.layout(&materials.vocab());
        Self { config, layout, catalog: materials.catalog.clone(), t5 }
    }

    /// The weights as they are now, ready to write codes.
    pub(super) fn code_ranker(&self, materials: &Materials<'_>) -> Result<CodeRanker<T5Inference>> {
        let vocab = materials.vocab();
        let vectors = self.config.vectors("the generator's recipe", materials)?;
        let inference = self.t5.inference_over(&vocab, vectors, materials.precision)?;
        Ok(CodeRanker::with_reader(inference, self.config.score_norm, Box::new(self.config.layout(&vocab))))
    }
}

impl Network for Tiger {
    fn params(&self) -> &Params {
        self.t5.params()
    }

    fn loss(&self, rows: &[Row<'_>], noise: Option<u64>) -> Result<Tensor> {
        let batch = Batch::of_rows(&self.catalog, &self.layout, rows, noise);
        let dropout = Dropout::of_step(self.t5.config().dropout_rate, noise);
        let objective = Objective {
            label_smoothing: self.config.training.label_smoothing,
            temperature: self.config.temperature,
            contrastive: self.config.contrastive,
            noise: noise.map_or(0, |noise| Rng::new(noise, "objective").next_u64()),
        };
        self.t5.objective(&batch, &objective, &dropout)
    }

    fn has_precisions(&self) -> bool {
        true
    }

    fn ranker(&self, materials: &Materials<'_>) -> Result<Box<dyn Ranker>> {
        Ok(Box::new(self.code_ranker(materials)?))
    }

    fn save_weights(&self, path: &Path) -> Result<()> {
        self.t5.save_weights(path)
    }

    fn load_weights(&mut self, path: &Path) -> Result<()> {
        self.t5.load_weights(path)
    }

    fn save(&self, dir: &Path) -> Result<()> {
        self.t5.save(dir)
    }
}
