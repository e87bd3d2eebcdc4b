//! A decoder's pass, of ops that learn and run anywhere.

use candle_core::{D, DType, Device, Tensor};

use super::config::DecoderConfig;
use super::weights::{DecoderWeights, LayerWeights, Projection};
use crate::error::Result;
use crate::ops::{self, Attention};

/// Sizes and weights, ready to compute.
#[derive(Debug, Clone, Copy)]
pub struct Decoder<'a> {
    /// Sizes.
    pub config: &'a DecoderConfig,
    /// Weights.
    pub weights: &'a DecoderWeights,
    /// Chance that a value of a sub-layer's output is dropped, and what decides which: for training.
    pub dropout: Option<(f32, u64)>,
}

/// Cosines and sines of positions, for `[B, T, heads, dk]`.
#[derive(Debug, Clone)]
pub struct Rotation {
    cos: Tensor, // [B or 1, T, 1, dk / 2]
    sin: Tensor,
}

/// What the attention of a layer reads.
#[derive(Debug)]
pub struct Heads {
    /// `[B, T, H, dk]`
    pub query: Tensor,
    /// `[B, T, Hk, dk]`
    pub key: Tensor,
    /// `[B, T, Hk, dk]`
    pub value: Tensor,
}

impl Rotation {
    /// Of rows that all begin at position 0.
    ///
    /// # Errors
    /// Whatever the device says.
    pub fn from_start(config: &DecoderConfig, tokens: usize, dtype: DType, device: &Device) -> Result<Self> {
        Self::of(config, 0..tokens, [1, tokens], dtype, device)
    }

    /// Of the positions of `[B, T]` tokens, row by row.
    ///
    /// # Errors
    /// Whatever the device says.
    pub fn of(
        config: &DecoderConfig,
        positions: impl Iterator<Item = usize> + Clone,
        [rows, tokens]: [usize; 2],
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let shape = (rows, tokens, 1, config.head_width / 2);
        let [cos, sin] = config.turns(positions).map(|values| Tensor::from_vec(values, shape, device)?.to_dtype(dtype));
        Ok(Self { cos: cos?, sin: sin? })
    }

    /// `[B, T, heads, dk]`: each feature of the first half turned with its partner of the second.
    fn turn(&self, x: &Tensor) -> Result<Tensor> {
        let half = x.dim(D::Minus1)? / 2;
        let (a, b) = (x.narrow(D::Minus1, 0, half)?, x.narrow(D::Minus1, half, half)?);
        let first = (a.broadcast_mul(&self.cos)? - b.broadcast_mul(&self.sin)?)?;
        let second = (b.broadcast_mul(&self.cos)? + a.broadcast_mul(&self.sin)?)?;
        Ok(Tensor::cat(&[&first, &second], D::Minus1)?)
    }
}

impl<'a> Decoder<'a> {
    /// For answering.
    pub fn new(config: &'a DecoderConfig, weights: &'a DecoderWeights) -> Self {
        Self { config, weights, dropout: None }
    }

    /// `x` and the output of a sub-layer, of which there are two a layer.
    fn add(&self, x: &Tensor, output: &Tensor, sub_layer: usize) -> Result<Tensor> {
        let Some((rate, seed)) = self.dropout else { return Ok((x + output)?) };
        // Odd multiplier (the golden ratio in 64 bits): seeds of steps and sub-layers never meet in the same number.
        let seed = seed.wrapping_add((sub_layer as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        ops::add_dropout(x, output, rate, seed)
    }

    /// States of tokens that begin at position 0; what follows a row's end may be anything, no state before sees it.
    ///
    /// # Shapes
    /// `x`: embedded tokens `[B, T, D]` -> `[B, T, D]`, the last norm included
    ///
    /// # Errors
    /// Whatever the device says.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_with(x, |_| ())
    }

    /// The same, and hands over what the attention of every layer reads.
    ///
    /// # Errors
    /// As [`Decoder::forward`].
    pub fn forward_with(&self, x: &Tensor, mut read: impl FnMut(Heads)) -> Result<Tensor> {
        let (rows, tokens, _) = x.dims3()?;
        let (heads, inner) = (self.config.heads, self.config.inner());
        let rotation = Rotation::from_start(self.config, tokens, x.dtype(), x.device())?;
        let args = Attention { causal: true, ..Attention::new(heads, self.config.scale()) };
        let mut x = x.clone();
        for (number, layer) in self.weights.layers.iter().enumerate() {
            let of = self.heads(layer, &x, &rotation)?;
            let flat = |x: &Tensor| spread(x, heads)?.reshape((rows, tokens, inner));
            let key_value = Tensor::cat(&[flat(&of.key)?, flat(&of.value)?], D::Minus1)?; // [B, T, 2 * H * dk]
            let attended = ops::attention(&of.query.reshape((rows, tokens, inner))?, &key_value, None, &args)?;
            x = self.behind_attention(number, &x, &attended)?;
            read(of);
        }
        ops::rms_norm(&x, &self.weights.norm, self.config.eps)
    }

    /// What the attention of a layer reads of its input `[B, T, D]`.
    ///
    /// # Errors
    /// Whatever the device says.
    pub fn heads(&self, layer: &LayerWeights, x: &Tensor, rotation: &Rotation) -> Result<Heads> {
        let (rows, tokens, _) = x.dims3()?;
        let n = ops::rms_norm(x, &layer.norm, self.config.eps)?;
        let of = |projection: &Projection, heads: usize| -> Result<Tensor> {
            Ok(projection.apply(&n)?.reshape((rows, tokens, heads, self.config.head_width))?)
        };
        let (mut query, mut key) = (of(&layer.query, self.config.heads)?, of(&layer.key, self.config.key_heads)?);
        if let Some([query_norm, key_norm]) = &layer.head_norms {
            query = ops::rms_norm(&query, query_norm, self.config.eps)?;
            key = ops::rms_norm(&key, key_norm, self.config.eps)?;
        }
        let value = of(&layer.value, self.config.key_heads)?;
        Ok(Heads { query: rotation.turn(&query)?, key: rotation.turn(&key)?, value })
    }

    /// The output of layer `number`: its input `x`, what was attended `[B, T, H * dk]`, and the feed-forward.
    ///
    /// # Errors
    /// Whatever the device says.
    pub fn behind_attention(&self, number: usize, x: &Tensor, attended: &Tensor) -> Result<Tensor> {
        let layer = &self.weights.layers[number];
        let x = self.add(x, &layer.output.apply(attended)?, 2 * number)?;
        let n = ops::rms_norm(&x, &layer.ff_norm, self.config.eps)?;
        let inside = (ops::silu(&ops::linear(&n, &layer.gate)?)? * ops::linear(&n, &layer.up)?)?; // [B, T, F]
        self.add(&x, &ops::linear(&inside, &layer.down)?, 2 * number + 1)
    }
}

impl Projection {
    /// `[.., I]` -> `[.., O]`
    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        match &self.bias {
            Some(bias) => ops::linear_bias(x, &self.weight, bias),
            None => ops::linear(x, &self.weight),
        }
    }
}

/// Keys or values of the few heads for every head of queries: `[B, T, Hk, dk]` -> `[B, T, H, dk]`.
///
/// # Errors
/// Whatever the device says.
pub fn spread(x: &Tensor, heads: usize) -> candle_core::Result<Tensor> {
    let (batch, tokens, few, width) = x.dims4()?;
    if few == heads {
        return Ok(x.clone());
    }
    let spread = x.unsqueeze(3)?.broadcast_as((batch, tokens, few, heads / few, width))?;
    spread.contiguous()?.reshape((batch, tokens, heads, width))
}
