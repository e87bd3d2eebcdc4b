//! What a comparison trains: rows with a name and a recipe each, from a suite's file or from recipes.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sidereal_core::{Error, SplitRule};
use sidereal_generator::GeneratorConfig;
use sidereal_generator::fusion::FusionConfig;
use sidereal_tokenizer::TokenizerConfig;

use crate::Result;
use crate::recipe::{CatalogRecipe, DataRecipe, EvaluateRecipe, Recipe, parsed};
use crate::run::check_folder_name;
use crate::stages::collaborative::{CollaborativeRecipe, resolve};

/// Rows that are to be compared.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Suite {
    /// What it is for.
    pub description: String,
    /// Trainings of each row, with the seeds `seed`, `seed + 1`, ...
    pub seeds: u64,
    /// The rows, in the order of the table.
    pub rows: Vec<SuiteRow>,
}

/// A row and how it is made.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SuiteRow {
    /// Its name in tables and its folder.
    pub name: String,
    /// A row before it, whose generator's vectors of the items are this row's embeddings.
    pub learnt_by: Option<String>,
    /// Everything about it.
    pub recipe: Recipe,
}

/// A suite's file. The tables at its top are those of every row that has none of its own.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SuiteFile {
    #[serde(default)]
    description: String,
    seed: Option<u64>,
    seeds: Option<u64>,
    data: Option<DataRecipe>,
    split: Option<SplitRule>,
    tokenizer: Option<TokenizerConfig>,
    collaborative: Option<CollaborativeRecipe>,
    catalog: Option<CatalogRecipe>,
    evaluate: Option<EvaluateRecipe>,
    row: Vec<RowTable>,
}

/// A `[[row]]`: a recipe file, tables of its own, or a recipe file and tables instead of some of its.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RowTable {
    name: String,
    /// Another row.
    learnt_by: Option<String>,
    recipe: Option<PathBuf>,
    tokenizer: Option<TokenizerConfig>,
    collaborative: Option<CollaborativeRecipe>,
    catalog: Option<CatalogRecipe>,
    generator: Option<GeneratorConfig>,
    fusion: Option<FusionConfig>,
    evaluate: Option<EvaluateRecipe>,
}

impl Suite {
    /// Reads suites and recipes; a recipe is a row of its file's name.
    ///
    /// # Errors
    /// Files that cannot be read or parsed; no rows; names that are taken or cannot name a folder; rows that would not be
    /// asked about the same users.
    pub fn load(paths: &[impl AsRef<Path>]) -> Result<Self> {
        let mut suite = Self { description: String::new(), seeds: 1, rows: Vec::new() };
        for path in paths.iter().map(AsRef::as_ref) {
            let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
            let shown = path.display().to_string();
            if parsed::<toml::Table>(&text, &shown)?.contains_key("row") {
                suite.add(parsed(&text, &shown)?, path.parent().unwrap_or(Path::new("")))?;
            } else {
                let name = path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
                suite.rows.push(SuiteRow { name, learnt_by: None, recipe: Recipe::load(path)? });
            }
        }
        suite.check()?;
        Ok(suite)
    }

