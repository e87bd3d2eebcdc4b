//! The stages of a run, one file each: what it needs, what it makes, and the manifest it is kept by.

pub mod calibration;
pub mod catalog;
pub mod collaborative;
pub mod data;
pub mod embeddings;
pub mod fusion;
pub mod generator;
pub mod language_model;
pub mod report;
pub mod split;
pub mod tokenizer;
pub mod vectors_only;

use std::collections::BTreeMap;

use serde::Serialize;

use crate::Result;
use crate::run::{Run, Stage};

/// A configuration as a manifest keeps it.
pub(crate) fn resolved<T: Serialize>(config: &T) -> serde_json::Value {
    // Our configurations are tables, numbers and strings: JSON can say that.
    serde_json::to_value(config).unwrap_or_default()
}

/// The digests of the stages that a stage is made from.
pub(crate) fn inputs(run: &Run, stages: &[Stage]) -> Result<BTreeMap<String, String>> {
    stages.iter().map(|&stage| Ok((stage.name().to_owned(), run.digest(stage)?))).collect()
}

/// The name of one of several inputs of a kind, counted from 0: the first has the plain name, for one is the usual case.
pub(crate) fn numbered(name: &str, number: usize) -> String {
    if number == 0 { name.to_owned() } else { format!("{name}-{}", number + 1) }
}
