//! The fused attention of the CPU: one task takes some (head, batch row) pairs through scores, softmax and values, so
//! that no tensor of scores, heads or transposes is made. Small pairs (a beam's cached positions, a decoder's few
//! tokens) run in plain loops, because packing them for a product costs more than the product.

use std::ops::Range;
use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::attention::Attention;
use super::cpu;
use super::dropout::Mask;
use super::product::{Matrix, Target, product_into};
use super::vector;

/// Scores of a pair up to which loops beat products.
const SMALL: usize = 128;
/// Multiplications that make a task worth a thread.
const TASK_WORK: usize = 1 << 17;
/// Most batch rows of one backward task, whose bias gradients are added up before the tasks' are.
const BACKWARD_ROWS: usize = 8;

/// Sizes of one call.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    batch: usize,
    heads: usize,
    queries: usize,
    keys: usize,
    /// dk, width of a head.
    width: usize,
}

impl Sizes {
    fn new(q: &[usize], kv: &[usize], heads: usize) -> Result<Self> {
        match (q, kv) {
            (&[batch, queries, inner], &[_, keys, _]) => Ok(Self { batch, heads, queries, keys, width: inner / heads }),
            _ => candle_core::bail!("attention was given q {q:?} and kv {kv:?}"),
        }
    }

    /// H * dk.
    fn inner(self) -> usize {
        self.heads * self.width
    }

    fn scores(self) -> usize {
        self.queries * self.keys
    }

    fn is_small(self) -> bool {
        self.scores() <= SMALL
    }

    /// Where head `h` of batch row `b` begins in q and in the output.
    fn q_at(self, b: usize, h: usize) -> usize {
        b * self.queries * self.inner() + h * self.width
    }

    /// Where its keys begin in kv; its values begin H * dk later.
    fn k_at(self, b: usize, h: usize) -> usize {
        b * self.keys * 2 * self.inner() + h * self.width
    }

    /// Pairs of one forward task.
    fn pairs_per_task(self) -> usize {
        (TASK_WORK / (self.scores() * self.width).max(1)).max(1)
    }
}

/// The op; the bias is its third input where there is one.
pub(super) struct Fused {
    args: Attention,
    track: bool,
    /// Softmax `[B, H, Tq, Tk]` before dropout, from the forward.
    weights: OnceLock<Vec<f32>>,
}

/// Everything of the forward that a pair reads.
#[derive(Clone, Copy)]
struct Inputs<'a> {
    sizes: Sizes,
    q: &'a [f32],
    kv: &'a [f32],
    bias: Option<&'a [f32]>,
    mask: Option<&'a [f32]>,
    scale: f32,
    causal: bool,
    dropout: Option<(f32, u64)>,
}

impl Fused {
    /// Applies attention to checked f32 tensors on the CPU.
    pub(super) fn apply(q: &Tensor, kv: &Tensor, bias: Option<&Tensor>, args: &Attention) -> Result<Tensor> {
        let (q, kv) = (q.contiguous()?, kv.contiguous()?);
        let mut args = args.clone();
        args.key_mask = args.key_mask.map(|mask| mask.detach().contiguous()).transpose()?;
        args.dropout = args.dropout.filter(|(p, _)| *p > 0.0);
        let track = q.track_op() || kv.track_op() || bias.is_some_and(Tensor::track_op);
        let op = Self { args, track, weights: OnceLock::new() };
        match bias {
            Some(bias) => q.apply_op3(&kv, &bias.contiguous()?, op),
            None => q.apply_op2(&kv, op),
        }
    }

