//! A file of ready vectors -> the run's item embeddings.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;
use sidereal_core::Progress;
use sidereal_core::artifact::{Manifest, sha256_file};
use sidereal_data::DataFolder;

use crate::Result;
use crate::run::{Outcome, Run, Stage};

/// Takes the vectors of a data folder; without a folder, what the run has is kept.
///
/// # Errors
/// As [`from_file`].
pub fn from_folder(run: &Run, folder: Option<&Path>, progress: &dyn Progress) -> Result<Outcome> {
    let Some(folder) = folder else { return super::data::kept(run, Stage::Embeddings) };
    from_file(run, &DataFolder::find(folder)?.embeddings, None, progress)
}

/// Takes a file of vectors, one row an item of the items file in its order (or by item id where the file has ids).
///
/// # Errors
/// No prepared data; a file that is damaged or does not fit the items.
pub fn from_file(run: &Run, file: &Path, name: Option<&str>, progress: &dyn Progress) -> Result<Outcome> {
    let inputs = BTreeMap::from([
        ("vectors".to_owned(), sha256_file(file)?),
        (Stage::Data.name().to_owned(), run.digest(Stage::Data)?),
    ]);
    let wanted = Manifest::new(Stage::Embeddings.name(), None, json!({ "name": name }), inputs);
    run.stage(Stage::Embeddings, wanted, |out| {
        let data = run.data()?;
        progress.start("read vectors", Some(data.items.len() as u64), "items");
        let vectors = sidereal_embed::vectors_for_items(file, name, &data.items, &data.item_rows)?;
        vectors.save_into(out.dir())?;
        progress.advance(data.items.len() as u64);
        progress.finish();
        Ok(vectors.facts.to_json())
    })
}
