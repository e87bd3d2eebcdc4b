//! Tables that people have -> items and histories of a run.

use std::collections::BTreeMap;
use std::path::Path;

use sidereal_core::artifact::{Manifest, sha256_file};
use sidereal_core::{Error, Progress};
use sidereal_data::{DataFolder, prepare_files};

use crate::Result;
use crate::recipe::DataRecipe;
use crate::run::{Outcome, Run, Stage};
use crate::stages::resolved;

/// Prepares the tables of a data folder; without a folder, what the run has is kept.
///
/// # Errors
/// Files that are missing or wrong, see [`sidereal_data`].
pub fn from_folder(run: &Run, folder: Option<&Path>, recipe: &DataRecipe, progress: &dyn Progress) -> Result<Outcome> {
    let Some(folder) = folder else { return kept(run, Stage::Data) };
    let files = DataFolder::find(folder)?;
    from_files(run, Some(&files.items), &files.interactions, recipe, progress)
}

/// Prepares two tables; without an items table the items are those of the interactions.
///
/// # Errors
/// Files that are missing or wrong, see [`sidereal_data`].
pub fn from_files(
    run: &Run,
    items: Option<&Path>,
    interactions: &Path,
    recipe: &DataRecipe,
    progress: &dyn Progress,
) -> Result<Outcome> {
    let mut inputs = BTreeMap::from([("interactions".to_owned(), sha256_file(interactions)?)]);
    if let Some(items) = items {
        inputs.insert("items".to_owned(), sha256_file(items)?);
    }
    let wanted = Manifest::new(Stage::Data.name(), None, resolved(recipe), inputs);
    run.stage(Stage::Data, wanted, |out| {
        progress.start("read data", None, "rows");
        let data = prepare_files(items, interactions, &recipe.columns, recipe.k_core)?;
        progress.advance(data.histories.events() as u64);
        data.save_into(out.dir())?;
        progress.finish();
        Ok(data.facts.to_json())
    })
}

/// A stage without a source must have run before.
pub(crate) fn kept(run: &Run, stage: Stage) -> Result<Outcome> {
    if run.has(stage) {
        return Ok(Outcome::Kept);
    }
    let problem = format!("{} has no {} yet, and no data folder is named", run.root().display(), stage.name());
    let mend = "name a folder with items, interactions and embeddings with --data DIR";
    Err(Error::config("--data", problem, mend).into())
}
