//! Artefacts on disk: every file is written under a temporary name, synced and renamed; every folder of a run carries
//! a manifest that names what it was made from and what it holds. A killed job leaves the last good artefact.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// Version of the manifest's own format.
pub const FORMAT_VERSION: u32 = 1;

/// The manifest's file name.
pub const MANIFEST: &str = "manifest.json";

/// What a folder holds, from what, and how it was made. It carries no time and no machine but in [`Measured`], which is
/// no part of what the folder is: the same work gives the same digest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of this format.
    pub format_version: u32,
    /// What it is: "data", "embeddings", "tokenizer", "catalog", "split", "generator", "report".
    pub kind: String,
    /// Version of the crate that made it.
    pub crate_version: String,
    /// The seed, where one was used.
    pub seed: Option<u64>,
    /// The resolved configuration.
    pub config: serde_json::Value,
    /// sha256 of everything it was made from, by name.
    pub inputs: BTreeMap<String, String>,
    /// What was found while making it: counts, rules that applied. Not part of what it was asked to be.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub facts: serde_json::Value,
    /// Its own files.
    pub files: BTreeMap<String, FileDigest>,
    /// What depends on the machine and the moment.
    #[serde(default, skip_serializing_if = "Measured::is_empty")]
    pub measured: Measured,
}

/// What was measured while an artefact was made: seconds, memory, logs of them. It differs from one making to the next
/// and is left out of [`Manifest::digest`] and [`Manifest::same_request`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// Figures by name, units in the names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub figures: BTreeMap<String, f64>,
    /// Files of the folder that hold measurements.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, FileDigest>,
}

impl Measured {
    /// Whether nothing was measured.
    pub fn is_empty(&self) -> bool {
        self.figures.is_empty() && self.files.is_empty()
    }
}

/// Size and hash of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileDigest {
    /// Lower-case hex.
    pub sha256: String,
    /// Size.
    pub bytes: u64,
}

impl Manifest {
    /// A manifest without files; [`StageWriter::finish`] fills them in.
    pub fn new(kind: &str, seed: Option<u64>, config: serde_json::Value, inputs: BTreeMap<String, String>) -> Self {
        let crate_version = env!("CARGO_PKG_VERSION").to_owned();
        let (facts, files) = (serde_json::Value::Null, BTreeMap::new());
        Self {
            format_version: FORMAT_VERSION,
            kind: kind.to_owned(),
            crate_version,
            seed,
            config,
            inputs,
            facts,
            files,
            measured: Measured::default(),
        }
    }

    /// Whether it was asked to be the same: inputs, configuration and seed.
    pub fn same_request(&self, other: &Self) -> bool {
        self.kind == other.kind && self.inputs == other.inputs && self.config == other.config && self.seed == other.seed
    }

    /// One hash for the whole artefact: of its files, configuration and seed; not of what was measured.
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        // Serialising maps with sorted keys cannot fail.
        let text = serde_json::to_string(&(&self.kind, &self.seed, &self.config, &self.files)).unwrap_or_default();
        hash.update(text.as_bytes());
        hex(&hash.finalize())
    }
}

/// Writes a file atomically: `write` fills a temporary file in the same folder, which is synced and renamed.
///
/// # Errors
/// Whatever the file system says; then no file of that name is made or changed.
pub fn write_atomic(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let temporary = tempfile::Builder::new()
        .prefix(".writing-")
        .tempfile_in(folder)
        .map_err(|e| Error::io("write into", folder, e))?;
    let mut out = BufWriter::new(temporary);
    write(&mut out).and_then(|()| out.flush()).map_err(|e| Error::io("write", path, e))?;
    let temporary = out.into_inner().map_err(|e| Error::io("write", path, e.into_error()))?;
    make_readable(temporary.as_file()).map_err(|e| Error::io("write", path, e))?;
    temporary.as_file().sync_all().map_err(|e| Error::io("sync", path, e))?;
    temporary.persist(path).map_err(|e| Error::io("rename", path, e.error))?;
    sync_folder(folder)
}

