//! A decoder that writes semantic IDs: trained here over codes alone, or a language model that was trained elsewhere.
//!
//! The history is read as one text and the next item's codes are written behind it. A decoder that is trained here learns
//! from every token of a history in one pass, and its text is the codes behind a token that begins it. A language model
//! (LC-Rec, MiniOneRec, OpenOneRec) reads the prompt that it was trained with; it is brought in with its weights, its text
//! tokenizer and that prompt, and the catalog decides what it can write.
//!
//! *Paper*: Zheng et al., "Adapting Large Language Models by Integrating Collaborative Semantics for Recommendation"
//! (LC-Rec), 2311.09049, section 3; the decoders: see [`sidereal_nn::decoder`].
//! *Differs from the paper*: codes are written by the catalog's trie, not by sets of tokens a position, so no ID is invalid;
//! language models are not tuned here: `TrainingConfig` is for codes alone. What a model writes behind the codes (an end
//! token, a line) is the same for all items, and no part of the score.
//! *Checked against*: Hugging Face's Llama, Qwen2 and Qwen3 (logits, constrained beams, exhaustive rankings),
//! `tests/fixtures/{llama,qwen2,qwen3,llama_slow}_tiny`, made by
//! `benches/peers/make_fixtures.py`.
//!
//! # Shapes
//! text u32 `[T]` -> states `[T, D]` -> codes `[L]`

mod cpu;
mod decoder_model;
mod device;
mod prompt;

use std::path::Path;
use std::sync::Arc;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use sidereal_core::artifact::write_json;
use sidereal_core::{Catalog, CodeVocab, Error as CoreError};
use sidereal_nn::decoder::DecoderConfig;
use sidereal_nn::kernels::loops::MAX_POSITIONS;
use sidereal_nn::ops;
use sidereal_nn::params::Params;
use sidereal_nn::pretrained::ModelFolder;
use sidereal_nn::rng::Rng;

pub use decoder_model::{DecoderInference, DecoderModel};
pub use prompt::{CodeTokens, PromptConfig, TEXT_TOKENIZER_FILE};

use super::{Cost, ModelConfig, ModelKind, Role, Shape, Status};
use crate::Result;
use crate::models::t5::CONFIG_FILE;
use crate::network::{Materials, Network, Row, SampleUnit, WEIGHTS_FILE};
use crate::ranker::{CodeRanker, Ranker, Reader};
use crate::scoring::ScoreNorm;
use crate::training::TrainingConfig;
use prompt::{PlainCodes, Prompt};

/// The `[generator.llm]` table of a recipe. Sizes are about those of TIGER's default, without its encoder; a language
/// model has those of its own `config.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LlmConfig {
    /// Width of the residual stream.
    pub d_model: usize,
    /// Width inside the feed-forward sub-layer.
    pub d_ff: usize,
    /// Attention heads.
    pub heads: usize,
    /// Heads of keys and values, which share out the heads of queries.
    pub key_heads: usize,
    /// Width of a head.
    pub d_kv: usize,
    /// Layers.
    pub layers: usize,
    /// Whether queries and keys are normalised, as Qwen3 has it.
    pub head_norms: bool,
    /// Chance that a value of a sub-layer's output is dropped in training.
    pub dropout: f32,
    /// Most recent items that the model sees.
    pub max_history: usize,
    /// Over which tokens scores are normalised: a language model's over all, as it was trained.
    pub score_norm: ScoreNorm,
    /// The text that a language model goes on from; none for codes alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<PromptConfig>,
    /// How it is trained.
    pub training: TrainingConfig,
}

impl Default for LlmConfig {
    fn default() -> Self {
        Self {
            d_model: 128,
            d_ff: 512,
            heads: 4,
            key_heads: 4,
            d_kv: 32,
            layers: 4,
            head_norms: true,
            dropout: 0.1,
            max_history: 20,
            score_norm: ScoreNorm::Level,
            prompt: None,
            training: TrainingConfig::default(),
        }
    }
}

impl LlmConfig {
    /// The sizes of a decoder over codes alone.
    fn decoder(&self, vocab: &CodeVocab) -> DecoderConfig {
        DecoderConfig {
            vocab: vocab.size() as usize,
            width: self.d_model,
            inside: self.d_ff,
            layers: self.layers,
            heads: self.heads,
            key_heads: self.key_heads,
            head_width: self.d_kv,
            max_positions: 1 + (self.max_history + 1) * vocab.levels(),
            eps: 1e-6,
            theta: 1e4,
            scaling: None,
            input_bias: false,
            output_bias: false,
            head_norms: self.head_norms,
            tied: true,
            ends: vec![CodeVocab::EOS],
        }
    }

