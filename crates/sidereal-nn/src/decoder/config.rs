//! A decoder's sizes, as `config.json` has them.

use std::f64::consts::TAU;

use serde::Deserialize;
use serde_json::{Value, json};
use sidereal_core::Error;

use crate::pretrained::ModelFolder;

/// Sizes and switches of a decoder.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderConfig {
    /// V.
    pub vocab: usize,
    /// D.
    pub width: usize,
    /// F, inside the feed-forward.
    pub inside: usize,
    /// Layers.
    pub layers: usize,
    /// H, heads of queries.
    pub heads: usize,
    /// Hk, heads of keys and values; it divides H.
    pub key_heads: usize,
    /// dk.
    pub head_width: usize,
    /// Longest text that it was made for, in tokens.
    pub max_positions: usize,
    /// Added to mean squares.
    pub eps: f64,
    /// Base of the rotation's frequencies.
    pub theta: f64,
    /// How the frequencies are changed for longer texts.
    pub scaling: Option<RopeScaling>,
    /// Whether queries, keys and values have biases.
    pub input_bias: bool,
    /// Whether the projection behind the attention has one.
    pub output_bias: bool,
    /// Whether queries and keys are normalised, head by head.
    pub head_norms: bool,
    /// Whether the embedding table is the head too.
    pub tied: bool,
    /// Tokens that end a text; the first is the usual one.
    pub ends: Vec<u32>,
}

/// Slower rotation of the slow frequencies, as Llama 3.1 has it (2407.21783, section 3.4.1): the constants of its release.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RopeScaling {
    /// How much slower the slowest turn.
    pub factor: f64,
    /// Turns within the original length below which a frequency is slowed by the whole factor.
    pub low: f64,
    /// Turns from which on it stays.
    pub high: f64,
    /// The length that the model was first trained with, in tokens.
    pub original: f64,
}

/// What the families' configurations may say; what they leave out has the family's default.
#[derive(Deserialize)]
struct Raw {
    model_type: String,
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    #[serde(default = "positions")]
    max_position_embeddings: usize,
    #[serde(default = "eps")]
    rms_norm_eps: f64,
    #[serde(default = "silu")]
    hidden_act: String,
    attention_bias: Option<bool>,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default)]
    use_sliding_window: bool,
    sliding_window: Option<usize>,
    rope_theta: Option<f64>,
    rope_scaling: Option<Rope>,
    /// Where newer versions of transformers keep the two above.
    rope_parameters: Option<Rope>,
    #[serde(default)]
    tie_word_embeddings: bool,
    #[serde(default)]
    eos_token_id: Value,
}

#[derive(Deserialize)]
struct Rope {
    rope_theta: Option<f64>,
    #[serde(alias = "type")]
    rope_type: Option<String>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
}

fn positions() -> usize {
    2048
}

fn eps() -> f64 {
    1e-6
}

fn silu() -> String {
    "silu".to_owned()
}

/// What tells the families apart.
struct Family {
    model_type: &'static str,
    input_bias: bool,
    head_norms: bool,
    /// Whether `sliding_window` counts without `use_sliding_window`.
    windows: bool,
    theta: f64,
}

const FAMILIES: &[Family] = &[
    Family { model_type: "llama", input_bias: false, head_norms: false, windows: false, theta: 1e4 },
    Family { model_type: "mistral", input_bias: false, head_norms: false, windows: true, theta: 1e4 },
    Family { model_type: "qwen2", input_bias: true, head_norms: false, windows: false, theta: 1e4 },
    Family { model_type: "qwen3", input_bias: false, head_norms: true, windows: false, theta: 1e6 },
];

impl DecoderConfig {
    /// Reads a folder's `config.json`.
    ///
    /// # Errors
    /// A file that is missing or damaged; a model of another family, or with parts that none of these has.
    pub fn read(folder: &ModelFolder) -> Result<Self, Error> {
        let raw: Raw = folder.json("config.json")?;
        let place = folder.path("config.json").display().to_string();
        let refused = |problem: String, mend: &str| Err(Error::input(&place, problem, mend));
        let Some(family) = FAMILIES.iter().find(|family| family.model_type == raw.model_type) else {
            let known: Vec<&str> = FAMILIES.iter().map(|family| family.model_type).collect();
            let problem = format!("the model_type {:?} is no decoder that is supported", raw.model_type);
            return Err(Error::input(&place, problem, format!("use one of: {}", known.join(", "))));
        };
        if raw.hidden_act != "silu" && raw.hidden_act != "swish" {
            return refused(format!("the activation {:?} is not supported", raw.hidden_act), "use a model with silu");
        }
        if raw.mlp_bias {
            return refused("its feed-forward has biases, which are not supported".to_owned(), "use a model without");
        }
        let windows = raw.sliding_window.is_some() && (raw.use_sliding_window || family.windows);
        if windows {
            let problem = "sliding windows are not supported".to_owned();
            return refused(
                problem,
                "use a model that sees its whole text, or set sliding_window to null where texts are shorter",
            );
        }
        let ropes = [&raw.rope_parameters, &raw.rope_scaling];
        let theta = ropes.iter().find_map(|rope| rope.as_ref().and_then(|rope| rope.rope_theta));
        let scaling = ropes.into_iter().flatten().find_map(|rope| rope.scaling(&place).transpose()).transpose()?;
        let ends: Vec<u64> = match &raw.eos_token_id {
            Value::Array(ids) => ids.iter().filter_map(Value::as_u64).collect(),
            id => id.as_u64().into_iter().collect(),
        };
        let config = Self {
            vocab: raw.vocab_size,
            width: raw.hidden_size,
            inside: raw.intermediate_size,
            layers: raw.num_hidden_layers,
            heads: raw.num_attention_heads,
            key_heads: raw.num_key_value_heads.unwrap_or(raw.num_attention_heads),
            head_width: raw.head_dim.unwrap_or(raw.hidden_size / raw.num_attention_heads.max(1)),
            max_positions: raw.max_position_embeddings,
            eps: raw.rms_norm_eps,
            theta: theta.or(raw.rope_theta).unwrap_or(family.theta),
            scaling,
            input_bias: raw.attention_bias.unwrap_or(family.input_bias) || family.input_bias,
            output_bias: raw.attention_bias.unwrap_or(false) && !family.input_bias,
            head_norms: family.head_norms,
            tied: raw.tie_word_embeddings,
            ends: ends.into_iter().filter_map(|id| u32::try_from(id).ok()).collect(),
        };
        config.check(&place)?;
        Ok(config)
    }

