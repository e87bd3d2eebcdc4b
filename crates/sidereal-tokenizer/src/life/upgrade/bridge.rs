//! A linear map from the space of a new embedding model into the one that a tokenizer was trained on.
//!
//! *Paper*: BT^2 (backward-compatible training by basis transformation): an orthogonal change of basis keeps what the
//! new model knows and meets the old space where both agree. Here the change of basis (Schönemann's Procrustes, with one
//! scale) competes with ridge regression at three penalties, and the one with the least error on held-out anchors is
//! taken: every tenth item, where there are twenty or more.
//! *Differs from the paper*: nothing is trained in the new model; widths may differ.
//! *Checked against*: maps that were applied to make the new space, in this file's tests.
//!
//! # Shapes
//! Anchors: the same items in both spaces, [M, D'] and [M, D]; the map [D', D] and a shift `[D]`.

use std::path::Path;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use sidereal_core::{Embeddings, Error};

use crate::Result;
use crate::algebra::linear_algebra::{cross_product, procrustes, ridge};
use crate::algebra::product::{squared_distance, squared_norm};
use crate::arrays::{ArraySet, NamedArray};
use crate::encode::BLOCK;
use crate::mlp::Mlp;
use crate::tokenizer::ItemTokenizer;

const NAME: &str = "bridge";
/// Ridge penalties that are tried, as shares of the mean squared length of a column.
const PENALTIES: [f64; 3] = [1e-4, 1e-2, 1.0];
/// One anchor in this many is held out.
const HOLD_OUT: usize = 10;

/// What `tokenizer.json` says of a bridge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BridgeRecord {
    /// Width of the space that it leads to.
    pub width_out: usize,
    /// `orthogonal` or `ridge`.
    pub map: String,
    /// Items that it was fitted on.
    pub anchors: usize,
    /// Error on held-out anchors as a share of their variance; absent where there were too few.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out_error: Option<f64>,
}

/// A fitted map.
#[derive(Debug, Clone)]
pub(crate) struct Bridge {
    net: Mlp,
}

impl Bridge {
    pub(crate) fn load(width: usize, width_out: usize, arrays: &mut ArraySet) -> Result<Self> {
        Ok(Self { net: Mlp::load(NAME, &[width, width_out], false, arrays)? })
    }

    pub(crate) fn arrays(&self) -> Vec<NamedArray> {
        self.net.arrays(NAME)
    }

    /// D'.
    pub(crate) fn width(&self) -> usize {
        self.net.inputs()
    }

    /// Maps rows over all threads; a row's result does not depend on the others. [N, D'] to [N, D]
    pub(crate) fn apply(&self, rows: &Embeddings) -> Result<Embeddings> {
        let blocks = rows.values().par_chunks(BLOCK * self.net.inputs());
        let parts: Vec<Vec<f32>> = blocks
            .map_init(Default::default, |hidden, rows| {
                let mut out = Vec::with_capacity(rows.len() / self.net.inputs() * self.net.outputs());
                self.net.forward_rows(rows, hidden, &mut out);
                out
            })
            .collect();
        Ok(Embeddings::new(rows.rows(), self.net.outputs(), parts.concat())?)
    }

    /// x W + b of f64 parts: `weight` [D', D], `bias` `[D]`.
    fn of(weight: &[f64], width: usize, bias: &[f64]) -> Result<Self> {
        let width_out = bias.len();
        let transposed =
            (0..width_out).flat_map(|o| (0..width).map(move |i| weight[i * width_out + o] as f32)).collect();
        let arrays = vec![
            NamedArray::new(format!("{NAME}.0.weight"), &[width_out, width], transposed),
            NamedArray::new(format!("{NAME}.0.bias"), &[width_out], bias.iter().map(|&b| b as f32).collect()),
        ];
        Self::load(width, width_out, &mut ArraySet::of(Path::new("the fitted map"), arrays))
    }
}

/// How a map is found.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Orthogonal,
    Ridge(f64),
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Orthogonal => "orthogonal",
            Self::Ridge(_) => "ridge",
        }
    }
}

