//! The encoder of T5, and Sentence-T5.
//!
//! *Paper*: Raffel et al., arXiv:1910.10683; Ni et al., Sentence-T5, arXiv:2108.08877.
//! *Differs from the paper*: inference only; half precision (f16) is refused, because T5's activations overflow it.
//! *Checked against*: transformers, `tests/fixtures/t5_tiny`, made by `benches/peers/make_encoder_fixtures.py`.
//!
//! # Shapes
//! token ids [B, T] -> token vectors [B, T, D] -> pooled [B, D] -> projected [B, D'] where `modules.json` says so

use candle_core::{DType, Device, Tensor};
use serde::Deserialize;
use sidereal_nn::Result;
use sidereal_nn::ops::{self, Attention};
use sidereal_nn::pretrained::{ModelFolder, WeightFiles};

use super::head::{Head, Pooling, look_up};
use super::layers::{Activation, Linear, RmsNorm, check_sizes};
use super::text::{TextEmbedder, TokenBatch, TokenRules};
use super::{Embedder, EncoderOptions, Family, Modality};

pub(crate) const FAMILY: Family = Family {
    name: "t5",
    about: "encoders of T5, Flan-T5, mT5 and Sentence-T5",
    model_types: &["t5", "mt5"],
    modality: Modality::Text,
    open,
};

#[derive(Deserialize)]
struct Config {
    vocab_size: usize,
    d_model: usize,
    d_kv: usize,
    d_ff: usize,
    num_layers: usize,
    num_heads: usize,
    relative_attention_num_buckets: usize,
    #[serde(default = "far")]
    relative_attention_max_distance: usize,
    layer_norm_epsilon: f64,
    #[serde(default = "relu")]
    feed_forward_proj: String,
}

fn far() -> usize {
    128
}

fn relu() -> String {
    "relu".to_owned()
}

struct Layer {
    attention_norm: RmsNorm,
    query: Linear,
    key_value: Linear,
    attention_out: Linear,
    norm: RmsNorm,
    up: Linear,
    /// The branch that goes through the activation, where the feed-forward is gated.
    gate: Option<Linear>,
    down: Linear,
}

struct T5 {
    words: Tensor,
    layers: Vec<Layer>,
    norm: RmsNorm,
    /// Bias of each bucket of distances for each head, [buckets, H].
    bias: Vec<Vec<f32>>,
    heads: usize,
    max_distance: usize,
    activation: Activation,
    dtype: DType,
}

fn open(folder: &ModelFolder, options: &EncoderOptions) -> Result<Box<dyn Embedder>> {
    let config: Config = folder.json("config.json")?;
    let place = folder.path("config.json").display().to_string();
    check_sizes(
        &place,
        &[
            ("vocab_size", config.vocab_size, 1 << 24),
            ("d_model", config.d_model, 1 << 15),
            ("d_kv", config.d_kv, 1 << 12),
            ("d_ff", config.d_ff, 1 << 18),
            ("num_layers", config.num_layers, 512),
            ("num_heads", config.num_heads, 1 << 10),
            ("relative_attention_num_buckets", config.relative_attention_num_buckets, 1 << 12),
            ("relative_attention_max_distance", config.relative_attention_max_distance, 1 << 20),
        ],
    )?;
    let (gated, activation) = match config.feed_forward_proj.strip_prefix("gated-") {
        // The name of T5 v1.1 means the tanh form.
        Some("gelu") => (true, Activation::GeluTanh),
        Some(name) => (true, Activation::parse(&place, name)?),
        None => (false, Activation::parse(&place, &config.feed_forward_proj)?),
    };
    let weights = WeightFiles::open(folder, &folder.weight_files()?, options.dtype.candle(), &options.device)?;
    let model = T5::load(&config, &weights, activation, gated, options.dtype.candle())?;
    let head = Head::load(folder, config.d_model, Pooling::Mean, false, &options.device)?;
    let rules = TokenRules { most_tokens: None, vocab: config.vocab_size, end: None, prefix: String::new() };
    let embedder = TextEmbedder::new(FAMILY.name, folder, options, rules, head, move |batch| model.forward(batch))?;
    Ok(Box::new(embedder))
}

