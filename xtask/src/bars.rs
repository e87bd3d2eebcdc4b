//! `cargo xtask bars`: what the tokenizers are held to, beside what a run, a comparison and the peers say.
//!
//! In reading order: `list` has the bars and judges them, `kept` what earlier calls measured.

mod kept;
mod list;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::bench_peers::{self, Bench, positive, write};
use crate::comparison::{COMPARISONS, Comparison};
use crate::step::{self, Result};
use kept::Kept;
use list::{BARS, Found, Verdict};

/// Made as far as the split; its tokenizer is not used.
const RECIPE: &str = "examples/beauty/quick.toml";
const METHODS: &str = "examples/tokenizers/beauty.toml";
/// Per CPU-second: more threads would only add what they cost each other.
const THREADS: usize = 1;

/// What is measured together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Tokenizers of a data set's items.
    Quality,
    /// Peers and project in turn.
    Speed,
    /// The streamed encode job.
    Job,
}

impl Part {
    const ALL: [Self; 3] = [Self::Quality, Self::Speed, Self::Job];

    fn name(self) -> &'static str {
        match self {
            Self::Quality => "quality",
            Self::Speed => "speed",
            Self::Job => "job",
        }
    }
}

/// What the command line asked for.
#[derive(Debug)]
pub(crate) struct Options {
    data: Option<PathBuf>,
    parts: Vec<Part>,
    rounds: usize,
    items: Vec<u64>,
    strict: bool,
}

impl Options {
    /// # Errors
    /// An unknown flag or part, a number that is none, quality without data.
    pub(crate) fn parse(words: &[String]) -> Result<Self> {
        let items = vec![100_000, 1_000_000];
        let mut options = Self { data: None, parts: Part::ALL.to_vec(), rounds: 3, items, strict: false };
        let mut words = words.iter();
        while let Some(flag) = words.next() {
            if flag == "--strict" {
                options.strict = true;
                continue;
            }
            let value = words.next().ok_or_else(|| format!("`{flag}` is not a flag of bars, or needs a value"))?;
            match flag.as_str() {
                // Commands run in the project's root, wherever this one was started.
                "--data" => {
                    let folder = std::path::absolute(value).map_err(|cause| format!("--data {value}: {cause}"))?;
                    options.data = Some(folder);
                }
                "--only" => options.parts = value.split(',').map(part).collect::<Result<_>>()?,
                "--rounds" => options.rounds = positive(flag, value)?,
                "--items" => {
                    let items = value.split(',').map(|number| positive(flag, number).map(|n| n as u64));
                    options.items = items.collect::<Result<_>>()?;
                }
                _ => return Err(format!("`{flag}` is not a flag of bars")),
            }
        }
        if options.wants(Part::Quality) && options.data.is_none() {
            return Err("give --data FOLDER, the data set whose items are tokenized, or --only speed,job".to_owned());
        }
        Ok(options)
    }

    fn wants(&self, part: Part) -> bool {
        self.parts.contains(&part)
    }
}

fn part(name: &str) -> Result<Part> {
    let found = Part::ALL.into_iter().find(|part| part.name() == name);
    found.ok_or_else(|| format!("--only {name}: there are quality, speed, job"))
}

/// Measures what is asked for and not there yet, and judges every bar by all that is there.
///
/// # Errors
/// The build, the environment or a command failed; with `--strict`, a measured bar that does not hold.
pub(crate) fn run(options: &Options) -> Result<()> {
    let sidereal = bench_peers::build()?;
    let folder = step::root().join("target").join("bars");
    fs::create_dir_all(&folder).map_err(|cause| format!("{}: {cause}", folder.display()))?;
    let mut kept = Kept::open(folder.join("measured.json"), &sidereal)?;
    let quality = quality(options, &sidereal, &folder)?;
    let peers = speed(options, &sidereal, &mut kept)?;
    let jobs = jobs(options, &sidereal, &folder, &mut kept)?;
    let found = Found { quality, peers, jobs };
    let verdicts: Vec<Verdict> = BARS.iter().map(|bar| bar.judge(&found)).collect();
    let table = fs::read_to_string(folder.join("tables.txt")).unwrap_or_default();
    let page = page(&verdicts, &found, &table);
    let measured: Vec<Value> = verdicts.iter().map(Verdict::json).collect();
    let report = json!({ "threads": THREADS, "bars": measured, "peers": found.peers, "jobs": found.jobs,
        "quality": found.quality });
    write(&folder.join("bars.md"), &page)?;
    write(&folder.join("bars.json"), &format!("{report:#}\n"))?;
    step::say(&page);
    match missed(&verdicts) {
        missed if options.strict && !missed.is_empty() => Err(format!("bars that do not hold: {}", missed.join("; "))),
        _ => Ok(()),
    }
}

