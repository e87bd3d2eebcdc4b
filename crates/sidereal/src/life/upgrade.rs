//! A run carried over to vectors of another embedding model, as a run of its own.
//!
//! `map` keeps tokenizer, catalog and generator and lets the tokenizer read the new vectors through a map: what was
//! published stays, and new items can be added. `encoder` keeps catalog and generator too, and of the tokenizer all but
//! the encoder, which is trained anew. `relabel` trains the tokenizer anew and names its codes after the old ones; the
//! catalog changes where it must, a migration map says where, and the generator is to be trained again.
//!
//! Items that were added to the catalog are carried over as what they are, with their new vectors; removed items stay
//! removed.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::json;
use sidereal_core::artifact::{Manifest, StageWriter};
use sidereal_core::catalog::diff;
use sidereal_core::{Catalog, Embeddings, Error, ItemIndex, Progress};
use sidereal_embed::parts::made;
use sidereal_embed::{Hub, side_by_side};
use sidereal_nn::device::DeviceChoice;
use sidereal_tokenizer::life::upgrade::bridge::{BridgeRecord, bridge};
use sidereal_tokenizer::life::upgrade::encoder::{EncoderRecord, retrain_encoder};
use sidereal_tokenizer::life::upgrade::relabel::{RelabelRecord, relabel};
use sidereal_tokenizer::life::upgrade::{Agreement, ways};
use sidereal_tokenizer::pre_step::PreStep;
use sidereal_tokenizer::{ItemTokenizer, Training, TrainingItems};

use crate::Result;
use crate::life::added::{AddedItems, extended};
use crate::life::new_items::NewItems;
use crate::life::versions::copy_files;
use crate::life::{change, migration};
use crate::run::{Run, Stage};
use crate::stages;
use crate::stages::embeddings::Part;
use crate::stages::tokenizer::{Asked, Known};
use crate::vectors::{self, Input, Whole};

/// The migration map's file in the new run.
pub const MIGRATION_FILE: &str = "migration.parquet";

/// How a run is carried over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// A linear map into the old space; nothing published changes.
    Map,
    /// A new encoder before the published codebooks; nothing published changes.
    Encoder,
    /// A new tokenizer under the old names.
    Relabel,
}

impl How {
    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Map => "map",
            Self::Encoder => "encoder",
            Self::Relabel => "relabel",
        }
    }
}

/// What an upgrade did.
#[derive(Debug, Clone, Serialize)]
pub struct Upgraded {
    /// `map`, `encoder` or `relabel`.
    pub how: &'static str,
    /// How far the semantic IDs that the new tokenizer gives agree with those published.
    pub agreement: Agreement,
    /// The map, for `map`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub map: Option<BridgeRecord>,
    /// The training, for `encoder`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoder: Option<EncoderRecord>,
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
/// A run without catalog or tokenizer; a way that the tokenizer's method cannot take (those that it can are named); a
/// folder that is a run already; vectors that do not fit the items, those added to the catalog included; and what the
/// way itself can meet.
pub fn upgrade(
    run: &Run,
    new_embeddings: &[Input],
    how: How,
    out: &Path,
    device: DeviceChoice,
    progress: &dyn Progress,
) -> Result<Upgraded> {
    let catalog = run.catalog()?;
    let tokenizer = change::tokenizer_of(run)?;
    check_way(&tokenizer, how)?;
    let added = AddedItems::load(&run.dir(Stage::Catalog), &catalog)?;
    let added = AddedItems { vectors: added_vectors(&catalog, new_embeddings)?, ..added };
    let to = Run::create(out)?;
    check_unfinished(run, &to)?;
    for stage in [Stage::Data, Stage::Split] {
        if run.has(stage) && !to.has(stage) {
            take_over(run, &to, stage)?;
        }
    }
    let parts: Vec<Part> = new_embeddings.iter().cloned().map(Part::from).collect();
    stages::embeddings::from_parts(&to, &parts, &Hub::default(), progress)?;
    let vectors = match &added.vectors {
        Some(more) => extended(to.embeddings()?, more)?,
        None => to.embeddings()?,
    };
    let carried = Carried { run, to: &to, catalog: &catalog, added, vectors };
    let upgraded = match how {
        How::Map => carried.by_map(tokenizer)?,
        How::Encoder => carried.by_encoder(tokenizer, device, progress)?,
        How::Relabel => carried.by_relabelling(&tokenizer, device, progress)?,
    };
    let found = diff(&catalog, &to.catalog()?);
    let migration_map = out.join(MIGRATION_FILE);
    migration::write_map(&found, &migration_map)?;
    let (unchanged_items, moved_items) = (found.unchanged, found.moved);
    Ok(Upgraded { how: how.name(), unchanged_items, moved_items, migration_map, ..upgraded })
}

/// A new folder, or one in which a killed upgrade of the same run has not come to a tokenizer.
fn check_unfinished(run: &Run, to: &Run) -> Result<()> {
    let begun = [Stage::Data, Stage::Split, Stage::Embeddings];
    let done = Stage::ALL.into_iter().any(|stage| to.has(stage) && !begun.contains(&stage));
    let mut same = true;
    for stage in [Stage::Data, Stage::Split].into_iter().filter(|&stage| to.has(stage)) {
        same &= run.has(stage) && run.digest(stage)? == to.digest(stage)?;
    }
    if done || !same {
        let problem = format!("{} is a run already", to.root().display());
        return Err(Error::config("--out", problem, "name a new folder").into());
    }
    Ok(())
}

/// Refuses, before any work, a way that a method cannot take.
fn check_way(tokenizer: &ItemTokenizer, how: How) -> Result<()> {
    let (ways, name) = (ways(tokenizer), tokenizer.description().config.name());
    if ways.contains(&how.name()) {
        return Ok(());
    }
    let (problem, mend) = match (ways.is_empty(), how) {
        (true, _) => {
            let problem = format!("{name} lists items, and its semantic IDs come from no vector");
            (problem, "keep the run as it is: another embedding model changes nothing in it".to_owned())
        }
        (false, How::Encoder) => {
            let problem = format!("{name} has no encoder before residual codebooks");
            (problem, format!("use --how {}", ways.join(" or --how ")))
        }
        (false, _) => {
            let problem = format!("the codes of {name} are no rows of a codebook, which could be put in another order");
            (problem, format!("use --how {}", ways.join(" or --how ")))
        }
    };
    Err(Error::config(format!("--how {}", how.name()), problem, mend).into())
}

/// A run on its way to another embedding model: its data and split are there, and its new vectors.
struct Carried<'a> {
    run: &'a Run,
    to: &'a Run,
    /// The old run's.
    catalog: &'a Catalog,
    /// What was added to it, with new vectors.
    added: AddedItems,
    /// New vectors of all items of the catalog, [N, D'].
    vectors: Embeddings,
}

