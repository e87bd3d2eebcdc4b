//! Bytes that are read by ranges: a file on disk here, an object of a store elsewhere. Whatever reads through this
//! trait holds the ranges that it asked for and nothing else, so a file may be larger than the memory.

use std::fmt::Debug;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::reader::{ChunkReader, Length};
use sidereal_core::Result;

/// Bytes that small reads fetch ahead.
const BUFFER_BYTES: usize = 1 << 14;

/// Something with a length whose bytes can be read from anywhere, by several threads at once.
pub trait ReadRanges: Debug + Send + Sync {
    /// Number of bytes.
    fn size(&self) -> u64;

    /// Exactly `len` bytes from `from` on.
    ///
    /// # Errors
    /// A range that ends behind the last byte ([`io::ErrorKind::UnexpectedEof`]); whatever the system says.
    fn read(&self, from: u64, len: usize) -> io::Result<Bytes>;
}

/// A file on disk.
#[derive(Debug)]
pub struct LocalFile {
    file: File,
    size: u64,
}

impl LocalFile {
    /// Opens a file that must hold something.
    ///
    /// # Errors
    /// A file that is missing, empty or a folder.
    pub fn open(path: &Path) -> Result<Self> {
        let file = crate::sources::open(path)?;
        let size = file.metadata().map_err(|e| sidereal_core::Error::io("read", path, e))?.len();
        Ok(Self { file, size })
    }
}

impl ReadRanges for LocalFile {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, from: u64, len: usize) -> io::Result<Bytes> {
        check_range(self.size, from, len)?;
        let mut bytes = vec![0; len];
        read_at(&self.file, &mut bytes, from)?;
        Ok(bytes.into())
    }
}

/// Refuses a range that ends behind the last byte, before memory is taken for it.
///
/// # Errors
/// [`io::ErrorKind::UnexpectedEof`].
pub fn check_range(size: u64, from: u64, len: usize) -> io::Result<()> {
    if from.checked_add(len as u64).is_some_and(|to| to <= size) {
        return Ok(());
    }
    let problem = format!("{len} bytes from byte {from} on are wanted, but there are {size}");
    Err(io::Error::new(io::ErrorKind::UnexpectedEof, problem))
}

#[cfg(unix)]
fn read_at(file: &File, bytes: &mut [u8], from: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, from)
}

#[cfg(windows)]
fn read_at(file: &File, mut bytes: &mut [u8], mut from: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, bytes, from)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => {
                bytes = &mut bytes[n..];
                from += n as u64;
            }
        }
    }
    Ok(())
}

/// Ranges as the Parquet reader wants them. It keeps the error of a read that failed, which the reader turns into text
/// that looks like damage.
#[derive(Debug, Clone)]
pub(crate) struct Ranges {
    source: Arc<dyn ReadRanges>,
    failed: Arc<Mutex<Option<io::Error>>>,
}

impl Ranges {
    pub(crate) fn new(source: Arc<dyn ReadRanges>) -> Self {
        Self { source, failed: Arc::default() }
    }

    /// Why reading failed, if it did for another reason than the end of the file.
    pub(crate) fn failure(&self) -> Option<io::Error> {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner).take();
        failed.filter(|error| error.kind() != io::ErrorKind::UnexpectedEof)
    }

    fn read(&self, from: u64, len: usize) -> io::Result<Bytes> {
        self.source.read(from, len).map_err(|error| {
            let told = io::Error::new(error.kind(), error.to_string());
            *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            told
        })
    }
}

impl Length for Ranges {
    fn len(&self) -> u64 {
        self.source.size()
    }
}

impl ChunkReader for Ranges {
    type T = RangesFrom;

    fn get_read(&self, start: u64) -> ParquetResult<Self::T> {
        Ok(RangesFrom { ranges: self.clone(), at: start, buffer: Bytes::new() })
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        self.read(start, length).map_err(|e| ParquetError::External(Box::new(e)))
    }
}

/// A reader from some byte on.
#[derive(Debug)]
pub(crate) struct RangesFrom {
    ranges: Ranges,
    at: u64,
    buffer: Bytes,
}

impl Read for RangesFrom {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.buffer.is_empty() {
            let left = self.ranges.len().saturating_sub(self.at).min(BUFFER_BYTES as u64) as usize;
            self.buffer = self.ranges.read(self.at, left)?;
            self.at += left as u64;
        }
        let take = out.len().min(self.buffer.len());
        out[..take].copy_from_slice(&self.buffer.split_to(take));
        Ok(take)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ranges_of_a_file_are_its_bytes_and_never_more() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let bytes: Vec<u8> = (0..100_000u32).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let file: Arc<dyn ReadRanges> = Arc::new(LocalFile::open(&path).unwrap());
        assert_eq!(file.read(70_000, 5000).unwrap(), bytes[70_000..75_000]);
        assert_eq!(file.read(100_000, 0).unwrap().len(), 0);
        for (from, len) in [(99_999, 2), (100_001, 0), (u64::MAX, 1)] {
            assert_eq!(file.read(from, len).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        }
        let mut rest = Vec::new();
        Ranges::new(file).get_read(123).unwrap().read_to_end(&mut rest).unwrap();
        assert_eq!(rest, bytes[123..]);
    }
}
