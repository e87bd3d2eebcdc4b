//! Models that write codes: one file each, and one list that names them all.

pub mod t5;
pub mod tiger;

use serde::{Deserialize, Serialize};
use sidereal_core::CodeVocab;
pub use sidereal_core::method::Status;

use crate::Result;
use crate::scoring::ScoreNorm;
use crate::training::TrainingConfig;
use t5::T5Config;
use tiger::TigerConfig;

/// A line of the list of methods.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Method {
    /// The name in recipes and on the command line.
    pub name: &'static str,
    /// Where it is described.
    pub paper: &'static str,
    /// How far it is.
    pub status: Status,
    /// One sentence.
    pub summary: &'static str,
    /// The recipe with its defaults.
    #[serde(skip)]
    pub default_config: fn() -> GeneratorConfig,
}

/// All generators.
pub const GENERATORS: &[Method] = &[Method {
    name: "tiger",
    paper: "Rajput et al., Recommender Systems with Generative Retrieval, arXiv 2305.05065",
    status: Status::Stable,
    summary: "a small T5 encoder-decoder over the codes of the history",
    default_config: || GeneratorConfig::Tiger(TigerConfig::default()),
}];

/// The `[generator.NAME]` table of a recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GeneratorConfig {
    /// See [`tiger`].
    Tiger(TigerConfig),
}

impl GeneratorConfig {
    /// A method's defaults.
    ///
    /// # Errors
    /// No method of that name; the ones there are are listed.
    pub fn named(name: &str) -> Result<Self> {
        let method = GENERATORS.iter().find(|method| method.name == name).ok_or_else(|| {
            let known: Vec<&str> = GENERATORS.iter().map(|method| method.name).collect();
            let problem = format!("no generator is named {name:?}");
            sidereal_core::Error::config("generator", problem, format!("use one of: {}", known.join(", ")))
        })?;
        Ok((method.default_config)())
    }

    /// The method's name in [`GENERATORS`].
    pub fn method(&self) -> &'static str {
        match self {
            Self::Tiger(_) => "tiger",
        }
    }

    /// How it is trained.
    pub fn training(&self) -> &TrainingConfig {
        match self {
            Self::Tiger(config) => &config.training,
        }
    }

    /// How it is trained, for a caller that overrides keys.
    pub fn training_mut(&mut self) -> &mut TrainingConfig {
        match self {
            Self::Tiger(config) => &mut config.training,
        }
    }

    /// Most recent items that the model sees.
    pub fn max_history(&self) -> usize {
        match self {
            Self::Tiger(config) => config.max_history,
        }
    }

    /// Over which tokens scores are normalised.
    pub fn score_norm(&self) -> ScoreNorm {
        match self {
            Self::Tiger(config) => config.score_norm,
        }
    }

    /// The network for a vocabulary of codes.
    ///
    /// # Errors
    /// Sizes that no model can have, by key.
    pub fn t5(&self, vocab: &CodeVocab) -> Result<T5Config> {
        match self {
            Self::Tiger(config) => config.t5(vocab),
        }
    }

    /// Refuses values that no run can have, by key.
    ///
    /// # Errors
    /// The first such key.
    pub fn check(&self) -> Result<()> {
        self.training().check(&format!("generator.{}.training", self.method()))
    }
}