impl Carried<'_> {
    fn by_map(self, tokenizer: ItemTokenizer) -> Result<Upgraded> {
        let tokenizer = bridge(tokenizer, &self.vectors, &self.run.catalog_embeddings(self.catalog)?)?;
        let map = tokenizer.description().bridge.clone();
        let upgraded = self.keep_catalog(&tokenizer, "map", json!(map))?;
        Ok(Upgraded { map, ..upgraded })
    }

    fn by_encoder(self, tokenizer: ItemTokenizer, device: DeviceChoice, progress: &dyn Progress) -> Result<Upgraded> {
        let seed = tokenizer.description().seed;
        let collaborative = self.collaborative(&tokenizer, progress)?;
        let items = TrainingItems { collaborative: collaborative.as_ref(), ..TrainingItems::new(&self.vectors) };
        let work_dir = self.to.work_dir(Stage::Tokenizer);
        std::fs::create_dir_all(&work_dir).map_err(|e| Error::io("create", &work_dir, e))?;
        let training = Training { device: device.open()?, work: Some(&work_dir), ..Training::new(seed, progress) };
        let tokenizer = retrain_encoder(tokenizer, &items, &self.catalog.tokenizer_semantic_ids()?, &training)?;
        let encoder = tokenizer.description().encoder.clone();
        let upgraded = self.keep_catalog(&tokenizer, "encoder", json!(encoder))?;
        std::fs::remove_dir_all(&work_dir).map_err(|e| Error::io("remove", &work_dir, e))?;
        Ok(Upgraded { encoder, ..upgraded })
    }

    /// Vectors learnt from behaviour, where a pre-step of the tokenizer reads them; zeros for added items, of which the
    /// histories know nothing. [N, C]
    fn collaborative(&self, tokenizer: &ItemTokenizer, progress: &dyn Progress) -> Result<Option<Embeddings>> {
        let description = tokenizer.description();
        let reads = |step: &PreStep| matches!(step, PreStep::CollaborativeProjection(_));
        if !description.config.pre_steps().iter().any(reads) {
            return Ok(None);
        }
        let Some(recipe) = asked_of(self.run)?.and_then(|asked| asked.collaborative) else { return Ok(None) };
        let learnt = recipe.vectors(&Known::of(self.to)?, description.seed, progress)?;
        let more = self.vectors.rows().saturating_sub(learnt.rows());
        let zeros = Embeddings::new(more, learnt.width(), vec![0.0; more * learnt.width()])?;
        Ok(Some(extended(learnt, &zeros)?))
    }

    /// The new run with the tokenizer, and catalog and generator as they are.
    fn keep_catalog(&self, tokenizer: &ItemTokenizer, way: &str, record: serde_json::Value) -> Result<Upgraded> {
        let (run, to) = (self.run, self.to);
        let agreement = Agreement::of(&tokenizer.encode(&self.vectors)?, &self.catalog.tokenizer_semantic_ids()?)?;
        let (items, width) = (self.vectors.rows(), self.vectors.width());
        write_tokenizer(
            run,
            to,
            tokenizer,
            json!({ "items": items, "width": width, way: record, "agreement": agreement }),
        )?;

        // The catalog's files are the same, so a generator that names it goes on; only what made it is another
        // tokenizer.
        let mut manifest = run.manifest(Stage::Catalog)?;
        let writer = StageWriter::begin(&to.dir(Stage::Catalog))?;
        copy_files(&run.dir(Stage::Catalog), writer.dir(), &manifest)?;
        self.added.save(writer.dir())?;
        for stage in [Stage::Embeddings, Stage::Tokenizer] {
            manifest.inputs.insert(stage.name().to_owned(), to.digest(stage)?);
        }
        writer.finish(manifest)?;
        let generator_kept = run.has(Stage::Generator);
        if generator_kept {
            take_over(run, to, Stage::Generator)?;
        }
        Ok(Upgraded { generator_kept, ..empty(agreement) })
    }

    fn by_relabelling(self, old: &ItemTokenizer, device: DeviceChoice, progress: &dyn Progress) -> Result<Upgraded> {
        let (to, catalog) = (self.to, self.catalog);
        let (config, seed) = (&old.description().config, old.description().seed);
        let collaborative = asked_of(self.run)?.and_then(|asked| asked.collaborative);
        let wish = stages::tokenizer::Wish { config, collaborative: collaborative.as_ref(), seed, device };
        stages::tokenizer::make(to, wish, progress)?;
        let done = relabel(to.tokenizer()?, &self.vectors, &catalog.tokenizer_semantic_ids()?)?;
        let mut manifest = to.manifest(Stage::Tokenizer)?;
        manifest.facts["relabelled"] = json!(done.record);
        let writer = StageWriter::begin(&to.dir(Stage::Tokenizer))?;
        done.tokenizer.save(writer.dir())?;
        writer.finish(manifest)?;

        // Items stand where they stood: built ones, then those added, then what was removed loses its leaf.
        stages::catalog::build(to, stages::catalog::asked_of(self.run, catalog)?)?;
        if let Some(vectors) = self.added.vectors {
            let ids = (catalog.built_items()..catalog.len()).map(|item| catalog.item_id(item as ItemIndex).into());
            let AddedItems { titles, categories, .. } = self.added;
            let new = NewItems { ids: ids.collect(), titles, categories: Some(categories), vectors };
            change::append(to, &to.catalog()?, done.tokenizer, new, &[], progress)?;
        }
        let removed: Vec<&str> = catalog.removed().map(|item| catalog.item_id(item)).collect();
        if !removed.is_empty() {
            change::remove(to, &removed)?;
        }
        let agreement = done.record.after.clone();
        Ok(Upgraded { relabelled: Some(done.record), ..empty(agreement) })
    }
}

