//! What is done to embeddings before they are quantized: fitted once, recorded, and replayed on every new item.
//!
//! Steps run in the order of their list, and a step may change the width. What a step makes of a row depends on
//! nothing but the row and what was fitted.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use sidereal_core::{Embeddings, Error, Result};

use crate::arrays::{ArraySet, NamedArray};
use crate::clustering::kmeans::normalise;
use crate::training_items::TrainingItems;

mod blocks;
mod moments;
mod pca;
mod projection;

pub use blocks::Block;
pub use pca::Pca;
pub use projection::CollaborativeProjection;

use blocks::FittedBlocks;
use moments::Moments;
use pca::FittedPca;
use projection::FittedProjection;

/// One step of a list; in a recipe `pre_steps = ["l2-normalise", { pca = { width = 64, whiten = true } }]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PreStep {
    /// Every vector is scaled to length 1; a zero vector stays zero.
    L2Normalise,
    /// Every dimension is shifted and scaled to mean 0 and deviation 1 over the training items; a constant dimension
    /// becomes 0. RQ-VAE needs it on embeddings whose dimensions differ in scale, or its codes collapse.
    Standardise,
    /// The directions of most variance.
    Pca(Pca),
    /// The first columns, scaled to length 1: for embeddings whose first dimensions say most (Matryoshka, Kusupati et
    /// al., arXiv 2205.13147). In a recipe `{ truncate = 256 }`.
    Truncate(usize),
    /// Several vectors in one row, each prepared by itself. In a recipe
    /// `{ blocks = [{ width = 384, normalise = true }, { width = 512, weight = 0.5, standardise = true }] }`.
    Blocks(Vec<Block>),
    /// The row and what it says about the item's collaborative vector, side by side.
    CollaborativeProjection(CollaborativeProjection),
}

/// A step with what it learnt from the training items.
#[derive(Debug, Clone, PartialEq)]
enum Fitted {
    L2Normalise,
    Standardise(Moments),
    Pca(FittedPca),
    Truncate(usize),
    Blocks(FittedBlocks),
    CollaborativeProjection(FittedProjection),
}

/// Checks the settings of a list of steps.
///
/// # Errors
/// Names the key.
pub(crate) fn check(steps: &[PreStep]) -> Result<()> {
    steps.iter().enumerate().try_for_each(|(i, step)| {
        let place = place(i);
        match step {
            PreStep::L2Normalise | PreStep::Standardise => Ok(()),
            PreStep::Pca(pca) => pca.check(&place),
            PreStep::Truncate(0) => Err(Error::config(format!("{place}.truncate"), "no columns", "give 1 or more")),
            PreStep::Truncate(_) => Ok(()),
            PreStep::Blocks(list) => blocks::check(list, &place),
            PreStep::CollaborativeProjection(projection) => projection.check(&place),
        }
    })
}

/// Where a step stands: the key of a recipe, and the prefix of its arrays.
fn place(i: usize) -> String {
    format!("pre_steps.{i}")
}

fn check_truncation(place: &str, kept: usize, width: usize) -> Result<()> {
    if kept <= width {
        return Ok(());
    }
    let problem = format!("{kept} columns of vectors that are {width} wide");
    Err(Error::config(format!("{place}.truncate"), problem, format!("give at most {width}")))
}

impl PreStep {
    /// Fits to rows that the steps before made; `items` has what else is known.
    fn fit(&self, place: &str, rows: &Embeddings, items: &TrainingItems<'_>) -> Result<Fitted> {
        Ok(match self {
            Self::L2Normalise => Fitted::L2Normalise,
            Self::Standardise => Fitted::Standardise(Moments::fit(rows)),
            Self::Pca(pca) => Fitted::Pca(pca.fit(place, rows)?),
            Self::Truncate(kept) => {
                check_truncation(place, *kept, rows.width())?;
                Fitted::Truncate(*kept)
            }
            Self::Blocks(list) => Fitted::Blocks(blocks::fit(list, place, rows)?),
            Self::CollaborativeProjection(projection) => {
                Fitted::CollaborativeProjection(projection.fit(place, rows, items.collaborative)?)
            }
        })
    }

