//! Residual k-means: every level clusters what the levels before left over.
//!
//! *Paper*: GRID (Ju et al., arXiv 2507.22224), which finds it at least as good as RQ-VAE for recommendation; OneRec
//! (Deng et al., arXiv 2502.18965) and MiniOneRec (Kong et al., arXiv 2510.24431) use a balanced form. It has no nets, is
//! deterministic and takes minutes on a CPU, so it is the default.
//! *Differs from the papers*: Lloyd's iterations on all rows unless `mini_batch_rows` is set; greedy k-means++ seeds from a
//! sample (any rows when balanced). `normalize_residuals` gives GRID's variant, `spherical` keeps codewords at length 1 (for use with it).
//! `balanced` holds clusters to equal sizes while codewords are fitted (MiniOneRec's bounds); items are encoded by the
//! nearest codeword all the same, and [`crate::life::balanced`] can assign a whole catalog under these bounds. `beam` searches
//! codes as faiss' ResidualQuantizer does, and `train_beam` fits each level to what the whole beam leaves. Residuals of text
//! embeddings have long tails, on which plain k-means spends most codewords of the later levels: `normalize_residuals` and
//! `balanced` use them evenly, the former at less error.
//! *Checked against*: `tests/fixtures/rkmeans` (faiss codebooks and codes, with and without a beam), written by
//! `benches/peers/make_fixtures.py`.
//!
//! # Shapes
//! Embeddings [N, D]; L codebooks [K_l, D]; semantic IDs [N, L].

use serde::{Deserialize, Serialize};

use sidereal_core::{Embeddings, Error, SemanticIds};
use sidereal_nn::rng::Rng;

use super::{LevelsSee, MethodConfig, MethodKind, Model, Quantizer, Scratch, Status, Trained, Training};
use crate::Result;
use crate::arrays::{ArraySet, NamedArray};
use crate::clustering::capacity::MOST_CODES;
use crate::clustering::kmeans::{Iterations, KMeansOptions, fit_by};
use crate::codebooks::beam::{check_beam, residuals_of_beams, table_entries};
use crate::codebooks::residual::ResidualCodebooks;
use crate::codebooks::search::CodeSearch;
use crate::pre_step::PreStep;
use crate::training_items::{FitOn, TrainingItems};

/// Without a beam, codebooks with more products among their codewords than this (16 MiB) are searched level by level.
const MOST_ENTRIES_WITHOUT_BEAM: usize = 1 << 22;

/// Settings of residual k-means.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RqKmeansConfig {
    /// K of every level. Default: three levels of 256, the best of GRID's on Amazon data.
    pub codes: Vec<u32>,
    /// What is done to embeddings first, in order.
    pub pre_steps: Vec<PreStep>,
    /// Items that it is fitted on: `all`, or those `seen` in the training histories.
    #[serde(skip_serializing_if = "FitOn::is_usual")]
    pub fit: FitOn,
    /// Most iterations of a level.
    pub max_iterations: usize,
    /// A level ends when an iteration lowers its error by less than this share.
    pub tolerance: f64,
    /// Keeps codewords at length 1.
    pub spherical: bool,
    /// Scales residuals to length 1 before every level.
    pub normalize_residuals: bool,
    /// Seeds are drawn from a sample of this many rows a codeword (at least 16,384 rows).
    pub seeding_rows_per_code: usize,
    /// Fits codewords to clusters of equal size: floor(N / K) rows, one more or less, as MiniOneRec.
    pub balanced: bool,
    /// Moves codewords after every batch of this many rows (Sculley, WWW 2010), for catalogs of many millions; 0 uses all
    /// rows at a time.
    pub mini_batch_rows: usize,
    /// Beginnings of a row's codes that are kept while it is encoded; 1 takes the nearest codeword at every level, and
    /// faiss' default is 5.
    pub beam: usize,
    /// With a beam, fits each level to what all its beginnings leave over, as faiss does, and not to what the nearest
    /// codewords leave over. On text embeddings of Amazon items it gives more error, so it is off.
    pub train_beam: bool,
}

impl Default for RqKmeansConfig {
    fn default() -> Self {
        Self {
            codes: vec![256; 3],
            pre_steps: Vec::new(),
            fit: FitOn::All,
            max_iterations: 30,
            tolerance: 1e-4,
            spherical: false,
            normalize_residuals: false,
            seeding_rows_per_code: 16,
            balanced: false,
            mini_batch_rows: 0,
            beam: 1,
            train_beam: false,
        }
    }
}