    /// Refuses sizes that no model has; `place` is where they stand.
    ///
    /// # Errors
    /// The first such size, by name.
    pub fn check(&self, place: &str) -> Result<(), Error> {
        let refused = |problem: String| {
            Err(Error::input(place, problem, "give sizes that fit each other; of a download, fetch it again"))
        };
        let sizes = [
            ("vocab_size", self.vocab, 1 << 24),
            ("hidden_size", self.width, 1 << 15),
            ("intermediate_size", self.inside, 1 << 18),
            ("num_hidden_layers", self.layers, 512),
            ("num_attention_heads", self.heads, 1 << 10),
            ("num_key_value_heads", self.key_heads, self.heads),
            ("head_dim", self.head_width, 1 << 12),
            ("max_position_embeddings", self.max_positions, 1 << 24),
        ];
        if let Some((name, value, most)) = sizes.into_iter().find(|&(_, value, most)| value == 0 || value > most) {
            return refused(format!("{name} is {value}, not between 1 and {most}"));
        }
        if !self.heads.is_multiple_of(self.key_heads) {
            return refused(format!("{} heads cannot share {} heads of keys", self.heads, self.key_heads));
        }
        if !self.head_width.is_multiple_of(2) {
            return refused(format!("a head of {} features cannot be rotated in pairs", self.head_width));
        }
        if !(self.eps > 0.0 && self.eps < 1.0 && self.theta > 1.0 && self.theta.is_finite()) {
            return refused(format!("rms_norm_eps {} or rope_theta {} is out of range", self.eps, self.theta));
        }
        Ok(())
    }

    /// What Hugging Face's LlamaForCausalLM or, with norms of heads, Qwen3ForCausalLM reads these sizes from.
    pub fn to_json(&self) -> Value {
        let (model_type, class) = match self.head_norms {
            true => ("qwen3", "Qwen3ForCausalLM"),
            false => ("llama", "LlamaForCausalLM"),
        };
        json!({
            "architectures": [class],
            "model_type": model_type,
            "vocab_size": self.vocab,
            "hidden_size": self.width,
            "intermediate_size": self.inside,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.key_heads,
            "head_dim": self.head_width,
            "max_position_embeddings": self.max_positions,
            "rms_norm_eps": self.eps,
            "rope_theta": self.theta,
            "hidden_act": "silu",
            "attention_bias": self.input_bias,
            "mlp_bias": false,
            "tie_word_embeddings": self.tied,
            "eos_token_id": self.ends.first(),
            "torch_dtype": "float32",
        })
    }

    /// H * dk.
    pub fn inner(&self) -> usize {
        self.heads * self.head_width
    }

    /// Hk * dk.
    pub fn key_inner(&self) -> usize {
        self.key_heads * self.head_width
    }

    /// What scores are multiplied by.
    pub fn scale(&self) -> f32 {
        1.0 / (self.head_width as f32).sqrt()
    }

    /// By how much each pair of a head's features turns from a position to the next, in radians: `[dk / 2]`.
    pub fn frequencies(&self) -> Vec<f64> {
        let plain = |pair: usize| self.theta.powf(-2.0 * pair as f64 / self.head_width as f64);
        (0..self.head_width / 2).map(|pair| self.scaling.map_or(plain(pair), |by| by.slowed(plain(pair)))).collect()
    }

    /// Cosines and sines of the turns at some positions, row by row: `[T, dk / 2]` each.
    pub fn turns(&self, positions: impl Iterator<Item = usize> + Clone) -> [Vec<f32>; 2] {
        let frequencies = self.frequencies();
        let all = |of: fn(f64) -> f64| {
            let turn =
                |position: usize| frequencies.iter().map(move |frequency| of(position as f64 * frequency) as f32);
            positions.clone().flat_map(turn).collect()
        };
        [all(f64::cos), all(f64::sin)]
    }
}

