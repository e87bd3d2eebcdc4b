//! RPG's forward: histories to vectors, vectors to scores of codes.

use candle_core::{DType, Device, Tensor};
use sidereal_core::ItemIndex;
use sidereal_nn::ops::{self, CodeHeads};

use super::weights::{Sizes, Weights};
use super::{Pooling, RpgConfig};
use crate::Result;
use crate::dropout::Dropout;
use crate::models::parallel::items::Items;
use crate::models::parallel::{CodeReader, Settings, filled, without_empty};
use crate::models::repeats::Repeats;

/// Added to the mean square of a code's embedding before it is divided by its length.
const UNIT_EPS: f64 = 1e-12;

/// Weights and what they are used with.
#[derive(Debug)]
pub(super) struct Forward {
    pub(super) config: RpgConfig,
    pub(super) sizes: Sizes,
    pub(super) weights: Weights,
}

impl Forward {
    /// Items as the transformer sees them, without their places: `[B * T, D]`.
    fn items(&self, items: &Items, histories: &[&[ItemIndex]], longest: usize) -> Result<Tensor> {
        let filled = filled(histories, longest); // [B * T]
        let (count, levels, device) = (filled.len(), items.levels(), self.device());
        let places: Vec<u32> = filled.iter().flat_map(|&item| items.places(item)).copied().collect();
        let scale = match self.config.pooling {
            Pooling::Mean => 1.0 / levels as f32,
            Pooling::Sum => 1.0,
        };
        let places = Tensor::from_vec(places, (count, levels), device)?;
        let mut x = ops::embedding_bag(&places, &self.weights.codes, scale)?; // [B * T, D]
        if let Some(projection) = &self.weights.vectors {
            let vectors: Vec<f32> = filled.iter().flat_map(|&item| items.vector(item)).copied().collect();
            let vectors = Tensor::from_vec(vectors, (count, items.vector_width()), device)?;
            x = (x + ops::linear(&vectors, projection)?)?;
        }
        if let Some(table) = &self.weights.items {
            let known = table.dim(0)? as u32;
            let ids: Vec<u32> = filled.iter().map(|&item| if item < known { item } else { 0 }).collect();
            let mut learnt = ops::embedding(&Tensor::from_vec(ids, count, device)?, table)?;
            if filled.iter().any(|&item| item >= known) {
                let mask = filled.iter().map(|&item| f32::from(u8::from(item < known))).collect();
                learnt = learnt.broadcast_mul(&Tensor::from_vec(mask, (count, 1), device)?)?;
            }
            x = (x + learnt)?;
        }
        without_empty(x, histories, longest)
    }
}

impl CodeReader for Forward {
    fn settings(&self) -> Settings {
        self.config.settings()
    }

    fn codes(&self) -> &[usize] {
        &self.sizes.codes
    }

    fn device(&self) -> &Device {
        self.weights.codes.device()
    }

    fn positions(&self, items: &Items, histories: &[&[ItemIndex]], dropout: &Dropout) -> Result<Tensor> {
        let longest = histories.iter().map(|history| history.len()).max().unwrap_or(0).max(1);
        let rows = histories.len();
        let x = self.items(items, histories, longest)?.reshape((rows, longest, self.sizes.width()))?; // [B, T, D]
        self.weights.body.forward(&x, dropout)
    }

    /// Of length 1 where scores are cosines.
    fn code_table(&self) -> Result<Tensor> {
        let codes = &self.weights.codes;
        if !self.config.cosine {
            return Ok(codes.clone());
        }
        // x / sqrt(mean(x^2)) is sqrt(D) long.
        let shorter = Tensor::full((self.sizes.width() as f32).powf(-0.5), self.sizes.width(), self.device())?;
        ops::rms_norm(codes, &shorter.to_dtype(DType::F32)?, UNIT_EPS)
    }

    fn code_scores(&self, vectors: &Tensor, table: &Tensor) -> Result<Tensor> {
        let args = CodeHeads { codes: self.sizes.codes.clone(), unit: self.config.cosine };
        ops::code_heads(vectors, &self.weights.heads, table, &args)
    }

    fn repeats(&self) -> Option<&Repeats> {
        self.weights.repeats.as_ref()
    }

    fn frozen(&self) -> Box<dyn CodeReader> {
        let (config, sizes) = (self.config.clone(), self.sizes.clone());
        Box::new(Self { config, sizes, weights: self.weights.detached() })
    }
}
