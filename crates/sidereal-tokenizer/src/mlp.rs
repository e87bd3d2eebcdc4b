//! Multilayer perceptrons: one to train on any device, and one to run on rows, with ReLU between layers and none after.
//!
//! Both hold weights as [I, O], and the second one also as its products read them. Files hold them as [O, I], the layout
//! that other programs write. A net may be a branch beside the identity, y = x + MLP(x), may normalise its inputs row by
//! row first, and multiplies in f32 or bf16.

use candle_core::Tensor;
use rayon::prelude::*;
use sidereal_nn::kernels::{Precision, Rows, Weights, Write, operand_words, prepare};
use sidereal_nn::ops::{self, LearntLayers, in_precision};
use sidereal_nn::params::{Init, Params};

use crate::Result;
use crate::algebra::product::transposed;
use crate::arrays::{ArraySet, NamedArray};
use sidereal_nn::rng::Rng;

/// Rows that go through all layers together, so that what lies between stays in the cache.
const BLOCK: usize = 128;
/// Added to the variance of a row's inputs, as PyTorch's layer norm does.
pub(crate) const NORM_EPSILON: f64 = 1e-5;

/// Layers whose tensors are parameters.
#[derive(Debug, Clone)]
pub(crate) struct TrainableMlp {
    /// Weight [I, O] and bias `[O]` of each layer.
    layers: Vec<(Tensor, Tensor)>,
    residual: bool,
    /// Of the products, forwards and backwards.
    precision: Precision,
}

impl TrainableMlp {
    /// Makes `{name}.{i}.weight` (Xavier-normal, as LC-Rec) and `{name}.{i}.bias` (0) for widths D, ..., d. A residual
    /// net has a last layer of 0, so that it starts as the identity; its first and last width must be equal.
    pub(crate) fn new(
        name: &str,
        widths: &[usize],
        residual: bool,
        params: &mut Params,
        rng: &mut Rng,
    ) -> Result<Self> {
        let last = widths.len().saturating_sub(2);
        let layer = |(i, pair): (usize, &[usize])| {
            let start = if residual && i == last { Init::Zeros } else { Init::XavierNormal };
            let weight = params.var(&format!("{name}.{i}.weight"), pair, start, rng)?;
            let bias = params.var(&format!("{name}.{i}.bias"), &pair[1..], Init::Zeros, rng)?;
            Ok((weight, bias))
        };
        let layers = widths.windows(2).enumerate().map(layer).collect::<Result<_>>()?;
        Ok(Self { layers, residual, precision: Precision::F32 })
    }

