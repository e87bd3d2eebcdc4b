//! Training of a generator: from histories to weights, through a folder from which a killed run goes on.
//!
//! # What is in the work folder?
//! A checkpoint (weights, moments, their mean where one is kept, where the run stands), the weights of the best validation so far, and
//! `metrics.jsonl` with the same scalars for TensorBoard. The order of samples, the first weights and the dropout masks are functions of the seed and of the
//! number of the epoch or step, so a run that goes on from a checkpoint does to the bit what it would have done.

pub mod average;
mod checkpoint;
mod config;
mod divergence;
pub(crate) mod gradients;
pub mod meter;
mod metrics_log;
mod tensorboard;
mod validation;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use candle_core::backprop::GradStore;
use sidereal_core::filter::Allowed;
use sidereal_core::{Error as CoreError, Histories, LeafFilter, Progress, Split};
use sidereal_nn::ops::in_precision;
use sidereal_nn::optimizer::{AdamW, AdamWConfig};
use sidereal_nn::rng::Rng;

pub use average::AverageConfig;
pub use config::{ScheduleKind, TrainingConfig};
pub use metrics_log::{Event, METRICS_FILE, read_metrics};
pub use tensorboard::EVENTS_FILE;
pub use validation::Validation;

use crate::Result;
use crate::batches::Samples;
use crate::generator::{FORMAT_VERSION, Generator, GeneratorInfo};
use crate::models::GeneratorConfig;
use crate::network::{Materials, Network};
use average::Average;
use checkpoint::{Best, Cost, Position, Store};
use gradients::{Cut, Part, gradients};
use meter::Stopwatch;
use metrics_log::MetricsLog;
use validation::Validator;

/// What to train, on what, and where.
#[derive(Clone, Copy)]
pub struct TrainJob<'a> {
    /// The recipe.
    pub config: &'a GeneratorConfig,
    /// All users' events.
    pub histories: &'a Histories,
    /// Which of them may be learned from, and the validation questions.
    pub split: &'a Split,
    /// The items, and where to compute.
    pub materials: Materials<'a>,
    /// Decides first weights, order, masks and the validation sample.
    pub seed: u64,
    /// The run's folder; a run in it is continued.
    pub work_dir: &'a Path,
    /// Who watches.
    pub progress: &'a dyn Progress,
}

/// Where a training begins that goes on from another's weights.
#[derive(Debug, Clone, Copy)]
pub struct Start<'a> {
    /// A folder that [`Generator::save`] wrote.
    pub folder: &'a Path,
    /// What tells its weights from others: a work folder is continued with the same ones alone.
    pub digest: &'a str,
    /// Among which items validations rank; by default all.
    pub allowed: Option<&'a Allowed>,
}

/// Why a training ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// All steps of the recipe are done.
    Finished,
    /// Validation has not become better for `patience` times.
    Patience,
    /// The recipe's minutes are over.
    Minutes,
}

/// A finished training.
#[derive(Debug)]
pub struct TrainOutcome {
    /// The best weights by validation, or the last where nothing can be validated.
    pub generator: Generator,
    /// Steps done.
    pub steps: u64,
    /// The step of the generator's weights.
    pub best_step: u64,
    /// The validation of the generator's weights.
    pub validation: Option<Validation>,
    /// Why it ended.
    pub stopped: Stopped,
    /// What it cost, earlier parts of a continued run included.
    pub measured: Measured,
}

/// What a training cost on the machine that it ran on.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Measured {
    /// Wall time, validations included.
    pub seconds: f64,
    /// Processor time of all threads of the process meanwhile; 0 where the system does not tell.
    pub cpu_seconds: f64,
    /// Samples trained on in a second of the steps' wall time.
    pub samples_per_s: f64,
    /// The highest resident memory, less what the idle process had ([`meter::note_idle`]); 0 where the system does not
    /// tell.
    pub peak_memory_bytes: u64,
}

impl Measured {
    /// The figures by name, as a manifest keeps them.
    pub fn figures(&self) -> BTreeMap<String, f64> {
        let mut figures = meter::figures(self.seconds, self.cpu_seconds, self.peak_memory_bytes);
        figures.insert("samples_per_s".to_owned(), self.samples_per_s);
        figures
    }
}

/// Trains, or continues a training in the same work folder.
///
/// # Errors
/// A recipe, data or work folder that cannot be trained with (each names its mend), a loss that is not a number, and
/// whatever the device or the file system says. The work folder then holds the last checkpoint, whose weights are finite.
pub fn train(job: &TrainJob<'_>) -> Result<TrainOutcome> {
    begin(job, None)
}

