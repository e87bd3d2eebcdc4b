//! A new encoder before the published codebooks, for vectors of another embedding model.
//!
//! Codebooks and decoder stay; an encoder for the new vectors is trained so that items keep the codes that were
//! published: cross-entropy over negative distances to the frozen codewords, level by level (`prototypes.rs`).
//!
//! *Paper*: stationary prototypes, class weights that never move, so that what a net learns stays where they are (Pernici
//! et al., *Regular Polytope Networks*, arXiv 2103.15632). Here the prototypes are the codewords of every level.
//! *Differs from the paper*: prototypes were learnt and are no regular polytope; they are compared by distance, one level
//! behind another; the encoder is trained on ready vectors.
//! *Checked against*: the loss computed by hand, and codes of vectors that were mapped by a known net, in the tests.
//!
//! Every tenth item is held out where there are twenty or more: training ends when their codes agree no better for a
//! while, and the encoder of the best agreement is kept. A killed training goes on from its work folder. That agreement is also what to expect of new items.
//!
//! # Shapes
//! New vectors [M, D'] to latents [M, d]; published semantic IDs [M, L].

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use sidereal_core::artifact::sha256_bytes;
use sidereal_core::{Embeddings, Error, SemanticIds};
use sidereal_nn::clip_grad_norm;
use sidereal_nn::optimizer::{AdamW, AdamWConfig};
use sidereal_nn::params::Params;
use sidereal_nn::rng::Rng;

use crate::Result;
use crate::arrays::NamedArray;
use crate::checkpoints::Checkpoints;
use crate::encode::{check_range, encode_prepared};
use crate::life::drift::FitRecord;
use crate::life::upgrade::prototypes::Prototypes;
use crate::life::upgrade::{Agreement, ways};
use crate::mlp::{Mlp, TrainableMlp};
use crate::pre_step::FittedPreSteps;
use crate::quantizers::rq_vae::{Plan, RqVae};
use crate::quantizers::{Quantizer, Training};
use crate::tokenizer::ItemTokenizer;
use crate::training_items::TrainingItems;

const NAME: &str = "encoder";
/// What its layers are called in files.
const ENCODER: &str = "enc";
/// One item in this many is held out.
const HOLD_OUT: usize = 10;
/// AdamW's base rate, and its decay.
const RATES: (f64, f64) = (1e-3, 1e-4);
/// Largest norm of a step's gradient.
const CLIP_NORM: f64 = 1.0;
/// Items of a step.
const BATCH: usize = 256;
/// Most passes over the items; small catalogs have as many as make [`LEAST_STEPS`].
const EPOCHS: usize = 200;
const LEAST_STEPS: usize = 4000;
/// How often agreement is looked at, over all epochs.
const EVALUATIONS: usize = 50;
/// Evaluations without a gain that end a training.
const PATIENCE: usize = 8;

/// What `tokenizer.json` says of an encoder that was trained anew.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncoderRecord {
    /// Width of what the decoder gives back: prepared vectors of the model that the codebooks were trained on.
    pub width_out: usize,
    /// Items whose published codes it was trained for, those held out included.
    pub items: usize,
    /// Agreement of all items with their published semantic IDs at the start of the training, by chance.
    pub before: Agreement,
    /// And at its end.
    pub after: Agreement,
    /// Agreement at its end of the items that were held out; absent where there were too few to hold any out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out: Option<Agreement>,
    /// Passes over the items.
    pub epochs: usize,
    /// Those after which the encoder that was kept stood.
    pub best_epoch: usize,
}

