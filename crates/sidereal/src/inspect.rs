//! What a file or folder is: for a person who finds one.

use std::path::Path;

use serde::Serialize;
use serde_json::{Value, json};
use sidereal_core::array_file::ArrayFile;
use sidereal_core::artifact::{MANIFEST, Manifest, read_json, sha256_file, verify_files};
use sidereal_core::catalog::FILE;
use sidereal_core::{Catalog, Error};

use crate::Result;
use crate::run::{Run, Stage};

/// What was found.
#[derive(Debug, Clone, Serialize)]
pub struct Found {
    /// `run`, `stage`, `arrays` or `file`.
    pub what: &'static str,
    /// Its particulars.
    pub facts: Value,
}

impl Found {
    /// The particulars as indented lines.
    pub fn text(&self) -> String {
        let mut lines = vec![self.what.to_owned()];
        lines_of(&self.facts, 1, &mut lines);
        lines.join("\n")
    }
}

/// Looks at a run, a stage's folder, a file of arrays, or any file. With `verify`, all hashes are checked and a catalog
/// is read whole.
///
/// # Errors
/// Nothing there; a manifest whose files are damaged; a catalog that is.
pub fn inspect(path: &Path, verify: bool) -> Result<Found> {
    if verify {
        verify_all(path)?;
    }
    if path.join(MANIFEST).is_file() {
        let manifest: Manifest = read_json(&path.join(MANIFEST))?;
        verify_files(path, &manifest)?;
        let facts = json!({ "manifest": manifest, "digest": manifest.digest(), "files": "verified" });
        return Ok(Found { what: "stage", facts });
    }
    if path.is_dir() {
        let run = Run::open(path)?;
        let mut stages = serde_json::Map::new();
        for stage in Stage::ALL.into_iter().filter(|&stage| run.has(stage)) {
            let manifest = run.manifest(stage)?;
            let kept = json!({ "facts": manifest.facts, "seed": manifest.seed, "digest": manifest.digest() });
            stages.insert(stage.name().to_owned(), kept);
        }
        if stages.is_empty() {
            let mend = "name a run, a stage of a run, or a file";
            return Err(Error::artifact(path, "no stage of a run is here", mend).into());
        }
        return Ok(Found { what: "run", facts: json!({ "stages": stages }) });
    }
    let bytes = std::fs::metadata(path).map_err(|e| Error::io("read", path, e))?.len();
    if path.extension().is_some_and(|extension| extension == "safetensors") {
        let file = ArrayFile::open(path)?;
        let mut arrays = serde_json::Map::new();
        for name in file.names() {
            arrays.insert(name.to_owned(), json!(file.shape(name)?));
        }
        return Ok(Found { what: "arrays", facts: json!({ "bytes": bytes, "shapes": arrays }) });
    }
    Ok(Found { what: "file", facts: json!({ "bytes": bytes, "sha256": sha256_file(path)? }) })
}

/// Checks the hashes of a run or a stage, and the structure of its catalog.
fn verify_all(path: &Path) -> Result<()> {
    if path.is_dir() && !path.join(MANIFEST).is_file() {
        let run = Run::open(path)?;
        return Stage::ALL
            .into_iter()
            .filter(|&stage| run.has(stage))
            .try_for_each(|stage| verify_all(&run.dir(stage)));
    }
    if path.join(MANIFEST).is_file() {
        verify_files(path, &read_json(&path.join(MANIFEST))?)?;
    }
    let folder = if path.file_name().is_some_and(|name| name == FILE) { path.parent() } else { Some(path) };
    match folder.filter(|folder| folder.join(FILE).is_file()) {
        Some(folder) => Ok(Catalog::open_verified(folder).map(|_| ())?),
        None => Ok(()),
    }
}

fn lines_of(value: &Value, depth: usize, lines: &mut Vec<String>) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                if value.is_object() {
                    lines.push(format!("{indent}{key}"));
                    lines_of(value, depth + 1, lines);
                } else {
                    lines.push(format!("{indent}{key}: {value}"));
                }
            }
        }
        other => lines.push(format!("{indent}{other}")),
    }
}
