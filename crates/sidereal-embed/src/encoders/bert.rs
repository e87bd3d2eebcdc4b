//! BERT and the sentence encoders built on it.
//!
//! *Paper*: Devlin et al., BERT, arXiv:1810.04805; Reimers and Gurevych, Sentence-BERT, arXiv:1908.10084.
//! *Differs from the paper*: inference only; a text is one segment.
//! *Checked against*: transformers and sentence-transformers, `tests/fixtures/minilm` (all-MiniLM-L6-v2) and
//! `tests/fixtures/bert_tiny`, made by `benches/peers/make_encoder_fixtures.py`.
//!
//! # Shapes
//! token ids [B, T] -> token vectors [B, T, D] -> pooled [B, D]

use candle_core::Tensor;
use serde::Deserialize;
use sidereal_core::Error;
use sidereal_nn::Result;
use sidereal_nn::ops::{self, Attention};
use sidereal_nn::pretrained::{ModelFolder, WeightFiles};

use super::head::{Head, Pooling, look_up};
use super::layers::{Activation, LayerNorm, Linear, check_heads, check_sizes};
use super::text::{TextEmbedder, TokenBatch, TokenRules};
use super::{Embedder, EncoderOptions, Family, Modality};

pub(crate) const FAMILY: Family = Family {
    name: "bert",
    about: "BERT and sentence-transformers built on it (all-MiniLM, bge, gte, e5)",
    model_types: &["bert"],
    modality: Modality::Text,
    open,
};

#[derive(Deserialize)]
struct Config {
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    hidden_act: String,
    max_position_embeddings: usize,
    type_vocab_size: usize,
    layer_norm_eps: f64,
    #[serde(default)]
    position_embedding_type: Option<String>,
}

struct Layer {
    query: Linear,
    key_value: Linear,
    attention_out: Linear,
    attention_norm: LayerNorm,
    up: Linear,
    down: Linear,
    norm: LayerNorm,
}

struct Bert {
    words: Tensor,
    /// Position vectors with the vector of the first segment added, [P, D].
    positions: Tensor,
    norm: LayerNorm,
    layers: Vec<Layer>,
    heads: usize,
    scale: f32,
    activation: Activation,
}

fn open(folder: &ModelFolder, options: &EncoderOptions) -> Result<Box<dyn Embedder>> {
    let config: Config = folder.json("config.json")?;
    let place = folder.path("config.json").display().to_string();
    check_sizes(
        &place,
        &[
            ("vocab_size", config.vocab_size, 1 << 24),
            ("hidden_size", config.hidden_size, 1 << 15),
            ("num_hidden_layers", config.num_hidden_layers, 512),
            ("intermediate_size", config.intermediate_size, 1 << 18),
            ("max_position_embeddings", config.max_position_embeddings, 1 << 20),
            ("type_vocab_size", config.type_vocab_size, 1 << 10),
        ],
    )?;
    check_heads(&place, config.hidden_size, config.num_attention_heads)?;
    if config.position_embedding_type.as_deref().is_some_and(|kind| kind != "absolute") {
        let problem = "its positions are relative";
        return Err(Error::input(place, problem, "use a model whose position_embedding_type is \"absolute\"").into());
    }
    let weights = WeightFiles::open(folder, &folder.weight_files()?, options.dtype.candle(), &options.device)?;
    let activation = Activation::parse(&place, &config.hidden_act)?;
    let model = Bert::load(&config, &weights, activation)?;
    let head = Head::load(folder, config.hidden_size, Pooling::Mean, false, &options.device)?;
    let most_tokens = Some(config.max_position_embeddings);
    let rules = TokenRules { most_tokens, vocab: config.vocab_size, end: None, prefix: String::new() };
    let embedder = TextEmbedder::new(FAMILY.name, folder, options, rules, head, move |batch| model.forward(batch))?;
    Ok(Box::new(embedder))
}

impl Bert {
    fn load(config: &Config, weights: &WeightFiles, activation: Activation) -> Result<Self> {
        let (width, eps) = (config.hidden_size, config.layer_norm_eps);
        let root = weights.prefix(&["", "bert."], "embeddings.word_embeddings.weight")?;
        let table = |name: &str, rows: usize| weights.get(&format!("{root}embeddings.{name}.weight"), &[rows, width]);
        let segments = table("token_type_embeddings", config.type_vocab_size)?;
        let positions =
            table("position_embeddings", config.max_position_embeddings)?.broadcast_add(&segments.narrow(0, 0, 1)?)?;
        let layer = |i: usize| -> Result<Layer> {
            let at = |name: &str| format!("{root}encoder.layer.{i}.{name}");
            let square = [width, width];
            let key_value = [at("attention.self.key"), at("attention.self.value")];
            Ok(Layer {
                query: Linear::load(weights, &at("attention.self.query"), square, true)?,
                key_value: Linear::joined(weights, &key_value, square, true)?,
                attention_out: Linear::load(weights, &at("attention.output.dense"), square, true)?,
                attention_norm: LayerNorm::load(weights, &at("attention.output.LayerNorm"), width, eps)?,
                up: Linear::load(weights, &at("intermediate.dense"), [width, config.intermediate_size], true)?,
                down: Linear::load(weights, &at("output.dense"), [config.intermediate_size, width], true)?,
                norm: LayerNorm::load(weights, &at("output.LayerNorm"), width, eps)?,
            })
        };
        Ok(Self {
            words: table("word_embeddings", config.vocab_size)?,
            positions,
            norm: LayerNorm::load(weights, &format!("{root}embeddings.LayerNorm"), width, eps)?,
            layers: (0..config.num_hidden_layers).map(layer).collect::<Result<_>>()?,
            heads: config.num_attention_heads,
            scale: 1.0 / ((width / config.num_attention_heads) as f32).sqrt(),
            activation,
        })
    }

    /// -> [B, T, D]
    fn forward(&self, batch: &TokenBatch) -> Result<Tensor> {
        let tokens = batch.ids.dim(1)?;
        let positions = self.positions.narrow(0, 0, tokens)?; // [T, D]
        let mut x = self.norm.apply(&look_up(&batch.ids, &self.words)?.broadcast_add(&positions)?)?; // [B, T, D]
        let args = Attention { key_mask: batch.key_mask.clone(), ..Attention::new(self.heads, self.scale) };
        for layer in &self.layers {
            let attended = ops::attention(&layer.query.apply(&x)?, &layer.key_value.apply(&x)?, None, &args)?;
            x = layer.attention_norm.apply(&(x + layer.attention_out.apply(&attended)?)?)?;
            let inside = self.activation.apply(&layer.up.apply(&x)?)?; // [B, T, F]
            x = layer.norm.apply(&(x + layer.down.apply(&inside)?)?)?;
        }
        Ok(x)
    }
}
