//! `sidereal evaluate`.

use std::path::Path;
use std::process::ExitCode;

use sidereal::evaluate::{Question, evaluate};
use sidereal::evaluation::{Evaluation, Metrics};
use sidereal::{Result, Run};

use crate::args::SplitName;
use crate::commands::Context;
use crate::output;

/// The command's arguments.
pub(crate) struct Wish {
    pub(crate) split: SplitName,
    pub(crate) beam: usize,
    pub(crate) users: Option<usize>,
    pub(crate) baselines_only: bool,
    pub(crate) seed: u64,
}

pub(crate) fn execute(context: &Context, run: &Path, wish: Wish) -> Result<ExitCode> {
    let run = Run::open(run)?;
    let question = Question {
        validation: wish.split == SplitName::Validation,
        beam: wish.beam,
        users: wish.users,
        baselines_only: wish.baselines_only,
        seed: wish.seed,
    };
    let evaluation = evaluate(&run, question, context.global.device, context.progress.as_ref())?;
    if context.global.json {
        output::json(&evaluation)?
    } else {
        table(&evaluation)?
    }
    Ok(ExitCode::SUCCESS)
}

const COLUMNS: [&str; 5] = ["recall@5", "recall@10", "ndcg@5", "ndcg@10", "mrr"];

/// Prints an evaluation for a person.
pub(crate) fn table(evaluation: &Evaluation) -> Result<()> {
    output::line(&format!("{} users of the {} split, {} items", evaluation.users, evaluation.split, evaluation.items))?;
    let rows = evaluation.rows();
    for (mode, words) in [("no_filter", "the whole catalog"), ("seen_removed", "the user's own history removed")] {
        let head: String = COLUMNS.iter().map(|name| format!("{name:>10}")).collect();
        output::line(&format!("\n{words:<32}{head}"))?;
        for (name, modes) in &rows {
            let metrics: &Metrics = if mode == "no_filter" { modes.no_filter } else { modes.seen_removed };
            let cells: String =
                COLUMNS.iter().map(|c| metrics.get(*c).map_or(" ".repeat(10), |v| format!("{v:>10.4}"))).collect();
            output::line(&format!("  {name:<30}{cells}"))?;
        }
    }
    output::line("")?;
    evaluation.verdict.iter().try_for_each(|sentence| output::line(sentence))
}