    fn forward(&self, sizes: Sizes, q: &[f32], kv: &[f32], bias: Option<&[f32]>) -> Result<CpuStorage> {
        let mask = self.args.key_mask.as_ref().map(Tensor::storage_and_layout);
        let mask = mask.as_ref().map(|(storage, layout)| cpu::values(storage, layout)).transpose()?;
        let Attention { scale, causal, dropout, .. } = self.args;
        let inputs = Inputs { sizes, q, kv, bias, mask, scale, causal, dropout };
        let pairs = sizes.batch * sizes.heads;
        let mut out = cpu::unfilled(pairs * sizes.queries * sizes.width);
        if sizes.keys == 0 {
            out.fill(0.0);
        }
        if out.is_empty() || sizes.keys == 0 {
            self.weights.get_or_init(Vec::new);
            return Ok(CpuStorage::F32(out));
        }
        let target = Target::new(&mut out, sizes.inner());
        let scores = sizes.scores();
        let per_task = sizes.pairs_per_task();
        let task = |first: usize, weights: &mut [f32], dropped: &mut Vec<f32>| {
            for (i, weights) in weights.chunks_exact_mut(scores).enumerate() {
                // SAFETY: each pair has its own columns and rows of `out`.
                unsafe { inputs.pair(first + i, target, weights, dropped) };
            }
        };
        if self.track {
            let mut weights = cpu::unfilled(pairs * scores);
            let tasks = weights.par_chunks_mut(per_task * scores).enumerate();
            tasks.for_each_init(Vec::new, |dropped, (i, weights)| task(i * per_task, weights, dropped));
            self.weights.get_or_init(|| weights);
        } else {
            let run = |i: usize| {
                let mut weights = cpu::unfilled(scores);
                for pair in i * per_task..pairs.min((i + 1) * per_task) {
                    task(pair, &mut weights, &mut Vec::new());
                }
            };
            match pairs.div_ceil(per_task) {
                1 => run(0),
                tasks => (0..tasks).into_par_iter().for_each(run),
            }
        }
        Ok(CpuStorage::F32(out))
    }

    /// Gradients of q, kv and, where it is tracked, bias.
    fn backward(&self, q: &Tensor, kv: &Tensor, bias: Option<&Tensor>, g: &Tensor) -> Result<[Option<Tensor>; 3]> {
        let Some(weights) = self.weights.get() else {
            candle_core::bail!("attention was asked for a gradient that its forward did not expect")
        };
        let sizes = Sizes::new(q.dims(), kv.dims(), self.args.heads)?;
        if weights.is_empty() {
            return Ok([None, None, None]);
        }
        let g = g.contiguous()?;
        let (q_storage, q_layout) = q.storage_and_layout();
        let (kv_storage, kv_layout) = kv.storage_and_layout();
        let (g_storage, g_layout) = g.storage_and_layout();
        let Attention { scale, causal, dropout, .. } = self.args;
        let inputs = Inputs {
            sizes,
            q: cpu::values(&q_storage, q_layout)?,
            kv: cpu::values(&kv_storage, kv_layout)?,
            bias: None,
            mask: None,
            scale,
            causal,
            dropout,
        };
        let g = cpu::values(&g_storage, g_layout)?;
        let mut dq = cpu::unfilled(inputs.q.len());
        let mut dkv = cpu::unfilled(inputs.kv.len());
        let (dq_target, dkv_target) = (Target::new(&mut dq, sizes.inner()), Target::new(&mut dkv, 2 * sizes.inner()));
        let scores = sizes.scores();
        let wants_bias = bias.is_some_and(Tensor::track_op);
        let row_tasks = sizes.batch.div_ceil(BACKWARD_ROWS);
        let run = |(head, rows): (usize, Range<usize>)| {
            let mut db = vec![0.0; if wants_bias { scores } else { 0 }];
            let (mut ds, mut dropped) = (cpu::unfilled(scores), Vec::new());
            for b in rows {
                let pair = b * sizes.heads + head;
                let weights = &weights[pair * scores..(pair + 1) * scores];
                // SAFETY: each pair has its own columns and rows of dq and dkv.
                unsafe { inputs.pair_backward(pair, weights, g, &mut ds, &mut dropped, dq_target, dkv_target) };
                if wants_bias {
                    cpu::add(&mut db, &ds);
                }
            }
            db
        };
        let tasks: Vec<(usize, Range<usize>)> = (0..sizes.heads)
            .flat_map(|h| (0..row_tasks).map(move |t| (h, t * BACKWARD_ROWS..sizes.batch.min((t + 1) * BACKWARD_ROWS))))
            .collect();
        let mut parts = tasks.into_par_iter().map(run).collect::<Vec<_>>().into_iter();
        let db = match bias.filter(|_| wants_bias) {
            None => None,
            Some(bias) => {
                let mut db = Vec::with_capacity(sizes.heads * scores);
                for _ in 0..sizes.heads {
                    db.extend(cpu::sum_parts(parts.by_ref().take(row_tasks).collect(), scores));
                }
                Some(cpu::tensor(db, bias.shape())?)
            }
        };
        Ok([Some(cpu::tensor(dq, q.shape())?), Some(cpu::tensor(dkv, kv.shape())?), db])
    }
}

