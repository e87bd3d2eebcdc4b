//! What is done to embeddings before they are quantized: fitted once, recorded, and replayed on every new item.
//!
//! Steps run in the order of their list, and a step may change the width. What a step makes of a row depends on
//! nothing but the row and what was fitted.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use sidereal_core::{Embeddings, Result};

use crate::arrays::{ArraySet, NamedArray};
use crate::kmeans::normalise;
use crate::training_items::TrainingItems;

/// Rows of one partial sum; fixed, so that sums do not depend on the number of threads.
const BLOCK: usize = 4096;

/// One step of a list; in a recipe `pre_steps = ["l2-normalise"]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PreStep {
    /// Every vector is scaled to length 1; a zero vector stays zero.
    L2Normalise,
    /// Every dimension is shifted and scaled to mean 0 and deviation 1 over the training items; a constant dimension
    /// becomes 0. RQ-VAE needs it on embeddings whose dimensions differ in scale, or its codes collapse.
    Standardise,
}

/// A step with what it learnt from the training items.
#[derive(Debug, Clone, PartialEq)]
enum Fitted {
    L2Normalise,
    /// `mean` and `deviation`: `[D]`
    Standardise {
        mean: Vec<f32>,
        deviation: Vec<f32>,
    },
}

impl PreStep {
    fn fit(&self, embeddings: &Embeddings) -> Result<Fitted> {
        Ok(match self {
            Self::L2Normalise => Fitted::L2Normalise,
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
                Fitted::Standardise { mean: mean.iter().map(|&m| m as f32).collect(), deviation }
            }
        })
    }

    fn load(&self, name: &str, width: usize, arrays: &mut ArraySet) -> Result<Fitted> {
        Ok(match self {
            Self::L2Normalise => Fitted::L2Normalise,
            Self::Standardise => Fitted::Standardise {
                mean: arrays.take(&format!("{name}.mean"), &[width])?,
                deviation: arrays.take(&format!("{name}.deviation"), &[width])?,
            },
        })
    }
}

impl Fitted {
    /// The width that it makes of `width`.
    fn width_out(&self, width: usize) -> usize {
        match self {
            Self::L2Normalise | Self::Standardise { .. } => width,
        }
    }

    /// Appends what it makes of rows [M, width] to `out`, [M, width out].
    fn apply(&self, rows: &[f32], width: usize, out: &mut Vec<f32>) {
        let start = out.len();
        match self {
            Self::L2Normalise => {
                out.extend_from_slice(rows);
                out[start..].chunks_exact_mut(width).for_each(|row| {
                    normalise(row);
                });
            }
            Self::Standardise { mean, deviation } => {
                out.extend_from_slice(rows);
                out[start..].chunks_exact_mut(width).for_each(|row| {
                    for (v, (mean, deviation)) in row.iter_mut().zip(mean.iter().zip(deviation)) {
                        *v = (*v - mean) / deviation;
                    }
                });
            }
        }
    }

    fn arrays(&self, name: &str) -> Vec<NamedArray> {
        match self {
            Self::L2Normalise => Vec::new(),
            Self::Standardise { mean, deviation } => vec![
                NamedArray::new(format!("{name}.mean"), &[mean.len()], mean.clone()),
                NamedArray::new(format!("{name}.deviation"), &[deviation.len()], deviation.clone()),
            ],
        }
    }
}

/// A list of steps, fitted.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct FittedPreSteps {
    width: usize,
    steps: Vec<Fitted>,
}

/// Buffers that a thread keeps from block to block.
#[derive(Debug, Default)]
pub(crate) struct PreStepScratch {
    from: Vec<f32>,
    to: Vec<f32>,
}

impl FittedPreSteps {
    /// Fits every step to what the ones before it make of the items; answers the prepared vectors too, none for no
    /// steps.
    ///
    /// # Shapes
    /// [N, D] to [N, D']
    pub(crate) fn fit(steps: &[PreStep], items: &TrainingItems<'_>) -> Result<(Self, Option<Embeddings>)> {
        let mut all = Self::none(items.vectors.width());
        let mut prepared: Option<Embeddings> = None;
        for step in steps {
            let rows = prepared.as_ref().unwrap_or(items.vectors);
            let one = Self { width: rows.width(), steps: vec![step.fit(rows)?] };
            prepared = Some(one.prepare(rows)?);
            all.steps.extend(one.steps);
        }
        Ok((all, prepared))
    }

