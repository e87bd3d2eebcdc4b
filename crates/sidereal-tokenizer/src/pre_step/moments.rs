//! Mean and deviation of every dimension over the training items.

use rayon::prelude::*;

use sidereal_core::{Embeddings, Result};

use crate::arrays::{ArraySet, NamedArray};

/// Rows of one partial sum; fixed, so that sums do not depend on the number of threads.
const BLOCK: usize = 4096;

/// # Shapes
/// Both `[D]`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Moments {
    pub(super) mean: Vec<f32>,
    /// 1 for a constant dimension.
    pub(super) deviation: Vec<f32>,
}

impl Moments {
    pub(super) fn fit(embeddings: &Embeddings) -> Self {
        let count = embeddings.rows().max(1) as f64;
        let mean = column_means(embeddings);
        let squares = column_sums(embeddings, |column, v| (v - mean[column]).powi(2));
        let deviation = squares
            .iter()
            .zip(&mean)
            .map(|(sum, mean)| {
                let deviation = (sum / count).sqrt();
                // A constant dimension leaves only rounding; dividing by that would blow it up.
                if deviation > 1e-6 * mean.abs() && deviation > 0.0 { deviation as f32 } else { 1.0 }
            })
            .collect();
        Self { mean: mean.iter().map(|&m| m as f32).collect(), deviation }
    }

    pub(super) fn load(name: &str, width: usize, arrays: &mut ArraySet) -> Result<Self> {
        Ok(Self {
            mean: arrays.take(&format!("{name}.mean"), &[width])?,
            deviation: arrays.take(&format!("{name}.deviation"), &[width])?,
        })
    }

    /// Shifts and scales a row in place, `[D]`.
    pub(super) fn standardise(&self, row: &mut [f32]) {
        for (v, (mean, deviation)) in row.iter_mut().zip(self.mean.iter().zip(&self.deviation)) {
            *v = (*v - mean) / deviation;
        }
    }

    pub(super) fn arrays(&self, name: &str) -> Vec<NamedArray> {
        vec![
            NamedArray::new(format!("{name}.mean"), &[self.mean.len()], self.mean.clone()),
            NamedArray::new(format!("{name}.deviation"), &[self.deviation.len()], self.deviation.clone()),
        ]
    }
}

/// `[D]`
pub(super) fn column_means(embeddings: &Embeddings) -> Vec<f64> {
    let count = embeddings.rows().max(1) as f64;
    column_sums(embeddings, |_, v| v).iter().map(|sum| sum / count).collect()
}

/// Sums of `f(column, value)` over the rows, `[D]`.
fn column_sums(embeddings: &Embeddings, f: impl Fn(usize, f64) -> f64 + Sync) -> Vec<f64> {
    let width = embeddings.width();
    let partial: Vec<Vec<f64>> = embeddings
        .values()
        .par_chunks(BLOCK * width)
        .map(|rows| {
            let mut sums = vec![0.0; width];
            for row in rows.chunks_exact(width) {
                sums.iter_mut().zip(row).enumerate().for_each(|(column, (sum, &v))| *sum += f(column, v.into()));
            }
            sums
        })
        .collect();
    partial.iter().fold(vec![0.0; width], |mut total, sums| {
        total.iter_mut().zip(sums).for_each(|(t, s)| *t += s);
        total
    })
}
