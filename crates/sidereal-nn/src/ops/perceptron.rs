//! A whole multilayer perceptron as one op, ReLU between its layers: only its inputs and outputs are nodes of the graph.
//!
//! A graph adds every gradient to a tensor of zeros, for each layer's values and weights, which takes longer than the
//! small layers themselves. Here the op keeps what its backward needs, and leaves the gradients of the weights beside
//! the graph, in [`LearntLayers`].

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor, Var};
use rayon::prelude::*;

use super::rounded_product::{Side, product_in};
use super::{check, cpu, in_precision, linear_bias, relu};
use crate::error::Result;
use crate::kernels::Precision;

/// Weight `[I, O]` and bias `[O]` of a layer.
pub type Layer = (Tensor, Tensor);

/// Gradients of a perceptron's layers, once the graph that it is part of went backward.
#[derive(Debug, Default)]
pub struct LearntLayers {
    layers: Vec<Layer>,
    found: Found,
}

type Found = Arc<Mutex<Option<Vec<Layer>>>>;

impl LearntLayers {
    /// Adds them to those that the graph found; does nothing where the graph has them already.
    ///
    /// # Errors
    /// A tensor that candle refuses.
    pub fn insert_into(self, grads: &mut GradStore) -> Result<()> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner).take();
        for ((weight, bias), (dw, db)) in self.layers.iter().zip(found.into_iter().flatten()) {
            for (parameter, gradient) in [(weight, dw), (bias, db)] {
                let sum = match grads.remove(parameter) {
                    Some(other) => (other + gradient)?,
                    None => gradient,
                };
                grads.insert(parameter, sum);
            }
        }
        Ok(())
    }
}

/// The outputs of layer after layer. `inputs_learn` says whether `x` wants a gradient.
///
/// # Shapes
/// x `[N, I]` -> `[N, O]`
///
/// # Errors
/// No layers; shapes that do not fit.
pub fn perceptron(x: &Tensor, layers: &[Layer], inputs_learn: bool) -> Result<(Tensor, LearntLayers)> {
    apply(x, layers, inputs_learn, None)
}

/// The sum of squares of what a perceptron's outputs lie beside `target`, a scalar; the target gets no gradient.
///
/// # Shapes
/// x `[N, I]`, target `[N, O]` -> `[]`
///
/// # Errors
/// As [`perceptron`].
pub fn perceptron_squared_error(
    x: &Tensor,
    layers: &[Layer],
    target: &Tensor,
    inputs_learn: bool,
) -> Result<(Tensor, LearntLayers)> {
    apply(x, layers, inputs_learn, Some(target))
}

fn apply(x: &Tensor, layers: &[Layer], inputs_learn: bool, target: Option<&Tensor>) -> Result<(Tensor, LearntLayers)> {
    const OP: &str = "perceptron";
    let (rows, mut width) = check::matrix(OP, "x", x)?;
    for (weight, bias) in layers {
        let (_, outputs) = check::matrix(OP, "weight", weight)?;
        check::shape(OP, "weight", weight, &[width, outputs])?;
        check::shape(OP, "bias", bias, &[outputs])?;
        width = outputs;
    }
    if let Some(target) = target {
        check::shape(OP, "target", target, &[rows, width])?;
    }
    if layers.is_empty() {
        return check::refuse(OP, "there are no layers".to_owned(), "give one or more");
    }
    let all: Vec<&Tensor> = layers.iter().flat_map(|(w, b)| [w, b]).chain([x]).chain(target).collect();
    if !cpu::is_fused(&all) || all.iter().any(|t| t.elem_count() == 0) {
        let mut y = x.clone();
        for (i, (weight, bias)) in layers.iter().enumerate() {
            y = linear_bias(&y, weight, bias)?;
            if i + 1 < layers.len() {
                y = relu(&y)?;
            }
        }
        let y = match target {
            Some(target) => (y - target.detach())?.sqr()?.sum_all()?,
            None => y,
        };
        return Ok((y, LearntLayers::default()));
    }
    let layers: Vec<Layer> =
        layers.iter().map(|(w, b)| Ok((w.contiguous()?, b.contiguous()?))).collect::<Result<_>>()?;
    let learns = inputs_learn || layers.iter().any(|(w, b)| w.track_op() || b.track_op());
    let found = Found::default();
    let op = Perceptron {
        layers: layers.clone(),
        target: target.map(|target| target.contiguous()).transpose()?,
        inputs_learn,
        learns,
        precision: in_precision::current(),
        kept: OnceLock::new(),
        found: found.clone(),
    };
    // A graph goes backward only to inputs that it tracks.
    let x = x.contiguous()?;
    let x = if learns && !x.track_op() { Var::from_tensor(&x)?.into_inner() } else { x };
    Ok((x.apply_op1(op)?, LearntLayers { layers, found }))
}

