//! What is done to embeddings before they are quantized: fitted once, recorded, and replayed on every new item.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use sidereal_core::{Embeddings, Result};

use crate::arrays::{ArraySet, NamedArray};
use crate::kmeans::normalise;

const MEAN: &str = "pre_step.mean";
const DEVIATION: &str = "pre_step.deviation";
/// Rows of one partial sum; fixed, so that sums do not depend on the number of threads.
const BLOCK: usize = 4096;

/// Which pre-step a tokenizer applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PreStep {
    /// Vectors are taken as they are.
    #[default]
    None,
    /// Every vector is scaled to length 1; a zero vector stays zero.
    L2Normalise,
    /// Every dimension is shifted and scaled to mean 0 and deviation 1 over the training items; a constant dimension
    /// becomes 0. RQ-VAE needs it on embeddings whose dimensions differ in scale, or its codes collapse.
    Standardise,
}

/// A pre-step with what it learnt from the training items.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum FittedPreStep {
    None,
    L2Normalise,
    /// `mean` and `deviation`: `[D]`
    Standardise {
        mean: Vec<f32>,
        deviation: Vec<f32>,
    },
}

impl PreStep {
    pub(crate) fn fit(self, embeddings: &Embeddings) -> FittedPreStep {
        match self {
            Self::None => FittedPreStep::None,
            Self::L2Normalise => FittedPreStep::L2Normalise,
            Self::Standardise => {
                let count = embeddings.rows().max(1) as f64;
                let mean: Vec<f64> = column_sums(embeddings, |_, v| v).iter().map(|sum| sum / count).collect();
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
                FittedPreStep::Standardise { mean: mean.iter().map(|&m| m as f32).collect(), deviation }
            }
        }
    }

    pub(crate) fn load(self, width: usize, arrays: &mut ArraySet) -> Result<FittedPreStep> {
        Ok(match self {
            Self::None => FittedPreStep::None,
            Self::L2Normalise => FittedPreStep::L2Normalise,
            Self::Standardise => FittedPreStep::Standardise {
                mean: arrays.take(MEAN, &[width])?,
                deviation: arrays.take(DEVIATION, &[width])?,
            },
        })
    }
}

impl FittedPreStep {
    /// Applies the step to rows in place, [M, D].
    pub(crate) fn apply(&self, rows: &mut [f32], width: usize) {
        match self {
            Self::None => {}
            Self::L2Normalise => rows.chunks_exact_mut(width).for_each(|row| {
                normalise(row);
            }),
            Self::Standardise { mean, deviation } => rows.chunks_exact_mut(width).for_each(|row| {
                for (v, (mean, deviation)) in row.iter_mut().zip(mean.iter().zip(deviation)) {
                    *v = (*v - mean) / deviation;
                }
            }),
        }
    }

    pub(crate) fn arrays(&self) -> Vec<NamedArray> {
        match self {
            Self::None | Self::L2Normalise => Vec::new(),
            Self::Standardise { mean, deviation } => vec![
                NamedArray::new(MEAN, &[mean.len()], mean.clone()),
                NamedArray::new(DEVIATION, &[deviation.len()], deviation.clone()),
            ],
        }
    }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn standardised_columns_have_mean_zero_and_deviation_one_and_constants_stay_finite() {
        let rows = Embeddings::new(4, 3, vec![1., 7., 0.1, 2., 7., 0.1, 3., 7., 0.1, 6., 7., 0.1]).unwrap();
        let step = PreStep::Standardise.fit(&rows);
        let mut values = rows.values().to_vec();
        step.apply(&mut values, 3);
        let column: Vec<f32> = values.iter().step_by(3).copied().collect();
        assert!(column.iter().sum::<f32>().abs() < 1e-6);
        assert!((column.iter().map(|v| v * v).sum::<f32>() / 4.0 - 1.0).abs() < 1e-6);
        assert!(values.iter().skip(1).step_by(3).chain(values.iter().skip(2).step_by(3)).all(|v| v.abs() < 1e-6));
    }

    #[test]
    fn normalised_rows_have_length_one_and_zero_rows_stay_zero() {
        let mut rows = vec![3.0, 4.0, 0.0, 0.0];
        FittedPreStep::L2Normalise.apply(&mut rows, 2);
        assert_eq!(rows, [0.6, 0.8, 0.0, 0.0]);
    }
}