/// Writes a value as readable JSON, atomically.
///
/// # Errors
/// As [`write_atomic`].
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    write_atomic(path, |out| {
        serde_json::to_writer_pretty(&mut *out, value)?;
        out.write_all(b"\n")
    })
}

/// Reads a JSON file of ours.
///
/// # Errors
/// A file that is missing or does not hold such a value; line and column are named.
pub fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
    serde_json::from_str(&text).map_err(|e| Error::artifact(path, e.to_string(), "make it again with this version"))
}

/// sha256 of a file in lower-case hex.
///
/// # Errors
/// A file that cannot be read.
pub fn sha256_file(path: &Path) -> Result<String> {
    Ok(digest_file(path)?.sha256)
}

/// sha256 of bytes in lower-case hex.
pub fn sha256_bytes(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn digest_file(path: &Path) -> Result<FileDigest> {
    let mut file = File::open(path).map_err(|e| Error::io("read", path, e))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    let mut bytes = 0;
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(FileDigest { sha256: hex(&hash.finalize()), bytes }),
            Ok(n) => {
                hash.update(&buffer[..n]);
                bytes += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Error::io("read", path, e)),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Reads a folder's manifest and checks what it is.
///
/// # Errors
/// No manifest (the stage has not run), another kind, another format version.
pub fn read_manifest(dir: &Path, kind: &str) -> Result<Manifest> {
    let path = dir.join(MANIFEST);
    if !path.is_file() {
        let problem = format!("there is no {kind} here (no {MANIFEST})");
        return Err(Error::artifact(dir, problem, "check the path, or run the stage that makes it"));
    }
    let manifest: Manifest = read_json(&path)?;
    if manifest.format_version != FORMAT_VERSION {
        let problem = format!("format version {}, but this program reads {FORMAT_VERSION}", manifest.format_version);
        return Err(Error::artifact(&path, problem, "make it again, or use the version that made it"));
    }
    if manifest.kind != kind {
        let problem = format!("this is a {}, not a {kind}", manifest.kind);
        return Err(Error::artifact(&path, problem, format!("name the folder of a {kind}")));
    }
    Ok(manifest)
}

/// Checks every file of a folder against its manifest.
///
/// # Errors
/// The first file that is missing, of another size or of another hash.
pub fn verify_files(dir: &Path, manifest: &Manifest) -> Result<()> {
    for (name, expected) in manifest.files.iter().chain(&manifest.measured.files) {
        let path = dir.join(safe_name(dir, name)?);
        let found = digest_file(&path)?;
        if found != *expected {
            let problem =
                format!("the file is not the one its manifest names ({} bytes, not {})", found.bytes, expected.bytes);
            let problem = if found.bytes == expected.bytes { "its bytes have changed".to_owned() } else { problem };
            return Err(Error::artifact(&path, problem, "it is damaged or was edited: make it again"));
        }
    }
    Ok(())
}

/// A manifest names files in its own folder only.
fn safe_name<'a>(dir: &Path, name: &'a str) -> Result<&'a Path> {
    let path = Path::new(name);
    let inside = path.components().all(|c| matches!(c, std::path::Component::Normal(_)));
    if inside && !name.is_empty() {
        return Ok(path);
    }
    Err(Error::artifact(dir.join(MANIFEST), format!("it names {name:?}, outside its folder"), "make it again"))
}

/// Writes a whole folder so that a reader sees the old one or the new one, never a half.
///
/// Files are written into `.NAME.partial` beside the folder; [`StageWriter::finish`] hashes them, writes the manifest
/// last and swaps the folders. An unfinished writer removes its files.
#[derive(Debug)]
pub struct StageWriter {
    target: PathBuf,
    partial: PathBuf,
    finished: bool,
    measured: Mutex<(BTreeMap<String, f64>, BTreeSet<String>)>,
}