impl Inputs<'_> {
    /// Softmax and output of one (batch row, head) pair.
    ///
    /// # Safety
    /// Nobody else writes this pair's rows and columns of `out`.
    unsafe fn pair(&self, pair: usize, out: Target, weights: &mut [f32], dropped: &mut Vec<f32>) {
        let sizes = self.sizes;
        let (b, h) = (pair / sizes.heads, pair % sizes.heads);
        let (inner, width) = (sizes.inner(), sizes.width);
        let (q, k) = (&self.q[sizes.q_at(b, h)..], &self.kv[sizes.k_at(b, h)..]);
        let v = &k[inner..];
        // SAFETY: the pair's place in `out`, the caller's promise.
        let out = unsafe { out.at(sizes.q_at(b, h)) };
        if sizes.is_small() {
            small_scores(weights, q, k, sizes, self.scale);
        } else {
            let (q, k) = (Matrix::strided(q, inner, 1), Matrix::strided(k, 2 * inner, 1).t());
            let target = Target::new(weights, sizes.keys);
            // SAFETY: `weights` is this pair's own.
            unsafe { product_into([sizes.queries, sizes.keys, width], target, q, k, self.scale) };
        }
        let bias = self.bias.map(|bias| &bias[h * sizes.scores()..(h + 1) * sizes.scores()]);
        let mask = self.mask.map(|mask| &mask[b * sizes.keys..(b + 1) * sizes.keys]);
        softmax_rows(weights, sizes, bias, mask, self.causal);
        let used = self.dropped(pair, weights, dropped);
        if sizes.is_small() {
            // SAFETY: the pair's own rows.
            unsafe { small_mix(out, used, v, sizes) };
        } else {
            let (used, v) = (Matrix::rows(used, sizes.keys), Matrix::strided(v, 2 * inner, 1));
            // SAFETY: the pair's own rows.
            unsafe { product_into([sizes.queries, width, sizes.keys], out, used, v, 1.0) };
        }
    }

    /// The weights after dropout.
    fn dropped<'a>(&self, pair: usize, weights: &'a [f32], dropped: &'a mut Vec<f32>) -> &'a [f32] {
        if self.dropout.is_none() {
            return weights;
        }
        dropped.clear();
        dropped.extend_from_slice(weights);
        self.drop_in_place(pair, dropped);
        dropped
    }

    fn drop_in_place(&self, pair: usize, values: &mut [f32]) {
        let Some((p, seed)) = self.dropout else { return };
        let offset = pair as u64 * self.sizes.scores() as u64;
        let (first, last) = (Mask::new(p, seed, offset >> 32), offset as u32);
        // Where the pair crosses a block of 2^32 elements, its second part has the next mask.
        let split = values.len().min((1u64 << 32).saturating_sub(u64::from(last)) as usize);
        let (now, later) = values.split_at_mut(split);
        drop_slice(now, first, last);
        drop_slice(later, Mask::new(p, seed, (offset >> 32) + 1), 0);
    }

    /// Gradients of one pair; `ds` becomes the gradient of its scores before scaling.
    ///
    /// # Safety
    /// Nobody else writes this pair's rows and columns of `dq` and `dkv`.
    #[allow(clippy::too_many_arguments)]
    unsafe fn pair_backward(
        &self,
        pair: usize,
        weights: &[f32],
        g: &[f32],
        ds: &mut [f32],
        dropped: &mut Vec<f32>,
        dq: Target,
        dkv: Target,
    ) {
        let sizes = self.sizes;
        let (b, h) = (pair / sizes.heads, pair % sizes.heads);
        let (inner, width) = (sizes.inner(), sizes.width);
        let (q_at, k_at) = (sizes.q_at(b, h), sizes.k_at(b, h));
        let (q, k, g) = (&self.q[q_at..], &self.kv[k_at..], &g[q_at..]);
        let v = &k[inner..];
        // SAFETY: the pair's places, the caller's promise.
        let (dq, dk, dv) = unsafe { (dq.at(q_at), dkv.at(k_at), dkv.at(k_at + inner)) };
        let [tq, tk] = [sizes.queries, sizes.keys];
        let q_rows = |x| Matrix::strided(x, inner, 1);
        let k_rows = |x| Matrix::strided(x, 2 * inner, 1);
        if sizes.is_small() {
            small_scores(ds, g, v, sizes, 1.0);
        } else {
            // SAFETY: `ds` is this task's own.
            unsafe { product_into([tq, tk, width], Target::new(ds, tk), q_rows(g), k_rows(v).t(), 1.0) };
        }
        self.drop_in_place(pair, ds);
        let used = self.dropped(pair, weights, dropped);
        softmax_backward(ds, weights, tk);
        // SAFETY: the pair's own rows of dq, dk and dv.
        unsafe {
            if sizes.is_small() {
                small_backward(dq, dk, dv, [q, k, g], ds, used, sizes, self.scale);
            } else {
                product_into([tk, width, tq], dv, Matrix::rows(used, tk).t(), q_rows(g), 1.0);
                product_into([tq, width, tk], dq, Matrix::rows(ds, tk), k_rows(k), self.scale);
                product_into([tk, width, tq], dk, Matrix::rows(ds, tk).t(), q_rows(q), self.scale);
            }
        }
    }
}

