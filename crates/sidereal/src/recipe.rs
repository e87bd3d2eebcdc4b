//! Recipes: the whole configuration of a run in one TOML file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sidereal_core::{CollisionPolicy, Error, SplitRule};
use sidereal_data::ColumnMap;
use sidereal_generator::fusion::FusionConfig;
use sidereal_generator::{GeneratorConfig, Widths};
use sidereal_tokenizer::TokenizerConfig;
use sidereal_tokenizer::life::collisions::{Collisions, Leftovers};

use crate::Result;
use crate::exchange::Format;
use crate::stages::calibration::CalibrationConfig;
use crate::stages::collaborative::{CollaborativeRecipe, resolve};

/// Recipes that come with the program, by name.
pub const BUILT_IN: &[(&str, &str)] = &[("best", include_str!("../recipes/best.toml"))];

/// A recipe. Everything has a default but the choice of tokenizer (or of semantic IDs to import) and generator.
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
    /// Where the items' vectors come from; absent: from the data folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embeddings: Option<EmbeddingsRecipe>,
    /// What is held out.
    #[serde(default = "default_split")]
    pub split: SplitRule,
    /// How items become semantic IDs; absent where `catalog.import` brings them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<TokenizerConfig>,
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
    /// How confidences are fitted; absent: answers have none, unless `sidereal calibrate` fits them later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<CalibrationConfig>,
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
    /// Of several data sets: one user id is one person in all of them. By default users are other people in each.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub shared_users: bool,
    /// Names of the columns.
    pub columns: ColumnMap,
    /// Of several data sets: what is otherwise in one of them, by its name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub domains: BTreeMap<String, DomainRecipe>,
}

/// How one of several data sets is read, where it is otherwise than the others.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DomainRecipe {
    /// Its k-core, instead of that of all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub k_core: Option<u32>,
    /// Names of its columns, instead of those of all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub columns: Option<ColumnMap>,
}

impl DataRecipe {
    /// Names of a data set's columns, and its k-core.
    pub(crate) fn of_domain(&self, name: &str) -> (&ColumnMap, Option<u32>) {
        let own = self.domains.get(name);
        let columns = own.and_then(|own| own.columns.as_ref()).unwrap_or(&self.columns);
        (columns, own.and_then(|own| own.k_core).or(self.k_core))
    }

    /// Refuses what is said of data sets that there are not; `names` has those of several, or none for one without name.
    ///
    /// # Errors
    /// The first such key.
    pub(crate) fn check_domains(&self, names: &[&str]) -> Result<()> {
        if names.is_empty() && self.shared_users {
            let mend = "give the data sets that share users as --data NAME=DIR --data OTHER=DIR, or leave the key out";
            return Err(Error::config("data.shared_users", "there is one data set, which has no name", mend).into());
        }
        let Some(unknown) = self.domains.keys().find(|name| !names.contains(&name.as_str())) else { return Ok(()) };
        let there = if names.is_empty() { "one, without a name".to_owned() } else { names.join(", ") };
        let problem = format!("no data set is called so (there are: {there})");
        let mend = "name the table like its --data NAME=DIR, or remove it";
        Err(Error::config(format!("data.domains.{unknown}"), problem, mend).into())
    }
}

/// Where the items' vectors come from, if not from the data folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmbeddingsRecipe {
    /// A run whose generator has learnt vectors of the same items (`sasrec`): its folder, from where the recipe is.
    pub learnt_by: PathBuf,
}

/// How semantic IDs become a catalog.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CatalogRecipe {
    /// What happens when two items share a semantic ID.
    pub collisions: CollisionPolicy,
    /// What becomes of items that a repair (nearest-free, sinkhorn, balanced) leaves together.
    #[serde(skip_serializing_if = "Leftovers::is_usual")]
    pub leftovers: Leftovers,
    /// Semantic IDs made elsewhere, in place of a tokenizer: a file, by its path in the data folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub import: Option<PathBuf>,
    /// The file's format, one of [`crate::exchange::FORMATS`]; by default `lc-rec`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// Codes per level K of the file, `[L]`; by default what its largest codes need.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub codes: Option<Vec<u32>>,
}

impl CatalogRecipe {
    /// How items that share a semantic ID are kept apart.
    pub fn how(&self) -> Collisions {
        Collisions { policy: self.collisions, leftovers: self.leftovers }
    }

    /// The format of the imported file.
    ///
    /// # Errors
    /// No format of that name.
    pub fn format(&self) -> Result<&'static Format> {
        Format::of(self.format.as_deref().unwrap_or("lc-rec"))
    }

    fn check(&self) -> Result<()> {
        let fail = |key: &str, problem: &str, mend: &str| Err(Error::config(key, problem, mend).into());
        if self.import.is_some() {
            self.format()?;
            if self.how() != Collisions::default() {
                let mend = "remove the key: imported items that share an ID share a leaf";
                let key = if self.leftovers.is_usual() { "catalog.collisions" } else { "catalog.leftovers" };
                return fail(key, "imported semantic IDs are taken as they are", mend);
            }
        } else if self.format.is_some() || self.codes.is_some() {
            let mend = "name the file with catalog.import, or remove the key";
            let key = if self.format.is_some() { "catalog.format" } else { "catalog.codes" };
            return fail(key, "it says how a file is imported, but none is", mend);
        }
        self.how().check("catalog.leftovers")
    }
}

/// How the generator is judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvaluateRecipe {
    /// Beam width W, or a list of widths, one a level.
    pub beam: Widths,
    /// Judge a seeded sample of this many users; absent judges all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub users: Option<usize>,
    /// Compare the generator's decoding (beam, graph, trie) with exact scores of all items, for a seeded draw of this many of
    /// these users; absent compares nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exact_users: Option<usize>,
    /// How many users' histories and recommendations the page shows.
    pub stories: usize,
}