    /// The table of a language model in a folder.
    ///
    /// # Errors
    /// A folder without a `config.json` of a supported family.
    pub fn of_folder(folder: &ModelFolder, prompt: PromptConfig, max_history: usize) -> Result<Self> {
        let decoder = DecoderConfig::read(folder)?;
        Ok(Self {
            d_model: decoder.width,
            d_ff: decoder.inside,
            heads: decoder.heads,
            key_heads: decoder.key_heads,
            d_kv: decoder.head_width,
            layers: decoder.layers,
            head_norms: decoder.head_norms,
            dropout: 0.0,
            max_history,
            score_norm: ScoreNorm::Full,
            prompt: Some(prompt),
            training: TrainingConfig::default(),
        })
    }
}

impl ModelKind for LlmConfig {
    const PAPER: &'static str = "Zheng et al., Adapting Large Language Models by Integrating Collaborative Semantics for \
                                 Recommendation (LC-Rec), arXiv 2311.09049";
    const STATUS: Status = Status::Experimental;
    const ROLE: Role = Role::Generator;
    const SUMMARY: &'static str = "a decoder (Llama, Qwen2, Qwen3) that goes on with the codes of the next item: trained \
                                   over codes alone, or a language model that was trained elsewhere";
}

impl ModelConfig for LlmConfig {
    super::shared_keys!();

    fn unit(&self) -> SampleUnit {
        SampleUnit::WholeHistory
    }

    fn score_norm(&self) -> ScoreNorm {
        self.score_norm
    }

    fn check(&self, codes_per_level: &[u32]) -> Result<()> {
        if let Some(prompt) = &self.prompt {
            prompt.check("generator.llm")?;
        }
        if !(0.0..1.0).contains(&self.dropout) {
            let problem = format!("{} is no chance from 0 to below 1", self.dropout);
            return Err(CoreError::config("generator.llm.dropout", problem, "use 0.1, or 0 for none").into());
        }
        let levels = codes_per_level.len();
        if levels == 0 || levels > MAX_POSITIONS {
            let problem = format!("semantic IDs of {levels} levels");
            return Err(CoreError::mismatch(problem, format!("use 1 to {MAX_POSITIONS} levels")).into());
        }
        Ok(self.decoder(&CodeVocab::new(CodeVocab::FIRST_CODE, codes_per_level)).check("generator.llm")?)
    }

    fn cost(&self, shape: &Shape<'_>) -> Cost {
        let (d, f) = (self.d_model as f64, self.d_ff as f64);
        let (inner, keys) = ((self.heads * self.d_kv) as f64, (self.key_heads * self.d_kv) as f64);
        let (levels, layers) = (shape.codes_per_level.len() as f64, self.layers as f64);
        let vocab = f64::from(shape.codes_per_level.iter().sum::<u32>());
        let layer = 2.0 * d * inner + 2.0 * d * keys + 3.0 * d * f;
        // Of a token that looks at half of the history, or at all of it.
        let token = |seen: f64| 2.0 * (layers * (layer + 2.0 * seen * inner));
        let history = shape.mean_history * levels;
        let rows = 1.0 + shape.beam as f64 * (levels - 1.0);
        Cost {
            parameters: layers * layer + vocab * d,
            train_target: 3.0 * levels * (token(history / 2.0) + 2.0 * vocab * d),
            answer: history * token(history / 2.0) + rows * token(history) + rows * 2.0 * vocab * d / levels,
            activations: levels * layers * (6.0 * d + 4.0 * inner + 3.0 * f + self.heads as f64 * history),
        }
    }

    fn build(&self, materials: &Materials<'_>, seed: u64) -> Result<Box<dyn Network>> {
        if self.prompt.is_some() {
            let problem = "a language model is not trained here";
            let mend = "export training texts, tune it elsewhere and bring it in with `sidereal generator import`; or \
                        leave prompt out, for a decoder over codes alone";
            return Err(CoreError::config("generator.llm.prompt", problem, mend).into());
        }
        let vocab = materials.vocab();
        self.check(vocab.codes_per_level())?;
        let model = DecoderModel::new(self.decoder(&vocab), seed, materials.device)?;
        let text = Text::plain(vocab, self.max_history);
        Ok(Box::new(Llm { config: self.clone(), model, text, catalog: materials.catalog.clone() }))
    }

