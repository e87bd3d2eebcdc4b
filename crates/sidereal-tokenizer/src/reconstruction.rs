//! How far items are from what their codes give back.
//!
//! That is told in the space of the inputs after the pre-steps. Behind an encoder that was retrained for vectors of
//! another model the decoder still gives back vectors of the old one; there it is told in the space of the latents.

use rayon::prelude::*;

use sidereal_core::{Embeddings, SemanticIds};

use crate::Result;
use crate::algebra::product::{squared_distance, squared_norm};
use crate::quantizers::Quantizer;

/// One item beside what its codes give back.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct ItemError {
    /// |x - x'|^2
    pub(crate) squared_error: f64,
    /// |x|^2
    pub(crate) squared_length: f64,
}

/// Measures every item.
///
/// # Shapes
/// `prepared`: [N, D]; `ids`: [N, L]; the answer: `[N]`
pub(crate) fn item_errors(
    quantizer: &dyn Quantizer,
    prepared: &Embeddings,
    ids: &SemanticIds,
) -> Result<Vec<ItemError>> {
    if quantizer.reconstructs_inputs() {
        return Ok(compare(prepared, &quantizer.reconstruct(ids)?));
    }
    let latents = quantizer.latents(prepared)?;
    let width = latents.width();
    let mut sums = vec![0f32; ids.len() * width]; // [N, d]
    let codebooks: Vec<&[f32]> = (0..ids.levels()).map(|level| quantizer.codebook(level)).collect();
    sums.par_chunks_mut(width).zip(ids.codes().par_chunks(ids.levels())).for_each(|(sum, codes)| {
        for (codebook, &code) in codebooks.iter().zip(codes) {
            let codeword = &codebook[usize::from(code) * width..][..width];
            sum.iter_mut().zip(codeword).for_each(|(sum, c)| *sum += c);
        }
    });
    Ok(compare(&latents, &Embeddings::new(ids.len(), width, sums)?))
}

/// The mean squared error of all items.
pub(crate) fn mean_error(quantizer: &dyn Quantizer, prepared: &Embeddings, ids: &SemanticIds) -> Result<f64> {
    let errors = item_errors(quantizer, prepared, ids)?;
    Ok(errors.iter().map(|item| item.squared_error).sum::<f64>() / errors.len().max(1) as f64)
}

fn compare(rows: &Embeddings, back: &Embeddings) -> Vec<ItemError> {
    let pairs = rows.values().par_chunks(rows.width()).zip(back.values().par_chunks(back.width()));
    pairs.map(|(x, y)| ItemError { squared_error: squared_distance(x, y), squared_length: squared_norm(x) }).collect()
}
