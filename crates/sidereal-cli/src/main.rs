//! The `sidereal` binary: parses arguments, calls the library, prints answers on standard output and everything else on
//! standard error. Exit status 0: done; 1: the answer is no; 2: error or bad usage.

mod args;
mod commands;
mod memory;
mod output;
mod panics;
mod progress_bar;

use std::process::ExitCode;

use clap::Parser;

#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// mimalloc's option of how long freed memory is kept before it is given back to the system, in milliseconds.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

fn main() -> ExitCode {
    keep_freed_memory();
    sidereal::generator::training::meter::note_idle();
    let arguments = args::Arguments::parse();
    set_up_threads(arguments.global.threads);
    match panics::caught(|| commands::execute(arguments)) {
        Ok(Ok(code)) => code,
        Ok(Err(error)) => output::fail(&error),
        Err(defect) => output::fail(&defect),
    }
}

/// A training step frees and takes the same hundreds of MiB again: given back to the system in between, their pages
/// are cleared anew each time, which took a third of a step.
fn keep_freed_memory() {
    if std::env::var_os("MIMALLOC_PURGE_DELAY").is_none() {
        // SAFETY: the option exists, takes a number, and -1 means never.
        unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, -1) };
    }
}

/// Tells rayon and candle how many threads to use, before either has started one.
fn set_up_threads(threads: Option<usize>) {
    // Candle's own worker pool takes one operation at a time and spins in between; we run whole requests and parts of
    // batches side by side, so its operations stay on the thread that asks. Where it is wanted, it shall not spin long.
    let unless_set = |name: &str, value: &str| std::env::var_os(name).is_none().then(|| value.to_owned());
    let wanted = [
        ("CANDLE_NUM_THREADS", unless_set("CANDLE_NUM_THREADS", "1")),
        ("CANDLE_BARRIER_POOL_SPIN_LIMIT", unless_set("CANDLE_BARRIER_POOL_SPIN_LIMIT", "100")),
        ("RAYON_NUM_THREADS", threads.map(|threads| threads.max(1).to_string())),
    ];
    for (name, value) in wanted {
        if let Some(value) = value {
            // SAFETY: no other thread runs yet.
            unsafe { std::env::set_var(name, value) };
        }
    }
}
