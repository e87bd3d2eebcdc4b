//! Every catalog that a run has had: `RUN/catalog` is the newest, `RUN/catalog.versions/VERSION` those before.

use std::path::{Path, PathBuf};

use serde::Serialize;
use sidereal_core::artifact::{MANIFEST, Manifest, StageWriter, read_manifest, verify_files};
use sidereal_core::attributes::Attributes;
use sidereal_core::{Catalog, Error};

use crate::Result;
use crate::life::added::AddedItems;
use crate::run::{Run, Stage};

/// One catalog of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Version {
    /// Its name.
    pub version: String,
    /// The version that it was changed from.
    pub parent: Option<String>,
    /// Items that were not removed.
    pub items: usize,
    /// Items that were.
    pub removed_items: usize,
    /// Distinct semantic IDs.
    pub unique_ids: u32,
    /// Whether it is the run's catalog now.
    pub current: bool,
}

/// The versions of a run's catalog that are on disk, by the number of changes behind them, the oldest first.
///
/// # Errors
/// No catalog; a version that is damaged.
pub fn versions(run: &Run) -> Result<Vec<Version>> {
    let now = run.catalog()?;
    let mut all = vec![(now.ancestors().len(), version_of(&now, true))];
    for name in kept(run)? {
        if name != now.version() {
            let catalog = open(run, &name)?;
            all.push((catalog.ancestors().len(), version_of(&catalog, false)));
        }
    }
    all.sort_by(|a, b| a.0.cmp(&b.0).then_with(|| a.1.version.cmp(&b.1.version)));
    Ok(all.into_iter().map(|(_, version)| version).collect())
}

/// Makes a kept version the run's catalog; the one that was is kept beside it.
///
/// # Errors
/// No such version (those that there are are named); a version that is damaged.
pub fn roll_back(run: &Run, version: &str) -> Result<Version> {
    let now = run.catalog()?;
    if now.version() == version {
        return Ok(version_of(&now, true));
    }
    let names = kept(run)?;
    if !names.iter().any(|name| name == version) {
        let known = if names.is_empty() { "none is kept".to_owned() } else { format!("kept are {}", names.join(", ")) };
        let problem = format!("{} keeps no catalog {version:?}", run.root().display());
        return Err(Error::config("--to", problem, known).into());
    }
    let (from, catalog) = (folder(run).join(version), open(run, version)?);
    let manifest = read_manifest(&from, Stage::Catalog.name())?;
    keep(run, &now)?;
    let writer = StageWriter::begin(&run.dir(Stage::Catalog))?;
    copy_files(&from, writer.dir(), &manifest)?;
    writer.finish(manifest)?;
    Ok(version_of(&catalog, true))
}

/// Makes `next` the run's catalog and keeps the one that was.
pub(crate) fn replace(
    run: &Run,
    now: &Catalog,
    next: &Catalog,
    added: &AddedItems,
    facts: serde_json::Value,
) -> Result<()> {
    let mut manifest = run.manifest(Stage::Catalog)?;
    keep(run, now)?;
    let writer = StageWriter::begin(&run.dir(Stage::Catalog))?;
    next.save(writer.dir())?;
    added.save(writer.dir())?;
    if let Some(attributes) = Attributes::open(&folder(run).join(now.version()))? {
        attributes.save(writer.dir())?;
    }
    manifest.facts = facts;
    writer.finish(manifest)?;
    Ok(())
}

/// Keeps a catalog that has lived before a build takes its place: what was added to it stands nowhere else.
pub(crate) fn keep_changed(run: &Run) -> Result<()> {
    if !run.has(Stage::Catalog) {
        return Ok(());
    }
    // One that cannot be read is there to be built anew.
    match run.catalog() {
        Ok(catalog) if catalog.parent().is_some() => keep(run, &catalog),
        _ => Ok(()),
    }
}

fn folder(run: &Run) -> PathBuf {
    run.root().join("catalog.versions")
}

fn kept(run: &Run) -> Result<Vec<String>> {
    let folder = folder(run);
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let entries = std::fs::read_dir(&folder).map_err(|e| Error::io("read", &folder, e))?;
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| Error::io("read", &folder, e))?;
        if entry.path().join(MANIFEST).is_file() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.retain(|name| !name.starts_with('.'));
    names.sort();
    Ok(names)
}

fn open(run: &Run, version: &str) -> Result<Catalog> {
    let dir = folder(run).join(version);
    let manifest = read_manifest(&dir, Stage::Catalog.name())?;
    verify_files(&dir, &manifest)?;
    let catalog = Catalog::open_verified(&dir)?;
    if catalog.version() != version {
        let problem = format!("it holds the catalog {}", catalog.version());
        return Err(Error::artifact(&dir, problem, "the folder was renamed: give it that name").into());
    }
    Ok(catalog)
}

/// Copies the run's catalog into its place among the versions, unless it is there.
fn keep(run: &Run, now: &Catalog) -> Result<()> {
    let to = folder(run).join(now.version());
    if to.join(MANIFEST).is_file() {
        return Ok(());
    }
    let manifest = run.manifest(Stage::Catalog)?;
    let writer = StageWriter::begin(&to)?;
    copy_files(&run.dir(Stage::Catalog), writer.dir(), &manifest)?;
    writer.finish(manifest)?;
    Ok(())
}

/// Copies what a manifest names.
pub(crate) fn copy_files(from: &Path, to: &Path, manifest: &Manifest) -> Result<()> {
    for name in manifest.files.keys() {
        let (source, target) = (from.join(name), to.join(name));
        if let Some(parent) = target.parent() {
            std::fs::create_dir_all(parent).map_err(|e| Error::io("create", parent, e))?;
        }
        std::fs::copy(&source, &target).map_err(|e| Error::io("copy", &source, e))?;
    }
    Ok(())
}

fn version_of(catalog: &Catalog, current: bool) -> Version {
    Version {
        version: catalog.version().to_owned(),
        parent: catalog.parent().map(str::to_owned),
        items: catalog.alive(),
        removed_items: catalog.len() - catalog.alive(),
        unique_ids: catalog.trie().leaves(),
        current,
    }
}
