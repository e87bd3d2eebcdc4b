//! Fusion of semantic and collaborative vectors before quantizing, in a way that replays on new items: a linear map
//! says what an item's collaborative vector would be, and both are quantized together.
//!
//! *Paper*: AlphaRec (Sheng et al., arXiv 2407.05441), which finds that a linear map takes language vectors into the
//! space of behaviour. *Why*: UNGER, once PRORec (Xiao et al., arXiv 2502.06269), unifies both kinds before it quantizes.
//! *Differs*: the map is a ridge regression onto given collaborative vectors, in closed form, and not trained on
//! clicks; the mapped vector is used for every item, known or new, so that an item's codes do not change on the day
//! on which its first clicks arrive.
//!
//! # Shapes
//! Row `[D]`, scaled to length 1, and map [D, W]; out: `[D + W]`.

use serde::{Deserialize, Serialize};

use sidereal_core::{Embeddings, Error, Result};

use super::Buffers;
use crate::algebra::linear_algebra::{cross_product, symmetric_eigen};
use crate::algebra::product::padded_product;
use crate::arrays::{ArraySet, NamedArray};
use crate::clustering::kmeans::normalise;

/// Settings of the step; in a recipe `{ collaborative-projection = { weight = 0.5 } }`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CollaborativeProjection {
    /// W: how many principal directions of the collaborative vectors are kept. Default: all of their dimensions.
    pub width: Option<usize>,
    /// Length of the mapped vector; that of the semantic one is 1.
    pub weight: f64,
    /// What is added to the diagonal of the regression, as a share of its mean.
    pub ridge: f64,
}

impl Default for CollaborativeProjection {
    fn default() -> Self {
        Self { width: None, weight: 1.0, ridge: 0.01 }
    }
}

/// Directions in which the vectors vary by less than this share are rounding.
const NO_VARIANCE: f64 = 1e-12;

impl CollaborativeProjection {
    pub(super) fn check(&self, place: &str) -> Result<()> {
        let refuse = |key: &str, problem: String, mend: &str| {
            Err(Error::config(format!("{place}.collaborative-projection.{key}"), problem, mend))
        };
        if self.width == Some(0) {
            return refuse("width", "no dimensions".to_owned(), "leave the key out to keep all, or give 1 or more");
        }
        if !(self.weight > 0.0 && self.weight <= 1e6) {
            return refuse("weight", format!("{} is no weight", self.weight), "give a positive number such as 1");
        }
        if !(0.0..=1e6).contains(&self.ridge) {
            return refuse("ridge", format!("{} is no share", self.ridge), "give 0 or a small share such as 0.01");
        }
        Ok(())
    }

    pub(super) fn fit(
        &self,
        place: &str,
        rows: &Embeddings,
        collaborative: Option<&Embeddings>,
    ) -> Result<FittedProjection> {
        let nothing = |problem: &str| {
            let mend = "give collaborative vectors of the items, or leave the step out of pre_steps";
            Error::config(format!("{place}.collaborative-projection"), problem, mend)
        };
        let Some(collaborative) = collaborative else { return Err(nothing("there are no collaborative vectors")) };
        let (inputs, outputs) = (rows.width(), collaborative.width());
        let width = self.width.unwrap_or(outputs);
        if width > outputs {
            let problem = format!("{width} dimensions, but the collaborative vectors have {outputs}");
            let mend = format!("give at most {outputs}, or leave the key out");
            return Err(Error::config(format!("{place}.collaborative-projection.width"), problem, mend));
        }
        let (mut x, mut y) = (Vec::new(), Vec::new());
        for item in (0..rows.rows()).filter(|&item| collaborative.row(item).iter().any(|&v| v != 0.0)) {
            let start = x.len();
            x.extend_from_slice(rows.row(item));
            normalise(&mut x[start..]);
            y.extend_from_slice(collaborative.row(item));
        }
        if y.is_empty() {
            return Err(nothing("every collaborative vector is zero"));
        }
        let mut map = ridge(&x, inputs, &y, outputs, self.ridge)?; // [D, C]
        if width < outputs {
            let (_, directions) = symmetric_eigen(&cross_product(&y, outputs, &y, outputs), outputs)?;
            let kept = &directions[..width * outputs]; // [W, C]
            map = map
                .chunks_exact(outputs)
                .flat_map(|row| kept.chunks_exact(outputs).map(move |direction| dot(row, direction)))
                .collect(); // [D, W]
        }
        Ok(FittedProjection { weight: self.weight, width, map: map.iter().map(|&v| v as f32).collect() })
    }

    pub(super) fn load(&self, name: &str, width: usize, arrays: &mut ArraySet) -> Result<FittedProjection> {
        let name = format!("{name}.map");
        // The collaborative vectors' width is not in the settings unless it was asked for.
        let outputs = match self.width {
            Some(outputs) => outputs,
            None => arrays.shape(&name)?.last().copied().unwrap_or(0).max(1),
        };
        Ok(FittedProjection { weight: self.weight, width: outputs, map: arrays.take(&name, &[width, outputs])? })
    }
}

