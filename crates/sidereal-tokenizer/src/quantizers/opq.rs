//! Optimized product quantization: vectors are rotated so that sub-vectors can be quantized well, one by one.
//!
//! *Paper*: Ge, He, Ke and Sun, *Optimized product quantization*, CVPR 2013, section 3.1 (non-parametric: codebooks and
//! rotation in turn, the rotation by orthogonal Procrustes) and section 3.2 (`start = "pca"`: principal directions dealt
//! out to sub-vectors so that their variances multiply to the same).
//! *Differs from the paper*: a few iterations of k-means between rotations, as faiss' OPQMatrix; the rotation is found on at
//! most `rotation_rows` rows; the best rotation seen is kept, and plain product quantization where none is better.
//! *Checked against*: product quantization, which it must never be worse than; faiss' OPQMatrix for the error.
//!
//! # Shapes
//! Embeddings [N, D]; rotation [D, D]; L codebooks [K_l, d_l] of rotated vectors with sum d_l = D; semantic IDs [N, L].

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use sidereal_core::{Embeddings, Error, SemanticIds};
use sidereal_nn::rng::Rng;

use super::pq::level_records;
use super::{LevelsSee, MethodConfig, MethodKind, Model, Quantizer, Scratch, Status, Trained, Training};
use crate::Result;
use crate::algebra::linear_algebra::{cross_product, procrustes, symmetric_eigen};
use crate::algebra::rotation::Rotation;
use crate::arrays::{ArraySet, NamedArray};
use crate::clustering::kmeans::{KMeans, KMeansOptions, fit_from, sample_rows};
use crate::codebooks::product_codebooks::{ProductCodebooks, ProductTraining, check_levels, columns, cuts};
use crate::pre_step::PreStep;
use crate::training_items::{FitOn, TrainingItems};

/// Iterations of k-means between two rotations, as faiss.
const ITERATIONS_BETWEEN: usize = 4;

/// Settings of optimized product quantization.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OpqConfig {
    /// K of every sub-vector. Default: 16 of 256, the fewest of RPG.
    pub codes: Vec<u32>,
    /// What is done to embeddings first, in order.
    pub pre_steps: Vec<PreStep>,
    /// Items that it is fitted on: `all`, or those `seen` in the training histories.
    #[serde(skip_serializing_if = "FitOn::is_usual")]
    pub fit: FitOn,
    /// Times that codebooks and rotation are fitted in turn.
    pub alternations: usize,
    /// Where the rotation starts.
    pub start: OpqStart,
    /// Most rows that the rotation is fitted to. Default: as faiss.
    pub rotation_rows: usize,
    /// Most iterations of a sub-vector's k-means, before and after the alternations.
    pub max_iterations: usize,
    /// It ends when an iteration lowers its error by less than this share.
    pub tolerance: f64,
    /// Seeds are drawn from a sample of this many rows a codeword (at least 16,384 rows).
    pub seeding_rows_per_code: usize,
}

/// Where the rotation starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OpqStart {
    /// No rotation.
    Identity,
    /// Principal directions, dealt out evenly.
    Pca,
}

impl Default for OpqConfig {
    fn default() -> Self {
        Self {
            codes: vec![256; 16],
            pre_steps: Vec::new(),
            fit: FitOn::All,
            alternations: 20,
            start: OpqStart::Pca,
            rotation_rows: 65_536,
            max_iterations: 30,
            tolerance: 1e-4,
            seeding_rows_per_code: 16,
        }
    }
}

impl MethodKind for OpqConfig {
    const PAPER: &'static str = "Ge et al., CVPR 2013; RPG, arXiv 2506.05781";
    const STATUS: Status = Status::Stable;

    fn with_codes(codes: Vec<u32>) -> Self {
        Self { codes, ..Self::default() }
    }
}

impl MethodConfig for OpqConfig {
    fn codes(&self) -> &[u32] {
        &self.codes
    }

    fn pre_steps(&self) -> &[PreStep] {
        &self.pre_steps
    }

    fn fit_on(&self) -> FitOn {
        self.fit
    }

