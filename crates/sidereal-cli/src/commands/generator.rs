//! `sidereal generator train|import|tune|fuse`.

use std::path::Path;
use std::process::ExitCode;

use sidereal::core::SplitRule;
use sidereal::embed::Hub;
use sidereal::generator::GeneratorConfig;
use sidereal::tune::{Wish, tune};
use sidereal::{Recipe, Result, Run, Stage, stages};

use crate::args::Generator;
use crate::commands::Context;

pub(crate) fn execute(context: &Context, command: Generator) -> Result<ExitCode> {
    match command {
        Generator::Train { run, recipe, seed } => train(context, &run, &recipe, seed),
        Generator::Import { run, model, prompt, max_history } => {
            let run = Run::open(&run)?;
            let prompt = prompt.as_deref().map(stages::language_model::read_prompt).transpose()?.unwrap_or_default();
            let folder = Hub::from_env().model(&model)?;
            let outcome = stages::language_model::bring(&run, &folder, &prompt, max_history, context.global.device)?;
            context.answer_stage(&run, Stage::Generator, outcome)
        }
        Generator::Tune { run, domain, out, recipe, epochs, learning_rate, seed } => {
            let config = recipe.as_deref().map(Recipe::load).transpose()?.map(|recipe| recipe.generator);
            let device = context.global.device;
            device.open()?;
            let config = config.as_ref();
            let wish = Wish { domain: &domain, config, epochs, learning_rate, seed, device };
            let (run, outcome) = tune(&Run::open(&run)?, &out, wish, context.progress.as_ref())?;
            context.answer_stage(&run, Stage::Generator, outcome)
        }
        Generator::Fuse { run, recipe, seed } => fuse(context, &run, recipe.as_deref(), seed),
    }
}

fn fuse(context: &Context, run: &Path, recipe: Option<&Path>, seed: u64) -> Result<ExitCode> {
    let run = Run::open(run)?;
    let config = recipe.map(Recipe::load).transpose()?.and_then(|recipe| recipe.fusion).unwrap_or_default();
    let outcome = stages::fusion::make(&run, &config, seed, context.global.device, context.progress.as_ref())?;
    context.answer_stage(&run, Stage::Fusion, outcome)
}

fn train(context: &Context, run: &Path, recipe: &str, seed: u64) -> Result<ExitCode> {
    let run = Run::open(run)?;
    let config = if let Some(built_in) = Recipe::built_in(recipe)? {
        built_in.generator
    } else if recipe.ends_with(".toml") {
        Recipe::load(Path::new(recipe))?.generator
    } else {
        GeneratorConfig::named(recipe)?
    };
    let device = context.global.device;
    device.open()?;
    if !run.has(Stage::Split) {
        stages::split::make(&run, SplitRule::LeaveOneOut)?;
    }
    let outcome = stages::generator::make(&run, &config, seed, device, context.progress.as_ref())?;
    context.answer_stage(&run, Stage::Generator, outcome)
}