/// Trains an encoder for new vectors of items, of any width, before the codebooks that a tokenizer has. Pre-steps are
/// those of its settings, fitted to the new vectors. Same seed, same items: same bytes, whatever the number of threads.
///
/// # Errors
/// A method without an encoder before residual codebooks (the ways that it can take are named); fewer than two items;
/// published codes that the codebooks do not have; pre-steps that do not fit the new vectors; a training that diverges.
///
/// # Shapes
/// `items.vectors`: [M, D'], of the new model; `published`: [M, L]
pub fn retrain_encoder(
    tokenizer: ItemTokenizer,
    items: &TrainingItems<'_>,
    published: &SemanticIds,
    training: &Training<'_>,
) -> Result<ItemTokenizer> {
    let old = tokenizer.quantizer()?;
    let description = tokenizer.description();
    let width_out = description.encoder.as_ref().map_or(old.width(), |record| record.width_out);
    let Some(plan) = description.config.method().encoder_plan(width_out) else {
        let problem = format!("{} has no encoder before residual codebooks", description.config.name());
        let mend = format!("carry it over with --how {}", ways(&tokenizer).join(" or --how "));
        return Err(Error::config("--how encoder", problem, mend).into());
    };
    published.check_codes(tokenizer.codes_per_level())?;
    if items.len() != published.len() || items.len() < 2 {
        let problem = format!("{} new vectors beside {} published semantic IDs", items.len(), published.len());
        return Err(Error::mismatch(problem, "give vectors of at least two items, in the order of their IDs").into());
    }
    items.check()?;
    check_range(items.vectors)?;
    let (steps, prepared) = FittedPreSteps::fit(description.config.pre_steps(), items)?;
    let rows = prepared.as_ref().unwrap_or(items.vectors);
    let frozen = tokenizer.as_rq_vae(&plan, width_out)?;
    let (net, record) = Work::new(&plan, &frozen, rows, published, training)?.run(width_out)?;
    let fit = FitRecord::measure(&net, rows)?;
    Ok(tokenizer.with_encoder(items.vectors.width(), steps, Box::new(net), record, fit))
}

/// A training on its way.
struct Work<'a> {
    frozen: &'a RqVae,
    rows: &'a Embeddings,
    published: &'a SemanticIds,
    training: &'a Training<'a>,
    checkpoints: Checkpoints<'a>,
    prototypes: Prototypes,
    params: Params,
    encoder: TrainableMlp,
    /// Of its layers: D', ..., d.
    widths: Vec<usize>,
    optimizer: AdamW,
    /// Items that steps are taken on, and those that are judged.
    learnt: Vec<usize>,
    judged: Vec<usize>,
}

/// How far a training is; the best encoder stands beside it.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Progressed {
    epochs_done: usize,
    without_gain: usize,
    before: Agreement,
    best: Agreement,
    best_epoch: usize,
}

impl<'a> Work<'a> {
    fn new(
        plan: &Plan,
        frozen: &'a RqVae,
        rows: &'a Embeddings,
        published: &'a SemanticIds,
        training: &'a Training<'a>,
    ) -> Result<Self> {
        let mut params = Params::new(&training.device);
        let mut rng = Rng::new(training.seed, &format!("{NAME} parameters"));
        let widths = plan.encoder_widths(rows.width());
        let encoder = TrainableMlp::new(ENCODER, &widths, false, &mut params, &mut rng)?;
        let (lr, weight_decay) = RATES;
        let optimizer = AdamW::new(params.vars().to_vec(), AdamWConfig { lr, weight_decay, ..AdamWConfig::default() })?;
        let all = 0..rows.rows();
        let is_held = |i: &usize| rows.rows() >= 2 * HOLD_OUT && i % HOLD_OUT == HOLD_OUT - 1;
        let (judged, learnt): (Vec<usize>, Vec<usize>) = all.clone().partition(is_held);
        let judged = if judged.is_empty() { all.collect() } else { judged };
        let prototypes = Prototypes::new(frozen, &training.device)?;
        let asked = || {
            let published = sha256_bytes(bytemuck::cast_slice(published.codes()));
            let digest = |array: NamedArray| sha256_bytes(bytemuck::cast_slice(&array.values));
            let frozen: Vec<String> = frozen.arrays().into_iter().map(digest).collect();
            format!("{NAME} {widths:?} {published} {}", frozen.join(" "))
        };
        let checkpoints = Checkpoints::new(training, rows, asked);
        Ok(Self {
            frozen,
            rows,
            published,
            training,
            checkpoints,
            prototypes,
            params,
            encoder,
            widths,
            optimizer,
            learnt,
            judged,
        })
    }

