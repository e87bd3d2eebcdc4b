//! T5's parameters: what there is, how it begins, and its place in a Hugging Face file.
//!
//! Ours are stored [in, out], ready for the product, with an attention's keys and values in one matrix; Hugging Face
//! stores [out, in], one matrix each. The translation happens only when a file is read or written.

use std::collections::BTreeSet;
use std::path::Path;

use candle_core::{Device, Tensor};
use sidereal_core::Error as CoreError;
use sidereal_core::array_file::ArrayFile;
use sidereal_nn::params::Params;
use sidereal_nn::pretrained::write_weights;
use sidereal_nn::rng::Rng;

use super::config::{FeedForward, T5Config};
use super::extensions::{Extensions, LOCAL_FF};
use crate::Result;

/// One parameter of ours.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    /// Our name.
    pub(super) name: String,
    /// Our shape.
    pub(super) shape: Vec<usize>,
    init: Init,
    origin: Origin,
}

#[derive(Debug, Clone, Copy)]
enum Init {
    Normal(f64),
    Ones,
    Zeros,
}

/// Where a parameter is in a Hugging Face file.
#[derive(Debug, Clone)]
enum Origin {
    /// Under this name, in our shape.
    Same(String),
    /// Side by side the transposes of these.
    Transposed(Vec<String>),
}

/// All parameters by use. Holds tensors that share memory with the variables.
#[derive(Debug, Clone)]
pub(super) struct Weights {
    pub(super) embedding: Tensor,    // [V, D]
    pub(super) head: Option<Tensor>, // [D, V], unless tied
    pub(super) encoder_bias: Tensor, // [buckets, H]
    pub(super) decoder_bias: Tensor, // [buckets, H]
    pub(super) encoder: Vec<EncoderBlock>,
    pub(super) decoder: Vec<DecoderBlock>,
    pub(super) encoder_norm: Tensor, // [D]
    pub(super) decoder_norm: Tensor, // [D]
    pub(super) added: Added,
}

/// The parameters of [`Extensions`].
#[derive(Debug, Clone, Default)]
pub(super) struct Added {
    /// The vector of each level, and of the token that the decoder begins with: `[L + 1, D]`.
    pub(super) positions: Option<Tensor>,
    pub(super) item_projection: Option<Tensor>, // [width of item vectors, D]
    /// Of the encoder and of the decoder.
    pub(super) dual_branches: Option<[DualBranch; 2]>,
    pub(super) level_heads: Vec<Tensor>,    // by level: [D, K]
    pub(super) vector_head: Option<Tensor>, // [D, width of item vectors]
}

#[derive(Debug, Clone)]
pub(super) struct DualBranch {
    pub(super) norm: LayerNorm,
    pub(super) attention: Attention, // all heads together are as wide as D
    pub(super) ff_norm: LayerNorm,
    pub(super) up: Tensor,   // [D, F]
    pub(super) down: Tensor, // [F, D]
    pub(super) gate: Tensor, // a row for each branch: [2, D]
}

#[derive(Debug, Clone)]
pub(super) struct LayerNorm {
    pub(super) weight: Tensor, // [D]
    pub(super) bias: Tensor,   // [D]
}

#[derive(Debug, Clone)]
pub(super) struct EncoderBlock {
    pub(super) norm: Tensor,
    pub(super) attention: Attention,
    pub(super) ff: FeedForwardBlock,
}

#[derive(Debug, Clone)]
pub(super) struct DecoderBlock {
    pub(super) norm: Tensor,
    pub(super) attention: Attention,
    pub(super) cross_norm: Tensor,
    pub(super) cross: Attention,
    pub(super) ff: FeedForwardBlock,
}

#[derive(Debug, Clone)]
pub(super) struct Attention {
    pub(super) q: Tensor,  // [D, H * dk]
    pub(super) kv: Tensor, // [D, 2 * H * dk]
    pub(super) o: Tensor,  // [H * dk, D]
}

#[derive(Debug, Clone)]
pub(super) struct FeedForwardBlock {
    pub(super) norm: Tensor,
    pub(super) up: Tensor,           // [D, F]
    pub(super) gate: Option<Tensor>, // [D, F]
    pub(super) down: Tensor,         // [F, D]
}

/// Weights, the variables they share memory with, and each variable's place in a file.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) weights: Weights,
    pub(super) slots: Vec<Slot>,
    pub(super) params: Params,
}

