//! T5's sizes under Hugging Face's key names, so that its `config.json` files are read and written as they are.

use std::path::Path;

use serde::{Deserialize, Serialize};
use sidereal_core::Error as CoreError;
use sidereal_core::artifact::{read_json, write_json};

use crate::Result;

/// The feed-forward sub-layer, under Hugging Face's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FeedForward {
    /// relu(x W1) W2: T5 (Raffel et al., 1910.10683) and TIGER.
    #[default]
    Relu,
    /// (gelu(x W0) * x W1) W2 with the tanh approximation: T5 v1.1.
    GatedGelu,
}

/// The `config.json` of a Hugging Face T5. Keys that do not change the mathematics are ignored when read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct T5Config {
    /// V.
    pub vocab_size: usize,
    /// Width of the residual stream, D.
    pub d_model: usize,
    /// Width of a head's keys and values.
    pub d_kv: usize,
    /// Width inside the feed-forward sub-layer.
    pub d_ff: usize,
    /// Encoder blocks.
    pub num_layers: usize,
    /// Decoder blocks; as many as the encoder has where the file does not say.
    #[serde(default)]
    pub num_decoder_layers: Option<usize>,
    /// Attention heads.
    pub num_heads: usize,
    /// Buckets of relative distances.
    #[serde(default = "default_buckets")]
    pub relative_attention_num_buckets: usize,
    /// Distances from here on share the last bucket.
    #[serde(default = "default_max_distance")]
    pub relative_attention_max_distance: usize,
    /// Chance that a value is dropped in training.
    #[serde(default = "default_dropout")]
    pub dropout_rate: f32,
    /// Added to the mean square before its root.
    #[serde(default = "default_eps")]
    pub layer_norm_epsilon: f64,
    /// The feed-forward sub-layer.
    #[serde(default)]
    pub feed_forward_proj: FeedForward,
    /// Whether the output head is the embedding table.
    #[serde(default = "default_tied")]
    pub tie_word_embeddings: bool,
    /// Whether the decoder's output is multiplied by D^-0.5 before the head; where the file does not say, exactly
    /// when embeddings are tied (the rule before the key existed).
    #[serde(default)]
    pub scale_decoder_outputs: Option<bool>,
    /// Padding token.
    #[serde(default)]
    pub pad_token_id: u32,
    /// End-of-sequence token.
    #[serde(default = "default_eos")]
    pub eos_token_id: u32,
    /// The token that the decoder begins with.
    #[serde(default)]
    pub decoder_start_token_id: u32,
}

fn default_buckets() -> usize {
    32
}
fn default_max_distance() -> usize {
    128
}
fn default_dropout() -> f32 {
    0.1
}
fn default_eps() -> f64 {
    1e-6
}
fn default_tied() -> bool {
    true
}
fn default_eos() -> u32 {
    1
}

impl T5Config {
    /// Decoder blocks.
    pub fn decoder_layers(&self) -> usize {
        self.num_decoder_layers.unwrap_or(self.num_layers)
    }

    /// Width of all heads together.
    pub fn inner(&self) -> usize {
        self.num_heads * self.d_kv
    }

    /// What the decoder's output is multiplied by before the head.
    pub fn output_scale(&self) -> f64 {
        let scaled = self.scale_decoder_outputs.unwrap_or(self.tie_word_embeddings);
        if scaled { (self.d_model as f64).powf(-0.5) } else { 1.0 }
    }

    /// Multiplications in the products of one forward pass over a history of `history` tokens and `target` given tokens.
    pub fn products(&self, history: usize, target: usize) -> f64 {
        let [t, l] = [history, target].map(|tokens| tokens as f64);
        let (d, inner) = (self.d_model as f64, self.inner() as f64);
        let ff = if self.feed_forward_proj == FeedForward::Relu { 2.0 } else { 3.0 } * d * self.d_ff as f64;
        // Queries, keys, values and outputs; then scores and sums of values.
        let attention = |queries: f64, keys: f64| 2.0 * (queries + keys) * d * inner + 2.0 * queries * keys * inner;
        let encoder = attention(t, t) + t * ff;
        let decoder = attention(l, l) + attention(l, t) + l * ff;
        self.num_layers as f64 * encoder + self.decoder_layers() as f64 * decoder + l * d * self.vocab_size as f64
    }

