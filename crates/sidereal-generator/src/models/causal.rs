//! A causal transformer over a sequence of vectors: the body of the models that read a history item by item.
//!
//! Pre-norm blocks of attention and a GELU perceptron, and a norm at the end (GPT-2's arrangement: Radford et al.,
//! "Language Models are Unsupervised Multitask Learners", 2019, section 2.3). Positions enter in one of two ways, see
//! [`Positions`].
//!
//! # Shapes
//! `[B, T, D]` -> `[B, T, D]`; no position sees a later item ([`Sees`]), so padding at the right changes nothing before it.

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use sidereal_core::Error as CoreError;
use sidereal_nn::ops;
use sidereal_nn::params::{Init, Params};
use sidereal_nn::rng::Rng;

use crate::Result;
use crate::dropout::Dropout;

const EPSILON: f64 = 1e-5;

/// How a position is told to the transformer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Positions {
    /// A learnt vector for each place, counted from the oldest item that is seen (SASRec, GPT-2).
    #[default]
    Absolute,
    /// A learnt number for each distance between two places, added to the attention's scores of each head.
    Distance,
}

/// Which positions a position sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sees {
    /// Itself and all before it.
    Before,
    /// So many positions in a row are an item, which see each other and all items before.
    Blocks(usize),
    /// So many positions in a row are an item, and as many after them ask what comes next. An item's positions see
    /// themselves and all items before, but not each other, for a set has no order; those that ask see themselves, their
    /// item and all before. They are at one place.
    Sets(usize),
}

impl Sees {
    /// Whether position `q` sees position `k`.
    fn allows(self, q: usize, k: usize) -> bool {
        match self {
            Self::Before => k <= q,
            Self::Blocks(block) => k / block <= q / block,
            Self::Sets(tokens) => {
                let (of_q, of_k) = (q / (2 * tokens), k / (2 * tokens));
                let asks = |position: usize| position % (2 * tokens) >= tokens;
                q == k || !asks(k) && (of_k < of_q || of_k == of_q && asks(q))
            }
        }
    }

    /// Positions in a row that are at one place.
    fn per_place(self) -> usize {
        match self {
            Self::Before | Self::Blocks(_) => 1,
            Self::Sets(tokens) => 2 * tokens,
        }
    }
}

/// Sizes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CausalSizes {
    /// D.
    pub d_model: usize,
    /// Width inside the perceptron.
    pub d_ff: usize,
    /// Attention heads.
    pub heads: usize,
    /// Blocks.
    pub layers: usize,
    /// Places at most: T, but where several positions are at one.
    pub places: usize,
    /// Which positions see which.
    pub sees: Sees,
    /// How positions are told.
    pub positions: Positions,
}

impl CausalSizes {
    /// Refuses sizes that no model can have; `place` is the recipe's path to the table.
    ///
    /// # Errors
    /// The first such key.
    pub fn check(&self, place: &str) -> Result<()> {
        let sizes = [("d_model", self.d_model), ("d_ff", self.d_ff), ("heads", self.heads), ("layers", self.layers)];
        if let Some((key, size)) = sizes.into_iter().find(|(_, size)| *size == 0 || *size > 1 << 16) {
            let mend = "give 1 or more, and at most 65536";
            return Err(CoreError::config(format!("{place}.{key}"), format!("{size} is no size"), mend).into());
        }
        if !self.d_model.is_multiple_of(self.heads) {
            let problem = format!("{} heads do not divide d_model {}", self.heads, self.d_model);
            let mend = "choose a number of heads that divides d_model";
            return Err(CoreError::config(format!("{place}.heads"), problem, mend).into());
        }
        Ok(())
    }

    /// How many numbers are learnt.
    pub fn parameters(&self) -> f64 {
        let (d, f) = (self.d_model as f64, self.d_ff as f64);
        self.layers as f64 * (4.0 * d * d + 2.0 * d * f + 9.0 * d + f)
    }

    /// Arithmetic operations of one position of the forward, among `places` positions.
    pub fn operations(&self, places: f64) -> f64 {
        let (d, f) = (self.d_model as f64, self.d_ff as f64);
        2.0 * self.layers as f64 * (4.0 * d * d + 2.0 * d * f + places * d)
    }
}

/// How the first weights stand to each other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CausalStart {
    /// Deviation of a position's vector; the inputs' is 1 or so in most models.
    pub positions: f64,
    /// What a block adds to the stream, against what would keep the stream's deviation over all blocks. Little lets the
    /// inputs through, so that learning starts from the last item and not from noise.
    pub added: f64,
}