impl Weights {
    /// Walks over all parameters once, in file order; `fill` gives the tensor of each.
    pub(super) fn build(
        config: &T5Config,
        extensions: Option<&Extensions>,
        fill: impl FnMut(Slot) -> Result<Tensor>,
    ) -> Result<Self> {
        let mut builder = Builder { config, fill };
        let embedding = builder.embedding()?;
        let (encoder_bias, encoder) = builder.encoder()?;
        let encoder_norm = builder.norm("encoder.final_layer_norm")?;
        let (decoder_bias, decoder) = builder.decoder()?;
        let decoder_norm = builder.norm("decoder.final_layer_norm")?;
        let head = if config.tie_word_embeddings { None } else { Some(builder.head()?) };
        let added = extensions.map(|extensions| builder.added(extensions)).transpose()?.unwrap_or_default();
        Ok(Self { embedding, head, encoder_bias, decoder_bias, encoder, decoder, encoder_norm, decoder_norm, added })
    }
}

/// Names and shapes of the parameters.
struct Builder<'a, F> {
    config: &'a T5Config,
    fill: F,
}

impl<F: FnMut(Slot) -> Result<Tensor>> Builder<'_, F> {
    fn same(&mut self, name: &str, shape: &[usize], init: Init) -> Result<Tensor> {
        let origin = Origin::Same(format!("{name}.weight"));
        (self.fill)(Slot { name: name.to_owned(), shape: shape.to_vec(), init, origin })
    }

    fn linear(&mut self, name: &str, parts: &[&str], input: usize, output: usize, std: f64) -> Result<Tensor> {
        let origin = Origin::Transposed(parts.iter().map(|part| format!("{part}.weight")).collect());
        let shape = vec![input, output * parts.len()];
        (self.fill)(Slot { name: name.to_owned(), shape, init: Init::Normal(std), origin })
    }

    fn norm(&mut self, name: &str) -> Result<Tensor> {
        self.same(name, &[self.config.d_model], Init::Ones)
    }

    fn embedding(&mut self) -> Result<Tensor> {
        // Hugging Face's T5 begins embeddings with deviation 1: a tied head is scaled by D^-0.5 instead.
        self.same("shared", &[self.config.vocab_size, self.config.d_model], Init::Normal(1.0))
    }

    fn head(&mut self) -> Result<Tensor> {
        let (d, v) = (self.config.d_model, self.config.vocab_size);
        self.linear("lm_head", &["lm_head"], d, v, (d as f64).powf(-0.5))
    }

    fn bias(&mut self, block: &str) -> Result<Tensor> {
        let (buckets, heads) = (self.config.relative_attention_num_buckets, self.config.num_heads);
        let std = (self.config.d_model as f64).powf(-0.5);
        self.same(&format!("{block}.relative_attention_bias"), &[buckets, heads], Init::Normal(std))
    }

    fn attention(&mut self, name: &str) -> Result<Attention> {
        let (d, dk, inner) = (self.config.d_model, self.config.d_kv, self.config.inner());
        let [q, k, v, o] = ["q", "k", "v", "o"].map(|part| format!("{name}.{part}"));
        // The query's deviation holds the usual division by sqrt(dk): T5 does not divide scores.
        let query_std = ((d * dk) as f64).powf(-0.5);
        Ok(Attention {
            q: self.linear(&q, &[&q], d, inner, query_std)?,
            kv: self.linear(&format!("{name}.kv"), &[&k, &v], d, inner, (d as f64).powf(-0.5))?,
            o: self.linear(&o, &[&o], inner, d, (inner as f64).powf(-0.5))?,
        })
    }

    fn feed_forward(&mut self, name: &str) -> Result<FeedForwardBlock> {
        let (d, f) = (self.config.d_model, self.config.d_ff);
        let std = (d as f64).powf(-0.5);
        let inside = format!("{name}.DenseReluDense");
        let gated = self.config.feed_forward_proj == FeedForward::GatedGelu;
        let up = format!("{inside}.{}", if gated { "wi_0" } else { "wi" });
        let (gate, down) = (format!("{inside}.wi_1"), format!("{inside}.wo"));
        Ok(FeedForwardBlock {
            up: self.linear(&up, &[&up], d, f, std)?,
            gate: if gated { Some(self.linear(&gate, &[&gate], d, f, std)?) } else { None },
            down: self.linear(&down, &[&down], f, d, (f as f64).powf(-0.5))?,
            norm: self.norm(&format!("{name}.layer_norm"))?,
        })
    }

    fn encoder(&mut self) -> Result<(Tensor, Vec<EncoderBlock>)> {
        let bias = self.bias("encoder.block.0.layer.0.SelfAttention")?;
        let blocks = (0..self.config.num_layers).map(|i| {
            let block = format!("encoder.block.{i}");
            Ok(EncoderBlock {
                attention: self.attention(&format!("{block}.layer.0.SelfAttention"))?,
                norm: self.norm(&format!("{block}.layer.0.layer_norm"))?,
                ff: self.feed_forward(&format!("{block}.layer.1"))?,
            })
        });
        Ok((bias, blocks.collect::<Result<_>>()?))
    }

    fn decoder(&mut self) -> Result<(Tensor, Vec<DecoderBlock>)> {
        let bias = self.bias("decoder.block.0.layer.0.SelfAttention")?;
        let blocks = (0..self.config.decoder_layers()).map(|i| {
            let block = format!("decoder.block.{i}");
            Ok(DecoderBlock {
                attention: self.attention(&format!("{block}.layer.0.SelfAttention"))?,
                norm: self.norm(&format!("{block}.layer.0.layer_norm"))?,
                cross: self.attention(&format!("{block}.layer.1.EncDecAttention"))?,
                cross_norm: self.norm(&format!("{block}.layer.1.layer_norm"))?,
                ff: self.feed_forward(&format!("{block}.layer.2"))?,
            })
        });
        Ok((bias, blocks.collect::<Result<_>>()?))
    }

    fn added(&mut self, extensions: &Extensions) -> Result<Added> {
        let (d, width) = (self.config.d_model, extensions.vector_width);
        let std = (d as f64).powf(-0.5);
        let mut added = Added::default();
        if extensions.in_item_positions {
            let places = extensions.vocab().levels() + 1;
            added.positions = Some(self.same("in_item_positions", &[places, d], Init::Normal(1.0))?);
        }
        if extensions.item_vectors {
            // Vectors of mean square 1 become rows of the embedding table's deviation.
            let projection_std = (width as f64).powf(-0.5);
            added.item_projection =
                Some(self.linear("item_projection", &["item_projection"], width, d, projection_std)?);
        }
        if extensions.dual_branch {
            added.dual_branches = Some([self.dual_branch("encoder")?, self.dual_branch("decoder")?]);
        }
        if extensions.level_heads {
            let heads = extensions.vocab().codes_per_level().iter().enumerate().map(|(level, &codes)| {
                let name = format!("level_heads.{level}");
                self.linear(&name, &[&name], d, codes as usize, std)
            });
            added.level_heads = heads.collect::<Result<_>>()?;
        }
        if extensions.vector_head {
            added.vector_head = Some(self.linear("vector_head", &["vector_head"], d, width, std)?);
        }
        Ok(added)
    }

    fn dual_branch(&mut self, stack: &str) -> Result<DualBranch> {
        let d = self.config.d_model;
        let std = (d as f64).powf(-0.5);
        let name = |part: &str| format!("{stack}.dual_branch.{part}");
        let [q, k, v, o] = ["q", "k", "v", "o"].map(|part| name(&format!("SelfAttention.{part}")));
        let [up, down] = ["wi", "wo"].map(|part| name(&format!("DenseReluDense.{part}")));
        Ok(DualBranch {
            norm: self.layer_norm(&name("layer_norm"))?,
            attention: Attention {
                q: self.linear(&q, &[&q], d, d, std)?,
                kv: self.linear(&name("SelfAttention.kv"), &[&k, &v], d, d, std)?,
                o: self.linear(&o, &[&o], d, d, std)?,
            },
            ff_norm: self.layer_norm(&name("ff_layer_norm"))?,
            up: self.linear(&up, &[&up], d, LOCAL_FF, std)?,
            down: self.linear(&down, &[&down], LOCAL_FF, d, (LOCAL_FF as f64).powf(-0.5))?,
            gate: self.same(&name("gate"), &[2, d], Init::Normal(std))?,
        })
    }

    fn layer_norm(&mut self, name: &str) -> Result<LayerNorm> {
        let shape = vec![self.config.d_model];
        let bias = Slot {
            name: format!("{name}.bias"),
            shape,
            init: Init::Zeros,
            origin: Origin::Same(format!("{name}.bias")),
        };
        Ok(LayerNorm { weight: self.norm(name)?, bias: (self.fill)(bias)? })
    }
}

