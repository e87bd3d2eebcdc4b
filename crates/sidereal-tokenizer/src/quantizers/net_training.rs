//! The training loop of nets that learn from batches of vectors alone: shuffled epochs, clipped AdamW, evaluation on
//! all items, checkpoints.
//!
//! Every random choice has a generator of its own, named after its purpose and epoch, so that a run continued from a
//! checkpoint draws what the uninterrupted run would have drawn. The net of the least reconstruction error is kept: where
//! codes are a grid or come from random projections, an untrained net already scatters items, so few collisions say
//! nothing about it.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use sidereal_core::{Embeddings, Error};
use sidereal_nn::clip_grad_norm;
use sidereal_nn::optimizer::{AdamW, AdamWConfig};
use sidereal_nn::params::Params;
use sidereal_nn::rng::Rng;
use sidereal_nn::schedule::Schedule;

use super::{MethodConfig, Model, Quantizer, Trained, Training};
use crate::Result;
use crate::checkpoints::Checkpoints;
use crate::clustering::kmeans::sample_rows;
use crate::encode::encode_prepared;
use crate::reconstruction::mean_error;
use crate::report::structure;

/// Largest width, batch or number of epochs that a configuration may ask for.
pub(super) const MAX_SIZE: usize = 1 << 20;

/// The settings of the loop, out of a method's own.
#[derive(Debug, Clone)]
pub(super) struct LoopSettings {
    pub(super) learning_rate: f64,
    pub(super) weight_decay: f64,
    pub(super) schedule: Schedule,
    pub(super) clip_norm: f64,
    pub(super) batch: usize,
    pub(super) epochs: usize,
    pub(super) evaluate_every: usize,
    pub(super) patience: usize,
}

/// The loop's settings out of a method's, whose keys they are: serde's `flatten` would accept misspelt ones.
macro_rules! loop_settings {
    ($config:expr) => {
        $crate::quantizers::net_training::LoopSettings {
            learning_rate: $config.learning_rate,
            weight_decay: $config.weight_decay,
            schedule: $config.schedule,
            clip_norm: $config.clip_norm,
            batch: $config.batch,
            epochs: $config.epochs,
            evaluate_every: $config.evaluate_every,
            patience: $config.patience,
        }
    };
}
pub(super) use loop_settings;

impl LoopSettings {
    pub(super) fn check(&self, method: &str) -> Result<()> {
        check_sizes(
            method,
            &[("batch", self.batch), ("epochs", self.epochs), ("evaluate_every", self.evaluate_every)],
        )?;
        check_positive(method, &[("learning_rate", self.learning_rate), ("clip_norm", self.clip_norm)])?;
        check_not_negative(method, &[("weight_decay", self.weight_decay)])
    }
}

/// Refuses widths between nets that are none.
pub(super) fn check_hidden(method: &str, hidden: &[usize]) -> Result<()> {
    if hidden.len() <= 64 && hidden.iter().all(|w| (1..=MAX_SIZE).contains(w)) {
        return Ok(());
    }
    let problem = format!("{hidden:?} is no list of widths");
    Err(Error::config(format!("{method}.hidden"), problem, "for example [512, 256, 128]").into())
}

/// Refuses sizes that are 0 or beyond [`MAX_SIZE`].
pub(super) fn check_sizes(method: &str, sizes: &[(&str, usize)]) -> Result<()> {
    match sizes.iter().find(|(_, size)| !(1..=MAX_SIZE).contains(size)) {
        None => Ok(()),
        Some((key, size)) => {
            let problem = format!("{size} is not between 1 and {MAX_SIZE}");
            Err(Error::config(format!("{method}.{key}"), problem, "give a number in that range").into())
        }
    }
}

/// Refuses numbers that are not above 0.
pub(super) fn check_positive(method: &str, values: &[(&str, f64)]) -> Result<()> {
    check_values(method, values, |value| value > 0.0, "positive number")
}

/// Refuses numbers below 0.
pub(super) fn check_not_negative(method: &str, values: &[(&str, f64)]) -> Result<()> {
    check_values(method, values, |value| value >= 0.0, "number from 0 up")
}

fn check_values(method: &str, values: &[(&str, f64)], holds: impl Fn(f64) -> bool, what: &str) -> Result<()> {
    match values.iter().find(|(_, value)| !(value.is_finite() && holds(*value))) {
        None => Ok(()),
        Some((key, value)) => {
            let problem = format!("{value} is not a {what}");
            Err(Error::config(format!("{method}.{key}"), problem, "leave the key out for its default").into())
        }
    }
}

