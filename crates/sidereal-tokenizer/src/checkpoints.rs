//! What the training of a net keeps in its work folder, so that a killed one goes on bit for bit: parameters and moments,
//! the training's own state, and the best net so far beside them.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sidereal_core::artifact::sha256_bytes;
use sidereal_core::{Embeddings, Error};
use sidereal_nn::checkpoint::{self, Checkpoint};
use sidereal_nn::optimizer::AdamW;
use sidereal_nn::params::Params;

use crate::Result;
use crate::arrays::{ArraySet, NamedArray, save_arrays};
use crate::quantizers::Training;

/// The best net so far, beside the checkpoint.
const BEST_FILE: &str = "best.safetensors";

/// The work folder of one training; without one nothing is kept.
#[derive(Debug)]
pub(crate) struct Checkpoints<'a> {
    dir: Option<&'a Path>,
    /// Of all that decides the training's bytes: a checkpoint continues only the training that wrote it.
    digest: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept<S> {
    digest: String,
    state: S,
}

impl<'a> Checkpoints<'a> {
    /// `settings` names what decides the bytes beside seed, device and vectors; it is asked only where there is a folder.
    ///
    /// # Shapes
    /// `vectors`: [N, D]
    pub(crate) fn new(training: &Training<'a>, vectors: &Embeddings, settings: impl FnOnce() -> String) -> Self {
        let digest = || {
            let values = sha256_bytes(bytemuck::cast_slice(vectors.values()));
            let (seed, device, width) = (training.seed, training.device.location(), vectors.width());
            sha256_bytes(format!("{} {seed} {device:?} {width} {values}", settings()).as_bytes())
        };
        Self { dir: training.work, digest: training.work.map_or(String::new(), |_| digest()) }
    }

    /// Brings parameters and optimiser to where the training was left, and answers its state; nothing where there is no
    /// checkpoint.
    ///
    /// # Errors
    /// A checkpoint that is damaged, or of another training.
    pub(crate) fn resume<S: DeserializeOwned>(&self, params: &Params, optimizer: &mut AdamW) -> Result<Option<S>> {
        let Some(dir) = self.dir else { return Ok(None) };
        let Some(saved) = checkpoint::load(dir)? else { return Ok(None) };
        let path = checkpoint::path(dir);
        let mend = "empty that folder to start the training anew";
        let kept: Kept<S> = serde_json::from_value(saved.extra)
            .map_err(|e| Error::artifact(&path, format!("it is no checkpoint of this training: {e}"), mend))?;
        if kept.digest != self.digest {
            let problem = "the checkpoint belongs to other settings, another seed or other items";
            return Err(Error::artifact(&path, problem, mend).into());
        }
        params.restore(&saved.params)?;
        optimizer.restore(&saved.optimizer)?;
        Ok(Some(kept.state))
    }

    /// Keeps where the training is.
    ///
    /// # Errors
    /// Whatever the file system says; then the checkpoint before is still there.
    pub(crate) fn save<S: Serialize>(&self, state: &S, params: &Params, optimizer: &AdamW) -> Result<()> {
        let Some(dir) = self.dir else { return Ok(()) };
        let extra = serde_json::to_value(Kept { digest: self.digest.clone(), state })
            .map_err(|e| Error::artifact(checkpoint::path(dir), e.to_string(), "this is a defect: report it"))?;
        let (params, step) = (params.snapshot()?, optimizer.steps());
        let optimizer = optimizer.state()?;
        checkpoint::save(dir, &Checkpoint { params, optimizer, average: None, step, rng: Default::default(), extra })
    }

    /// Keeps the best net so far.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub(crate) fn save_best(&self, arrays: &[NamedArray]) -> Result<()> {
        self.dir.map_or(Ok(()), |dir| Ok(save_arrays(&dir.join(BEST_FILE), arrays)?))
    }

    /// The best net of a training that is resumed.
    ///
    /// # Errors
    /// A file that is missing or damaged; whatever `load` makes of it.
    pub(crate) fn best<T>(&self, load: impl FnOnce(&mut ArraySet) -> Result<T>) -> Result<Option<T>> {
        let Some(dir) = self.dir else { return Ok(None) };
        let mut arrays = ArraySet::open(&dir.join(BEST_FILE))?;
        let net = load(&mut arrays)?;
        arrays.finish()?;
        Ok(Some(net))
    }
}