    fn run(mut self, width_out: usize) -> Result<(RqVae, EncoderRecord)> {
        let everything: Vec<usize> = (0..self.rows.rows()).collect();
        let steps = self.learnt.len().div_ceil(BATCH);
        let epochs = EPOCHS.max(LEAST_STEPS.div_ceil(steps));
        let evaluate_every = epochs.div_ceil(EVALUATIONS);
        let progress = self.training.progress;
        progress.start(NAME, Some((steps * epochs) as u64), "steps");
        let (mut state, mut best) = self.begun(&everything)?;
        progress.resume((steps * state.epochs_done) as u64);
        while state.epochs_done < epochs && state.without_gain < PATIENCE {
            let loss = self.epoch(state.epochs_done)?;
            state.epochs_done += 1;
            if state.epochs_done.is_multiple_of(evaluate_every) || state.epochs_done == epochs {
                let encoder = self.encoder.to_mlp()?;
                let agreement = self.agreement(&encoder, &self.judged)?;
                state.without_gain += 1;
                if beats(&agreement, &state.best) {
                    (state.best, state.best_epoch, state.without_gain) = (agreement, state.epochs_done, 0);
                    self.checkpoints.save_best(&encoder.arrays(ENCODER))?;
                    best = encoder;
                }
                self.checkpoints.save(&state, &self.params, &self.optimizer)?;
            }
            let codes = 100.0 * mean(&state.best.levels);
            progress
                .note(&format!("epoch {}, loss {loss:.4}, best agreement of codes {codes:.1} %", state.epochs_done));
        }
        progress.finish();
        let held_out = (self.judged.len() < everything.len()).then(|| state.best.clone());
        let after = self.agreement(&best, &everything)?;
        let (items, epochs, best_epoch) = (everything.len(), state.epochs_done, state.best_epoch);
        let record = EncoderRecord { width_out, items, before: state.before, after, held_out, epochs, best_epoch };
        Ok((self.frozen.with_encoder(best), record))
    }

    /// Where a killed training was, or the beginning.
    fn begun(&mut self, everything: &[usize]) -> Result<(Progressed, Mlp)> {
        if let Some(state) = self.checkpoints.resume::<Progressed>(&self.params, &mut self.optimizer)? {
            let widths = self.widths.clone();
            if let Some(best) = self.checkpoints.best(|arrays| Mlp::load(ENCODER, &widths, false, arrays))? {
                return Ok((state, best));
            }
        }
        let start = self.encoder.to_mlp()?;
        let (before, best) = (self.agreement(&start, everything)?, self.agreement(&start, &self.judged)?);
        self.checkpoints.save_best(&start.arrays(ENCODER))?;
        Ok((Progressed { epochs_done: 0, without_gain: 0, before, best, best_epoch: 0 }, start))
    }

    /// One pass over the items; answers the mean loss.
    fn epoch(&mut self, epoch: usize) -> Result<f64> {
        let mut order = self.learnt.clone();
        Rng::new(self.training.seed, &format!("{NAME} epoch {epoch}")).shuffle(&mut order);
        let mut sum = 0.0;
        for items in order.chunks(BATCH) {
            let values: Vec<f32> = items.iter().flat_map(|&item| self.rows.row(item)).copied().collect();
            let x = Tensor::from_vec(values, (items.len(), self.rows.width()), &self.training.device)?; // [B, D']
            let published: Vec<&[u16]> = items.iter().map(|&item| self.published.row(item)).collect();
            let (latents, learnt) = self.encoder.forward(&x, false)?; // [B, d]
            let loss = self.prototypes.loss(&latents, &published)?;
            let value = f64::from(loss.to_scalar::<f32>()?);
            if !value.is_finite() {
                let place = format!("training of the {NAME}, epoch {}", epoch + 1);
                let mend = "look for extreme values in the embeddings, or carry the run over with --how map";
                return Err(Error::input(place, format!("the loss is {value}"), mend).into());
            }
            let mut gradients = loss.backward()?;
            learnt.insert_into(&mut gradients)?;
            clip_grad_norm(&mut gradients, self.params.vars(), CLIP_NORM)?;
            self.optimizer.step(&gradients, RATES.0)?;
            sum += value * items.len() as f64;
            self.training.progress.advance(1);
        }
        Ok(sum / order.len().max(1) as f64)
    }

    /// How far what an encoder before the frozen rest gives these items agrees with what was published.
    fn agreement(&self, encoder: &Mlp, items: &[usize]) -> Result<Agreement> {
        let net = self.frozen.with_encoder(encoder.clone());
        let values = items.iter().flat_map(|&item| self.rows.row(item)).copied().collect();
        let found = encode_prepared(&net, &Embeddings::new(items.len(), self.rows.width(), values)?)?;
        let published = items.iter().flat_map(|&item| self.published.row(item)).copied().collect();
        Agreement::of(&found, &SemanticIds::new(self.published.levels(), published)?)
    }
}

/// Codes first, whole semantic IDs where these are the same.
fn beats(a: &Agreement, b: &Agreement) -> bool {
    (mean(&a.levels), a.whole) > (mean(&b.levels), b.whole)
}

fn mean(levels: &[f64]) -> f64 {
    levels.iter().sum::<f64>() / levels.len().max(1) as f64
}