    fn load(&self, place: &str, width: usize, arrays: &mut ArraySet) -> Result<Fitted> {
        Ok(match self {
            Self::L2Normalise => Fitted::L2Normalise,
            Self::Standardise => Fitted::Standardise(Moments::load(place, width, arrays)?),
            Self::Pca(pca) => Fitted::Pca(pca.load(place, width, arrays)?),
            Self::Truncate(kept) => {
                check_truncation(place, *kept, width)?;
                Fitted::Truncate(*kept)
            }
            Self::Blocks(list) => Fitted::Blocks(blocks::load(list, place, width, arrays)?),
            Self::CollaborativeProjection(projection) => {
                Fitted::CollaborativeProjection(projection.load(place, width, arrays)?)
            }
        })
    }
}

/// Buffers of a step.
#[derive(Debug, Default)]
struct Buffers {
    rows: Vec<f32>,
    padding: Vec<f32>,
    product: Vec<f32>,
}

impl Fitted {
    /// The width that it makes of `width`.
    fn width_out(&self, width: usize) -> usize {
        match self {
            Self::L2Normalise | Self::Standardise(_) | Self::Blocks(_) => width,
            Self::Pca(pca) => pca.width_out(),
            Self::Truncate(kept) => *kept,
            Self::CollaborativeProjection(projection) => projection.width_out(width),
        }
    }

    /// Appends what it makes of rows [M, width] to `out`, [M, width out].
    fn apply(&self, rows: &[f32], width: usize, buffers: &mut Buffers, out: &mut Vec<f32>) {
        let mut each = |kept: usize, f: &dyn Fn(&mut [f32])| {
            for row in rows.chunks_exact(width) {
                let start = out.len();
                out.extend_from_slice(&row[..kept]);
                f(&mut out[start..]);
            }
        };
        let to_length_one = |row: &mut [f32]| {
            normalise(row);
        };
        match self {
            Self::L2Normalise => each(width, &to_length_one),
            Self::Standardise(moments) => each(width, &|row| moments.standardise(row)),
            Self::Pca(pca) => pca.apply(rows, buffers, out),
            Self::Truncate(kept) => each(*kept, &to_length_one),
            Self::Blocks(blocks) => each(width, &|row| blocks.apply(row)),
            Self::CollaborativeProjection(projection) => projection.apply(rows, width, buffers, out),
        }
    }

