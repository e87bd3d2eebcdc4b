//! One head a level, all over one vector: a residual block, then products with the codes of that level.
//!
//! The heads of a parallel decoder (Hou et al., arXiv:2506.05781, section 3.2) are many small products over the same
//! rows. One op makes them level by level, so that what lies between the products never leaves the cache, and keeps only
//! what the backward cannot find again cheaply.

use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp3, Layout, Shape, Tensor};

use super::product::{Matrix, Target, product_into};
use super::{check, composed, cpu, vector};
use crate::error::Result;

/// Added to the squared length of a vector before it is divided by its length.
pub(super) const UNIT_EPS: f32 = 1e-12;

/// What the heads are over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodeHeads {
    /// K of each level, `[L]`.
    pub codes: Vec<usize>,
    /// Whether what a head gives is brought to length 1 before the product with the codes.
    pub unit: bool,
}

impl CodeHeads {
    /// V: the codes of all levels.
    pub fn vocab(&self) -> usize {
        self.codes.iter().sum()
    }
}

/// Products of every level's head with the codes of that level: `x_l = h + silu(h * W_l + b_l)`, brought to length 1
/// where that is wanted, times the rows of `table` that are level l's.
///
/// # Shapes
/// h `[R, D]`, heads `[L, D + 1, D]` (W, and b as the last row), table `[V, D]` -> `[R, V]`
///
/// # Errors
/// Shapes that do not fit.
pub fn code_heads(h: &Tensor, heads: &Tensor, table: &Tensor, args: &CodeHeads) -> Result<Tensor> {
    const OP: &str = "code_heads";
    let (_, width) = check::matrix(OP, "h", h)?;
    check::shape(OP, "heads", heads, &[args.codes.len(), width + 1, width])?;
    check::shape(OP, "table", table, &[args.vocab(), width])?;
    if width == 0 || !cpu::is_fused(&[h, heads, table]) {
        return composed::code_heads(h, heads, table, args);
    }
    let track = h.track_op() || heads.track_op() || table.track_op();
    let op = Fused { args: args.clone(), track, before: OnceLock::new() };
    Ok(h.contiguous()?.apply_op3(&heads.contiguous()?, &table.contiguous()?, op)?)
}

struct Fused {
    args: CodeHeads,
    track: bool,
    /// `h * W_l + b_l` of every level, from the forward: `[L, R, D]`.
    before: OnceLock<Vec<f32>>,
}

/// Where a level's numbers are.
#[derive(Clone, Copy)]
struct Level {
    number: usize,
    /// Its first code's place among those of all levels.
    first: usize,
    /// K.
    codes: usize,
}

impl Fused {
    fn levels(&self) -> impl Iterator<Item = Level> {
        let mut first = 0;
        self.args.codes.iter().enumerate().map(move |(number, &codes)| {
            first += codes;
            Level { number, first: first - codes, codes }
        })
    }
}

