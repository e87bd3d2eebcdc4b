//! A decoder's parameters: what there is, how it begins, and where it is in a file.
//!
//! Ours are stored [in, out], ready for the product; Hugging Face stores [out, in].

use candle_core::Tensor;

use super::config::DecoderConfig;
use crate::error::Result;
use crate::params::Init;
use crate::pretrained::WeightFiles;

/// One parameter.
#[derive(Debug, Clone, PartialEq)]
pub struct Slot {
    /// Its name in a file.
    pub name: String,
    /// Our shape.
    pub shape: Vec<usize>,
    /// Whether files have it the other way round.
    pub transposed: bool,
    /// How it begins.
    pub init: Init,
}

/// All parameters by use.
#[derive(Debug, Clone)]
pub struct DecoderWeights {
    /// `[V, D]`
    pub embedding: Tensor,
    /// Layers in order.
    pub layers: Vec<LayerWeights>,
    /// `[D]`
    pub norm: Tensor,
    /// `[D, V]`, unless tied or not asked for.
    pub head: Option<Tensor>,
}

/// The parameters of a layer.
#[derive(Debug, Clone)]
pub struct LayerWeights {
    /// Before the attention, `[D]`.
    pub norm: Tensor,
    /// `[D, H * dk]`
    pub query: Projection,
    /// `[D, Hk * dk]`
    pub key: Projection,
    /// `[D, Hk * dk]`
    pub value: Projection,
    /// Of queries and of keys, `[dk]` each.
    pub head_norms: Option<[Tensor; 2]>,
    /// `[H * dk, D]`
    pub output: Projection,
    /// Before the feed-forward, `[D]`.
    pub ff_norm: Tensor,
    /// `[D, F]`
    pub gate: Tensor,
    /// `[D, F]`
    pub up: Tensor,
    /// `[F, D]`
    pub down: Tensor,
}

/// `x * weight + bias`.
#[derive(Debug, Clone)]
pub struct Projection {
    /// `[I, O]`
    pub weight: Tensor,
    /// `[O]`
    pub bias: Option<Tensor>,
}

impl Slot {
    /// Reads it from files, in our layout.
    ///
    /// # Errors
    /// A tensor that is missing or misshapen; whatever the device says.
    pub fn read(&self, files: &WeightFiles) -> Result<Tensor> {
        if !self.transposed {
            return files.get(&self.name, &self.shape);
        }
        let turned: Vec<usize> = self.shape.iter().rev().copied().collect();
        Ok(files.get(&self.name, &turned)?.t()?.contiguous()?)
    }

    /// It in the layout of files.
    ///
    /// # Errors
    /// Whatever the device says.
    pub fn to_file(&self, value: &Tensor) -> Result<Tensor> {
        if self.transposed { Ok(value.t()?.contiguous()?) } else { Ok(value.clone()) }
    }
}

/// Names and shapes of the parameters.
struct Builder<'a, F> {
    config: &'a DecoderConfig,
    root: &'a str,
    fill: F,
}

impl DecoderWeights {
    /// Walks over all parameters once, in file order; `fill` gives the tensor of each. Names begin with `root` (`model.`
    /// in the files of a whole language model); without `with_head` the head is left out.
    ///
    /// # Errors
    /// Whatever `fill` says.
    pub fn build(
        config: &DecoderConfig,
        root: &str,
        with_head: bool,
        fill: impl FnMut(&Slot) -> Result<Tensor>,
    ) -> Result<Self> {
        let mut builder = Builder { config, root, fill };
        let (v, d) = (config.vocab, config.width);
        let embedding = builder.slot("embed_tokens.weight", &[v, d], false, Init::Normal(STD))?;
        let layers = (0..config.layers).map(|layer| builder.layer(layer)).collect::<Result<_>>()?;
        let norm = builder.norm("norm.weight", d)?;
        let head = match with_head && !config.tied {
            true => {
                let slot = Slot {
                    name: "lm_head.weight".to_owned(),
                    shape: vec![d, v],
                    transposed: true,
                    init: Init::Normal(STD),
                };
                Some((builder.fill)(&slot)?)
            }
            false => None,
        };
        Ok(Self { embedding, layers, norm, head })
    }

