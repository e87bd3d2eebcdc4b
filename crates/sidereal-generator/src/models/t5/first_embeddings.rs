//! Code embeddings that begin as the tokenizer's codewords instead of at random.
//!
//! A level's codewords are taken around their mean, mapped to the model's width by a random orthogonal map (which keeps
//! their distances where the width suffices) and scaled to the deviation that embeddings begin with. Levels without
//! codebook, such as a suffix, stay random.

use candle_core::Tensor;
use sidereal_core::{CodeVocab, Embeddings};
use sidereal_nn::rng::Rng;

use super::T5;
use crate::Result;

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

/// A codebook as rows of the embedding table: `[K, D]`.
fn first_rows(codebook: &Embeddings, d: usize, seed: u64) -> Vec<f32> {
    let (codes, width) = (codebook.rows(), codebook.width());
    let mut mean = vec![0f64; width];
    for code in 0..codes {
        mean.iter_mut().zip(codebook.row(code)).for_each(|(m, v)| *m += f64::from(*v) / codes as f64);
    }
    let map = (width != d).then(|| orthogonal(width, d, seed));
    let mut rows = Vec::with_capacity(codes * d);
    for code in 0..codes {
        let centred: Vec<f64> = codebook.row(code).iter().zip(&mean).map(|(v, m)| f64::from(*v) - m).collect();
        match &map {
            None => rows.extend(centred),
            Some(map) => rows.extend(map.iter().map(|row| row.iter().zip(&centred).map(|(a, b)| a * b).sum::<f64>())),
        }
    }
    let square = rows.iter().map(|v| v * v).sum::<f64>() / rows.len().max(1) as f64;
    let scale = if square > 0.0 { square.powf(-0.5) } else { 0.0 };
    rows.iter().map(|v| (v * scale) as f32).collect()
}

/// A random map of orthonormal rows or columns, whichever are fewer: `[to]` of `[from]`.
fn orthogonal(from: usize, to: usize, seed: u64) -> Vec<Vec<f64>> {
    let mut rng = Rng::new(seed, "codebook map");
    let (count, length) = (from.min(to), from.max(to));
    let mut basis: Vec<Vec<f64>> = Vec::with_capacity(count);
    while basis.len() < count {
        let mut vector: Vec<f64> = (0..length).map(|_| rng.normal()).collect();
        // Twice is enough for orthogonality to rounding.
        for _ in 0..2 {
            for other in &basis {
                let along: f64 = vector.iter().zip(other).map(|(a, b)| a * b).sum();
                vector.iter_mut().zip(other).for_each(|(v, o)| *v -= along * o);
            }
        }
        let norm = vector.iter().map(|v| v * v).sum::<f64>().sqrt();
        if norm > 1e-6 {
            vector.iter_mut().for_each(|v| *v /= norm);
            basis.push(vector);
        }
    }
    if from >= to { basis } else { (0..to).map(|row| basis.iter().map(|column| column[row]).collect()).collect() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
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

    #[test]
    fn the_map_has_orthonormal_rows_or_columns() {
        for (from, to) in [(5, 9), (9, 5), (1, 3)] {
            let map = orthogonal(from, to, 2);
            let column = |j: usize| map.iter().map(|row| row[j]).collect::<Vec<f64>>();
            let vectors: Vec<Vec<f64>> = if from >= to { map.clone() } else { (0..from).map(column).collect() };
            for (i, a) in vectors.iter().enumerate() {
                for (j, b) in vectors.iter().enumerate() {
                    let dot: f64 = a.iter().zip(b).map(|(x, y)| x * y).sum();
                    assert!((dot - f64::from(u8::from(i == j))).abs() < 1e-9);
                }
            }
        }
    }
}
