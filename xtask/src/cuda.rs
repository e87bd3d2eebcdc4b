//! The binary for NVIDIA GPUs, built on any Linux machine: the toolkit comes from the Python index.
//!
//! What is downloaded has no `libcuda.so`, which belongs to the driver: a library of empty functions stands in for it while
//! linking, and the driver's own is found when the program runs. So no GPU is needed to build.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::step::{self, Result};
use crate::tools;

/// The compute capability that is built for where the caller names none: Hopper's.
const CAPABILITY: &str = "90";

/// What to do with the GPU build.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// Build the binary and the parity suite.
    Build,
    /// Run the parity suite and the benchmark too: needs a GPU.
    Run,
}

/// Builds, and perhaps runs, what runs on an NVIDIA GPU.
///
/// # Errors
/// Another system than Linux, no Python 3 or C compiler, no network, a build or a run that fails.
pub(crate) fn run(what: What) -> Result<()> {
    if !cfg!(target_os = "linux") {
        return Err("the CUDA toolkit of the Python index is for Linux; elsewhere set CUDA_HOME and build with \
                    `cargo build --release --features cuda`"
            .to_owned());
    }
    let folder = step::root().join("target").join("cuda");
    let python = tools::python("target/cuda/venv", "xtask/cuda-requirements.txt")?;
    let packages = packages(&python)?;
    let toolkit = folder.join("toolkit");
    overlay(&packages, &toolkit)?;
    let stubs = toolkit.join("lib64").join("stubs");
    driver_stub(&stubs)?;

    // One build for the binary and the suite: with other packages the features of what both stand on would differ, and the
    // kernels, which take longest, be compiled twice.
    let mut suite = cargo(&toolkit, &stubs, &folder);
    suite.args(["test", "--release", "--locked", "--package", "sidereal-cli", "--package", "sidereal-generator"]);
    suite.args(["--features", "sidereal-cli/cuda,sidereal-generator/cuda", "--test", "devices"]);
    let libraries = packages.join("lib");
    let binary = folder.join("build").join("release").join("sidereal");
    if what == What::Build {
        step::run("build for CUDA", suite.arg("--no-run"))?;
        step::say(&format!(
            "{}\nneeds NVIDIA's driver, and these libraries on LD_LIBRARY_PATH: {}",
            binary.display(),
            libraries.display()
        ));
        return Ok(());
    }
    step::run("parity suite", suite.env("SIDEREAL_DEVICE", "cuda").env("LD_LIBRARY_PATH", path_with(&libraries)))?;
    let mut bench = Command::new(&binary);
    bench.args(["bench", "device", "--device", "cuda", "--json"]).env("LD_LIBRARY_PATH", path_with(&libraries));
    step::run("bench device", &mut bench)
}

fn cargo(toolkit: &Path, stubs: &Path, folder: &Path) -> Command {
    let mut cargo = step::cargo();
    for name in ["CUDA_HOME", "CUDA_PATH", "CUDA_ROOT", "CUDA_TOOLKIT_ROOT_DIR"] {
        cargo.env(name, toolkit);
    }
    let capability = std::env::var_os("CUDA_COMPUTE_CAP").unwrap_or_else(|| CAPABILITY.into());
    cargo.env("CUDA_COMPUTE_CAP", capability).env("NVCC", toolkit.join("bin").join("nvcc"));
    let mut path = OsString::from(toolkit.join("bin"));
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    cargo.env("PATH", path).env("RUSTFLAGS", format!("-L native={}", stubs.display()));
    cargo.env("CARGO_TARGET_DIR", folder.join("build"));
    cargo
}

fn path_with(libraries: &Path) -> OsString {
    let mut path = OsString::from(libraries);
    if let Some(others) = std::env::var_os("LD_LIBRARY_PATH") {
        path.push(":");
        path.push(others);
    }
    path
}