impl MethodKind for RqKmeansConfig {
    const PAPER: &'static str = "GRID, arXiv 2507.22224; OneRec, arXiv 2502.18965 (balanced)";
    const STATUS: Status = Status::Stable;

    fn with_codes(codes: Vec<u32>) -> Self {
        Self { codes, ..Self::default() }
    }
}

/// What is recorded of a level's training.
#[derive(Debug, Serialize)]
struct LevelRecord {
    iterations: usize,
    mean_squared_error: f64,
    used: usize,
    codes: u32,
    seeding_rows: usize,
}

impl MethodConfig for RqKmeansConfig {
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
        KMeansOptions::check("rq-kmeans", self.max_iterations, self.tolerance, self.seeding_rows_per_code)?;
        check_beam("rq-kmeans.beam", self.beam, &self.codes)?;
        if self.beam > 1 && self.normalize_residuals {
            let problem = "a beam compares what is left of a vector, and normalize_residuals forgets how much that is";
            let mend = "set beam = 1 or normalize_residuals = false";
            return Err(Error::config("rq-kmeans.beam", problem, mend).into());
        }
        if self.balanced && self.mini_batch_rows > 0 {
            let problem = "clusters of equal size need all rows at a time";
            let mend = "set mini_batch_rows = 0 or balanced = false";
            return Err(Error::config("rq-kmeans.balanced", problem, mend).into());
        }
        if let Some(&codes) = self.codes.iter().find(|&&k| self.balanced && k > MOST_CODES) {
            let problem = format!("a level has {codes} codes; balancing takes at most {MOST_CODES}");
            return Err(Error::config("rq-kmeans.balanced", problem, "use more levels of fewer codes").into());
        }
        Ok(())
    }

    fn train(&self, items: &TrainingItems<'_>, training: &Training<'_>) -> Result<Trained> {
        let rows = items.vectors;
        let width = rows.width();
        let trains_beam = self.beam > 1 && self.train_beam;
        let mut residuals = rows.values().to_vec();
        let mut codebooks = ResidualCodebooks::new(width);
        let mut records = Vec::new();
        for (level, &codes) in self.codes.iter().enumerate() {
            let mut rng = Rng::new(training.seed, &format!("rq-kmeans level {level}"));
            if trains_beam && level > 0 {
                // As many as faiss takes, 256 for a codeword, but no fewer than there are items.
                let limit = rows.rows().max(256 * codes as usize);
                residuals = residuals_of_beams(&codebooks, self.beam, rows.values(), limit, &mut rng);
            }
            let length = self.normalize_residuals.then(|| normalise_rows(&mut residuals, width));
            let options = KMeansOptions {
                codes: codes as usize,
                max_iterations: self.max_iterations,
                tolerance: self.tolerance,
                spherical: self.spherical,
                seeding_rows: KMeansOptions::seeding_rows(self.seeding_rows_per_code, codes),
            };
            let task = format!("k-means, level {} of {}", level + 1, self.codes.len());
            training.progress.start(&task, Some(self.max_iterations as u64), "iterations");
            let fitted = fit_by(self.iterations(), &residuals, width, &options, &mut rng, &mut |_, error| {
                training.progress.advance(1);
                training.progress.note(&format!("error {error:.5}"));
            });
            training.progress.finish();
            records.push(LevelRecord {
                iterations: fitted.iterations,
                mean_squared_error: fitted.error,
                used: fitted.used,
                codes,
                seeding_rows: options.seeding_rows.min(residuals.len() / width),
            });
            codebooks.push(fitted.codewords, length);
            if !trains_beam {
                codebooks.subtract_level(level, &mut residuals);
            }
        }
        let record = serde_json::json!({ "levels": records });
        Ok(Trained { model: Model::Quantizer(Box::new(RqKmeans::new(codebooks, self.beam))), record })
    }

    fn load(&self, width: usize, arrays: &mut ArraySet) -> Result<Box<dyn Quantizer>> {
        let codebooks = ResidualCodebooks::load(width, &self.codes, self.normalize_residuals, arrays)?;
        Ok(Box::new(RqKmeans::new(codebooks, self.beam)))
    }
}

impl RqKmeansConfig {
    fn iterations(&self) -> Iterations {
        match (self.balanced, self.mini_batch_rows) {
            (true, _) => Iterations::Balanced,
            (false, 0) => Iterations::Lloyd,
            (false, rows) => Iterations::MiniBatch { rows },
        }
    }
}

