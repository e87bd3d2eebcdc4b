//! `cargo xtask bench-peers`: peer and project in turn, in one run, on the same input.
//!
//! Absolute figures move with the machine and with what else it does; ratios taken within a round hold. So the two are
//! run A B, B A, A B, and the median of the rounds' ratios is the result.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::comparison::{COMPARISONS, Comparison};
use crate::step::{self, Result};
use crate::tools;

/// What the command line asked for.
pub(crate) struct Options {
    threads: usize,
    rounds: usize,
    only: Vec<String>,
}

impl Options {
    /// # Errors
    /// An unknown flag or comparison, or a number that is none.
    pub(crate) fn parse(arguments: &[String]) -> Result<Self> {
        let mut options = Self { threads: 1, rounds: 3, only: Vec::new() };
        for pair in arguments.chunks(2) {
            let [flag, value] = pair else { return Err(format!("`{}` needs a value", pair[0])) };
            match flag.as_str() {
                "--threads" => options.threads = positive(flag, value)?,
                "--rounds" => options.rounds = positive(flag, value)?,
                "--only" => options.only = value.split(',').map(str::to_owned).collect(),
                _ => return Err(format!("`{flag}` is not a flag of bench-peers")),
            }
        }
        match options.only.iter().find(|name| COMPARISONS.iter().all(|row| row.name != **name)) {
            Some(unknown) => {
                let mut names: Vec<&str> = COMPARISONS.iter().map(|row| row.name).collect();
                names.dedup();
                Err(format!("--only {unknown}: there are {}", names.join(", ")))
            }
            None => Ok(options),
        }
    }

    fn wants(&self, row: &Comparison) -> bool {
        self.only.is_empty() || self.only.iter().any(|name| name == row.name)
    }
}

/// # Errors
/// A value that is no number from 1.
pub(crate) fn positive(flag: &str, value: &str) -> Result<usize> {
    value.parse().ok().filter(|&n| n > 0).ok_or_else(|| format!("{flag} {value}: give a number from 1"))
}

/// # Errors
/// The environment, the build or a run failed.
pub(crate) fn run(options: &Options) -> Result<()> {
    let bench = Bench::prepare(build()?, options.threads)?;
    let mut found = Vec::new();
    for comparison in COMPARISONS.iter().filter(|row| options.wants(row)) {
        found.extend(bench.compare(comparison, options.rounds)?);
    }
    let table = format!(
        "{} thread(s), {} rounds; a ratio above 1: Sidereal is faster, or errs less.\n\n{}",
        options.threads,
        options.rounds,
        rows(&found)
    );
    let report = json!({ "threads": options.threads, "rounds": options.rounds, "rows": found });
    write(&bench.inputs.join("ratios.md"), &table)?;
    write(&bench.inputs.join("ratios.json"), &format!("{report:#}\n"))?;
    step::say(&table);
    step::say(&report.to_string());
    Ok(())
}

/// The release binary, built.
///
/// # Errors
/// The build failed.
pub(crate) fn build() -> Result<PathBuf> {
    step::run("build", step::cargo().args(["build", "--release", "--locked", "--bin", "sidereal"]))?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| step::root().join("target"), PathBuf::from);
    let binary = target.join("release").join(format!("sidereal{}", std::env::consts::EXE_SUFFIX));
    if binary.exists() { Ok(binary) } else { Err(format!("{} is missing after the build", binary.display())) }
}

/// Peers, the project, and the inputs of both.
pub(crate) struct Bench {
    python: PathBuf,
    scripts: PathBuf,
    sidereal: PathBuf,
    inputs: PathBuf,
    threads: usize,
}

impl Bench {
    /// Installs the peers and writes the inputs, where they are not there yet.
    ///
    /// # Errors
    /// The environment cannot be made, or the inputs not be written.
    pub(crate) fn prepare(sidereal: PathBuf, threads: usize) -> Result<Self> {
        let bench = Self {
            python: tools::python(".venv-peers", "benches/peers/requirements.txt")?,
            scripts: step::root().join("benches").join("peers"),
            sidereal,
            inputs: step::root().join("target").join("peers"),
            threads,
        };
        step::run("inputs", bench.script("inputs.py").arg(&bench.inputs))?;
        Ok(bench)
    }

    fn script(&self, name: &str) -> Command {
        let mut command = Command::new(&self.python);
        command.arg(self.scripts.join(name)).env("PEERBENCH_DATA", &self.inputs).env("HF_HUB_OFFLINE", "1");
        command
    }

    fn peer_words(&self, comparison: &Comparison) -> Vec<String> {
        let mut words = self.words(comparison.peer);
        words.extend(["--threads".to_owned(), self.threads.to_string()]);
        words
    }

    fn project_words(&self, comparison: &Comparison) -> Vec<String> {
        let mut words = vec!["bench".to_owned()];
        words.extend(self.words(comparison.project));
        words.extend(["--threads".to_owned(), self.threads.to_string(), "--json".to_owned()]);
        words
    }

    fn words(&self, template: &str) -> Vec<String> {
        let inputs = self.inputs.to_string_lossy();
        template.split_whitespace().map(|word| word.replace("{in}", &inputs)).collect()
    }

