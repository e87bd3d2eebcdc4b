//! `cargo xtask test`: every check, cheapest first, ending at the first that fails.

use crate::step::{self, Result};
use crate::tools;

/// # Errors
/// The first step that failed, in words.
pub(crate) fn run() -> Result<()> {
    step::run("format", step::cargo().args(["fmt", "--all", "--check"]))?;
    step::run(
        "clippy",
        step::cargo().args(["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]),
    )?;
    let model = tools::minilm()?;
    if tools::has_nextest() {
        let mut tests = step::cargo();
        tests.args(["nextest", "run", "--workspace", "--locked"]);
        step::run("tests", tests.env("SIDEREAL_TEST_MINILM", &model))?;
    } else {
        let mut tests = step::cargo();
        tests.args(["test", "--workspace", "--all-targets", "--locked"]);
        step::run("tests", tests.env("SIDEREAL_TEST_MINILM", &model))?;
    }
    step::run("doc tests", step::cargo().args(["test", "--doc", "--workspace", "--locked"]))?;
    step::run(
        "doc links",
        step::cargo().env("RUSTDOCFLAGS", "-D warnings").args(["doc", "--workspace", "--no-deps", "--locked"]),
    )?;
    let mut deny = tools::cargo(&tools::DENY)?;
    // The advisory database lives on the network and changes from day to day: not part of a test.
    step::run("licences and bans", deny.args(["check", "bans", "licenses", "sources", "--hide-inclusion-graph"]))
}