/// Where the toolkit's packages were unpacked.
fn packages(python: &Path) -> Result<PathBuf> {
    let asked = "import sysconfig; print(sysconfig.get_path('purelib'))";
    let site = step::output(Command::new(python).args(["-c", asked]))?;
    let packages = Path::new(site.trim()).join("nvidia").join("cu13");
    let there = packages.join("bin").join("nvcc").is_file();
    there.then_some(packages.clone()).ok_or_else(|| format!("{}: no nvcc there", packages.display()))
}

/// The folder that build scripts expect of a toolkit: `lib64` with names that end in `.so`.
fn overlay(packages: &Path, toolkit: &Path) -> Result<()> {
    let failed = |path: &Path, cause: std::io::Error| format!("{}: {cause}", path.display());
    let lib = toolkit.join("lib64");
    fs::create_dir_all(&lib).map_err(|cause| failed(&lib, cause))?;
    for name in ["bin", "include", "nvvm"] {
        link(&packages.join(name), &toolkit.join(name))?;
    }
    link(&lib, &toolkit.join("lib"))?;
    let libraries = packages.join("lib");
    for entry in fs::read_dir(&libraries).map_err(|cause| failed(&libraries, cause))? {
        let path = entry.map_err(|cause| failed(&libraries, cause))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let stem = name.find(".so").map_or(name, |at| &name[..at + 3]);
        link(&path, &lib.join(name))?;
        link(&path, &lib.join(stem))?;
    }
    Ok(())
}

/// A symbolic link, made anew where it was.
fn link(to: &Path, at: &Path) -> Result<()> {
    let _ = fs::remove_file(at); // none there: nothing to do
    #[cfg(unix)]
    return std::os::unix::fs::symlink(to, at).map_err(|cause| format!("{}: {cause}", at.display()));
    #[cfg(not(unix))]
    Err(format!("{}: no links to {} on this system", at.display(), to.display()))
}

/// A `libcuda.so` that has the names of the driver's functions, to link against.
fn driver_stub(folder: &Path) -> Result<()> {
    let library = folder.join("libcuda.so");
    if library.is_file() {
        return Ok(());
    }
    let failed = |path: &Path, cause: std::io::Error| format!("{}: {cause}", path.display());
    fs::create_dir_all(folder).map_err(|cause| failed(folder, cause))?;
    let bindings = driver_bindings()?;
    let text = fs::read_to_string(&bindings).map_err(|cause| failed(&bindings, cause))?;
    let mut names: Vec<&str> = text
        .split("fn ")
        .skip(1)
        .map(|rest| rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap_or_default())
        .filter(|name| name.starts_with("cu"))
        .collect();
    names.sort_unstable();
    names.dedup();
    let mut source = String::new();
    for name in &names {
        writeln!(source, "int {name}(void) {{ return 999; }}").map_err(|cause| cause.to_string())?;
    }
    let file = folder.join("libcuda.c");
    fs::write(&file, source).map_err(|cause| failed(&file, cause))?;
    let mut compile = Command::new("cc");
    compile.args(["-shared", "-fPIC", "-w", "-fno-builtin", "-Wl,-soname,libcuda.so.1", "-o"]).arg(&library).arg(&file);
    step::run(&format!("stand-in for the driver ({} functions)", names.len()), &mut compile)
}

/// The file of the crate `cudarc` that declares what it takes from the driver.
fn driver_bindings() -> Result<PathBuf> {
    let metadata =
        step::output(step::cargo().args(["metadata", "--format-version", "1", "--locked", "--all-features"]))?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata).map_err(|cause| cause.to_string())?;
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let cudarc =
        packages.filter(|package| package["name"] == "cudarc").find_map(|found| found["manifest_path"].as_str());
    let manifest = cudarc.ok_or("the crate cudarc is not among the dependencies")?;
    Ok(Path::new(manifest).with_file_name("src").join("driver").join("sys").join("mod.rs"))
}
