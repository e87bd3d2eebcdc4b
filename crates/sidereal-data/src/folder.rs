//! A data folder: a table of items, a table of interactions, a file of embeddings, each under its usual name.

use std::path::{Path, PathBuf};

use sidereal_core::{Error, Result};

const TABLES: &[&str] = &["parquet", "csv", "tsv", "jsonl"];
const VECTORS: &[&str] = &["safetensors", "npy", "parquet"];
/// Stem, endings, whether a folder must have it.
const FILES: [(&str, &[&str]); 3] = [("items", TABLES), ("interactions", TABLES), ("embeddings", VECTORS)];

/// The files of a data folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataFolder {
    /// `items.parquet`, `.csv`, `.tsv` or `.jsonl`.
    pub items: PathBuf,
    /// `interactions.parquet`, `.csv`, `.tsv` or `.jsonl`.
    pub interactions: PathBuf,
    /// `embeddings.safetensors`, `.npy` or `.parquet`.
    pub embeddings: PathBuf,
}

impl DataFolder {
    /// Finds the files.
    ///
    /// # Errors
    /// No such folder; files that are missing (all of them are named); two files of one name with different endings.
    pub fn find(dir: &Path) -> Result<Self> {
        let place = dir.display().to_string();
        if !dir.is_dir() {
            let problem = if dir.exists() { "this is a file, not a data folder" } else { "there is no such folder" };
            let mend = "name a folder with items.parquet, interactions.parquet and embeddings.safetensors";
            return Err(Error::input(place, problem, mend));
        }
        let mut found = Vec::new();
        let mut missing = Vec::new();
        for (stem, endings) in FILES {
            let there: Vec<PathBuf> = endings
                .iter()
                .map(|ending| dir.join(format!("{stem}.{ending}")))
                .filter(|path| path.is_file())
                .collect();
            match there.as_slice() {
                [] => missing.push(format!(
                    "{stem} ({})",
                    endings.iter().map(|e| format!("{stem}.{e}")).collect::<Vec<_>>().join(", ")
                )),
                [path] => found.push(path.clone()),
                several => {
                    let names: Vec<String> = several
                        .iter()
                        .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
                        .collect();
                    let problem = format!("several files hold {stem}: {}", names.join(", "));
                    return Err(Error::input(place, problem, "keep one of them"));
                }
            }
        }
        match <[PathBuf; 3]>::try_from(found) {
            Ok([items, interactions, embeddings]) => Ok(Self { items, interactions, embeddings }),
            Err(_) => {
                let problem = format!("the folder has no {}", missing.join(", and no "));
                let mend =
                    "put them there, or use `sidereal data prepare` and `sidereal embed`, which take any file names";
                Err(Error::input(place, problem, mend))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn all_missing_files_are_listed_at_once() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("interactions.csv"), "x").unwrap();
        let error = DataFolder::find(dir.path()).unwrap_err().to_string();
        assert!(
            error.contains(
                "no items (items.parquet, items.csv, items.tsv, items.jsonl), and no embeddings (embeddings.safetensors"
            ),
            "{error}"
        );
        let error = DataFolder::find(&dir.path().join("absent")).unwrap_err().to_string();
        assert!(error.contains("there is no such folder"), "{error}");
    }

    #[test]
    fn one_file_of_each_is_found_and_two_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["items.jsonl", "interactions.csv", "embeddings.npy"] {
            std::fs::write(dir.path().join(name), "x").unwrap();
        }
        let folder = DataFolder::find(dir.path()).unwrap();
        assert_eq!(folder.embeddings, dir.path().join("embeddings.npy"));
        std::fs::write(dir.path().join("items.csv"), "x").unwrap();
        let error = DataFolder::find(dir.path()).unwrap_err().to_string();
        assert!(error.contains("several files hold items: items.csv, items.jsonl"), "{error}");
    }
}