    /// Refuses sizes that no model can have; `place` is the file or key that says them.
    ///
    /// # Errors
    /// A size of 0 or beyond reason, a dropout outside [0, 1), fewer than 4 buckets, special tokens beyond V.
    pub fn check(&self, place: &str) -> Result<()> {
        let fail = |key: &str, problem: String, mend: &str| {
            Err(CoreError::config(format!("{place}, {key}"), problem, mend).into())
        };
        let sizes = [
            ("vocab_size", self.vocab_size, 1 << 24),
            ("d_model", self.d_model, 1 << 16),
            ("d_kv", self.d_kv, 1 << 16),
            ("d_ff", self.d_ff, 1 << 20),
            ("num_layers", self.num_layers, 1 << 10),
            ("num_decoder_layers", self.decoder_layers(), 1 << 10),
            ("num_heads", self.num_heads, 1 << 10),
        ];
        for (key, size, most) in sizes {
            if size == 0 || size > most {
                return fail(key, format!("{size} is not between 1 and {most}"), "give a size that a T5 can have");
            }
        }
        if !(0.0..1.0).contains(&self.dropout_rate) {
            return fail("dropout_rate", format!("{} is not in [0, 1)", self.dropout_rate), "use 0.1, or 0 for none");
        }
        let (buckets, distance) = (self.relative_attention_num_buckets, self.relative_attention_max_distance);
        if buckets < 4 || buckets % 2 != 0 || distance <= buckets / 2 {
            let problem = format!("{buckets} buckets up to distance {distance}");
            return fail("relative_attention_num_buckets", problem, "use 32 buckets up to distance 128");
        }
        let special = [self.pad_token_id, self.eos_token_id, self.decoder_start_token_id];
        if let Some(beyond) = special.iter().find(|&&token| token as usize >= self.vocab_size) {
            let problem = format!("special token {beyond} is not below {}", self.vocab_size);
            return fail("vocab_size", problem, "give a vocabulary that holds the special tokens");
        }
        Ok(())
    }

    /// Reads `config.json`.
    ///
    /// # Errors
    /// A file that is missing or no T5 configuration, sizes that no model can have.
    pub fn read(path: &Path) -> Result<Self> {
        let config: Self = read_json(path)?;
        config.check(&path.display().to_string())?;
        Ok(config)
    }

    /// Writes `config.json` with the keys that Hugging Face's loaders look for beside ours.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn write(&self, path: &Path) -> Result<()> {
        let gated = self.feed_forward_proj == FeedForward::GatedGelu;
        let full = HuggingFace {
            architectures: ["T5ForConditionalGeneration"],
            model_type: "t5",
            is_encoder_decoder: true,
            is_gated_act: gated,
            dense_act_fn: if gated { "gelu_new" } else { "relu" },
            dtype: "float32",
            initializer_factor: 1.0,
            use_cache: true,
            config: Self {
                num_decoder_layers: Some(self.decoder_layers()),
                scale_decoder_outputs: Some(self.scale_decoder_outputs.unwrap_or(self.tie_word_embeddings)),
                ..self.clone()
            },
        };
        Ok(write_json(path, &full)?)
    }
}

/// Keys beside [`T5Config`] that Hugging Face writes. Only ever written, so `flatten` cannot hide a misspelt key.
#[derive(Serialize)]
struct HuggingFace {
    architectures: [&'static str; 1],
    model_type: &'static str,
    is_encoder_decoder: bool,
    is_gated_act: bool,
    dense_act_fn: &'static str,
    dtype: &'static str,
    initializer_factor: f64,
    use_cache: bool,
    #[serde(flatten)]
    config: T5Config,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn tiny() -> T5Config {
        serde_json::from_str(
            r#"{"vocab_size": 66, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4,
                "architectures": ["T5ForConditionalGeneration"], "use_cache": true}"#,
        )
        .unwrap()
    }

    #[test]
    fn a_file_with_only_sizes_gets_the_values_that_hugging_face_would_assume() {
        let config = tiny();
        assert_eq!(config.decoder_layers(), 2);
        assert_eq!(config.feed_forward_proj, FeedForward::Relu);
        assert!((config.output_scale() - 32f64.powf(-0.5)).abs() < 1e-12);
        assert_eq!((config.pad_token_id, config.eos_token_id, config.decoder_start_token_id), (0, 1, 0));
    }

    #[test]
    fn writing_and_reading_a_config_gives_the_same_model() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        let config = T5Config { feed_forward_proj: FeedForward::GatedGelu, ..tiny() };
        config.write(&path).unwrap();
        let again = T5Config::read(&path).unwrap();
        assert_eq!((again.output_scale(), again.decoder_layers()), (config.output_scale(), config.decoder_layers()));
        assert_eq!(again.feed_forward_proj, FeedForward::GatedGelu);
        assert!(std::fs::read_to_string(&path).unwrap().contains("gelu_new"));
    }

    #[test]
    fn sizes_that_no_model_can_have_name_their_key() {
        let error = T5Config { num_heads: 0, ..tiny() }.check("config.json").unwrap_err().to_string();
        assert!(error.contains("config.json, num_heads"), "{error}");
        let error = T5Config { dropout_rate: 1.0, ..tiny() }.check("config.json").unwrap_err().to_string();
        assert!(error.contains("dropout_rate"), "{error}");
    }
}