/// Trains on from other weights, which are validated first: where nothing is better, they are what comes back.
///
/// # Errors
/// As [`train`]; weights that do not fit the recipe or the catalog.
pub fn tune(job: &TrainJob<'_>, start: &Start<'_>) -> Result<TrainOutcome> {
    begin(job, Some(start))
}

fn begin(job: &TrainJob<'_>, start: Option<&Start<'_>>) -> Result<TrainOutcome> {
    job.config.check(job.materials.catalog.codes_per_level())?;
    let mut samples = Samples::new(job.histories, job.split, job.config.model().unit(), job.config.max_history());
    if let Some(recency) = job.config.training().recency {
        let model = job.config.model();
        let key = format!("generator.{}.{}.recency", job.config.method(), model.training_table());
        samples = samples.recent(recency, job.split, &key)?;
    }
    if samples.is_empty() {
        let problem = "no user has two training events, so there is no next item to learn";
        return Err(CoreError::input("split", problem, "give longer histories, or another split rule").into());
    }
    let counts = job.split.training_popularity(job.histories, job.materials.catalog.len());
    let materials = Materials { training_counts: Some(&counts), ..job.materials };
    Run::open(&TrainJob { materials, ..*job }, start, &samples)?.finish()
}

/// A training in progress.
struct Run<'a> {
    job: &'a TrainJob<'a>,
    config: &'a TrainingConfig,
    samples: &'a Samples<'a>,
    validator: Validator<'a>,
    /// Whether there are weights before the first step that are worth keeping.
    goes_on: bool,
    network: Box<dyn Network>,
    optimizer: AdamW,
    average: Option<Average>,
    store: Store,
    log: MetricsLog,
    position: Position,
    steps_per_epoch: u64,
    total_steps: u64,
    /// The step of the checkpoint on disk.
    saved: Option<u64>,
    watch: Stopwatch,
}

impl<'a> Run<'a> {
    fn open(job: &'a TrainJob<'a>, start: Option<&Start<'_>>, samples: &'a Samples<'a>) -> Result<Self> {
        let config = job.config.training();
        let steps_per_epoch = samples.batches_per_epoch(config.batch_size) as u64;
        let total_steps = steps_per_epoch.saturating_mul(config.max_epochs).min(config.max_steps.unwrap_or(u64::MAX));
        let filter = match start.and_then(|start| start.allowed) {
            Some(allowed) => LeafFilter::new(job.materials.catalog, allowed, &[])?,
            None => LeafFilter::allow_all(),
        };
        let validator = Validator::new(job, config, filter);
        let network = match start {
            Some(start) => job.config.model().load(start.folder, &job.materials)?,
            None => job.config.model().build(&job.materials, Rng::new(job.seed, "weights").next_u64())?,
        };
        let adam = AdamWConfig { lr: config.learning_rate, weight_decay: config.weight_decay, ..Default::default() };
        let mut optimizer = AdamW::new(network.params().vars().to_vec(), adam)?;
        let store = Store::open(job, start.map(|start| start.digest), samples.len())?;
        let average = config.average.map(|average| Average::new(average, network.params()));
        let mut average = average.transpose()?;
        let resumed = store.resume(network.params(), &mut optimizer, average.as_mut())?;
        let (saved, position) = (resumed.map(|position| position.step), resumed.unwrap_or_default());
        let log = MetricsLog::open(job.work_dir, position.step)?;
        Ok(Self {
            job,
            config,
            samples,
            validator,
            goes_on: start.is_some(),
            network,
            optimizer,
            average,
            store,
            log,
            position,
            steps_per_epoch,
            total_steps,
            saved,
            watch: Stopwatch::begin(),
        })
    }

    fn finish(mut self) -> Result<TrainOutcome> {
        let progress = self.job.progress;
        progress.start(&format!("train {}", self.job.config.method()), Some(self.total_steps), "steps");
        progress.resume(self.position.step);
        let stopped = self.steps()?;
        self.checkpoint()?;
        progress.finish();
        self.outcome(stopped)
    }

