//! `sidereal tokenizer train|encode|report`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use sidereal::core::Error;
use sidereal::embed::StoreOptions;
use sidereal::encode::{Done, EncodeJob, Input};
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
        Tokenizer::Encode { tokenizer, embeddings, name, out, on_invalid, part_rows } => {
            let inputs = inputs(embeddings, name)?;
            let stores = StoreOptions::from_environment();
            let job = EncodeJob { tokenizer, inputs, out, on_invalid, part_rows, stores };
            let done = job.run(context.progress.as_ref())?;
            if context.global.json {
                output::json(&done)?;
            } else {
                output::line(&told(&done, &job.out))?;
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

/// Files with their names of tensors or columns: none, or one for each.
fn inputs(embeddings: Vec<PathBuf>, names: Vec<String>) -> Result<Vec<Input>> {
    if !names.is_empty() && names.len() != embeddings.len() {
        let problem = format!("{} names for {} files of vectors", names.len(), embeddings.len());
        return Err(Error::config("--name", problem, "give it once for each --embeddings, or never").into());
    }
    let names = names.into_iter().map(Some).chain(std::iter::repeat(None));
    Ok(embeddings.into_iter().zip(names).map(|(location, name)| Input { location, name }).collect())
}

fn told(done: &Done, out: &Path) -> String {
    let counts = &done.counts;
    let mut text =
        format!("{} of {} rows encoded, {} distinct semantic IDs", counts.encoded, done.items, done.unique_ids);
    if counts.null > 0 {
        text += &format!(", {} invalid rows without codes", counts.null);
    }
    if counts.skipped > 0 {
        text += &format!(", {} invalid rows left out", counts.skipped);
    }
    let before = if done.finished_before { " (it was finished before)" } else { "" };
    format!("{text}: {}{before}", out.display())
}
