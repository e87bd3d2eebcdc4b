//! Every op composed of plain candle ops: the fallback on devices and in types that have no fused kernel, and the second
//! opinion in the tests. Shapes are those of the op of the same name in [`crate::ops`] and are not checked again.

use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::{D, DType, Tensor};

use crate::error::Result;
use crate::kernels::Precision;
use crate::ops::attention::Attention;
use crate::ops::code_heads::{CodeHeads, UNIT_EPS};
use crate::ops::dropout::keep_mask;
use crate::ops::in_precision;
use crate::ops::item_loss::ItemScores;
use crate::ops::loss::CrossEntropy;
use crate::ops::marked::Marked;

static EVERYWHERE: AtomicBool = AtomicBool::new(false);

/// From now on every op of this process is composed, also where it could be fused: how the path of devices is followed on a
/// machine that has none.
pub fn everywhere() {
    EVERYWHERE.store(true, Ordering::Relaxed);
}

/// Whether [`everywhere`] was said.
pub fn is_everywhere() -> bool {
    EVERYWHERE.load(Ordering::Relaxed)
}

/// See [`crate::ops::linear()`]. Where a pass is to multiply in bf16, f32 is rounded for the product.
///
/// # Errors
/// Shapes that do not fit.
pub fn linear(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    if x.dtype() == DType::F32 && in_precision::current() != Precision::F32 {
        let [x, weight] = [x, weight].map(|side| side.to_dtype(DType::BF16));
        return Ok(plain_linear(&x?, &weight?)?.to_dtype(DType::F32)?);
    }
    plain_linear(x, weight)
}

fn plain_linear(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let mut dims = x.dims().to_vec();
    let rows = x.reshape(((), weight.dim(0)?))?; // [N, I]
    let y = rows.matmul(weight)?; // [N, O]
    if let Some(last) = dims.last_mut() {
        *last = weight.dim(1)?;
    }
    Ok(y.reshape(dims)?)
}

/// See [`crate::ops::linear_bias()`].
///
/// # Errors
/// Shapes that do not fit.
pub fn linear_bias(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    Ok(linear(x, weight)?.broadcast_add(bias)?)
}

/// See [`crate::ops::tied_head()`].
///
/// # Errors
/// Shapes that do not fit.
pub fn tied_head(x: &Tensor, table: &Tensor) -> Result<Tensor> {
    linear(x, &table.t()?)
}

/// See [`crate::ops::rms_norm()`]. Half types are normalised in f32.
///
/// # Errors
/// Shapes that do not fit.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let dtype = x.dtype();
    let wide = if matches!(dtype, DType::F16 | DType::BF16) { x.to_dtype(DType::F32)? } else { x.clone() };
    let root = (wide.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?; // [.., 1]
    Ok(wide.broadcast_div(&root)?.to_dtype(dtype)?.broadcast_mul(weight)?)
}

/// See [`crate::ops::layer_norm()`]. Half types are normalised in f32.
///
/// # Errors
/// Shapes that do not fit.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let dtype = x.dtype();
    let wide = if matches!(dtype, DType::F16 | DType::BF16) { x.to_dtype(DType::F32)? } else { x.clone() };
    let centred = wide.broadcast_sub(&wide.mean_keepdim(D::Minus1)?)?;
    let root = (centred.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?; // [.., 1]
    Ok(centred.broadcast_div(&root)?.to_dtype(dtype)?.broadcast_mul(weight)?.broadcast_add(bias)?)
}

/// See [`crate::ops::gelu_tanh()`]. Half types are computed in f32.
///
/// # Errors
/// A tensor that candle refuses.
pub fn gelu_tanh(x: &Tensor) -> Result<Tensor> {
    if let Some(found) = in_f32(x, gelu_tanh)? {
        return Ok(found);
    }
    let inner = ((x + (x.sqr()?.mul(x)? * 0.044715)?)? * (2.0 / std::f64::consts::PI).sqrt())?;
    Ok(((x * 0.5)? * (inner.tanh()? + 1.0)?)?)
}

/// See [`crate::ops::gelu()`].
///
/// # Errors
/// A tensor that candle refuses.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    Ok(x.gelu_erf()?)
}

/// See [`crate::ops::silu()`]. Half types are computed in f32.
///
/// # Errors
/// A tensor that candle refuses.
pub fn silu(x: &Tensor) -> Result<Tensor> {
    if let Some(found) = in_f32(x, silu)? {
        return Ok(found);
    }
    // x / (1 + exp(-x)); candle's own silu has the same backward.
    Ok((x / (x.neg()?.exp()? + 1.0)?)?)
}