impl CustomOp3 for Fused {
    fn name(&self) -> &'static str {
        "code_heads"
    }

    fn cpu_fwd(
        &self,
        h: &CpuStorage,
        h_layout: &Layout,
        heads: &CpuStorage,
        heads_layout: &Layout,
        table: &CpuStorage,
        table_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (rows, width) = h_layout.shape().dims2()?;
        let (h, heads) = (cpu::slice(h, h_layout)?, cpu::slice(heads, heads_layout)?);
        let table = cpu::slice(table, table_layout)?;
        let vocab = self.args.vocab();
        let mut logits = vec![0.0; rows * vocab];
        let kept = if self.track { self.args.codes.len() } else { 1 };
        let mut before = cpu::unfilled(kept * rows * width);
        let mut x = cpu::unfilled(rows * width);
        for level in self.levels() {
            let (weight, bias) = head(heads, level.number, width);
            let before = match self.track {
                true => &mut before[level.number * rows * width..][..rows * width],
                false => &mut before[..],
            };
            if rows == 0 || level.codes == 0 {
                continue;
            }
            // SAFETY: the targets are slices that nobody else reads or writes here; level l's columns lie in `logits`.
            unsafe {
                let (a, b) = (Matrix::rows(h, width), Matrix::rows(weight, width));
                product_into([rows, width, width], Target::new(before, width), a, b, 1.0);
                add_bias(before, bias);
                residual(&mut x, h, before, width, self.args.unit);
                let codes = Matrix::rows(&table[level.first * width..][..level.codes * width], width).t();
                let target = Target::new(&mut logits, vocab).at(level.first);
                product_into([rows, level.codes, width], target, Matrix::rows(&x, width), codes, 1.0);
            }
        }
        if self.track {
            self.before.get_or_init(|| before);
        }
        Ok((CpuStorage::F32(logits), (rows, vocab).into()))
    }

    fn bwd(
        &self,
        h: &Tensor,
        heads: &Tensor,
        table: &Tensor,
        _logits: &Tensor,
        g: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let Some(before) = self.before.get() else {
            candle_core::bail!("code_heads was asked for a gradient that its forward did not expect")
        };
        let (rows, width) = h.dims2()?;
        let vocab = self.args.vocab();
        let g = g.contiguous()?;
        let (g_storage, g_layout) = g.storage_and_layout();
        let (h_storage, h_layout) = h.storage_and_layout();
        let (w_storage, w_layout) = heads.storage_and_layout();
        let (t_storage, t_layout) = table.storage_and_layout();
        let (g, hs) = (cpu::values(&g_storage, g_layout)?, cpu::values(&h_storage, h_layout)?);
        let (ws, ts) = (cpu::values(&w_storage, w_layout)?, cpu::values(&t_storage, t_layout)?);
        let mut dh = vec![0.0; rows * width];
        let mut dheads = vec![0.0; ws.len()];
        let mut dtable = vec![0.0; ts.len()];
        let (mut x, mut dx) = (cpu::unfilled(rows * width), cpu::unfilled(rows * width));
        for level in self.levels().filter(|level| rows > 0 && level.codes > 0) {
            let before = &before[level.number * rows * width..][..rows * width];
            residual(&mut x, hs, before, width, self.args.unit);
            let columns = Matrix::strided(&g[level.first..], vocab, 1);
            let codes = level.first * width..(level.first + level.codes) * width;
            let head_size = (width + 1) * width;
            let dhead = &mut dheads[level.number * head_size..][..head_size];
            // SAFETY: the targets are slices that nobody else reads or writes here.
            unsafe {
                let dcodes = Target::new(&mut dtable[codes.clone()], width);
                product_into([level.codes, width, rows], dcodes, columns.t(), Matrix::rows(&x, width), 1.0);
                let target = Target::new(&mut dx, width);
                product_into([rows, width, level.codes], target, columns, Matrix::rows(&ts[codes], width), 1.0);
                // From here on `dx` is the gradient by `before`, and what goes to h directly has gone there.
                residual_backward(&mut dx, &mut dh, &x, hs, before, width, self.args.unit);
                let target = Target::new(dhead, width);
                product_into([width, width, rows], target, Matrix::rows(hs, width).t(), Matrix::rows(&dx, width), 1.0);
                column_sums(&mut dhead[width * width..], &dx);
                let weight = Matrix::rows(head(ws, level.number, width).0, width).t();
                product_into([rows, width, width], Target::new(&mut x, width), Matrix::rows(&dx, width), weight, 1.0);
                cpu::add(&mut dh, &x);
            }
        }
        let dh = h.track_op().then(|| cpu::tensor(dh, h.shape())).transpose()?;
        let dheads = heads.track_op().then(|| cpu::tensor(dheads, heads.shape())).transpose()?;
        Ok((dh, dheads, table.track_op().then(|| cpu::tensor(dtable, table.shape())).transpose()?))
    }
}

/// A level's W and b.
fn head(heads: &[f32], level: usize, width: usize) -> (&[f32], &[f32]) {
    heads[level * (width + 1) * width..][..(width + 1) * width].split_at(width * width)
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + vector::exp(-x))
}

/// 1 over the length of a row.
#[inline(always)]
fn inverse_length(row: &[f32]) -> f32 {
    1.0 / (vector::square_sum(row) + UNIT_EPS).sqrt()
}

cpu::vectorised! {
    fn add_bias(rows: &mut [f32], bias: &[f32]) {
        for row in rows.chunks_exact_mut(bias.len()) {
            vector::add_scaled(row, 1.0, bias);
        }
    }
}

cpu::vectorised! {
    fn column_sums(sums: &mut [f32], rows: &[f32]) {
        for row in rows.chunks_exact(sums.len()) {
            vector::add_scaled(sums, 1.0, row);
        }
    }
}

cpu::vectorised! {
    fn residual(x: &mut [f32], h: &[f32], before: &[f32], width: usize, unit: bool) {
        let rows = x.chunks_exact_mut(width).zip(h.chunks_exact(width)).zip(before.chunks_exact(width));
        for ((x, h), before) in rows {
            for ((x, h), b) in x.iter_mut().zip(h).zip(before) {
                *x = h + b * sigmoid(*b);
            }
            if unit {
                let scale = inverse_length(x);
                for x in x.iter_mut() {
                    *x *= scale;
                }
            }
        }
    }
}

cpu::vectorised! {
    /// Turns the gradient `dx` by x into that by `before`, and adds to `dh` what goes past the block.
    fn residual_backward(dx: &mut [f32], dh: &mut [f32], x: &[f32], h: &[f32], before: &[f32], width: usize, unit: bool) {
        let gradients = dx.chunks_exact_mut(width).zip(dh.chunks_exact_mut(width));
        let values = x.chunks_exact(width).zip(h.chunks_exact(width)).zip(before.chunks_exact(width));
        let mut sum = vec![0.0; width];
        for ((dx, dh), ((x, h), before)) in gradients.zip(values) {
            if unit {
                // x is the unit vector: what lies along it does not change it. The length is found anew.
                for ((s, h), b) in sum.iter_mut().zip(h).zip(before) {
                    *s = h + b * sigmoid(*b);
                }
                let (scale, along) = (inverse_length(&sum), vector::dot(dx, x));
                for (dx, x) in dx.iter_mut().zip(x) {
                    *dx = scale * (*dx - along * x);
                }
            }
            for ((dx, dh), b) in dx.iter_mut().zip(dh).zip(before) {
                *dh += *dx;
                let s = sigmoid(*b);
                *dx *= s * (1.0 + b * (1.0 - s));
            }
        }
    }
}