impl StageWriter {
    /// Begins to write a folder.
    ///
    /// # Errors
    /// A parent folder that cannot be made or written.
    pub fn begin(target: &Path) -> Result<Self> {
        recover(target)?;
        let partial = sibling(target, "partial");
        if partial.exists() {
            fs::remove_dir_all(&partial).map_err(|e| Error::io("remove", &partial, e))?;
        }
        fs::create_dir_all(&partial).map_err(|e| Error::io("create", &partial, e))?;
        Ok(Self { target: target.to_path_buf(), partial, finished: false, measured: Mutex::default() })
    }

    /// Where to write a file that will be in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.partial.join(name)
    }

    /// The folder to write into.
    pub fn dir(&self) -> &Path {
        &self.partial
    }

    /// Says what was measured, and which files of the folder hold measurements: see [`Measured`].
    pub fn measured<const F: usize>(&self, figures: BTreeMap<String, f64>, files: [&str; F]) {
        // A panic while it was held is this process's end anyway.
        let mut measured = self.measured.lock().unwrap_or_else(PoisonError::into_inner);
        measured.0.extend(figures);
        measured.1.extend(files.map(str::to_owned));
    }

    /// Hashes the files, writes the manifest and puts the folder in place.
    ///
    /// # Errors
    /// Whatever the file system says; then the old folder, if any, is still there.
    pub fn finish(mut self, mut manifest: Manifest) -> Result<Manifest> {
        let (figures, apart) = std::mem::take(&mut self.measured).into_inner().unwrap_or_else(PoisonError::into_inner);
        manifest.files.clear();
        manifest.measured = Measured { figures, files: BTreeMap::new() };
        let mut names = Vec::new();
        list_files(&self.partial, Path::new(""), &mut names)?;
        for name in names {
            let digest = digest_file(&self.partial.join(&name))?;
            let files = if apart.contains(&name) { &mut manifest.measured.files } else { &mut manifest.files };
            files.insert(name, digest);
        }
        write_json(&self.partial.join(MANIFEST), &manifest)?;
        let old = sibling(&self.target, "old");
        if self.target.exists() {
            fs::rename(&self.target, &old).map_err(|e| Error::io("rename", &self.target, e))?;
        }
        fs::rename(&self.partial, &self.target).map_err(|e| Error::io("rename", &self.partial, e))?;
        self.finished = true;
        if let Some(folder) = self.target.parent().filter(|p| !p.as_os_str().is_empty()) {
            sync_folder(folder)?;
        }
        if old.exists() {
            fs::remove_dir_all(&old).map_err(|e| Error::io("remove", &old, e))?;
        }
        Ok(manifest)
    }
}

impl Drop for StageWriter {
    fn drop(&mut self) {
        if !self.finished {
            // The work failed already; what is left behind is removed by the next writer.
            let _ = fs::remove_dir_all(&self.partial);
        }
    }
}

/// Puts the old folder back if a job was killed between the two renames of a swap.
///
/// # Errors
/// A folder that cannot be renamed.
pub fn recover(target: &Path) -> Result<()> {
    let old = sibling(target, "old");
    if old.exists() && !target.exists() {
        fs::rename(&old, target).map_err(|e| Error::io("rename", &old, e))?;
    }
    Ok(())
}

fn sibling(target: &Path, suffix: &str) -> PathBuf {
    let name = target.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    target.with_file_name(format!(".{name}.{suffix}"))
}

fn list_files(root: &Path, below: &Path, names: &mut Vec<String>) -> Result<()> {
    let dir = root.join(below);
    let entries = fs::read_dir(&dir).map_err(|e| Error::io("read", &dir, e))?;
    for entry in entries {
        let entry = entry.map_err(|e| Error::io("read", &dir, e))?;
        let name = below.join(entry.file_name());
        if entry.path().is_dir() {
            list_files(root, &name, names)?;
        } else if name != Path::new(MANIFEST) {
            names.push(name.to_string_lossy().replace('\\', "/"));
        }
    }
    names.sort();
    Ok(())
}

