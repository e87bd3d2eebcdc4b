//! `sidereal tokenizer train|encode|report`.

use std::process::ExitCode;

use sidereal::tokenizer::TokenizerConfig;
use sidereal::tokenizer::codes::parse_codes;
use sidereal::{Result, Run, Stage, stages};

use crate::args::Tokenizer;
use crate::commands::Context;
use crate::output;

/// Levels where neither --levels nor a list of codes names them.
const DEFAULT_LEVELS: usize = 3;

pub(crate) fn execute(context: &Context, command: Tokenizer) -> Result<ExitCode> {
    match command {
        Tokenizer::Train { run, method, levels, codes, seed } => {
            let run = Run::open(&run)?;
            let levels = levels.or((!codes.contains(',')).then_some(DEFAULT_LEVELS));
            let config = TokenizerConfig::with_defaults(&method, parse_codes(&codes, levels)?)?;
            let outcome =
                stages::tokenizer::make(&run, &config, seed, context.global.device, context.progress.as_ref())?;
            context.answer_stage(&run, Stage::Tokenizer, outcome)
        }
        Tokenizer::Encode { tokenizer, embeddings, out } => {
            let done = sidereal::encode::encode_file(&tokenizer, &embeddings, &out, context.progress.as_ref())?;
            if context.global.json {
                output::json(&done)?;
            } else {
                output::line(&format!(
                    "{} items, {} distinct semantic IDs: {}",
                    done.items,
                    done.unique_ids,
                    out.display()
                ))?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Tokenizer::Report { run } => {
            let report = stages::tokenizer::report(&Run::open(&run)?, context.progress.as_ref())?;
            if context.global.json {
                output::json(&report)?;
            } else {
                output::line(&stages::tokenizer::sentence(&report))?;
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}