    /// The same net with products in another precision.
    pub(crate) fn in_precision(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    /// The outputs, and the gradients of the layers after a backward. `inputs_learn` says whether `x` wants one.
    ///
    /// # Shapes
    /// [B, I] to [B, O]
    pub(crate) fn forward(&self, x: &Tensor, inputs_learn: bool) -> Result<(Tensor, LearntLayers)> {
        let (y, learnt) = in_precision(self.precision, || ops::perceptron(x, &self.layers, inputs_learn))?;
        Ok((if self.residual { (y + x)? } else { y }, learnt))
    }

    /// The outputs, layer by layer: gradients reach the layers as those of any other operation, for losses that have more
    /// than one net.
    ///
    /// # Shapes
    /// [B, I] to [B, O]
    pub(crate) fn forward_by_layers(&self, x: &Tensor) -> Result<Tensor> {
        let mut y = x.clone();
        for (i, (weight, bias)) in self.layers.iter().enumerate() {
            y = ops::linear_bias(&y, weight, bias)?;
            if i + 1 < self.layers.len() {
                y = y.relu()?;
            }
        }
        Ok(if self.residual { (y + x)? } else { y })
    }

    /// The sum of squared differences of the outputs to a target, a scalar, and the same gradients.
    ///
    /// # Shapes
    /// [B, I] and [B, O]
    pub(crate) fn squared_error(&self, x: &Tensor, target: &Tensor) -> Result<(Tensor, LearntLayers)> {
        if self.residual {
            let (y, learnt) = self.forward(x, true)?;
            return Ok(((y - target)?.sqr()?.sum_all()?, learnt));
        }
        in_precision(self.precision, || ops::perceptron_squared_error(x, &self.layers, target, true))
    }

    /// A copy to run on rows.
    pub(crate) fn to_mlp(&self) -> Result<Mlp> {
        let layers = self.layers.iter().map(|(weight, bias)| {
            let (inputs, outputs) = weight.dims2()?;
            let weight = weight.flatten_all()?.to_vec1::<f32>()?;
            Ok(Layer::new([inputs, outputs], weight, bias.to_vec1::<f32>()?, self.precision))
        });
        Ok(Mlp { layers: layers.collect::<Result<_>>()?, residual: self.residual, normalises: false })
    }
}

/// Layers of plain numbers.
#[derive(Debug, Clone)]
pub(crate) struct Mlp {
    layers: Vec<Layer>,
    /// y = x + MLP(x).
    residual: bool,
    /// Every row of inputs is brought to mean 0 and variance 1 first.
    normalises: bool,
}

#[derive(Debug, Clone)]
struct Layer {
    inputs: usize,
    outputs: usize,
    /// [I, O]
    weight: Vec<f32>,
    /// `[O]`
    bias: Vec<f32>,
    /// The weight as products read it.
    packed: Weights,
}

impl Layer {
    fn new([inputs, outputs]: [usize; 2], weight: Vec<f32>, bias: Vec<f32>, precision: Precision) -> Self {
        let packed = Weights::new(&weight, outputs, precision);
        Self { inputs, outputs, weight, bias, packed }
    }
}

impl Mlp {
    /// Takes `{name}.{i}.weight` [O, I] and `{name}.{i}.bias` `[O]` for widths D, ..., d.
    pub(crate) fn load(name: &str, widths: &[usize], residual: bool, arrays: &mut ArraySet) -> Result<Self> {
        let layer = |(i, pair): (usize, &[usize])| {
            let (inputs, outputs) = (pair[0], pair[1]);
            let weight = arrays.take(&format!("{name}.{i}.weight"), &[outputs, inputs])?;
            let bias = arrays.take(&format!("{name}.{i}.bias"), &[outputs])?;
            Ok(Layer::new([inputs, outputs], transposed(&weight, inputs), bias, Precision::F32))
        };
        let layers = widths.windows(2).enumerate().map(layer).collect::<Result<_>>()?;
        Ok(Self { layers, residual, normalises: false })
    }

    /// The same net with products in another precision.
    pub(crate) fn in_precision(mut self, precision: Precision) -> Self {
        for layer in &mut self.layers {
            layer.packed = Weights::new(&layer.weight, layer.outputs, precision);
        }
        self
    }

    /// The same net behind a normalisation of every row of its inputs.
    pub(crate) fn normalising(self) -> Self {
        Self { normalises: true, ..self }
    }

    /// The same net for inputs x instead of `scale * x + shift`: both go into the first layer.
    ///
    /// # Shapes
    /// `scale`, `shift`: `[I]`
    pub(crate) fn after(mut self, scale: &[f64], shift: &[f64]) -> Self {
        if let Some(first) = self.layers.first_mut() {
            let mut bias: Vec<f64> = first.bias.iter().map(|&b| b.into()).collect();
            for ((weights, scale), shift) in first.weight.chunks_exact_mut(first.outputs).zip(scale).zip(shift) {
                for (weight, bias) in weights.iter_mut().zip(&mut bias) {
                    *bias += shift * f64::from(*weight);
                    *weight = (scale * f64::from(*weight)) as f32;
                }
            }
            first.bias = bias.into_iter().map(|b| b as f32).collect();
            first.packed = Weights::new(&first.weight, first.outputs, first.packed.precision());
        }
        self
    }

