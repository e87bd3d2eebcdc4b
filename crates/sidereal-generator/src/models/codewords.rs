//! The tokenizer's codewords in a model's width, for code embeddings that begin as them instead of at random.
//!
//! A level's codewords are taken around their mean and mapped by a random orthogonal map, the same for all levels of one
//! width, which keeps their distances where the width suffices.

use sidereal_core::Embeddings;
use sidereal_nn::rng::Rng;

/// A codebook `[K, d]` in width D: `[K, D]`, every column with mean 0.
pub(super) fn centred_rows(codebook: &Embeddings, d: usize, seed: u64) -> Vec<f64> {
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
    rows
}

/// The mean square of some numbers; 0 of none.
pub(super) fn mean_square(values: &[f64]) -> f64 {
    values.iter().map(|v| v * v).sum::<f64>() / values.len().max(1) as f64
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
    use super::*;

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