/// Gives a tokenizer a map by which it encodes vectors of another model; its codebooks stay as they are.
///
/// # Errors
/// A tokenizer that lists items or has a map already; other numbers of rows; fewer than two anchors.
///
/// # Shapes
/// `new`: [M, D']; `old`: [M, D], row `i` of both the same item
pub fn bridge(tokenizer: ItemTokenizer, new: &Embeddings, old: &Embeddings) -> Result<ItemTokenizer> {
    tokenizer.quantizer()?;
    if tokenizer.description().bridge.is_some() {
        let mend = "fit the map from the run whose tokenizer was trained on its own embeddings";
        return Err(Error::mismatch("the tokenizer maps vectors of another model already", mend).into());
    }
    crate::encode::check_width(tokenizer.description().width, old)?;
    crate::encode::check_range(new)?;
    if new.rows() != old.rows() || new.rows() < 2 {
        let problem = format!("{} new vectors beside {} old ones", new.rows(), old.rows());
        return Err(Error::mismatch(problem, "give at least two items in both spaces, in the same order").into());
    }
    let mut kinds = vec![Kind::Orthogonal];
    kinds.extend(PENALTIES.map(Kind::Ridge));
    let (mut kind, mut held_out_error) = (Kind::Orthogonal, None);
    if new.rows() >= 2 * HOLD_OUT {
        let part = |rows: &Embeddings, held: bool| -> Result<Embeddings> {
            let chosen: Vec<usize> = (0..rows.rows()).filter(|i| (i % HOLD_OUT == HOLD_OUT - 1) == held).collect();
            let values = chosen.iter().flat_map(|&i| rows.row(i)).copied().collect();
            Ok(Embeddings::new(chosen.len(), rows.width(), values)?)
        };
        let anchors = Anchors::new(&part(new, false)?, &part(old, false)?)?;
        let (new, old) = (part(new, true)?, part(old, true)?);
        for candidate in kinds {
            let error = relative_error(&anchors.fit(candidate)?.apply(&new)?, &old);
            if held_out_error.is_none_or(|least| error < least) {
                (kind, held_out_error) = (candidate, Some(error));
            }
        }
    }
    let fitted = Anchors::new(new, old)?.fit(kind)?;
    let record =
        BridgeRecord { width_out: old.width(), map: kind.name().to_owned(), anchors: new.rows(), held_out_error };
    Ok(tokenizer.with_bridge(fitted, record))
}

/// Squared error as a share of the squared distance to the mean.
fn relative_error(found: &Embeddings, wanted: &Embeddings) -> f64 {
    let mean: Vec<f32> = mean_of(wanted).iter().map(|&m| m as f32).collect();
    let sum = |f: &dyn Fn(usize) -> f64| (0..wanted.rows()).map(f).sum::<f64>();
    let error = sum(&|i| squared_distance(found.row(i), wanted.row(i)));
    error / sum(&|i| squared_distance(&mean, wanted.row(i))).max(f64::MIN_POSITIVE)
}

fn mean_of(rows: &Embeddings) -> Vec<f64> {
    let mut sums = vec![0f64; rows.width()];
    for row in rows.values().chunks_exact(rows.width()) {
        sums.iter_mut().zip(row).for_each(|(sum, &v)| *sum += f64::from(v));
    }
    sums.iter().map(|sum| sum / rows.rows().max(1) as f64).collect()
}

/// The sums that every kind of map is found from, of centred rows.
struct Anchors {
    width: usize,
    width_out: usize,
    mean: Vec<f64>,
    mean_out: Vec<f64>,
    /// Centred rows of the new space, [M, D'].
    new: Vec<f32>,
    /// X^T X, [D', D']
    square: Vec<f64>,
    /// X^T Y, [D', D]
    cross: Vec<f64>,
}

impl Anchors {
    fn new(new: &Embeddings, old: &Embeddings) -> Result<Self> {
        let centred = |rows: &Embeddings, mean: &[f64]| -> Vec<f32> {
            let rows = rows.values().chunks_exact(rows.width());
            rows.flat_map(|row| row.iter().zip(mean).map(|(&v, m)| (f64::from(v) - m) as f32)).collect()
        };
        let (mean, mean_out) = (mean_of(new), mean_of(old));
        let (x, y) = (centred(new, &mean), centred(old, &mean_out));
        let (width, width_out) = (new.width(), old.width());
        Ok(Self {
            square: cross_product(&x, width, &x, width),
            cross: cross_product(&x, width, &y, width_out),
            new: x,
            width,
            width_out,
            mean,
            mean_out,
        })
    }

    fn fit(&self, kind: Kind) -> Result<Bridge> {
        let weight = match kind {
            Kind::Orthogonal => self.orthogonal()?,
            Kind::Ridge(share) => {
                let columns = (0..self.width).map(|i| self.square[i * self.width + i]).sum::<f64>() / self.width as f64;
                let penalty = (share * columns).max(f64::MIN_POSITIVE.sqrt());
                ridge(&self.square, self.width, &self.cross, self.width_out, penalty)?
            }
        };
        let mut bias = self.mean_out.clone();
        for (row, mean) in weight.chunks_exact(self.width_out).zip(&self.mean) {
            bias.iter_mut().zip(row).for_each(|(bias, w)| *bias -= mean * w);
        }
        Bridge::of(&weight, self.width, &bias)
    }