    fn steps(&mut self) -> Result<Stopped> {
        let mut epoch: Option<(u64, Vec<Vec<u32>>)> = None;
        if self.goes_on && self.position.step == 0 && self.position.validated_at.is_none() && !self.validator.is_empty()
        {
            self.validate()?;
            self.checkpoint()?;
        }
        let mut since_log = Instant::now();
        loop {
            if let Some(stopped) = self.over() {
                return Ok(stopped);
            }
            let (began, number) = (Instant::now(), self.position.step / self.steps_per_epoch);
            let batches = match epoch.take().filter(|(of, _)| *of == number) {
                Some((_, batches)) => batches,
                None => self.samples.epoch(self.config.batch_size, self.job.seed, number),
            };
            self.step(began, &batches[(self.position.step % self.steps_per_epoch) as usize])?;
            epoch = Some((number, batches));
            let done = self.position.step;
            self.job.progress.advance(1);
            if done.is_multiple_of(self.config.log_every) {
                self.write_log_line(number + 1, since_log.elapsed().as_secs_f64())?;
                since_log = Instant::now();
            }
            if self.validation_due() {
                self.validate()?;
                since_log = Instant::now();
            }
            if self.config.checkpoint_every > 0 && done.is_multiple_of(self.config.checkpoint_every) {
                self.checkpoint()?;
            }
        }
    }

    /// Whether the run has ended, and why.
    fn over(&self) -> Option<Stopped> {
        let patience = self.config.patience;
        if patience > 0 && self.position.validations_without_gain >= patience {
            return Some(Stopped::Patience);
        }
        if self.position.step >= self.total_steps {
            return Some(Stopped::Finished);
        }
        self.out_of_time().then_some(Stopped::Minutes)
    }

    fn out_of_time(&self) -> bool {
        self.config.max_minutes.is_some_and(|minutes| self.seconds() >= minutes * 60.0)
    }

    fn seconds(&self) -> f64 {
        self.position.seconds_before + self.watch.seconds()
    }