impl T5 {
    fn load(config: &Config, weights: &WeightFiles, activation: Activation, gated: bool, dtype: DType) -> Result<Self> {
        let (width, inner, eps) = (config.d_model, config.num_heads * config.d_kv, config.layer_norm_epsilon);
        let layer = |i: usize| -> Result<Layer> {
            let at = |name: &str| format!("encoder.block.{i}.layer.{name}");
            let up = if gated { "1.DenseReluDense.wi_1" } else { "1.DenseReluDense.wi" };
            let gate = || Linear::load(weights, &at("1.DenseReluDense.wi_0"), [width, config.d_ff], false);
            let key_value = [at("0.SelfAttention.k"), at("0.SelfAttention.v")];
            Ok(Layer {
                attention_norm: RmsNorm::load(weights, &at("0.layer_norm"), width, eps)?,
                query: Linear::load(weights, &at("0.SelfAttention.q"), [width, inner], false)?,
                key_value: Linear::joined(weights, &key_value, [width, inner], false)?,
                attention_out: Linear::load(weights, &at("0.SelfAttention.o"), [inner, width], false)?,
                norm: RmsNorm::load(weights, &at("1.layer_norm"), width, eps)?,
                up: Linear::load(weights, &at(up), [width, config.d_ff], false)?,
                gate: gated.then(gate).transpose()?,
                down: Linear::load(weights, &at("1.DenseReluDense.wo"), [config.d_ff, width], false)?,
            })
        };
        let words = weights.prefix(&["shared.", "encoder.embed_tokens."], "weight")?;
        let bias = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight";
        let bias = weights.get(bias, &[config.relative_attention_num_buckets, config.num_heads])?;
        Ok(Self {
            words: weights.get(&format!("{words}weight"), &[config.vocab_size, width])?,
            layers: (0..config.num_layers).map(layer).collect::<Result<_>>()?,
            norm: RmsNorm::load(weights, "encoder.final_layer_norm", width, eps)?,
            bias: bias.to_dtype(DType::F32)?.to_device(&Device::Cpu)?.to_vec2()?,
            heads: config.num_heads,
            max_distance: config.relative_attention_max_distance,
            activation,
            dtype,
        })
    }

    /// Half of the buckets look back, half ahead; near distances have their own, far ones share them by logarithm.
    fn bucket(&self, distance: i64) -> usize {
        let half = self.bias.len() / 2;
        let (offset, away) = (if distance > 0 { half } else { 0 }, distance.unsigned_abs() as usize);
        let exact = half / 2;
        if away < exact {
            return offset + away;
        }
        let (away, exact_size) = (away as f32, exact.max(1) as f32);
        let spread = (away / exact_size).ln() / (self.max_distance as f32 / exact_size).ln();
        let bucket = exact + (spread * (half - exact) as f32) as usize;
        offset + bucket.min(half.saturating_sub(1))
    }

    /// [H, T, T]
    fn position_bias(&self, tokens: usize, device: &Device) -> Result<Tensor> {
        let buckets: Vec<usize> =
            (0..2 * tokens).map(|i| self.bucket(i as i64 - tokens as i64).min(self.bias.len() - 1)).collect();
        let mut values = Vec::with_capacity(self.heads * tokens * tokens);
        for head in 0..self.heads {
            for query in 0..tokens {
                values.extend((0..tokens).map(|key| self.bias[buckets[tokens + key - query]][head]));
            }
        }
        Ok(Tensor::from_vec(values, (self.heads, tokens, tokens), device)?.to_dtype(self.dtype)?)
    }

    /// -> [B, T, D]
    fn forward(&self, batch: &TokenBatch) -> Result<Tensor> {
        let bias = self.position_bias(batch.ids.dim(1)?, batch.ids.device())?;
        let mut x = look_up(&batch.ids, &self.words)?; // [B, T, D]
        // T5 does not scale its scores.
        let args = Attention { key_mask: batch.key_mask.clone(), ..Attention::new(self.heads, 1.0) };
        for layer in &self.layers {
            let n = layer.attention_norm.apply(&x)?;
            let attended = ops::attention(&layer.query.apply(&n)?, &layer.key_value.apply(&n)?, Some(&bias), &args)?;
            x = (x + layer.attention_out.apply(&attended)?)?;
            let n = layer.norm.apply(&x)?;
            let up = layer.up.apply(&n)?; // [B, T, F]
            let inside = match &layer.gate {
                Some(gate) => (self.activation.apply(&gate.apply(&n)?)? * up)?,
                None => self.activation.apply(&up)?,
            };
            x = (x + layer.down.apply(&inside)?)?;
        }
        self.norm.apply(&x)
    }
}