impl Rope {
    /// The scaling, if there is any.
    fn scaling(&self, place: &str) -> Result<Option<RopeScaling>, Error> {
        match self.rope_type.as_deref() {
            None | Some("default") => Ok(None),
            Some("llama3") => {
                let number = |name: &str, value: Option<f64>| {
                    value.filter(|value| value.is_finite() && *value > 0.0).ok_or_else(|| {
                        let problem = format!("its rope_type llama3 lacks a {name} above 0");
                        Error::input(place, problem, "download the model again: its config.json is damaged")
                    })
                };
                Ok(Some(RopeScaling {
                    factor: number("factor", self.factor)?,
                    low: number("low_freq_factor", self.low_freq_factor)?,
                    high: number("high_freq_factor", self.high_freq_factor)?,
                    original: number("original_max_position_embeddings", self.original_max_position_embeddings)?,
                }))
            }
            Some(other) => {
                let problem = format!("positions scaled by {other:?} are not supported");
                Err(Error::input(place, problem, "remove rope_scaling: it is for texts beyond the trained length"))
            }
        }
    }
}

impl RopeScaling {
    fn slowed(self, frequency: f64) -> f64 {
        let turns = self.original * frequency / TAU;
        if turns < self.low {
            return frequency / self.factor;
        }
        if turns > self.high {
            return frequency;
        }
        let kept = (turns - self.low) / (self.high - self.low);
        frequency * (kept + (1.0 - kept) / self.factor)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(change: impl Fn(&mut Value)) -> Result<DecoderConfig, Error> {
        let dir = tempfile::tempdir().unwrap();
        let mut value = json!({
            "model_type": "llama", "vocab_size": 50, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "eos_token_id": [1, 2],
        });
        change(&mut value);
        std::fs::write(dir.path().join("config.json"), value.to_string()).unwrap();
        DecoderConfig::read(&ModelFolder::local(dir.path()))
    }

    #[test]
    fn what_a_configuration_leaves_out_is_the_familys() {
        let llama = read(|_| ()).unwrap();
        assert_eq!((llama.head_width, llama.theta, llama.head_norms, llama.input_bias), (8, 1e4, false, false));
        assert_eq!(llama.ends, [1, 2]);
        let qwen2 = read(|config| config["model_type"] = "qwen2".into()).unwrap();
        assert_eq!((qwen2.input_bias, qwen2.output_bias, qwen2.head_norms), (true, false, false));
        let qwen3 = read(|config| config["model_type"] = "qwen3".into()).unwrap();
        assert_eq!((qwen3.input_bias, qwen3.theta, qwen3.head_norms), (false, 1e6, true));
        let back = read(|config| *config = qwen3.to_json()).unwrap();
        assert_eq!(back, DecoderConfig { ends: vec![1], ..qwen3 });
    }

    #[test]
    fn slow_frequencies_turn_slower_and_fast_ones_as_before() {
        let scaled = read(|config| {
            config["rope_scaling"] = json!({
                "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            });
            config["head_dim"] = 64.into();
        })
        .unwrap();
        let plain = DecoderConfig { scaling: None, ..scaled.clone() };
        let (scaled, plain) = (scaled.frequencies(), plain.frequencies());
        assert_eq!(scaled[0], plain[0]);
        assert!((scaled[31] * 8.0 / plain[31] - 1.0).abs() < 1e-9);
        let ratios: Vec<f64> = scaled.iter().zip(&plain).map(|(a, b)| a / b).collect();
        assert!(ratios.windows(2).all(|pair| pair[0] >= pair[1]) && ratios.iter().all(|r| (0.12..=1.0).contains(r)));
    }

    #[test]
    fn what_cannot_be_computed_is_refused_by_name() {
        let error = |key: &str, value: Value| read(|config| config[key] = value.clone()).unwrap_err().to_string();
        for (key, value, part) in [
            ("model_type", json!("gpt2"), "llama, mistral, qwen2, qwen3"),
            ("hidden_act", json!("gelu"), "silu"),
            ("num_key_value_heads", json!(3), "cannot share 3"),
            ("num_hidden_layers", json!(0), "num_hidden_layers is 0"),
            ("vocab_size", json!(1u64 << 40), "vocab_size"),
            ("head_dim", json!(7), "in pairs"),
            ("rms_norm_eps", json!(0.0), "rms_norm_eps"),
            ("mlp_bias", json!(true), "biases"),
            ("rope_scaling", json!({"type": "yarn", "factor": 4.0}), "yarn"),
            ("rope_scaling", json!({"rope_type": "llama3", "factor": 4.0}), "low_freq_factor"),
        ] {
            let error = error(key, value);
            assert!(error.contains(part), "{key}: {error}");
        }
        let windows = read(|config| {
            config["model_type"] = "mistral".into();
            config["sliding_window"] = 4096.into();
        });
        assert!(windows.unwrap_err().to_string().contains("sliding windows"));
    }
}
