//! What a T5 over codes is trained to do: write the target's codes and, where it has a vector head, say its vector.
//!
//! *Paper*, of the temperature: Wang et al., "Learnable Item Tokenization for Generative Recommendation" (LETTER),
//! 2405.07314, ranking-guided generation loss; of the vector: Yang et al., "Unifying Generative and Dense Retrieval for
//! Sequential Recommendation" (LIGER), 2411.18814.
//! *Differs from the papers*: the contrast is with the whole catalog, or with drawn items where it is large, not with
//! the batch: a batch is cut into parts, and what a part sees must not decide how hard the contrast is.

use candle_core::Tensor;
use sidereal_core::Error as CoreError;
use sidereal_nn::ops;
use sidereal_nn::rng::Rng;

use super::T5;
use crate::Result;
use crate::batches::Batch;
use crate::dropout::Dropout;
use crate::models::unit_length::unit_rows;

/// The contrast's temperature (LIGER's repository).
pub(in crate::models) const CONTRAST_TEMPERATURE: f32 = 0.07;
/// Items that a target is contrasted with: all, or so many drawn ones.
pub(super) const MOST_CANDIDATES: usize = 1 << 14;

/// The loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Objective {
    /// Share of the target code's probability that is spread over the codes it is chosen from.
    pub label_smoothing: f32,
    /// Divides the logits of codes. Answers use the logits as they are.
    pub temperature: f32,
    /// Weight of the contrast between the next item's vector and the others; 0 without.
    pub contrastive: f32,
    /// Decides which items the contrast draws in a large catalog.
    pub noise: u64,
}

impl Default for Objective {
    fn default() -> Self {
        Self { label_smoothing: 0.0, temperature: 1.0, contrastive: 0.0, noise: 0 }
    }
}

impl T5 {
    /// Mean cross-entropy of a batch's target codes.
    ///
    /// # Errors
    /// Whatever the device says.
    pub fn loss(&self, batch: &Batch, label_smoothing: f32, dropout: &Dropout) -> Result<Tensor> {
        self.objective(batch, &Objective { label_smoothing, ..Objective::default() }, dropout)
    }

    /// The loss of a batch.
    ///
    /// # Errors
    /// Whatever the device says; a contrast without vector head or target items.
    pub fn objective(&self, batch: &Batch, objective: &Objective, dropout: &Dropout) -> Result<Tensor> {
        let forward = self.forward(dropout);
        let x = self.decoder_states(&forward, batch)?; // [B, L, D]
        let (b, l) = (batch.rows, batch.levels);
        let args = ops::CrossEntropy {
            label_smoothing: objective.label_smoothing,
            temperature: objective.temperature,
            ignore: None,
        };
        let codes = match &self.extensions {
            Some(extensions) if extensions.level_heads => {
                let mut sum: Option<Tensor> = None;
                for level in 0..l {
                    let logits = forward.level_logits(&x.narrow(1, level, 1)?.squeeze(1)?, level)?; // [B, K]
                    let Some(logits) = logits else { return Err(defect("a level without head")) };
                    let first = extensions.vocab().level_range(level).start;
                    let code_of = |target: &[u32]| target[level].saturating_sub(first);
                    let targets: Vec<u32> = batch.target.chunks_exact(l).map(code_of).collect();
                    let loss = ops::cross_entropy(&logits, &Tensor::from_vec(targets, b, &self.device)?, &args)?;
                    sum = Some(sum.map_or(Ok(loss.clone()), |sum| sum + &loss)?);
                }
                (sum.ok_or_else(|| defect("targets without levels"))? / l as f64)?
            }
            _ => {
                let logits = forward.logits(&x.reshape((b * l, self.config.d_model))?)?; // [B * L, V]
                let targets = Tensor::from_slice(&batch.target, batch.target.len(), &self.device)?; // [B * L]
                ops::cross_entropy(&logits, &targets, &args)?
            }
        };
        if objective.contrastive == 0.0 {
            return Ok(codes);
        }
        let contrast = self.contrast(&x.narrow(1, 0, 1)?.squeeze(1)?, batch, objective.noise)?;
        Ok((codes + (contrast * f64::from(objective.contrastive))?)?)
    }

    /// Cross-entropy of the target among candidates by cosine over temperature; `x` is what follows the start token.
    ///
    /// # Shapes
    /// `x`: `[B, D]`; result: `[]`
    fn contrast(&self, x: &Tensor, batch: &Batch, noise: u64) -> Result<Tensor> {
        let (Some(head), Some(vectors)) = (&self.model.weights.added.vector_head, &self.vectors) else {
            return Err(defect("a contrast without vector head or item vectors"));
        };
        let items = vectors.dim(0)? - 1;
        if batch.target_items.len() != batch.rows || batch.target_items.iter().any(|&item| item as usize >= items) {
            return Err(defect("a contrast with targets that have no vector"));
        }
        let (candidates, targets) = if items <= MOST_CANDIDATES {
            (vectors.narrow(0, 0, items)?, batch.target_items.clone()) // [N, width]
        } else {
            let (drawn, targets) = draw(&batch.target_items, items, noise);
            (vectors.index_select(&Tensor::from_vec(drawn, ((),), &self.device)?, 0)?, targets) // [C, width]
        };
        let said = ops::linear(x, head)?; // [B, width]
        // The candidates have mean square 1, so this is their length.
        let logits = (ops::tied_head(&unit_rows(&said)?, &candidates)? * (vectors.dim(1)? as f64).powf(-0.5))?; // [B, C]
        let args = ops::CrossEntropy { temperature: CONTRAST_TEMPERATURE, ..ops::CrossEntropy::default() };
        ops::cross_entropy(&logits, &Tensor::from_vec(targets, batch.rows, &self.device)?, &args)
    }
}

/// Candidates, the targets among them, and each target's place.
fn draw(targets: &[u32], items: usize, noise: u64) -> (Vec<u32>, Vec<u32>) {
    let mut candidates: Vec<u32> = targets.to_vec();
    candidates.sort_unstable();
    candidates.dedup();
    let place = |target: &u32| candidates.partition_point(|candidate| candidate < target) as u32;
    let places = targets.iter().map(place).collect();
    let mut rng = Rng::new(noise, "contrast");
    let drawn = (0..MOST_CANDIDATES).map(|_| rng.below(items) as u32);
    let drawn: Vec<u32> = drawn.filter(|item| candidates.binary_search(item).is_err()).collect();
    candidates.extend(drawn);
    (candidates, places)
}

fn defect(what: &str) -> crate::Error {
    CoreError::input("T5", what, "this is a defect: report it").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drawn_candidates_hold_every_target_once() {
        let targets = [7, 3, 90_000, 3];
        let (candidates, places) = draw(&targets, 100_000, 5);
        for (target, &place) in targets.iter().zip(&places) {
            assert_eq!(candidates[place as usize], *target);
            assert_eq!(candidates.iter().filter(|candidate| *candidate == target).count(), 1);
        }
        assert!(candidates.len() > MOST_CANDIDATES / 2 && candidates.iter().all(|&item| item < 100_000));
        assert_eq!(draw(&targets, 100_000, 5), (candidates, places));
    }
}
