//! `sidereal run`: a recipe from data to report.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use serde_json::json;
use sidereal::data::DataSource;
use sidereal::pipeline::{self, Setting};
use sidereal::run::Stage;
use sidereal::{Recipe, Result, Run};

use crate::commands::Context;
use crate::{memory, output};

/// The command's arguments.
pub(crate) struct Job {
    pub(crate) recipe: PathBuf,
    pub(crate) data: Vec<PathBuf>,
    pub(crate) out: PathBuf,
    pub(crate) until: Option<Stage>,
    pub(crate) seed: Option<u64>,
}

pub(crate) fn execute(context: &Context, job: &Job) -> Result<ExitCode> {
    let mut recipe = Recipe::load(&job.recipe)?;
    if let Some(seed) = job.seed {
        recipe.seed = seed;
    }
    let data = DataSource::parse(&job.data)?;
    let run = Run::create(&job.out)?;
    let setting = Setting { data: data.as_ref(), device: context.global.device, progress: context.progress.as_ref() };
    whole(context, &run, &recipe, setting, job.until.unwrap_or(Stage::Report))
}

/// Runs the stages and answers what came of them.
pub(crate) fn whole(
    context: &Context,
    run: &Run,
    recipe: &Recipe,
    setting: Setting<'_>,
    until: Stage,
) -> Result<ExitCode> {
    let began = Instant::now();
    let mut stages = Vec::new();
    pipeline::run(run, recipe, setting, until, |finished| {
        context.tell_stage(finished.stage, finished.outcome, finished.seconds);
        if finished.stage == Stage::Split
            && let Ok(estimate) = sidereal::estimate::of_run(run, recipe)
        {
            context.tell(&estimate.sentence());
        }
        stages.push(json!({ "stage": finished.stage.name(), "seconds": finished.seconds,
            "kept": finished.outcome == sidereal::Outcome::Kept }));
    })?;
    let seconds = began.elapsed().as_secs_f64();
    let page = run.dir(Stage::Report).join("report.html");
    if context.global.json {
        let evaluation = match until {
            Stage::Report => Some(sidereal::stages::report::evaluation(run)?),
            _ => None,
        };
        let peak = memory::peak_mib();
        output::json(&json!({ "run": run.root(), "stages": stages, "seconds": seconds, "peak_memory_mib": peak,
            "report": page, "evaluation": evaluation }))?;
    } else if until == Stage::Report {
        super::evaluate::table(&sidereal::stages::report::evaluation(run)?)?;
        output::line(&format!("\nreport: {}", page.display()))?;
    } else {
        output::line(&run.root().display().to_string())?;
    }
    let memory = memory::peak_mib().map_or(String::new(), |mib| format!(", peak memory {mib} MiB"));
    context.tell(&format!("done in {seconds:.1} s{memory}"));
    Ok(ExitCode::SUCCESS)
}