struct Perceptron {
    layers: Vec<Layer>,
    target: Option<Tensor>,
    inputs_learn: bool,
    learns: bool,
    precision: Precision,
    kept: OnceLock<Kept>,
    found: Found,
}

/// What the forward leaves to the backward.
struct Kept {
    /// Outputs of every layer but the last, `[N, O]`.
    hidden: Vec<Vec<f32>>,
    /// Outputs less the target; nothing without a target.
    difference: Vec<f32>,
}

impl CustomOp1 for Perceptron {
    fn name(&self) -> &'static str {
        "perceptron"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let x = cpu::slice(x, layout)?;
        let rows = layout.dims()[0];
        let mut hidden: Vec<Vec<f32>> = Vec::with_capacity(self.layers.len());
        let mut y = Vec::new();
        for (i, (weight, bias)) in self.layers.iter().enumerate() {
            let (inputs, outputs) = weight.dims2()?;
            let (w_storage, w_layout) = weight.storage_and_layout();
            let (b_storage, b_layout) = bias.storage_and_layout();
            let (w, b) = (cpu::values(&w_storage, w_layout)?, cpu::values(&b_storage, b_layout)?);
            let input = hidden.last().map_or(x, Vec::as_slice);
            y = product_in(self.precision, [rows, outputs, inputs], Side::Rows(input), Side::Rows(w));
            let last = i + 1 == self.layers.len();
            cpu::fill_chunks(&mut y, cpu::row_chunk(outputs), |_, rows| match last {
                true => add_to_rows(rows, b),
                false => add_to_rows_relu(rows, b),
            });
            if !last {
                hidden.push(std::mem::take(&mut y));
            }
        }
        let Some(target) = &self.target else {
            if self.learns {
                self.kept.get_or_init(|| Kept { hidden, difference: Vec::new() });
            }
            let width = y.len() / rows;
            return Ok((CpuStorage::F32(y), (rows, width).into()));
        };
        let (storage, layout) = target.storage_and_layout();
        let target = cpu::values(&storage, layout)?;
        let chunks = y.par_chunks_mut(cpu::CHUNK).zip(target.par_chunks(cpu::CHUNK));
        let sums: Vec<f64> = chunks.map(|(y, target)| subtract_and_square(y, target)).collect();
        if self.learns {
            self.kept.get_or_init(|| Kept { hidden, difference: y });
        }
        Ok((CpuStorage::F32(vec![sums.iter().sum::<f64>() as f32]), ().into()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, g: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let Some(kept) = self.kept.get() else {
            candle_core::bail!("perceptron was asked for a gradient that its forward did not expect")
        };
        let rows = x.dims()[0];
        let (x_storage, x_layout) = x.storage_and_layout();
        let xs = cpu::values(&x_storage, x_layout)?;
        let mut gradient = match &self.target {
            Some(_) => {
                let factor = 2.0 * g.to_scalar::<f32>()?;
                let mut gradient = cpu::unfilled(kept.difference.len());
                cpu::fill_chunks(&mut gradient, cpu::CHUNK, |start, out| {
                    let from = &kept.difference[start..start + out.len()];
                    out.iter_mut().zip(from).for_each(|(out, d)| *out = factor * d);
                });
                gradient
            }
            None => g.flatten_all()?.to_vec1::<f32>()?,
        };
        let mut found = Vec::with_capacity(self.layers.len());
        let mut bias_gradient = cpu::column_sums(&gradient, gradient.len() / rows);
        for (i, (weight, bias)) in self.layers.iter().enumerate().rev() {
            let (inputs, outputs) = weight.dims2()?;
            let input = match i {
                0 => xs,
                _ => kept.hidden[i - 1].as_slice(),
            };
            let g = Side::Rows(&gradient);
            let dw = product_in(self.precision, [inputs, outputs, rows], Side::Columns(input), g);
            found.push((cpu::tensor(dw, weight.shape())?, cpu::tensor(bias_gradient, bias.shape())?));
            bias_gradient = Vec::new();
            if i == 0 && !self.inputs_learn {
                break;
            }
            let (storage, layout) = weight.storage_and_layout();
            let w = cpu::values(&storage, layout)?;
            let mut dx = product_in(self.precision, [rows, inputs, outputs], g, Side::Columns(w));
            if i > 0 {
                let chunk = cpu::row_chunk(inputs);
                let chunks = dx.par_chunks_mut(chunk).zip(input.par_chunks(chunk));
                let parts: Vec<Vec<f32>> = chunks.map(|(dx, y)| gate_and_sum(dx, y, inputs)).collect();
                bias_gradient = cpu::sum_parts(parts, inputs);
            }
            gradient = dx;
        }
        found.reverse();
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
        match self.inputs_learn {
            true => Ok(Some(cpu::tensor(gradient, x.shape())?)),
            false => Ok(None),
        }
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

cpu::vectorised! {
    fn add_to_rows_relu(rows: &mut [f32], bias: &[f32]) {
        for row in rows.chunks_exact_mut(bias.len().max(1)) {
            for (v, b) in row.iter_mut().zip(bias) {
                let sum = *v + b;
                // Not `max`, which would turn NaN into 0.
                *v = if sum < 0.0 { 0.0 } else { sum };
            }
        }
    }
}

cpu::vectorised! {
    /// Lets a gradient pass where y is positive; answers the column sums of what passed.
    fn gate_and_sum(gradient: &mut [f32], y: &[f32], width: usize) -> Vec<f32> {
        let mut sums = vec![0.0; width];
        for (gradient, y) in gradient.chunks_exact_mut(width).zip(y.chunks_exact(width)) {
            for ((gradient, y), sum) in gradient.iter_mut().zip(y).zip(sums.iter_mut()) {
                *gradient = if *y > 0.0 { *gradient } else { 0.0 };
                *sum += *gradient;
            }
        }
        sums
    }
}

cpu::vectorised! {
    /// Makes y the difference; answers its sum of squares.
    fn subtract_and_square(y: &mut [f32], target: &[f32]) -> f64 {
        let mut lanes = [0f64; 16];
        for (y, target) in y.chunks_mut(16).zip(target.chunks(16)) {
            for ((y, target), lane) in y.iter_mut().zip(target).zip(&mut lanes) {
                *y -= target;
                *lane += f64::from(*y) * f64::from(*y);
            }
        }
        lanes.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use candle_core::Device;

    use super::*;
    use crate::ops::{composed, in_precision};
    use crate::rng::Rng;

    fn var(shape: &[usize], rng: &mut Rng) -> Var {
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| rng.normal() as f32).collect();
        Var::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    fn close(a: &Tensor, b: &Tensor, what: &str) {
        let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let (a, b) = (values(a), values(b));
        assert_eq!(a.len(), b.len(), "{what}");
        for (a, b) in a.iter().zip(&b) {
            assert!((a - b).abs() <= 1e-4 * (1.0 + b.abs()), "{what}: {a} {b}");
        }
    }

    #[test]
    fn a_perceptron_in_one_op_equals_its_layers_one_by_one_backwards_too() {
        let mut rng = Rng::new(3, "test");
        let (x, target) = (var(&[300, 37], &mut rng), var(&[300, 9], &mut rng));
        let vars: Vec<(Var, Var)> = [(37, 50), (50, 20), (20, 9)]
            .map(|(i, o)| (var(&[i, o], &mut rng), var(&[o], &mut rng)))
            .into_iter()
            .collect();
        let layers: Vec<Layer> = vars.iter().map(|(w, b)| (w.as_tensor().clone(), b.as_tensor().clone())).collect();
        for (inputs_learn, with_target) in [(true, false), (false, false), (true, true), (false, true)] {
            let mut y = x.as_tensor().clone();
            for (i, (weight, bias)) in layers.iter().enumerate() {
                y = linear_bias(&y, weight, bias).unwrap();
                y = if i < 2 { relu(&y).unwrap() } else { y };
            }
            let loss = |y: &Tensor| match with_target {
                true => (y - target.as_tensor().detach()).unwrap().sqr().unwrap().sum_all().unwrap(),
                false => (y * target.as_tensor()).unwrap().sum_all().unwrap(),
            };
            let want = (loss(&y) / 300.0).unwrap().backward().unwrap();
            let input = if inputs_learn { x.as_tensor().clone() } else { x.as_tensor().detach() };
            let (found, learnt) = match with_target {
                true => perceptron_squared_error(&input, &layers, &target, inputs_learn).unwrap(),
                false => perceptron(&input, &layers, inputs_learn).unwrap(),
            };
            let found = if with_target { found } else { loss(&found) };
            close(&found, &loss(&y), "loss");
            let mut grads = (found / 300.0).unwrap().backward().unwrap();
            learnt.insert_into(&mut grads).unwrap();
            for (i, (w, b)) in vars.iter().enumerate() {
                close(grads.get(w).unwrap(), want.get(w).unwrap(), &format!("weight {i}"));
                close(grads.get(b).unwrap(), want.get(b).unwrap(), &format!("bias {i}"));
            }
            match inputs_learn {
                true => close(grads.get(&x).unwrap(), want.get(&x).unwrap(), "x"),
                false => assert!(grads.get(&x).is_none()),
            }
        }
    }

    #[test]
    fn in_bf16_a_perceptron_is_its_layers_of_rounded_values_backwards_too() {
        let mut rng = Rng::new(5, "test");
        let (x, target) = (var(&[120, 37], &mut rng), var(&[120, 9], &mut rng));
        let small = |shape: &[usize], rng: &mut Rng| Var::from_tensor(&(var(shape, rng).as_tensor() * 0.2).unwrap());
        let vars: Vec<(Var, Var)> = [(37, 50), (50, 9)]
            .map(|(i, o)| (small(&[i, o], &mut rng).unwrap(), small(&[o], &mut rng).unwrap()))
            .into_iter()
            .collect();
        let layers: Vec<Layer> = vars.iter().map(|(w, b)| (w.as_tensor().clone(), b.as_tensor().clone())).collect();
        let gradients = |precision: Precision, composed: bool| {
            if composed {
                let loss = in_precision(precision, || {
                    let mut y = x.as_tensor().clone();
                    for (i, (weight, bias)) in layers.iter().enumerate() {
                        y = composed::linear_bias(&y, weight, bias).unwrap();
                        y = if i == 0 { relu(&y).unwrap() } else { y };
                    }
                    (y - target.as_tensor().detach()).unwrap().sqr().unwrap().sum_all().unwrap()
                });
                return (loss.to_scalar::<f32>().unwrap(), loss.backward().unwrap());
            }
            let forward = || perceptron_squared_error(&x, &layers, &target, true).unwrap();
            let (loss, learnt) = in_precision(precision, forward);
            let mut grads = loss.backward().unwrap();
            learnt.insert_into(&mut grads).unwrap();
            (loss.to_scalar::<f32>().unwrap(), grads)
        };
        let (exact, rounded) = (gradients(Precision::F32, false), gradients(Precision::Bf16, false));
        let composed = gradients(Precision::Bf16, true);
        let norm = |t: &Tensor| t.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
        for (what, other, most) in [("f32", &exact, 5e-2), ("composed", &composed, 5e-2)] {
            assert!((rounded.0 / other.0 - 1.0).abs() < most, "loss beside {what}: {} {}", rounded.0, other.0);
            for var in vars.iter().flat_map(|(w, b)| [w, b]).chain([&x]) {
                let (a, b) = (rounded.1.get(var).unwrap(), other.1.get(var).unwrap());
                let apart = norm(&(a - b).unwrap()) / norm(b);
                assert!(apart < most, "gradient {:?} beside {what}: {apart}", var.dims());
            }
        }
        assert_ne!(rounded.0, exact.0);
    }

    #[test]
    fn layers_that_do_not_fit_are_refused() {
        let mut rng = Rng::new(3, "test");
        let x = var(&[4, 3], &mut rng);
        assert!(perceptron(&x, &[], false).is_err());
        let layer = (var(&[2, 5], &mut rng).into_inner(), var(&[5], &mut rng).into_inner());
        assert!(perceptron(&x, &[layer], false).unwrap_err().to_string().contains("weight"));
    }
}
