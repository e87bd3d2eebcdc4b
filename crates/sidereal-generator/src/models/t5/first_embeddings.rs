//! Code embeddings that begin as the tokenizer's codewords instead of at random.
//!
//! A level's codewords ([`crate::models::codewords`]) are scaled to the deviation that embeddings begin with. Levels
//! without codebook, such as a suffix, stay random.

use candle_core::Tensor;
use sidereal_core::{CodeVocab, Embeddings};

use super::T5;
use crate::Result;
use crate::models::codewords::{centred_rows, mean_square};

impl T5 {
    /// Puts the codebooks, one a level from level 0 on, in the place of the codes' first embeddings. The codebooks fit
    /// `vocab`.
    ///
    /// # Errors
    /// Whatever the device says.
    pub fn begin_with_codebooks(&self, vocab: &CodeVocab, codebooks: &[Embeddings], seed: u64) -> Result<()> {
        let d = self.config.d_model;
        let Some(table) = self.params().get("shared") else { return Ok(()) };
        let mut values = table.flatten_all()?.to_vec1::<f32>()?;
        for (level, codebook) in codebooks.iter().enumerate().take(vocab.levels()) {
            let rows = first_rows(codebook, d, seed);
            let start = vocab.level_range(level).start as usize * d;
            values[start..start + rows.len()].copy_from_slice(&rows);
        }
        Ok(table.set(&Tensor::from_vec(values, table.dims(), table.device())?)?)
    }
}

/// A codebook as rows of the embedding table, of deviation 1: `[K, D]`.
fn first_rows(codebook: &Embeddings, d: usize, seed: u64) -> Vec<f32> {
    let rows = centred_rows(codebook, d, seed);
    let square = mean_square(&rows);
    let scale = if square > 0.0 { square.powf(-0.5) } else { 0.0 };
    rows.iter().map(|v| (v * scale) as f32).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use sidereal_nn::rng::Rng;

    use super::*;

    fn codebook(codes: usize, width: usize) -> Embeddings {
        let mut rng = Rng::new(1, "codebook");
        Embeddings::new(codes, width, (0..codes * width).map(|_| rng.normal() as f32 * 0.02 + 5.0).collect()).unwrap()
    }

    fn distance(a: &[f32], b: &[f32]) -> f64 {
        a.iter().zip(b).map(|(x, y)| f64::from(x - y).powi(2)).sum::<f64>().sqrt()
    }

    #[test]
    fn distances_between_codewords_are_kept_up_to_one_scale() {
        for (width, d) in [(6, 6), (6, 10)] {
            let book = codebook(9, width);
            let rows = first_rows(&book, d, 3);
            let of = |i: usize| &rows[i * d..(i + 1) * d];
            let scale = distance(of(0), of(1)) / distance(book.row(0), book.row(1));
            for (i, j) in [(0, 2), (3, 8), (4, 5)] {
                let ratio = distance(of(i), of(j)) / distance(book.row(i), book.row(j));
                assert!((ratio / scale - 1.0).abs() < 1e-4, "{ratio} {scale}");
            }
        }
    }

    #[test]
    fn first_embeddings_have_mean_0_and_deviation_1_whatever_the_widths() {
        for (width, d) in [(4, 4), (3, 8), (16, 8), (5, 1)] {
            let rows = first_rows(&codebook(64, width), d, 3);
            let mean = rows.iter().map(|v| f64::from(*v)).sum::<f64>() / rows.len() as f64;
            let square = rows.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / rows.len() as f64;
            assert!(mean.abs() < 1e-4 && (square - 1.0).abs() < 1e-4, "{width} -> {d}: {mean} {square}");
        }
        assert_eq!(first_rows(&Embeddings::new(3, 2, vec![1.0; 6]).unwrap(), 4, 1), [0.0; 12], "one point only");
    }
}
