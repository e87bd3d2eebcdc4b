//! The `training` table of a generator's recipe.

use serde::{Deserialize, Serialize};
use sidereal_core::Error as CoreError;
use sidereal_nn::kernels::Precision;
use sidereal_nn::schedule::Schedule;

use super::average::AverageConfig;
use crate::Result;
use crate::batches::Recency;

/// How the learning rate moves after the warm-up, in which it rises from 0 in a straight line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScheduleKind {
    /// Stays.
    Constant,
    /// Falls in a straight line to 0 at the last step.
    Linear,
    /// Falls along half a cosine to 0 at the last step.
    #[default]
    Cosine,
    /// Falls with the inverse root of the step (TIGER's, after its constant part).
    InverseSqrt,
}

/// How a generator is trained. Every key has a default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainingConfig {
    /// Samples a step.
    pub batch_size: usize,
    /// Parts in which a step's samples are taken one after the other, their gradients added: less memory, more time. On
    /// the CPU a batch has its parts anyway, so the weights are the same to the bit; on a device they are the same but
    /// for rounding.
    #[serde(skip_serializing_if = "is_one")]
    pub accumulation: usize,
    /// Times through all samples.
    pub max_epochs: u64,
    /// Steps at most, where that is fewer.
    pub max_steps: Option<u64>,
    /// Minutes at most. Where this ends a run, another machine ends it elsewhere: such a run cannot be reproduced.
    pub max_minutes: Option<f64>,
    /// The highest learning rate.
    pub learning_rate: f64,
    /// How it moves.
    pub schedule: ScheduleKind,
    /// Steps in which it rises.
    pub warmup_steps: u64,
    /// AdamW's decay.
    pub weight_decay: f64,
    /// Gradients longer than this are shortened to it; 0 never.
    pub clip_norm: f64,
    /// What products multiply in, forwards and backwards: f32, or bf16, faster where the processor or the device has it.
    /// Parameters, sums, norms, softmax and losses stay f32.
    #[serde(skip_serializing_if = "Precision::is_f32")]
    pub precision: Precision,
    /// Share of the target's probability that is spread over all tokens.
    pub label_smoothing: f32,
    /// A running mean of the weights ([`super::average`]): validations ask it, and the generator is it. Absent: the weights of
    /// a step themselves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub average: Option<AverageConfig>,
    /// How much rarer samples of old events are drawn. Absent: all samples alike, or as often as the data's own weights
    /// say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recency: Option<Recency>,
    /// Steps between validations; 0: after each epoch.
    pub validate_every: u64,
    /// Validation users, drawn by the seed; 0: all.
    pub validate_users: usize,
    /// Beam width of validations.
    pub validate_beam: usize,
    /// Validations without improvement before the run ends; 0: never.
    pub patience: u64,
    /// Steps between checkpoints, from which a killed run goes on; 0: only at its end.
    pub checkpoint_every: u64,
    /// Steps between lines of `metrics.jsonl`.
    pub log_every: u64,
}

/// What most recipes have is left out of resolved ones, which then are those of before there was the key.
fn is_one(parts: &usize) -> bool {
    *parts == 1
}

impl Default for TrainingConfig {
    /// Batch, rate and decay of GRID's public recipe for the same model shape (2507.22224); the rest ours.
    fn default() -> Self {
        Self {
            batch_size: 256,
            accumulation: 1,
            max_epochs: 100,
            max_steps: None,
            max_minutes: None,
            learning_rate: 1e-3,
            schedule: ScheduleKind::Cosine,
            warmup_steps: 500,
            weight_decay: 1e-4,
            clip_norm: 1.0,
            precision: Precision::F32,
            label_smoothing: 0.0,
            average: None,
            recency: None,
            validate_every: 0,
            validate_users: 1000,
            validate_beam: 20,
            patience: 10,
            checkpoint_every: 500,
            log_every: 20,
        }
    }
}

impl TrainingConfig {
    /// The schedule with its warm-up.
    pub fn schedule(&self) -> Schedule {
        let warmup_steps = self.warmup_steps;
        match self.schedule {
            ScheduleKind::Constant => Schedule::Constant { warmup_steps },
            ScheduleKind::Linear => Schedule::Linear { warmup_steps, end: 0.0 },
            ScheduleKind::Cosine => Schedule::Cosine { warmup_steps, end: 0.0 },
            ScheduleKind::InverseSqrt => Schedule::InverseSqrt { warmup_steps, hold_steps: warmup_steps },
        }
    }

    /// Refuses values that no run can have; `place` is the recipe's path to this table.
    ///
    /// # Errors
    /// A size of 0, a rate or share outside its range, by key.
    pub fn check(&self, place: &str) -> Result<()> {
        let fail = |key: &str, problem: String, mend: &str| {
            Err(CoreError::config(format!("{place}.{key}"), problem, mend).into())
        };
        let positive = [
            ("batch_size", self.batch_size as u64),
            ("accumulation", self.accumulation as u64),
            ("max_epochs", self.max_epochs),
            ("max_steps", self.max_steps.unwrap_or(1)),
            ("validate_beam", self.validate_beam as u64),
            ("log_every", self.log_every),
        ];
        if let Some((key, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return fail(key, "0 is no size".to_owned(), "give 1 or more");
        }
        if self.batch_size > 1 << 20 {
            return fail("batch_size", format!("{} samples a step", self.batch_size), "give at most 1048576");
        }
        if self.accumulation > self.batch_size {
            let problem = format!("{} parts of {} samples", self.accumulation, self.batch_size);
            return fail("accumulation", problem, "give at most batch_size");
        }
        if self.max_minutes.is_some_and(|minutes| minutes.is_nan() || minutes <= 0.0) {
            return fail("max_minutes", "not above 0".to_owned(), "give minutes above 0, or drop the key");
        }
        let amounts =
            [("learning_rate", self.learning_rate), ("weight_decay", self.weight_decay), ("clip_norm", self.clip_norm)];
        if let Some((key, value)) = amounts.iter().find(|(_, value)| !(value.is_finite() && *value >= 0.0)) {
            return fail(key, format!("{value} is not a number from 0 up"), "give a number such as 0.001");
        }
        if self.precision == Precision::Int8 {
            return fail("precision", "bytes are too coarse for gradients".to_owned(), "use f32 or bf16");
        }
        if !(0.0..1.0).contains(&self.label_smoothing) {
            let problem = format!("{} is not in [0, 1)", self.label_smoothing);
            return fail("label_smoothing", problem, "use 0 for none, or 0.1");
        }
        if let Some(AverageConfig { decay }) =
            self.average.filter(|average| !(average.decay > 0.0 && average.decay < 1.0))
        {
            let mend = "give 0.999, or leave the table out for no average";
            return fail("average.decay", format!("{decay} is not above 0 and below 1"), mend);
        }
        if let Some(half_life) =
            self.recency.map(Recency::half_life).filter(|length| !(length.is_finite() && *length > 0.0))
        {
            let mend = "give a number above 0, or leave the table out for samples that all count alike";
            return fail("recency", format!("a half-life of {half_life}"), mend);
        }
        Ok(())
    }
}
