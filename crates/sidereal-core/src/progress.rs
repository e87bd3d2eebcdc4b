//! How long work tells what it is doing, without knowing who watches.

/// A watcher of long work. Libraries call it; the command line draws bars; tests use [`NoProgress`].
pub trait Progress: Send + Sync {
    /// Begins a task of `total` units (`None` if unknown); `unit` is a plural noun such as "items".
    fn start(&self, task: &str, total: Option<u64>, unit: &'static str);
    /// `by` more units are done.
    fn advance(&self, by: u64);
    /// `by` units were done before the task was taken up again: they count, but say nothing of how fast it goes.
    fn resume(&self, by: u64) {
        self.advance(by);
    }
    /// A short text shown beside the task: "loss 3.21".
    fn note(&self, text: &str);
    /// The task has ended.
    fn finish(&self);
}

/// Nobody watches.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn start(&self, _task: &str, _total: Option<u64>, _unit: &'static str) {}
    fn advance(&self, _by: u64) {}
    fn note(&self, _text: &str) {}
    fn finish(&self) {}
}
