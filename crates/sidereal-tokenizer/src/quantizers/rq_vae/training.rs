//! The training loop: k-means start, epochs, evaluation on all items, restart of dead codes, checkpoints.
//!
//! Every random choice has a generator of its own, named after its purpose and epoch, so that a run continued from a
//! checkpoint draws what the uninterrupted run would have drawn.

use std::path::{Path, PathBuf};

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use sidereal_core::artifact::sha256_bytes;
use sidereal_core::{Embeddings, Error, SemanticIds};
use sidereal_nn::checkpoint::{self, Checkpoint};
use sidereal_nn::clip_grad_norm;
use sidereal_nn::optimizer::{AdamW, AdamWConfig};
use sidereal_nn::rng::Rng;

use super::model::Model;
use super::{RqVae, RqVaeConfig};
use crate::Result;
use crate::arrays::{ArraySet, save_arrays};
use crate::encode::encode_prepared;
use crate::kmeans::{KMeansOptions, fit, sample_rows};
use crate::quantizers::{self, Quantizer, Trained, Training};
use crate::report::structure;

/// Iterations of the k-means that codebooks start from; more gains nothing, because training moves them anyway.
const INIT_ITERATIONS: usize = 25;
/// The best net so far, beside the checkpoint.
const BEST_FILE: &str = "best.safetensors";

/// What an evaluation says; smaller is better, collisions first.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Score {
    epoch: usize,
    collision_rate: f64,
    reconstruction_error: f64,
}

impl Score {
    fn beats(&self, other: &Self) -> bool {
        (self.collision_rate, self.reconstruction_error) < (other.collision_rate, other.reconstruction_error)
    }
}

/// What a checkpoint keeps besides parameters and moments.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Progressed {
    /// Whether the codebooks have had their k-means start: it must not happen twice.
    initialised: bool,
    epochs_done: usize,
    finished: bool,
    evaluations_without_gain: usize,
    best: Option<Score>,
    scores: Vec<Score>,
    restarted_codes: usize,
    /// Of settings, seed and vectors: a checkpoint continues only the training that wrote it.
    digest: String,
}

pub(super) fn train(config: &RqVaeConfig, rows: &Embeddings, training: &Training<'_>) -> Result<Trained> {
    let model = Model::new(config, rows.width(), training.seed, &training.device)?;
    let rates = AdamWConfig { lr: config.learning_rate, weight_decay: config.weight_decay, ..AdamWConfig::default() };
    let optimizer = AdamW::new(model.params.vars().to_vec(), rates)?;
    let state = Progressed {
        initialised: false,
        epochs_done: 0,
        finished: false,
        evaluations_without_gain: 0,
        best: None,
        scores: Vec::new(),
        restarted_codes: 0,
        digest: digest(config, rows, training),
    };
    let mut run = Run { config, rows, training, model, optimizer, state, best: None };
    run.resume()?;
    run.initialise()?;
    run.epochs()?;
    run.finish()
}

/// Names a training by all that decides its bytes; only checkpoints need it.
fn digest(config: &RqVaeConfig, rows: &Embeddings, training: &Training<'_>) -> String {
    if training.work.is_none() {
        return String::new();
    }
    // Serialising plain settings cannot fail.
    let settings = serde_json::to_string(config).unwrap_or_default();
    let vectors = sha256_bytes(bytemuck::cast_slice(rows.values()));
    let device = training.device.location();
    sha256_bytes(format!("{settings} {} {device:?} {} {vectors}", training.seed, rows.width()).as_bytes())
}

struct Run<'a> {
    config: &'a RqVaeConfig,
    rows: &'a Embeddings,
    training: &'a Training<'a>,
    model: Model,
    optimizer: AdamW,
    state: Progressed,
    best: Option<RqVae>,
}

