//! `sidereal compare`: an accuracy table from recipes.

use std::path::PathBuf;
use std::process::ExitCode;

use sidereal::accuracy::{self, Accuracy, AccuracyRow, Suite, Wish};
use sidereal::data::DataSource;
use sidereal::{Outcome, Result};

use crate::commands::Context;
use crate::output;

/// The command's arguments.
pub(crate) struct Job {
    pub(crate) rows: Vec<PathBuf>,
    pub(crate) data: Vec<PathBuf>,
    pub(crate) out: PathBuf,
    pub(crate) seeds: Option<u64>,
}

pub(crate) fn execute(context: &Context, job: &Job) -> Result<ExitCode> {
    let suite = Suite::load(&job.rows)?;
    let data = DataSource::parse(&job.data)?.unwrap_or_else(|| DataSource::Domains(Vec::new()));
    let wish = Wish {
        data: &data,
        out: &job.out,
        seeds: job.seeds,
        device: context.global.device,
        progress: context.progress.as_ref(),
    };
    let found = accuracy::compare(&suite, wish, |row, seed, finished| {
        // What is kept or shared took no time worth a line.
        if finished.outcome == Outcome::Made {
            context.tell(&format!("{row}, seed {seed}: {} made in {:.1} s", finished.stage.name(), finished.seconds));
        }
    })?;
    if context.global.json {
        output::json(&found)?;
    } else {
        table(&found)?;
        output::line(&format!("\npage: {}", job.out.join(accuracy::PAGE_FILE).display()))?;
    }
    // The answer is no where a row could not be made.
    Ok(if found.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

const COLUMNS: [&str; 4] = ["recall@5", "recall@10", "ndcg@5", "ndcg@10"];

fn table(found: &Accuracy) -> Result<()> {
    for (mode, words) in [("no_filter", "the whole catalog"), ("seen_removed", "the user's own history removed")] {
        let head: String = COLUMNS.iter().map(|name| format!("{name:>17}")).collect();
        output::line(&format!("\n{words:<32}{head}{:>7}{:>11}", "seeds", "CPU s"))?;
        let cell = |row: &AccuracyRow, name: &str| {
            let deviation = row.deviation.get(name).map_or(String::new(), |v| format!(" \u{b1} {v:.4}"));
            row.metrics.get(name).map_or(String::new(), |v| format!("{v:.4}{deviation}"))
        };
        for row in found.rows.iter().filter(|row| row.mode == mode) {
            let cells: String = COLUMNS.iter().map(|name| format!("{:>17}", cell(row, name))).collect();
            let seeds = if row.trained { row.seeds.to_string() } else { "-".to_owned() };
            let cpu = row.measured.get("cpu_seconds").map_or("-".to_owned(), |seconds| format!("{seconds:.0}"));
            output::line(&format!("  {:<30}{cells}{seeds:>7}{cpu:>11}", row.name))?;
        }
    }
    for failed in &found.failed {
        output::line(&format!("\n{}, seed {} failed: {}", failed.name, failed.seed, failed.error))?;
    }
    Ok(())
}
