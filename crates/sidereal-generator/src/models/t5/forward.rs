//! T5's forward pass for training and for devices: candle tensors, every step differentiable.

use candle_core::{DType, Tensor};
use sidereal_nn::ops;

use super::config::T5Config;
use super::extensions::Extensions;
use super::position::buckets;
use super::weights::{Attention, FeedForwardBlock, Weights};
use crate::Result;
use crate::batches::Batch;
use crate::dropout::Dropout;

/// Which tokens of padded histories are real.
#[derive(Debug, Clone)]
pub(super) struct Padding {
    /// 0 at tokens, minus infinity at padding; `None` if nothing is padded: `[B, T]`.
    pub(super) key_mask: Option<Tensor>,
}

impl Padding {
    /// From the number of tokens of each of `lengths`, padded at the right to `width`.
    pub(super) fn new(lengths: &[u32], width: usize, like: &Tensor) -> Result<Self> {
        if lengths.iter().all(|&len| len as usize == width) {
            return Ok(Self { key_mask: None });
        }
        let row = |&len: &u32| (0..width).map(move |t| if t < len as usize { 0.0 } else { f32::NEG_INFINITY });
        let mask: Vec<f32> = lengths.iter().flat_map(row).collect();
        let mask = Tensor::from_vec(mask, (lengths.len(), width), like.device())?; // [B, T]
        Ok(Self { key_mask: Some(mask) })
    }
}

/// A forward pass over some weights.
pub(super) struct Forward<'a> {
    pub(super) config: &'a T5Config,
    pub(super) weights: &'a Weights,
    pub(super) extensions: Option<&'a Extensions>,
    /// Item vectors of mean square 1, and a row of zeros behind the last: `[N + 1, width]`.
    pub(super) vectors: Option<&'a Tensor>,
    pub(super) dropout: &'a Dropout,
}

impl Forward<'_> {
    /// Encoder states of padded histories.
    ///
    /// # Shapes
    /// result: `[B, T, D]`
    pub(super) fn encode(&self, batch: &Batch, padding: &Padding) -> Result<Tensor> {
        let t = batch.width;
        let bias = self.bias(&self.weights.encoder_bias, 0, t, t, true)?;
        let mut x = self.dropout.apply(&self.embed_histories(batch)?.to_dtype(DType::F32)?)?; // [B, T, D]
        for block in &self.weights.encoder {
            let n = self.norm(&x, &block.norm)?;
            let attended = self.attend(&n, &n, &block.attention, Some(&bias), padding.key_mask.as_ref(), false)?;
            x = self.add(&x, &attended)?;
            x = self.feed_forward(&x, &block.ff)?;
        }
        self.dropout.apply(&self.norm(&x, &self.weights.encoder_norm)?)
    }

    /// What the heads see at every decoder position, all targets' tokens being given.
    ///
    /// # Shapes
    /// `prefixes`: `[B, L]`; `states`: `[B, T, D]`; result: `[B, L, D]`
    pub(super) fn decode(&self, prefixes: &[u32], l: usize, states: &Tensor, padding: &Padding) -> Result<Tensor> {
        let bias = self.bias(&self.weights.decoder_bias, 0, l, l, false)?;
        let embedded = self.embed_prefixes(&self.ids(prefixes, states.dim(0)?, l)?)?;
        let mut x = self.dropout.apply(&embedded.to_dtype(DType::F32)?)?; // [B, L, D]
        for block in &self.weights.decoder {
            let n = self.norm(&x, &block.norm)?;
            let attended = self.attend(&n, &n, &block.attention, Some(&bias), None, true)?;
            x = self.add(&x, &attended)?;
            let n = self.norm(&x, &block.cross_norm)?;
            let attended = self.attend(&n, states, &block.cross, None, padding.key_mask.as_ref(), false)?;
            x = self.add(&x, &attended)?;
            x = self.feed_forward(&x, &block.ff)?;
        }
        self.dropout.apply(&self.norm(&x, &self.weights.decoder_norm)?)
    }

    /// The head over the whole vocabulary.
    ///
    /// # Shapes
    /// `x`: `[R, D]`; result: `[R, V]`
    pub(super) fn logits(&self, x: &Tensor) -> Result<Tensor> {
        let scale = self.config.output_scale();
        let x = if scale == 1.0 { x.clone() } else { (x * scale)? };
        match &self.weights.head {
            Some(head) => Ok(ops::linear(&x, head)?),
            None => Ok(ops::tied_head(&x, &self.weights.embedding)?),
        }
    }

    /// The level's own head, where there are such heads.
    ///
    /// # Shapes
    /// `x`: `[R, D]`; result: `[R, K]`
    pub(super) fn level_logits(&self, x: &Tensor, level: usize) -> Result<Option<Tensor>> {
        let Some(head) = self.weights.added.level_heads.get(level) else { return Ok(None) };
        Ok(Some(ops::linear(&(x * self.config.output_scale())?, head)?))
    }

    /// The norm of what the blocks add up, which is f32, in the type of the weights: what the products multiply.
    pub(super) fn norm(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        let n = ops::rms_norm(x, &weight.to_dtype(x.dtype())?, self.config.layer_norm_epsilon)?;
        Ok(n.to_dtype(weight.dtype())?)
    }

    /// `x + dropout(out)`, in the type of `x`.
    pub(super) fn add(&self, x: &Tensor, out: &Tensor) -> Result<Tensor> {
        self.dropout.add(x, &out.to_dtype(x.dtype())?)
    }

    /// `x + dropout(ff(norm(x)))`
    pub(super) fn feed_forward(&self, x: &Tensor, ff: &FeedForwardBlock) -> Result<Tensor> {
        let n = self.norm(x, &ff.norm)?;
        let out = match &ff.gate {
            None => ops::feed_forward_relu(&n, &ff.up, &ff.down, self.dropout.of_op())?,
            Some(gate) => {
                let inside = (ops::gelu_tanh(&ops::linear(&n, &ff.up)?)? * ops::linear(&n, gate)?)?; // [.., F]
                ops::linear(&self.dropout.apply(&inside)?, &ff.down)?
            }
        };
        self.add(x, &out)
    }

    fn attend(
        &self,
        x: &Tensor,
        source: &Tensor,
        attention: &Attention,
        bias: Option<&Tensor>,
        key_mask: Option<&Tensor>,
        causal: bool,
    ) -> Result<Tensor> {
        let q = ops::linear(x, &attention.q)?; // [B, Tq, H * dk]
        let kv = ops::linear(source, &attention.kv)?; // [B, Tk, 2 * H * dk]
        let args = self.attention_args(key_mask, causal);
        ops::linear(&ops::attention(&q, &kv, bias, &args)?, &attention.o)
    }

    /// T5 does not divide scores by sqrt(dk).
    pub(super) fn attention_args(&self, key_mask: Option<&Tensor>, causal: bool) -> ops::Attention {
        ops::Attention {
            heads: self.config.num_heads,
            scale: 1.0,
            key_mask: key_mask.cloned(),
            dropout: self.dropout.of_op(),
            causal,
        }
    }

    /// The additive bias of queries at `first` and after: `[H, Tq, Tk]`.
    pub(super) fn bias(
        &self,
        table: &Tensor,
        first: usize,
        queries: usize,
        keys: usize,
        bidirectional: bool,
    ) -> Result<Tensor> {
        let of_pair = buckets(self.config, first, queries, keys, bidirectional);
        let of_pair = Tensor::from_vec(of_pair, (queries, keys), table.device())?;
        Ok(ops::embedding(&of_pair, table)?.permute((2, 0, 1))?.contiguous()?)
    }
}
