//! Catalog and histories -> the model that writes the next item's semantic ID.

use serde_json::json;
use sidereal_core::artifact::Manifest;
use sidereal_core::{Error, Progress};
use sidereal_generator::training::{EVENTS_FILE, METRICS_FILE};
use sidereal_generator::{GeneratorConfig, TrainJob, train};
use sidereal_nn::device::DeviceChoice;

use crate::Result;
use crate::materials::RunMaterials;
use crate::run::{Outcome, Run, Stage};
use crate::stages::{inputs, resolved};

/// Trains the generator, or continues a training that was killed.
///
/// Unfinished work is kept in `RUN/generator.partial` and removed when the stage is whole.
///
/// # Errors
/// A stage before it has not run; a training that cannot be done or diverges.
pub fn make(
    run: &Run,
    config: &GeneratorConfig,
    seed: u64,
    device: DeviceChoice,
    progress: &dyn Progress,
) -> Result<Outcome> {
    let needs = config.model().needs();
    let mut stages = vec![Stage::Data, Stage::Split, Stage::Catalog];
    stages.extend((needs.vectors && run.has(Stage::Embeddings)).then_some(Stage::Embeddings));
    stages.extend((needs.codebooks && run.has(Stage::Tokenizer)).then_some(Stage::Tokenizer));
    let wanted = Manifest::new(Stage::Generator.name(), Some(seed), resolved(config), inputs(run, &stages)?);
    let work_dir = run.work_dir(Stage::Generator);
    let outcome = run.stage(Stage::Generator, wanted, |out| {
        let data = run.data()?;
        let materials = RunMaterials::load(run, needs, device.into())?;
        run.check_items(materials.catalog(), &data)?;
        let split = run.split(&data.histories)?;
        std::fs::create_dir_all(&work_dir).map_err(|e| Error::io("create", &work_dir, e))?;
        let outcome = train(&TrainJob {
            config,
            histories: &data.histories,
            split: &split,
            materials: materials.as_materials(),
            seed,
            work_dir: &work_dir,
            progress,
        })?;
        outcome.generator.save(out.dir())?;
        for name in [METRICS_FILE, EVENTS_FILE] {
            let log = work_dir.join(name);
            std::fs::copy(&log, out.path(name)).map_err(|e| Error::io("copy", &log, e))?;
        }
        // The logs tell times too: neither they nor what the training cost are part of what the generator is.
        out.measured(outcome.measured.figures(), [METRICS_FILE, EVENTS_FILE]);
        Ok(json!({
            "steps": outcome.steps,
            "best_step": outcome.best_step,
            "stopped": format!("{:?}", outcome.stopped).to_lowercase(),
            "validation": outcome.validation,
            "parameters": outcome.generator.info().parameters,
        }))
    })?;
    if work_dir.exists() {
        std::fs::remove_dir_all(&work_dir).map_err(|e| Error::io("remove", &work_dir, e))?;
    }
    Ok(outcome)
}