    pub(crate) fn arrays(&self, name: &str) -> Vec<NamedArray> {
        let layer = |(i, layer): (usize, &Layer)| {
            let weight = transposed(&layer.weight, layer.outputs); // [O, I]
            let shape = [layer.outputs, layer.inputs];
            [
                NamedArray::new(format!("{name}.{i}.weight"), &shape, weight),
                NamedArray::new(format!("{name}.{i}.bias"), &shape[..1], layer.bias.clone()),
            ]
        };
        self.layers.iter().enumerate().flat_map(layer).collect()
    }

    /// Width of its inputs.
    pub(crate) fn inputs(&self) -> usize {
        self.layers.first().map_or(0, |layer| layer.inputs)
    }

    /// Width of its outputs.
    pub(crate) fn outputs(&self) -> usize {
        self.layers.last().map_or(0, |layer| layer.outputs)
    }

    /// Runs rows through all layers over all threads, [N, I] to [N, O].
    pub(crate) fn forward_all(&self, rows: &[f32]) -> Vec<f32> {
        let parts: Vec<Vec<f32>> = rows
            .par_chunks(BLOCK * self.inputs())
            .map_init(Default::default, |hidden, rows| {
                let mut out = Vec::with_capacity(rows.len() / self.inputs() * self.outputs());
                self.forward_rows(rows, hidden, &mut out);
                out
            })
            .collect();
        parts.concat()
    }

    /// Runs rows through all layers and appends the results to `out`; a row's result does not depend on the rows beside it.
    ///
    /// # Shapes
    /// `rows`: [M, I]; appended: [M, O]
    pub(crate) fn forward_rows(&self, rows: &[f32], hidden: &mut [Vec<f32>; 3], out: &mut Vec<f32>) {
        let inputs = self.inputs();
        let [from, to, rounded] = hidden;
        for rows in rows.chunks(BLOCK * inputs) {
            let count = rows.len() / inputs;
            if self.normalises {
                from.clear();
                from.extend_from_slice(rows);
                from.chunks_exact_mut(inputs).for_each(normalise);
            }
            for (i, layer) in self.layers.iter().enumerate() {
                let x = if i == 0 && !self.normalises { rows } else { &from[..count * layer.inputs] };
                let precision = layer.packed.precision();
                grow(rounded, operand_words(precision, count, layer.inputs));
                grow(to, count * layer.outputs);
                let made = &mut to[..count * layer.outputs];
                let x = prepare(precision, Rows { data: x, step: layer.inputs }, count, layer.inputs, rounded);
                layer.packed.product(made, layer.outputs, x, Write::Set); // [count, O]
                match i + 1 < self.layers.len() {
                    true => finish_hidden(made, &layer.bias),
                    false => finish_last(made, &layer.bias),
                }
                std::mem::swap(from, to);
            }
            let start = out.len();
            out.extend_from_slice(&from[..count * self.outputs()]);
            if self.residual {
                out[start..].iter_mut().zip(rows).for_each(|(y, x)| *y += x);
            }
        }
    }
}

/// Makes room for `count` numbers; what is there already may stay.
fn grow(values: &mut Vec<f32>, count: usize) {
    if values.len() < count {
        values.resize(count, 0.0);
    }
}

fn finish_hidden(rows: &mut [f32], bias: &[f32]) {
    for row in rows.chunks_exact_mut(bias.len().max(1)) {
        row.iter_mut().zip(bias).for_each(|(v, b)| *v = (*v + b).max(0.0));
    }
}

fn finish_last(rows: &mut [f32], bias: &[f32]) {
    for row in rows.chunks_exact_mut(bias.len().max(1)) {
        row.iter_mut().zip(bias).for_each(|(v, b)| *v += b);
    }
}

/// Brings a row to mean 0 and variance 1.
fn normalise(row: &mut [f32]) {
    let count = row.len() as f64;
    let mean = row.iter().map(|&v| f64::from(v)).sum::<f64>() / count;
    let variance = row.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / count;
    let scale = 1.0 / (variance + NORM_EPSILON).sqrt();
    row.iter_mut().for_each(|v| *v = ((f64::from(*v) - mean) * scale) as f32);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use candle_core::Device;

    fn mlp() -> (TrainableMlp, Mlp) {
        let mut params = Params::new(&Device::Cpu);
        let net = TrainableMlp::new("enc", &[37, 19, 5], false, &mut params, &mut Rng::new(3, "test")).unwrap();
        let plain = net.to_mlp().unwrap();
        (net, plain)
    }

    #[test]
    fn a_row_is_the_same_whatever_travels_with_it() {
        let (net, plain) = mlp();
        let mut rng = Rng::new(1, "rows");
        let rows: Vec<f32> = (0..1100 * 37).map(|_| rng.normal() as f32).collect();
        let (mut hidden, mut all) = (Default::default(), Vec::new());
        plain.forward_rows(&rows, &mut hidden, &mut all);
        for (start, end) in [(0, 1), (1, 600), (511, 513), (1099, 1100), (500, 1100)] {
            let mut part = Vec::new();
            plain.forward_rows(&rows[start * 37..end * 37], &mut hidden, &mut part);
            assert_eq!(part, all[start * 5..end * 5], "rows {start} to {end}");
        }
        let tensor = Tensor::from_vec(rows, (1100, 37), &Device::Cpu).unwrap();
        let trained = net.forward(&tensor, false).unwrap().0.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(trained.iter().zip(&all).all(|(a, b)| (a - b).abs() < 1e-5));
    }

    #[test]
    fn arrays_bring_the_same_net_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("net.safetensors");
        let (_, plain) = mlp();
        crate::arrays::save_arrays(&path, &plain.arrays("enc")).unwrap();
        let mut arrays = ArraySet::open(&path).unwrap();
        let again = Mlp::load("enc", &[37, 19, 5], false, &mut arrays).unwrap();
        arrays.finish().unwrap();
        assert_eq!(again.arrays("enc"), plain.arrays("enc"));
    }

