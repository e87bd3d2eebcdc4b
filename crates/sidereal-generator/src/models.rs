//! Models of the next item: one file or folder each, and one list that names them all.
//!
//! Some write codes and some score items; some are what the project is for and some are the trained baselines that
//! they have to beat. All are [`Network`]s, so all are trained, kept, validated and asked in the same way.

pub mod causal;
pub mod liger;
pub mod llm;
pub mod recgpt;
pub mod rpg;
pub mod sasrec;
pub mod setrec;
pub mod t5;
pub mod tiger;

mod blocks;
mod codewords;
mod cost;
mod dense;
mod grid;
mod packed;
pub(crate) mod parallel;
mod placed;
mod repeats;
mod unit_length;

use serde::{Deserialize, Serialize};
use sidereal_core::Error as CoreError;
pub use sidereal_core::method::Status;

use std::path::Path;

use crate::Result;
use crate::network::{Materials, Network, SampleUnit, WEIGHTS_FILE};
use crate::scoring::ScoreNorm;
use crate::training::TrainingConfig;
pub use cost::{Cost, Shape};

/// What a model is in a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// A model over semantic IDs.
    Generator,
    /// A trained model without semantic IDs, which generators have to beat.
    Baseline,
}

/// A line of the list of methods.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Method {
    /// The name in recipes and on the command line.
    pub name: &'static str,
    /// Where it is described.
    pub paper: &'static str,
    /// How far it is.
    pub status: Status,
    /// What it is in a comparison.
    pub role: Role,
    /// One sentence.
    pub summary: &'static str,
    /// The recipe with its defaults.
    #[serde(skip)]
    pub default_config: fn() -> GeneratorConfig,
}

/// A recipe with the constants of one paper or repository.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Preset {
    /// The name on the command line.
    pub name: &'static str,
    /// Where its constants are from.
    pub paper: &'static str,
    /// The recipe.
    #[serde(skip)]
    pub config: fn() -> GeneratorConfig,
}

/// What a method says about itself.
pub trait ModelKind: ModelConfig + Default {
    /// Where it is described.
    const PAPER: &'static str;
    /// How far it is.
    const STATUS: Status;
    /// What it is in a comparison.
    const ROLE: Role;
    /// One sentence.
    const SUMMARY: &'static str;
    /// Recipes of papers.
    const PRESETS: &'static [Preset] = &[];
}

/// What a run must have before a network can be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Needs {
    /// Item vectors.
    pub vectors: bool,
    /// The tokenizer's codebooks.
    pub codebooks: bool,
}

/// A method's table of a recipe.
pub trait ModelConfig {
    /// How it is trained.
    fn training(&self) -> &TrainingConfig;

    /// How it is trained, for a caller that overrides keys.
    fn training_mut(&mut self) -> &mut TrainingConfig;

