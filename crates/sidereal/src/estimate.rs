//! How long a run's work will take, how much memory it needs and how much it writes, told before it begins.
//!
//! Arithmetic operations are counted from the model's shape and the data's lengths and divided by a rate that two kinds
//! of machine showed; it is meant to tell minutes from hours, and says "about".

use serde::Serialize;
use sidereal_generator::batches::Samples;
use sidereal_generator::models::Shape;

use crate::Result;
use crate::recipe::Recipe;
use crate::run::Run;

/// Arithmetic operations that a core does in a second while training or searching, fused operations in f32.
const OPERATIONS_PER_CORE_S: f64 = 60e9;

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
    let model = recipe.generator.model();
    let codes_per_level = match &recipe.tokenizer {
        Some(tokenizer) => tokenizer.codes().to_vec(),
        None => run.catalog()?.codes_per_level().to_vec(),
    };
    let codes_per_level = codes_per_level.as_slice();
    let cut = |events: usize| events.min(recipe.generator.max_history()) as f64;
    let (mut targets, mut items) = (0u64, 0.0);
    for &end in &split.train_end {
        for position in 1..end as usize {
            targets += 1;
            items += cut(position);
        }
    }
    let samples = Samples::new(&data.histories, &split, model.unit(), recipe.generator.max_history());
    let training = recipe.generator.training();
    let steps_per_epoch = samples.batches_per_epoch(training.batch_size) as u64;
    let steps = steps_per_epoch.saturating_mul(training.max_epochs).min(training.max_steps.unwrap_or(u64::MAX));
    let shape = |mean_history| Shape {
        items: data.items.len(),
        codes_per_level,
        vector_width: 0,
        mean_history,
        beam: recipe.evaluate.beam.most(),
    };
    let learning = model.cost(&shape(items / targets.max(1) as f64));
    let cores = std::thread::available_parallelism().map_or(1.0, |n| n.get() as f64);
    let rate = OPERATIONS_PER_CORE_S * cores;
    let targets_per_step = targets as f64 / steps_per_epoch.max(1) as f64;
    let mut training_seconds = steps as f64 * targets_per_step * learning.train_target / rate;
    if let Some(minutes) = training.max_minutes {
        training_seconds = training_seconds.min(minutes * 60.0);
    }
    let asked = recipe.evaluate.users.unwrap_or(split.test.len()).min(split.test.len());
    let seen: f64 = split.test.iter().map(|e| cut(e.position as usize)).sum::<f64>() / split.test.len().max(1) as f64;
    let evaluation_seconds = 2.0 * asked as f64 * model.cost(&shape(seen)).answer / rate;
    let activations = training.batch_size as f64 * learning.activations * 4.0;
    let catalog = data.items.len() as f64 * (codes_per_level.len() as f64 * 12.0 + 64.0);
    // Weights, gradients and two moments; the checkpoint keeps weights, moments and the best weights.
    let memory_bytes = learning.parameters * 16.0 + activations + catalog + data.histories.events() as f64 * 24.0;
    Ok(Estimate {
        samples: samples.len() as u64,
        steps,
        training_seconds,
        evaluation_seconds,
        memory_bytes,
        disk_bytes: learning.parameters * 4.0 * 5.0 + catalog,
    })
}

fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 90.0 => format!("{s:.0} s"),
        s if s < 5400.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}
