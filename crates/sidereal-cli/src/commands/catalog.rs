//! `sidereal catalog build|import|export`.

use std::process::ExitCode;

use sidereal::{Result, Run, Stage, stages};

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
        CatalogCommand::Import { file, format: _, codes, out } => {
            let run = Run::create(&out)?;
            let outcome = stages::catalog::import_lc_rec(&run, &file, codes.as_deref())?;
            context.answer_stage(&run, Stage::Catalog, outcome)
        }
        CatalogCommand::Export { run, format: _, out } => {
            stages::catalog::export_lc_rec(&Run::open(&run)?, &out)?;
            if context.global.json {
                output::json(&serde_json::json!({ "out": out }))?;
            } else {
                output::line(&out.display().to_string())?;
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}
