//! `sidereal generator train`.

use std::path::Path;
use std::process::ExitCode;

use sidereal::core::SplitRule;
use sidereal::generator::GeneratorConfig;
use sidereal::{Recipe, Result, Run, Stage, stages};

use crate::args::Generator;
use crate::commands::Context;

pub(crate) fn execute(context: &Context, command: Generator) -> Result<ExitCode> {
    let Generator::Train { run, recipe, seed } = command;
    let run = Run::open(&run)?;
    let config = if recipe.ends_with(".toml") {
        Recipe::load(Path::new(&recipe))?.generator
    } else {
        GeneratorConfig::named(&recipe)?
    };
    let device = context.global.device;
    device.open()?;
    if !run.has(Stage::Split) {
        stages::split::make(&run, SplitRule::LeaveOneOut)?;
    }
    let outcome = stages::generator::make(&run, &config, seed, device, context.progress.as_ref())?;
    context.answer_stage(&run, Stage::Generator, outcome)
}