    /// The rotation of the padded spaces, cut to their widths, times the scale that fits best.
    fn orthogonal(&self) -> Result<Vec<f64>> {
        let n = self.width.max(self.width_out);
        let mut padded = vec![0f64; n * n];
        for (to, from) in padded.chunks_exact_mut(n).zip(self.cross.chunks_exact(self.width_out)) {
            to[..self.width_out].copy_from_slice(from);
        }
        let rotation = procrustes(&padded, n)?;
        let rows = rotation.chunks_exact(n).take(self.width);
        let cut: Vec<f64> = rows.flat_map(|row| &row[..self.width_out]).copied().collect();
        let along: f64 = cut.iter().zip(&self.cross).map(|(r, c)| r * c).sum();
        let turned = Bridge::of(&cut, self.width, &vec![0.0; self.width_out])?;
        let rows = Embeddings::new(self.new.len() / self.width, self.width, self.new.clone())?;
        let lengths = squared_norm(turned.apply(&rows)?.values());
        let scale = if lengths > 0.0 { along / lengths } else { 1.0 };
        Ok(cut.into_iter().map(|r| r * scale).collect())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::life::upgrade::Agreement;
    use crate::quantizers::TokenizerConfig;
    use sidereal_core::NoProgress;
    use sidereal_nn::rng::Rng;

    const WIDTH: usize = 6;

    fn items(n: usize) -> Embeddings {
        let mut rng = Rng::new(4, "items");
        let centres: Vec<f32> = (0..30 * WIDTH).map(|_| 3.0 * rng.normal() as f32).collect();
        let value = |at: usize, noise: f32| centres[at / WIDTH % 30 * WIDTH + at % WIDTH] + 0.3 * noise + 1.0;
        let values = (0..n * WIDTH).map(|at| value(at, rng.normal() as f32)).collect();
        Embeddings::new(n, WIDTH, values).unwrap()
    }

    /// Another model's vectors: a linear map of the items, a shift and some noise.
    fn seen_by_another(rows: &Embeddings, width: usize, noise: f32) -> Embeddings {
        let mut rng = Rng::new(9, "map");
        let map: Vec<f32> = (0..WIDTH * width).map(|_| rng.normal() as f32).collect();
        let values = rows.values().chunks_exact(WIDTH).flat_map(|row| {
            let value = |o: usize| row.iter().enumerate().map(|(i, v)| v * map[i * width + o]).sum::<f32>() - 2.0;
            (0..width).map(value).collect::<Vec<f32>>()
        });
        let mut more = Rng::new(10, "noise");
        let values = values.map(|v| v + noise * more.normal() as f32).collect();
        Embeddings::new(rows.rows(), width, values).unwrap()
    }

    fn tokenizer(rows: &Embeddings) -> ItemTokenizer {
        let config = TokenizerConfig::with_defaults("rq-kmeans", vec![8, 6]).unwrap();
        ItemTokenizer::train(&config, rows, 1, &NoProgress).unwrap()
    }

    #[test]
    fn mapped_vectors_get_the_semantic_ids_of_the_old_ones_also_from_disk() {
        let rows = items(400);
        let published = tokenizer(&rows).encode(&rows).unwrap();
        for width in [WIDTH, WIDTH + 3] {
            let new = seen_by_another(&rows, width, 0.001);
            let upgraded = bridge(tokenizer(&rows), &new, &rows).unwrap();
            let record = upgraded.description().bridge.clone().unwrap();
            assert!(record.held_out_error.unwrap() < 1e-3 && record.map == "ridge", "{record:?}");
            let agreement = Agreement::of(&upgraded.encode(&new).unwrap(), &published).unwrap();
            assert!(agreement.whole > 0.97, "{agreement:?}");
            let dir = tempfile::tempdir().unwrap();
            upgraded.save(dir.path()).unwrap();
            let again = ItemTokenizer::load(dir.path()).unwrap();
            assert_eq!(again.encode(&new).unwrap(), upgraded.encode(&new).unwrap());
            let alone = Embeddings::new(1, width, new.row(7).to_vec()).unwrap();
            assert_eq!(again.encode(&alone).unwrap().row(0), upgraded.encode(&new).unwrap().row(7));
            assert!(bridge(again, &new, &rows).is_err(), "a second map");
        }
    }

    #[test]
    fn a_rotation_with_a_scale_is_found_again() {
        let rows = items(15);
        let (sin, cos) = 0.6f32.sin_cos();
        let turn = |row: &[f32]| -> Vec<f32> {
            let mut row: Vec<f32> = row.iter().map(|v| 2.0 * v).collect();
            (row[0], row[3]) = (cos * row[0] - sin * row[3], sin * row[0] + cos * row[3]);
            row
        };
        let values = rows.values().chunks_exact(WIDTH).flat_map(turn).collect();
        let new = Embeddings::new(15, WIDTH, values).unwrap();
        let found = Anchors::new(&new, &rows).unwrap().fit(Kind::Orthogonal).unwrap();
        assert!(relative_error(&found.apply(&new).unwrap(), &rows) < 1e-9);
        // Too few anchors to hold any out: the map with the fewest degrees of freedom.
        let upgraded = bridge(tokenizer(&rows), &new, &rows).unwrap();
        assert_eq!(upgraded.description().bridge.as_ref().unwrap().map, "orthogonal");
    }
}