    fn load(&self, dir: &Path, materials: &Materials<'_>) -> Result<Box<dyn Network>> {
        let model = DecoderModel::read(&ModelFolder::local(dir), materials.device)?;
        let text = match &self.prompt {
            None => Text::plain(materials.vocab(), self.max_history),
            Some(prompt) => {
                let (prompt, codes) = Prompt::open(dir, prompt, self.max_history, materials.catalog)?;
                let prompt = Some(Arc::new(prompt));
                Text { vocab: materials.vocab(), codes, prompt, max_history: self.max_history }
            }
        };
        Ok(Box::new(Llm { config: self.clone(), model, text, catalog: materials.catalog.clone() }))
    }
}

/// What is read, and which tokens are codes.
#[derive(Debug)]
struct Text {
    vocab: CodeVocab,
    codes: CodeTokens,
    prompt: Option<Arc<Prompt>>,
    max_history: usize,
}

impl Text {
    fn plain(vocab: CodeVocab, max_history: usize) -> Self {
        Self { codes: CodeTokens::counted(&vocab), vocab, prompt: None, max_history }
    }

    fn plain_codes(&self) -> PlainCodes {
        PlainCodes { vocab: self.vocab.clone(), max_history: self.max_history }
    }

    fn reader(&self) -> Box<dyn Reader> {
        match &self.prompt {
            Some(prompt) => Box::new(Arc::clone(prompt)),
            None => Box::new(self.plain_codes()),
        }
    }
}

/// A decoder over a catalog's codes.
#[derive(Debug)]
struct Llm {
    config: LlmConfig,
    model: DecoderModel,
    text: Text,
    catalog: Catalog,
}

impl Network for Llm {
    fn params(&self) -> &Params {
        &self.model.params
    }

    fn loss(&self, rows: &[Row<'_>], noise: Option<u64>) -> Result<Tensor> {
        // One item more than is ever read: the last is a target alone.
        let codes = PlainCodes { max_history: self.config.max_history + 1, ..self.text.plain_codes() };
        let texts: Vec<Vec<u32>> = rows.iter().map(|row| codes.of_items(&self.catalog, row.items)).collect();
        let width = texts.iter().map(|text| text.len() - 1).max().unwrap_or(0).max(1);
        let mut ids = vec![CodeVocab::PAD; texts.len() * width];
        let (mut places, mut targets) = (Vec::new(), Vec::new());
        for (row, text) in texts.iter().enumerate() {
            ids[row * width..][..text.len() - 1].copy_from_slice(&text[..text.len() - 1]);
            places.extend((0..text.len() - 1).map(|place| (row * width + place) as u32));
            targets.extend_from_slice(&text[1..]);
        }
        let (device, count) = (self.model.params.device(), targets.len());
        let ids = Tensor::from_vec(ids, (texts.len(), width), device)?;
        let rate = self.config.dropout;
        let dropout = noise.filter(|_| rate > 0.0).map(|noise| (rate, Rng::new(noise, "dropout").next_u64()));
        let states = self.model.states(&ids, dropout)?.reshape((texts.len() * width, ()))?;
        let states = ops::embedding(&Tensor::from_vec(places, count, device)?, &states)?; // [targets, D]
        let args = ops::CrossEntropy { label_smoothing: self.config.training.label_smoothing, ..Default::default() };
        ops::cross_entropy(&self.model.head(&states)?, &Tensor::from_vec(targets, count, device)?, &args)
    }

    fn has_precisions(&self) -> bool {
        true
    }

    fn ranker(&self, materials: &Materials<'_>) -> Result<Box<dyn Ranker>> {
        let full = self.config.score_norm == ScoreNorm::Full;
        let inference = self.model.inference(&self.text.vocab, &self.text.codes, materials.precision, full)?;
        Ok(Box::new(CodeRanker::with_reader(inference, self.config.score_norm, self.text.reader())))
    }

    fn save_weights(&self, path: &Path) -> Result<()> {
        self.model.save_weights(path)
    }

    fn load_weights(&mut self, path: &Path) -> Result<()> {
        self.model = DecoderModel::read_file(path, self.model.config.clone(), self.model.params.device())?;
        Ok(())
    }

    fn save(&self, dir: &Path) -> Result<()> {
        write_json(&dir.join(CONFIG_FILE), &self.model.config.to_json())?;
        if let Some(prompt) = &self.text.prompt {
            prompt.save(dir)?;
        }
        self.save_weights(&dir.join(WEIGHTS_FILE))
    }
}
