//! The contrast of domains: in a catalog of several, items of one domain come nearer than items of others.
//!
//! InfoNCE on cosines of quantized latents in which all items of the batch with the same domain are positives (Khosla
//! et al., *Supervised Contrastive Learning*, arXiv 2004.11362, their mean outside the logarithm). Items that are alone
//! in their domain are left out as queries.
//!
//! *Paper*: Jin et al., *Generative Multi-Target Cross-Domain Recommendation* (GMC), arXiv 2507.12871.
//! *Differs from the paper*: weight and temperature are ours, because it names none.
//!
//! # Shapes
//! Quantized latents [B, d], domains `[N]`.

use candle_core::{D, Tensor};
use serde::{Deserialize, Serialize};

use sidereal_nn::ops;

use super::contrast::{BARRED, unit};
use super::{AlignedBatch, check_temperature, check_weight};
use crate::Result;
use crate::training_items::TrainingItems;

/// Settings of the contrast of domains.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DomainConfig {
    /// Weight in the training's loss.
    pub weight: f64,
    /// Divides the cosines.
    pub temperature: f32,
}

impl Default for DomainConfig {
    fn default() -> Self {
        Self { weight: 0.01, temperature: 0.07 }
    }
}

impl DomainConfig {
    pub(super) fn check(&self, key: &str) -> Result<()> {
        check_weight(key, self.weight)?;
        check_temperature(key, self.temperature)
    }
}

pub(super) struct Domain {
    config: DomainConfig,
    domains: Vec<u32>,
}

impl Domain {
    pub(super) fn new(config: &DomainConfig, items: &TrainingItems<'_>) -> Result<Self> {
        Ok(Self { config: config.clone(), domains: items.needed_domains("align.domain")?.to_vec() })
    }

    pub(super) fn loss(&self, batch: &AlignedBatch<'_>) -> Result<Tensor> {
        let n = batch.items.len();
        let device = batch.quantized.device();
        let domain = |i: usize| self.domains[batch.items[i]];
        let (mut bars, mut shares, mut counts) = (vec![0f32; n * n], vec![0f32; n * n], vec![0f32; n]);
        for i in 0..n {
            bars[i * n + i] = BARRED;
            let positives: Vec<usize> = (0..n).filter(|&j| j != i && domain(j) == domain(i)).collect();
            for &j in &positives {
                shares[i * n + j] = 1.0 / positives.len() as f32;
            }
            counts[i] = if positives.is_empty() { 0.0 } else { 1.0 };
        }
        let kept = f64::from(counts.iter().sum::<f32>()).max(1.0);
        let latents = unit(batch.quantized)?;
        let cosines = (ops::tied_head(&latents, &latents)? / f64::from(self.config.temperature))?; // [B, B]
        let positive = (&cosines * Tensor::from_vec(shares, (n, n), device)?)?.sum(D::Minus1)?; // [B]
        let logits = (cosines + Tensor::from_vec(bars, (n, n), device)?)?;
        let top = logits.max_keepdim(D::Minus1)?.detach(); // [B, 1]
        let all = (logits.broadcast_sub(&top)?.exp()?.sum(D::Minus1)?.log()? + top.squeeze(1)?)?; // [B]
        let losses = ((all - positive)? * Tensor::from_vec(counts, n, device)?)?;
        Ok((losses.sum_all()? * (self.config.weight / kept))?)
    }
}
