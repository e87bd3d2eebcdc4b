//! Qwen3-Embedding: a causal language model whose last token is the text's vector.
//!
//! *Paper*: Zhang et al., Qwen3 Embedding, arXiv:2506.05176; the model: Qwen team, arXiv:2505.09388.
//! *Differs from the paper*: inference only, padded on the right instead of the left: in a causal model what follows a
//! text's last token does not reach it, so the vectors are the same. Items are documents, which take no instruction;
//! with one, a text is written as the model card writes queries.
//! *Checked against*: transformers with padding on the left, `tests/fixtures/qwen3_tiny`, made by
//! `benches/peers/make_encoder_fixtures.py`.
//!
//! # Shapes
//! token ids [B, T] -> token vectors [B, T, D] -> the last token's [B, D]

use candle_core::{D, DType, Device, Tensor};
use serde::Deserialize;
use sidereal_core::Error;
use sidereal_nn::Result;
use sidereal_nn::ops::{self, Attention};

use super::head::{Head, Pooling, look_up};
use super::layers::{Activation, Linear, RmsNorm, check_sizes};
use super::text::{TextEmbedder, TokenBatch, TokenRules};
use super::weights::Weights;
use super::{Embedder, EncoderOptions, Family, Modality};
use crate::model_folder::ModelFolder;

pub(crate) const FAMILY: Family = Family {
    name: "qwen3",
    about: "Qwen3-Embedding of any size",
    model_types: &["qwen3"],
    modality: Modality::Text,
    open,
};

/// Longest text; the model card's 32k.
const MAX_TOKENS: usize = 32_768;

#[derive(Deserialize)]
struct Config {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: usize,
    head_dim: usize,
    max_position_embeddings: usize,
    rms_norm_eps: f64,
    #[serde(default = "silu")]
    hidden_act: String,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    use_sliding_window: bool,
    rope_theta: Option<f64>,
    rope_scaling: Option<serde_json::Value>,
    /// Where newer versions of transformers keep the two above.
    rope_parameters: Option<RopeParameters>,
    eos_token_id: serde_json::Value,
}

#[derive(Deserialize)]
struct RopeParameters {
    rope_theta: Option<f64>,
    rope_type: Option<String>,
}

fn silu() -> String {
    "silu".to_owned()
}

struct Layer {
    attention_norm: RmsNorm,
    query: Linear,
    key: Linear,
    value: Linear,
    query_norm: RmsNorm,
    key_norm: RmsNorm,
    attention_out: Linear,
    norm: RmsNorm,
    gate: Linear,
    up: Linear,
    down: Linear,
}

struct Qwen3 {
    words: Tensor,
    layers: Vec<Layer>,
    norm: RmsNorm,
    heads: usize,
    key_heads: usize,
    head_width: usize,
    theta: f64,
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
            ("hidden_size", config.hidden_size, 1 << 15),
            ("intermediate_size", config.intermediate_size, 1 << 18),
            ("num_hidden_layers", config.num_hidden_layers, 512),
            ("num_attention_heads", config.num_attention_heads, 1 << 10),
            ("num_key_value_heads", config.num_key_value_heads, config.num_attention_heads),
            ("head_dim", config.head_dim, 1 << 12),
            ("max_position_embeddings", config.max_position_embeddings, 1 << 24),
        ],
    )?;
    let refused = |problem: &str, mend: &str| Err(Error::input(&place, problem, mend).into());
    if !config.num_attention_heads.is_multiple_of(config.num_key_value_heads) || !config.head_dim.is_multiple_of(2) {
        return refused("its heads do not divide", "download the model again: its config.json is damaged");
    }
    let rope_type = config.rope_parameters.as_ref().and_then(|rope| rope.rope_type.as_deref()).unwrap_or("default");
    let scaled = config.rope_scaling.as_ref().is_some_and(|scaling| !scaling.is_null()) || rope_type != "default";
    if scaled || config.use_sliding_window {
        return refused(
            "scaled positions and sliding windows are not supported",
            "remove rope_scaling: it is for texts beyond 32k tokens",
        );
    }
    // A number, or a list whose first one ends a text.
    let end = match &config.eos_token_id {
        serde_json::Value::Array(ids) => ids.first().and_then(serde_json::Value::as_u64),
        id => id.as_u64(),
    };
    let Some(end) = end.and_then(|id| u32::try_from(id).ok()).filter(|&id| (id as usize) < config.vocab_size) else {
        return refused(
            "eos_token_id is no token of the model",
            "download the model again: its config.json is damaged",
        );
    };
    let weights = Weights::open(folder, &folder.weight_files()?, options.dtype.candle(), &options.device)?;
    let activation = Activation::parse(&place, &config.hidden_act)?;
    let model = Qwen3::load(&config, &weights, activation, options.dtype.candle())?;
    let head = Head::load(folder, config.hidden_size, Pooling::LastToken, true, &options.device)?;
    let prefix = options.instruction.as_ref().map_or_else(String::new, |task| format!("Instruct: {task}\nQuery:"));
    let most_tokens = Some(config.max_position_embeddings.min(MAX_TOKENS));
    let rules = TokenRules { most_tokens, vocab: config.vocab_size, end: Some(end), prefix };
    let embedder = TextEmbedder::new(FAMILY.name, folder, options, rules, head, move |batch| model.forward(batch))?;
    Ok(Box::new(embedder))
}

