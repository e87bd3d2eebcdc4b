//! `sidereal tokenizer train|encode|drift|upgrade|report`.

use std::path::Path;
use std::process::ExitCode;

use sidereal::life::upgrade::{How, upgrade};
use sidereal::tokenizer::TokenizerConfig;
use sidereal::tokenizer::codes::parse_codes;
use sidereal::tokenizer::drift::Limits;
use sidereal::{Result, Run, Stage, stages};

use crate::args::{Tokenizer, UpgradeHow};
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
        Tokenizer::Drift { run, embeddings, max_error_percentile, max_divergence, max_collision_share } => {
            let limits = Limits { max_error_percentile, max_divergence, max_collision_share };
            drift(context, &Run::open(&run)?, &embeddings, &limits)
        }
        Tokenizer::Upgrade { run, new_embeddings, how, out } => {
            let how = match how {
                UpgradeHow::Map => How::Map,
                UpgradeHow::Relabel => How::Relabel,
            };
            let (device, progress) = (context.global.device, context.progress.as_ref());
            let done = upgrade(&Run::open(&run)?, &new_embeddings, how, &out, device, progress)?;
            if context.global.json {
                output::json(&done)?;
            } else {
                output::line(&format!(
                    "{}: {} items keep their semantic ID, {} move ({}); {:.1} % of items are encoded as published",
                    out.display(),
                    done.unchanged_items,
                    done.moved_items,
                    done.migration_map.display(),
                    100.0 * done.agreement.whole
                ))?;
                if !done.generator_kept {
                    output::line("the new run has no generator: train one")?;
                }
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

/// Exit status of a check that fails.
const EXIT_NO: u8 = 1;

fn drift(context: &Context, run: &Run, embeddings: &Path, limits: &Limits) -> Result<ExitCode> {
    let vectors = sidereal::embed::read_vectors(embeddings, None)?;
    let report = sidereal::tokenizer::drift::drift(&run.tokenizer()?, &run.catalog()?, &vectors.embeddings, limits)?;
    if context.global.json {
        output::json(&report)?;
    } else {
        let percentile = report.error_percentile.map_or("unknown".to_owned(), |p| format!("{p:.0}"));
        output::line(&format!(
            "{} items: median error {:.5} (percentile {percentile} of training), divergence {:.4}, collision share {:.4}",
            report.items, report.median_error, report.divergence, report.collision_share
        ))?;
        for exceeded in &report.exceeded {
            let (figure, found, limit) = (exceeded.figure, exceeded.found, exceeded.limit);
            output::line(&format!("{figure} {found:.4} exceeds {limit}"))?;
        }
    }
    Ok(if report.exceeded.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_NO) })
}