#[cfg(unix)]
fn make_readable(file: &File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    // Temporary files are private; artefacts are not.
    file.set_permissions(fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn make_readable(_file: &File) -> io::Result<()> {
    Ok(())
}

#[cfg(unix)]
fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|f| f.sync_all()).map_err(|e| Error::io("sync", folder, e))
}

#[cfg(not(unix))]
fn sync_folder(_folder: &Path) -> Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn stage(dir: &Path, text: &str) -> Manifest {
        let writer = StageWriter::begin(dir).unwrap();
        fs::write(writer.path("a.txt"), text).unwrap();
        writer.finish(Manifest::new("data", Some(1), serde_json::json!({"k": 1}), BTreeMap::new())).unwrap()
    }

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        write_atomic(&path, |out| out.write_all(b"old")).unwrap();
        let failed = write_atomic(&path, |out| {
            out.write_all(b"half")?;
            Err(io::Error::other("disk full"))
        });
        assert!(failed.is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing half-written is left");
    }

    #[test]
    fn a_stage_is_whole_or_absent() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("data");
        let first = stage(&target, "one");
        verify_files(&target, &read_manifest(&target, "data").unwrap()).unwrap();
        drop(StageWriter::begin(&target).unwrap()); // a failed job
        assert_eq!(fs::read_to_string(target.join("a.txt")).unwrap(), "one");
        let second = stage(&target, "two");
        assert_eq!(fs::read_to_string(target.join("a.txt")).unwrap(), "two");
        assert_ne!(first.digest(), second.digest());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_was_measured_is_checked_but_no_part_of_the_digest() {
        let dir = tempfile::tempdir().unwrap();
        let made = |name: &str, seconds: f64| {
            let target = dir.path().join(name);
            let writer = StageWriter::begin(&target).unwrap();
            fs::write(writer.path("a.txt"), "same").unwrap();
            fs::write(writer.path("log.txt"), format!("{seconds} s")).unwrap();
            writer.measured(BTreeMap::from([("seconds".to_owned(), seconds)]), ["log.txt"]);
            writer.finish(Manifest::new("data", None, serde_json::json!({}), BTreeMap::new())).unwrap()
        };
        let (slow, fast) = (made("slow", 9.5), made("fast", 1.25));
        assert_eq!(slow.digest(), fast.digest());
        assert!(slow.same_request(&fast) && slow != fast);
        assert_eq!(read_manifest(&dir.path().join("slow"), "data").unwrap(), slow);
        assert_eq!((slow.files.len(), slow.measured.files.len(), slow.measured.figures["seconds"]), (1, 1, 9.5));
        fs::write(dir.path().join("slow/log.txt"), "0.0 s").unwrap();
        assert!(verify_files(&dir.path().join("slow"), &slow).unwrap_err().to_string().contains("log.txt"));
    }

    #[test]
    fn a_kill_between_the_two_renames_is_recovered() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("data");
        stage(&target, "one");
        fs::rename(&target, sibling(&target, "old")).unwrap();
        recover(&target).unwrap();
        assert_eq!(fs::read_to_string(target.join("a.txt")).unwrap(), "one");
    }

    #[test]
    fn edited_files_and_foreign_folders_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("data");
        let manifest = stage(&target, "one");
        fs::write(target.join("a.txt"), "0ne").unwrap();
        assert!(verify_files(&target, &manifest).unwrap_err().to_string().contains("bytes have changed"));
        assert!(read_manifest(&target, "catalog").unwrap_err().to_string().contains("this is a data, not a catalog"));
        assert!(read_manifest(dir.path(), "data").unwrap_err().to_string().contains("no data here"));
        let mut evil = manifest;
        evil.files.insert("../x".to_owned(), FileDigest { sha256: String::new(), bytes: 0 });
        assert!(verify_files(&target, &evil).unwrap_err().to_string().contains("outside its folder"));
    }
}