impl Qwen3 {
    fn load(config: &Config, weights: &Weights, activation: Activation, dtype: DType) -> Result<Self> {
        let (width, eps, bias) = (config.hidden_size, config.rms_norm_eps, config.attention_bias);
        let (inner, inner_keys) =
            (config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim);
        let root = weights.prefix(&["", "model."], "embed_tokens.weight")?;
        let layer = |i: usize| -> Result<Layer> {
            let at = |name: &str| format!("{root}layers.{i}.{name}");
            let linear = |name: &str, sizes: [usize; 2], bias: bool| Linear::load(weights, &at(name), sizes, bias);
            let norm = |name: &str, width: usize| RmsNorm::load(weights, &at(name), width, eps);
            Ok(Layer {
                attention_norm: norm("input_layernorm", width)?,
                query: linear("self_attn.q_proj", [width, inner], bias)?,
                key: linear("self_attn.k_proj", [width, inner_keys], bias)?,
                value: linear("self_attn.v_proj", [width, inner_keys], bias)?,
                query_norm: norm("self_attn.q_norm", config.head_dim)?,
                key_norm: norm("self_attn.k_norm", config.head_dim)?,
                attention_out: linear("self_attn.o_proj", [inner, width], bias)?,
                norm: norm("post_attention_layernorm", width)?,
                gate: linear("mlp.gate_proj", [width, config.intermediate_size], false)?,
                up: linear("mlp.up_proj", [width, config.intermediate_size], false)?,
                down: linear("mlp.down_proj", [config.intermediate_size, width], false)?,
            })
        };
        let theta = config.rope_theta.or(config.rope_parameters.as_ref().and_then(|rope| rope.rope_theta));
        Ok(Self {
            words: weights.get(&format!("{root}embed_tokens.weight"), &[config.vocab_size, width])?,
            layers: (0..config.num_hidden_layers).map(layer).collect::<Result<_>>()?,
            norm: RmsNorm::load(weights, &format!("{root}norm"), width, eps)?,
            heads: config.num_attention_heads,
            key_heads: config.num_key_value_heads,
            head_width: config.head_dim,
            // The family's own, Qwen3 report, section 3.
            theta: theta.unwrap_or(1e6),
            activation,
            dtype,
        })
    }

    /// Cosines and sines of the rotation at every position, [T, dk / 2] each.
    fn rotation(&self, tokens: usize, device: &Device) -> Result<(Tensor, Tensor)> {
        let half = self.head_width / 2;
        let angle = |i: usize| {
            let frequency = self.theta.powf(-2.0 * (i % half) as f64 / self.head_width as f64);
            (i / half) as f64 * frequency
        };
        let table = |f: fn(f64) -> f64| -> Result<Tensor> {
            let values: Vec<f32> = (0..tokens * half).map(|i| f(angle(i)) as f32).collect();
            Ok(Tensor::from_vec(values, (tokens, half), device)?.to_dtype(self.dtype)?)
        };
        Ok((table(f64::cos)?, table(f64::sin)?))
    }

    /// Keys or values of the few heads for every query head. [B, T, Hkv, dk] -> [B, T, H*dk]
    fn spread(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, tokens, _, width) = x.dims4()?;
        let group = self.heads / self.key_heads;
        let spread = x.unsqueeze(3)?.broadcast_as((batch, tokens, self.key_heads, group, width))?;
        Ok(spread.contiguous()?.reshape((batch, tokens, self.heads * width))?)
    }

    /// -> [B, T, D]
    fn forward(&self, batch: &TokenBatch) -> Result<Tensor> {
        let (rows, tokens) = batch.ids.dims2()?;
        let (cos, sin) = self.rotation(tokens, batch.ids.device())?;
        let scale = 1.0 / (self.head_width as f32).sqrt();
        // No mask: the padding lies behind the texts, and no query sees what lies behind it.
        let args = Attention { causal: true, ..Attention::new(self.heads, scale) };
        let mut x = look_up(&batch.ids, &self.words)?; // [B, T, D]
        for layer in &self.layers {
            let n = layer.attention_norm.apply(&x)?;
            let heads = |x: Tensor, heads: usize| x.reshape((rows, tokens, heads, self.head_width));
            let query = layer.query_norm.apply(&heads(layer.query.apply(&n)?, self.heads)?)?; // [B, T, H, dk]
            let key = layer.key_norm.apply(&heads(layer.key.apply(&n)?, self.key_heads)?)?;
            let value = heads(layer.value.apply(&n)?, self.key_heads)?;
            let query = candle_nn::rotary_emb::rope_thd(&query.contiguous()?, &cos, &sin)?;
            let key = candle_nn::rotary_emb::rope_thd(&key.contiguous()?, &cos, &sin)?;
            let key_value = Tensor::cat(&[self.spread(&key)?, self.spread(&value)?], D::Minus1)?; // [B, T, 2*H*dk]
            let query = query.reshape((rows, tokens, self.heads * self.head_width))?;
            let attended = ops::attention(&query, &key_value, None, &args)?;
            x = (x + layer.attention_out.apply(&attended)?)?;
            let n = layer.norm.apply(&x)?;
            let inside = (self.activation.apply(&layer.gate.apply(&n)?)? * layer.up.apply(&n)?)?; // [B, T, F]
            x = (x + layer.down.apply(&inside)?)?;
        }
        self.norm.apply(&x)
    }
}
