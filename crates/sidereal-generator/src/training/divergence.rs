//! Where and on what a training broke.

use sidereal_core::Error as CoreError;

use super::Run;
use crate::{Error, Result};

/// Samples that an error names.
const NAMED: usize = 5;

impl Run<'_> {
    /// The error of a step whose loss or gradient is no finite number.
    pub(super) fn diverged(&self, numbers: &[u32], loss: f64) -> Error {
        let step = self.position.step + 1;
        let value = match loss.is_finite() {
            true => format!("the loss is {loss}, but a gradient is no finite number"),
            false => format!("the loss is {loss}"),
        };
        let problem = format!("{value}: the training diverged {}. {}", self.on(numbers), self.left());
        CoreError::input(format!("training step {step}"), problem, MEND).into()
    }

    /// Refuses weights that are not finite before they are validated or saved: the last checkpoint stays a good one.
    pub(super) fn check_weights(&self) -> Result<()> {
        for (name, var) in self.network.params().vars() {
            let size = var.as_tensor().abs()?.sum_all()?.to_dtype(candle_core::DType::F32)?.to_scalar::<f32>()?;
            if !size.is_finite() {
                let problem = format!("parameter {name:?} is no finite number: the training diverged. {}", self.left());
                return Err(CoreError::input(format!("training step {}", self.position.step), problem, MEND).into());
            }
        }
        Ok(())
    }

    /// The samples whose own loss is not finite, or the batch where it is only their sum.
    fn on(&self, numbers: &[u32]) -> String {
        let broken = |&number: &u32| -> bool {
            let loss = self.network.loss(&[self.samples.row(number)], None);
            let value = loss.and_then(|loss| Ok(loss.to_dtype(candle_core::DType::F32)?.to_scalar::<f32>()?));
            !value.is_ok_and(f32::is_finite)
        };
        let alone: Vec<u32> = numbers.iter().copied().filter(broken).collect();
        let (words, shown) = match alone.len() {
            0 => (format!("on a batch of {} samples, none of which breaks alone", numbers.len()), numbers),
            some => (format!("on {some} of a batch of {} samples", numbers.len()), &alone[..]),
        };
        let name = |&number: &u32| {
            let sample = self.samples.samples()[number as usize];
            let user = self.job.histories.user(sample.user as usize);
            format!("sample {number}: user {user:?}, events {} to {}", sample.start, sample.end - 1)
        };
        let named: Vec<String> = shown.iter().take(NAMED).map(name).collect();
        let more = if shown.len() > NAMED { "; ..." } else { "" };
        format!("{words} ({}{more})", named.join("; "))
    }

    fn left(&self) -> String {
        match self.saved {
            Some(step) => {
                format!("The checkpoint of step {step} in {} is whole", self.job.work_dir.display())
            }
            None => "No checkpoint was saved before".to_owned(),
        }
    }
}

const MEND: &str = "lower learning_rate, lengthen warmup_steps, or set clip_norm, and train again from the start";
