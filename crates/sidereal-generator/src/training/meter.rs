//! What a training or a fit costs this process: processor time and memory, as the system tells them.
//!
//! These figures depend on the machine. They stand in a manifest's `measured` section, which is no part of what an
//! artefact is.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

pub use crate::bench::process_cpu_s;

/// Resident memory before any work, in bytes.
static IDLE: AtomicU64 = AtomicU64::new(0);
/// The highest peak before the last [`begin_peak`], in bytes.
static BEFORE: AtomicU64 = AtomicU64::new(0);

/// Notes what the process needs before it has done anything; later figures are without it. To be called first of all.
pub fn note_idle() {
    IDLE.store(status("VmRSS:").unwrap_or(0), Ordering::Relaxed);
}

/// The highest resident memory of the process so far, in bytes, what it needs when idle included.
pub fn process_peak() -> Option<u64> {
    Some(status("VmHWM:")?.max(BEFORE.load(Ordering::Relaxed)))
}

/// Lets [`peak_since`] begin anew from what is resident now, where the system can (Linux); else it goes on from before.
pub fn begin_peak() {
    if let Some(peak) = process_peak() {
        BEFORE.fetch_max(peak, Ordering::Relaxed);
    }
    // The code that clears the peak and nothing else; see proc(5), "clear_refs".
    let _ = std::fs::write("/proc/self/clear_refs", b"5");
}

/// The highest resident memory since [`begin_peak`], in bytes, without what [`note_idle`] noted.
pub fn peak_since() -> Option<u64> {
    Some(resident_peak()?.saturating_sub(IDLE.load(Ordering::Relaxed)))
}

/// As [`peak_since`], with what the idle process needs.
pub fn resident_peak() -> Option<u64> {
    status("VmHWM:")
}

/// Measures one piece of work from its beginning on.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch {
    began: Instant,
    cpu_s: f64,
}

impl Stopwatch {
    /// Begins, the peak of memory too ([`begin_peak`]).
    pub fn begin() -> Self {
        begin_peak();
        Self { began: Instant::now(), cpu_s: process_cpu_s().unwrap_or_default() }
    }

    /// Wall time.
    pub fn seconds(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    /// Processor time of all threads of the process; 0 where the system does not tell.
    pub fn cpu_seconds(&self) -> f64 {
        process_cpu_s().map_or(0.0, |seconds| seconds - self.cpu_s)
    }

    /// As [`peak_since`]; 0 where the system does not tell.
    pub fn peak_memory_bytes(&self) -> u64 {
        peak_since().unwrap_or(0)
    }

    /// All of it by name, as a manifest keeps it.
    pub fn figures(&self) -> BTreeMap<String, f64> {
        figures(self.seconds(), self.cpu_seconds(), self.peak_memory_bytes())
    }
}

/// What work cost by name, as a manifest keeps it.
pub fn figures(seconds: f64, cpu_seconds: f64, peak_memory_bytes: u64) -> BTreeMap<String, f64> {
    let figures = [("seconds", seconds), ("cpu_seconds", cpu_seconds), ("peak_memory_bytes", peak_memory_bytes as f64)];
    figures.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// A line of `/proc/self/status`, in bytes.
fn status(name: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with(name))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_peak_is_at_least_what_was_held_and_a_process_keeps_its_highest() {
        begin_peak();
        let held = vec![1u8; 64 << 20];
        assert!(std::hint::black_box(&held).iter().step_by(4096).all(|&byte| byte == 1));
        let peak = peak_since().unwrap();
        assert!(peak >= 64 << 20, "{peak}");
        drop(held);
        begin_peak();
        assert!(process_peak().unwrap() >= 64 << 20);
        assert!(process_cpu_s().unwrap() > 0.0);
    }
}
