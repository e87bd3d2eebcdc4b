//! Recipes: the whole configuration of a run in one TOML file.

use std::path::Path;

use serde::{Deserialize, Serialize};
use sidereal_core::{CollisionPolicy, Error, SplitRule};
use sidereal_data::ColumnMap;
use sidereal_generator::GeneratorConfig;
use sidereal_generator::fusion::FusionConfig;
use sidereal_tokenizer::TokenizerConfig;

use crate::Result;
use crate::stages::collaborative::{CollaborativeRecipe, resolve};

/// A recipe. Everything has a default but the choice of tokenizer and generator.
///
/// ```toml
/// seed = 42
/// split = "leave-one-out"
///
/// [tokenizer.rq-kmeans]
/// codes = [256, 256, 256]
///
/// [generator.tiger]
/// max_epochs = 20
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// What it is for, shown in the report.
    #[serde(default)]
    pub description: String,
    /// The one seed of the run.
    #[serde(default = "default_seed")]
    pub seed: u64,
    /// How the data is read.
    #[serde(default)]
    pub data: DataRecipe,
    /// What is held out.
    #[serde(default = "default_split")]
    pub split: SplitRule,
    /// How items become semantic IDs.
    pub tokenizer: TokenizerConfig,
    /// Vectors learnt from behaviour, for tokenizers that learn from them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collaborative: Option<CollaborativeRecipe>,
    /// How semantic IDs become a catalog.
    #[serde(default)]
    pub catalog: CatalogRecipe,
    /// The model and its training.
    pub generator: GeneratorConfig,
    /// How the generator's score and plain counts become one score; absent: the generator answers alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fusion: Option<FusionConfig>,
    /// How it is judged.
    #[serde(default)]
    pub evaluate: EvaluateRecipe,
}

/// How the data is read.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataRecipe {
    /// Keep only users and items with this many events, to a fixpoint; absent keeps everything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub k_core: Option<u32>,
    /// Names of the columns.
    pub columns: ColumnMap,
}

/// How semantic IDs become a catalog.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CatalogRecipe {
    /// What happens when two items share a semantic ID.
    pub collisions: CollisionPolicy,
}

/// How the generator is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvaluateRecipe {
    /// Beam width W.
    pub beam: usize,
    /// Judge a seeded sample of this many users; absent judges all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub users: Option<usize>,
    /// How many users' histories and recommendations the page shows.
    pub stories: usize,
}

impl Default for EvaluateRecipe {
    fn default() -> Self {
        Self { beam: 50, users: None, stories: 8 }
    }
}

fn default_seed() -> u64 {
    42
}

fn default_split() -> SplitRule {
    SplitRule::LeaveOneOut
}

impl Recipe {
    /// Reads a recipe.
    ///
    /// # Errors
    /// A file that cannot be read; TOML that is malformed, or has a key that does not exist (the line is shown).
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
        let mut recipe = Self::parse(&text, &path.display().to_string())?;
        resolve(&mut recipe.collaborative, path.parent().unwrap_or(Path::new("")));
        Ok(recipe)
    }

    /// Parses a recipe; `name` is what errors call it.
    ///
    /// # Errors
    /// As [`Recipe::load`].
    pub fn parse(text: &str, name: &str) -> Result<Self> {
        let recipe: Self = toml::from_str(text).map_err(|e| {
            let line = e.span().map_or(String::new(), |span| {
                format!(", line {}", text.get(..span.start).unwrap_or("").matches('\n').count() + 1)
            });
            let mend = "correct the key or value there (`sidereal methods` lists the methods, the README the keys)";
            Error::input(format!("{name}{line}"), e.message().trim(), mend)
        })?;
        recipe.check()?;
        Ok(recipe)
    }

    /// Refuses values that no run can have before anything is made.
    ///
    /// # Errors
    /// The first such key.
    pub fn check(&self) -> Result<()> {
        self.tokenizer.check()?;
        self.collaborative.as_ref().map_or(Ok(()), CollaborativeRecipe::check)?;
        self.generator.check(self.tokenizer.codes())?;
        self.fusion.map_or(Ok(()), |fusion| fusion.check())?;
        if self.evaluate.beam == 0 {
            let mend = "use 50, or at least the largest K that you want to see";
            return Err(Error::config("evaluate.beam", "a beam width of 0 finds nothing", mend).into());
        }
        Ok(())
    }

    /// The recipe as TOML, every default spelt out.
    pub fn to_toml(&self) -> String {
        // Every field is a table, a number, a string or a list of them: TOML can say that.
        toml::to_string_pretty(self).unwrap_or_default()
    }
}
