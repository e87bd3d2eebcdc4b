//! `sidereal vectors items|users`.

use std::process::ExitCode;

use sidereal::behaviour_vectors::{Whose, write};
use sidereal::tokenizer::behaviour::collaborative_vectors::CollaborativeConfig;
use sidereal::{Result, Run};

use crate::args::Vectors;
use crate::commands::Context;
use crate::output;

/// Users' vectors are means: nothing is drawn.
const NO_SEED: u64 = 0;

pub(crate) fn execute(context: &Context, command: Vectors) -> Result<ExitCode> {
    let (run, whose, seed, out) = match command {
        Vectors::Items { run, width, window, seed, out } => {
            let config = CollaborativeConfig { width, window, ..CollaborativeConfig::default() };
            (run, Whose::Items(config), seed, out)
        }
        Vectors::Users { run, half_life, out } => (run, Whose::Users { half_life }, NO_SEED, out),
    };
    let done = write(&Run::open(&run)?, &whose, &out, seed, context.progress.as_ref())?;
    if context.global.json {
        output::json(&done)?;
    } else {
        let (rows, width, zero) = (done.rows, done.width, done.zero_rows);
        output::line(&format!("{rows} vectors of width {width}, {zero} of them zero: {}", out.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}
