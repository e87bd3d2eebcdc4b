//! One command of a chore: announced, run in the project's root, timed.
#![allow(clippy::print_stdout, clippy::print_stderr)] // the one place where chores speak

use std::io::{IsTerminal, stderr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// The problem, in words for whoever ran the chore.
pub(crate) type Result<T> = std::result::Result<T, String>;

/// The workspace's root folder, whatever folder the chore was started in.
pub(crate) fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_owned()
}

/// `cargo` as it started this chore, so that the toolchain stays the same.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // What cargo told this program about its own package is nothing to a build that it starts: a build script that looks
    // at it (ring's does) would run again, and all that stands on it, whenever builds with and without it alternate.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")) {
            command.env_remove(name);
        }
    }
    command
}

/// Prints the step's name, runs it, prints its time.
///
/// # Errors
/// The command could not be started, or ended with another code than 0.
pub(crate) fn run(name: &str, command: &mut Command) -> Result<()> {
    heading(name, &line(command));
    let begin = Instant::now();
    let status = without_colour(command).current_dir(root()).status();
    let status = status.map_err(|cause| format!("{name}: `{}` could not be started: {cause}", line(command)))?;
    let seconds = begin.elapsed().as_secs_f64();
    if !status.success() {
        return Err(format!("{name} failed after {seconds:.1} s ({status}); to see it alone: {}", line(command)));
    }
    heading(name, &format!("ok, {seconds:.1} s"));
    Ok(())
}

/// Runs a command quietly and returns what it printed on stdout; its stderr goes through.
///
/// # Errors
/// The command could not be started, or ended with another code than 0.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let found = command.current_dir(root()).stderr(Stdio::inherit()).output();
    let found = found.map_err(|cause| format!("`{}` could not be started: {cause}", line(command)))?;
    if !found.status.success() {
        return Err(format!("`{}` ended with {}", line(command), found.status));
    }
    Ok(String::from_utf8_lossy(&found.stdout).into_owned())
}

/// Whether the command can be started and ends well; prints nothing.
pub(crate) fn works(command: &mut Command) -> bool {
    command
        .current_dir(root())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Answers go to stdout.
pub(crate) fn say(text: &str) {
    println!("{text}");
}

/// Problems go to stderr.
pub(crate) fn complain(problem: &str) {
    eprintln!("{} {problem}", bold("xtask:"));
}

fn heading(name: &str, text: &str) {
    eprintln!("{} {text}", bold(&format!("[{name}]")));
}

fn bold(text: &str) -> String {
    if coloured() { format!("\u{1b}[1m{text}\u{1b}[0m") } else { text.to_owned() }
}

fn coloured() -> bool {
    stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Cargo looks at the terminal itself; what it starts (test runners, rustdoc) does not always.
fn without_colour(command: &mut Command) -> &mut Command {
    if coloured() { command } else { command.env("CARGO_TERM_COLOR", "never").env("NO_COLOR", "1") }
}

/// The command as one would type it.
fn line(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program()).to_string_lossy();
    let variables = command.get_envs().filter(|(name, _)| *name == "RUSTDOCFLAGS").filter_map(|(name, value)| {
        value.map(|value| format!("{}=\"{}\"", name.to_string_lossy(), value.to_string_lossy()))
    });
    let words = command.get_args().map(|word| word.to_string_lossy().into_owned());
    variables.chain([program.into_owned()]).chain(words).collect::<Vec<_>>().join(" ")
}