    fn check(&self) -> Result<()> {
        KMeansOptions::check("opq", self.max_iterations, self.tolerance, self.seeding_rows_per_code)?;
        if self.alternations == 0 || self.alternations > 10_000 {
            let problem = format!("{} alternations", self.alternations);
            let mend = "give 1 to 10000 (20 are usual), or use pq, which does not rotate";
            return Err(Error::config("opq.alternations", problem, mend).into());
        }
        if self.rotation_rows == 0 {
            let mend = "give 1 or more; 65536 is usual";
            return Err(Error::config("opq.rotation_rows", "no rows to fit a rotation to", mend).into());
        }
        Ok(())
    }

    fn train(&self, items: &TrainingItems<'_>, training: &Training<'_>) -> Result<Trained> {
        let (rows, width) = (items.vectors.values(), items.vectors.width());
        check_levels("opq", self.codes.len(), width)?;
        let plan = ProductTraining {
            codes: &self.codes,
            max_iterations: self.max_iterations,
            tolerance: self.tolerance,
            seeding_rows_per_code: self.seeding_rows_per_code,
            seed: training.seed,
        };
        let plain = plan.fit(rows, width, training.progress);
        let plain_error = Fit::new(rows, width, codewords(&plain)).error;

        let mut rng = Rng::new(training.seed, "opq rotation rows");
        let sample = sample_rows(items.len(), self.rotation_rows.min(items.len()), &mut rng);
        let sample: Vec<f32> = sample.iter().flat_map(|&i| &rows[i * width..(i + 1) * width]).copied().collect();
        let (start, codebooks) = match self.start {
            OpqStart::Identity => (Rotation::identity(width), codewords(&plain)),
            OpqStart::Pca => {
                let rotation = principal_rotation(&sample, width, self.codes.len())?;
                let fitted = plan.fit(&rotation.rotate(&sample), width, training.progress);
                (rotation, codewords(&fitted))
            }
        };
        let found = self.alternate(&plan, &sample, start, codebooks, training)?;

        let rotated = found.rotation.rotate(rows);
        let fitted = refit(&plan, &rotated, width, found.codebooks, self.max_iterations);
        let error = Fit::new(&rotated, width, codewords(&fitted)).error;
        // What rounding could turn round is no gain.
        let gains = error < plain_error * (1.0 - 1e-5);
        let (rotation, fitted) = if gains { (found.rotation, fitted) } else { (Rotation::identity(width), plain) };
        let record = serde_json::json!({
            "levels": level_records(&fitted),
            "rotated": gains,
            "mean_squared_error": if gains { error } else { plain_error },
            "mean_squared_error_unrotated": plain_error,
            "errors_of_alternations": found.errors,
        });
        let codebooks = ProductCodebooks::new(width, codewords(&fitted));
        Ok(Trained { model: Model::Quantizer(Box::new(Opq { rotation, codebooks })), record })
    }

    fn load(&self, width: usize, arrays: &mut ArraySet) -> Result<Box<dyn Quantizer>> {
        check_levels("opq", self.codes.len(), width)?;
        let rotation = Rotation::new(arrays.take("rotation", &[width, width])?, width);
        Ok(Box::new(Opq { rotation, codebooks: ProductCodebooks::load(width, &self.codes, arrays)? }))
    }
}

/// The best rotation of the alternations.
struct Found {
    rotation: Rotation,
    codebooks: Vec<Vec<f32>>,
    /// Mean squared error after each alternation.
    errors: Vec<f64>,
}

impl OpqConfig {
    /// Codebooks for the rotation, the rotation for the codebooks, in turn; `rows`: [N, D].
    fn alternate(
        &self,
        plan: &ProductTraining<'_>,
        rows: &[f32],
        mut rotation: Rotation,
        mut codebooks: Vec<Vec<f32>>,
        training: &Training<'_>,
    ) -> Result<Found> {
        let width = rotation.width();
        let mut best: Option<(f64, Rotation, Vec<Vec<f32>>)> = None;
        let mut errors = Vec::new();
        training.progress.start("rotation", Some(self.alternations as u64), "alternations");
        for _ in 0..self.alternations {
            let rotated = rotation.rotate(rows);
            codebooks = codewords(&refit(plan, &rotated, width, codebooks, ITERATIONS_BETWEEN));
            let fit = Fit::new(&rotated, width, codebooks.clone());
            let cross = fit.cross(rows);
            errors.push(fit.error);
            training.progress.advance(1);
            training.progress.note(&format!("error {:.5}", fit.error));
            if best.as_ref().is_none_or(|(error, ..)| fit.error < *error) {
                best = Some((fit.error, rotation, codebooks.clone()));
            }
            let next = procrustes(&cross, width)?;
            rotation = Rotation::new(next.into_iter().map(|v| v as f32).collect(), width);
        }
        training.progress.finish();
        let (rotation, codebooks) =
            best.map_or((rotation, codebooks), |(_, rotation, codebooks)| (rotation, codebooks));
        Ok(Found { rotation, codebooks, errors })
    }
}

