//! A kill in the middle of a training, for the tests that go on after it.

use std::sync::atomic::{AtomicU64, Ordering};

use sidereal_core::Progress;

/// Panics at a step, as a kill would end the process there.
pub(crate) struct KillAt(pub(crate) AtomicU64);

impl Progress for KillAt {
    fn start(&self, _: &str, _: Option<u64>, _: &'static str) {}
    fn advance(&self, _: u64) {
        assert!(self.0.fetch_sub(1, Ordering::Relaxed) > 0, "killed");
    }
    fn note(&self, _: &str) {}
    fn finish(&self) {}
}
