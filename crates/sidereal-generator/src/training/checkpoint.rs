//! Where a run stands, on disk: what a killed run goes on from.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sidereal_core::Error as CoreError;
use sidereal_core::artifact::sha256_bytes;
use sidereal_nn::checkpoint::{Checkpoint, load, path, save};
use sidereal_nn::optimizer::AdamW;
use sidereal_nn::params::Params;

use super::TrainJob;
use super::average::Average;
use super::validation::Validation;
use crate::Result;

/// Everything that is neither a weight nor a moment.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Position {
    /// Steps done; the epoch and the place in it follow from it.
    pub(super) step: u64,
    /// The best validation so far.
    pub(super) best: Option<Best>,
    /// The step of the last validation.
    pub(super) validated_at: Option<u64>,
    /// Validations since the best.
    pub(super) validations_without_gain: u64,
    /// Sums since the last line of the log.
    pub(super) since_log: Sums,
    /// Wall time of the parts of this run before this process.
    pub(super) seconds_before: f64,
    /// What this run has cost so far.
    #[serde(default)]
    pub(super) cost: Cost,
}

/// What a run has cost apart from wall time.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Cost {
    /// Processor time of the parts of this run before this process.
    pub(super) cpu_seconds_before: f64,
    /// The highest peak of the parts of this run before this process.
    pub(super) peak_memory_bytes_before: u64,
    /// Samples trained on.
    pub(super) samples: u64,
    /// Wall time of the steps alone, without validation and saving.
    pub(super) step_seconds: f64,
}

/// The best validation so far.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Best {
    pub(super) step: u64,
    pub(super) metrics: Validation,
}

/// What the next line of the log is the mean of.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Sums {
    pub(super) steps: u64,
    pub(super) samples: u64,
    pub(super) loss: f64,
    pub(super) grad_norm: f64,
    pub(super) learning_rate: f64,
    /// Wall time of the steps, and the part of it in which samples were drawn and looked up.
    #[serde(default)]
    pub(super) step_seconds: f64,
    #[serde(default)]
    pub(super) data_seconds: f64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Extra {
    run: Value,
    position: Position,
}

/// The work folder of a run.
#[derive(Debug)]
pub(super) struct Store {
    dir: PathBuf,
    /// Everything that decides what the run does.
    run: Value,
}

impl Store {
    /// The store of a job that begins with drawn weights, or with those that `start` tells.
    pub(super) fn open(job: &TrainJob<'_>, start: Option<&str>, samples: usize) -> Result<Self> {
        std::fs::create_dir_all(job.work_dir).map_err(|e| CoreError::io("create", job.work_dir, e))?;
        let mut config = job.config.clone();
        // How often a run is saved or told about, and how long it may take, decide nothing about its steps.
        let training = config.training_mut();
        (training.checkpoint_every, training.max_minutes) = (0, None);
        let mut identity = serde_json::json!({
            "config": config,
            "seed": job.seed,
            "catalog": job.materials.catalog.version(),
            "codes_per_level": job.materials.catalog.codes_per_level(),
            "samples": samples,
            "histories": histories_digest(job),
        });
        if let Some(start) = start {
            identity["start"] = start.into();
        }
        Ok(Self { dir: job.work_dir.to_path_buf(), run: identity })
    }

    /// Puts a saved run's weights, moments and mean back; where it stood, or `None` in a new folder.
    ///
    /// # Errors
    /// A damaged checkpoint, or one of another run.
    pub(super) fn resume(
        &self,
        params: &Params,
        optimizer: &mut AdamW,
        average: Option<&mut Average>,
    ) -> Result<Option<Position>> {
        let Some(checkpoint) = load(&self.dir)? else { return Ok(None) };
        let file = path(&self.dir);
        let extra: Extra = serde_json::from_value(checkpoint.extra).map_err(|e| {
            let mend = "remove the file to start the training again from its beginning";
            CoreError::artifact(&file, format!("its position: {e}"), mend)
        })?;
        if extra.run != self.run {
            let mut changed = Vec::new();
            differences("", &extra.run, &self.run, &mut changed);
            let problem = format!("{} is of another training: {}", file.display(), changed.join(", "));
            let mend = "train into another folder, or remove this one to start again from the beginning";
            return Err(CoreError::mismatch(problem, mend).into());
        }
        params.restore(&checkpoint.params)?;
        optimizer.restore(&checkpoint.optimizer)?;
        match (average, &checkpoint.average) {
            (Some(average), Some(saved)) => average.restore(params, saved)?,
            (None, None) => {}
            (asked, _) => {
                let (has, says) = if asked.is_some() { ("no", "asks for one") } else { ("an", "asks for none") };
                let problem = format!("it has {has} average of weights, but its recipe {says}");
                let mend = "remove the file to start the training again from its beginning";
                return Err(CoreError::artifact(&file, problem, mend).into());
            }
        }
        Ok(Some(extra.position))
    }

