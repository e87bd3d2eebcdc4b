//! One file per command: arguments in, library calls, an answer out.

mod bench;
mod calibrate;
mod catalog;
mod compare;
mod data;
mod demo;
mod evaluate;
mod generator;
mod methods;
mod recommend;
mod run;
mod tokenizer;
mod vectors;

use std::process::ExitCode;

use clap::CommandFactory;
use sidereal::core::Progress;
use sidereal::{Outcome, Result, Stage};

use crate::args::{Arguments, Command, Global};
use crate::{output, progress_bar};

/// What every command gets.
pub(crate) struct Context {
    pub(crate) global: Global,
    pub(crate) progress: Box<dyn Progress>,
}

/// Runs a command.
pub(crate) fn execute(arguments: Arguments) -> Result<ExitCode> {
    let Arguments { command, global } = arguments;
    let context = Context { progress: progress_bar::watcher(global.quiet), global };
    match command {
        Command::Demo { out } => demo::execute(&context, &out),
        Command::Run { recipe, data, out, until, seed } => {
            run::execute(&context, &run::Job { recipe, data, out, until, seed })
        }
        Command::Compare { rows, data, out, seeds } => {
            compare::execute(&context, &compare::Job { rows, data, out, seeds })
        }
        Command::Data(command) => data::prepare(&context, command),
        Command::Embed(wish) => data::embed(&context, wish),
        Command::Vectors(command) => vectors::execute(&context, command),
        Command::Tokenizer(command) => tokenizer::execute(&context, command),
        Command::Catalog(command) => catalog::execute(&context, command),
        Command::Generator(command) => generator::execute(&context, command),
        Command::Evaluate {
            run,
            with,
            split,
            beam,
            users,
            exact_users,
            mean_scores,
            precision,
            baselines_only,
            seed,
        } => {
            let wish = evaluate::Wish { split, beam, users, exact_users, mean_scores, precision, baselines_only, seed };
            evaluate::execute(&context, &run, &with, wish)
        }
        Command::Calibrate { run, items, beam, seed } => calibrate::execute(&context, &run, items, beam, seed),
        Command::Recommend(wish) => recommend::execute(&context, &wish),
        Command::Bench(command) => bench::execute(&context, command),
        Command::Inspect { path, verify } => methods::inspect(&context, &path, verify),
        Command::Methods => methods::execute(&context),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Arguments::command(), "sidereal", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
    }
}

impl Context {
    /// Tells a person, unless told to be quiet.
    pub(crate) fn tell(&self, text: &str) {
        if !self.global.quiet {
            output::tell(text);
        }
    }

    /// Tells that a stage has ended.
    pub(crate) fn tell_stage(&self, stage: Stage, outcome: Outcome, seconds: f64) {
        match outcome {
            Outcome::Kept => self.tell(&format!("{:<10} kept: nothing it is made from has changed", stage.name())),
            Outcome::Made => self.tell(&format!("{:<10} made in {seconds:.1} s", stage.name())),
        }
    }

    /// Answers a stage command: the manifest as JSON, or a line for a person.
    pub(crate) fn answer_stage(&self, run: &sidereal::Run, stage: Stage, outcome: Outcome) -> Result<ExitCode> {
        let manifest = run.manifest(stage)?;
        if self.global.json {
            output::json(&manifest)?;
        } else {
            let kept = if outcome == Outcome::Kept { " (kept: nothing it is made from has changed)" } else { "" };
            output::line(&format!("{}{kept}", run.dir(stage).display()))?;
            if let serde_json::Value::Object(facts) = &manifest.facts {
                for (name, value) in facts {
                    output::line(&format!("  {name}: {value}"))?;
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
