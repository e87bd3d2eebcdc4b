//! `metrics.jsonl`: one line an event, appended while training runs, and the same scalars for TensorBoard.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sidereal_core::Error as CoreError;
use sidereal_core::artifact::write_atomic;

use super::tensorboard::EventFile;
use super::validation::Validation;
use crate::Result;

/// The file's name in the work folder.
pub const METRICS_FILE: &str = "metrics.jsonl";

/// A line of the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// Means over the steps since the line before.
    Train {
        /// Steps done.
        step: u64,
        /// Times through all samples, begun ones included.
        epoch: u64,
        /// Mean cross-entropy a code, in nats.
        loss: f64,
        /// Learning rate of the last step.
        learning_rate: f64,
        /// Mean length of the gradient before clipping.
        grad_norm: f64,
        /// Samples trained on in a second of wall time; differs from run to run.
        samples_per_s: f64,
        /// Share of the steps' wall time in which they waited for samples to be drawn and looked up; differs from run to
        /// run.
        #[serde(default)]
        data_share: f64,
    },
    /// A validation.
    Validation {
        /// Steps done.
        step: u64,
        /// Its figures.
        metrics: Validation,
        /// Whether it is the best so far.
        best: bool,
        /// Wall time; differs from run to run.
        seconds: f64,
    },
}

impl Event {
    fn step(&self) -> u64 {
        match self {
            Self::Train { step, .. } | Self::Validation { step, .. } => *step,
        }
    }

    /// What TensorBoard draws of it.
    fn scalars(&self) -> Vec<(&'static str, f64)> {
        match self {
            Self::Train { loss, learning_rate, grad_norm, samples_per_s, data_share, .. } => vec![
                ("train/loss", *loss),
                ("train/learning_rate", *learning_rate),
                ("train/grad_norm", *grad_norm),
                ("train/samples_per_s", *samples_per_s),
                ("train/data_share", *data_share),
            ],
            Self::Validation { metrics, .. } => {
                vec![("validation/recall@10", metrics.recall_at_10), ("validation/ndcg@10", metrics.ndcg_at_10)]
            }
        }
    }
}

/// The open files.
#[derive(Debug)]
pub(super) struct MetricsLog {
    path: PathBuf,
    file: File,
    board: EventFile,
}

impl MetricsLog {
    /// Opens the files of a run that stands at `step`: what a killed run wrote after it, a torn last line included, is
    /// taken away, so that no step is told twice.
    pub(super) fn open(work_dir: &Path, step: u64) -> Result<Self> {
        let path = work_dir.join(METRICS_FILE);
        let before = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(e) => return Err(CoreError::io("read", &path, e).into()),
        };
        let happened = |line: &&str| serde_json::from_str::<Event>(line).is_ok_and(|event| event.step() <= step);
        let kept: String = before.lines().filter(happened).flat_map(|line| [line, "\n"]).collect();
        if kept != before {
            write_atomic(&path, |out| out.write_all(kept.as_bytes()))?;
        }
        let file = OpenOptions::new().create(true).append(true).open(&path);
        let file = file.map_err(|e| CoreError::io("write", &path, e))?;
        Ok(Self { path, file, board: EventFile::open(work_dir, step)? })
    }

    /// Appends a line, and its scalars.
    pub(super) fn write(&mut self, event: &Event) -> Result<()> {
        let mut line = serde_json::to_string(event)
            .map_err(|e| CoreError::artifact(&self.path, e.to_string(), "this is a defect: report it"))?;
        line.push('\n');
        self.file.write_all(line.as_bytes()).map_err(|e| CoreError::io("write", &self.path, e))?;
        self.board.write(event.step(), &event.scalars())
    }
}

/// Reads the file of a run, for reports.
///
/// # Errors
/// A file that is missing or has a line that is no event.
pub fn read_metrics(path: &Path) -> Result<Vec<Event>> {
    let text = std::fs::read_to_string(path).map_err(|e| CoreError::io("read", path, e))?;
    let event = |(at, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|e| {
            let mend = "the training is still writing, or the file was changed by hand: train again";
            CoreError::artifact(path, format!("line {}: {e}", at + 1), mend).into()
        })
    };
    text.lines().enumerate().map(event).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn train(step: u64) -> Event {
        Event::Train {
            step,
            epoch: 1,
            loss: 2.5,
            learning_rate: 1e-3,
            grad_norm: 0.5,
            samples_per_s: 100.0,
            data_share: 0.01,
        }
    }

    #[test]
    fn opening_at_a_step_takes_away_what_came_after_and_torn_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(METRICS_FILE);
        let mut log = MetricsLog::open(dir.path(), 0).unwrap();
        [10, 20, 30].iter().for_each(|&step| log.write(&train(step)).unwrap());
        log.file.write_all(b"{\"event\":\"train\",\"st").unwrap();
        drop(log);
        let mut log = MetricsLog::open(dir.path(), 20).unwrap();
        log.write(&train(30)).unwrap();
        assert_eq!(read_metrics(&path).unwrap(), [train(10), train(20), train(30)]);
        drop(MetricsLog::open(dir.path(), 0).unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "");
    }
}
