//! `sidereal catalog build|add|remove|diff|versions|rollback|import|export|features`.

use std::process::ExitCode;

use sidereal::exchange::{self, Format};
use sidereal::features::{Kind, Vocabulary, Wish};
use sidereal::life::change::{self, Changed};
use sidereal::life::migration;
use sidereal::life::versions::{self, Version};
use sidereal::tokenizer::life::collisions::Collisions;
use sidereal::{Result, Run, Stage, features, stages};

use crate::args::CatalogCommand;
use crate::commands::Context;
use crate::output;

pub(crate) fn execute(context: &Context, command: CatalogCommand) -> Result<ExitCode> {
    match command {
        CatalogCommand::Build { run, collisions: policy, leftovers } => {
            let run = Run::open(&run)?;
            let outcome = stages::catalog::build(&run, Collisions { policy, leftovers })?;
            context.answer_stage(&run, Stage::Catalog, outcome)
        }
        CatalogCommand::Add { run, vectors, items } => {
            let run = Run::open(&run)?;
            let changed = change::add(&run, &vectors.inputs()?, items.as_deref(), context.progress.as_ref())?;
            tell_change(context, &changed)
        }
        CatalogCommand::Remove { run, items, items_file } => {
            let run = Run::open(&run)?;
            let text = match (&items, &items_file) {
                (Some(items), _) => items.clone(),
                (None, Some(file)) => {
                    std::fs::read_to_string(file).map_err(|e| sidereal::core::Error::io("read", file, e))?
                }
                (None, None) => String::new(),
            };
            let separator = if items.is_some() { ',' } else { '\n' };
            let ids: Vec<&str> = text.split(separator).map(str::trim).filter(|id| !id.is_empty()).collect();
            tell_change(context, &change::remove(&run, &ids)?)
        }
        CatalogCommand::Diff { old, new, out } => {
            let diff = migration::compare(&old, &new)?;
            if let Some(out) = &out {
                migration::write_map(&diff, out)?;
            }
            if context.global.json {
                output::json(&diff)?;
            } else {
                output::line(&format!(
                    "{} added, {} removed, {} moved, {} unchanged",
                    diff.added, diff.removed, diff.moved, diff.unchanged
                ))?;
            }
            Ok(ExitCode::SUCCESS)
        }
        CatalogCommand::Versions { run } => {
            let versions = versions::versions(&Run::open(&run)?)?;
            if context.global.json {
                output::json(&versions)?;
            } else {
                versions.iter().try_for_each(tell_version)?;
            }
            Ok(ExitCode::SUCCESS)
        }
        CatalogCommand::Rollback { run, to } => {
            let version = versions::roll_back(&Run::open(&run)?, &to)?;
            if context.global.json {
                output::json(&version)?;
            } else {
                tell_version(&version)?;
            }
            Ok(ExitCode::SUCCESS)
        }
        CatalogCommand::Import { file, format, codes, out } => {
            let format = Format::of(&format)?;
            let run = Run::create(&out)?;
            let (stage, outcome) = exchange::import(&run, format, &file, codes.as_deref())?;
            context.answer_stage(&run, stage, outcome)
        }
        CatalogCommand::Export { run, format, out } => {
            let done = exchange::export(&Run::open(&run)?, Format::of(&format)?, &out)?;
            if context.global.json {
                output::json(&done)?;
            } else {
                output::line(&done.out.display().to_string())?;
            }
            Ok(ExitCode::SUCCESS)
        }
        CatalogCommand::Features { run, kind, vocab, n, vocabulary, out } => {
            let earlier = vocabulary.as_deref().map(Vocabulary::read).transpose()?;
            let wish = match &earlier {
                Some(earlier) => earlier.wish(kind)?,
                // The arguments have one of the two.
                None => Wish { kind: kind.unwrap_or(Kind::Prefix), vocab, n, earlier: None },
            };
            let done = features::write(&Run::open(&run)?, wish, &out)?;
            if context.global.json {
                output::json(&done)?;
            } else {
                output::line(&format!(
                    "{} items, {:.2} features each of {} ids: {}",
                    done.items,
                    done.mean_features,
                    done.ids,
                    done.out.display()
                ))?;
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn tell_change(context: &Context, changed: &Changed) -> Result<ExitCode> {
    if context.global.json {
        output::json(changed)?;
        return Ok(ExitCode::SUCCESS);
    }
    output::line(&format!(
        "{} added, {} restored, {} removed: {} items, {} distinct semantic IDs, version {}",
        changed.added, changed.restored, changed.removed, changed.items, changed.unique_ids, changed.version
    ))?;
    if let Some(placed) = &changed.placement {
        let moved = format!("{} of the new items moved to free codes, {} share one", placed.moved, placed.left_over);
        output::line(&moved)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn tell_version(version: &Version) -> Result<()> {
    let now = if version.current { "  (current)" } else { "" };
    let parent = version.parent.as_deref().unwrap_or("built");
    output::line(&format!("{}  {} items, from {parent}{now}", version.version, version.items))
}
