//! A panic is a defect, and is told as one: a paragraph and exit status 2, not a trace.
//!
//! Readers of damaged files catch the panics of the libraries below them and make errors of them; those are not told
//! here at all.

use std::panic::{AssertUnwindSafe, catch_unwind, set_hook};
use std::sync::{Mutex, PoisonError};

use sidereal::Error;

static LAST: Mutex<String> = Mutex::new(String::new());

/// Runs `work`; a panic that nobody below catches becomes an error.
pub(crate) fn caught<T>(work: impl FnOnce() -> T) -> Result<T, Error> {
    set_hook(Box::new(|panic| {
        *LAST.lock().unwrap_or_else(PoisonError::into_inner) = panic.to_string().replace('\n', " ");
    }));
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| {
        let what = LAST.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mend = "this is a defect of sidereal: please report it with the command that you ran";
        sidereal::core::Error::input("sidereal", what, mend).into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::panic)]
    fn a_panic_becomes_one_paragraph() {
        let told = caught(|| -> u32 { panic!("two\nlines") }).map_err(|error| error.to_string());
        let told = told.err().unwrap_or_default();
        assert!(told.contains("two lines") && told.contains("please report it") && !told.contains('\n'), "{told}");
        assert_eq!(caught(|| 7).ok(), Some(7));
    }
}