    #[test]
    fn a_scale_and_shift_of_the_inputs_move_into_the_first_layer() {
        let (_, plain) = mlp();
        let mut rng = Rng::new(2, "rows");
        let mut draw = |count: usize| -> Vec<f64> { (0..count).map(|_| rng.normal()).collect() };
        let (rows, scale, shift) = (draw(9 * 37), draw(37), draw(37));
        let moved = rows.iter().enumerate().map(|(i, v)| (v * scale[i % 37] + shift[i % 37]) as f32);
        let run = |net: &Mlp, rows: &[f32]| {
            let mut out = Vec::new();
            net.forward_rows(rows, &mut Default::default(), &mut out);
            out
        };
        let want = run(&plain, &moved.collect::<Vec<_>>());
        let rows: Vec<f32> = rows.iter().map(|&v| v as f32).collect();
        let found = run(&plain.clone().after(&scale, &shift), &rows);
        assert!(found.iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-4), "{found:?} {want:?}");
    }

    #[test]
    fn a_residual_net_starts_as_the_identity_and_normalised_rows_forget_scale_and_offset() {
        let mut params = Params::new(&Device::Cpu);
        let net = TrainableMlp::new("enc", &[6, 4, 6], true, &mut params, &mut Rng::new(3, "test")).unwrap();
        let rows: Vec<f32> = (0..18).map(|v| (v * v % 7) as f32).collect();
        let run = |net: &Mlp, rows: &[f32]| {
            let mut out = Vec::new();
            net.forward_rows(rows, &mut Default::default(), &mut out);
            out
        };
        assert_eq!(run(&net.to_mlp().unwrap(), &rows), rows);
        let x = Tensor::from_slice(&rows, (3, 6), &Device::Cpu).unwrap();
        assert_eq!(net.forward(&x, false).unwrap().0.flatten_all().unwrap().to_vec1::<f32>().unwrap(), rows);
        let normalising = TrainableMlp::new("n", &[6, 4, 5], false, &mut params, &mut Rng::new(4, "test")).unwrap();
        let normalising = normalising.to_mlp().unwrap().normalising();
        let scaled: Vec<f32> = rows.iter().map(|v| 1000.0 * v + 5.0).collect();
        let (a, b) = (run(&normalising, &rows), run(&normalising, &scaled));
        assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-3), "{a:?} {b:?}");
    }
}
