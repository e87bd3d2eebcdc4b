//! Tables that people have -> items and histories of a run.

use std::collections::BTreeMap;
use std::path::Path;

use sidereal_core::artifact::{Manifest, StageWriter, sha256_file};
use sidereal_core::{Error, Progress};
use sidereal_data::{DataFolder, DataSource, Domain, DomainFolder, PreparedData, join, prepare_files};

use crate::Result;
use crate::recipe::DataRecipe;
use crate::run::{Outcome, Run, Stage};
use crate::stages::resolved;

/// Prepares the tables of a data folder, or of several; without any, what the run has is kept.
///
/// # Errors
/// Files that are missing or wrong, see [`sidereal_data`].
pub fn from_source(
    run: &Run,
    source: Option<&DataSource>,
    recipe: &DataRecipe,
    progress: &dyn Progress,
) -> Result<Outcome> {
    match source {
        None => kept(run, Stage::Data),
        Some(DataSource::Domains(domains)) => from_domains(run, domains, recipe, progress),
        Some(DataSource::Folder(folder)) => {
            let files = DataFolder::find(folder)?;
            from_files(run, Some(&files.items), &files.interactions, recipe, progress)
        }
    }
}

/// Prepares every data set by itself and makes them one, in which items have a domain: [`join`].
///
/// # Errors
/// As [`from_source`]; a recipe that speaks of a set that there is not; sets that cannot be one.
fn from_domains(run: &Run, domains: &[DomainFolder], recipe: &DataRecipe, progress: &dyn Progress) -> Result<Outcome> {
    let names: Vec<&str> = domains.iter().map(|domain| domain.name.as_str()).collect();
    recipe.check_domains(&names)?;
    let mut inputs = BTreeMap::new();
    let mut found = Vec::new();
    for DomainFolder { name, folder } in domains {
        let files = DataFolder::find(folder)?;
        inputs.insert(format!("{name}/items"), sha256_file(&files.items)?);
        inputs.insert(format!("{name}/interactions"), sha256_file(&files.interactions)?);
        found.push((name, files));
    }
    let mut config = resolved(recipe);
    config["data_sets"] = resolved(&names);
    run.stage(Stage::Data, Manifest::new(Stage::Data.name(), None, config, inputs), |out| {
        progress.start("read data", None, "rows");
        let prepared = |(name, files): (&String, DataFolder)| -> Result<Domain> {
            let (columns, k_core) = recipe.of_domain(name);
            let data = prepare_files(Some(&files.items), &files.interactions, columns, k_core);
            let data = data.map_err(|error| match error {
                // Files are named already; keys are those of all sets.
                Error::Config { key, problem, mend } => Error::config(format!("{key} of {name}"), problem, mend),
                other => other,
            })?;
            progress.advance(data.histories.events() as u64);
            Ok(Domain { name: name.clone(), data })
        };
        let domains = found.into_iter().map(prepared).collect::<Result<_>>()?;
        written(&join(domains, recipe.shared_users)?, out, progress)
    })
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
    recipe.check_domains(&[])?;
    let mut inputs = BTreeMap::from([("interactions".to_owned(), sha256_file(interactions)?)]);
    if let Some(items) = items {
        inputs.insert("items".to_owned(), sha256_file(items)?);
    }
    let wanted = Manifest::new(Stage::Data.name(), None, resolved(recipe), inputs);
    run.stage(Stage::Data, wanted, |out| {
        progress.start("read data", None, "rows");
        let data = prepare_files(items, interactions, &recipe.columns, recipe.k_core)?;
        progress.advance(data.histories.events() as u64);
        written(&data, out, progress)
    })
}

fn written(data: &PreparedData, out: &StageWriter, progress: &dyn Progress) -> Result<serde_json::Value> {
    data.save_into(out.dir())?;
    progress.finish();
    Ok(data.facts.to_json())
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
