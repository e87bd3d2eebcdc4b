//! The process's own peak memory, for closing lines.

use sidereal::generator::training::meter;

/// Peak resident memory in MiB, where the system tells it.
pub(crate) fn peak_mib() -> Option<u64> {
    meter::process_peak().map(|bytes| bytes >> 20)
}
