//! The process's own peak memory, for closing lines.

use sidereal::generator::training::meter;

/// Peak resident memory in MiB, where the system tells it.
pub(crate) fn peak_mib() -> Option<u64> {
    meter::process_peak().map(|bytes| bytes >> 20)
}

/// Peak resident memory in MiB since [`forget_peak`].
pub(crate) fn peak_since_mib() -> Option<u64> {
    meter::resident_peak().map(|bytes| bytes >> 20)
}

/// Lets the peak begin anew from what is resident now, where the system can; else it stays the peak of the process.
pub(crate) fn forget_peak() {
    meter::begin_peak();
}
