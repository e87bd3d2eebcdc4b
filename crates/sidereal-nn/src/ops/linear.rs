//! Products with weights.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Shape, Tensor};

use super::rounded_product::{Side, product_in};
use super::{check, composed, cpu, in_precision};
use crate::error::Result;
use crate::kernels::Precision;

/// `x * weight`.
///
/// # Shapes
/// x `[.., I]`, weight `[I, O]` -> `[.., O]`
///
/// # Errors
/// Shapes that do not fit.
pub fn linear(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    check_linear("linear", x, weight)?;
    if !cpu::is_fused(&[x, weight]) {
        return composed::linear(x, weight);
    }
    Ok(x.contiguous()?.apply_op2(&weight.contiguous()?, Linear(in_precision::current()))?)
}

/// `x * weight + bias`.
///
/// # Shapes
/// x `[.., I]`, weight `[I, O]`, bias `[O]` -> `[.., O]`
///
/// # Errors
/// Shapes that do not fit.
pub fn linear_bias(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    check_linear("linear_bias", x, weight)?;
    check::shape("linear_bias", "bias", bias, &weight.dims()[1..])?;
    if !cpu::is_fused(&[x, weight, bias]) {
        return composed::linear_bias(x, weight, bias);
    }
    let op = LinearBias(in_precision::current());
    Ok(x.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, op)?)
}

/// `x * table^T`: logits over a vocabulary whose embeddings are the head.
///
/// # Shapes
/// x `[.., D]`, table `[V, D]` -> `[.., V]`
///
/// # Errors
/// Shapes that do not fit.
pub fn tied_head(x: &Tensor, table: &Tensor) -> Result<Tensor> {
    let (_, width) = check::matrix("tied_head", "table", table)?;
    let last = check::last_dim("tied_head", "x", x)?;
    if last != width {
        let problem = format!("x has {last} features and the table {width}");
        return check::refuse("tied_head", problem, "give x the table's width");
    }
    if !cpu::is_fused(&[x, table]) {
        return composed::tied_head(x, table);
    }
    Ok(x.contiguous()?.apply_op2(&table.contiguous()?, TiedHead(in_precision::current()))?)
}

fn check_linear(op: &str, x: &Tensor, weight: &Tensor) -> Result<()> {
    let (inputs, _) = check::matrix(op, "weight", weight)?;
    let last = check::last_dim(op, "x", x)?;
    if last == inputs {
        return Ok(());
    }
    let problem = format!("x has {last} features, but the weight is {:?}", weight.dims());
    check::refuse(op, problem, "weights are [inputs, outputs]: give x as many features as the weight has inputs")
}

/// The shape with another last dimension.
fn with_last(layout: &Layout, last: usize) -> Shape {
    let mut dims = layout.dims().to_vec();
    if let Some(d) = dims.last_mut() {
        *d = last;
    }
    dims.into()
}

/// Rows of a matrix of `width` columns; 0 for an empty one.
fn rows(values: &[f32], width: usize) -> usize {
    values.len().checked_div(width).unwrap_or(0)
}

type TensorResult<T> = candle_core::Result<T>;

/// dx = g * W^T and dW = x^T * g, each where it is wanted.
fn linear_backward(
    precision: Precision,
    x: &Tensor,
    weight: &Tensor,
    g: &Tensor,
) -> TensorResult<(Option<Tensor>, Option<Tensor>)> {
    let (inputs, outputs) = weight.dims2()?;
    let g = g.contiguous()?;
    let (g_storage, g_layout) = g.storage_and_layout();
    let (x_storage, x_layout) = x.storage_and_layout();
    let (w_storage, w_layout) = weight.storage_and_layout();
    let (g, xs) = (cpu::values(&g_storage, g_layout)?, cpu::values(&x_storage, x_layout)?);
    let ws = cpu::values(&w_storage, w_layout)?;
    let n = rows(g, outputs);
    let product = |sizes, a, b| product_in(precision, sizes, a, b);
    let g = Side::Rows(g);
    let dx = || cpu::tensor(product([n, inputs, outputs], g, Side::Columns(ws)), x.shape());
    let dw = || cpu::tensor(product([inputs, outputs, n], Side::Columns(xs), g), weight.shape());
    Ok((x.track_op().then(dx).transpose()?, weight.track_op().then(dw).transpose()?))
}