/// The map A with the least |X A - Y|^2 + r |A|^2, where r is a share of the mean of the diagonal of X^T X.
///
/// # Shapes
/// `x`: [N, D]; `y`: [N, C]; the answer: [D, C]
fn ridge(x: &[f32], inputs: usize, y: &[f32], outputs: usize, share: f64) -> Result<Vec<f64>> {
    let gram = cross_product(x, inputs, x, inputs); // [D, D]
    let targets = cross_product(x, inputs, y, outputs); // [D, C]
    let added = share * gram.iter().step_by(inputs + 1).sum::<f64>() / inputs as f64;
    let (values, vectors) = symmetric_eigen(&gram, inputs)?;
    let least = NO_VARIANCE * values.first().copied().unwrap_or(0.0).max(0.0);
    let mut map = vec![0.0; inputs * outputs];
    for (value, vector) in values.iter().zip(vectors.chunks_exact(inputs)).take_while(|(value, _)| **value > least) {
        let mut along = vec![0.0; outputs];
        for (v, row) in vector.iter().zip(targets.chunks_exact(outputs)) {
            along.iter_mut().zip(row).for_each(|(a, t)| *a += v * t);
        }
        for (v, row) in vector.iter().zip(map.chunks_exact_mut(outputs)) {
            row.iter_mut().zip(&along).for_each(|(m, a)| *m += v * a / (value + added));
        }
    }
    Ok(map)
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct FittedProjection {
    weight: f64,
    width: usize,
    /// [D, W]
    map: Vec<f32>,
}

impl FittedProjection {
    pub(super) fn width_out(&self, width: usize) -> usize {
        width + self.width
    }

    /// # Shapes
    /// [M, D]; appended: [M, D + W]
    pub(super) fn apply(&self, rows: &[f32], width: usize, buffers: &mut Buffers, out: &mut Vec<f32>) {
        let Buffers { rows: normalised, padding, product } = buffers;
        normalised.clear();
        normalised.extend_from_slice(rows);
        normalised.chunks_exact_mut(width).for_each(|row| {
            normalise(row);
        });
        product.clear();
        padded_product(normalised, width, &self.map, self.width, padding, product);
        let weight = self.weight as f32;
        for (row, mapped) in normalised.chunks_exact(width).zip(product.chunks_exact_mut(self.width)) {
            normalise(mapped);
            out.extend_from_slice(row);
            out.extend(mapped.iter().map(|v| weight * v));
        }
    }

    pub(super) fn arrays(&self, name: &str) -> Vec<NamedArray> {
        let shape = [self.map.len() / self.width, self.width];
        vec![NamedArray::new(format!("{name}.map"), &shape, self.map.clone())]
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::tests::correlated;
    use super::super::{FittedPreSteps, PreStep};
    use super::*;
    use crate::training_items::TrainingItems;

    fn step(width: Option<usize>, weight: f64) -> [PreStep; 1] {
        [PreStep::CollaborativeProjection(CollaborativeProjection { width, weight, ridge: 1e-6 })]
    }

    /// Collaborative vectors that are a linear function of the normalised rows; every third item has none.
    fn linear_world() -> (Embeddings, Embeddings) {
        let rows = correlated(90, 5);
        let behaviour = |item: usize| {
            let mut row = rows.row(item).to_vec();
            normalise(&mut row);
            match item % 3 {
                0 => [0.0; 3],
                _ => [row[0] - row[1], 2.0 * row[2] + row[4], row[3]],
            }
        };
        let collaborative = (0..90).flat_map(behaviour).collect();
        (rows.clone(), Embeddings::new(90, 3, collaborative).unwrap())
    }

    #[test]
    fn a_linear_relation_is_found_and_replayed_on_items_that_had_no_behaviour() {
        let (rows, collaborative) = linear_world();
        let items = TrainingItems { collaborative: Some(&collaborative), ..TrainingItems::new(&rows) };
        let (fitted, out) = FittedPreSteps::fit(&step(None, 0.5), &items).unwrap();
        let out = out.unwrap();
        assert_eq!((fitted.width_out(), out.width()), (8, 8));
        for item in 0..90 {
            let mut row = rows.row(item).to_vec();
            normalise(&mut row);
            let mut want = [row[0] - row[1], 2.0 * row[2] + row[4], row[3]];
            normalise(&mut want);
            let found = out.row(item);
            assert!((0..5).all(|j| (found[j] - row[j]).abs() < 1e-6));
            assert!((0..3).all(|j| (found[5 + j] - 0.5 * want[j]).abs() < 1e-3), "item {item}: {found:?} {want:?}");
        }
    }

    #[test]
    fn a_smaller_width_keeps_the_principal_directions() {
        let (rows, _) = linear_world();
        // Behaviour of rank 1 in three dimensions: one direction says it all.
        let flat = (0..90).flat_map(|i| [1.0f32, 2.0, -2.0].map(|v| v * (rows.row(i)[0] + 0.1))).collect();
        let collaborative = Embeddings::new(90, 3, flat).unwrap();
        let items = TrainingItems { collaborative: Some(&collaborative), ..TrainingItems::new(&rows) };
        let (fitted, out) = FittedPreSteps::fit(&step(Some(1), 1.0), &items).unwrap();
        assert_eq!(fitted.width_out(), 6);
        assert!(out.unwrap().values().chunks_exact(6).all(|row| (row[5].abs() - 1.0).abs() < 1e-5));
    }

    #[test]
    fn what_is_missing_is_an_error_with_the_mend() {
        let (rows, collaborative) = linear_world();
        let zeros = Embeddings::new(90, 3, vec![0.0; 270]).unwrap();
        let items = TrainingItems::new(&rows);
        let error = |width, collaborative| {
            let items = TrainingItems { collaborative, ..items };
            FittedPreSteps::fit(&step(width, 1.0), &items).unwrap_err().to_string()
        };
        for (error, word) in [
            (error(None, None), "no collaborative vectors"),
            (error(None, Some(&zeros)), "zero"),
            (error(Some(4), Some(&collaborative)), "at most 3"),
        ] {
            assert!(error.contains(word) && error.contains("pre_steps.0.collaborative-projection"), "{error}");
        }
    }
}