    /// One step of the optimiser on one batch, whose samples are drawn since `began`.
    fn step(&mut self, began: Instant, numbers: &[u32]) -> Result<()> {
        let step = self.position.step;
        let device = self.job.materials.device;
        let cut = Cut::new(self.network.as_ref(), device, numbers.len(), self.config.accumulation);
        let part = |numbers: &[u32]| -> Part<'a> {
            let targets = numbers.iter().map(|&number| self.samples.targets(number)).sum();
            Part { rows: numbers.iter().map(|&number| self.samples.row(number)).collect(), targets }
        };
        let parts: Vec<Part<'_>> = numbers.chunks(cut.part_rows).map(part).collect();
        // Rows are slices of the histories: nothing is read or copied here that another thread could have ready before.
        let data_seconds = began.elapsed().as_secs_f64();
        let noise = Rng::new(self.job.seed, &format!("dropout {step}")).next_u64();
        let loss = |part: &Part<'_>, noise| self.network.loss(&part.rows, Some(noise));
        let of_part = |part: &Part<'_>, noise| in_precision(self.config.precision, || loss(part, noise));
        let (value, mut grads) = gradients(self.network.params(), &parts, cut.at_once, noise, of_part)?;
        if !value.is_finite() {
            return Err(self.diverged(numbers, value));
        }
        let norm = self.clip(&mut grads).map_err(|error| match error {
            // It knows the parameter, but not the step.
            crate::Error::Core(_) => self.diverged(numbers, value),
            crate::Error::Tensor(_) => error,
        })?;
        let rate = self.learning_rate(step);
        self.optimizer.step(&grads, rate)?;
        self.position.step = step + 1;
        if let Some(average) = &mut self.average {
            average.step(self.network.params(), step + 1)?;
        }
        let sums = &mut self.position.since_log;
        sums.steps += 1;
        sums.samples += numbers.len() as u64;
        sums.loss += value;
        sums.grad_norm += norm;
        sums.learning_rate = rate;
        let step_seconds = began.elapsed().as_secs_f64();
        sums.step_seconds += step_seconds;
        sums.data_seconds += data_seconds;
        self.position.cost.samples += numbers.len() as u64;
        self.position.cost.step_seconds += step_seconds;
        Ok(())
    }

    fn clip(&self, grads: &mut GradStore) -> Result<f64> {
        let longest = if self.config.clip_norm > 0.0 { self.config.clip_norm } else { f64::INFINITY };
        sidereal_nn::clip_grad_norm(grads, self.network.params().vars(), longest)
    }

    fn learning_rate(&self, step: u64) -> f64 {
        self.config.learning_rate * self.config.schedule().factor(step, self.total_steps)
    }

    fn write_log_line(&mut self, epoch: u64, wall_s: f64) -> Result<()> {
        let sums = std::mem::take(&mut self.position.since_log);
        let mean = |sum: f64| sum / sums.steps.max(1) as f64;
        let loss = mean(sums.loss);
        self.log.write(&Event::Train {
            step: self.position.step,
            epoch,
            loss,
            learning_rate: sums.learning_rate,
            grad_norm: mean(sums.grad_norm),
            samples_per_s: sums.samples as f64 / wall_s.max(1e-9),
            data_share: sums.data_seconds / sums.step_seconds.max(1e-9),
        })?;
        self.job.progress.note(&self.note(Some(loss)));
        Ok(())
    }

    fn note(&self, loss: Option<f64>) -> String {
        let mut parts = Vec::new();
        parts.extend(loss.map(|loss| format!("loss {loss:.3}")));
        let best = self.position.best;
        parts.extend(best.map(|best| format!("best recall@10 {:.4}", best.metrics.recall_at_10)));
        parts.join(", ")
    }

    fn validation_due(&self) -> bool {
        let every = if self.config.validate_every == 0 { self.steps_per_epoch } else { self.config.validate_every };
        let step = self.position.step;
        // The last weights are judged too, however the run ends.
        !self.validator.is_empty()
            && (step.is_multiple_of(every) || step >= self.total_steps || self.out_of_time())
            && self.position.validated_at != Some(step)
    }

    fn validate(&mut self) -> Result<()> {
        let (began, step) = (Instant::now(), self.position.step);
        self.check_weights()?;
        self.exchange_average()?;
        let metrics = self.validator.run(self.network.ranker(&self.job.materials)?.as_ref())?;
        let best = self.position.best.is_none_or(|best| metrics.better_than(&best.metrics));
        self.position.validated_at = Some(step);
        if best {
            self.network.save_weights(&self.store.best_weights(step))?;
            self.position.best = Some(Best { step, metrics });
            self.position.validations_without_gain = 0;
        } else {
            self.position.validations_without_gain += 1;
        }
        self.exchange_average()?;
        self.log.write(&Event::Validation { step, metrics, best, seconds: began.elapsed().as_secs_f64() })?;
        self.job.progress.note(&self.note(None));
        Ok(())
    }

    /// Puts the mean of the weights in their place, where there is one; a second time puts them back.
    fn exchange_average(&mut self) -> Result<()> {
        let Some(average) = &mut self.average else { return Ok(()) };
        average.exchange(self.network.params())
    }

    fn checkpoint(&mut self) -> Result<()> {
        self.check_weights()?;
        let (seconds_before, measured) = (self.seconds(), self.measured());
        let cost = Cost {
            cpu_seconds_before: measured.cpu_seconds,
            peak_memory_bytes_before: measured.peak_memory_bytes,
            ..self.position.cost
        };
        let position = Position { seconds_before, cost, ..self.position };
        self.store.save(self.network.params(), &self.optimizer, self.average.as_mut(), &position)?;
        self.saved = Some(position.step);
        Ok(())
    }

    fn measured(&self) -> Measured {
        let cost = self.position.cost;
        Measured {
            seconds: self.seconds(),
            cpu_seconds: cost.cpu_seconds_before + self.watch.cpu_seconds(),
            samples_per_s: cost.samples as f64 / cost.step_seconds.max(1e-9),
            peak_memory_bytes: self.watch.peak_memory_bytes().max(cost.peak_memory_bytes_before),
        }
    }

    fn outcome(mut self, stopped: Stopped) -> Result<TrainOutcome> {
        let measured = self.measured();
        // The weights of the last step, or what stands for them, where no validation chose others.
        self.exchange_average()?;
        let mut best_step = self.position.step;
        if let Some(best) = self.position.best {
            self.network.load_weights(&self.store.best_weights(best.step))?;
            best_step = best.step;
        }
        let materials = &self.job.materials;
        let info = GeneratorInfo {
            format_version: FORMAT_VERSION,
            method: self.job.config.method().to_owned(),
            vocab: materials.vocab(),
            catalog_version: materials.catalog.version().to_owned(),
            max_history: self.job.config.max_history(),
            score_norm: self.job.config.model().score_norm(),
            seed: self.job.seed,
            parameters: self.network.params().count(),
            step: best_step,
            recipe: self.job.config.clone(),
        };
        Ok(TrainOutcome {
            generator: Generator::new(info, self.network, materials)?,
            steps: self.position.step,
            best_step,
            validation: self.position.best.map(|best| best.metrics),
            stopped,
            measured,
        })
    }
}
