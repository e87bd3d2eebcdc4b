//! Items and semantic IDs -> the catalog with its trie.

use serde_json::json;
use sidereal_core::artifact::Manifest;
use sidereal_core::attributes::Attributes;
use sidereal_core::{Catalog, Embeddings, Error, ItemId};
use sidereal_data::{DataSource, PreparedData};
use sidereal_tokenizer::ItemTokenizer;
use sidereal_tokenizer::life::collisions::Collisions;
use sidereal_tokenizer::life::repair::{RepairRecord, repair};

use crate::life::versions;
use crate::recipe::CatalogRecipe;
use crate::run::{Outcome, Run, Stage};
use crate::stages::{data, inputs, resolved};
use crate::{Result, exchange};

/// Makes the catalog as a recipe says: built from the tokenizer, or imported from a file of the data folder.
///
/// # Errors
/// As [`build`] and [`exchange::import`]; a file without a data folder to find it in; a run that has a tokenizer beside
/// an imported catalog, which would be mistaken for the one that made it.
pub fn make(run: &Run, recipe: &CatalogRecipe, source: Option<&DataSource>) -> Result<Outcome> {
    let Some(import) = &recipe.import else { return build(run, recipe.how()) };
    if run.has(Stage::Tokenizer) {
        let problem = format!("{} has a tokenizer, which did not make these semantic IDs", run.root().display());
        return Err(Error::config("catalog.import", problem, "use another run folder").into());
    }
    let file = match source {
        Some(DataSource::Folder(folder)) => folder.join(import),
        _ if import.is_absolute() => import.clone(),
        None => return data::kept(run, Stage::Catalog),
        Some(DataSource::Domains(_)) => {
            let problem = format!("there are several data folders in which {} could be", import.display());
            let mend = "give the file's absolute path; its items are called NAME:ID, as in the run's items.parquet";
            return Err(Error::config("catalog.import", problem, mend).into());
        }
    };
    let codes: Option<Vec<String>> = recipe.codes.as_ref().map(|codes| codes.iter().map(u32::to_string).collect());
    let codes = codes.map(|codes| codes.join(","));
    Ok(exchange::import(run, recipe.format()?, &file, codes.as_deref())?.1)
}

/// Encodes the run's items and joins them with their semantic IDs.
///
/// Items of one leaf are ordered by how often they occur in the training histories, where there is a split.
///
/// # Errors
/// A stage before it has not run; suffix overflow; items that a repair leaves together, where that is an error.
pub fn build(run: &Run, how: impl Into<Collisions>) -> Result<Outcome> {
    let how = how.into();
    how.check("leftovers")?;
    let mut stages = vec![Stage::Data, Stage::Embeddings, Stage::Tokenizer];
    stages.extend(run.has(Stage::Split).then_some(Stage::Split));
    let wanted = Manifest::new(Stage::Catalog.name(), None, resolved(&how), inputs(run, &stages)?);
    run.stage(Stage::Catalog, wanted, |out| {
        let data = run.data()?;
        let tokenizer = run.tokenizer()?;
        let embeddings = run.embeddings()?;
        let ids = data.items.ids();
        let prior = prior(run, &data)?;
        let (catalog, repair) = join(&tokenizer, how, ids, &embeddings, prior.as_deref())?;
        versions::keep_changed(run)?;
        catalog.save(out.dir())?;
        Attributes::of(&data.items).save(out.dir())?;
        let mut facts = facts(&catalog);
        if let Some(record) = repair {
            facts["repair"] = resolved(&record);
        }
        Ok(facts)
    })
}

/// Encodes items, repairs collisions where the policy says so, and joins items with their semantic IDs.
pub(crate) fn join(
    tokenizer: &ItemTokenizer,
    how: Collisions,
    ids: &[ItemId],
    embeddings: &Embeddings,
    prior: Option<&[u32]>,
) -> Result<(Catalog, Option<RepairRecord>)> {
    let sids = tokenizer.encode_items(ids, embeddings)?;
    let (sids, record) = match how.policy.repairs() {
        true => {
            let repaired = repair(tokenizer, how, ids, embeddings, &sids)?;
            (repaired.sids, Some(repaired.record))
        }
        false => (sids, None),
    };
    Ok((Catalog::build(ids, &sids, tokenizer.codes_per_level(), how.of_catalog(), prior)?, record))
}

/// What was asked for about items that share a semantic ID; of an imported catalog, what it does about them.
pub(crate) fn asked_of(run: &Run, catalog: &Catalog) -> Result<Collisions> {
    let config = run.manifest(Stage::Catalog)?.config;
    Ok(serde_json::from_value(config).unwrap_or_else(|_| catalog.policy().into()))
}

/// How often each item occurs in the training histories, where the run has a split: the order within a leaf.
pub(crate) fn prior(run: &Run, data: &PreparedData) -> Result<Option<Vec<u32>>> {
    if !run.has(Stage::Split) {
        return Ok(None);
    }
    Ok(Some(run.split(&data.histories)?.training_popularity(&data.histories, data.items.len())))
}

/// What a catalog's manifest says of it.
pub(crate) fn facts(catalog: &Catalog) -> serde_json::Value {
    json!({
        "version": catalog.version(),
        "items": catalog.alive(),
        "unique_ids": catalog.trie().leaves(),
        "codes_per_level": catalog.codes_per_level(),
    })
}

/// The first of many ids, for an error.
pub(crate) fn first_few(ids: &[&str]) -> String {
    let shown: Vec<String> = ids.iter().take(10).map(|id| format!("{id:?}")).collect();
    let more = if ids.len() > shown.len() { ", ..." } else { "" };
    format!("{}{more}", shown.join(", "))
}
