//! A trained generator in a folder: Hugging Face's two files and `generator.json`, which says what the codes mean.

use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sidereal_core::artifact::{read_json, write_json};
use sidereal_core::{Catalog, CodeVocab, Error as CoreError};
use sidereal_nn::kernels::Precision;

use crate::Result;
use crate::models::GeneratorConfig;
use crate::network::{Materials, Network};
use crate::ranker::{Question, Ranker};
use crate::ranking::Ranking;
use crate::scoring::ScoreNorm;

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
    network: Box<dyn Network>,
    ranker: Arc<dyn Ranker>,
    precision: Precision,
}

impl Generator {
    /// Joins weights and what they mean.
    ///
    /// # Errors
    /// Materials that do not fit the weights; a precision that the model does not have.
    pub fn new(info: GeneratorInfo, network: Box<dyn Network>, materials: &Materials<'_>) -> Result<Self> {
        let precision = materials.precision;
        if precision != Precision::F32 && !network.has_precisions() {
            let problem = format!("{} answers in f32 alone, not in {}", info.method, precision.name());
            return Err(CoreError::config("precision", problem, "use f32, or train a model that writes codes").into());
        }
        let ranker = network.ranker(materials)?.into();
        Ok(Self { info, network, ranker, precision })
    }

    /// Reads what a folder written by [`Generator::save`] says of itself, without its weights.
    ///
    /// # Errors
    /// A file that is missing, damaged or of a newer version.
    pub fn read_info(dir: &Path) -> Result<GeneratorInfo> {
        let path = dir.join(GENERATOR_FILE);
        let info: GeneratorInfo = read_json(&path)?;
        if info.format_version != FORMAT_VERSION {
            let problem = format!("format version {}, but this program reads {FORMAT_VERSION}", info.format_version);
            return Err(CoreError::artifact(&path, problem, "train the generator again, or use its program").into());
        }
        Ok(info)
    }

    /// Loads a folder written by [`Generator::save`].
    ///
    /// # Errors
    /// Files that are missing, damaged or of a newer version; a catalog that is neither the one it was trained on nor
    /// came from it by added and removed items, unless `allow_other_catalog` (its codes per level must be the same even
    /// then).
    pub fn load(dir: &Path, materials: &Materials<'_>, allow_other_catalog: bool) -> Result<Self> {
        let info = Self::read_info(dir)?;
        let catalog = materials.catalog;
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
        let network = info.recipe.model().load(dir, materials)?;
        Self::new(info, network, materials)
    }

    /// Writes the generator into an existing folder.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn save(&self, dir: &Path) -> Result<()> {
        self.network.save(dir)?;
        Ok(write_json(&dir.join(GENERATOR_FILE), &self.info)?)
    }

    /// What it is.
    pub fn info(&self) -> &GeneratorInfo {
        &self.info
    }

    /// Its weights.
    pub fn network(&self) -> &dyn Network {
        self.network.as_ref()
    }

    /// What its ranker multiplies.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Its weights, ready to answer.
    pub fn ranker(&self) -> &dyn Ranker {
        self.ranker.as_ref()
    }

    /// The same for another owner.
    pub fn shared_ranker(&self) -> Arc<dyn Ranker> {
        Arc::clone(&self.ranker)
    }

    /// Ranks items for histories, each under its own filter.
    ///
    /// # Errors
    /// As [`Ranker::rank`].
    ///
    /// # Panics
    /// If an item of a history is not in the catalog.
    pub fn recommend(&self, catalog: &Catalog, questions: &[Question<'_>], beam: usize) -> Result<Vec<Ranking>> {
        self.ranker.rank(catalog, questions, beam)
    }
}