/// What a function gives in f32, in the type of its argument; none where that is no half type.
fn in_f32(x: &Tensor, of: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Option<Tensor>> {
    match x.dtype() {
        half @ (DType::F16 | DType::BF16) => Ok(Some(of(&x.to_dtype(DType::F32)?)?.to_dtype(half)?)),
        _ => Ok(None),
    }
}

/// See [`crate::ops::dropout()`]. The mask is the fused op's, drawn on the host.
///
/// # Errors
/// A device without memory.
pub fn dropout(x: &Tensor, p: f32, seed: u64) -> Result<Tensor> {
    if p == 0.0 {
        return Ok(x.clone());
    }
    let mask = Tensor::from_vec(keep_mask(x.elem_count(), p, seed), x.dims(), x.device())?;
    let mask = (mask.to_dtype(x.dtype())? * (1.0 / (1.0 - f64::from(p))))?;
    Ok((x * mask)?)
}

/// See [`crate::ops::feed_forward_relu()`].
///
/// # Errors
/// Shapes that do not fit.
pub fn feed_forward_relu(x: &Tensor, up: &Tensor, down: &Tensor, drop: Option<(f32, u64)>) -> Result<Tensor> {
    let mut hidden = linear(x, up)?.relu()?; // [.., F]
    if let Some((p, seed)) = drop {
        hidden = dropout(&hidden, p, seed)?;
    }
    linear(&hidden, down)
}

/// See [`crate::ops::embedding()`].
///
/// # Errors
/// An id outside the table.
pub fn embedding(ids: &Tensor, table: &Tensor) -> Result<Tensor> {
    let mut dims = ids.dims().to_vec();
    dims.push(table.dim(1)?);
    Ok(table.index_select(&ids.flatten_all()?, 0)?.reshape(dims)?)
}

/// See [`crate::ops::attention()`]. Half types are multiplied and added up in f32: scores that are not divided by sqrt(dk)
/// are large, and their differences decide.
///
/// # Errors
/// Shapes that do not fit.
pub fn attention(q: &Tensor, kv: &Tensor, bias: Option<&Tensor>, args: &Attention) -> Result<Tensor> {
    let dtype = q.dtype();
    if matches!(dtype, DType::F16 | DType::BF16) {
        let bias = bias.map(|bias| bias.to_dtype(DType::F32)).transpose()?;
        let found = attention(&q.to_dtype(DType::F32)?, &kv.to_dtype(DType::F32)?, bias.as_ref(), args)?;
        return Ok(found.to_dtype(dtype)?);
    }
    let (batch, queries, inner) = q.dims3()?;
    let keys = kv.dim(1)?;
    let (heads, width) = (args.heads, inner / args.heads);
    let split = |x: &Tensor, rows: usize| x.reshape((batch, rows, heads, width))?.transpose(1, 2)?.contiguous();
    let q = split(q, queries)?; // [B, H, Tq, dk]
    let k = split(&kv.narrow(D::Minus1, 0, inner)?.contiguous()?, keys)?; // [B, H, Tk, dk]
    let v = split(&kv.narrow(D::Minus1, inner, inner)?.contiguous()?, keys)?; // [B, H, Tk, dk]
    let mut scores = (q.matmul(&k.t()?.contiguous()?)? * f64::from(args.scale))?; // [B, H, Tq, Tk]
    if let Some(bias) = bias {
        scores = scores.broadcast_add(bias)?;
    }
    if let Some(mask) = &args.key_mask {
        scores = scores.broadcast_add(&mask.to_dtype(q.dtype())?.reshape((batch, 1, 1, keys))?)?;
    }
    if args.causal {
        scores = scores.broadcast_add(&causal_mask(queries, keys, q.dtype(), q.device())?)?;
    }
    // A row whose keys are all masked has a maximum of -inf: lift it, so that its weights become 0 and not NaN.
    let top = scores.max_keepdim(D::Minus1)?.detach();
    let top = top.maximum(&top.ones_like()?.affine(-1e30, 0.0)?)?;
    let weights = scores.broadcast_sub(&top)?.exp()?;
    let sum = weights.sum_keepdim(D::Minus1)?; // at least 1, or 0 where everything is masked
    let sum = (&sum + sum.eq(0.0)?.to_dtype(q.dtype())?)?;
    let mut weights = weights.broadcast_div(&sum)?;
    if let Some((p, seed)) = args.dropout {
        weights = dropout(&weights, p, seed)?;
    }
    Ok(weights.matmul(&v)?.transpose(1, 2)?.contiguous()?.reshape((batch, queries, inner))?) // [B, Tq, H*dk]
}

fn causal_mask(queries: usize, keys: usize, dtype: DType, device: &candle_core::Device) -> Result<Tensor> {
    let hidden = |i: usize| i % keys + queries > i / keys + keys;
    let values: Vec<f32> = (0..queries * keys).map(|i| if hidden(i) { f32::NEG_INFINITY } else { 0.0 }).collect();
    Ok(Tensor::from_vec(values, (queries, keys), device)?.to_dtype(dtype)?)
}

/// See [`crate::ops::cross_entropy()`].
///
/// # Errors
/// Shapes that do not fit; a target outside the vocabulary.
pub fn cross_entropy(logits: &Tensor, targets: &Tensor, args: &CrossEntropy) -> Result<Tensor> {
    let (_, vocab) = logits.dims2()?;
    let keep = match args.ignore {
        Some(ignore) => targets.ne(ignore)?.to_dtype(logits.dtype())?, // [N]
        None => targets.ones_like()?.to_dtype(logits.dtype())?,
    };
    // An ignored target may lie outside the vocabulary: read class 0 there and weigh it with 0.
    let classes = targets.to_dtype(DType::F32)?.mul(&keep.to_dtype(DType::F32)?)?.to_dtype(DType::U32)?;
    let logits = (logits / f64::from(args.temperature))?;
    let shifted = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?.detach())?;
    let log_sum = shifted.exp()?.sum_keepdim(D::Minus1)?.log()?;
    let log_p = shifted.broadcast_sub(&log_sum)?; // [N, V]
    let mut loss = log_p.gather(&classes.unsqueeze(1)?, 1)?.squeeze(1)?.neg()?; // [N]
    if args.label_smoothing > 0.0 {
        let smoothing = f64::from(args.label_smoothing);
        let spread = log_p.sum(D::Minus1)?.affine(-smoothing / vocab as f64, 0.0)?;
        loss = (loss.affine(1.0 - smoothing, 0.0)? + spread)?;
    }
    let kept = keep.sum_all()?;
    let kept = kept.maximum(&kept.ones_like()?)?;
    Ok(loss.mul(&keep)?.sum_all()?.div(&kept)?)
}