/// Holds what it multiplies in.
struct Linear(Precision);

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> TensorResult<(CpuStorage, Shape)> {
        let (x, weight) = (cpu::slice(x, x_layout)?, cpu::slice(weight, weight_layout)?);
        let (inputs, outputs) = weight_layout.shape().dims2()?;
        let sizes = [rows(x, inputs), outputs, inputs];
        let y = product_in(self.0, sizes, Side::Rows(x), Side::Rows(weight));
        Ok((CpuStorage::F32(y), with_last(x_layout, outputs)))
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, _y: &Tensor, g: &Tensor) -> TensorResult<(Option<Tensor>, Option<Tensor>)> {
        linear_backward(self.0, x, w, g)
    }
}

/// Holds what it multiplies in.
struct LinearBias(Precision);

impl CustomOp3 for LinearBias {
    fn name(&self) -> &'static str {
        "linear_bias"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> TensorResult<(CpuStorage, Shape)> {
        let (x, weight) = (cpu::slice(x, x_layout)?, cpu::slice(weight, weight_layout)?);
        let bias = cpu::slice(bias, bias_layout)?;
        let (inputs, outputs) = weight_layout.shape().dims2()?;
        let sizes = [rows(x, inputs), outputs, inputs];
        let mut y = product_in(self.0, sizes, Side::Rows(x), Side::Rows(weight));
        cpu::fill_chunks(&mut y, cpu::row_chunk(outputs), |_, rows| add_to_rows(rows, bias));
        Ok((CpuStorage::F32(y), with_last(x_layout, outputs)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _y: &Tensor,
        g: &Tensor,
    ) -> TensorResult<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let g = g.contiguous()?;
        let (dx, dw) = linear_backward(self.0, x, weight, &g)?;
        if !bias.track_op() {
            return Ok((dx, dw, None));
        }
        let (storage, layout) = g.storage_and_layout();
        let db = cpu::column_sums(cpu::values(&storage, layout)?, bias.elem_count());
        Ok((dx, dw, Some(cpu::tensor(db, bias.shape())?)))
    }
}

cpu::vectorised! {
    fn add_to_rows(rows: &mut [f32], bias: &[f32]) {
        for row in rows.chunks_exact_mut(bias.len().max(1)) {
            for (v, b) in row.iter_mut().zip(bias) {
                *v += b;
            }
        }
    }
}

/// Holds what it multiplies in.
struct TiedHead(Precision);

impl CustomOp2 for TiedHead {
    fn name(&self) -> &'static str {
        "tied_head"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        table: &CpuStorage,
        table_layout: &Layout,
    ) -> TensorResult<(CpuStorage, Shape)> {
        let (x, table) = (cpu::slice(x, x_layout)?, cpu::slice(table, table_layout)?);
        let (vocab, width) = table_layout.shape().dims2()?;
        let sizes = [rows(x, width), vocab, width];
        let y = product_in(self.0, sizes, Side::Rows(x), Side::Columns(table));
        Ok((CpuStorage::F32(y), with_last(x_layout, vocab)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        table: &Tensor,
        _y: &Tensor,
        g: &Tensor,
    ) -> TensorResult<(Option<Tensor>, Option<Tensor>)> {
        let (vocab, width) = table.dims2()?;
        let g = g.contiguous()?;
        let (g_storage, g_layout) = g.storage_and_layout();
        let (x_storage, x_layout) = x.storage_and_layout();
        let (t_storage, t_layout) = table.storage_and_layout();
        let (g, xs) = (cpu::values(&g_storage, g_layout)?, cpu::values(&x_storage, x_layout)?);
        let ts = cpu::values(&t_storage, t_layout)?;
        let n = rows(xs, width);
        let product = |sizes, a, b| product_in(self.0, sizes, a, b);
        let dx = || cpu::tensor(product([n, width, vocab], Side::Rows(g), Side::Rows(ts)), x.shape());
        let dt = || cpu::tensor(product([vocab, width, n], Side::Columns(g), Side::Rows(xs)), table.shape());
        Ok((x.track_op().then(dx).transpose()?, table.track_op().then(dt).transpose()?))
    }
}