impl Slot {
    /// First values, from the seed and the parameter's own name: adding a parameter moves no other's values.
    pub(super) fn first_values(&self, seed: u64) -> Vec<f32> {
        let len = self.shape.iter().product();
        match self.init {
            Init::Ones => vec![1.0; len],
            Init::Zeros => vec![0.0; len],
            Init::Normal(std) => {
                let mut rng = Rng::new(seed, &format!("init {}", self.name));
                (0..len).map(|_| (rng.normal() * std) as f32).collect()
            }
        }
    }

    /// Names and shapes of its tensors in a Hugging Face file.
    fn tensors(&self) -> Vec<(&str, Vec<usize>)> {
        match &self.origin {
            Origin::Same(name) => vec![(name, self.shape.clone())],
            Origin::Transposed(names) => {
                let (input, output) = (self.shape[0], self.shape[1] / names.len());
                names.iter().map(|name| (name.as_str(), vec![output, input])).collect()
            }
        }
    }

    /// Our values from those of a Hugging Face file, in the order of [`Slot::tensors`].
    fn joined(&self, parts: &[&[f32]]) -> Vec<f32> {
        if let Origin::Same(_) = self.origin {
            return parts.concat();
        }
        let (input, width) = (self.shape[0], self.shape[1]);
        let output = width / parts.len();
        let mut values = vec![0.0; input * width];
        for (part, source) in parts.iter().enumerate() {
            for (o, row) in source.chunks_exact(input).enumerate() {
                for (i, &value) in row.iter().enumerate() {
                    values[i * width + part * output + o] = value;
                }
            }
        }
        values
    }