impl Run<'_> {
    /// Puts the codebooks where the latents are: k-means of each level on what the levels before left over.
    fn initialise(&mut self) -> Result<()> {
        if self.state.initialised {
            return Ok(());
        }
        let most = self.config.codes.iter().copied().max().unwrap_or(1) as usize;
        let mut rng = Rng::new(self.training.seed, "rq-vae start");
        let mut residuals = self.latents_of_sample((10 * most).max(self.config.batch), &mut rng)?;
        let width = self.config.latent;
        for (level, &codes) in self.config.codes.iter().enumerate() {
            let options = KMeansOptions {
                codes: codes as usize,
                max_iterations: INIT_ITERATIONS,
                tolerance: 1e-4,
                spherical: false,
                seeding_rows: residuals.len() / width,
            };
            let fitted = fit(&residuals, width, &options, &mut rng, &mut |_, _| {});
            subtract_nearest(&fitted.codewords, width, &mut residuals);
            self.model.set_codebook(level, fitted.codewords)?;
        }
        self.state.initialised = true;
        self.save_checkpoint()
    }

    /// Latents of a random sample of items, [n, d].
    fn latents_of_sample(&self, wanted: usize, rng: &mut Rng) -> Result<Vec<f32>> {
        let sample = sample_rows(self.rows.rows(), wanted.min(self.rows.rows()), rng);
        let x = self.batch(&sample)?;
        Ok(self.model.encode(&x)?.detach().flatten_all()?.to_vec1::<f32>()?)
    }

    /// # Shapes
    /// `[B]` to [B, D]
    fn batch(&self, items: &[usize]) -> Result<Tensor> {
        let values: Vec<f32> = items.iter().flat_map(|&i| self.rows.row(i)).copied().collect();
        Ok(Tensor::from_vec(values, (items.len(), self.rows.width()), &self.training.device)?)
    }

    fn epochs(&mut self) -> Result<()> {
        let (config, progress) = (self.config, self.training.progress);
        let steps_per_epoch = self.rows.rows().div_ceil(config.batch);
        let total = (steps_per_epoch * config.epochs) as u64;
        progress.start("RQ-VAE", Some(total), "steps");
        progress.advance((steps_per_epoch * self.state.epochs_done) as u64);
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
                self.restart_dead_codes(epoch, &used)?;
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
        let config = self.config;
        let mut order: Vec<usize> = (0..self.rows.rows()).collect();
        Rng::new(self.training.seed, &format!("rq-vae epoch {epoch}")).shuffle(&mut order);
        let mut used: Vec<Vec<bool>> = config.codes.iter().map(|&k| vec![false; k as usize]).collect();
        let mut sum = 0.0;
        for (batch, items) in order.chunks(config.batch).enumerate() {
            let loss = self.model.loss(&self.batch(items)?)?;
            let value = f64::from(loss.total.to_scalar::<f32>()?);
            if !value.is_finite() {
                return Err(diverged(epoch, batch, value).into());
            }
            let mut gradients = loss.total.backward()?;
            clip_grad_norm(&mut gradients, self.model.params.vars(), config.clip_norm)?;
            let rate = config.learning_rate * config.schedule.factor(self.optimizer.steps(), total);
            self.optimizer.step(&gradients, rate)?;
            for (used, codes) in used.iter_mut().zip(&loss.quantized.codes) {
                codes.to_vec1::<u32>()?.into_iter().for_each(|code| used[code as usize] = true);
            }
            sum += value * items.len() as f64;
            self.training.progress.advance(1);
        }
        let mut note = format!("epoch {}, loss {:.5}", epoch + 1, sum / self.rows.rows().max(1) as f64);
        if let Some(best) = &self.state.best {
            note += &format!(", best collision rate {:.4}", best.collision_rate);
        }
        self.training.progress.note(&note);
        Ok(used)
    }

    /// Encodes all items and keeps the net if it is the best so far.
    fn evaluate(&mut self) -> Result<()> {
        let net = self.model.to_quantizer()?;
        let ids = encode_prepared(&net, self.rows)?;
        let score = Score {
            epoch: self.state.epochs_done,
            collision_rate: structure(&ids, &self.config.codes)?.collision_rate,
            reconstruction_error: reconstruction_error(&net, self.rows, &ids)?,
        };
        self.state.scores.push(score);
        if self.state.best.is_none_or(|best| score.beats(&best)) {
            if let Some(dir) = self.training.work {
                save_arrays(&dir.join(BEST_FILE), &net.arrays())?;
            }
            self.state.best = Some(score);
            self.state.evaluations_without_gain = 0;
            self.best = Some(net);
        } else {
            self.state.evaluations_without_gain += 1;
        }
        let patience = self.config.patience;
        self.state.finished = patience > 0 && self.state.evaluations_without_gain >= patience;
        Ok(())
    }

    /// Moves unused codewords to residuals of random items, with a little noise, and forgets their moments.
    fn restart_dead_codes(&mut self, epoch: usize, used: &[Vec<bool>]) -> Result<()> {
        if used.iter().flatten().all(|&used| used) {
            return Ok(());
        }
        let width = self.config.latent;
        let mut rng = Rng::new(self.training.seed, &format!("rq-vae restart {epoch}"));
        let most = used.iter().map(|level| level.iter().filter(|&&used| !used).count()).max().unwrap_or(0);
        let mut residuals = self.latents_of_sample(most.max(self.config.batch), &mut rng)?;
        for (level, used) in used.iter().enumerate() {
            let name = format!("codebooks.{level}");
            let Some(var) = self.model.params.get(&name) else { continue };
            let mut values = var.flatten_all()?.to_vec1::<f32>()?;
            let before = values.clone();
            let dead: Vec<usize> = (0..used.len()).filter(|&code| !used[code]).collect();
            let mut sources: Vec<usize> = (0..residuals.len() / width).collect();
            rng.shuffle(&mut sources);
            for (&code, &source) in dead.iter().zip(&sources) {
                for (v, r) in values[code * width..][..width].iter_mut().zip(&residuals[source * width..]) {
                    *v = r + 1e-4 * rng.normal() as f32;
                }
            }
            self.state.restarted_codes += dead.len().min(sources.len());
            if !dead.is_empty() {
                self.model.set_codebook(level, values)?;
                self.optimizer.forget_rows(&name, &dead)?;
            }
            subtract_nearest(&before, width, &mut residuals);
        }
        Ok(())
    }

    fn resume(&mut self) -> Result<()> {
        let Some(dir) = self.training.work else { return Ok(()) };
        let Some(saved) = checkpoint::load(dir)? else { return Ok(()) };
        let path = checkpoint::path(dir);
        let mend = "empty that folder to start the training anew";
        let state: Progressed = serde_json::from_value(saved.extra)
            .map_err(|e| Error::artifact(&path, format!("it is no checkpoint of this training: {e}"), mend))?;
        if state.digest != self.state.digest {
            let problem = "the checkpoint belongs to other settings, another seed or other vectors";
            return Err(Error::artifact(&path, problem, mend).into());
        }
        self.model.params.restore(&saved.params)?;
        self.optimizer.restore(&saved.optimizer)?;
        if state.best.is_some() {
            let mut arrays = ArraySet::open(&best_path(dir))?;
            self.best = Some(RqVae::take(self.config, self.rows.width(), &mut arrays)?);
            arrays.finish()?;
        }
        self.state = state;
        Ok(())
    }

    fn save_checkpoint(&self) -> Result<()> {
        let Some(dir) = self.training.work else { return Ok(()) };
        let extra = serde_json::to_value(&self.state)
            .map_err(|e| Error::artifact(checkpoint::path(dir), e.to_string(), "this is a defect: report it"))?;
        checkpoint::save(
            dir,
            &Checkpoint {
                params: self.model.params.snapshot()?,
                optimizer: self.optimizer.state()?,
                step: self.optimizer.steps(),
                rng: Default::default(),
                extra,
            },
        )
    }

    fn finish(self) -> Result<Trained> {
        let quantizer = match self.best {
            Some(best) => best,
            None => self.model.to_quantizer()?,
        };
        let record = serde_json::json!({
            "initialised": self.state.initialised,
            "epochs": self.state.epochs_done,
            "steps": self.optimizer.steps(),
            "best": self.state.best,
            "evaluations": self.state.scores,
            "restarted_codes": self.state.restarted_codes,
        });
        Ok(Trained { model: quantizers::Model::Quantizer(Box::new(quantizer)), record })
    }
}

