//! A trained generator in a folder: Hugging Face's two files and `generator.json`, which says what the codes mean.

use std::path::Path;

use candle_core::Device;
use serde::{Deserialize, Serialize};
use sidereal_core::artifact::{read_json, write_json};
use sidereal_core::{Catalog, CodeVocab, Error as CoreError, ItemIndex, LeafFilter};

use crate::Result;
use crate::batches::history_tokens;
use crate::beam::{BeamOptions, Request, beam_search};
use crate::exact::ExactScorer;
use crate::models::GeneratorConfig;
use crate::models::t5::{T5, T5Inference};
use crate::ranking::Ranking;
use crate::scoring::{NextCodeModel, ScoreNorm};

/// The name of [`GeneratorInfo`]'s file.
pub const GENERATOR_FILE: &str = "generator.json";
/// The version of the folder's format.
pub const FORMAT_VERSION: u32 = 1;

/// Everything about a generator that its weights do not say.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GeneratorInfo {
    /// [`FORMAT_VERSION`] when it was written.
    pub format_version: u32,
    /// The method's name.
    pub method: String,
    /// How codes are numbered as tokens.
    pub vocab: CodeVocab,
    /// The catalog that it was trained on.
    pub catalog_version: String,
    /// Most recent items that it sees.
    pub max_history: usize,
    /// Over which tokens its scores are normalised.
    pub score_norm: ScoreNorm,
    /// The seed of its training.
    pub seed: u64,
    /// How many numbers it holds.
    pub parameters: usize,
    /// The step that these weights are from.
    pub step: u64,
    /// The resolved recipe.
    pub recipe: GeneratorConfig,
}

/// A generator that answers questions over one catalog.
#[derive(Debug)]
pub struct Generator {
    info: GeneratorInfo,
    model: T5,
    inference: T5Inference,
}

impl Generator {
    /// Joins weights and what they mean.
    ///
    /// # Errors
    /// A vocabulary that does not fit the weights.
    pub fn new(info: GeneratorInfo, model: T5) -> Result<Self> {
        let inference = model.inference(&info.vocab)?;
        Ok(Self { info, model, inference })
    }

    /// Loads a folder written by [`Generator::save`].
    ///
    /// # Errors
    /// Files that are missing, damaged or of a newer version; a catalog that is neither the one it was trained on nor
    /// came from it by added and removed items, unless `allow_other_catalog` (its codes per level must be the same even
    /// then).
    pub fn load(dir: &Path, catalog: &Catalog, device: &Device, allow_other_catalog: bool) -> Result<Self> {
        let path = dir.join(GENERATOR_FILE);
        let info: GeneratorInfo = read_json(&path)?;
        if info.format_version != FORMAT_VERSION {
            let problem = format!("format version {}, but this program reads {FORMAT_VERSION}", info.format_version);
            return Err(CoreError::artifact(&path, problem, "train the generator again, or use its program").into());
        }
        if !catalog.descends_from(&info.catalog_version) && !allow_other_catalog {
            let problem = format!(
                "{} was trained on catalog {}, but this catalog is {}",
                dir.display(),
                info.catalog_version,
                catalog.version()
            );
            let mend = "use the catalog that it was trained on, train it again, or allow another catalog";
            return Err(CoreError::mismatch(problem, mend).into());
        }
        if info.vocab.codes_per_level() != catalog.codes_per_level() {
            let (ours, theirs) = (info.vocab.codes_per_level(), catalog.codes_per_level());
            let problem = format!("{} writes {ours:?} codes per level, but the catalog has {theirs:?}", dir.display());
            return Err(CoreError::mismatch(problem, "train the generator again on this catalog").into());
        }
        Self::new(info, T5::load(dir, device)?)
    }

    /// Writes the generator into an existing folder.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn save(&self, dir: &Path) -> Result<()> {
        self.model.save(dir)?;
        Ok(write_json(&dir.join(GENERATOR_FILE), &self.info)?)
    }

    /// What it is.
    pub fn info(&self) -> &GeneratorInfo {
        &self.info
    }

    /// Its weights.
    pub fn model(&self) -> &T5 {
        &self.model
    }

    /// Its weights, ready to write codes.
    pub fn inference(&self) -> &T5Inference {
        &self.inference
    }

    /// The tokens of a history of items, oldest first.
    ///
    /// # Panics
    /// If an item is not in the catalog.
    pub fn tokens(&self, catalog: &Catalog, history: &[ItemIndex]) -> Vec<u32> {
        history_tokens(catalog, &self.info.vocab, history, self.info.max_history)
    }

    /// Ranks items by beam search for histories of items (oldest first), each under its own filter.
    ///
    /// # Errors
    /// As [`beam_search`].
    ///
    /// # Panics
    /// If an item of a history is not in the catalog.
    pub fn recommend(
        &self,
        catalog: &Catalog,
        questions: &[(&[ItemIndex], &LeafFilter)],
        beam: usize,
    ) -> Result<Vec<Ranking>> {
        let tokens: Vec<Vec<u32>> = questions.iter().map(|(history, _)| self.tokens(catalog, history)).collect();
        let requests: Vec<Request<'_>> =
            tokens.iter().zip(questions).map(|(history, (_, filter))| Request { history, filter }).collect();
        beam_search(&self.inference, catalog, &requests, BeamOptions { width: beam, norm: self.info.score_norm })
    }

    /// The scorer of the whole catalog.
    ///
    /// # Errors
    /// A catalog of other codes per level.
    pub fn exact<'a>(&'a self, catalog: &'a Catalog) -> Result<ExactScorer<'a, T5Inference>> {
        debug_assert_eq!(self.inference.vocab(), &self.info.vocab);
        ExactScorer::new(&self.inference, catalog, self.info.score_norm, self.info.max_history)
    }
}
