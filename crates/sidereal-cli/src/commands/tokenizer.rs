//! `sidereal tokenizer train|encode|drift|upgrade|report|compare`.

use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;
use sidereal::core::Error;
use sidereal::core::artifact::write_atomic;
use sidereal::embed::StoreOptions;
use sidereal::encode::{Done, EncodeJob};
use sidereal::life::upgrade::{How, Upgraded, upgrade};
use sidereal::quality::{Subject, compare, side_by_side};
use sidereal::report::{QualityPage, render_quality};
use sidereal::stages::vectors_only;
use sidereal::tokenizer::codes::parse_codes;
use sidereal::tokenizer::life::collisions::Collisions;
use sidereal::tokenizer::life::drift::Limits;
use sidereal::tokenizer::life::upgrade::Agreement;
use sidereal::tokenizer::{TokenizerConfig, Training};
use sidereal::vectors::Input;
use sidereal::{Recipe, Result, Run, Stage, stages};

use crate::args::{Tokenizer, UpgradeHow};
use crate::commands::Context;
use crate::output;

/// Levels where neither --levels nor a list of codes names them.
const DEFAULT_LEVELS: usize = 3;

/// Levels of a method where nothing names them: vq has one.
fn default_levels(method: &str) -> usize {
    if method == "vq" { 1 } else { DEFAULT_LEVELS }
}

pub(crate) fn execute(context: &Context, command: Tokenizer) -> Result<ExitCode> {
    match command {
        Tokenizer::Train { run, vectors, sample, on_invalid, method, recipe, levels, codes, seed } => {
            let (config, collaborative) = match recipe {
                Some(recipe) => {
                    let Recipe { tokenizer, collaborative, .. } = Recipe::load(&recipe)?;
                    let none = || {
                        let mend = "name a recipe with a [tokenizer] table, or use --method";
                        Error::config("tokenizer", "the recipe imports its semantic IDs", mend)
                    };
                    (tokenizer.ok_or_else(none)?, collaborative)
                }
                None => {
                    let levels = levels.or((!codes.contains(',')).then_some(default_levels(&method)));
                    (TokenizerConfig::with_defaults(&method, parse_codes(&codes, levels)?)?, None)
                }
            };
            let (device, progress) = (context.global.device, context.progress.as_ref());
            let inputs = vectors.inputs()?;
            let (run, outcome) = if inputs.is_empty() {
                let run = Run::open(&run)?;
                let collaborative = collaborative.as_ref();
                let wish = stages::tokenizer::Wish { config: &config, collaborative, seed, device };
                let outcome = stages::tokenizer::make(&run, wish, progress)?;
                (run, outcome)
            } else {
                let run = Run::create(&run)?;
                let training = Training { device: device.open()?, ..Training::new(seed, progress) };
                let stores = &StoreOptions::from_environment();
                let wish = vectors_only::Wish { config: &config, inputs: &inputs, sample, on_invalid, stores, seed };
                let outcome = vectors_only::train(&run, wish, &training)?;
                (run, outcome)
            };
            context.answer_stage(&run, Stage::Tokenizer, outcome)
        }
        Tokenizer::Encode { tokenizer, vectors, out, on_invalid, part_rows } => {
            let inputs = vectors.inputs()?;
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
        Tokenizer::Drift { run, vectors, max_error_percentile, max_divergence, max_collision_share } => {
            let limits = Limits { max_error_percentile, max_divergence, max_collision_share };
            drift(context, &Run::open(&run)?, &vectors.inputs()?, &limits)
        }
        Tokenizer::Upgrade { run, new_embeddings, name, how, out } => {
            let how = match how {
                UpgradeHow::Map => How::Map,
                UpgradeHow::Encoder => How::Encoder,
                UpgradeHow::Relabel => How::Relabel,
            };
            let (device, progress) = (context.global.device, context.progress.as_ref());
            let new_embeddings = Input::several(new_embeddings, name)?;
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
                for (when, agreement) in told_agreements(&done) {
                    let levels: Vec<String> = agreement.levels.iter().map(|l| format!("{:.1}", 100.0 * l)).collect();
                    output::line(&format!(
                        "  {when}: codes {} % by level, whole IDs {:.1} %",
                        levels.join(" / "),
                        100.0 * agreement.whole
                    ))?;
                }
                if !done.generator_kept {
                    output::line("the new run has no generator: train one")?;
                }
            }
            Ok(ExitCode::SUCCESS)
        }
        Tokenizer::Report { run, compare, page, cards } => {
            let subjects =
                side_by_side(&Run::open(&run)?, &compare, cards || page.is_some(), context.progress.as_ref())?;
            if let Some(page) = page {
                let title = subjects.iter().map(|subject| subject.name.as_str()).collect::<Vec<_>>().join(", ");
                let data = QualityPage { title, facts: Vec::new(), subjects: subjects.clone() };
                let html = render_quality(&data)?;
                write_atomic(&page, |out| out.write_all(html.as_bytes()))?;
                context.tell(&format!("page: {}", page.display()));
            }
            let Some((first, others)) = subjects.split_first() else { return Ok(ExitCode::SUCCESS) };
            if context.global.json {
                output::json(&ReportAnswer { first, compare: others })?;
            } else {
                for subject in &subjects {
                    if !others.is_empty() {
                        output::line(&format!("{}:", subject.name))?;
                    }
                    output::line(&stages::tokenizer::sentence(&subject.report))?;
                }
            }
            Ok(ExitCode::SUCCESS)
        }
        Tokenizer::Compare { run, methods, levels, codes, collisions: policy, leftovers, seed, out, page } => {
            let levels = levels.or((!codes.contains(',')).then_some(DEFAULT_LEVELS));
            let entries = compare::entries(&methods, &parse_codes(&codes, levels)?, Collisions { policy, leftovers })?;
            let wish = compare::Wish { seed, device: context.global.device, out: &out, page };
            let found = compare::compare(&Run::open(&run)?, &entries, wish, context.progress.as_ref())?;
            if context.global.json {
                output::json(&found)?;
            } else {
                output::line(&compare::table(&found))?;
            }
            // The answer is no where a tokenizer could not be made.
            Ok(if found.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) })
        }
    }
}

/// The agreements of an upgrade with what was published, each with what it is of.
fn told_agreements(done: &Upgraded) -> Vec<(&'static str, &Agreement)> {
    let mut told = Vec::new();
    if let Some(encoder) = &done.encoder {
        told.push(("before", &encoder.before));
        told.push(("after", &encoder.after));
        told.extend(encoder.held_out.as_ref().map(|held_out| ("after, items held out", held_out)));
    } else if let Some(relabelled) = &done.relabelled {
        told.extend([("before", &relabelled.before), ("after", &relabelled.after)]);
    } else {
        told.push(("after", &done.agreement));
    }
    told
}

/// Exit status of a check that fails.
const EXIT_NO: u8 = 1;

fn drift(context: &Context, run: &Run, inputs: &[Input], limits: &Limits) -> Result<ExitCode> {
    let new = sidereal::vectors::read(inputs)?.vectors;
    let report = sidereal::tokenizer::life::drift::drift(&run.tokenizer()?, &run.catalog()?, &new, limits)?;
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

/// A report as JSON: the run's own figures, and those of what it is set beside.
#[derive(Serialize)]
struct ReportAnswer<'a> {
    #[serde(flatten)]
    first: &'a Subject,
    #[serde(skip_serializing_if = "<[Subject]>::is_empty")]
    compare: &'a [Subject],
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