fn codewords(fitted: &[KMeans]) -> Vec<Vec<f32>> {
    fitted.iter().map(|level| level.codewords.clone()).collect()
}

/// Some iterations of every sub-vector's k-means from codebooks that are there; `rows`: [N, D].
fn refit(
    plan: &ProductTraining<'_>,
    rows: &[f32],
    width: usize,
    codebooks: Vec<Vec<f32>>,
    iterations: usize,
) -> Vec<KMeans> {
    let cuts = cuts(width, codebooks.len());
    let mut part = Vec::new();
    let refit_level = |(level, codebook): (usize, Vec<f32>)| {
        let (from, to) = (cuts[level], cuts[level + 1]);
        columns(rows, width, from, to, &mut part);
        let options = KMeansOptions { max_iterations: iterations, ..plan.options(level) };
        // Surplus codewords equal the first, which wins all ties against them: they are found to be empty.
        fit_from(codebook, plan.codes[level] as usize, &part, to - from, &options)
    };
    codebooks.into_iter().enumerate().map(refit_level).collect()
}

/// Codebooks and what they make of rows.
struct Fit {
    codebooks: ProductCodebooks,
    /// [N, L]
    codes: Vec<u16>,
    /// Mean squared distance of rows to their codewords.
    error: f64,
}

impl Fit {
    /// `rows`: [N, D]
    fn new(rows: &[f32], width: usize, codebooks: Vec<Vec<f32>>) -> Self {
        let codebooks = ProductCodebooks::new(width, codebooks);
        let codes = codebooks.encode(rows);
        let error = codebooks.total_error(rows, &codes) / (rows.len() / width).max(1) as f64;
        Self { codebooks, codes, error }
    }

    /// Rows and what their codes stand for, multiplied: X^T Y, [D, D].
    ///
    /// Rows of a codeword are summed first, so that the product has K rows and not N.
    ///
    /// # Shapes
    /// `rows`: [N, D], not rotated
    fn cross(&self, rows: &[f32]) -> Vec<f64> {
        let (width, levels) = (self.codebooks.width(), self.codebooks.codes().len());
        let cuts = cuts(width, levels);
        let mut cross = vec![0f64; width * width];
        for (level, &k) in self.codebooks.codes().iter().enumerate() {
            let mut members: Vec<Vec<usize>> = vec![Vec::new(); k as usize];
            let codes = self.codes.iter().skip(level).step_by(levels);
            codes.enumerate().for_each(|(row, &code)| members[usize::from(code)].push(row));
            let mut sums = vec![0f32; k as usize * width]; // [K, D]
            sums.par_chunks_mut(width).zip(&members).for_each_init(Vec::new, |sum: &mut Vec<f64>, (out, members)| {
                sum.clear();
                sum.resize(width, 0.0);
                for row in members {
                    sum.iter_mut().zip(&rows[row * width..]).for_each(|(s, &v)| *s += f64::from(v));
                }
                out.iter_mut().zip(sum).for_each(|(o, s)| *o = *s as f32);
            });
            let part = cuts[level + 1] - cuts[level];
            let panel = cross_product(&sums, width, self.codebooks.codebook(level), part); // [D, d_l]
            for (line, panel) in cross.chunks_exact_mut(width).zip(panel.chunks_exact(part)) {
                line[cuts[level]..cuts[level + 1]].copy_from_slice(panel);
            }
        }
        cross
    }
}

