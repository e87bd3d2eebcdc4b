//! What a training keeps on disk, so that a killed one goes on bit for bit.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use sidereal_core::Error;
use sidereal_core::artifact::sha256_bytes;
use sidereal_nn::checkpoint::{self, Checkpoint};

use super::training::Run;
use super::{Plan, RqVae};
use crate::Result;
use crate::align::AlignConfig;
use crate::arrays::{ArraySet, save_arrays};
use crate::quantizers::{Quantizer, Training};
use crate::training_items::TrainingItems;

/// The best net so far, beside the checkpoint.
const BEST_FILE: &str = "best.safetensors";

/// What an evaluation says; smaller is better, collisions first.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Score {
    pub(super) epoch: usize,
    pub(super) collision_rate: f64,
    pub(super) reconstruction_error: f64,
}

impl Score {
    pub(super) fn beats(&self, other: &Self) -> bool {
        (self.collision_rate, self.reconstruction_error) < (other.collision_rate, other.reconstruction_error)
    }
}

/// What a checkpoint keeps besides parameters and moments.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Progressed {
    /// Whether the codebooks have had their k-means start: it must not happen twice.
    pub(super) initialised: bool,
    pub(super) epochs_done: usize,
    pub(super) finished: bool,
    pub(super) evaluations_without_gain: usize,
    pub(super) best: Option<Score>,
    pub(super) scores: Vec<Score>,
    pub(super) restarted_codes: usize,
    /// Of settings, seed and items: a checkpoint continues only the training that wrote it.
    digest: String,
}

impl Progressed {
    pub(super) fn new(plan: &Plan, items: &TrainingItems<'_>, training: &Training<'_>) -> Self {
        Self { digest: digest(plan, items, training), ..Self::default() }
    }
}

/// Names a training by all that decides its bytes; only checkpoints need it.
fn digest(plan: &Plan, items: &TrainingItems<'_>, training: &Training<'_>) -> String {
    if training.work.is_none() {
        return String::new();
    }
    // Serialising plain settings cannot fail.
    let settings = serde_json::to_string(&plan.config).unwrap_or_default();
    let vectors = sha256_bytes(bytemuck::cast_slice(items.vectors.values()));
    let device = training.device.location();
    let width = items.vectors.width();
    let mut all = format!("{} {settings} {} {device:?} {width} {vectors}", plan.method, training.seed);
    if plan.config.align != AlignConfig::default() {
        let numbers = |values: &[u32]| sha256_bytes(bytemuck::cast_slice(values));
        if let Some(collaborative) = items.collaborative {
            all += &format!(" collaborative {}", sha256_bytes(bytemuck::cast_slice(collaborative.values())));
        }
        if let Some(domains) = items.domains {
            all += &format!(" domains {}", numbers(domains));
        }
        if let Some(histories) = items.histories {
            let users: Vec<String> = histories.iter().map(|history| format!("{history:?}")).collect();
            all += &format!(" histories {}", sha256_bytes(users.concat().as_bytes()));
        }
    }
    sha256_bytes(all.as_bytes())
}

impl Run<'_> {
    pub(super) fn resume(&mut self) -> Result<()> {
        let Some(dir) = self.steps.training.work else { return Ok(()) };
        let Some(saved) = checkpoint::load(dir)? else { return Ok(()) };
        let path = checkpoint::path(dir);
        let mend = "empty that folder to start the training anew";
        let state: Progressed = serde_json::from_value(saved.extra)
            .map_err(|e| Error::artifact(&path, format!("it is no checkpoint of this training: {e}"), mend))?;
        if state.digest != self.state.digest {
            let problem = "the checkpoint belongs to other settings, another seed or other items";
            return Err(Error::artifact(&path, problem, mend).into());
        }
        self.steps.model.params.restore(&saved.params)?;
        self.steps.optimizer.restore(&saved.optimizer)?;
        if state.best.is_some() {
            let mut arrays = ArraySet::open(&best_path(dir))?;
            self.best = Some(RqVae::take(self.steps.plan, self.steps.rows.width(), &mut arrays)?);
            arrays.finish()?;
        }
        self.state = state;
        Ok(())
    }

    pub(super) fn save_checkpoint(&self) -> Result<()> {
        let Some(dir) = self.steps.training.work else { return Ok(()) };
        let extra = serde_json::to_value(&self.state)
            .map_err(|e| Error::artifact(checkpoint::path(dir), e.to_string(), "this is a defect: report it"))?;
        checkpoint::save(
            dir,
            &Checkpoint {
                params: self.steps.model.params.snapshot()?,
                optimizer: self.steps.optimizer.state()?,
                step: self.steps.optimizer.steps(),
                rng: Default::default(),
                extra,
            },
        )
    }

    /// Keeps the best net so far on disk.
    pub(super) fn save_best(&self, net: &RqVae) -> Result<()> {
        match self.steps.training.work {
            Some(dir) => Ok(save_arrays(&best_path(dir), &net.arrays())?),
            None => Ok(()),
        }
    }
}

fn best_path(dir: &Path) -> PathBuf {
    dir.join(BEST_FILE)
}