    /// Where the keys of [`ModelConfig::training`] stand in the method's table.
    fn training_table(&self) -> &'static str {
        "training"
    }

    /// Most recent items that the model sees.
    fn max_history(&self) -> usize;

    /// What a training sample is.
    fn unit(&self) -> SampleUnit {
        SampleUnit::NextItem
    }

    /// Over which tokens scores are normalised.
    fn score_norm(&self) -> ScoreNorm {
        ScoreNorm::Children
    }

    /// What the run must have.
    fn needs(&self) -> Needs {
        Needs::default()
    }

    /// Refuses sizes that no model over these codes per level can have, by key.
    ///
    /// # Errors
    /// The first such key.
    fn check(&self, codes_per_level: &[u32]) -> Result<()>;

    /// What training and answering will cost.
    fn cost(&self, shape: &Shape<'_>) -> Cost;

    /// A network with first weights, which the seed decides.
    ///
    /// # Errors
    /// Sizes that no model can have; materials that are missing; whatever the device says.
    fn build(&self, materials: &Materials<'_>, seed: u64) -> Result<Box<dyn Network>>;

    /// A network with the weights of a folder.
    ///
    /// # Errors
    /// As [`ModelConfig::build`]; a damaged or foreign file.
    fn load(&self, dir: &Path, materials: &Materials<'_>) -> Result<Box<dyn Network>> {
        let mut network = self.build(materials, 0)?;
        network.load_weights(&dir.join(WEIGHTS_FILE))?;
        Ok(network)
    }
}

/// Whether a key stays out of files: keys that came later do, where they say nothing, so that the settings of older
/// runs read as they were written.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// The keys `training` and `max_history` of a method's table, as [`ModelConfig`] asks for them.
macro_rules! shared_keys {
    () => {
        fn training(&self) -> &crate::training::TrainingConfig {
            &self.training
        }

        fn training_mut(&mut self) -> &mut crate::training::TrainingConfig {
            &mut self.training
        }

        fn max_history(&self) -> usize {
            self.max_history
        }
    };
}
pub(crate) use shared_keys;

/// Makes the list of methods and the configuration's enum from one line a method.
macro_rules! models {
    ($($(#[$doc:meta])* $variant:ident($config:ty) = $name:literal,)*) => {
        /// Every model there is.
        pub const GENERATORS: &[Method] = &[$(Method {
            name: $name,
            paper: <$config as ModelKind>::PAPER,
            status: <$config as ModelKind>::STATUS,
            role: <$config as ModelKind>::ROLE,
            summary: <$config as ModelKind>::SUMMARY,
            default_config: || GeneratorConfig::$variant(<$config>::default()),
        },)*];

        /// The presets of every model.
        const PRESETS: &[&[Preset]] = &[$(<$config as ModelKind>::PRESETS,)*];

        /// The `[generator.NAME]` table of a recipe.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        pub enum GeneratorConfig {
            $($(#[$doc])* #[serde(rename = $name)] $variant($config),)*
        }

        impl GeneratorConfig {
            /// The method's name in [`GENERATORS`].
            pub fn method(&self) -> &'static str {
                match self { $(Self::$variant(_) => $name,)* }
            }

            /// The method's own table.
            pub fn model(&self) -> &dyn ModelConfig {
                match self { $(Self::$variant(config) => config,)* }
            }

            fn model_mut(&mut self) -> &mut dyn ModelConfig {
                match self { $(Self::$variant(config) => config,)* }
            }
        }
    };
}

models! {
    /// See [`tiger`].
    Tiger(tiger::TigerConfig) = "tiger",
    /// See [`sasrec`].
    Sasrec(sasrec::SasrecConfig) = "sasrec",
    /// See [`rpg`].
    Rpg(rpg::RpgConfig) = "rpg",
    /// See [`recgpt`].
    Recgpt(recgpt::RecgptConfig) = "recgpt",
    /// See [`setrec`].
    Setrec(setrec::SetrecConfig) = "setrec",
    /// See [`liger`].
    Liger(liger::LigerConfig) = "liger",
    /// See [`llm`].
    Llm(llm::LlmConfig) = "llm",
}

/// All recipes of papers.
pub fn presets() -> impl Iterator<Item = &'static Preset> {
    PRESETS.iter().copied().flatten()
}

impl GeneratorConfig {
    /// A method's defaults, or a preset.
    ///
    /// # Errors
    /// Nothing of that name; the ones there are are listed.
    pub fn named(name: &str) -> Result<Self> {
        if let Some(method) = GENERATORS.iter().find(|method| method.name == name) {
            return Ok((method.default_config)());
        }
        if let Some(preset) = presets().find(|preset| preset.name == name) {
            return Ok((preset.config)());
        }
        let known = GENERATORS.iter().map(|method| method.name).chain(presets().map(|preset| preset.name));
        let mend = format!("use one of: {}", known.collect::<Vec<_>>().join(", "));
        Err(CoreError::config("generator", format!("no generator is named {name:?}"), mend).into())
    }

    /// How it is trained.
    pub fn training(&self) -> &TrainingConfig {
        self.model().training()
    }

    /// How it is trained, for a caller that overrides keys.
    pub fn training_mut(&mut self) -> &mut TrainingConfig {
        self.model_mut().training_mut()
    }

    /// Most recent items that the model sees.
    pub fn max_history(&self) -> usize {
        self.model().max_history()
    }

    /// Refuses values that no run over these codes per level can have, by key.
    ///
    /// # Errors
    /// The first such key.
    pub fn check(&self, codes_per_level: &[u32]) -> Result<()> {
        self.training().check(&format!("generator.{}.{}", self.method(), self.model().training_table()))?;
        check_max_history(self.method(), self.max_history())?;
        self.model().check(codes_per_level)
    }
}

fn check_max_history(method: &str, max_history: usize) -> Result<()> {
    if max_history == 0 || max_history > 1 << 16 {
        let problem = format!("{max_history} items");
        let key = format!("generator.{method}.max_history");
        return Err(CoreError::config(key, problem, "give between 1 and 65536; 20 and 50 are usual").into());
    }
    Ok(())
}