/// Principal directions as columns: each goes, largest variance first, to the sub-vector with the least product of
/// variances so far that has a column left.
fn principal_rotation(rows: &[f32], width: usize, levels: usize) -> Result<Rotation> {
    let count = (rows.len() / width).max(1) as f64;
    let mut mean = vec![0f64; width];
    for row in rows.chunks_exact(width) {
        mean.iter_mut().zip(row).for_each(|(m, &v)| *m += f64::from(v) / count);
    }
    let centred: Vec<f32> = rows
        .chunks_exact(width)
        .flat_map(|row| row.iter().zip(&mean))
        .map(|(&v, m)| (f64::from(v) - m) as f32)
        .collect();
    let (values, vectors) = symmetric_eigen(&cross_product(&centred, width, &centred, width), width)?;
    let floor = values[0].max(f64::MIN_POSITIVE) * 1e-12;
    let cuts = cuts(width, levels);
    let mut filled = vec![(0.0, 0); levels];
    let mut matrix = vec![0f32; width * width];
    for (value, vector) in values.iter().zip(vectors.chunks_exact(width)) {
        let mut least = (f64::INFINITY, 0);
        for (level, &(product, taken)) in filled.iter().enumerate() {
            if taken < cuts[level + 1] - cuts[level] && product < least.0 {
                least = (product, level);
            }
        }
        let (product, taken) = &mut filled[least.1];
        let column = cuts[least.1] + *taken;
        *product += (value.max(floor) / floor).ln();
        *taken += 1;
        vector.iter().enumerate().for_each(|(i, &v)| matrix[i * width + column] = v as f32);
    }
    Ok(Rotation::new(matrix, width))
}

/// A fitted rotation and codebooks of what it makes.
#[derive(Debug, Clone)]
pub struct Opq {
    rotation: Rotation,
    codebooks: ProductCodebooks,
}

impl Quantizer for Opq {
    fn width(&self) -> usize {
        self.codebooks.width()
    }

    fn codes_per_level(&self) -> &[u32] {
        self.codebooks.codes()
    }

    fn encode_rows(&self, rows: &[f32], scratch: &mut Scratch, codes: &mut [u16]) {
        let [padded, part, _] = &mut scratch.hidden;
        self.rotation.rotate_rows(rows, padded, &mut scratch.residuals);
        self.codebooks.encode_rows(&scratch.residuals, part, &mut scratch.search, codes);
    }

    fn reconstruct(&self, ids: &SemanticIds) -> Result<Embeddings> {
        let rotated = self.codebooks.decode(ids)?;
        Ok(Embeddings::new(ids.len(), self.width(), self.rotation.rotate_back(&rotated))?)
    }

    /// The rotated vectors.
    fn latents(&self, rows: &Embeddings) -> Result<Embeddings> {
        crate::encode::check_width(self.width(), rows)?;
        Ok(Embeddings::new(rows.rows(), rows.width(), self.rotation.rotate(rows.values()))?)
    }

    /// Of the rotated sub-vectors, the first l are known and the others count whole.
    fn residual_energy(&self, rows: &Embeddings, ids: &SemanticIds) -> Result<Option<Vec<f64>>> {
        Ok(Some(self.codebooks.residual_energy(self.latents(rows)?.values(), ids)?))
    }

    /// The codewords of a rotated sub-vector, [K, d_l].
    fn codebook(&self, level: usize) -> &[f32] {
        self.codebooks.codebook(level)
    }

    fn levels_see(&self) -> LevelsSee {
        LevelsSee::SubVectors
    }

