//! The training loop of RQ-VAE and its relatives: start, epochs, evaluation on all items, restart of dead codes.
//!
//! Every random choice has a generator of its own, named after its purpose, epoch and step, so that a run continued from
//! a checkpoint draws what the uninterrupted run would have drawn.

use candle_core::Tensor;

use sidereal_core::{Embeddings, Error};
use sidereal_nn::clip_grad_norm;
use sidereal_nn::optimizer::{AdamW, AdamWConfig};
use sidereal_nn::rng::Rng;

use super::model::Model;
use super::progressed::{Progressed, Score, asked};
use super::{Plan, RqVae};
use crate::Result;
use crate::align::{AlignedBatch, Aligner, Beside};
use crate::checkpoints::Checkpoints;
use crate::encode::encode_prepared;
use crate::quantizers::{self, Quantizer, Trained, Training};
use crate::reconstruction::mean_error;
use crate::report::structure;
use crate::training_items::TrainingItems;

/// Trains what the plan says on items whose vectors went through the pre-steps.
pub(crate) fn train(plan: Plan, items: &TrainingItems<'_>, training: &Training<'_>) -> Result<Trained> {
    let checkpoints = Checkpoints::new(training, items.vectors, || asked(&plan, items));
    let state = Progressed::default();
    let mut run = Run { steps: Steps::new(&plan, items, training)?, checkpoints, state, best: None };
    run.resume()?;
    if !run.state.initialised {
        run.steps.start()?;
        run.state.initialised = true;
        if plan.residual {
            run.evaluate()?;
        }
        run.save_checkpoint()?;
    }
    run.epochs()?;
    run.finish()
}

/// A net with its optimizer and items: what takes steps.
pub(crate) struct Steps<'a> {
    pub(super) plan: &'a Plan,
    pub(super) rows: &'a Embeddings,
    pub(super) training: &'a Training<'a>,
    pub(super) model: Model,
    pub(super) optimizer: AdamW,
    aligner: Option<Aligner<'a>>,
}

impl<'a> Steps<'a> {
    /// A net that has not started.
    pub(crate) fn new(plan: &'a Plan, items: &TrainingItems<'a>, training: &'a Training<'a>) -> Result<Self> {
        let config = &plan.config;
        let rows = items.vectors;
        let mut model = Model::new(plan, rows.width(), training.seed, &training.device)?;
        let mut rng = Rng::new(training.seed, &format!("{} alignment", plan.method));
        let aligner = Aligner::new(&config.align, items, config.latent, &mut model.params, &mut rng)?;
        let rates =
            AdamWConfig { lr: config.learning_rate, weight_decay: config.weight_decay, ..AdamWConfig::default() };
        let optimizer = AdamW::new(model.params.vars().to_vec(), rates)?;
        Ok(Self { plan, rows, training, model, optimizer, aligner })
    }

    /// A copy of the net to run on rows.
    pub(crate) fn to_quantizer(&self) -> Result<RqVae> {
        self.model.to_quantizer()
    }

    /// The vectors of some items, one behind the other.
    pub(super) fn gather(&self, items: &[usize]) -> Vec<f32> {
        let mut values = Vec::with_capacity(items.len() * self.rows.width());
        items.iter().for_each(|&item| values.extend_from_slice(self.rows.row(item)));
        values
    }

    fn start_epoch(&mut self, epoch: usize) -> Result<()> {
        match &mut self.aligner {
            Some(aligner) => aligner.start_epoch(self.training.seed, epoch, &self.model.codebooks.values()?),
            None => Ok(()),
        }
    }

    /// One step on a batch of items; answers its loss and the codes that it used, `[B]` a level. `place` names it in
    /// errors; `total` is the number of steps that the schedule is for.
    pub(crate) fn step(&mut self, items: &[usize], total: u64, place: Place) -> Result<(f64, Vec<Tensor>)> {
        let (config, method, seed) = (&self.plan.config, self.plan.method, self.training.seed);
        let number = self.optimizer.steps();
        let (items, beside) = match &self.aligner {
            Some(aligner) => aligner.extend_batch(items, &mut Rng::new(seed, &format!("{method} partners {number}"))),
            None => (items.to_vec(), None),
        };
        let tensor = |values: Vec<f32>| {
            let rows = values.len() / self.rows.width().max(1);
            Tensor::from_vec(values, (rows, self.rows.width()), &self.training.device)
        };
        let x = tensor(self.gather(&items))?;
        let mut loss = self.model.loss(&x, &mut Rng::new(seed, &format!("{method} noise {number}")))?;
        if let Some(aligner) = &self.aligner {
            let users = match beside {
                Some(Beside { drawn, vectors }) => {
                    let mut noise = Rng::new(seed, &format!("{method} noise of users {number}"));
                    Some((drawn, self.model.quantize_beside(&tensor(vectors)?, &mut loss, &mut noise)?))
                }
                None => None,
            };
            let batch = AlignedBatch {
                items: &items,
                users: users.as_ref().map(|(drawn, quantized)| (drawn, quantized)),
                quantized: &loss.quantized.through,
                codes: &loss.quantized.codes,
                codebooks: &loss.codebooks,
            };
            loss.total = (loss.total + aligner.loss(&batch)?)?;
        }
        let value = f64::from(loss.total.to_scalar::<f32>()?);
        if !value.is_finite() {
            return Err(diverged(method, place, value).into());
        }
        let (mut gradients, quantized) = loss.backward()?;
        clip_grad_norm(&mut gradients, self.model.params.vars(), config.clip_norm)?;
        let rate = config.learning_rate * config.schedule.factor(number, total);
        self.optimizer.step(&gradients, rate)?;
        self.model.observe(&x, &quantized)?;
        Ok((value, quantized.codes))
    }
}

