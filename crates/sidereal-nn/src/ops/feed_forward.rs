//! The feed-forward block of a transformer as one op: its widest activations never become nodes of the graph.

use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp3, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::dropout::Mask;
use super::product::{Matrix, Target, blocks, product, product_into, transposed};
use super::rounded_product::{Side, rounded_product};
use super::{check, composed, cpu, in_precision};
use crate::error::Result;
use crate::kernels::Precision;

/// `dropout(relu(x * up)) * down`.
///
/// # Shapes
/// x `[.., D]`, up `[D, F]`, down `[F, D]` -> `[.., D]`
///
/// # Errors
/// Shapes that do not fit; a probability outside `[0, 1)`.
pub fn feed_forward_relu(x: &Tensor, up: &Tensor, down: &Tensor, dropout: Option<(f32, u64)>) -> Result<Tensor> {
    const OP: &str = "feed_forward_relu";
    let width = check::last_dim(OP, "x", x)?;
    let (_, hidden) = check::matrix(OP, "up", up)?;
    check::shape(OP, "up", up, &[width, hidden])?;
    let (_, outputs) = check::matrix(OP, "down", down)?;
    check::shape(OP, "down", down, &[hidden, outputs])?;
    if let Some((p, _)) = dropout {
        check::drop_probability(OP, p)?;
    }
    let dropout = dropout.filter(|(p, _)| *p > 0.0);
    if x.elem_count() == 0 || hidden == 0 || outputs == 0 || !cpu::is_fused(&[x, up, down]) {
        return composed::feed_forward_relu(x, up, down, dropout);
    }
    let track = x.track_op() || up.track_op() || down.track_op();
    let op = FeedForward { dropout, track, precision: in_precision::current(), hidden: OnceLock::new() };
    Ok(x.contiguous()?.apply_op3(&up.contiguous()?, &down.contiguous()?, op)?)
}

struct FeedForward {
    dropout: Option<(f32, u64)>,
    track: bool,
    precision: Precision,
    /// `dropout(relu(x * up))` `[N, F]`, from the forward. It is positive exactly where the gradient passes.
    hidden: OnceLock<Vec<f32>>,
}

cpu::vectorised! {
    fn relu_in_place(hidden: &mut [f32]) {
        for v in hidden {
            *v = if *v < 0.0 { 0.0 } else { *v };
        }
    }
}

cpu::vectorised! {
    fn relu_dropout_in_place(hidden: &mut [f32], mask: Mask, first: u32) {
        for (i, v) in hidden.iter_mut().enumerate() {
            let active = if *v < 0.0 { 0.0 } else { *v };
            *v = if mask.keeps(first.wrapping_add(i as u32)) { active * mask.scale } else { 0.0 };
        }
    }
}

cpu::vectorised! {
    fn gate(gradient: &mut [f32], hidden: &[f32], scale: f32) {
        for (g, h) in gradient.iter_mut().zip(hidden) {
            *g = if *h > 0.0 { *g * scale } else { 0.0 };
        }
    }
}

impl FeedForward {
    fn activate(&self, hidden: &mut [f32], offset: usize) {
        let Some((p, seed)) = self.dropout else { return relu_in_place(hidden) };
        // In pieces that do not span two blocks of 2^32 elements.
        let mut start = offset;
        let mut rest = hidden;
        while !rest.is_empty() {
            let piece = rest.len().min(cpu::CHUNK - start % cpu::CHUNK);
            let (now, later) = rest.split_at_mut(piece);
            relu_dropout_in_place(now, Mask::new(p, seed, start as u64 >> 32), start as u32);
            start += piece;
            rest = later;
        }
    }

    /// Rows of one task: a function of the sizes alone.
    fn block_rows(rows: usize, width: usize, hidden: usize) -> usize {
        rows.div_ceil(blocks(rows, rows * width * hidden)).next_multiple_of(16)
    }
}

