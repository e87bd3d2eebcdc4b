//! `sidereal catalog build|import|export|features`.

use std::process::ExitCode;

use sidereal::exchange::{self, Format};
use sidereal::{Result, Run, Stage, features, stages};

use crate::args::CatalogCommand;
use crate::commands::Context;
use crate::output;

pub(crate) fn execute(context: &Context, command: CatalogCommand) -> Result<ExitCode> {
    match command {
        CatalogCommand::Build { run, collisions } => {
            let run = Run::open(&run)?;
            let outcome = stages::catalog::build(&run, collisions)?;
            context.answer_stage(&run, Stage::Catalog, outcome)
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
        CatalogCommand::Features { run, kind, vocab, n, out } => {
            let done = features::write(&Run::open(&run)?, features::Wish { kind, vocab, n }, &out)?;
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