/// A net to train.
pub(super) trait Net {
    /// The method's name.
    const NAME: &'static str;

    /// All that a step moves and a checkpoint keeps.
    fn params(&self) -> &Params;

    /// The loss of a batch, a scalar.
    ///
    /// # Shapes
    /// `x`: [B, D]
    fn loss(&mut self, x: &Tensor) -> Result<Tensor>;

    /// A copy to run on rows.
    fn to_quantizer(&self) -> Result<Box<dyn Quantizer>>;

    /// How many random rows [`Net::start`] and [`Net::between_epochs`] look at; with 0 neither is called.
    fn sample_size(&self) -> usize {
        0
    }

    /// Puts parameters where a sample of the items is, before the first step.
    ///
    /// # Shapes
    /// `sample`: [n, D]
    fn start(&mut self, _sample: &Tensor, _rng: &mut Rng) -> Result<()> {
        Ok(())
    }

    /// Mends the net after every epoch but the last.
    ///
    /// # Shapes
    /// `sample`: [n, D]
    fn between_epochs(&mut self, _sample: &Tensor, _rng: &mut Rng, _optimizer: &mut AdamW) -> Result<()> {
        Ok(())
    }
}

/// What an evaluation says; smaller is better, reconstruction first.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Score {
    epoch: usize,
    collision_rate: f64,
    reconstruction_error: f64,
}

impl Score {
    fn beats(&self, other: &Self) -> bool {
        (self.reconstruction_error, self.collision_rate) < (other.reconstruction_error, other.collision_rate)
    }
}

/// What a checkpoint keeps besides parameters and moments.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Progressed {
    started: bool,
    epochs_done: usize,
    finished: bool,
    evaluations_without_gain: usize,
    best: Option<Score>,
    scores: Vec<Score>,
}

/// Trains a net on prepared vectors, [N, D].
pub(super) fn train<N: Net, C: MethodConfig + Serialize>(
    net: N,
    config: &C,
    settings: LoopSettings,
    rows: &Embeddings,
    training: &Training<'_>,
) -> Result<Trained> {
    let rates =
        AdamWConfig { lr: settings.learning_rate, weight_decay: settings.weight_decay, ..AdamWConfig::default() };
    let optimizer = AdamW::new(net.params().vars().to_vec(), rates)?;
    let state = Progressed {
        started: false,
        epochs_done: 0,
        finished: false,
        evaluations_without_gain: 0,
        best: None,
        scores: Vec::new(),
    };
    // Serialising plain settings cannot fail.
    let asked = || format!("{} {}", N::NAME, serde_json::to_string(config).unwrap_or_default());
    let checkpoints = Checkpoints::new(training, rows, asked);
    let mut run = Run { net, config, settings, rows, training, checkpoints, optimizer, state, best: None };
    run.resume()?;
    run.start()?;
    run.epochs()?;
    run.finish()
}

struct Run<'a, N, C> {
    net: N,
    config: &'a C,
    settings: LoopSettings,
    rows: &'a Embeddings,
    training: &'a Training<'a>,
    checkpoints: Checkpoints<'a>,
    optimizer: AdamW,
    state: Progressed,
    best: Option<Box<dyn Quantizer>>,
}