/// The comparison of all tokenizers: made, or gone on with, where it is asked for; else what is there of it.
fn quality(options: &Options, sidereal: &Path, folder: &Path) -> Result<Value> {
    let (run, tables) = (folder.join("run"), folder.join("tables"));
    if let Some(data) = options.data.as_ref().filter(|_| options.wants(Part::Quality)) {
        let mut make = Command::new(sidereal);
        make.args(["run", RECIPE, "--until", "split", "--data"]).arg(data).arg("--out").arg(&run);
        step::run("run", &mut make)?;
        let mut compare = Command::new(sidereal);
        compare.args(["tokenizer", "compare"]).arg(&run).args(["--methods", METHODS, "--page", "--out"]).arg(&tables);
        write(&folder.join("tables.txt"), &step::output(&mut compare)?)?;
    }
    let file = tables.join("compare.json");
    match fs::read_to_string(&file) {
        Ok(text) => serde_json::from_str(&text).map_err(|cause| format!("{}: {cause}; remove it", file.display())),
        Err(_) => Ok(Value::Null),
    }
}

/// The rows of the comparisons that bars need.
fn speed(options: &Options, sidereal: &Path, kept: &mut Kept) -> Result<Vec<Value>> {
    let mut bench = None;
    let mut found = Vec::new();
    for row in COMPARISONS.iter().filter(|row| is_needed(row)) {
        let asked = format!("{} | {}", row.peer, row.project);
        if options.wants(Part::Speed) && kept.get(&asked).is_none_or(|rows| rows["rounds"] != options.rounds) {
            let bench: &Bench = match &mut bench {
                Some(bench) => bench,
                none => none.insert(Bench::prepare(sidereal.to_owned(), THREADS)?),
            };
            let rows = bench.compare(row, options.rounds)?;
            kept.put(&asked, json!({ "rounds": options.rounds, "rows": rows }))?;
        }
        found.extend(kept.get(&asked).and_then(|found| found["rows"].as_array()).into_iter().flatten().cloned());
    }
    Ok(found)
}

fn is_needed(row: &Comparison) -> bool {
    BARS.iter().filter_map(|bar| bar.comparison()).any(|(comparison, _)| comparison == row.name)
}

/// The job's figures by number of items, the fewest first.
fn jobs(options: &Options, sidereal: &Path, folder: &Path, kept: &mut Kept) -> Result<Vec<Value>> {
    for items in options.items.iter().filter(|_| options.wants(Part::Job)) {
        let asked = job_of(*items);
        if kept.get(&asked).is_none() {
            let mut job = Command::new(sidereal);
            job.args(["bench", "job", "--json", "--items", &items.to_string(), "--work"]).arg(folder.join("job"));
            let printed = step::output(&mut job)?;
            let found = printed.lines().last().and_then(|last| serde_json::from_str::<Value>(last).ok());
            let mut found = found.ok_or("`sidereal bench job` printed no JSON")?;
            kept.put(&asked, found["curve"][0].take())?;
        }
    }
    let mut found: Vec<Value> = kept.all(JOB).cloned().collect();
    found.sort_by_key(|job| job["items"].as_u64());
    Ok(found)
}

const JOB: &str = "job of ";

fn job_of(items: u64) -> String {
    format!("{JOB}{items}")
}

fn missed(verdicts: &[Verdict]) -> Vec<&'static str> {
    verdicts.iter().filter(|verdict| verdict.holds() == Some(false)).map(|verdict| verdict.bar.what).collect()
}

