//! What an engine did: counts, and the latencies of the last requests.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Latencies that are kept.
const KEPT: usize = 4096;

/// Counts since the engine began, and latencies of its last answers.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Stats {
    /// Requests that wait now.
    pub queued: usize,
    /// Requests that were answered.
    pub answered: u64,
    /// Requests that were given up: late, taken back, or failed.
    pub given_up: u64,
    /// Batches that were computed.
    pub batches: u64,
    /// Requests that overtook a search under way.
    pub joined: u64,
    /// Catalogs that were put in another's place.
    pub swaps: u64,
    /// Median time from asking to answer of the last 4,096 answers.
    pub p50_ms: f64,
    /// The same that 99 of 100 kept to.
    pub p99_ms: f64,
}

/// Counts while the engine runs.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    answered: AtomicU64,
    given_up: AtomicU64,
    batches: AtomicU64,
    joined: AtomicU64,
    swaps: AtomicU64,
    latencies: Mutex<Latencies>,
}

#[derive(Debug, Default)]
struct Latencies {
    /// Microseconds, the oldest overwritten first.
    kept: Vec<u64>,
    next: usize,
}

impl Meter {
    pub(crate) fn batch(&self) {
        self.batches.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn joined(&self, requests: usize) {
        self.joined.fetch_add(requests as u64, Ordering::Relaxed);
    }

    pub(crate) fn swap(&self) {
        self.swaps.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn gave_up(&self) {
        self.given_up.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn answer(&self, latency: Duration) {
        self.answered.fetch_add(1, Ordering::Relaxed);
        let mut latencies = self.latencies.lock().unwrap_or_else(PoisonError::into_inner);
        let (micros, at) = (latency.as_micros() as u64, latencies.next);
        match latencies.kept.get_mut(at) {
            Some(slot) => *slot = micros,
            None => latencies.kept.push(micros),
        }
        latencies.next = (at + 1) % KEPT;
    }

    pub(crate) fn stats(&self, queued: usize) -> Stats {
        let mut kept = self.latencies.lock().unwrap_or_else(PoisonError::into_inner).kept.clone();
        kept.sort_unstable();
        let share = |share: f64| -> f64 {
            let at = ((kept.len() as f64 * share).ceil() as usize).clamp(1, kept.len().max(1)) - 1;
            kept.get(at).map_or(0.0, |&micros| micros as f64 / 1e3)
        };
        Stats {
            queued,
            answered: self.answered.load(Ordering::Relaxed),
            given_up: self.given_up.load(Ordering::Relaxed),
            batches: self.batches.load(Ordering::Relaxed),
            joined: self.joined.load(Ordering::Relaxed),
            swaps: self.swaps.load(Ordering::Relaxed),
            p50_ms: share(0.5),
            p99_ms: share(0.99),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_latencies_are_kept_and_their_shares_told() {
        let meter = Meter::default();
        assert_eq!(meter.stats(3), Stats { queued: 3, ..Stats::default() });
        (0..KEPT as u64 + 100).for_each(|ms| meter.answer(Duration::from_millis(ms)));
        let stats = meter.stats(0);
        assert_eq!(stats.answered, KEPT as u64 + 100);
        // 100 to 4,195 are left.
        assert!((stats.p50_ms - 2147.0).abs() < 1.0 && (stats.p99_ms - 4155.0).abs() < 1.0, "{stats:?}");
    }
}
