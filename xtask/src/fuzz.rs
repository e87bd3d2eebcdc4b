//! The fuzz targets of `fuzz/`, a workspace of its own: they link a runtime that nothing else needs.

use std::fs;

use crate::step::{self, Result};
use crate::tools;

/// What to run, and how long.
pub(crate) struct Options {
    target: Option<String>,
    seconds: u32,
}

impl Options {
    /// # Errors
    /// Words that are neither a target nor `--seconds N`.
    pub(crate) fn parse(words: &[String]) -> Result<Self> {
        let mut options = Self { target: None, seconds: 60 };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--seconds" => {
                    let seconds = words.next().and_then(|n| n.parse().ok()).filter(|&n| n > 0);
                    options.seconds = seconds.ok_or("--seconds wants a number above 0")?;
                }
                name if !name.starts_with('-') && options.target.is_none() => options.target = Some(name.to_owned()),
                other => return Err(format!("`{other}` is neither a target nor --seconds N")),
            }
        }
        Ok(options)
    }
}

/// Runs one target, or all of them.
///
/// # Errors
/// A target that there is not, or one that was broken.
pub(crate) fn run(options: &Options) -> Result<()> {
    let known = targets()?;
    let chosen: Vec<&String> = match &options.target {
        Some(name) => vec![
            known
                .iter()
                .find(|target| *target == name)
                .ok_or_else(|| format!("there is no fuzz target `{name}`; there are: {}", known.join(", ")))?,
        ],
        None => known.iter().collect(),
    };
    for target in chosen {
        let mut fuzz = tools::cargo(&tools::FUZZ)?;
        // The flags of the compiler that fuzzing needs are not stable: a stable one takes them when it is told so.
        fuzz.env("RUSTC_BOOTSTRAP", "1").args(["run", target, "--fuzz-dir", "fuzz", "--"]);
        fuzz.arg(format!("-max_total_time={}", options.seconds)).arg("-timeout=10");
        step::run(&format!("fuzz {target}"), &mut fuzz)?;
    }
    Ok(())
}

/// A file in `fuzz/fuzz_targets` each.
fn targets() -> Result<Vec<String>> {
    let folder = step::root().join("fuzz/fuzz_targets");
    let told = |cause| format!("{}: {cause}", folder.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).map_err(told)? {
        let path = entry.map_err(told)?.path();
        names.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
    }
    names.sort();
    Ok(names)
}
