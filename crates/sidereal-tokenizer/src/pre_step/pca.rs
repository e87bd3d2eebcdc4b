//! Principal components: the directions of most variance, the first few of them, scaled to the same variance on wish.
//!
//! RPG (arXiv 2506.05781) whitens embeddings so before it cuts them into sub-vectors.

use serde::{Deserialize, Serialize};

use sidereal_core::{Embeddings, Error, Result};

use super::Buffers;
use super::moments::column_means;
use crate::algebra::linear_algebra::{cross_product, symmetric_eigen};
use crate::algebra::product::{padded_product, transposed};
use crate::arrays::{ArraySet, NamedArray};

/// Settings of the step; in a recipe `{ pca = { width = 64, whiten = true } }`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pca {
    /// Components that are kept: at most D, and fewer than there are items.
    pub width: usize,
    /// Divides every component by its deviation. A component without variance becomes 0.
    #[serde(default)]
    pub whiten: bool,
    /// What whitening adds to every variance, as a share of the largest: keeps noise from being blown up.
    #[serde(default = "default_eps")]
    pub eps: f64,
}

fn default_eps() -> f64 {
    1e-6
}

/// Variances below this share of the largest are rounding.
const NO_VARIANCE: f64 = 1e-12;

impl Pca {
    pub(super) fn check(&self, place: &str) -> Result<()> {
        if self.width == 0 {
            return Err(Error::config(format!("{place}.pca.width"), "no components", "give 1 or more, for example 64"));
        }
        if !(self.eps.is_finite() && self.eps >= 0.0) {
            let problem = format!("{} is no share", self.eps);
            return Err(Error::config(format!("{place}.pca.eps"), problem, "leave the key out for its default"));
        }
        Ok(())
    }

    pub(super) fn fit(&self, place: &str, rows: &Embeddings) -> Result<FittedPca> {
        let (count, width) = (rows.rows(), rows.width());
        let most = width.min(count.saturating_sub(1));
        if self.width > most {
            let problem = format!("{} components of {count} vectors of width {width}", self.width);
            let mend = match most {
                0 => "leave the step out: one item has no directions of variance".to_owned(),
                most => format!("give a width of at most {most} (the vectors' width, and fewer than the items)"),
            };
            return Err(Error::config(format!("{place}.pca.width"), problem, mend));
        }
        let mean = column_means(rows);
        let mut covariance = cross_product(rows.values(), width, rows.values(), width); // [D, D]
        for (row, a) in covariance.chunks_exact_mut(width).zip(&mean) {
            row.iter_mut().zip(&mean).for_each(|(v, b)| *v = *v / count as f64 - a * b);
        }
        let (variances, directions) = symmetric_eigen(&covariance, width)?;
        let largest = variances.first().copied().unwrap_or(0.0).max(0.0);
        let scale = |variance: f64| match self.whiten {
            false => 1.0,
            true if variance > NO_VARIANCE * largest => 1.0 / (variance + self.eps * largest).sqrt(),
            true => 0.0,
        };
        let scaled = directions.chunks_exact(width).zip(&variances).take(self.width);
        let components: Vec<f32> = scaled
            .flat_map(|(direction, &variance)| direction.iter().map(move |v| (v * scale(variance)) as f32))
            .collect(); // [W, D]
        Ok(FittedPca {
            mean: mean.iter().map(|&m| m as f32).collect(),
            columns: transposed(&components, width),
            width: self.width,
        })
    }

