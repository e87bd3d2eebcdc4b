//! The layering of the crates and the dependencies that must stay as they are, held against `cargo metadata`.
//!
//! An arrow points only to a lower layer, dev-dependencies included: crates of one layer do not know each other.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use cargo_metadata::{Metadata, MetadataCommand, Package};

/// Every crate of the workspace with its layer. A new crate gets a line here, and in ARCHITECTURE.md.
const LAYERS: &[(&str, u32)] = &[
    ("sidereal-core", 0),
    ("sidereal-data", 1),
    ("sidereal-nn", 1),
    ("sidereal-embed", 2),
    ("sidereal-tokenizer", 2),
    ("sidereal-generator", 2),
    ("sidereal-inference", 3),
    ("sidereal", 4),
    ("sidereal-cli", 5),
];

/// Stands beside the layers: it depends on none of them, and none on it.
const CHORES: &str = "xtask";

/// Two versions of these in one build give type errors between crates, or double the binary.
const SINGLE: &[&str] =
    &["arrow", "parquet", "safetensors", "tokenizers", "candle-core", "gemm", "half", "rayon", "serde"];

/// TLS is rustls.
const NOWHERE: &[&str] = &["openssl", "openssl-sys", "native-tls"];

/// `sidereal-core` holds words and formats only.
const NOT_IN_CORE: &[&str] =
    &["candle-core", "candle-nn", "tokio", "hyper", "reqwest", "ureq", "arrow", "parquet", "rand"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn metadata() -> Metadata {
    let mut command = MetadataCommand::new();
    command.manifest_path(root().join("Cargo.toml")).other_options(["--locked".to_owned()]);
    command.exec().unwrap()
}

fn members(metadata: &Metadata) -> impl Iterator<Item = &Package> {
    metadata.workspace_packages().into_iter()
}

#[test]
fn every_crate_of_the_workspace_has_its_layer() {
    let metadata = metadata();
    let found: BTreeSet<&str> = members(&metadata).map(|package| package.name.as_str()).collect();
    let written: BTreeSet<&str> = LAYERS.iter().map(|&(name, _)| name).chain([CHORES]).collect();
    assert_eq!(found, written, "left: in the workspace; right: in the table of xtask/tests/layering.rs");
}

#[test]
fn an_arrow_points_only_to_a_lower_layer() {
    let metadata = metadata();
    let layers: BTreeMap<&str, u32> = LAYERS.iter().copied().collect();
    let mut wrong = Vec::new();
    for package in members(&metadata) {
        for dependency in &package.dependencies {
            let Some(below) = layers.get(dependency.name.as_str()) else { continue };
            match layers.get(package.name.as_str()) {
                Some(own) if below < own => {}
                own => wrong.push(format!("{} (layer {own:?}) -> {} (layer {below})", package.name, dependency.name)),
            }
        }
    }
    assert!(wrong.is_empty(), "these arrows do not point down: {wrong:#?}");
}

#[test]
fn nothing_depends_on_the_chores() {
    let metadata = metadata();
    for package in members(&metadata) {
        assert!(package.dependencies.iter().all(|d| d.name != CHORES), "{} depends on xtask", package.name);
    }
}

#[test]
fn a_crate_lives_in_the_folder_of_its_name() {
    let metadata = metadata();
    for package in members(&metadata) {
        let folder = package.manifest_path.parent().and_then(|path| path.file_name());
        assert_eq!(folder, Some(package.name.as_str()));
    }
}

#[test]
fn there_is_one_version_of_what_must_not_be_doubled() {
    let metadata = metadata();
    for name in SINGLE {
        let of_that_name = metadata.packages.iter().filter(|package| package.name == *name);
        let versions: BTreeSet<String> = of_that_name.map(|package| package.version.to_string()).collect();
        assert!(versions.len() <= 1, "{name} comes in {versions:?}; `cargo tree --invert {name}` says through whom");
    }
}

#[test]
fn there_is_no_openssl_in_the_build() {
    let metadata = metadata();
    for package in &metadata.packages {
        assert!(!NOWHERE.contains(&package.name.as_str()), "{} came in; TLS is rustls", package.name);
    }
}

#[test]
fn core_knows_no_tensors_tables_network_or_chance() {
    let metadata = metadata();
    let core = members(&metadata).find(|package| package.name == "sidereal-core").unwrap();
    for dependency in &core.dependencies {
        assert!(!NOT_IN_CORE.contains(&dependency.name.as_str()), "sidereal-core depends on {}", dependency.name);
    }
}

#[test]
fn everything_comes_from_crates_io_or_from_the_workspace() {
    let metadata = metadata();
    for package in &metadata.packages {
        match &package.source {
            Some(source) => assert!(source.is_crates_io(), "{} comes from {source}", package.name),
            None => {
                let member = metadata.workspace_members.contains(&package.id);
                assert!(member, "{} is a path outside the workspace", package.name);
            }
        }
    }
}

#[test]
fn every_crate_has_the_workspace_licence_version_and_lints() {
    let metadata = metadata();
    let versions: BTreeSet<String> = members(&metadata).map(|package| package.version.to_string()).collect();
    assert_eq!(versions.len(), 1, "crates of the workspace carry one version");
    for package in members(&metadata) {
        assert_eq!(package.license.as_deref(), Some("MIT OR Apache-2.0"), "{}", package.name);
        let manifest = fs::read_to_string(&package.manifest_path).unwrap();
        assert!(manifest.contains("[lints]\nworkspace = true"), "{} does not take the workspace's lints", package.name);
    }
}

#[test]
fn every_dependency_takes_its_version_from_the_workspace() {
    let metadata = metadata();
    for package in members(&metadata) {
        let manifest = fs::read_to_string(&package.manifest_path).unwrap();
        let mut inside = false;
        for line in manifest.lines() {
            if line.starts_with('[') {
                inside = line.ends_with("dependencies]");
            } else if inside && line.contains('=') && !line.starts_with('#') {
                let taken = line.contains("workspace = true");
                assert!(taken, "{}: `{line}` names a version of its own", package.manifest_path);
            }
        }
    }
}
