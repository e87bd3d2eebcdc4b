//! A file of vectors before its format is known: on disk, or in an object store. What it is told apart by is its
//! length, its two ends and, where the store gives one, its tag: reading 15 GB to know whether they changed would cost
//! as much as the work that is to be saved.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};
use sidereal_core::artifact::{sha256_bytes, sha256_file};
use sidereal_core::{Error, Result};
use sidereal_data::ranges::{LocalFile, ReadRanges};

use crate::objects::{ObjectFile, StoreOptions, url_of};

/// Bytes of each end that go into an identity.
const END_BYTES: u64 = 1 << 16;

/// What tells two states of a file apart, without its name and without reading all of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileIdentity {
    /// Its length.
    pub bytes: u64,
    /// sha256 of its first and its last 64 KiB.
    pub ends: String,
    /// The object store's tag of this state, where it gives one.
    pub tag: Option<String>,
    /// When it was changed last, in nanoseconds since 1970, where that is known.
    pub modified: Option<u64>,
}

/// A file whose bytes can be read.
pub(crate) struct Opened {
    pub(crate) place: String,
    pub(crate) bytes: Arc<dyn ReadRanges>,
    /// In an object store, where every read is a request.
    pub(crate) remote: bool,
    /// Where it lies on disk.
    path: Option<PathBuf>,
    tag: Option<String>,
    modified: Option<u64>,
}

impl Opened {
    pub(crate) fn open(location: &Path, options: &StoreOptions) -> Result<Self> {
        let Some(url) = url_of(location)? else { return Self::local(location) };
        if let Some(path) = Some(&url).filter(|url| url.scheme() == "file").and_then(|url| url.to_file_path().ok()) {
            return Self::local(&path);
        }
        let object = ObjectFile::open(&url, options)?;
        let (place, tag, modified) = (object.place(), object.tag(), object.modified());
        Ok(Self { place, bytes: Arc::new(object), remote: true, path: None, tag, modified })
    }

    fn local(path: &Path) -> Result<Self> {
        let bytes = Arc::new(LocalFile::open(path)?);
        let (place, path) = (path.display().to_string(), Some(path.to_path_buf()));
        Ok(Self { place, bytes, remote: false, path, tag: None, modified: None })
    }

    /// At most `most` bytes from the beginning.
    pub(crate) fn head(&self, most: u64) -> Result<bytes::Bytes> {
        self.read(0, self.bytes.size().min(most))
    }

    /// What the file is now, if it is on disk; what it was when it was opened, if it is in a store.
    pub(crate) fn identity(&self) -> Result<FileIdentity> {
        let size = self.bytes.size();
        let mut ends = self.head(END_BYTES)?.to_vec();
        let tail = size.min(END_BYTES);
        ends.extend_from_slice(&self.read(size - tail, tail)?);
        let (mut bytes, mut modified) = (size, self.modified);
        if let Some(path) = &self.path {
            let about = std::fs::metadata(path).map_err(|e| Error::io("read", path, e))?;
            let since = about.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
            (bytes, modified) = (about.len(), since.and_then(|since| u64::try_from(since.as_nanos()).ok()));
        }
        Ok(FileIdentity { bytes, ends: sha256_bytes(&ends), tag: self.tag.clone(), modified })
    }

    /// The file's sha256; in a store that of what tells its states apart.
    pub(crate) fn digest(&self) -> Result<String> {
        if let Some(path) = &self.path {
            return sha256_file(path);
        }
        let FileIdentity { bytes, ends, tag, modified } = self.identity()?;
        // A store's tag tells more than its clock.
        let state = tag.or_else(|| modified.map(|time| time.to_string())).unwrap_or_default();
        Ok(sha256_bytes(format!("{bytes} {ends} {state}").as_bytes()))
    }

    fn read(&self, from: u64, len: u64) -> Result<bytes::Bytes> {
        self.bytes.read(from, len as usize).map_err(|e| unread(&self.place, &e))
    }
}

/// What a read that failed is told as.
pub(crate) fn unread(place: &str, error: &std::io::Error) -> Error {
    let mend = match error.kind() {
        std::io::ErrorKind::UnexpectedEof => "it became shorter while it was read: write it again",
        _ => "check the disk or the network, and run the same command again",
    };
    Error::input(place, format!("it cannot be read ({error})"), mend)
}