cpu::vectorised! {
    fn softmax_rows(weights: &mut [f32], sizes: Sizes, bias: Option<&[f32]>, mask: Option<&[f32]>, causal: bool) {
        let keys = sizes.keys;
        for (i, row) in weights.chunks_exact_mut(keys).enumerate() {
            if let Some(bias) = bias {
                for (s, b) in row.iter_mut().zip(&bias[i * keys..]) {
                    *s += b;
                }
            }
            if let Some(mask) = mask {
                for (s, m) in row.iter_mut().zip(mask) {
                    *s += m;
                }
            }
            // Query i sees the keys up to i + Tk - Tq.
            let visible = if causal { (i + 1 + keys).saturating_sub(sizes.queries).min(keys) } else { keys };
            let (seen, hidden) = row.split_at_mut(visible);
            vector::softmax(seen);
            hidden.fill(0.0);
        }
    }
}

cpu::vectorised! {
    /// `ds = p * (dp - sum(dp * p))` in each row, in place of dp.
    fn softmax_backward(ds: &mut [f32], weights: &[f32], keys: usize) {
        for (ds, p) in ds.chunks_exact_mut(keys).zip(weights.chunks_exact(keys)) {
            let pull = vector::dot(ds, p);
            for (ds, p) in ds.iter_mut().zip(p) {
                *ds = (*ds - pull) * p;
            }
        }
    }
}

cpu::vectorised! {
    fn drop_slice(values: &mut [f32], mask: Mask, first: u32) {
        for (i, v) in values.iter_mut().enumerate() {
            *v = if mask.keeps(first.wrapping_add(i as u32)) { *v * mask.scale } else { 0.0 };
        }
    }
}

