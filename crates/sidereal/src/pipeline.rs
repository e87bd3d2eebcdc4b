//! All stages in turn: what `sidereal run` does.

use std::time::Instant;

use sidereal_core::Progress;
use sidereal_data::DataSource;
use sidereal_nn::device::DeviceChoice;

use crate::recipe::Recipe;
use crate::run::{Outcome, Run, Stage};
use crate::{Result, stages};

/// What a finished stage tells.
#[derive(Debug, Clone, Copy)]
pub struct Finished {
    /// The stage.
    pub stage: Stage,
    /// Whether it had to work.
    pub outcome: Outcome,
    /// How long it took.
    pub seconds: f64,
}

/// Where a pipeline gets its input, and on what it runs.
#[derive(Clone, Copy)]
pub struct Setting<'a> {
    /// Folders with items, interactions and embeddings; may be absent when the run has its data and embeddings.
    pub data: Option<&'a DataSource>,
    /// Where tensors live.
    pub device: DeviceChoice,
    /// Who watches.
    pub progress: &'a dyn Progress,
}

/// Runs a recipe's stages up to `until`, keeping those that are finished, and tells `finished` of each.
///
/// A stage is finished when its folder was made from the same inputs with the same configuration and seed. Training that
/// was killed continues from its last checkpoint.
///
/// # Errors
/// The first stage that fails; the stages before it stay.
pub fn run(
    run: &Run,
    recipe: &Recipe,
    setting: Setting<'_>,
    until: Stage,
    mut finished: impl FnMut(Finished),
) -> Result<()> {
    setting.device.open()?;
    for stage in Stage::ALL {
        if !has_stage(recipe, stage) {
            if stage == Stage::Fusion {
                remove_fusion(run)?;
            }
        } else {
            let began = Instant::now();
            let outcome = step(run, recipe, setting, stage)?;
            finished(Finished { stage, outcome, seconds: began.elapsed().as_secs_f64() });
        }
        if stage == until {
            break;
        }
    }
    Ok(())
}

/// A fusion of an earlier recipe would answer in the generator's place.
fn remove_fusion(run: &Run) -> Result<()> {
    let dir = run.dir(Stage::Fusion);
    if dir.exists() {
        std::fs::remove_dir_all(&dir).map_err(|e| sidereal_core::Error::io("remove", &dir, e))?;
    }
    Ok(())
}

/// Whether a recipe makes a stage: imported semantic IDs need no tokenizer, and a fusion and confidences have to be
/// asked for.
fn has_stage(recipe: &Recipe, stage: Stage) -> bool {
    match stage {
        Stage::Tokenizer => recipe.tokenizer.is_some(),
        Stage::Fusion => recipe.fusion.is_some(),
        Stage::Calibration => recipe.calibration.is_some(),
        _ => true,
    }
}

fn step(run: &Run, recipe: &Recipe, setting: Setting<'_>, stage: Stage) -> Result<Outcome> {
    let Setting { data, device, progress } = setting;
    match stage {
        Stage::Data => stages::data::from_source(run, data, &recipe.data, progress),
        Stage::Embeddings => stages::embeddings::make(run, recipe.embeddings.as_ref(), data, progress),
        Stage::Split => stages::split::make(run, recipe.split),
        Stage::Tokenizer => match &recipe.tokenizer {
            Some(config) => {
                let (collaborative, seed) = (recipe.collaborative.as_ref(), recipe.seed);
                stages::tokenizer::make(run, stages::tokenizer::Wish { config, collaborative, seed, device }, progress)
            }
            None => Ok(Outcome::Kept),
        },
        Stage::Catalog => stages::catalog::make(run, &recipe.catalog, data),
        Stage::Generator => stages::generator::make(run, &recipe.generator, recipe.seed, device, progress),
        Stage::Fusion => stages::fusion::make(run, &recipe.fusion.unwrap_or_default(), recipe.seed, device, progress),
        Stage::Calibration => {
            let config = recipe.calibration.clone().unwrap_or_default();
            stages::calibration::make(run, &config, recipe.seed, device, progress)
        }
        Stage::Report => stages::report::make(run, recipe, device, progress),
    }
}