impl Default for EvaluateRecipe {
    fn default() -> Self {
        Self { beam: 50.into(), users: None, exact_users: None, stories: 8 }
    }
}

fn default_seed() -> u64 {
    Recipe::DEFAULT_SEED
}

fn default_split() -> SplitRule {
    SplitRule::LeaveOneOut
}

/// TOML as a value; an error shows the line.
pub(crate) fn parsed<T: DeserializeOwned>(text: &str, name: &str) -> Result<T> {
    toml::from_str(text).map_err(|e| {
        let line = e.span().map_or(String::new(), |span| {
            format!(", line {}", text.get(..span.start).unwrap_or("").matches('\n').count() + 1)
        });
        let mend = "correct the key or value there (`sidereal methods` lists the methods, the README the keys)";
        Error::input(format!("{name}{line}"), e.message().trim(), mend).into()
    })
}

impl Recipe {
    /// The seed of a recipe that names none.
    pub const DEFAULT_SEED: u64 = 42;

    /// A recipe that comes with the program, by name.
    ///
    /// # Errors
    /// Never: a test reads them all.
    pub fn built_in(name: &str) -> Result<Option<Self>> {
        let found = BUILT_IN.iter().find(|(known, _)| *known == name);
        found.map(|(name, text)| Self::parse(text, name)).transpose()
    }

    /// Reads a recipe: a file's, or where there is none of that name, a built-in one's.
    ///
    /// # Errors
    /// A file that cannot be read; TOML that is malformed, or has a key that does not exist (the line is shown).
    pub fn load(path: &Path) -> Result<Self> {
        if let Some(name) = path.to_str().filter(|_| !path.exists())
            && let Some(recipe) = Self::built_in(name)?
        {
            return Ok(recipe);
        }
        let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
        let mut recipe = Self::parse(&text, &path.display().to_string())?;
        let folder = path.parent().unwrap_or(Path::new(""));
        resolve(&mut recipe.collaborative, folder);
        if let Some(embeddings) = recipe.embeddings.as_mut().filter(|embeddings| embeddings.learnt_by.is_relative()) {
            embeddings.learnt_by = folder.join(&embeddings.learnt_by);
        }
        Ok(recipe)
    }

    /// Parses a recipe; `name` is what errors call it.
    ///
    /// # Errors
    /// As [`Recipe::load`].
    pub fn parse(text: &str, name: &str) -> Result<Self> {
        let recipe: Self = parsed(text, name)?;
        recipe.check()?;
        Ok(recipe)
    }

    /// Refuses values that no run can have before anything is made.
    ///
    /// # Errors
    /// The first such key.
    pub fn check(&self) -> Result<()> {
        self.catalog.check()?;
        self.collaborative.as_ref().map_or(Ok(()), CollaborativeRecipe::check)?;
        self.fusion.map_or(Ok(()), |fusion| fusion.check())?;
        match (&self.tokenizer, &self.catalog.import) {
            (Some(tokenizer), None) => {
                tokenizer.check()?;
                self.generator.check(tokenizer.codes())?;
            }
            // How many codes there are is known when the file is read: the stage checks the rest.
            (None, Some(_)) => self.generator.training().check(&self.training_place())?,
            (Some(tokenizer), Some(file)) => {
                let problem = format!("semantic IDs come from {}, and from {}", file.display(), tokenizer.name());
                return Err(Error::config("catalog.import", problem, "remove it, or the [tokenizer] table").into());
            }
            (None, None) => {
                let mend = "give a table such as [tokenizer.rq-kmeans], or a file of semantic IDs with catalog.import";
                return Err(Error::config("tokenizer", "nothing says where semantic IDs come from", mend).into());
            }
        }
        self.calibration.as_ref().map_or(Ok(()), CalibrationConfig::check)?;
        let widths = [
            Some(("evaluate.beam", &self.evaluate.beam)),
            self.calibration.as_ref().map(|c| ("calibration.beam", &c.beam)),
        ];
        widths.into_iter().flatten().try_for_each(|(key, widths)| self.check_widths(key, widths))
    }

    /// Widths by level must be as many as the semantic IDs have codes, as far as that is known before they are made.
    fn check_widths(&self, key: &str, widths: &Widths) -> Result<()> {
        widths.check(key)?;
        let Some(tokenizer) = &self.tokenizer else { return Ok(()) };
        let suffix = usize::from(self.catalog.how().of_catalog() == CollisionPolicy::Suffix);
        let (levels, given) = (tokenizer.codes().len() + suffix, widths.levels());
        match given {
            None => Ok(()),
            Some(given) if given == levels => Ok(()),
            Some(given) => {
                let problem = format!("{given} beam widths ({widths}) for semantic IDs of {levels} codes");
                Err(Error::config(key, problem, format!("give one width, or {levels}")).into())
            }
        }
    }

    fn training_place(&self) -> String {
        format!("generator.{}.training", self.generator.method())
    }

    /// The recipe as TOML, every default spelt out.
    pub fn to_toml(&self) -> String {
        // Every field is a table, a number, a string or a list of them: TOML can say that.
        toml::to_string_pretty(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn recipes_that_come_with_the_program_are_found_by_name_and_come_back_from_toml() {
        for (name, _) in BUILT_IN {
            let recipe = Recipe::load(Path::new(name)).unwrap();
            assert_eq!(Recipe::parse(&recipe.to_toml(), name).unwrap(), recipe);
        }
        assert!(Recipe::load(Path::new("no-such-recipe")).unwrap_err().to_string().contains("no-such-recipe"));
    }
}
