//! The net in training: maps, bounds, rounding with straight-through gradients, decoder.

use candle_core::Tensor;

use sidereal_nn::params::Params;
use sidereal_nn::rng::Rng;

use super::super::net_training::Net;
use super::{Distance, Fsq, FsqConfig, Layout, map_name};
use crate::Result;
use crate::mlp::TrainableMlp;
use crate::quantizers::{Quantizer, Training};

/// Maps and decoder as parameters: `slices.{i}`, `dec`.
pub(super) struct FsqNet {
    params: Params,
    maps: Vec<TrainableMlp>,
    decoder: TrainableMlp,
    layout: Layout,
    /// Of every level.
    bounds: Vec<Bound>,
    loss: Distance,
}

/// A level's grid on the device, all [1, b].
struct Bound {
    half: Tensor,
    offset: Tensor,
    shift: Tensor,
    half_width: Tensor,
}

impl FsqNet {
    pub(super) fn new(config: &FsqConfig, layout: Layout, training: &Training<'_>) -> Result<Self> {
        let mut params = Params::new(&training.device);
        let mut rng = Rng::new(training.seed, "fsq parameters");
        let widths = layout.map_widths();
        let maps = widths.iter().enumerate().map(|(i, &numbers)| {
            TrainableMlp::new(&map_name(i), &[layout.slice, numbers], false, &mut params, &mut rng)
        });
        let maps = maps.collect::<Result<_>>()?;
        let decoder = TrainableMlp::new("dec", &layout.decoder_widths(&config.hidden), false, &mut params, &mut rng)?;
        let bounds = layout.grids.iter().map(|grid| {
            let row = |values: Vec<f32>| Tensor::from_vec(values, (1, grid.width()), &training.device);
            Ok(Bound {
                half: row(grid.half.clone())?,
                offset: row(grid.offset.clone())?,
                shift: row(grid.shift.clone())?,
                half_width: row((0..grid.width()).map(|i| grid.half_width(i) as f32).collect())?,
            })
        });
        let bounds = bounds.collect::<Result<_>>()?;
        Ok(Self { params, maps, decoder, layout, bounds, loss: config.loss })
    }

    /// Codewords of all levels side by side, with the gradients of the bounded numbers.
    ///
    /// # Shapes
    /// [B, D] to [B, d]
    fn quantize(&self, x: &Tensor) -> Result<Tensor> {
        let mut levels = Vec::new();
        for ((columns, &map), bound) in self.layout.columns.iter().zip(&self.layout.map_of).zip(&self.bounds) {
            let mut slice = x.narrow(1, columns.start, columns.len())?.contiguous()?;
            let missing = self.layout.slice - columns.len();
            if missing > 0 {
                let zeros = Tensor::zeros((x.dim(0)?, missing), x.dtype(), x.device())?;
                slice = Tensor::cat(&[&slice, &zeros], 1)?;
            }
            let numbers = self.maps[map].forward_by_layers(&slice)?; // [B, b]
            let bounded = numbers.broadcast_add(&bound.shift)?.tanh()?;
            let bounded = bounded.broadcast_mul(&bound.half)?.broadcast_sub(&bound.offset)?;
            // The value is the rounded number, the gradient goes to the one before.
            let fixed = bounded.detach();
            let rounded = (&bounded + (fixed.round()? - &fixed)?)?;
            levels.push(rounded.broadcast_div(&bound.half_width)?);
        }
        Ok(Tensor::cat(&levels, 1)?)
    }
}

impl Net for FsqNet {
    const NAME: &'static str = "fsq";

    fn params(&self) -> &Params {
        &self.params
    }

    fn loss(&mut self, x: &Tensor) -> Result<Tensor> {
        let difference = (self.decoder.forward_by_layers(&self.quantize(x)?)? - x)?;
        Ok(match self.loss {
            Distance::L1 => difference.abs()?.mean_all()?,
            Distance::L2 => difference.sqr()?.mean_all()?,
        })
    }

    fn to_quantizer(&self) -> Result<Box<dyn Quantizer>> {
        let maps = self.maps.iter().map(TrainableMlp::to_mlp).collect::<Result<_>>()?;
        Ok(Box::new(Fsq::new(self.layout.clone(), maps, self.decoder.to_mlp()?)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use candle_core::Device;
    use sidereal_core::{Embeddings, NoProgress};

    use super::*;
    use crate::encode::encode_prepared;

    #[test]
    fn the_net_in_training_rounds_to_the_codewords_that_encoding_finds_and_every_parameter_learns() {
        let mut rng = Rng::new(2, "rows");
        let rows = Embeddings::new(50, 11, (0..550).map(|_| rng.normal() as f32).collect()).unwrap();
        for loss in [Distance::L1, Distance::L2] {
            let config = FsqConfig { codes: vec![30, 8, 30], hidden: vec![9], loss, ..FsqConfig::default() };
            let layout = Layout::new(config.grids().unwrap(), 11).unwrap();
            let mut net = FsqNet::new(&config, layout, &Training::new(3, &NoProgress)).unwrap();
            let x = Tensor::from_slice(rows.values(), (50, 11), &Device::Cpu).unwrap();
            let trained = net.quantize(&x).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let quantizer = net.to_quantizer().unwrap();
            let ids = encode_prepared(&*quantizer, &rows).unwrap();
            let mut want = Vec::new();
            for i in 0..50 {
                for (level, &code) in ids.codes()[i * 3..][..3].iter().enumerate() {
                    let book = quantizer.codebook(level);
                    let width = book.len() / quantizer.codes_per_level()[level] as usize;
                    want.extend_from_slice(&book[code as usize * width..][..width]);
                }
            }
            assert!(trained.iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-5));
            let gradients = net.loss(&x).unwrap().backward().unwrap();
            for (name, var) in net.params.vars() {
                let sum = gradients.get(var).unwrap().abs().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
                assert!(sum > 0.0, "{name} has no gradient");
            }
        }
    }
}