impl Default for CausalStart {
    fn default() -> Self {
        Self { positions: 0.1, added: 1.0 }
    }
}

/// The weights of the blocks. Holds tensors that share memory with the variables.
#[derive(Debug)]
pub struct CausalTransformer {
    sizes: CausalSizes,
    positions: Tensor, // absolute [P, D]; distance [P, H]
    blocks: Vec<Block>,
    norm: Norm,
}

#[derive(Debug)]
struct Block {
    attention_norm: Norm,
    q: Linear,
    kv: Linear, // [D, 2 * D]
    o: Linear,
    perceptron_norm: Norm,
    up: Linear,
    down: Linear,
}

/// A layer norm.
#[derive(Debug)]
pub(super) struct Norm {
    weight: Tensor,
    bias: Tensor,
}

impl Norm {
    pub(super) fn new(params: &mut Params, name: &str, width: usize, rng: &mut Rng) -> Result<Self> {
        let weight = params.var(&format!("{name}.weight"), &[width], Init::Ones, rng)?;
        let bias = params.var(&format!("{name}.bias"), &[width], Init::Zeros, rng)?;
        Ok(Self { weight, bias })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::layer_norm(x, &self.weight, &self.bias, EPSILON)
    }

    pub(super) fn detached(&self) -> Self {
        Self { weight: self.weight.detach(), bias: self.bias.detach() }
    }
}

#[derive(Debug)]
struct Linear {
    weight: Tensor, // [I, O]
    bias: Tensor,
}

impl Linear {
    fn new(params: &mut Params, name: &str, (input, output): (usize, usize), std: f64, rng: &mut Rng) -> Result<Self> {
        let weight = params.var(&format!("{name}.weight"), &[input, output], Init::Normal(std), rng)?;
        let bias = params.var(&format!("{name}.bias"), &[output], Init::Zeros, rng)?;
        Ok(Self { weight, bias })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::linear_bias(x, &self.weight, &self.bias)
    }

    fn detached(&self) -> Self {
        Self { weight: self.weight.detach(), bias: self.bias.detach() }
    }
}

impl CausalTransformer {
    /// First weights: every product keeps the deviation of its input, and what a block adds to the stream is divided
    /// by the root of the number of additions (GPT-2), times what `start` says.
    ///
    /// # Errors
    /// A name that is taken.
    pub fn new(sizes: CausalSizes, start: CausalStart, params: &mut Params, rng: &mut Rng) -> Result<Self> {
        let (d, f) = (sizes.d_model, sizes.d_ff);
        let std = |input: usize| (input as f64).powf(-0.5);
        let added = |input: usize| start.added * std(input) / ((2 * sizes.layers) as f64).sqrt();
        let positions = match sizes.positions {
            Positions::Absolute => params.var("positions", &[sizes.places, d], Init::Normal(start.positions), rng)?,
            Positions::Distance => params.var("distances", &[sizes.places, sizes.heads], Init::Normal(0.02), rng)?,
        };
        let blocks = (0..sizes.layers).map(|i| {
            let name = |part: &str| format!("blocks.{i}.{part}");
            Ok(Block {
                attention_norm: Norm::new(params, &name("attention_norm"), d, rng)?,
                q: Linear::new(params, &name("q"), (d, d), std(d), rng)?,
                kv: Linear::new(params, &name("kv"), (d, 2 * d), std(d), rng)?,
                o: Linear::new(params, &name("o"), (d, d), added(d), rng)?,
                perceptron_norm: Norm::new(params, &name("perceptron_norm"), d, rng)?,
                up: Linear::new(params, &name("up"), (d, f), std(d), rng)?,
                down: Linear::new(params, &name("down"), (f, d), added(f), rng)?,
            })
        });
        let blocks = blocks.collect::<Result<_>>()?;
        let norm = Norm::new(params, "norm", d, rng)?;
        Ok(Self { sizes, positions, blocks, norm })
    }

    /// The same weights without a record of gradients, for answering. Memory is shared with the variables.
    pub fn detached(&self) -> Self {
        let block = |block: &Block| Block {
            attention_norm: block.attention_norm.detached(),
            q: block.q.detached(),
            kv: block.kv.detached(),
            o: block.o.detached(),
            perceptron_norm: block.perceptron_norm.detached(),
            up: block.up.detached(),
            down: block.down.detached(),
        };
        Self {
            sizes: self.sizes,
            positions: self.positions.detach(),
            blocks: self.blocks.iter().map(block).collect(),
            norm: self.norm.detached(),
        }
    }

