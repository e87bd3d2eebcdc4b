//! `sidereal methods` and `sidereal inspect`.

use std::path::Path;
use std::process::ExitCode;

use sidereal::Result;
use sidereal::methods::{Method, PresetRecipe, methods};

use crate::commands::Context;
use crate::output;

pub(crate) fn execute(context: &Context) -> Result<ExitCode> {
    let all = methods();
    if context.global.json {
        output::json(&all)?;
        return Ok(ExitCode::SUCCESS);
    }
    for (kind, list) in
        [("tokenizers", &all.tokenizers), ("generators", &all.generators), ("baselines", &all.baselines)]
    {
        output::line(kind)?;
        for Method { name, paper, status } in list {
            output::line(&format!("  {name:<14} {status:<13} {paper}"))?;
        }
    }
    output::line("presets")?;
    for PresetRecipe { name, method, paper } in &all.presets {
        output::line(&format!("  {name:<14} {method:<13} {paper}"))?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn inspect(context: &Context, path: &Path, verify: bool) -> Result<ExitCode> {
    let found = sidereal::inspect::inspect(path, verify)?;
    if context.global.json {
        output::json(&found)?;
    } else {
        output::line(&found.text())?;
    }
    Ok(ExitCode::SUCCESS)
}
