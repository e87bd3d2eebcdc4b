//! A run carried over to vectors of another embedding model, as a run of its own.
//!
//! `map` keeps tokenizer, catalog and generator and lets the tokenizer read the new vectors through a map: what was
//! published stays, and new items can be added. `relabel` trains the tokenizer anew and names its codes after the old
//! ones; the catalog changes where it must, a migration map says where, and the generator is to be trained again.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::json;
use sidereal_core::artifact::{Manifest, StageWriter};
use sidereal_core::catalog::diff;
use sidereal_core::{Catalog, Embeddings, Error, ItemIndex, Progress};
use sidereal_nn::device::DeviceChoice;
use sidereal_tokenizer::ItemTokenizer;
use sidereal_tokenizer::life::upgrade::Agreement;
use sidereal_tokenizer::life::upgrade::bridge::{BridgeRecord, bridge};
use sidereal_tokenizer::life::upgrade::relabel::{RelabelRecord, relabel};

use crate::Result;
use crate::life::added::AddedItems;
use crate::life::versions::copy_files;
use crate::life::{change, migration};
use crate::run::{Run, Stage};
use crate::stages;
use crate::stages::tokenizer::Asked;

/// The migration map's file in the new run.
pub const MIGRATION_FILE: &str = "migration.parquet";

/// How a run is carried over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// A linear map into the old space; nothing published changes.
    Map,
    /// A new tokenizer under the old names.
    Relabel,
}

/// What an upgrade did.
#[derive(Debug, Clone, Serialize)]
pub struct Upgraded {
    /// `map` or `relabel`.
    pub how: &'static str,
    /// How far the semantic IDs that the new tokenizer gives agree with those published.
    pub agreement: Agreement,
    /// The map, for `map`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub map: Option<BridgeRecord>,
    /// The matching, for `relabel`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relabelled: Option<RelabelRecord>,
    /// Items of the catalog under the same semantic ID as before.
    pub unchanged_items: usize,
    /// Items of the catalog under another one.
    pub moved_items: usize,
    /// Where every item's old and new semantic ID stand.
    pub migration_map: PathBuf,
    /// Whether the run's generator was taken over.
    pub generator_kept: bool,
}

/// Carries a run over to new vectors of its items, into the new run folder `out`.
///
/// # Errors
/// A run without catalog or tokenizer; a folder that is a run already; vectors that do not fit the items; for
/// `relabel` a catalog with added items; and what the method itself can meet.
pub fn upgrade(
    run: &Run,
    new_embeddings: &Path,
    how: How,
    out: &Path,
    device: DeviceChoice,
    progress: &dyn Progress,
) -> Result<Upgraded> {
    let catalog = run.catalog()?;
    let to = Run::create(out)?;
    if Stage::ALL.into_iter().any(|stage| to.has(stage)) {
        return Err(Error::config("--out", format!("{} is a run already", out.display()), "name a new folder").into());
    }
    if how == How::Relabel && catalog.len() > catalog.built_items() {
        let problem = format!("{} items were added to the catalog", catalog.len() - catalog.built_items());
        let mend = "prepare data with these items in it and build the run from that, or use --how map";
        return Err(Error::mismatch(problem, mend).into());
    }
    let tokenizer = change::tokenizer_of(run)?;
    take_over(run, &to, Stage::Data)?;
    if run.has(Stage::Split) {
        take_over(run, &to, Stage::Split)?;
    }
    stages::embeddings::from_file(&to, new_embeddings, None, progress)?;
    match how {
        How::Map => by_map(run, &to, &catalog, tokenizer, new_embeddings),
        How::Relabel => by_relabelling(run, &to, &catalog, &tokenizer, device, progress),
    }
}

fn by_map(run: &Run, to: &Run, catalog: &Catalog, tokenizer: ItemTokenizer, file: &Path) -> Result<Upgraded> {
    let added = AddedItems::load(&run.dir(Stage::Catalog), catalog)?;
    let added = AddedItems { vectors: added_vectors(catalog, file)?, ..added };
    let new = match &added.vectors {
        Some(more) => crate::life::added::extended(to.embeddings()?, more)?,
        None => to.embeddings()?,
    };
    let tokenizer = bridge(tokenizer, &new, &run.catalog_embeddings(catalog)?)?;
    let agreement = Agreement::of(&tokenizer.encode(&new)?, &catalog.tokenizer_semantic_ids()?)?;
    let map = tokenizer.description().bridge.clone();
    let facts = json!({ "items": new.rows(), "width": new.width(), "map": map, "agreement": agreement });
    write_tokenizer(run, to, &tokenizer, facts)?;

    // The catalog's files are the same, so a generator that names it goes on; only what made it is another tokenizer.
    let mut manifest = run.manifest(Stage::Catalog)?;
    let writer = StageWriter::begin(&to.dir(Stage::Catalog))?;
    copy_files(&run.dir(Stage::Catalog), writer.dir(), &manifest)?;
    added.save(writer.dir())?;
    for stage in [Stage::Embeddings, Stage::Tokenizer] {
        manifest.inputs.insert(stage.name().to_owned(), to.digest(stage)?);
    }
    writer.finish(manifest)?;
    let generator_kept = run.has(Stage::Generator);
    if generator_kept {
        take_over(run, to, Stage::Generator)?;
    }
    finish(to, catalog, Upgraded { how: "map", map, generator_kept, ..empty(agreement) })
}