    fn arrays(&self) -> Vec<NamedArray> {
        let width = self.width();
        let rotation = NamedArray::new("rotation", &[width, width], self.rotation.matrix().to_vec());
        self.codebooks.arrays().into_iter().chain([rotation]).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::quantizers::pq::PqConfig;
    use sidereal_core::NoProgress;

    const WIDTH: usize = 12;

    /// Noise, or noise of which every column depends on the others.
    fn rows(correlated: bool, seed: u64) -> Embeddings {
        let mut rng = Rng::new(seed, "rows");
        let mut noise = |count: usize| -> Vec<f32> { (0..count).map(|_| rng.normal() as f32).collect() };
        let (base, mix) = (noise(800 * WIDTH), noise(WIDTH * WIDTH));
        let value = |at: usize| {
            let row = &base[at / WIDTH * WIDTH..][..WIDTH];
            let column = at % WIDTH;
            if !correlated {
                return row[column];
            }
            (0..WIDTH).map(|i| row[i] * mix[i * WIDTH + column] / (1.0 + i as f32)).sum()
        };
        Embeddings::new(800, WIDTH, (0..800 * WIDTH).map(value).collect()).unwrap()
    }

    fn error_of(config: &dyn MethodConfig, rows: &Embeddings) -> f64 {
        let Model::Quantizer(quantizer) =
            config.train(&TrainingItems::new(rows), &Training::new(3, &NoProgress)).unwrap().model
        else {
            panic!("codebooks make a quantizer")
        };
        let levels = quantizer.levels();
        let mut codes = vec![0; rows.rows() * levels];
        quantizer.encode_rows(rows.values(), &mut Scratch::default(), &mut codes);
        let ids = SemanticIds::new(levels, codes).unwrap();
        let back = quantizer.reconstruct(&ids).unwrap();
        let energy = quantizer.residual_energy(rows, &ids).unwrap().unwrap();
        let error: f64 =
            (0..rows.rows()).map(|i| crate::algebra::product::squared_distance(rows.row(i), back.row(i))).sum();
        assert!((energy[levels] / error - 1.0).abs() < 1e-4, "{energy:?} and {error}");
        error
    }

    #[test]
    fn rotating_is_never_worse_than_not_rotating_and_much_better_on_correlated_columns() {
        for start in [OpqStart::Identity, OpqStart::Pca] {
            for (correlated, seed) in [(false, 1), (false, 2), (true, 3), (true, 4)] {
                let rows = rows(correlated, seed);
                let plain = error_of(&PqConfig::with_codes(vec![16; 4]), &rows);
                let rotated = error_of(&OpqConfig { start, ..OpqConfig::with_codes(vec![16; 4]) }, &rows);
                assert!(rotated <= plain * (1.0 + 1e-6), "{start:?}: {rotated} and {plain}");
                assert!(!correlated || rotated < 0.85 * plain, "{start:?}: {rotated} and {plain}");
            }
        }
    }

    #[test]
    fn principal_directions_are_dealt_out_evenly() {
        // Variances 16, 9, 4, 1: 16 and 1 belong together, and 9 and 4.
        let mut rng = Rng::new(6, "rows");
        let values: Vec<f32> = (0..4000 * 4).map(|at| rng.normal() as f32 * [4.0, 3.0, 2.0, 1.0][at % 4]).collect();
        let rotation = principal_rotation(&values, 4, 2).unwrap();
        let of = |column: usize| (0..4).find(|&i| rotation.matrix()[i * 4 + column].abs() > 0.9).unwrap();
        assert_eq!([of(0), of(1), of(2), of(3)], [0, 3, 1, 2]);
    }

    #[test]
    fn impossible_settings_name_their_key() {
        let base = OpqConfig::with_codes(vec![4]);
        let error = |config: OpqConfig| config.check().unwrap_err().to_string();
        assert!(error(OpqConfig { alternations: 0, ..base.clone() }).contains("opq.alternations"));
        assert!(error(OpqConfig { rotation_rows: 0, ..base.clone() }).contains("opq.rotation_rows"));
        assert!(error(OpqConfig { tolerance: 2.0, ..base }).contains("opq.tolerance"));
    }

    #[test]
    fn more_levels_than_columns_are_refused_with_the_key() {
        let rows = Embeddings::new(2, 3, vec![1.0; 6]).unwrap();
        let training = Training::new(1, &NoProgress);
        let Err(error) = OpqConfig::with_codes(vec![2; 4]).train(&TrainingItems::new(&rows), &training) else {
            panic!("four parts of three columns")
        };
        assert!(error.to_string().contains("opq.codes"), "{error}");
    }

    #[test]
    fn equal_rows_and_constant_columns_are_no_obstacle() {
        for values in [vec![2.0; 30], vec![0.0; 30], (0..30).map(|i| if i % 3 == 0 { 7.0 } else { i as f32 }).collect()]
        {
            let rows = Embeddings::new(10, 3, values).unwrap();
            let config = OpqConfig::with_codes(vec![16, 16]);
            let trained = config.train(&TrainingItems::new(&rows), &Training::new(1, &NoProgress)).unwrap();
            let Model::Quantizer(quantizer) = trained.model else { panic!("codebooks make a quantizer") };
            assert!(quantizer.arrays().iter().all(|array| array.values.iter().all(|v| v.is_finite())));
        }
    }
}
