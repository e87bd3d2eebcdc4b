//! The encoders against transformers, the hub against a mirror, the cache against changed items.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)]

mod mirror;
mod parity;
mod reuse;

use std::path::{Path, PathBuf};

use sidereal_core::{ItemId, Items};
use sidereal_embed::{Embedder, EncoderOptions, ModelFolder, encoders};

/// The folder of fixtures of this name.
fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn open(dir: &Path, options: &EncoderOptions) -> Box<dyn Embedder> {
    encoders::open(&ModelFolder::local(dir), options).unwrap_or_else(|e| panic!("{}: {e}", dir.display()))
}

/// Items of nothing but titles.
fn titled(titles: &[&str]) -> Items {
    let ids = (0..titles.len()).map(|i| ItemId::from(format!("item{i}"))).collect();
    let titles = titles.iter().map(|title| Some((*title).to_owned()).filter(|title| !title.is_empty())).collect();
    Items::new(ids, titles, std::collections::BTreeMap::new()).unwrap()
}

/// Copies a fixture, so that a test can damage it.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}