impl<N: Net, C: MethodConfig> Run<'_, N, C> {
    fn start(&mut self) -> Result<()> {
        if self.state.started {
            return Ok(());
        }
        if self.net.sample_size() > 0 {
            let mut rng = self.rng("start");
            let sample = self.sample(&mut rng)?;
            self.net.start(&sample, &mut rng)?;
        }
        self.state.started = true;
        self.save_checkpoint()
    }

    fn rng(&self, purpose: &str) -> Rng {
        Rng::new(self.training.seed, &format!("{} {purpose}", N::NAME))
    }

    /// # Shapes
    /// [n, D]
    fn sample(&self, rng: &mut Rng) -> Result<Tensor> {
        let wanted = self.net.sample_size().min(self.rows.rows());
        self.batch(&sample_rows(self.rows.rows(), wanted, rng))
    }

    /// # Shapes
    /// `[B]` to [B, D]
    fn batch(&self, items: &[usize]) -> Result<Tensor> {
        let values: Vec<f32> = items.iter().flat_map(|&i| self.rows.row(i)).copied().collect();
        Ok(Tensor::from_vec(values, (items.len(), self.rows.width()), &self.training.device)?)
    }

    fn epochs(&mut self) -> Result<()> {
        let (epochs, progress) = (self.settings.epochs, self.training.progress);
        let steps_per_epoch = self.rows.rows().div_ceil(self.settings.batch);
        let total = (steps_per_epoch * epochs) as u64;
        progress.start(N::NAME, Some(total), "steps");
        progress.resume((steps_per_epoch * self.state.epochs_done) as u64);
        while self.state.epochs_done < epochs && !self.state.finished {
            let epoch = self.state.epochs_done;
            self.epoch(epoch, total)?;
            self.state.epochs_done += 1;
            let last = self.state.epochs_done == epochs;
            let evaluates = last || self.state.epochs_done.is_multiple_of(self.settings.evaluate_every);
            if evaluates {
                self.evaluate()?;
            }
            if !last && self.net.sample_size() > 0 {
                let mut rng = self.rng(&format!("after epoch {epoch}"));
                let sample = self.sample(&mut rng)?;
                self.net.between_epochs(&sample, &mut rng, &mut self.optimizer)?;
            }
            if evaluates {
                self.save_checkpoint()?;
            }
        }
        progress.finish();
        Ok(())
    }

    /// One pass over the items.
    fn epoch(&mut self, epoch: usize, total: u64) -> Result<()> {
        let mut order: Vec<usize> = (0..self.rows.rows()).collect();
        self.rng(&format!("epoch {epoch}")).shuffle(&mut order);
        let mut sum = 0.0;
        for (batch, items) in order.chunks(self.settings.batch).enumerate() {
            let loss = self.net.loss(&self.batch(items)?)?;
            let value = f64::from(loss.to_scalar::<f32>()?);
            if !value.is_finite() {
                return Err(diverged(N::NAME, epoch, batch, value).into());
            }
            let mut gradients = loss.backward()?;
            clip_grad_norm(&mut gradients, self.net.params().vars(), self.settings.clip_norm)?;
            let rate = self.settings.learning_rate * self.settings.schedule.factor(self.optimizer.steps(), total);
            self.optimizer.step(&gradients, rate)?;
            sum += value * items.len() as f64;
            self.training.progress.advance(1);
        }
        let mut note = format!("epoch {}, loss {:.5}", epoch + 1, sum / self.rows.rows().max(1) as f64);
        if let Some(best) = &self.state.best {
            note += &format!(", best reconstruction error {:.5}", best.reconstruction_error);
        }
        self.training.progress.note(&note);
        Ok(())
    }

    /// Encodes all items and keeps the net if it is the best so far.
    fn evaluate(&mut self) -> Result<()> {
        let net = self.net.to_quantizer()?;
        let ids = encode_prepared(&*net, self.rows)?;
        let score = Score {
            epoch: self.state.epochs_done,
            collision_rate: structure(&ids, self.config.codes())?.collision_rate,
            reconstruction_error: mean_error(&*net, self.rows, &ids)?,
        };
        self.state.scores.push(score);
        if self.state.best.is_none_or(|best| score.beats(&best)) {
            self.checkpoints.save_best(&net.arrays())?;
            self.state.best = Some(score);
            self.state.evaluations_without_gain = 0;
            self.best = Some(net);
        } else {
            self.state.evaluations_without_gain += 1;
        }
        let patience = self.settings.patience;
        self.state.finished = patience > 0 && self.state.evaluations_without_gain >= patience;
        Ok(())
    }

    fn resume(&mut self) -> Result<()> {
        let Some(state) = self.checkpoints.resume::<Progressed>(self.net.params(), &mut self.optimizer)? else {
            return Ok(());
        };
        if state.best.is_some() {
            self.best = self.checkpoints.best(|arrays| self.config.load(self.rows.width(), arrays))?;
        }
        self.state = state;
        Ok(())
    }

    fn save_checkpoint(&self) -> Result<()> {
        self.checkpoints.save(&self.state, self.net.params(), &self.optimizer)
    }

    fn finish(self) -> Result<Trained> {
        let quantizer = match self.best {
            Some(best) => best,
            None => self.net.to_quantizer()?,
        };
        let record = serde_json::json!({
            "epochs": self.state.epochs_done,
            "steps": self.optimizer.steps(),
            "best": self.state.best,
            "evaluations": self.state.scores,
        });
        Ok(Trained { model: Model::Quantizer(quantizer), record })
    }
}

