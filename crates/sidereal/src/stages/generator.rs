//! Catalog and histories -> the model that writes the next item's semantic ID.

use std::path::Path;

use serde_json::{Value, json};
use sidereal_core::artifact::Manifest;
use sidereal_core::{Error, Progress};
use sidereal_generator::training::{EVENTS_FILE, METRICS_FILE, Start};
use sidereal_generator::{GeneratorConfig, TrainJob, train, tune};
use sidereal_nn::device::DeviceChoice;

use crate::Result;
use crate::domains::Domains;
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
    make_from(run, config, seed, device, None, progress)
}

/// How a generator goes on from another's weights.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tuning<'a> {
    /// The domain whose events it reads, and among whose items its rankings are judged.
    pub(crate) domain: &'a str,
    /// The parent's generator folder.
    pub(crate) parent: &'a Path,
    /// What the parent's run is called.
    pub(crate) parent_name: &'a str,
    /// The digest of the parent's generator.
    pub(crate) digest: &'a str,
    /// The step of the parent's weights.
    pub(crate) step: u64,
}

/// [`make`], from a parent's weights and on one domain.
///
/// # Errors
/// As [`make`]; weights of other sizes than the configuration's.
pub(crate) fn make_tuned(
    run: &Run,
    config: &GeneratorConfig,
    seed: u64,
    device: DeviceChoice,
    tuning: Tuning<'_>,
    progress: &dyn Progress,
) -> Result<Outcome> {
    make_from(run, config, seed, device, Some(tuning), progress)
}

fn make_from(
    run: &Run,
    config: &GeneratorConfig,
    seed: u64,
    device: DeviceChoice,
    tuning: Option<Tuning<'_>>,
    progress: &dyn Progress,
) -> Result<Outcome> {
    let needs = config.model().needs();
    let mut stages = vec![Stage::Data, Stage::Split, Stage::Catalog];
    stages.extend((needs.vectors && run.has(Stage::Embeddings)).then_some(Stage::Embeddings));
    stages.extend((needs.codebooks && run.has(Stage::Tokenizer)).then_some(Stage::Tokenizer));
    let (mut asked, mut inputs) = (resolved(config), inputs(run, &stages)?);
    if let Some(tuning) = &tuning {
        asked["tuned"] = json!({ "domain": tuning.domain });
        inputs.insert("parent".to_owned(), tuning.digest.to_owned());
    }
    let wanted = Manifest::new(Stage::Generator.name(), Some(seed), asked, inputs);
    let work_dir = run.work_dir(Stage::Generator);
    let outcome = run.stage(Stage::Generator, wanted, |out| {
        let data = run.data()?;
        let materials = RunMaterials::load(run, needs, device.into())?;
        run.check_items(materials.catalog(), &data)?;
        let split = run.split(&data.histories)?;
        std::fs::create_dir_all(&work_dir).map_err(|e| Error::io("create", &work_dir, e))?;
        let job = TrainJob {
            config,
            histories: &data.histories,
            split: &split,
            materials: materials.as_materials(),
            seed,
            work_dir: &work_dir,
            progress,
        };
        let (outcome, about) = match tuning {
            None => (train(&job)?, None),
            Some(tuning) => {
                let Some(domains) = Domains::of(&data.items) else {
                    let mend = "tune a run whose items have a column domain";
                    return Err(Error::config("--domain", "the items have no domains", mend).into());
                };
                let domain = domains.named(tuning.domain)?;
                let (histories, split) = domains.cut(&data.histories, &split, domain)?;
                let allowed = domains.allowed(materials.catalog(), domain);
                let start = Start { folder: tuning.parent, digest: tuning.digest, allowed: Some(&allowed) };
                let about = json!({
                    "parent": { "run": tuning.parent_name, "generator": tuning.digest, "step": tuning.step },
                    "domain": tuning.domain,
                    "users": histories.len(),
                    "items": allowed.count(),
                });
                (tune(&TrainJob { histories: &histories, split: &split, ..job }, &start)?, Some(about))
            }
        };
        outcome.generator.save(out.dir())?;
        for name in [METRICS_FILE, EVENTS_FILE] {
            let log = work_dir.join(name);
            std::fs::copy(&log, out.path(name)).map_err(|e| Error::io("copy", &log, e))?;
        }
        // The logs tell times too: neither they nor what the training cost are part of what the generator is.
        out.measured(outcome.measured.figures(), [METRICS_FILE, EVENTS_FILE]);
        let mut facts = json!({
            "steps": outcome.steps,
            "best_step": outcome.best_step,
            "stopped": format!("{:?}", outcome.stopped).to_lowercase(),
            "validation": outcome.validation,
            "parameters": outcome.generator.info().parameters,
        });
        if let (Value::Object(facts), Some(Value::Object(about))) = (&mut facts, about) {
            facts.extend(about);
        }
        Ok(facts)
    })?;
    if work_dir.exists() {
        std::fs::remove_dir_all(&work_dir).map_err(|e| Error::io("remove", &work_dir, e))?;
    }
    Ok(outcome)
}