impl CustomOp3 for FeedForward {
    fn name(&self) -> &'static str {
        "feed_forward_relu"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        up: &CpuStorage,
        up_layout: &Layout,
        down: &CpuStorage,
        down_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (width, hidden) = up_layout.shape().dims2()?;
        let outputs = down_layout.shape().dims2()?.1;
        let (x, up, down) = (cpu::slice(x, x_layout)?, cpu::slice(up, up_layout)?, cpu::slice(down, down_layout)?);
        let rows = x.len() / width;
        let mut dims = x_layout.dims().to_vec();
        if let Some(last) = dims.last_mut() {
            *last = outputs;
        }
        if self.precision != Precision::F32 {
            let mut h = rounded_product([rows, hidden, width], Side::Rows(x), Side::Rows(up));
            cpu::fill_chunks(&mut h, cpu::CHUNK, |start, h| self.activate(h, start));
            let y = rounded_product([rows, outputs, hidden], Side::Rows(&h), Side::Rows(down));
            if self.track {
                self.hidden.get_or_init(|| h);
            }
            return Ok((CpuStorage::F32(y), dims.into()));
        }
        let block = Self::block_rows(rows, width, hidden);
        let mut y = cpu::unfilled(rows * outputs);
        // A block's hidden rows are used while they are still in the cache.
        let one = |i: usize, y: &mut [f32], h: &mut [f32]| {
            let count = y.len() / outputs;
            let x = Matrix::rows(&x[i * block * width..], width);
            // SAFETY: h holds [count, F] and y [count, O]; both belong to this task.
            unsafe {
                product_into([count, hidden, width], Target::new(h, hidden), x, Matrix::rows(up, hidden), 1.0);
                self.activate(h, i * block * hidden);
                let h = Matrix::rows(h, hidden);
                product_into([count, outputs, hidden], Target::new(y, outputs), h, Matrix::rows(down, outputs), 1.0);
            }
        };
        let y_blocks = y.par_chunks_mut(block * outputs).enumerate();
        if self.track {
            let mut h = cpu::unfilled(rows * hidden);
            y_blocks.zip(h.par_chunks_mut(block * hidden)).for_each(|((i, y), h)| one(i, y, h));
            self.hidden.get_or_init(|| h);
        } else if rows <= block {
            one(0, &mut y, &mut cpu::unfilled(rows * hidden));
        } else {
            y_blocks.for_each(|(i, y)| one(i, y, &mut cpu::unfilled(y.len() / outputs * hidden)));
        }
        Ok((CpuStorage::F32(y), dims.into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        up: &Tensor,
        down: &Tensor,
        _y: &Tensor,
        g: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let Some(h) = self.hidden.get() else {
            candle_core::bail!("feed_forward_relu was asked for a gradient that its forward did not expect")
        };
        let (width, hidden) = up.dims2()?;
        let outputs = down.dims2()?.1;
        let g = g.contiguous()?;
        let (g_storage, g_layout) = g.storage_and_layout();
        let (x_storage, x_layout) = x.storage_and_layout();
        let (u_storage, u_layout) = up.storage_and_layout();
        let (d_storage, d_layout) = down.storage_and_layout();
        let (g, xs) = (cpu::values(&g_storage, g_layout)?, cpu::values(&x_storage, x_layout)?);
        let (us, ds) = (cpu::values(&u_storage, u_layout)?, cpu::values(&d_storage, d_layout)?);
        let rows = xs.len() / width;
        let scale = self.dropout.map_or(1.0, |(p, _)| 1.0 / (1.0 - p));
        if self.precision != Precision::F32 {
            let mut dh = rounded_product([rows, hidden, outputs], Side::Rows(g), Side::Columns(ds));
            cpu::fill_chunks(&mut dh, cpu::CHUNK, |start, dh| gate(dh, &h[start..], scale));
            let dx = rounded_product([rows, width, hidden], Side::Rows(&dh), Side::Columns(us));
            let du = rounded_product([width, hidden, rows], Side::Columns(xs), Side::Rows(&dh));
            let dd = rounded_product([hidden, outputs, rows], Side::Columns(h), Side::Rows(g));
            let [dx, du, dd] = [(dx, x), (du, up), (dd, down)].map(|(d, of)| cpu::tensor(d, of.shape()));
            return Ok((Some(dx?), Some(du?), Some(dd?)));
        }
        let block = Self::block_rows(rows, width, hidden);
        // Laid out once, or every block would pack them for itself.
        let down_t = transposed(Matrix::rows(ds, outputs).t(), outputs, hidden); // [O, F]
        let up_t = transposed(Matrix::rows(us, hidden).t(), hidden, width); // [F, D]
        let mut dh = cpu::unfilled(rows * hidden);
        let mut dx = cpu::unfilled(rows * width);
        let tasks = dh.par_chunks_mut(block * hidden).zip(dx.par_chunks_mut(block * width)).enumerate();
        tasks.for_each(|(i, (dh, dx))| {
            let count = dx.len() / width;
            let g = Matrix::rows(&g[i * block * outputs..], outputs);
            // SAFETY: dh holds [count, F] and dx [count, D]; both belong to this task.
            unsafe {
                let down = Matrix::rows(&down_t, hidden);
                product_into([count, hidden, outputs], Target::new(dh, hidden), g, down, 1.0);
                gate(dh, &h[i * block * hidden..], scale);
                let (dh, up) = (Matrix::rows(dh, hidden), Matrix::rows(&up_t, width));
                product_into([count, width, hidden], Target::new(dx, width), dh, up, 1.0);
            }
        });
        let du = product([width, hidden, rows], Matrix::rows(xs, width).t(), Matrix::rows(&dh, hidden));
        let dd = product([hidden, outputs, rows], Matrix::rows(h, hidden).t(), Matrix::rows(g, outputs));
        let (du, dd) = (cpu::tensor(du, up.shape())?, cpu::tensor(dd, down.shape())?);
        Ok((Some(cpu::tensor(dx, x.shape())?), Some(du), Some(dd)))
    }
}
