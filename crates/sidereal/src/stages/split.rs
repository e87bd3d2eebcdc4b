//! Histories -> what may be learned from, and what is held out.

use serde_json::json;
use sidereal_core::artifact::Manifest;
use sidereal_core::{Split, SplitRule};

use crate::Result;
use crate::run::{Outcome, Run, Stage};
use crate::stages::{inputs, resolved};

/// Makes the split.
///
/// # Errors
/// No prepared data; a time rule on data without times.
pub fn make(run: &Run, rule: SplitRule) -> Result<Outcome> {
    let wanted =
        Manifest::new(Stage::Split.name(), None, json!({ "rule": resolved(&rule) }), inputs(run, &[Stage::Data])?);
    run.stage(Stage::Split, wanted, |out| {
        let data = run.data()?;
        let split = Split::new(&data.histories, rule)?;
        split.save(out.dir())?;
        let training_events: u64 = split.train_end.iter().map(|&end| u64::from(end)).sum();
        Ok(json!({
            "training_events": training_events,
            "validation_targets": split.validation.len(),
            "test_targets": split.test.len(),
        }))
    })
}
