//! What can go wrong with data, configuration and artefacts: every message says what is wrong, where, and the mend.

use std::io;
use std::path::{Path, PathBuf};

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure, told so that its reader can mend it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused a file.
    #[error("cannot {action} {path}: {source}{}", io_mend(source), path = path.display())]
    Io {
        /// What was tried: "read", "write", "create", "rename".
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The user's data or arguments are wrong.
    #[error("{place}: {problem}; {mend}")]
    Input {
        /// File, row, key or item.
        place: String,
        /// What is wrong there.
        problem: String,
        /// What to do about it.
        mend: String,
    },
    /// A recipe key or flag is wrong.
    #[error("{key}: {problem}; {mend}")]
    Config {
        /// The key or flag.
        key: String,
        /// What is wrong with it.
        problem: String,
        /// What to write instead.
        mend: String,
    },
    /// One of our own files is missing, damaged or of another version.
    #[error("{path}: {problem}; {mend}", path = path.display())]
    Artifact {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
        /// What to do about it.
        mend: String,
    },
    /// Two artefacts are sound but do not belong together.
    #[error("{problem}; {mend}")]
    Mismatch {
        /// Names both sides.
        problem: String,
        /// What to do about it.
        mend: String,
    },
}

fn io_mend(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::NotFound => "; check the path",
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "; choose a folder that you may write to, or change its permissions"
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; free some space and run the same command again: finished stages are kept"
        }
        _ => "",
    }
}

impl Error {
    /// An [`Error::Io`]; usable as `.map_err(|e| Error::io("read", path, e))`.
    pub fn io(action: &'static str, path: impl AsRef<Path>, source: io::Error) -> Self {
        Self::Io { action, path: path.as_ref().to_path_buf(), source }
    }

    /// An [`Error::Input`].
    pub fn input(place: impl Into<String>, problem: impl Into<String>, mend: impl Into<String>) -> Self {
        Self::Input { place: place.into(), problem: problem.into(), mend: mend.into() }
    }

    /// An [`Error::Config`].
    pub fn config(key: impl Into<String>, problem: impl Into<String>, mend: impl Into<String>) -> Self {
        Self::Config { key: key.into(), problem: problem.into(), mend: mend.into() }
    }

    /// An [`Error::Artifact`].
    pub fn artifact(path: impl AsRef<Path>, problem: impl Into<String>, mend: impl Into<String>) -> Self {
        Self::Artifact { path: path.as_ref().to_path_buf(), problem: problem.into(), mend: mend.into() }
    }

    /// An [`Error::Mismatch`].
    pub fn mismatch(problem: impl Into<String>, mend: impl Into<String>) -> Self {
        Self::Mismatch { problem: problem.into(), mend: mend.into() }
    }
}