fn by_relabelling(
    run: &Run,
    to: &Run,
    catalog: &Catalog,
    old: &ItemTokenizer,
    device: DeviceChoice,
    progress: &dyn Progress,
) -> Result<Upgraded> {
    let (config, seed) = (&old.description().config, old.description().seed);
    // A tokenizer that was imported, or trained without a run, was asked for in other words.
    let asked: Option<Asked> = serde_json::from_value(run.manifest(Stage::Tokenizer)?.config).ok();
    let collaborative = asked.and_then(|asked| asked.collaborative);
    let wish = stages::tokenizer::Wish { config, collaborative: collaborative.as_ref(), seed, device };
    stages::tokenizer::make(to, wish, progress)?;
    let done = relabel(to.tokenizer()?, &to.embeddings()?, &catalog.tokenizer_semantic_ids()?)?;
    let mut manifest = to.manifest(Stage::Tokenizer)?;
    manifest.facts["relabelled"] = json!(done.record);
    let writer = StageWriter::begin(&to.dir(Stage::Tokenizer))?;
    done.tokenizer.save(writer.dir())?;
    writer.finish(manifest)?;
    stages::catalog::build(to, catalog.policy())?;
    let removed: Vec<&str> = catalog.removed().map(|item| catalog.item_id(item)).collect();
    if !removed.is_empty() {
        change::remove(to, &removed)?;
    }
    let agreement = done.record.after.clone();
    finish(to, catalog, Upgraded { how: "relabel", relabelled: Some(done.record), ..empty(agreement) })
}

fn empty(agreement: Agreement) -> Upgraded {
    Upgraded {
        how: "",
        agreement,
        map: None,
        relabelled: None,
        unchanged_items: 0,
        moved_items: 0,
        migration_map: PathBuf::new(),
        generator_kept: false,
    }
}

fn finish(to: &Run, old: &Catalog, upgraded: Upgraded) -> Result<Upgraded> {
    let found = diff(old, &to.catalog()?);
    let migration_map = to.root().join(MIGRATION_FILE);
    migration::write_map(&found, &migration_map)?;
    Ok(Upgraded { unchanged_items: found.unchanged, moved_items: found.moved, migration_map, ..upgraded })
}

fn write_tokenizer(run: &Run, to: &Run, tokenizer: &ItemTokenizer, facts: serde_json::Value) -> Result<()> {
    let before = run.manifest(Stage::Tokenizer)?;
    let mut inputs = stages::inputs(to, &[Stage::Embeddings])?;
    inputs.insert("old_tokenizer".to_owned(), before.digest());
    inputs.insert("old_embeddings".to_owned(), run.digest(Stage::Embeddings)?);
    let mut manifest = Manifest::new(Stage::Tokenizer.name(), before.seed, before.config, inputs);
    manifest.facts = facts;
    let writer = StageWriter::begin(&to.dir(Stage::Tokenizer))?;
    tokenizer.save(writer.dir())?;
    writer.finish(manifest)?;
    Ok(())
}

/// Copies a stage as it is.
fn take_over(run: &Run, to: &Run, stage: Stage) -> Result<()> {
    let manifest = run.manifest(stage)?;
    let writer = StageWriter::begin(&to.dir(stage))?;
    copy_files(&run.dir(stage), writer.dir(), &manifest)?;
    writer.finish(manifest)?;
    Ok(())
}

/// New vectors of the items that were added to the catalog, by id.
fn added_vectors(catalog: &Catalog, file: &Path) -> Result<Option<Embeddings>> {
    let added: Vec<&str> =
        (catalog.built_items()..catalog.len()).map(|item| catalog.item_id(item as ItemIndex)).collect();
    if added.is_empty() {
        return Ok(None);
    }
    let vectors = sidereal_embed::read_vectors(file, None)?;
    let ids = vectors.item_ids.unwrap_or_default();
    let row_of: HashMap<&str, usize> = ids.iter().enumerate().map(|(row, id)| (id.as_str(), row)).collect();
    let without: Vec<&str> = added.iter().copied().filter(|id| !row_of.contains_key(id)).collect();
    if !without.is_empty() {
        let problem = format!("added items have no vector in it: {}", stages::catalog::first_few(&without));
        let mend = "give a Parquet file with item ids that has vectors of the added items too";
        return Err(Error::input(file.display().to_string(), problem, mend).into());
    }
    let values = added.iter().filter_map(|id| row_of.get(id)).flat_map(|&row| vectors.embeddings.row(row)).copied();
    Ok(Some(Embeddings::new(added.len(), vectors.embeddings.width(), values.collect())?))
}
