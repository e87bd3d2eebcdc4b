//! How long a run's work will take, how much memory it needs and how much it writes, told before it begins.
//!
//! Arithmetic operations are counted from the model's shape and the data's lengths and divided by a rate that two kinds
//! of machine showed; it is meant to tell minutes from hours, and says "about".

use serde::Serialize;
use sidereal_core::CodeVocab;
use sidereal_generator::models::t5::T5Config;

use crate::Result;
use crate::recipe::Recipe;
use crate::run::Run;

/// Arithmetic operations that a core does in a second while training or searching, fused operations in f32.
const OPERATIONS_PER_CORE_S: f64 = 60e9;
/// Bytes of activations that training keeps for each token and unit of width, all sub-layers of a block together.
const BYTES_PER_ACTIVATION: f64 = 4.0 * 1.5;

/// What a run will need from its generator on.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Estimate {
    /// Training samples of one epoch.
    pub samples: u64,
    /// Steps at most.
    pub steps: u64,
    /// Training, at most.
    pub training_seconds: f64,
    /// The evaluation of all users in both modes.
    pub evaluation_seconds: f64,
    /// Peak memory.
    pub memory_bytes: f64,
    /// What the run writes.
    pub disk_bytes: f64,
}

impl Estimate {
    /// For a person.
    pub fn sentence(&self) -> String {
        format!(
            "estimate: {} samples, at most {} steps: training about {} at most (less with early stopping), evaluation about {}, memory about {:.1} GiB, disk about {:.0} MiB",
            self.samples,
            self.steps,
            duration(self.training_seconds),
            duration(self.evaluation_seconds),
            self.memory_bytes / f64::from(1 << 30),
            self.disk_bytes / f64::from(1 << 20)
        )
    }
}

/// Estimates a recipe on a run that has its data and split.
///
/// # Errors
/// A stage before it has not run; sizes that no model can have.
pub fn of_run(run: &Run, recipe: &Recipe) -> Result<Estimate> {
    let data = run.data()?;
    let split = run.split(&data.histories)?;
    let vocab = CodeVocab::new(CodeVocab::FIRST_CODE, recipe.tokenizer.codes());
    let t5 = recipe.generator.t5(&vocab)?;
    let levels = vocab.levels() as f64;
    let cut = |events: usize| events.min(recipe.generator.max_history()) as f64;
    let (mut samples, mut items) = (0u64, 0.0);
    for &end in &split.train_end {
        for position in 1..end as usize {
            samples += 1;
            items += cut(position);
        }
    }
    let training = recipe.generator.training();
    let batch = training.batch_size as u64;
    let mut steps = samples.div_ceil(batch.max(1)).saturating_mul(training.max_epochs);
    steps = steps.min(training.max_steps.unwrap_or(u64::MAX));
    let mean_tokens = items / samples.max(1) as f64 * levels;
    let cores = std::thread::available_parallelism().map_or(1.0, |n| n.get() as f64);
    let rate = OPERATIONS_PER_CORE_S * cores;
    // Forward, and twice that for the two products of the backward.
    let per_sample = 3.0 * (encoder(&t5, mean_tokens) + decoder(&t5, 1.0, levels, mean_tokens));
    let mut training_seconds = steps as f64 * batch as f64 * per_sample / rate;
    if let Some(minutes) = training.max_minutes {
        training_seconds = training_seconds.min(minutes * 60.0);
    }
    let asked = recipe.evaluate.users.unwrap_or(split.test.len()).min(split.test.len());
    let seen: f64 = split.test.iter().map(|e| cut(e.position as usize)).sum::<f64>() / split.test.len().max(1) as f64;
    let per_user = encoder(&t5, seen * levels) + decoder(&t5, recipe.evaluate.beam as f64, levels, seen * levels);
    let evaluation_seconds = 2.0 * asked as f64 * per_user / rate;
    let parameters = parameters(&t5);
    let width = (4 * t5.inner() + 4 * t5.d_model + 2 * t5.d_ff) as f64 + t5.num_heads as f64 * mean_tokens;
    let longest = recipe.generator.max_history() as f64 * levels;
    let activations = batch as f64 * (longest + levels) * width * t5.num_layers as f64 * BYTES_PER_ACTIVATION;
    let catalog = data.items.len() as f64 * (levels * 12.0 + 64.0);
    // Weights, gradients and two moments; the checkpoint keeps weights, moments and the best weights.
    let memory_bytes = parameters * 16.0 + activations + catalog + data.histories.events() as f64 * 24.0;
    Ok(Estimate {
        samples,
        steps,
        training_seconds,
        evaluation_seconds,
        memory_bytes,
        disk_bytes: parameters * 4.0 * 5.0 + catalog,
    })
}

/// Operations of the encoder for one history of `tokens`.
fn encoder(t5: &T5Config, tokens: f64) -> f64 {
    let (d, inner, ff) = (t5.d_model as f64, t5.inner() as f64, t5.d_ff as f64);
    2.0 * t5.num_layers as f64 * tokens * (4.0 * d * inner + 2.0 * d * ff + 2.0 * tokens * inner)
}

/// Operations of the decoder for `beams` prefixes of `levels` codes, after a history of `tokens`.
fn decoder(t5: &T5Config, beams: f64, levels: f64, tokens: f64) -> f64 {
    let (d, inner, ff) = (t5.d_model as f64, t5.inner() as f64, t5.d_ff as f64);
    // The first code has one prefix; keys and values of the history are made once.
    let rows = 1.0 + beams * (levels - 1.0);
    let blocks = rows * (6.0 * d * inner + 2.0 * d * ff + 2.0 * tokens * inner) + tokens * 2.0 * d * inner;
    2.0 * (t5.decoder_layers() as f64 * blocks + rows * d * t5.vocab_size as f64)
}

fn parameters(t5: &T5Config) -> f64 {
    let (d, inner, ff) = (t5.d_model as f64, t5.inner() as f64, t5.d_ff as f64);
    let encoder = t5.num_layers as f64 * (4.0 * d * inner + 2.0 * d * ff);
    let decoder = t5.decoder_layers() as f64 * (8.0 * d * inner + 2.0 * d * ff);
    encoder + decoder + d * t5.vocab_size as f64
}

fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 90.0 => format!("{s:.0} s"),
        s if s < 5400.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}
