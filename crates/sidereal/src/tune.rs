//! A generator of several domains, trained on for one of them: a run of its own over the same catalog.
//!
//! *Paper*: a unified model first and domain-specific fine-tuning after it, as GMC has it.
//! *Ours*: weights are chosen by rankings within the domain, and the parent's are among those to choose from, so that on
//! the validation users a tuned generator is never behind the one that it came from.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Map, Value};
use sidereal_core::{Error, Progress};
use sidereal_generator::{Generator, GeneratorConfig};
use sidereal_nn::device::DeviceChoice;

use crate::Result;
use crate::domains::Domains;
use crate::lend::lend;
use crate::run::{Outcome, Run, Stage};
use crate::stages::generator::{Tuning, make_tuned};
use crate::stages::resolved;

/// The parent's learning rate is taken times this where none is given: the weights are near where they should be.
const RATE: f64 = 0.1;

/// What is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Wish<'a> {
    /// The domain.
    pub domain: &'a str,
    /// The model, of the parent's method and sizes, and its training; absent: the parent's, with a tenth of its learning
    /// rate.
    pub config: Option<&'a GeneratorConfig>,
    /// Epochs at most, instead of the recipe's.
    pub epochs: Option<u64>,
    /// The highest learning rate, instead of the recipe's.
    pub learning_rate: Option<f64>,
    /// The one seed.
    pub seed: u64,
    /// Where tensors live.
    pub device: DeviceChoice,
}

/// Makes the run `out`: the parent's data, split, tokenizer and catalog as they are, and its generator trained on.
///
/// # Errors
/// A parent without generator; a domain that no item is of; a folder that holds another run; a recipe of another method or
/// of other sizes; whatever a training can meet.
pub fn tune(parent: &Run, out: &Path, wish: Wish<'_>, progress: &dyn Progress) -> Result<(Run, Outcome)> {
    let digest = parent.digest(Stage::Generator)?;
    let dir = parent.dir(Stage::Generator);
    let info = Generator::read_info(&dir)?;
    let Some(domains) = Domains::of(&parent.data()?.items) else {
        let problem = format!("the items of {} have no domains", parent.root().display());
        let mend =
            "make a run of several data sets (--data NAME=DIR --data OTHER=DIR), or of items with a column domain";
        return Err(Error::config("--domain", problem, mend).into());
    };
    domains.named(wish.domain)?;
    let mut config = match wish.config {
        Some(config) if config.method() != info.method => {
            let problem = format!("{} cannot go on from the weights of {}", config.method(), info.method);
            return Err(Error::config("generator", problem, "give a recipe of the parent's method").into());
        }
        Some(config) => {
            same_model("generator", &resolved(&info.recipe), &resolved(config))?;
            config.clone()
        }
        None => {
            let mut config = info.recipe.clone();
            config.training_mut().learning_rate *= RATE;
            config
        }
    };
    let training = config.training_mut();
    training.max_epochs = wish.epochs.unwrap_or(training.max_epochs);
    training.learning_rate = wish.learning_rate.unwrap_or(training.learning_rate);
    let run = Run::create(out)?;
    share(parent, &run)?;
    if !run.catalog()?.descends_from(&info.catalog_version) {
        let problem = format!("{} was trained on another catalog than its run has", dir.display());
        return Err(Error::mismatch(problem, "train it again on this catalog, then tune it").into());
    }
    let name = parent.root().canonicalize().unwrap_or_else(|_| parent.root().to_path_buf());
    let name = name.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let tuning = Tuning { domain: wish.domain, parent: &dir, parent_name: &name, digest: &digest, step: info.step };
    let outcome = make_tuned(&run, &config, wish.seed, wish.device, tuning, progress)?;
    Ok((run, outcome))
}

/// Refuses a model of other sizes than the parent's: everything but its training and its dropout is in the weights.
fn same_model(key: &str, parent: &Value, ours: &Value) -> Result<()> {
    let (Value::Object(theirs), Value::Object(tables)) = (parent, ours) else {
        if parent == ours {
            return Ok(());
        }
        let problem = format!("{ours}, but the parent has {parent}");
        return Err(Error::config(key, problem, "give the parent's: only dropout and training may differ").into());
    };
    let keys: BTreeSet<&String> = theirs.keys().chain(tables.keys()).collect();
    keys.into_iter().filter(|key| !matches!(key.as_str(), "training" | "dropout")).try_for_each(|name| {
        let of = |table: &Map<String, Value>| table.get(name).cloned().unwrap_or_default();
        same_model(&format!("{key}.{name}"), &of(theirs), &of(tables))
    })
}

/// Gives the new run every stage before the generator. A folder that holds other stages is left as it is.
fn share(parent: &Run, run: &Run) -> Result<()> {
    let taken = || Error::config("--out", format!("{} holds another run", run.root().display()), "name a new folder");
    let same = parent.root().canonicalize().ok().is_some_and(|root| run.root().canonicalize().is_ok_and(|r| r == root));
    if same {
        return Err(taken().into());
    }
    let shared = [Stage::Data, Stage::Embeddings, Stage::Split, Stage::Tokenizer, Stage::Catalog];
    for stage in shared {
        if run.has(stage) && !(parent.has(stage) && run.digest(stage)? == parent.digest(stage)?) {
            return Err(taken().into());
        }
    }
    for stage in shared.into_iter().filter(|&stage| parent.has(stage)) {
        lend(parent, run, stage)?;
    }
    Ok(())
}