/// Scales rows to length 1; answers their mean length before.
fn normalise_rows(rows: &mut [f32], width: usize) -> f32 {
    use rayon::prelude::*;
    let lengths: Vec<f64> = rows.par_chunks_mut(width).map(crate::clustering::kmeans::normalise).collect();
    (lengths.iter().sum::<f64>() / lengths.len().max(1) as f64) as f32
}

/// A fitted stack of codebooks over the embeddings themselves.
#[derive(Debug, Clone)]
pub struct RqKmeans {
    codebooks: ResidualCodebooks,
    /// Over all levels at once, where that can be done.
    search: Option<CodeSearch>,
}

impl RqKmeans {
    fn new(codebooks: ResidualCodebooks, beam: usize) -> Self {
        let tables_are_small =
            !codebooks.is_normalised() && table_entries(codebooks.codes()) <= MOST_ENTRIES_WITHOUT_BEAM;
        let search = (beam > 1 || tables_are_small).then(|| codebooks.search(beam));
        Self { codebooks, search }
    }

    /// The same codebooks, searched with a beam; 1 takes the nearest codeword at every level.
    ///
    /// # Errors
    /// A beam that is too wide, or codebooks whose tables would be too large.
    pub fn with_beam(self, beam: usize) -> Result<Self> {
        check_beam("rq-kmeans.beam", beam, self.codebooks.codes())?;
        Ok(Self::new(self.codebooks, beam))
    }

    /// Takes codebooks that were made elsewhere, each [K_l, D].
    ///
    /// # Errors
    /// Codebooks that are empty, ragged, too large or not finite; the level is named.
    pub fn from_codebooks(width: usize, codebooks: Vec<Vec<f32>>) -> Result<Self> {
        let mut stack = ResidualCodebooks::new(width);
        for (level, codewords) in codebooks.into_iter().enumerate() {
            let codes = codewords.len().checked_div(width).unwrap_or(0);
            let fits = codes * width == codewords.len() && (1..=crate::codes::MAX_CODES as usize).contains(&codes);
            if !fits || codewords.iter().any(|v| !v.is_finite()) {
                let problem =
                    format!("{} values are not 1 to 65536 finite codewords of width {width}", codewords.len());
                return Err(Error::input(format!("codebook {level}"), problem, "export the codebooks again").into());
            }
            stack.push(codewords, None);
        }
        crate::codes::check_codes(stack.codes())?;
        Ok(Self::new(stack, 1))
    }
}

impl Quantizer for RqKmeans {
    fn width(&self) -> usize {
        self.codebooks.width()
    }

    fn codes_per_level(&self) -> &[u32] {
        self.codebooks.codes()
    }

    fn encode_rows(&self, rows: &[f32], scratch: &mut Scratch, codes: &mut [u16]) {
        if let Some(search) = &self.search {
            let levels = self.levels();
            return search.search(rows, 1, &mut scratch.search, |row, found| {
                codes[row * levels..(row + 1) * levels].copy_from_slice(found);
            });
        }
        scratch.residuals.clear();
        scratch.residuals.extend_from_slice(rows);
        self.codebooks.encode_rows(&mut scratch.residuals, &mut scratch.search, codes);
    }

    fn reconstruct(&self, ids: &SemanticIds) -> Result<Embeddings> {
        Ok(Embeddings::new(ids.len(), self.width(), self.codebooks.sums(ids)?)?)
    }

    fn latents(&self, rows: &Embeddings) -> Result<Embeddings> {
        crate::encode::check_width(self.width(), rows)?;
        Ok(rows.clone())
    }

    fn residual_energy(&self, rows: &Embeddings, ids: &SemanticIds) -> Result<Option<Vec<f64>>> {
        crate::encode::check_width(self.width(), rows)?;
        Ok(Some(self.codebooks.residual_energy(rows.values(), ids)?))
    }

    fn codebook(&self, level: usize) -> &[f32] {
        self.codebooks.codebook(level)
    }

    fn levels_see(&self) -> LevelsSee {
        LevelsSee::Residuals { normalised: self.codebooks.is_normalised() }
    }

