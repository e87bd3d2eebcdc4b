//! What is printed where: answers on standard output, errors on standard error.

use std::io::Write;
use std::process::ExitCode;

use serde::Serialize;
use sidereal::{Error, Result};

/// Exit status of an error or bad usage.
const EXIT_ERROR: u8 = 2;

/// Prints an error and gives its exit status.
pub(crate) fn fail(error: &Error) -> ExitCode {
    // Nobody is left to be told that standard error is closed.
    let _ = writeln!(std::io::stderr(), "error: {error}");
    ExitCode::from(EXIT_ERROR)
}

/// Prints a value as JSON on standard output.
pub(crate) fn json<T: Serialize>(value: &T) -> Result<()> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| sidereal::core::Error::input("answer", e.to_string(), "this is a defect: report it"))?;
    line(&text)
}

/// Prints a line on standard output. A reader that has gone away (`| head`) is no error.
pub(crate) fn line(text: &str) -> Result<()> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(sidereal::core::Error::io("write", "standard output", e).into())
        }
        _ => Ok(()),
    }
}

/// Prints a line for a person on standard error.
pub(crate) fn tell(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
