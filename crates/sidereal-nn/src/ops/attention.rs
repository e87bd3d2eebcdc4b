//! Scaled dot-product attention with an additive, differentiable bias (Vaswani et al., arXiv:1706.03762; the relative
//! position bias of Raffel et al., arXiv:1910.10683).

use candle_core::{DType, Tensor};

use super::attention_cpu::Fused;
use super::{check, composed, cpu};
use crate::error::Result;

/// How to attend.
#[derive(Debug, Clone)]
pub struct Attention {
    /// H.
    pub heads: usize,
    /// Multiplies `q * k^T`: 1 in T5, `1 / sqrt(dk)` elsewhere.
    pub scale: f32,
    /// `[B, Tk]` f32, added to every query's scores: 0 or `-inf` (padding).
    pub key_mask: Option<Tensor>,
    /// Probability and seed of dropout on the softmax.
    pub dropout: Option<(f32, u64)>,
    /// Query i sees the keys up to `i + Tk - Tq`: the last query sees all of them.
    pub causal: bool,
}

impl Attention {
    /// Plain attention: no mask, no dropout, not causal.
    pub fn new(heads: usize, scale: f32) -> Self {
        Self { heads, scale, key_mask: None, dropout: None, causal: false }
    }
}

/// `softmax(q * k^T * scale + bias + masks) * v` for every head. A query whose keys are all masked gives zeros.
///
/// Differentiable in q, kv and bias; the key mask has no gradient. The W beams of a request share its keys when they are
/// given as the Tq = W queries of one batch row.
///
/// # Shapes
/// q `[B, Tq, H*dk]`, kv `[B, Tk, 2*H*dk]` (keys, then values), bias `[H, Tq, Tk]` -> `[B, Tq, H*dk]`
///
/// # Errors
/// Shapes that do not fit; a dropout probability outside `[0, 1)`.
pub fn attention(q: &Tensor, kv: &Tensor, bias: Option<&Tensor>, args: &Attention) -> Result<Tensor> {
    const OP: &str = "attention";
    let [batch, queries, inner] = *q.dims() else {
        return check::refuse(OP, format!("q has shape {:?}", q.dims()), "give it as [batch, queries, heads * width]");
    };
    if args.heads == 0 || !inner.is_multiple_of(args.heads) {
        let problem = format!("{inner} features cannot be cut into {} heads", args.heads);
        return check::refuse(OP, problem, "choose a number of heads that divides the width");
    }
    let keys = kv.dims().get(1).copied().unwrap_or(0);
    check::shape(OP, "kv", kv, &[batch, keys, 2 * inner])?;
    if let Some(bias) = bias {
        check::shape(OP, "bias", bias, &[args.heads, queries, keys])?;
    }
    if let Some(mask) = &args.key_mask {
        check::shape(OP, "key_mask", mask, &[batch, keys])?;
        if mask.dtype() != DType::F32 {
            return check::refuse(OP, format!("key_mask is {:?}", mask.dtype()), "give it as f32: 0 or -inf");
        }
    }
    if let Some((p, _)) = args.dropout {
        check::drop_probability(OP, p)?;
    }
    let tensors = [Some(q), Some(kv), bias, args.key_mask.as_ref()];
    if cpu::is_fused(&tensors.into_iter().flatten().collect::<Vec<_>>()) {
        return Ok(Fused::apply(q, kv, bias, args)?);
    }
    composed::attention(q, kv, bias, args)
}