    /// The inverse of [`Slot::joined`], also of gradients.
    pub(super) fn to_parts(&self, values: &Tensor) -> Result<Vec<(String, Tensor)>> {
        match &self.origin {
            Origin::Same(name) => Ok(vec![(name.clone(), values.clone())]),
            Origin::Transposed(names) => {
                let output = self.shape[1] / names.len();
                let part = |(at, name): (usize, &String)| -> Result<(String, Tensor)> {
                    Ok((name.clone(), values.narrow(1, at * output, output)?.t()?.contiguous()?))
                };
                names.iter().enumerate().map(part).collect()
            }
        }
    }
}

/// Tables that older files repeat under the names of their uses.
const TIED_NAMES: [&str; 3] = ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"];

/// Reads `model.safetensors`: exactly the tensors that the configuration and the extensions ask for, all f32.
///
/// # Errors
/// A file that is missing or damaged; a tensor that is missing, unexpected, misshapen, not f32 or not finite, by name.
pub(super) fn read(path: &Path, config: &T5Config, extensions: Option<&Extensions>, device: &Device) -> Result<Model> {
    let file = ArrayFile::open(path)?;
    let mut expected = BTreeSet::new();
    let model = create(config, extensions, device, |slot| {
        let mut columns = Vec::new();
        for (name, shape) in slot.tensors() {
            let found = file.shape(name)?;
            if found != shape {
                let problem = format!("tensor {name:?} has the shape {found:?}, but the model asks for {shape:?}");
                let mend =
                    "use the config.json, the recipe and, where it looks at any, the item vectors of these weights";
                return Err(CoreError::artifact(path, problem, mend).into());
            }
            let column = file.column::<f32>(name)?;
            if let Some(at) = column.iter().position(|v| !v.is_finite()) {
                let problem = format!("tensor {name:?} holds {} at place {at}", column[at]);
                return Err(CoreError::artifact(path, problem, "the training diverged: use another checkpoint").into());
            }
            columns.push(column);
            expected.insert(name.to_owned());
        }
        let parts: Vec<&[f32]> = columns.iter().map(|column| &**column).collect();
        Ok(slot.joined(&parts))
    })?;
    let shared = file.column::<f32>("shared.weight")?;
    for name in file.names().filter(|name| !expected.contains(*name)) {
        let repeated = TIED_NAMES.contains(&name)
            && (config.tie_word_embeddings || name != "lm_head.weight")
            && file.column::<f32>(name).is_ok_and(|column| *column == *shared);
        if !repeated {
            let problem = format!("there is a tensor {name:?} that a T5 of this config.json does not have");
            return Err(CoreError::artifact(path, problem, "use the config.json of these weights").into());
        }
    }
    Ok(model)
}

/// New variables with the values that `values` gives.
pub(super) fn create(
    config: &T5Config,
    extensions: Option<&Extensions>,
    device: &Device,
    mut values: impl FnMut(&Slot) -> Result<Vec<f32>>,
) -> Result<Model> {
    let (mut slots, mut params) = (Vec::new(), Params::new(device));
    let weights = Weights::build(config, extensions, |slot| {
        let tensor = params.insert(&slot.name, &slot.shape, values(&slot)?)?;
        slots.push(slot);
        Ok(tensor)
    })?;
    Ok(Model { weights, slots, params })
}

/// Writes `model.safetensors` in Hugging Face's layout, atomically.
///
/// # Errors
/// Whatever the device or the file system says.
pub(super) fn write(path: &Path, model: &Model) -> Result<()> {
    let mut tensors = Vec::new();
    for (slot, (_, var)) in model.slots.iter().zip(model.params.vars()) {
        tensors.extend(slot.to_parts(var.as_tensor())?);
    }
    write_weights(path, &tensors)
}
