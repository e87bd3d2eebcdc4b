//! `sidereal evaluate`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use sidereal::evaluate::{Question, evaluate_with};
use sidereal::evaluation::{Evaluation, Metrics, Modes};
use sidereal::generator::Widths;
use sidereal::nn::kernels::Precision;
use sidereal::recommend::Compute;
use sidereal::{Result, Run};

use crate::args::SplitName;
use crate::commands::Context;
use crate::output;

/// The command's arguments.
pub(crate) struct Wish {
    pub(crate) split: SplitName,
    pub(crate) beam: Widths,
    pub(crate) users: Option<usize>,
    pub(crate) exact_users: Option<usize>,
    pub(crate) mean_scores: bool,
    pub(crate) precision: Vec<Precision>,
    pub(crate) baselines_only: bool,
    pub(crate) seed: u64,
}

pub(crate) fn execute(context: &Context, run: &Path, with: &[PathBuf], wish: Wish) -> Result<ExitCode> {
    let run = Run::open(run)?;
    let others = with.iter().map(|run| Run::open(run)).collect::<Result<Vec<_>>>()?;
    let question = Question {
        validation: wish.split == SplitName::Validation,
        beam: wish.beam,
        users: wish.users,
        exact_users: wish.exact_users,
        mean_scores: wish.mean_scores,
        baselines_only: wish.baselines_only,
        seed: wish.seed,
    };
    let device = context.global.device;
    let computes: Vec<Compute> = wish.precision.iter().map(|&precision| Compute { device, precision }).collect();
    let evaluation = evaluate_with(&run, &others, question, &computes, context.progress.as_ref())?;
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
    groups(evaluation)?;
    domains(evaluation)?;
    exact(evaluation)?;
    evaluation.verdict.iter().try_for_each(|sentence| output::line(sentence))
}

/// The users of each domain, ranked for among all items and among the domain's.
fn domains(evaluation: &Evaluation) -> Result<()> {
    for domain in &evaluation.domains {
        output::line(&format!("{}: {} users, {} items", domain.name, domain.users, domain.items))?;
        let head =
            format!("{:>22}{:>11}{:>22}{:>11}", "recall@10, all items", "ndcg@10", "recall@10, its items", "ndcg@10");
        for (seen_removed, words) in [(false, "the history stays"), (true, "the history removed")] {
            output::line(&format!("  {words:<30}{head}"))?;
            for (name, _) in evaluation.rows() {
                let Some(row) = domain.rows.get(name) else { continue };
                let of = |modes: &Modes<Metrics>, metric: &str| {
                    let metrics = if seen_removed { &modes.seen_removed } else { &modes.no_filter };
                    metrics.get(metric).copied().unwrap_or(f64::NAN)
                };
                let (whole, within) = (&row.whole, &row.within);
                output::line(&format!(
                    "  {name:<30}{:>22.4}{:>11.4}{:>22.4}{:>11.4}",
                    of(whole, "recall@10"),
                    of(whole, "ndcg@10"),
                    of(within, "recall@10"),
                    of(within, "ndcg@10")
                ))?;
            }
        }
        output::line("")?;
    }
    Ok(())
}

/// How far decodings agree with exact scoring.
fn exact(evaluation: &Evaluation) -> Result<()> {
    if evaluation.exact.is_empty() {
        return Ok(());
    }
    output::line(&format!("{:<32}{:>11}{:>22}{:>11}", "first ten items, exact scoring", "shared", "95 %", "users"))?;
    for (name, agreement) in &evaluation.exact {
        let [low, high] = agreement.interval;
        let between = format!("{low:.4} to {high:.4}");
        output::line(&format!("  {name:<30}{:>11.4}{between:>22}{:>11}", agreement.share, agreement.users))?;
    }
    output::line("")
}

/// Recall@10 on the whole catalog by the target's popularity and the history's length.
fn groups(evaluation: &Evaluation) -> Result<()> {
    const GROUPS: [(&str, &str); 7] = [
        ("buckets", "head"),
        ("buckets", "mid"),
        ("buckets", "tail"),
        ("buckets", "cold"),
        ("history", "short"),
        ("history", "mid"),
        ("history", "long"),
    ];
    let head: String = GROUPS
        .iter()
        .map(|(of, name)| {
            format!("{:>11}", if *of == "history" { format!("{name} hist.") } else { (*name).to_owned() })
        })
        .collect();
    output::line(&format!("{:<32}{head}", "recall@10, the whole catalog"))?;
    for (name, _) in evaluation.rows() {
        let Some(detail) = evaluation.details.get(name).map(|modes| &modes.no_filter) else { continue };
        let cell = |(of, group): &(&str, &str)| {
            let groups = if *of == "history" { &detail.history } else { &detail.buckets };
            let value = groups.get(*group).filter(|g| g.get("users").is_some_and(|&users| users > 0.0));
            value.and_then(|g| g.get("recall@10")).map_or(format!("{:>11}", "-"), |v| format!("{v:>11.4}"))
        };
        output::line(&format!("  {name:<30}{}", GROUPS.iter().map(cell).collect::<String>()))?;
    }
    output::line("")
}