fn best_path(dir: &Path) -> PathBuf {
    dir.join(BEST_FILE)
}

/// Subtracts from every row its nearest codeword.
fn subtract_nearest(codewords: &[f32], width: usize, rows: &mut [f32]) {
    let mut level = crate::residual::ResidualCodebooks::new(width);
    level.push(codewords.to_vec(), None);
    level.subtract_level(0, rows);
}

fn reconstruction_error(net: &RqVae, rows: &Embeddings, ids: &SemanticIds) -> Result<f64> {
    use rayon::prelude::*;
    let back = net.reconstruct(ids)?;
    let width = rows.width();
    let pairs = rows.values().par_chunks(width).zip(back.values().par_chunks(width));
    let errors: Vec<f64> = pairs.map(|(x, y)| crate::product::squared_distance(x, y)).collect();
    Ok(errors.iter().sum::<f64>() / rows.rows().max(1) as f64)
}

fn diverged(epoch: usize, batch: usize, value: f64) -> Error {
    let place = format!("rq-vae training, epoch {}, batch {}", epoch + 1, batch + 1);
    let mend = "lower rq-vae.learning_rate or rq-vae.clip_norm, set rq-vae.pre_step to \"standardise\", or look for \
                extreme values in the embeddings";
    Error::input(place, format!("the loss is {value}"), mend)
}
