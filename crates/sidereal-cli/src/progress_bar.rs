//! Progress as bars on a terminal and as plain lines elsewhere, always on standard error.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use sidereal::core::Progress;

/// Between two plain lines, so that a log file stays readable.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Draws bars with a rate and the time left, or prints a line now and then where standard error is not a terminal.
pub(crate) struct Bars {
    terminal: bool,
    task: Mutex<Option<Task>>,
}

struct Task {
    bar: ProgressBar,
    name: String,
    unit: &'static str,
    /// Units that were done before this program began with it.
    before: u64,
    began: Instant,
    last_line: Instant,
    note: String,
}

impl Bars {
    pub(crate) fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal(), task: Mutex::new(None) }
    }

    fn with(&self, act: impl FnOnce(&mut Task)) {
        // A poisoned lock only means that another thread died while drawing.
        let mut task = self.task.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(task) = task.as_mut() {
            act(task);
        }
    }
}

impl Task {
    #[allow(clippy::print_stderr)]
    fn line(&mut self, end: &str) {
        let done = self.bar.position();
        let seconds = self.began.elapsed().as_secs_f64();
        let rate = if seconds > 0.0 { done.saturating_sub(self.before) as f64 / seconds } else { 0.0 };
        let of = self.bar.length().map_or(String::new(), |total| format!("/{total}"));
        let left = self
            .bar
            .length()
            .filter(|&total| total > done && rate > 0.0)
            .map_or(String::new(), |total| format!(", {} left", span((total - done) as f64 / rate)));
        let note = if self.note.is_empty() { String::new() } else { format!(", {}", self.note) };
        let digits = if rate < 10.0 { 1 } else { 0 };
        eprintln!("{}: {done}{of} {} ({rate:.digits$}/s){left}{note}{end}", self.name, self.unit);
        self.last_line = Instant::now();
    }
}

impl Progress for Bars {
    fn start(&self, name: &str, total: Option<u64>, unit: &'static str) {
        self.finish();
        let bar = if self.terminal { ProgressBar::new(total.unwrap_or(0)) } else { ProgressBar::hidden() };
        match total {
            Some(total) => bar.set_length(total),
            None => bar.unset_length(),
        }
        let template = if total.is_some() {
            format!("{{prefix:>24}} {{bar:28}} {{pos}}/{{len}} {unit} {{per_sec}} eta {{eta}} {{msg}}")
        } else {
            format!("{{prefix:>24}} {{spinner}} {{pos}} {unit} {{per_sec}} {{elapsed}} {{msg}}")
        };
        if let Ok(style) = ProgressStyle::with_template(&template) {
            bar.set_style(style);
        }
        bar.set_prefix(name.to_owned());
        let now = Instant::now();
        let (name, note) = (name.to_owned(), String::new());
        let task = Task { bar, name, unit, before: 0, began: now, last_line: now, note };
        *self.task.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(task);
    }

    fn advance(&self, by: u64) {
        let terminal = self.terminal;
        self.with(|task| {
            task.bar.inc(by);
            if !terminal && task.last_line.elapsed() >= LINE_EVERY {
                task.line("");
            }
        });
    }

    fn resume(&self, by: u64) {
        self.with(|task| {
            task.before += by;
            task.bar.inc(by);
            task.bar.reset_eta();
        });
    }

    fn note(&self, text: &str) {
        self.with(|task| {
            task.note = text.to_owned();
            task.bar.set_message(text.to_owned());
        });
    }

    fn finish(&self) {
        let terminal = self.terminal;
        self.with(|task| {
            if terminal {
                task.bar.finish();
            } else {
                let seconds = task.began.elapsed().as_secs_f64();
                task.line(&format!(", done in {seconds:.1} s"));
            }
        });
        *self.task.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = None;
    }
}

/// A time as people say it.
fn span(seconds: f64) -> String {
    match seconds {
        ..120.0 => format!("{seconds:.0} s"),
        ..7200.0 => format!("{:.0} min", seconds / 60.0),
        _ => format!("{:.0} h {:02.0} min", (seconds / 3600.0).floor(), (seconds % 3600.0 / 60.0).floor()),
    }
}

/// Nothing is drawn: `--quiet`.
pub(crate) fn watcher(quiet: bool) -> Box<dyn Progress> {
    if quiet { Box::new(sidereal::core::NoProgress) } else { Box::new(Bars::new()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_in_units_that_can_be_pictured() {
        let told = [0.4, 119.0, 150.0, 7199.0, 7200.0, 11_290.0].map(span);
        assert_eq!(told, ["0 s", "119 s", "2 min", "120 min", "2 h 00 min", "3 h 08 min"]);
    }
}