    fn add(&mut self, file: SuiteFile, folder: &Path) -> Result<()> {
        if self.description.is_empty() {
            self.description.clone_from(&file.description);
        }
        self.seeds = file.seeds.unwrap_or(self.seeds);
        for row in &file.row {
            let recipe = row.recipe(&file, folder)?;
            self.rows.push(SuiteRow { name: row.name.clone(), learnt_by: row.learnt_by.clone(), recipe });
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        let Some(first) = self.rows.first() else {
            return Err(Error::config("row", "there are none", "give a [[row]] with a name and a recipe").into());
        };
        for (at, row) in self.rows.iter().enumerate() {
            let key = format!("row {:?}", row.name);
            check_folder_name("row.name", &row.name)?;
            if self.rows[..at].iter().any(|other| other.name == row.name) {
                let mend = "give each [[row]] its own name";
                return Err(Error::config("row.name", format!("two rows are called {:?}", row.name), mend).into());
            }
            if let Some(other) = row.learnt_by.as_ref().filter(|name| !self.rows[..at].iter().any(|r| r.name == **name))
            {
                let mend = "name a [[row]] that stands before this one";
                return Err(Error::config(format!("{key}, learnt_by"), format!("no row {other:?}"), mend).into());
            }
            row.recipe.check()?;
            let same = [
                ("data", row.recipe.data == first.recipe.data),
                ("split", row.recipe.split == first.recipe.split),
                ("evaluate.users", row.recipe.evaluate.users == first.recipe.evaluate.users),
            ];
            if let Some((table, _)) = same.iter().find(|(_, same)| !same) {
                let problem =
                    format!("its `{table}` is not that of {:?}: they would be asked other questions", first.name);
                return Err(Error::config(key, problem, "make them the same, or compare them in two suites").into());
            }
        }
        if self.seeds == 0 || self.seeds > 1000 {
            return Err(Error::config("seeds", format!("{} trainings a row", self.seeds), "give 1 to 1000").into());
        }
        Ok(())
    }
}

impl RowTable {
    /// Its recipe: the file's or the suite's tables, and its own in their place.
    fn recipe(&self, suite: &SuiteFile, folder: &Path) -> Result<Recipe> {
        let mut recipe = match &self.recipe {
            Some(path) => match path.to_str().map(Recipe::built_in).transpose()?.flatten() {
                Some(recipe) => recipe,
                None => Recipe::load(&folder.join(path))?,
            },
            None => {
                let Some(generator) = self.generator.clone() else {
                    let mend = "name a recipe file with `recipe`, or give a table such as [row.generator.tiger]";
                    let key = format!("row {:?}", self.name);
                    return Err(Error::config(key, "nothing says what is trained", mend).into());
                };
                let mut collaborative = suite.collaborative.clone();
                resolve(&mut collaborative, folder);
                Recipe {
                    description: String::new(),
                    seed: Recipe::DEFAULT_SEED,
                    data: DataRecipe::default(),
                    embeddings: None,
                    split: SplitRule::LeaveOneOut,
                    tokenizer: suite.tokenizer.clone(),
                    collaborative,
                    catalog: suite.catalog.clone().unwrap_or_default(),
                    generator,
                    fusion: None,
                    calibration: None,
                    evaluate: EvaluateRecipe::default(),
                }
            }
        };
        // What decides the questions is the suite's, where it says so, for all rows.
        recipe.seed = suite.seed.unwrap_or(recipe.seed);
        recipe.data = suite.data.clone().unwrap_or(recipe.data);
        recipe.split = suite.split.unwrap_or(recipe.split);
        let evaluate = self.evaluate.as_ref().or(suite.evaluate.as_ref());
        recipe.evaluate = evaluate.cloned().unwrap_or(recipe.evaluate);
        if let Some(catalog) = &self.catalog {
            recipe.catalog = catalog.clone();
            if catalog.import.is_some() {
                (recipe.tokenizer, recipe.collaborative) = (None, None);
            }
        }
        if let Some(tokenizer) = &self.tokenizer {
            recipe.tokenizer = Some(tokenizer.clone());
        }
        if let Some(collaborative) = &self.collaborative {
            recipe.collaborative = Some(collaborative.clone());
            resolve(&mut recipe.collaborative, folder);
        }
        if let Some(generator) = &self.generator {
            recipe.generator = generator.clone();
        }
        recipe.fusion = self.fusion.or(recipe.fusion);
        Ok(recipe)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const RECIPE: &str = "seed = 7\n[tokenizer.rq-kmeans]\ncodes = [8, 8]\n[generator.tiger]\nlayers = 2\n";

    fn load(suite: &str) -> std::result::Result<Suite, String> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("plain.toml"), RECIPE).unwrap();
        std::fs::write(dir.path().join("suite.toml"), suite).unwrap();
        Suite::load(&[dir.path().join("suite.toml"), dir.path().join("plain.toml")]).map_err(|e| e.to_string())
    }

    #[test]
    fn rows_take_a_recipe_the_suites_tables_or_both() {
        let suite = load(
            "description = \"Three\"\nseeds = 3\n[tokenizer.rq-kmeans]\ncodes = [4, 4]\n\
             [[row]]\nname = \"file\"\nrecipe = \"plain.toml\"\n\
             [[row]]\nname = \"inline\"\n[row.generator.tiger]\nlayers = 1\n\
             [[row]]\nname = \"published\"\nrecipe = \"plain.toml\"\n[row.catalog]\nimport = \"ids.json\"\n",
        )
        .unwrap();
        let names: Vec<&str> = suite.rows.iter().map(|row| row.name.as_str()).collect();
        assert_eq!((names, suite.seeds), (vec!["file", "inline", "published", "plain"], 3));
        let codes = |at: usize| suite.rows[at].recipe.tokenizer.as_ref().map(|t| t.codes().to_vec());
        assert_eq!([codes(0), codes(1), codes(2)], [Some(vec![8, 8]), Some(vec![4, 4]), None]);
        assert_eq!(suite.rows[2].recipe.catalog.import.as_deref(), Some(Path::new("ids.json")));
        assert_eq!(suite.rows[0].recipe, suite.rows[3].recipe);
        assert_eq!([suite.rows[0].recipe.seed, suite.rows[1].recipe.seed], [7, 42]);
    }

    #[test]
    fn suites_that_cannot_be_compared_say_why() {
        let tiger = "[row.generator.tiger]\n";
        for (suite, parts) in [
            ("row = []".to_owned() + "\nseeds = 0", &["seeds"][..]),
            ("[[row]]\nname = \"plain\"\nrecipe = \"plain.toml\"".to_owned(), &["two rows", "plain"]),
            ("[[row]]\nname = \"../x\"\nrecipe = \"plain.toml\"".to_owned(), &["row.name", "folder"]),
            ("[[row]]\nname = \"a\"".to_owned(), &["row \"a\"", "[row.generator.tiger]"]),
            (format!("[[row]]\nname = \"a\"\n{tiger}"), &["tokenizer", "catalog.import"]),
            (format!("[[row]]\nname = \"a\"\nlable = 1\n{tiger}"), &["suite.toml, line 3", "lable"]),
            ("[[row]]\nname = \"a\"\nlearnt_by = \"b\"\nrecipe = \"plain.toml\"".to_owned(), &["learnt_by", "\"b\""]),
            (
                "[evaluate]\nusers = 5\n[[row]]\nname = \"a\"\nrecipe = \"plain.toml\"".to_owned(),
                &["row \"plain\"", "evaluate.users", "\"a\""],
            ),
            ("[[row]]\nname = \"a\"\nrecipe = \"none.toml\"".to_owned(), &["none.toml"]),
        ] {
            let error = load(&suite).unwrap_err();
            assert!(parts.iter().all(|part| error.contains(part)), "{suite}: {error}");
        }
    }
}
