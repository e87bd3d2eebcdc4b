//! The process's own peak memory, for closing lines.

/// Peak resident memory in MiB, where the system tells it.
pub(crate) fn peak_mib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib / 1024)
}

/// Lets the peak begin anew from what is resident now, where the system can; else it stays the peak of the process.
pub(crate) fn forget_peak() {
    // The code that clears the peak and nothing else; see proc(5), "clear_refs".
    let _ = std::fs::write("/proc/self/clear_refs", b"5");
}
