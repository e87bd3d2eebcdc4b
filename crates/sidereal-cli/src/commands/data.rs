//! `sidereal data prepare` and `sidereal embed`.

use std::path::Path;
use std::process::ExitCode;

use sidereal::recipe::DataRecipe;
use sidereal::{Result, Run, Stage, stages};

use crate::args::Data;
use crate::commands::Context;

pub(crate) fn prepare(context: &Context, command: Data) -> Result<ExitCode> {
    let Data::Prepare { items, interactions, out, k_core, columns } = command;
    let columns = sidereal::data::ColumnMap::parse(&columns)?;
    let run = Run::create(&out)?;
    let recipe = DataRecipe { k_core, columns };
    let outcome = stages::data::from_files(&run, items.as_deref(), &interactions, &recipe, context.progress.as_ref())?;
    context.answer_stage(&run, Stage::Data, outcome)
}

pub(crate) fn embed(context: &Context, run: &Path, from: &Path, name: Option<&str>) -> Result<ExitCode> {
    let run = Run::open(run)?;
    let outcome = stages::embeddings::from_file(&run, from, name, context.progress.as_ref())?;
    context.answer_stage(&run, Stage::Embeddings, outcome)
}
