//! Multilayer perceptrons: one to train on any device, and one to run on rows, with ReLU between layers and none after.
//!
//! Both hold weights as [I, O], ready for the product. Files hold them as [O, I], the layout that other programs write.

use candle_core::Tensor;
use sidereal_nn::ops;
use sidereal_nn::params::{Init, Params};

use crate::Result;
use crate::arrays::{ArraySet, NamedArray};
use crate::product::{product, transposed};
use sidereal_nn::rng::Rng;

/// Rows of one product. Shorter blocks are filled up, so that every row sees a product of the same shape, which is
/// summed in the same order: a row's result does not depend on the rows beside it.
const BLOCK: usize = 256;

/// Layers whose tensors are parameters.
#[derive(Debug, Clone)]
pub(crate) struct TrainableMlp {
    /// Weight [I, O] and bias `[O]` of each layer.
    layers: Vec<(Tensor, Tensor)>,
}

impl TrainableMlp {
    /// Makes `{name}.{i}.weight` (Xavier-normal, as LC-Rec) and `{name}.{i}.bias` (0) for widths D, ..., d.
    pub(crate) fn new(name: &str, widths: &[usize], params: &mut Params, rng: &mut Rng) -> Result<Self> {
        let layer = |(i, pair): (usize, &[usize])| {
            let weight = params.var(&format!("{name}.{i}.weight"), pair, Init::XavierNormal, rng)?;
            let bias = params.var(&format!("{name}.{i}.bias"), &pair[1..], Init::Zeros, rng)?;
            Ok((weight, bias))
        };
        Ok(Self { layers: widths.windows(2).enumerate().map(layer).collect::<Result<_>>()? })
    }

    /// # Shapes
    /// [B, I] to [B, O]
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut x = x.clone();
        for (i, (weight, bias)) in self.layers.iter().enumerate() {
            x = ops::linear_bias(&x, weight, bias)?;
            if i + 1 < self.layers.len() {
                x = ops::relu(&x)?;
            }
        }
        Ok(x)
    }

    /// A copy to run on rows.
    pub(crate) fn to_mlp(&self) -> Result<Mlp> {
        let layers = self.layers.iter().map(|(weight, bias)| {
            let (inputs, outputs) = weight.dims2()?;
            let weight = weight.flatten_all()?.to_vec1::<f32>()?;
            Ok(Layer { inputs, outputs, weight, bias: bias.to_vec1::<f32>()? })
        });
        Ok(Mlp { layers: layers.collect::<Result<_>>()? })
    }
}

/// Layers of plain numbers.
#[derive(Debug, Clone)]
pub(crate) struct Mlp {
    layers: Vec<Layer>,
}

#[derive(Debug, Clone)]
struct Layer {
    inputs: usize,
    outputs: usize,
    /// [I, O]
    weight: Vec<f32>,
    /// `[O]`
    bias: Vec<f32>,
}

impl Mlp {
    /// Takes `{name}.{i}.weight` [O, I] and `{name}.{i}.bias` `[O]` for widths D, ..., d.
    pub(crate) fn load(name: &str, widths: &[usize], arrays: &mut ArraySet) -> Result<Self> {
        let layer = |(i, pair): (usize, &[usize])| {
            let (inputs, outputs) = (pair[0], pair[1]);
            let weight = arrays.take(&format!("{name}.{i}.weight"), &[outputs, inputs])?;
            let bias = arrays.take(&format!("{name}.{i}.bias"), &[outputs])?;
            Ok(Layer { inputs, outputs, weight: transposed(&weight, inputs), bias })
        };
        Ok(Self { layers: widths.windows(2).enumerate().map(layer).collect::<Result<_>>()? })
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

    /// Runs rows through all layers and appends the results to `out`.
    ///
    /// # Shapes
    /// `rows`: [M, I]; appended: [M, O]
    pub(crate) fn forward_rows(&self, rows: &[f32], hidden: &mut [Vec<f32>; 2], out: &mut Vec<f32>) {
        let inputs = self.inputs();
        let [from, to] = hidden;
        for rows in rows.chunks(BLOCK * inputs) {
            let count = rows.len() / inputs;
            for (i, layer) in self.layers.iter().enumerate() {
                let full = i == 0 && count == BLOCK;
                if i == 0 && !full {
                    from.clear();
                    from.extend_from_slice(rows);
                    from.resize(BLOCK * inputs, 0.0);
                }
                to.resize(BLOCK * layer.outputs, 0.0);
                let x = if full { rows } else { &from[..BLOCK * layer.inputs] };
                product(x, layer.inputs, &layer.weight, layer.outputs, to); // [BLOCK, O]
                let last = i + 1 == self.layers.len();
                for row in to.chunks_exact_mut(layer.outputs) {
                    for (v, bias) in row.iter_mut().zip(&layer.bias) {
                        *v += bias;
                        if !last {
                            *v = v.max(0.0);
                        }
                    }
                }
                std::mem::swap(from, to);
            }
            out.extend_from_slice(&from[..count * self.outputs()]);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use candle_core::Device;

    fn mlp() -> (TrainableMlp, Mlp) {
        let mut params = Params::new(&Device::Cpu);
        let net = TrainableMlp::new("enc", &[37, 19, 5], &mut params, &mut Rng::new(3, "test")).unwrap();
        let plain = net.to_mlp().unwrap();
        (net, plain)
    }

    #[test]
    fn a_row_is_the_same_whatever_travels_with_it() {
        let (net, plain) = mlp();
        let mut rng = Rng::new(1, "rows");
        let rows: Vec<f32> = (0..600 * 37).map(|_| rng.normal() as f32).collect();
        let (mut hidden, mut all) = (Default::default(), Vec::new());
        plain.forward_rows(&rows, &mut hidden, &mut all);
        for (start, end) in [(0, 1), (1, 300), (255, 257), (599, 600), (300, 600)] {
            let mut part = Vec::new();
            plain.forward_rows(&rows[start * 37..end * 37], &mut hidden, &mut part);
            assert_eq!(part, all[start * 5..end * 5], "rows {start} to {end}");
        }
        let tensor = Tensor::from_vec(rows, (600, 37), &Device::Cpu).unwrap();
        let trained = net.forward(&tensor).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(trained.iter().zip(&all).all(|(a, b)| (a - b).abs() < 1e-5));
    }

    #[test]
    fn arrays_bring_the_same_net_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("net.safetensors");
        let (_, plain) = mlp();
        crate::arrays::save_arrays(&path, &plain.arrays("enc")).unwrap();
        let mut arrays = ArraySet::open(&path).unwrap();
        let again = Mlp::load("enc", &[37, 19, 5], &mut arrays).unwrap();
        arrays.finish().unwrap();
        assert_eq!(again.arrays("enc"), plain.arrays("enc"));
    }
}