fn diverged(method: &str, epoch: usize, batch: usize, value: f64) -> Error {
    let place = format!("{method} training, epoch {}, batch {}", epoch + 1, batch + 1);
    let mend = format!(
        "lower {method}.learning_rate or {method}.clip_norm, begin {method}.pre_steps with \"standardise\", or look \
         for extreme values in the embeddings"
    );
    Error::input(place, format!("the loss is {value}"), mend)
}

#[cfg(test)]
#[path = "../../tests/kill_at/mod.rs"]
mod kill_at;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::Path;
    use std::sync::atomic::AtomicU64;

    use sidereal_core::{NoProgress, Progress};

    use super::kill_at::KillAt;
    use super::*;
    use crate::{ItemTokenizer, TokenizerConfig, TrainingItems};

    fn rows() -> Embeddings {
        let mut rng = Rng::new(3, "rows");
        Embeddings::new(90, 10, (0..900).map(|_| rng.normal() as f32).collect()).unwrap()
    }

    fn config(name: &str) -> TokenizerConfig {
        let mut settings = serde_json::json!({
            "codes": [16, 16], "hidden": [12], "batch": 32, "epochs": 12, "evaluate_every": 4, "patience": 0,
            "learning_rate": 0.01
        });
        if name == "parallel-moe" {
            settings["latent"] = 4.into();
        }
        serde_json::from_value(serde_json::json!({ name: settings })).unwrap()
    }

    fn bytes(tokenizer: &ItemTokenizer) -> [Vec<u8>; 2] {
        let dir = tempfile::tempdir().unwrap();
        tokenizer.save(dir.path()).unwrap();
        [crate::DESCRIPTION_FILE, crate::ARRAYS_FILE].map(|name| std::fs::read(dir.path().join(name)).unwrap())
    }

    fn run(name: &str, work: &Path, progress: &dyn Progress, seed: u64) -> Result<ItemTokenizer> {
        let training = Training { work: Some(work), ..Training::new(seed, progress) };
        ItemTokenizer::train_with(&config(name), &TrainingItems::new(&rows()), &training)
    }

    #[test]
    fn a_killed_training_gives_the_bytes_of_the_uninterrupted_one() {
        for name in ["fsq", "lfq", "parallel-moe"] {
            let whole = bytes(&ItemTokenizer::train(&config(name), &rows(), 9, &NoProgress).unwrap());
            for kill_at in [2, 14, 30] {
                let work = tempfile::tempdir().unwrap();
                let killed = std::panic::catch_unwind(|| run(name, work.path(), &KillAt(AtomicU64::new(kill_at)), 9));
                assert!(killed.is_err(), "{name} was not killed");
                assert!(bytes(&run(name, work.path(), &NoProgress, 9).unwrap()) == whole, "{name} at step {kill_at}");
            }
        }
    }

    #[test]
    fn a_checkpoint_of_another_training_is_refused() {
        let work = tempfile::tempdir().unwrap();
        run("fsq", work.path(), &NoProgress, 9).unwrap();
        for (name, seed) in [("fsq", 10), ("lfq", 9)] {
            let error = run(name, work.path(), &NoProgress, seed).unwrap_err().to_string();
            assert!(error.contains("another seed") && error.contains("checkpoint"), "{error}");
        }
    }

    #[test]
    fn impossible_settings_name_their_key() {
        for name in ["fsq", "lfq", "parallel-moe"] {
            for (key, value) in [
                ("batch", serde_json::json!(0)),
                ("epochs", serde_json::json!(1u64 << 40)),
                ("hidden", serde_json::json!([8, 0])),
                ("learning_rate", serde_json::json!(0.0)),
                ("weight_decay", serde_json::json!(-1.0)),
            ] {
                let mut json = serde_json::to_value(config(name)).unwrap();
                json[name][key] = value;
                let config: TokenizerConfig = serde_json::from_value(json).unwrap();
                let error = config.check().unwrap_err().to_string();
                assert!(error.contains(&format!("{name}.{key}")), "{error}");
            }
        }
    }

    #[test]
    fn a_training_that_diverges_says_so() {
        let mut json = serde_json::to_value(config("lfq")).unwrap();
        json["lfq"]["learning_rate"] = 1e30.into();
        json["lfq"]["clip_norm"] = 1e30.into();
        let config: TokenizerConfig = serde_json::from_value(json).unwrap();
        let error = ItemTokenizer::train(&config, &rows(), 1, &NoProgress).unwrap_err().to_string();
        assert!(error.contains("lfq") || error.contains("gradient"), "{error}");
    }
}
