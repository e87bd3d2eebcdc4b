//! What review would otherwise have to count: file lengths, file names, and that every example has its story.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

/// At this length look for a second idea in the file.
const LONGEST: usize = 600;

/// Rooms without a name collect what belongs elsewhere.
const NAMELESS: &[&str] = &["util", "utils", "common", "helper", "helpers", "misc"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Files with one of these endings below the folders that hold the project's own text.
fn files(endings: &[&str]) -> Vec<PathBuf> {
    let mut open: Vec<PathBuf> = ["crates", "xtask", "benches", "data", "examples", "weights"]
        .iter()
        .map(|folder| root().join(folder))
        .collect();
    let mut found = Vec::new();
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|end| endings.iter().any(|&wanted| end == wanted)) {
                found.push(path);
            }
        }
    }
    assert!(!found.is_empty(), "no file ends in {endings:?}");
    found
}

#[test]
fn no_source_file_is_longer_than_600_lines() {
    for path in files(&["rs", "py"]) {
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines <= LONGEST, "{} has {lines} lines", path.display());
    }
}

#[test]
fn no_source_file_is_a_room_without_a_name() {
    for path in files(&["rs", "py"]) {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        assert!(!NAMELESS.contains(&name.as_str()), "{}: name it after what it holds", path.display());
    }
}

#[test]
fn every_recipe_folder_tells_its_story() {
    for entry in fs::read_dir(root().join("examples")).unwrap() {
        let path = entry.unwrap().path();
        assert!(path.is_file() || path.join("README.md").is_file(), "{} has no README.md", path.display());
    }
}
