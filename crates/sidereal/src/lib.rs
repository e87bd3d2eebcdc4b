//! Generative recommendation with semantic IDs: what a Rust user adds to Cargo.toml.
//!
//! [`run`] is a folder with a sub-folder per stage, [`recipe`] its configuration, [`stages`] make it one after another
//! ([`pipeline`] runs them all and resumes), [`life`] changes its catalog afterwards, [`evaluate`] judges it beside baselines that need no training,
//! [`accuracy`] trains and judges several, [`recommend`] answers from it, and [`report`] shows it as a page. The crates below are re-exported under short names.
//!
//! Absent on purpose: printing, argument parsing, HTTP.

pub use sidereal_core as core;
pub use sidereal_data as data;
pub use sidereal_embed as embed;
pub use sidereal_generator as generator;
pub use sidereal_inference as inference;
pub use sidereal_nn as nn;
pub use sidereal_tokenizer as tokenizer;

pub mod recipe;
pub mod run;

mod domains;
mod lend;
mod materials;

pub mod stages;

pub mod life;
pub mod tune;

pub mod estimate;
pub mod pipeline;

pub mod evaluation;

pub mod evaluate;
pub mod limits;
pub mod recommend;

pub mod accuracy;

pub mod batch;

mod equals;
pub mod vectors;

pub mod encode;

pub mod behaviour_vectors;
pub mod exchange;
pub mod features;

mod parquet_file;
pub mod quality;
pub mod report;

pub mod bench;
pub mod inspect;
pub mod methods;

pub use recipe::Recipe;
pub use run::{Outcome, Run, Stage};
pub use sidereal_nn::{Error, Result};