    /// Reads the parameters of files.
    ///
    /// # Errors
    /// A tensor that is missing or misshapen; whatever the device says.
    pub fn read(config: &DecoderConfig, files: &WeightFiles, with_head: bool) -> Result<Self> {
        let root = files.prefix(&["model.", ""], "embed_tokens.weight")?;
        Self::build(config, root, with_head, |slot| slot.read(files))
    }

    /// The same tensors after `map`.
    ///
    /// # Errors
    /// Whatever `map` says.
    pub fn map(&self, config: &DecoderConfig, map: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Self> {
        let mut all = self.tensors().into_iter();
        // `build` asks for exactly these, in this order.
        Self::build(config, "", self.head.is_some(), |_| map(all.next().unwrap_or(&self.embedding)))
    }

    /// All tensors in the order of [`DecoderWeights::build`].
    fn tensors(&self) -> Vec<&Tensor> {
        let mut all = vec![&self.embedding];
        for layer in &self.layers {
            all.push(&layer.norm);
            for projection in [&layer.query, &layer.key, &layer.value, &layer.output] {
                all.push(&projection.weight);
                all.extend(&projection.bias);
            }
            all.extend(layer.head_norms.iter().flatten());
            all.extend([&layer.ff_norm, &layer.gate, &layer.up, &layer.down]);
        }
        all.push(&self.norm);
        all.extend(&self.head);
        all
    }
}

/// The families' `initializer_range`.
const STD: f64 = 0.02;

impl<F: FnMut(&Slot) -> Result<Tensor>> Builder<'_, F> {
    fn slot(&mut self, name: &str, shape: &[usize], transposed: bool, init: Init) -> Result<Tensor> {
        let slot = Slot { name: format!("{}{name}", self.root), shape: shape.to_vec(), transposed, init };
        (self.fill)(&slot)
    }

    fn norm(&mut self, name: &str, width: usize) -> Result<Tensor> {
        self.slot(name, &[width], false, Init::Ones)
    }

    fn matrix(&mut self, name: &str, sizes: [usize; 2]) -> Result<Tensor> {
        self.slot(&format!("{name}.weight"), &sizes, true, Init::Normal(STD))
    }

    fn projection(&mut self, name: &str, sizes: [usize; 2], bias: bool) -> Result<Projection> {
        let weight = self.matrix(name, sizes)?;
        let bias = match bias {
            true => Some(self.slot(&format!("{name}.bias"), &sizes[1..], false, Init::Zeros)?),
            false => None,
        };
        Ok(Projection { weight, bias })
    }

    fn layer(&mut self, layer: usize) -> Result<LayerWeights> {
        let c = self.config;
        let (d, f, inner, key_inner) = (c.width, c.inside, c.inner(), c.key_inner());
        let at = |name: &str| format!("layers.{layer}.{name}");
        let norm = self.norm(&at("input_layernorm.weight"), d)?;
        let query = self.projection(&at("self_attn.q_proj"), [d, inner], c.input_bias)?;
        let key = self.projection(&at("self_attn.k_proj"), [d, key_inner], c.input_bias)?;
        let value = self.projection(&at("self_attn.v_proj"), [d, key_inner], c.input_bias)?;
        let output = self.projection(&at("self_attn.o_proj"), [inner, d], c.output_bias)?;
        let head_norms = match c.head_norms {
            true => Some([
                self.norm(&at("self_attn.q_norm.weight"), c.head_width)?,
                self.norm(&at("self_attn.k_norm.weight"), c.head_width)?,
            ]),
            false => None,
        };
        Ok(LayerWeights {
            norm,
            query,
            key,
            value,
            head_norms,
            output,
            ff_norm: self.norm(&at("post_attention_layernorm.weight"), d)?,
            gate: self.matrix(&at("mlp.gate_proj"), [d, f])?,
            up: self.matrix(&at("mlp.up_proj"), [d, f])?,
            down: self.matrix(&at("mlp.down_proj"), [f, d])?,
        })
    }
}