    fn arrays(&self, name: &str) -> Vec<NamedArray> {
        match self {
            Self::L2Normalise | Self::Truncate(_) => Vec::new(),
            Self::Standardise(moments) => moments.arrays(name),
            Self::Pca(pca) => pca.arrays(name),
            Self::Blocks(blocks) => blocks.arrays(name),
            Self::CollaborativeProjection(projection) => projection.arrays(name),
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
    buffers: Buffers,
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
        for (i, step) in steps.iter().enumerate() {
            let rows = prepared.as_ref().unwrap_or(items.vectors);
            let one = Self { width: rows.width(), steps: vec![step.fit(&place(i), rows, items)?] };
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
            let fitted = step.load(&place(i), all.width_out(), arrays)?;
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
        let PreStepScratch { from, to, buffers } = scratch;
        from.clear();
        first.apply(rows, self.width, buffers, from);
        let mut width = first.width_out(self.width);
        for step in rest {
            to.clear();
            step.apply(from, width, buffers, to);
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
        self.steps.iter().enumerate().flat_map(|(i, step)| step.arrays(&place(i))).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::arrays::save_arrays;
    use sidereal_nn::rng::Rng;

    /// Rows whose dimensions are off centre, differ in scale and go together.
    pub(super) fn correlated(rows: usize, width: usize) -> Embeddings {
        let mut rng = Rng::new(6, "rows");
        let row = |_| {
            let shared = rng.normal();
            (0..width).map(|j| (2.0 + shared + (1.0 + j as f64) * rng.normal()) as f32).collect::<Vec<f32>>()
        };
        Embeddings::new(rows, width, (0..rows).flat_map(row).collect()).unwrap()
    }

    pub(super) fn prepared(steps: &[PreStep], rows: &Embeddings) -> Vec<f32> {
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

    /// One list with every kind of step.
    fn every_kind() -> Vec<PreStep> {
        #[derive(Deserialize)]
        struct Table {
            pre_steps: Vec<PreStep>,
        }
        let text = r#"
            pre_steps = [
                "standardise",
                { blocks = [{ width = 7, normalise = true, weight = 1.0 }, { width = 5, weight = 0.5, standardise = true }] },
                "l2-normalise",
                { pca = { width = 9, whiten = true } },
                { collaborative-projection = { width = 2, weight = 0.5 } },
                { truncate = 10 },
            ]
        "#;
        toml::from_str::<Table>(text).unwrap().pre_steps
    }

    #[test]
    fn every_step_replays_on_a_row_alone_as_in_any_batch_and_from_disk() {
        let rows = correlated(600, 12);
        let behaviour = Embeddings::new(600, 3, correlated(600, 3).into_values()).unwrap();
        let items = TrainingItems { collaborative: Some(&behaviour), ..TrainingItems::new(&rows) };
        let steps = every_kind();
        check(&steps).unwrap();
        let (fitted, all) = FittedPreSteps::fit(&steps, &items).unwrap();
        let all = all.unwrap();
        assert_eq!((fitted.width(), fitted.width_out(), all.width()), (12, 10, 10));
        let mut scratch = PreStepScratch::default();
        for (start, end) in [(0, 1), (3, 4), (100, 400), (255, 257), (599, 600)] {
            let part = fitted.apply(&rows.values()[start * 12..end * 12], &mut scratch);
            assert_eq!(part, &all.values()[start * 10..end * 10], "rows {start} to {end}");
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("steps.safetensors");
        save_arrays(&path, &fitted.arrays()).unwrap();
        let mut arrays = ArraySet::open(&path).unwrap();
        assert_eq!(FittedPreSteps::load(&steps, 12, &mut arrays).unwrap(), fitted);
        arrays.finish().unwrap();
        for threads in [1, 2] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            assert_eq!(pool.install(|| FittedPreSteps::fit(&steps, &items)).unwrap().0, fitted);
        }
    }

    #[test]
    fn settings_are_written_and_read_alike_and_misspelt_keys_are_refused() {
        let steps = every_kind();
        let json = serde_json::to_value(&steps).unwrap();
        assert_eq!(serde_json::from_value::<Vec<PreStep>>(json).unwrap(), steps);
        for (bad, word) in [
            (r#"{"pca": {"width": 4, "whitening": true}}"#, "whitening"),
            (r#"{"pca": {"whiten": true}}"#, "width"),
            (r#"{"blocks": [{"width": 4, "wieght": 1.0}]}"#, "wieght"),
            (r#"{"collaborative-projection": {"rigde": 1.0}}"#, "rigde"),
            (r#"{"truncate": -1}"#, "-1"),
            (r#""l2-normalize""#, "l2-normalise"),
        ] {
            let error = serde_json::from_str::<PreStep>(bad).unwrap_err().to_string();
            assert!(error.contains(word), "{bad}: {error}");
        }
    }

    #[test]
    fn truncated_rows_are_the_first_columns_at_length_one() {
        let rows = Embeddings::new(1, 4, vec![3.0, 4.0, 100.0, 7.0]).unwrap();
        assert_eq!(prepared(&[PreStep::Truncate(2)], &rows), [0.6, 0.8]);
        let error = FittedPreSteps::fit(&[PreStep::L2Normalise, PreStep::Truncate(5)], &TrainingItems::new(&rows));
        let error = error.unwrap_err().to_string();
        assert!(error.contains("pre_steps.1.truncate") && error.contains("at most 4"), "{error}");
        assert!(check(&[PreStep::Truncate(0)]).is_err());
    }
}
