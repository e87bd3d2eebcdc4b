//! A square matrix applied to rows.
//!
//! Rows go through the product in blocks of one size, filled up where rows end, so that every row is summed in the same
//! order: a row's result does not depend on the rows beside it.

use rayon::prelude::*;

use crate::algebra::product::{product, transposed};

/// Rows of one product.
const BLOCK: usize = 256;

/// An orthogonal matrix R: x to x R, and back.
#[derive(Debug, Clone)]
pub(crate) struct Rotation {
    width: usize,
    /// [D, D]
    matrix: Vec<f32>,
    /// [D, D]
    inverse: Vec<f32>,
}

impl Rotation {
    pub(crate) fn new(matrix: Vec<f32>, width: usize) -> Self {
        Self { width, inverse: transposed(&matrix, width), matrix }
    }

    /// The one that changes nothing.
    pub(crate) fn identity(width: usize) -> Self {
        Self::new((0..width * width).map(|at| f32::from(at % (width + 1) == 0)).collect(), width)
    }

    /// D.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// R, [D, D].
    pub(crate) fn matrix(&self) -> &[f32] {
        &self.matrix
    }

    /// Rotates a block on the calling thread; `padded` is scratch.
    ///
    /// # Shapes
    /// `rows`: [M, D]; `out` becomes [M, D]
    pub(crate) fn rotate_rows(&self, rows: &[f32], padded: &mut Vec<f32>, out: &mut Vec<f32>) {
        out.resize(rows.len(), 0.0);
        apply(&self.matrix, self.width, rows, padded, out);
    }

    /// Rotates all rows, over all threads, [N, D].
    pub(crate) fn rotate(&self, rows: &[f32]) -> Vec<f32> {
        apply_all(&self.matrix, self.width, rows)
    }

    /// Rotates all rows back, over all threads, [N, D].
    pub(crate) fn rotate_back(&self, rows: &[f32]) -> Vec<f32> {
        apply_all(&self.inverse, self.width, rows)
    }
}

fn apply_all(matrix: &[f32], width: usize, rows: &[f32]) -> Vec<f32> {
    let mut out = vec![0f32; rows.len()];
    let blocks = rows.par_chunks(BLOCK * width).zip(out.par_chunks_mut(BLOCK * width));
    blocks.for_each_init(Vec::new, |padded, (rows, out)| apply(matrix, width, rows, padded, out));
    out
}

fn apply(matrix: &[f32], width: usize, rows: &[f32], padded: &mut Vec<f32>, out: &mut [f32]) {
    for (rows, out) in rows.chunks(BLOCK * width).zip(out.chunks_mut(BLOCK * width)) {
        if rows.len() == BLOCK * width {
            product(rows, width, matrix, width, out);
            continue;
        }
        padded.clear();
        padded.extend_from_slice(rows);
        padded.resize(2 * BLOCK * width, 0.0);
        let (rows, whole) = padded.split_at_mut(BLOCK * width);
        product(rows, width, matrix, width, whole);
        out.copy_from_slice(&whole[..out.len()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sidereal_nn::rng::Rng;

    #[test]
    fn a_row_is_the_same_whatever_travels_with_it() {
        let mut rng = Rng::new(1, "rows");
        let mut noise = |count: usize| -> Vec<f32> { (0..count).map(|_| rng.normal() as f32).collect() };
        let (rows, rotation) = (noise(600 * 19), Rotation::new(noise(19 * 19), 19));
        let all = rotation.rotate(&rows);
        let (mut padded, mut part) = (Vec::new(), Vec::new());
        for (start, end) in [(0, 1), (1, 300), (255, 257), (599, 600), (0, 600)] {
            rotation.rotate_rows(&rows[start * 19..end * 19], &mut padded, &mut part);
            assert_eq!(part, all[start * 19..end * 19], "rows {start} to {end}");
        }
        assert_eq!(Rotation::identity(19).rotate(&rows), rows);
        assert_eq!(Rotation::identity(19).rotate_back(&rows), rows);
    }
}