    fn arrays(&self) -> Vec<NamedArray> {
        self.codebooks.arrays()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use sidereal_core::NoProgress;

    fn noise(rows: usize, width: usize) -> Embeddings {
        let mut rng = Rng::new(4, "noise");
        Embeddings::new(rows, width, (0..rows * width).map(|_| rng.normal() as f32).collect()).unwrap()
    }

    #[test]
    fn what_training_subtracts_is_what_encoding_subtracts() {
        let rows = noise(700, 6);
        for normalize_residuals in [false, true] {
            let mut config = RqKmeansConfig::with_codes(vec![16, 8]);
            config.normalize_residuals = normalize_residuals;
            let trained = config.train(&TrainingItems::new(&rows), &Training::new(1, &NoProgress)).unwrap();
            let Model::Quantizer(quantizer) = trained.model else { panic!("k-means makes a quantizer") };
            let mut codes = vec![0; 700 * 2];
            quantizer.encode_rows(rows.values(), &mut Scratch::default(), &mut codes);
            let ids = SemanticIds::new(2, codes).unwrap();
            let energy = quantizer.residual_energy(&rows, &ids).unwrap().unwrap();
            assert!(energy[0] > energy[1] && energy[1] > energy[2], "{energy:?}");
            if !normalize_residuals {
                let error = trained.record["levels"][1]["mean_squared_error"].as_f64().unwrap();
                assert!((energy[2] / 700.0 / error - 1.0).abs() < 1e-3);
                let back = quantizer.reconstruct(&ids).unwrap();
                let apart: f64 =
                    (0..700).map(|i| crate::algebra::product::squared_distance(rows.row(i), back.row(i))).sum();
                assert!((apart / energy[2] - 1.0).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn every_variant_encodes_rows_alone_as_together_and_keeps_its_bytes_for_two_threads() {
        let rows = noise(600, 5);
        let base = RqKmeansConfig::with_codes(vec![16, 8, 8]);
        for config in [
            RqKmeansConfig { balanced: true, ..base.clone() },
            RqKmeansConfig { balanced: true, normalize_residuals: true, spherical: true, ..base.clone() },
            RqKmeansConfig { mini_batch_rows: 100, ..base.clone() },
            RqKmeansConfig { beam: 4, train_beam: true, ..base.clone() },
            RqKmeansConfig { beam: 3, balanced: true, ..base.clone() },
        ] {
            config.check().unwrap();
            let run = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let trained =
                    pool.install(|| config.train(&TrainingItems::new(&rows), &Training::new(1, &NoProgress)).unwrap());
                let Model::Quantizer(quantizer) = trained.model else { panic!("k-means makes a quantizer") };
                quantizer
            };
            let (one, two) = (run(1), run(2));
            assert_eq!(one.arrays(), two.arrays(), "{config:?}");
            let (mut together, mut alone) = (vec![0; 600 * 3], vec![0; 600 * 3]);
            one.encode_rows(rows.values(), &mut Scratch::default(), &mut together);
            for (i, codes) in alone.chunks_mut(3).enumerate() {
                two.encode_rows(rows.row(i), &mut Scratch::default(), codes);
            }
            assert_eq!(together, alone, "{config:?}");
        }
    }

    #[test]
    fn impossible_settings_name_their_key() {
        let base = RqKmeansConfig::with_codes(vec![4]);
        let error = |config: RqKmeansConfig| config.check().unwrap_err().to_string();
        assert!(error(RqKmeansConfig { max_iterations: 0, ..base.clone() }).contains("max_iterations"));
        assert!(error(RqKmeansConfig { tolerance: f64::NAN, ..base.clone() }).contains("tolerance"));
        assert!(error(RqKmeansConfig { seeding_rows_per_code: 0, ..base.clone() }).contains("seeding_rows_per_code"));
        assert!(error(RqKmeansConfig { beam: 0, ..base.clone() }).contains("rq-kmeans.beam"));
        let forgetful = RqKmeansConfig { beam: 2, normalize_residuals: true, ..base.clone() };
        assert!(error(forgetful).contains("normalize_residuals = false"));
        let large = RqKmeansConfig { balanced: true, codes: vec![4096], ..base.clone() };
        assert!(error(large).contains("4096"));
        assert!(error(RqKmeansConfig { balanced: true, mini_batch_rows: 9, ..base }).contains("rq-kmeans.balanced"));
        assert!(RqKmeans::from_codebooks(2, vec![vec![1.0]]).is_err());
        assert!(RqKmeans::from_codebooks(0, vec![vec![1.0]]).is_err());
        assert!(RqKmeans::from_codebooks(1, vec![]).is_err());
    }
}
