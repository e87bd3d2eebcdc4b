//! Readers of foreign files, one file a format. [`SOURCES`] is the list: the choice by file name, the explicit choice
//! and the errors all walk it.

mod delimited;
mod json_lines;
mod lc_rec;
mod parquet;
mod recbole;
mod sequential;

use std::fs::File;
use std::path::Path;

use sidereal_core::{Error, Result};

use crate::columns::ColumnMap;
use crate::table::{InteractionTable, ItemTable};

/// Reads an items file.
pub type ReadItems = fn(&Path, &ColumnMap) -> Result<ItemTable>;
/// Reads an interactions file.
pub type ReadInteractions = fn(&Path, &ColumnMap) -> Result<InteractionTable>;

/// A format that can be read.
#[derive(Debug, Clone, Copy)]
pub struct Source {
    /// Its name, for an explicit choice.
    pub name: &'static str,
    /// File names that end so are taken for it.
    pub endings: &'static [&'static str],
    /// Reader of items, where the format has them.
    pub items: Option<ReadItems>,
    /// Reader of interactions, where the format has them.
    pub interactions: Option<ReadInteractions>,
}

/// All formats. The first whose ending fits a file's name reads it.
pub const SOURCES: &[Source] = &[
    Source {
        name: "parquet",
        endings: &[".parquet", ".pq"],
        items: Some(parquet::items),
        interactions: Some(parquet::interactions),
    },
    Source {
        name: "csv",
        endings: &[".csv"],
        items: Some(delimited::csv_items),
        interactions: Some(delimited::csv_interactions),
    },
    Source {
        name: "tsv",
        endings: &[".tsv"],
        items: Some(delimited::tsv_items),
        interactions: Some(delimited::tsv_interactions),
    },
    Source {
        name: "jsonl",
        endings: &[".jsonl", ".ndjson"],
        items: Some(json_lines::items),
        interactions: Some(json_lines::interactions),
    },
    Source {
        name: "recbole",
        endings: &[".inter", ".item"],
        items: Some(recbole::items),
        interactions: Some(recbole::interactions),
    },
    Source {
        name: "lc-rec",
        endings: &[".inter.json", ".item.json"],
        items: Some(lc_rec::items),
        interactions: Some(lc_rec::interactions),
    },
    Source { name: "sequential", endings: &[".txt"], items: None, interactions: Some(sequential::interactions) },
];

/// Reads an items file, its format told by its name.
///
/// # Errors
/// A name that no format has; whatever is wrong with the file.
pub fn items_from(path: &Path, columns: &ColumnMap) -> Result<ItemTable> {
    items_from_format(path, None, columns)
}

/// Reads an items file of a named format.
///
/// # Errors
/// As [`items_from`].
pub fn items_from_format(path: &Path, format: Option<&str>, columns: &ColumnMap) -> Result<ItemTable> {
    let read = choose(path, format, "items", |source| source.items)?;
    read(path, columns)
}

/// Reads an interactions file, its format told by its name.
///
/// # Errors
/// A name that no format has; whatever is wrong with the file.
pub fn interactions_from(path: &Path, columns: &ColumnMap) -> Result<InteractionTable> {
    interactions_from_format(path, None, columns)
}

/// Reads an interactions file of a named format.
///
/// # Errors
/// As [`interactions_from`].
pub fn interactions_from_format(path: &Path, format: Option<&str>, columns: &ColumnMap) -> Result<InteractionTable> {
    let read = choose(path, format, "interactions", |source| source.interactions)?;
    read(path, columns)
}

fn choose<T>(path: &Path, format: Option<&str>, what: &str, reader: impl Fn(&Source) -> Option<T>) -> Result<T> {
    let name = path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    let fits = |source: &&Source| match format {
        Some(format) => source.name == format,
        None => source.endings.iter().any(|ending| name.ends_with(ending)),
    };
    let found = SOURCES.iter().find(fits);
    if let Some(reader) = found.and_then(&reader) {
        return Ok(reader);
    }
    let readable = SOURCES.iter().filter(|source| reader(source).is_some());
    let known: Vec<String> = readable.map(|s| format!("{} ({})", s.name, s.endings.join(", "))).collect();
    let problem = match (found, format) {
        (Some(source), _) => format!("the format {} has no {what}", source.name),
        (None, Some(format)) => format!("no format is named {format:?}"),
        (None, None) => format!("the file's name tells no format that {what} can be read from"),
    };
    Err(Error::input(path.display().to_string(), problem, format!("use one of: {}", known.join(", "))))
}

/// Opens a file that must hold something.
pub(crate) fn open(path: &Path) -> Result<File> {
    let file = File::open(path).map_err(|e| Error::io("read", path, e))?;
    let about = file.metadata().map_err(|e| Error::io("read", path, e))?;
    if about.is_dir() {
        let problem = "this is a folder, not a file";
        return Err(Error::input(path.display().to_string(), problem, "name the file in it"));
    }
    if about.is_file() && about.len() == 0 {
        return Err(empty(&path.display().to_string()));
    }
    Ok(file)
}

pub(crate) fn empty(place: &str) -> Error {
    Error::input(place, "the file is empty", "write it again: the program that wrote it may have failed")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_and_endings_are_told_apart() {
        let mut names: Vec<&str> = SOURCES.iter().map(|s| s.name).collect();
        names.dedup();
        assert_eq!(names.len(), SOURCES.len());
        let mut endings: Vec<&str> = SOURCES.iter().flat_map(|s| s.endings).copied().collect();
        for (at, ending) in endings.iter().enumerate() {
            let hides = endings[..at].iter().any(|before| ending.ends_with(before));
            assert!(!hides, "{ending} would never be reached");
        }
        endings.sort_unstable();
        endings.dedup();
        assert_eq!(endings.len(), SOURCES.iter().map(|s| s.endings.len()).sum::<usize>());
    }

    #[test]
    fn an_unknown_format_is_answered_with_the_known_ones() {
        let map = ColumnMap::default();
        let error = items_from(Path::new("items.xlsx"), &map).unwrap_err().to_string();
        assert!(error.contains("items.xlsx") && error.contains("csv (.csv), tsv (.tsv)"), "{error}");
        let error = items_from_format(Path::new("x"), Some("orc"), &map).unwrap_err().to_string();
        assert!(error.contains("no format is named \"orc\""), "{error}");
        let error = items_from(Path::new("sequential_data.txt"), &map).unwrap_err().to_string();
        assert!(error.contains("the format sequential has no items") && !error.contains("(.txt)"), "{error}");
    }

    #[test]
    fn missing_and_empty_files_are_told_whatever_the_format() {
        let dir = tempfile::tempdir().unwrap();
        for source in SOURCES {
            for ending in source.endings {
                let path = dir.path().join(format!("x{ending}"));
                let missing = interactions_from(&path, &ColumnMap::default()).unwrap_err().to_string();
                assert!(missing.contains("cannot read") && missing.contains("check the path"), "{missing}");
                std::fs::write(&path, b"").unwrap();
                let empty = interactions_from(&path, &ColumnMap::default()).unwrap_err().to_string();
                assert!(empty.contains("the file is empty"), "{empty}");
            }
        }
        let folder = dir.path().join("folder.csv");
        std::fs::create_dir(&folder).unwrap();
        let error = items_from(&folder, &ColumnMap::default()).unwrap_err().to_string();
        assert!(error.contains("this is a folder"), "{error}");
    }
}