    /// States of all positions of sequences that are padded at the right.
    ///
    /// # Shapes
    /// `x`: `[B, T, D]`; result: `[B, T, D]`
    ///
    /// # Errors
    /// Longer sequences than there are places; whatever the device says.
    pub fn forward(&self, x: &Tensor, dropout: &Dropout) -> Result<Tensor> {
        let (_, t, _) = x.dims3()?;
        let per_place = self.sizes.sees.per_place();
        if t.div_ceil(per_place) > self.sizes.places {
            let problem = format!("a sequence of {t}, but the model has {} places", self.sizes.places);
            return Err(CoreError::input("generator", problem, "this is a defect: report it").into());
        }
        let (mut x, mut bias) = match self.sizes.positions {
            Positions::Absolute => (x.broadcast_add(&self.absolute(t, per_place)?)?, None),
            Positions::Distance => (x.clone(), Some(self.distance_bias(t, x.device())?)),
        };
        let causal = self.sizes.sees == Sees::Before;
        if !causal {
            let mask = self.mask(t, x.device())?;
            bias = Some(match bias {
                Some(bias) => (bias + mask)?,
                None => mask,
            });
        }
        x = dropout.apply(&x)?;
        let scale = ((self.sizes.d_model / self.sizes.heads) as f32).sqrt().recip();
        for block in &self.blocks {
            let n = block.attention_norm.forward(&x)?;
            let args =
                ops::Attention { heads: self.sizes.heads, scale, key_mask: None, dropout: dropout.of_op(), causal };
            let attended = ops::attention(&block.q.forward(&n)?, &block.kv.forward(&n)?, bias.as_ref(), &args)?;
            x = dropout.add(&x, &block.o.forward(&attended)?)?;
            let n = block.perceptron_norm.forward(&x)?;
            let inside = dropout.apply(&ops::gelu(&block.up.forward(&n)?)?)?; // [B, T, F]
            x = dropout.add(&x, &block.down.forward(&inside)?)?;
        }
        self.norm.forward(&x)
    }

    /// The vectors of the places of t positions, `[T, D]`.
    fn absolute(&self, t: usize, per_place: usize) -> Result<Tensor> {
        if per_place == 1 {
            return Ok(self.positions.narrow(0, 0, t)?);
        }
        let places: Vec<u32> = (0..t).map(|position| (position / per_place) as u32).collect();
        ops::embedding(&Tensor::from_vec(places, t, self.positions.device())?, &self.positions)
    }

    /// 0 where a position sees another, else minus infinity: `[H, T, T]`.
    fn mask(&self, t: usize, device: &Device) -> Result<Tensor> {
        let sees = self.sizes.sees;
        let row = |q: usize| (0..t).map(move |k| if sees.allows(q, k) { 0.0 } else { f32::NEG_INFINITY });
        let mask: Vec<f32> = (0..t).flat_map(row).collect();
        let heads = std::iter::repeat_n(mask, self.sizes.heads).flatten().collect::<Vec<f32>>();
        Ok(Tensor::from_vec(heads, (self.sizes.heads, t, t), device)?)
    }

    /// `[H, T, T]`
    fn distance_bias(&self, t: usize, device: &Device) -> Result<Tensor> {
        let distances: Vec<u32> = (0..t).flat_map(|q| (0..t).map(move |k| q.saturating_sub(k) as u32)).collect();
        let distances = Tensor::from_vec(distances, (t, t), device)?;
        Ok(ops::embedding(&distances, &self.positions)?.permute((2, 0, 1))?.contiguous()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(sees: Sees, q: usize) -> Vec<usize> {
        (0..12).filter(|&k| sees.allows(q, k)).collect()
    }

    #[test]
    fn positions_see_what_their_kind_says() {
        assert_eq!(seen(Sees::Before, 3), [0, 1, 2, 3]);
        assert_eq!(seen(Sees::Blocks(3), 4), [0, 1, 2, 3, 4, 5]);
        // Items at 0 1, 4 5, 8 9; questions at 2 3, 6 7, 10 11.
        assert_eq!(seen(Sees::Sets(2), 0), [0]);
        assert_eq!(seen(Sees::Sets(2), 5), [0, 1, 5]);
        assert_eq!(seen(Sees::Sets(2), 6), [0, 1, 4, 5, 6]);
        assert_eq!(seen(Sees::Sets(2), 11), [0, 1, 4, 5, 8, 9, 11]);
    }
}