/// Where a training stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    /// From 0.
    pub(crate) epoch: usize,
    /// From 0.
    pub(crate) batch: usize,
}

struct Run<'a> {
    steps: Steps<'a>,
    checkpoints: Checkpoints<'a>,
    state: Progressed,
    best: Option<RqVae>,
}

impl Run<'_> {
    fn epochs(&mut self) -> Result<()> {
        let (plan, progress) = (self.steps.plan, self.steps.training.progress);
        let config = &plan.config;
        let steps_per_epoch = self.steps.rows.rows().div_ceil(config.batch);
        let total = (steps_per_epoch * config.epochs) as u64;
        progress.start(plan.method, Some(total), "steps");
        progress.resume((steps_per_epoch * self.state.epochs_done) as u64);
        while self.state.epochs_done < config.epochs && !self.state.finished {
            let epoch = self.state.epochs_done;
            let used = self.epoch(epoch, total)?;
            self.state.epochs_done += 1;
            let last = self.state.epochs_done == config.epochs;
            let evaluates = last || self.state.epochs_done.is_multiple_of(config.evaluate_every);
            if evaluates {
                self.evaluate()?;
            }
            if config.restart_dead_codes && !last {
                self.state.restarted_codes += self.steps.restart_dead_codes(epoch, &used)?;
            }
            if evaluates {
                self.save_checkpoint()?;
            }
        }
        progress.finish();
        Ok(())
    }

    /// One pass over the items; answers which codes it used, by level.
    fn epoch(&mut self, epoch: usize, total: u64) -> Result<Vec<Vec<bool>>> {
        let plan = self.steps.plan;
        let count = self.steps.rows.rows();
        let mut order: Vec<usize> = (0..count).collect();
        Rng::new(self.steps.training.seed, &format!("{} epoch {epoch}", plan.method)).shuffle(&mut order);
        self.steps.start_epoch(epoch)?;
        let mut used: Vec<Vec<bool>> = plan.config.codes.iter().map(|&k| vec![false; k as usize]).collect();
        let mut sum = 0.0;
        for (batch, items) in order.chunks(plan.config.batch).enumerate() {
            let (value, codes) = self.steps.step(items, total, Place { epoch, batch })?;
            for (used, codes) in used.iter_mut().zip(&codes) {
                codes.to_vec1::<u32>()?.into_iter().for_each(|code| used[code as usize] = true);
            }
            sum += value * items.len() as f64;
            self.steps.training.progress.advance(1);
        }
        let mut note = format!("epoch {}, loss {:.5}", epoch + 1, sum / count.max(1) as f64);
        if let Some(best) = &self.state.best {
            note += &format!(", best collision rate {:.4}", best.collision_rate);
        }
        self.steps.training.progress.note(&note);
        Ok(used)
    }

    /// Encodes all items and keeps the net if it is the best so far.
    fn evaluate(&mut self) -> Result<()> {
        let net = self.steps.to_quantizer()?;
        let rows = self.steps.rows;
        let ids = encode_prepared(&net, rows)?;
        let score = Score {
            epoch: self.state.epochs_done,
            collision_rate: structure(&ids, &self.steps.plan.config.codes)?.collision_rate,
            reconstruction_error: mean_error(&net, rows, &ids)?,
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
        let patience = self.steps.plan.config.patience;
        self.state.finished = patience > 0 && self.state.evaluations_without_gain >= patience;
        Ok(())
    }

    fn resume(&mut self) -> Result<()> {
        let Steps { plan, rows, model, optimizer, .. } = &mut self.steps;
        let Some(state) = self.checkpoints.resume::<Progressed>(&model.params, optimizer)? else { return Ok(()) };
        if state.best.is_some() {
            self.best = self.checkpoints.best(|arrays| RqVae::take(plan, rows.width(), arrays))?;
        }
        self.state = state;
        Ok(())
    }

    fn save_checkpoint(&self) -> Result<()> {
        self.checkpoints.save(&self.state, &self.steps.model.params, &self.steps.optimizer)
    }

    fn finish(self) -> Result<Trained> {
        let quantizer = match self.best {
            Some(best) => best,
            None => self.steps.to_quantizer()?,
        };
        let record = serde_json::json!({
            "initialised": self.state.initialised,
            "epochs": self.state.epochs_done,
            "steps": self.steps.optimizer.steps(),
            "best": self.state.best,
            "evaluations": self.state.scores,
            "restarted_codes": self.state.restarted_codes,
        });
        Ok(Trained { model: quantizers::Model::Quantizer(Box::new(quantizer)), record })
    }
}

fn diverged(method: &str, Place { epoch, batch }: Place, value: f64) -> Error {
    let place = format!("{method} training, epoch {}, batch {}", epoch + 1, batch + 1);
    let mend = format!(
        "lower {method}.learning_rate or {method}.clip_norm, set {method}.pre_steps to [\"standardise\"], or look for \
         extreme values in the embeddings"
    );
    Error::input(place, format!("the loss is {value}"), mend)
}