cpu::vectorised! {
    /// `scale * q * k^T` in loops: q rows H*dk apart, k rows 2*H*dk apart.
    fn small_scores(scores: &mut [f32], q: &[f32], k: &[f32], sizes: Sizes, scale: f32) {
        let (inner, width) = (sizes.inner(), sizes.width);
        for (i, row) in scores.chunks_exact_mut(sizes.keys).enumerate() {
            let q = &q[i * inner..][..width];
            for (j, s) in row.iter_mut().enumerate() {
                *s = vector::dot(q, &k[j * 2 * inner..][..width]) * scale;
            }
        }
    }
}

/// `weights * v` in loops.
///
/// # Safety
/// Nobody else uses the rows of `out`.
unsafe fn small_mix(out: Target, weights: &[f32], v: &[f32], sizes: Sizes) {
    cpu::vectorised! {
        fn mix(out: &mut [f32], weights: &[f32], v: &[f32], stride: usize) {
            out.fill(0.0);
            for (j, w) in weights.iter().enumerate() {
                vector::add_scaled(out, *w, &v[j * stride..]);
            }
        }
    }
    for (i, weights) in weights.chunks_exact(sizes.keys).enumerate() {
        // SAFETY: the caller's promise; one row at a time.
        let row = unsafe { out.row_mut(i, sizes.width) };
        mix(row, weights, v, 2 * sizes.inner());
    }
}

/// dq, dk and dv in loops.
///
/// # Safety
/// Nobody else uses the rows of dq, dk and dv.
#[allow(clippy::too_many_arguments)]
unsafe fn small_backward(
    dq: Target,
    dk: Target,
    dv: Target,
    [q, k, g]: [&[f32]; 3],
    ds: &[f32],
    weights: &[f32],
    sizes: Sizes,
    scale: f32,
) {
    cpu::vectorised! {
        /// `out = sum_i factors[i * step] * scale * x_i`.
        fn mix(out: &mut [f32], factors: &[f32], step: usize, x: &[f32], stride: usize, scale: f32) {
            out.fill(0.0);
            for (i, factor) in factors.iter().step_by(step).enumerate() {
                vector::add_scaled(out, factor * scale, &x[i * stride..]);
            }
        }
    }
    let (inner, width, keys) = (sizes.inner(), sizes.width, sizes.keys);
    for (i, ds) in ds.chunks_exact(keys).enumerate() {
        // SAFETY: the caller's promise; one row at a time.
        mix(unsafe { dq.row_mut(i, width) }, ds, 1, k, 2 * inner, scale);
    }
    for j in 0..keys {
        // SAFETY: as above.
        mix(unsafe { dk.row_mut(j, width) }, &ds[j..], keys, q, inner, scale);
        // SAFETY: as above.
        mix(unsafe { dv.row_mut(j, width) }, &weights[j..], keys, g, inner, 1.0);
    }
}

impl CustomOp2 for Fused {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        kv: &CpuStorage,
        kv_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let sizes = Sizes::new(q_layout.dims(), kv_layout.dims(), self.args.heads)?;
        let out = self.forward(sizes, cpu::slice(q, q_layout)?, cpu::slice(kv, kv_layout)?, None)?;
        Ok((out, q_layout.shape().clone()))
    }

    fn bwd(&self, q: &Tensor, kv: &Tensor, _out: &Tensor, g: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [dq, dkv, _] = self.backward(q, kv, None, g)?;
        Ok((dq, dkv))
    }
}

impl CustomOp3 for Fused {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        kv: &CpuStorage,
        kv_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let sizes = Sizes::new(q_layout.dims(), kv_layout.dims(), self.args.heads)?;
        let bias = cpu::slice(bias, bias_layout)?;
        let out = self.forward(sizes, cpu::slice(q, q_layout)?, cpu::slice(kv, kv_layout)?, Some(bias))?;
        Ok((out, q_layout.shape().clone()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        kv: &Tensor,
        bias: &Tensor,
        _out: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [dq, dkv, db] = self.backward(q, kv, Some(bias), g)?;
        Ok((dq, dkv, db))
    }
}