    /// No steps.
    pub(crate) fn none(width: usize) -> Self {
        Self { width, steps: Vec::new() }
    }

    pub(crate) fn load(steps: &[PreStep], width: usize, arrays: &mut ArraySet) -> Result<Self> {
        let mut all = Self::none(width);
        for (i, step) in steps.iter().enumerate() {
            let fitted = step.load(&format!("pre_steps.{i}"), all.width_out(), arrays)?;
            all.steps.push(fitted);
        }
        Ok(all)
    }

    /// D.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// D', the width of what comes out.
    pub(crate) fn width_out(&self) -> usize {
        self.steps.iter().fold(self.width, |width, step| step.width_out(width))
    }

    /// Prepares a block of rows on the calling thread, [M, D] to [M, D'].
    pub(crate) fn apply<'a>(&self, rows: &'a [f32], scratch: &'a mut PreStepScratch) -> &'a [f32] {
        let Some((first, rest)) = self.steps.split_first() else { return rows };
        let PreStepScratch { from, to } = scratch;
        from.clear();
        first.apply(rows, self.width, from);
        let mut width = first.width_out(self.width);
        for step in rest {
            to.clear();
            step.apply(from, width, to);
            width = step.width_out(width);
            std::mem::swap(from, to);
        }
        from
    }

    /// Prepares rows over all threads, [N, D] to [N, D'].
    pub(crate) fn prepare(&self, rows: &Embeddings) -> Result<Embeddings> {
        let width = self.width_out();
        let mut values = vec![0f32; rows.rows() * width];
        let blocks = rows.values().par_chunks(crate::encode::BLOCK * self.width);
        blocks
            .zip(values.par_chunks_mut(crate::encode::BLOCK * width))
            .for_each_init(PreStepScratch::default, |scratch, (rows, out)| {
                out.copy_from_slice(self.apply(rows, scratch))
            });
        Embeddings::new(rows.rows(), width, values)
    }

    pub(crate) fn arrays(&self) -> Vec<NamedArray> {
        self.steps.iter().enumerate().flat_map(|(i, step)| step.arrays(&format!("pre_steps.{i}"))).collect()
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

    fn prepared(steps: &[PreStep], rows: &Embeddings) -> Vec<f32> {
        FittedPreSteps::fit(steps, &TrainingItems::new(rows)).unwrap().1.unwrap().into_values()
    }

    #[test]
    fn standardised_columns_have_mean_zero_and_deviation_one_and_constants_stay_finite() {
        let rows = Embeddings::new(4, 3, vec![1., 7., 0.1, 2., 7., 0.1, 3., 7., 0.1, 6., 7., 0.1]).unwrap();
        let values = prepared(&[PreStep::Standardise], &rows);
        let column: Vec<f32> = values.iter().step_by(3).copied().collect();
        assert!(column.iter().sum::<f32>().abs() < 1e-6);
        assert!((column.iter().map(|v| v * v).sum::<f32>() / 4.0 - 1.0).abs() < 1e-6);
        assert!(values.iter().skip(1).step_by(3).chain(values.iter().skip(2).step_by(3)).all(|v| v.abs() < 1e-6));
    }

    #[test]
    fn normalised_rows_have_length_one_and_zero_rows_stay_zero() {
        let rows = Embeddings::new(2, 2, vec![3.0, 4.0, 0.0, 0.0]).unwrap();
        assert_eq!(prepared(&[PreStep::L2Normalise], &rows), [0.6, 0.8, 0.0, 0.0]);
    }

    #[test]
    fn steps_run_in_the_order_of_their_list() {
        let rows = Embeddings::new(2, 1, vec![3.0, 5.0]).unwrap();
        assert_eq!(prepared(&[PreStep::Standardise, PreStep::L2Normalise], &rows), [-1.0, 1.0]);
        assert_eq!(prepared(&[PreStep::L2Normalise, PreStep::Standardise], &rows), [0.0, 0.0]);
    }
}