    /// One table row for each figure of the comparison.
    ///
    /// # Errors
    /// Peer or project failed, or printed no figures.
    pub(crate) fn compare(&self, comparison: &Comparison, rounds: usize) -> Result<Vec<Value>> {
        let (script, arguments) = split(self.peer_words(comparison))?;
        let mut peer = vec![self.python.to_string_lossy().into_owned()];
        peer.push(self.scripts.join(script).to_string_lossy().into_owned());
        peer.extend(arguments);
        let mut project = vec![self.sidereal.to_string_lossy().into_owned()];
        project.extend(self.project_words(comparison));

        let mut side = self.script("sidebyside.py");
        side.args(["--rounds", &rounds.to_string()]);
        side.args(["--cmd", &format!("peer[{}]={}", comparison.peer_keys, quoted(&peer))]);
        side.args(["--cmd", &format!("sidereal[{}]={}", comparison.project_keys, quoted(&project))]);
        let printed = step::output(&mut side)?;
        let found: Vec<Value> = printed
            .lines()
            .last()
            .and_then(|last| serde_json::from_str(last).ok())
            .ok_or_else(|| format!("sidebyside.py printed no JSON for {}", comparison.name))?;
        let same = if comparison.same_answers { Some(self.same_answers(comparison)?) } else { None };
        Ok(found
            .iter()
            .zip(comparison.figures)
            .map(|(row, figure)| {
                json!({ "name": comparison.name, "figure": figure, "peer": row["median"]["peer"],
                    "sidereal": row["median"]["sidereal"], "ratio": row["ratio_to_base"]["sidereal"],
                    "same_answers": same })
            })
            .collect())
    }

    /// The share of answers that are equal, rank by rank.
    fn same_answers(&self, comparison: &Comparison) -> Result<Value> {
        let answers = self.inputs.join("answers.json");
        let mut project = Command::new(&self.sidereal);
        project.args(self.project_words(comparison)).arg("--save-output").arg(&answers);
        step::output(&mut project)?;
        let (script, arguments) = split(self.peer_words(comparison))?;
        let mut peer = self.script(&script);
        let printed = step::output(peer.args(arguments).arg("--check").arg(&answers))?;
        let found: Option<Value> = printed.lines().last().and_then(|last| serde_json::from_str(last).ok());
        found
            .map(|value| value["same_sequences_frac"].clone())
            .ok_or_else(|| format!("{script} --check printed no JSON"))
    }
}

fn split(mut words: Vec<String>) -> Result<(String, Vec<String>)> {
    if words.is_empty() {
        return Err("a comparison names no script".to_owned());
    }
    let script = words.remove(0);
    Ok((script, words))
}

/// For sidebyside.py, which splits as a shell does.
fn quoted(words: &[String]) -> String {
    words.iter().map(|word| format!("'{}'", word.replace('\'', "'\\''"))).collect::<Vec<_>>().join(" ")
}

/// # Errors
/// The file cannot be written; it is named.
pub(crate) fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(|cause| format!("{}: {cause}", path.display()))
}

/// Rows of [`Bench::compare`] as a table.
pub(crate) fn rows(found: &[Value]) -> String {
    let mut table =
        "| what | peer | Sidereal | ratio (min .. max) | same answers |\n|---|---|---|---|---|\n".to_owned();
    for row in found {
        let number = |value: &Value| value.as_f64().map_or_else(|| "-".to_owned(), |x| format!("{x:.2}"));
        let ratio = &row["ratio"];
        let share = row["same_answers"].as_f64().map_or_else(|| "-".to_owned(), |x| format!("{:.2} %", 100.0 * x));
        table += &format!(
            "| {} | {} | {} | **{}** ({} .. {}) | {share} |\n",
            row["figure"].as_str().unwrap_or_default(),
            number(&row["peer"]),
            number(&row["sidereal"]),
            number(&ratio["median"]),
            number(&ratio["min"]),
            number(&ratio["max"]),
        );
    }
    table
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn an_unknown_comparison_is_refused_by_name() {
        let problem = Options::parse(&words("--only train,baem")).err().unwrap();
        assert!(problem.contains("baem") && problem.contains("beam"), "{problem}");
    }

    #[test]
    fn a_flag_without_a_number_is_refused() {
        for line in ["--rounds", "--rounds 0", "--threads two", "--quick 1"] {
            assert!(Options::parse(&words(line)).is_err(), "{line}");
        }
    }

    #[test]
    fn every_comparison_names_as_many_keys_as_figures_on_both_sides() {
        for row in COMPARISONS {
            assert_eq!(row.peer_keys.split(',').count(), row.figures.len(), "{}", row.name);
            assert_eq!(row.project_keys.split(',').count(), row.figures.len(), "{}", row.name);
        }
    }

    #[test]
    fn every_peer_script_of_a_comparison_is_in_the_project() {
        for row in COMPARISONS {
            let script = row.peer.split_whitespace().next().unwrap();
            assert!(step::root().join("benches/peers").join(script).is_file(), "{script}");
        }
    }

    #[test]
    fn the_table_says_where_answers_were_not_compared() {
        let ratio = json!({ "median": 2.0, "min": 1.5, "max": 2.5 });
        let table =
            rows(&[json!({ "figure": "steps", "peer": 1.0, "sidereal": 2.0, "ratio": ratio, "same_answers": null })]);
        assert!(table.ends_with("| steps | 1.00 | 2.00 | **2.00** (1.50 .. 2.50) | - |\n"), "{table}");
    }
}