/// See [`crate::ops::embedding_bag()`].
///
/// # Errors
/// An id outside the table.
pub fn embedding_bag(ids: &Tensor, table: &Tensor, scale: f32) -> Result<Tensor> {
    Ok((embedding(ids, table)?.sum(1)? * f64::from(scale))?)
}

/// See [`crate::ops::code_heads()`].
///
/// # Errors
/// Shapes that do not fit.
pub fn code_heads(h: &Tensor, heads: &Tensor, table: &Tensor, args: &CodeHeads) -> Result<Tensor> {
    let width = h.dim(1)?;
    let mut first = 0;
    let mut logits = Vec::with_capacity(args.codes.len());
    for (level, &codes) in args.codes.iter().enumerate() {
        let head = heads.narrow(0, level, 1)?.squeeze(0)?; // [D + 1, D]
        let bias = head.narrow(0, width, 1)?.squeeze(0)?;
        let mut x = (h + silu(&linear_bias(h, &head.narrow(0, 0, width)?.contiguous()?, &bias)?)?)?; // [R, D]
        if args.unit {
            x = x.broadcast_div(&(x.sqr()?.sum_keepdim(1)? + f64::from(UNIT_EPS))?.sqrt()?)?;
        }
        logits.push(x.matmul(&table.narrow(0, first, codes)?.t()?.contiguous()?)?); // [R, K]
        first += codes;
    }
    Ok(Tensor::cat(&logits, 1)?) // [R, V]
}

/// See [`crate::ops::add_marked()`].
///
/// # Errors
/// Shapes that do not fit.
pub fn add_marked(x: &Tensor, bonus: &Tensor, marked: &Marked) -> Result<Tensor> {
    let (rows, columns) = x.dims2()?;
    let mut mask = vec![0f32; rows * columns];
    for row in 0..rows {
        marked.row(row).iter().for_each(|&column| mask[row * columns + column as usize] = 1.0);
    }
    let mask = Tensor::from_vec(mask, (rows, columns), x.device())?.to_dtype(x.dtype())?;
    Ok((x + mask.broadcast_mul(bonus)?)?)
}

/// See [`crate::ops::item_cross_entropy()`].
///
/// # Errors
/// Shapes that do not fit; a target that is no item.
pub fn item_cross_entropy(logits: &Tensor, targets: &Tensor, args: &ItemScores<'_>) -> Result<Tensor> {
    let (rows, items) = (logits.dim(0)?, args.items);
    let places = Tensor::from_slice(items.places(), items.places().len(), logits.device())?;
    let looked_up = logits.contiguous()?.index_select(&places, 1)?; // [R, L * C]
    let sums = looked_up.reshape((rows, items.levels(), items.len()))?.sum(1)?; // [R, C]
    let mut scores = (sums * f64::from(args.scale))?;
    if let Some((bonus, marked)) = args.bonus {
        scores = add_marked(&scores, bonus, marked)?;
    }
    cross_entropy(&scores, targets, &CrossEntropy::default())
}