    pub(super) fn load(&self, name: &str, width: usize, arrays: &mut ArraySet) -> Result<FittedPca> {
        let components = arrays.take(&format!("{name}.components"), &[self.width, width])?;
        Ok(FittedPca {
            mean: arrays.take(&format!("{name}.mean"), &[width])?,
            columns: transposed(&components, width),
            width: self.width,
        })
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct FittedPca {
    /// `[D]`
    mean: Vec<f32>,
    /// The components, scaled, ready for the product: [D, W].
    columns: Vec<f32>,
    width: usize,
}

impl FittedPca {
    pub(super) fn width_out(&self) -> usize {
        self.width
    }

    /// # Shapes
    /// [M, D]; appended: [M, W]
    pub(super) fn apply(&self, rows: &[f32], buffers: &mut Buffers, out: &mut Vec<f32>) {
        let width = self.mean.len();
        buffers.rows.clear();
        for row in rows.chunks_exact(width) {
            buffers.rows.extend(row.iter().zip(&self.mean).map(|(v, mean)| v - mean));
        }
        padded_product(&buffers.rows, width, &self.columns, self.width, &mut buffers.padding, out);
    }

    pub(super) fn arrays(&self, name: &str) -> Vec<NamedArray> {
        let width = self.mean.len();
        let components = transposed(&self.columns, self.width);
        vec![
            NamedArray::new(format!("{name}.mean"), &[width], self.mean.clone()),
            NamedArray::new(format!("{name}.components"), &[self.width, width], components),
        ]
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::tests::{correlated, prepared};
    use super::super::{FittedPreSteps, PreStep};
    use super::*;
    use crate::training_items::TrainingItems;

    fn pca(width: usize, whiten: bool) -> Vec<PreStep> {
        vec![PreStep::Pca(Pca { width, whiten, eps: default_eps() })]
    }

    /// [W, W] of rows whose mean is taken out, in f64.
    fn covariance(rows: &[f32], width: usize) -> Vec<f64> {
        let count = (rows.len() / width) as f64;
        let mean: Vec<f64> = (0..width)
            .map(|j| rows.iter().skip(j).step_by(width).map(|&v| f64::from(v)).sum::<f64>() / count)
            .collect();
        let mut out = vec![0.0; width * width];
        for row in rows.chunks_exact(width) {
            for i in 0..width {
                for j in 0..width {
                    out[i * width + j] += (f64::from(row[i]) - mean[i]) * (f64::from(row[j]) - mean[j]) / count;
                }
            }
        }
        out
    }

    #[test]
    fn components_are_eigenvectors_of_the_covariance_by_brute_force() {
        let rows = correlated(500, 6);
        let fitted = Pca { width: 4, whiten: false, eps: 0.0 }.fit("pre_steps.0", &rows).unwrap();
        let matrix = covariance(rows.values(), 6);
        let components = transposed(&fitted.columns, 4);
        let mut last = f64::INFINITY;
        for component in components.chunks_exact(6) {
            let times: Vec<f64> =
                (0..6).map(|i| (0..6).map(|j| matrix[i * 6 + j] * f64::from(component[j])).sum()).collect();
            let value: f64 = times.iter().zip(component).map(|(t, &c)| t * f64::from(c)).sum();
            assert!(times.iter().zip(component).all(|(t, &c)| (t - value * f64::from(c)).abs() < 1e-4 * value.abs()));
            assert!(value <= last);
            last = value;
        }
        // What comes out has these variances and no correlation.
        let out = covariance(&prepared(&pca(4, false), &rows), 4);
        for i in 0..4 {
            for j in 0..i {
                assert!(out[i * 4 + j].abs() < 1e-4 * out[0], "{out:?}");
            }
        }
    }

    #[test]
    fn whitened_vectors_have_the_identity_as_covariance() {
        let out = covariance(&prepared(&pca(5, true), &correlated(800, 5)), 5);
        for i in 0..5 {
            for j in 0..5 {
                let want = f64::from(u8::from(i == j));
                assert!((out[i * 5 + j] - want).abs() < 1e-3, "{i} {j}: {}", out[i * 5 + j]);
            }
        }
    }

    #[test]
    fn a_component_without_variance_is_zero_and_not_blown_up() {
        let line: Vec<f32> = (0..40).flat_map(|i| [i as f32, 2.0 * i as f32, 7.0]).collect();
        let out = prepared(&pca(3, true), &Embeddings::new(40, 3, line).unwrap());
        for row in out.chunks_exact(3) {
            assert!(row[1].abs() < 1e-2 && row[2].abs() < 1e-2, "{row:?}");
        }
        let same = Embeddings::new(4, 2, vec![0.3; 8]).unwrap();
        assert!(prepared(&pca(2, true), &same).iter().all(|&v| v == 0.0));
    }

    #[test]
    fn a_width_that_the_vectors_do_not_have_is_refused_with_the_mend() {
        let error = |width, rows| {
            let rows = correlated(rows, 5);
            FittedPreSteps::fit(&pca(width, false), &TrainingItems::new(&rows)).unwrap_err().to_string()
        };
        for (width, rows, most) in [(6, 100, "at most 5"), (4, 4, "at most 3"), (1, 1, "leave the step out")] {
            let error = error(width, rows);
            assert!(error.contains("pre_steps.0.pca.width") && error.contains(most), "{error}");
        }
        FittedPreSteps::fit(&pca(5, false), &TrainingItems::new(&correlated(6, 5))).unwrap();
    }
}
