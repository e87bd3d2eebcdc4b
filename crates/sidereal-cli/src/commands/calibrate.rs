//! `sidereal calibrate`.

use std::path::Path;
use std::process::ExitCode;

use sidereal::generator::Widths;
use sidereal::stages::calibration::{CalibrationConfig, load, make};
use sidereal::{Result, Run, Stage};

use crate::commands::Context;
use crate::output;

pub(crate) fn execute(context: &Context, run: &Path, items: usize, beam: Widths, seed: u64) -> Result<ExitCode> {
    let run = Run::open(run)?;
    let config = CalibrationConfig { items, beam };
    let outcome = make(&run, &config, seed, context.global.device, context.progress.as_ref())?;
    if !context.global.json {
        for (mode, words) in [("no_filter", "the whole catalog"), ("seen_removed", "the user's own history removed")] {
            let calibration = load(&run)?;
            let Some((_, calibrated)) = calibration.each().into_iter().find(|(name, _)| *name == mode) else {
                continue;
            };
            let told = &calibrated.held_out;
            output::line(&format!(
                "{words}: {} users left out of the fit, Brier score {:.5} (of the share of hits alone {:.5}), ECE {:.5}",
                told.answers, told.brier, told.brier_of_share, told.ece
            ))?;
            output::line(&format!("{:>22}{:>8}{:>12}{:>9}", "confidence", "items", "mean", "hits"))?;
            for row in &told.table {
                output::line(&format!(
                    "{:>10.4} to {:>8.4}{:>8}{:>12.4}{:>9.4}",
                    row.from, row.to, row.items, row.confidence, row.hits
                ))?;
            }
            output::line("")?;
        }
    }
    context.answer_stage(&run, Stage::Calibration, outcome)
}