    /// Saves a run, and then removes best weights that it no longer needs.
    pub(super) fn save(
        &self,
        params: &Params,
        optimizer: &AdamW,
        average: Option<&mut Average>,
        position: &Position,
    ) -> Result<()> {
        let extra = Extra { run: self.run.clone(), position: *position };
        let extra = serde_json::to_value(&extra)
            .map_err(|e| CoreError::artifact(path(&self.dir), e.to_string(), "this is a defect: report it"))?;
        let checkpoint = Checkpoint {
            params: params.snapshot()?,
            optimizer: optimizer.state()?,
            average: average.map(|average| average.snapshot(params)).transpose()?,
            step: position.step,
            // Every generator is made anew from the seed and the number of the step or epoch.
            rng: Default::default(),
            extra,
        };
        save(&self.dir, &checkpoint)?;
        self.remove_old_weights(position.best.map(|best| best.step))
    }

    /// The weights of a step's validation. They carry their step, because a run that is killed between validation and
    /// checkpoint goes on from before it: the checkpoint's own best must still be there.
    pub(super) fn best_weights(&self, step: u64) -> PathBuf {
        self.dir.join(format!("best-{step}.safetensors"))
    }

    fn remove_old_weights(&self, keep: Option<u64>) -> Result<()> {
        let entries = std::fs::read_dir(&self.dir).map_err(|e| CoreError::io("read", &self.dir, e))?;
        for entry in entries {
            let path = entry.map_err(|e| CoreError::io("read", &self.dir, e))?.path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let step = name.strip_prefix("best-").and_then(|rest| rest.strip_suffix(".safetensors"));
            let Some(step) = step.and_then(|step| step.parse::<u64>().ok()) else { continue };
            if Some(step) != keep {
                std::fs::remove_file(&path).map_err(|e| CoreError::io("remove", &path, e))?;
            }
        }
        Ok(())
    }
}

/// Keys in which two identities differ, with both values.
fn differences(path: &str, theirs: &Value, ours: &Value, found: &mut Vec<String>) {
    if let (Value::Object(theirs), Value::Object(ours)) = (theirs, ours) {
        let keys: BTreeSet<&String> = theirs.keys().chain(ours.keys()).collect();
        for key in keys {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            let of = |map: &serde_json::Map<String, Value>| map.get(key).cloned().unwrap_or_default();
            differences(&path, &of(theirs), &of(ours), found);
        }
    } else if theirs != ours {
        found.push(format!("{path} was {theirs}, but is {ours}"));
    }
}

fn histories_digest(job: &TrainJob<'_>) -> String {
    let histories = job.histories;
    let mut bytes: Vec<u8> = Vec::with_capacity(histories.events() * 4 + histories.len() * 12);
    bytes.extend(histories.items().iter().flat_map(|item| item.to_le_bytes()));
    bytes.extend(histories.offsets().iter().flat_map(|offset| offset.to_le_bytes()));
    bytes.extend(job.split.train_end.iter().flat_map(|end| end.to_le_bytes()));
    bytes.extend(job.split.validation.iter().flat_map(|e| [e.user.to_le_bytes(), e.position.to_le_bytes()].concat()));
    bytes.extend(histories.weights().unwrap_or(&[]).iter().flat_map(|weight| weight.to_le_bytes()));
    sha256_bytes(&bytes)
}