/// What the run's tokenizer was asked to be; none for one that was imported, or trained without a run, which was asked
/// for in other words.
fn asked_of(run: &Run) -> Result<Option<Asked>> {
    Ok(serde_json::from_value(run.manifest(Stage::Tokenizer)?.config).ok())
}

fn empty(agreement: Agreement) -> Upgraded {
    Upgraded {
        how: "",
        agreement,
        map: None,
        encoder: None,
        relabelled: None,
        unchanged_items: 0,
        moved_items: 0,
        migration_map: PathBuf::new(),
        generator_kept: false,
    }
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

/// New vectors of the items that were added to the catalog, found in every file by their ids, as those of the built ones
/// are.
fn added_vectors(catalog: &Catalog, files: &[Input]) -> Result<Option<Embeddings>> {
    let added: Vec<&str> =
        (catalog.built_items()..catalog.len()).map(|item| catalog.item_id(item as ItemIndex)).collect();
    if added.is_empty() {
        return Ok(None);
    }
    let mut parts = Vec::new();
    for file in files {
        let Whole { vectors, ids, place } = vectors::read(std::slice::from_ref(file))?;
        let ids = ids.unwrap_or_default();
        let row_of: HashMap<&str, usize> = ids.iter().enumerate().map(|(row, id)| (id.as_str(), row)).collect();
        let without: Vec<&str> = added.iter().copied().filter(|id| !row_of.contains_key(id)).collect();
        if !without.is_empty() {
            let problem = format!("added items have no vector in it: {}", stages::catalog::first_few(&without));
            let mend = "give a Parquet file with item ids that has vectors of the added items too";
            return Err(Error::input(place, problem, mend).into());
        }
        let values = added.iter().filter_map(|id| row_of.get(id)).flat_map(|&row| vectors.row(row)).copied();
        parts.push(made(Embeddings::new(added.len(), vectors.width(), values.collect())?));
    }
    Ok(Some(side_by_side(parts)?.embeddings))
}