fn page(verdicts: &[Verdict], found: &Found, table: &str) -> String {
    let held = verdicts.iter().filter(|verdict| verdict.holds() == Some(true)).count();
    let measured = verdicts.iter().filter(|verdict| verdict.found.is_some()).count();
    let mut page = format!(
        "{} bars: {held} hold, {} do not, {} were not measured.\n\n| bar | wanted | found | holds |\n|---|---|---|---|\n",
        verdicts.len(),
        measured - held,
        verdicts.len() - measured
    );
    for verdict in verdicts {
        let number = verdict.found.map_or_else(|| "-".to_owned(), |found| format!("{found:.4}"));
        let holds = match (verdict.holds(), verdict.missed_by()) {
            (None, _) => "not measured".to_owned(),
            (Some(true), _) => "yes".to_owned(),
            (Some(false), by) => format!("**no**, by {:.1} %", 100.0 * by.unwrap_or_default()),
        };
        page += &format!("| {} | {} | {number} | {holds} |\n", verdict.bar.what, verdict.bar.bound());
    }
    if !found.quality.is_null() && !table.is_empty() {
        page +=
            &format!("\nTokenizers of the same items (pages and all figures in `tables`):\n\n```text\n{table}```\n");
    }
    if !found.peers.is_empty() {
        page += &format!(
            "\nPeers and project in turn, {THREADS} thread, a ratio above 1: Sidereal is faster, or errs less.\n\n"
        );
        page += &bench_peers::rows(&found.peers);
    }
    if !found.jobs.is_empty() {
        page += "\nThe encode job, Parquet of width 384 to Parquet of 3x256 codes:\n\n\
                 | items | CPU-microseconds an item | items per second | peak memory, MiB | share of copying |\n\
                 |---|---|---|---|---|\n";
        for job in &found.jobs {
            let number = |key: &str, scale: f64, decimals: usize| {
                job[key].as_f64().map_or_else(|| "-".to_owned(), |x| format!("{:.decimals$}", scale * x))
            };
            page += &format!(
                "| {} | {} | {} | {} | {} |\n",
                job["items"],
                number("cpu_s_per_item", 1e6, 1),
                number("items_per_s", 1.0, 0),
                number("peak_memory_mib", 1.0, 0),
                number("share_of_copy", 1.0, 2),
            );
        }
    }
    page
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parse(line: &str) -> Result<Options> {
        Options::parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn quality_needs_data_and_the_other_parts_do_not() {
        assert!(parse("").unwrap_err().contains("--data"));
        assert!(parse("--only quality,speed").is_err());
        assert_eq!(parse("--only speed,job --strict").unwrap().parts, [Part::Speed, Part::Job]);
        assert!(parse("--data beauty").unwrap().data.unwrap().is_absolute());
    }

    #[test]
    fn words_that_mean_nothing_are_refused() {
        for line in
            ["--only sped", "--only job --rounds 0", "--only job --items 10,x", "--only job --quick", "--rounds"]
        {
            assert!(parse(line).is_err(), "{line}");
        }
        assert_eq!(parse("--only job --items 10,20").unwrap().items, [10, 20]);
    }

    #[test]
    fn the_page_counts_what_holds_what_does_not_and_what_nobody_measured() {
        let row = |figure: &str, ratio: f64| {
            json!({ "name": "encode", "figure": figure, "peer": 2.0, "sidereal": 1.0,
            "ratio": { "median": ratio, "min": ratio, "max": ratio }, "same_answers": null })
        };
        let peers = vec![row("encoding: items per CPU-second", 1.5), row("its reconstruction error", 1.25)];
        let found = Found { peers, ..Found::default() };
        let verdicts: Vec<Verdict> = BARS.iter().map(|bar| bar.judge(&found)).collect();
        let page = page(&verdicts, &found, "");
        assert!(page.starts_with(&format!("{0} bars: 1 hold, 1 do not, {1} were not", BARS.len(), BARS.len() - 2)));
        for line in [
            "| residual k-means: encoding over faiss's, per CPU-second | at least 2 | 1.5000 | **no**, by 25.0 % |\n",
            "| residual k-means: error over faiss's, same L, K and iterations | at most 1.02 | 0.8000 | yes |\n",
            "| RQ-VAE: training over PyTorch's, per CPU-second | at least 1.5 | - | not measured |\n",
            "| its reconstruction error | 2.00 | 1.00 | **1.25** (1.25 .. 1.25) | - |\n",
        ] {
            assert!(page.contains(line), "{line}\n{page}");
        }
        assert_eq!(missed(&verdicts), ["residual k-means: encoding over faiss's, per CPU-second"]);
    }
}
