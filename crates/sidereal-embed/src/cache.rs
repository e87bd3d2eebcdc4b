//! Vectors that were made before, by what they were made from: only items whose content changed are encoded again, and
//! a killed job goes on where it was.
//!
//! One file a model and width: a header, then records of one size that are only ever appended: key, vector, checksum. A
//! record that was half written or damaged is dropped when the file is opened, and made again.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use sidereal_core::artifact::write_atomic;
use sidereal_core::{Error, Result};

const MAGIC: &[u8; 16] = b"sidereal-vec-01\n";
/// Magic, model digest, width.
const HEADER: usize = 16 + 32 + 8;
const CHECKSUM: usize = 8;

/// What a vector was made from.
pub type ContentKey = [u8; 32];

/// A file of vectors by key.
#[derive(Debug)]
pub struct VectorCache {
    path: PathBuf,
    file: File,
    width: usize,
    /// The number of the record.
    records: HashMap<ContentKey, u64>,
    count: u64,
    dropped: u64,
}

/// The key of some content.
pub fn content_key(content: &[u8]) -> ContentKey {
    Sha256::digest(content).into()
}

fn header(model: &str, width: usize) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(Sha256::digest(model.as_bytes()));
    bytes.extend((width as u64).to_le_bytes());
    bytes
}

fn checksum(record: &[u8]) -> [u8; CHECKSUM] {
    let mut sum = [0; CHECKSUM];
    sum.copy_from_slice(&Sha256::digest(record)[..CHECKSUM]);
    sum
}

impl VectorCache {
    /// Opens or makes the file of a model in a folder; `model` says everything that decides a vector beside the content.
    ///
    /// # Errors
    /// A folder that cannot be written; a file that another job has open.
    pub fn open(dir: &Path, model: &str, width: usize) -> Result<Self> {
        std::fs::create_dir_all(dir).map_err(|e| Error::io("create", dir, e))?;
        let wanted = header(model, width);
        let name: String = wanted[16..28].iter().map(|byte| format!("{byte:02x}")).collect();
        let path = dir.join(format!("{name}-{width}.vectors"));
        let lock = lock(&path)?;
        let size = Self::record_bytes(width);
        let bytes = lock.metadata().map_err(|e| Error::io("read", &path, e))?.len();
        let mut cache = Self { path, file: lock, width, records: HashMap::new(), count: 0, dropped: 0 };
        if bytes == 0 {
            cache.write(&wanted)?;
            return Ok(cache);
        }
        let sound = cache.index(&wanted, size, bytes)?;
        if !sound {
            cache.rewrite(&wanted)?;
        }
        cache.seek(HEADER as u64 + cache.count * size as u64)?;
        Ok(cache)
    }

    fn record_bytes(width: usize) -> usize {
        32 + 4 * width + CHECKSUM
    }

    fn io(&self, action: &'static str, e: std::io::Error) -> Error {
        Error::io(action, &self.path, e)
    }

    fn seek(&mut self, to: u64) -> Result<()> {
        self.file.seek(SeekFrom::Start(to)).map(|_| ()).map_err(|e| Error::io("read", &self.path, e))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|e| Error::io("write", &self.path, e))
    }

    /// Reads all records; false where the file is not as it would be written now.
    fn index(&mut self, wanted: &[u8], size: usize, bytes: u64) -> Result<bool> {
        let mut reader = BufReader::with_capacity(1 << 20, &self.file);
        let mut found = vec![0; HEADER.min(bytes as usize)];
        let read = |e: std::io::Error| Error::io("read", &self.path, e);
        reader.read_exact(&mut found).map_err(read)?;
        if found != wanted {
            self.dropped = (bytes.saturating_sub(HEADER as u64)) / size as u64;
            return Ok(false);
        }
        let whole = (bytes - HEADER as u64) / size as u64;
        let mut record = vec![0; size];
        let mut keys = Vec::new();
        for number in 0..whole {
            reader.read_exact(&mut record).map_err(read)?;
            let (body, sum) = record.split_at(size - CHECKSUM);
            let mut key = [0; 32];
            key.copy_from_slice(&body[..32]);
            if checksum(body) == sum {
                keys.push((key, number));
            }
        }
        let rest = (bytes - HEADER as u64) % size as u64;
        self.dropped = whole - keys.len() as u64 + u64::from(rest != 0);
        self.records = keys.into_iter().collect();
        self.count = whole;
        Ok(self.dropped == 0)
    }

    /// Writes the file again with the sound records only.
    fn rewrite(&mut self, wanted: &[u8]) -> Result<()> {
        let size = Self::record_bytes(self.width);
        let mut kept: Vec<(ContentKey, u64)> = self.records.drain().collect();
        kept.sort_by_key(|(_, number)| *number);
        let mut source = self.file.try_clone().map_err(|e| self.io("read", e))?;
        write_atomic(&self.path, |out| {
            out.write_all(wanted)?;
            let mut record = vec![0; size];
            for (_, number) in &kept {
                source.seek(SeekFrom::Start(HEADER as u64 + number * size as u64))?;
                source.read_exact(&mut record)?;
                out.write_all(&record)?;
            }
            Ok(())
        })?;
        self.file = lock(&self.path)?;
        self.count = kept.len() as u64;
        self.records = kept.into_iter().enumerate().map(|(number, (key, _))| (key, number as u64)).collect();
        Ok(())
    }

    /// Vectors that are there.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Records that were damaged or half written when the file was opened, and will be made again.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Whether there is a vector for the key.
    pub fn has(&self, key: &ContentKey) -> bool {
        self.records.contains_key(key)
    }

    /// The vector of a key, `[D]`.
    ///
    /// # Errors
    /// A file that cannot be read, or was changed since it was opened.
    pub fn get(&mut self, key: &ContentKey) -> Result<Option<Vec<f32>>> {
        let Some(&number) = self.records.get(key) else { return Ok(None) };
        let size = Self::record_bytes(self.width);
        self.seek(HEADER as u64 + number * size as u64)?;
        let mut record = vec![0; size];
        self.file.read_exact(&mut record).map_err(|e| Error::io("read", &self.path, e))?;
        let (body, sum) = record.split_at(size - CHECKSUM);
        if checksum(body) != sum || body[..32] != key[..] {
            let mend = "run the command again: damaged records are made again";
            return Err(Error::artifact(&self.path, "it was changed while it was in use", mend));
        }
        let numbers = body[32..].chunks_exact(4).map(|bytes| {
            let mut raw = [0; 4];
            raw.copy_from_slice(bytes);
            f32::from_le_bytes(raw)
        });
        Ok(Some(numbers.collect()))
    }

    /// Appends vectors, each `[D]`.
    ///
    /// # Errors
    /// Whatever the file system says; then the file holds what it held and perhaps some of them.
    pub fn put<'a>(&mut self, vectors: impl Iterator<Item = (ContentKey, &'a [f32])>) -> Result<()> {
        let size = Self::record_bytes(self.width);
        let mut bytes = Vec::new();
        let mut keys = Vec::new();
        for (key, vector) in vectors.filter(|(_, vector)| vector.len() == self.width) {
            let start = bytes.len();
            bytes.extend(key);
            bytes.extend(vector.iter().flat_map(|x| x.to_le_bytes()));
            let sum = checksum(&bytes[start..]);
            bytes.extend(sum);
            keys.push(key);
        }
        self.seek(HEADER as u64 + self.count * size as u64)?;
        self.write(&bytes)?;
        for key in keys {
            self.records.insert(key, self.count);
            self.count += 1;
        }
        Ok(())
    }

    /// Brings what was appended to the disk.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(|e| self.io("sync", e))
    }
}

/// Opens a file for this job alone; the lock goes with the file.
fn lock(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    let file = options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(|e| Error::io("open", path, e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => {
            let mend = "wait for it, or use another folder with --cache";
            Err(Error::artifact(path, "another job is using this cache", mend))
        }
        Err(std::fs::TryLockError::Error(e)) => Err(Error::io("lock", path, e)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn filled(dir: &Path, count: u8) {
        let mut cache = VectorCache::open(dir, "m", 2).unwrap();
        let vectors: Vec<_> = (0..count).map(|i| (content_key(&[i]), [f32::from(i), 0.5])).collect();
        cache.put(vectors.iter().map(|(key, vector)| (*key, &vector[..]))).unwrap();
        cache.sync().unwrap();
    }

    fn file(dir: &Path) -> PathBuf {
        std::fs::read_dir(dir).unwrap().next().unwrap().unwrap().path()
    }

    #[test]
    fn vectors_come_back_by_what_they_were_made_from() {
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path(), 3);
        filled(dir.path(), 0);
        let mut cache = VectorCache::open(dir.path(), "m", 2).unwrap();
        assert_eq!((cache.len(), cache.dropped(), cache.is_empty()), (3, 0, false));
        assert_eq!(cache.get(&content_key(&[2])).unwrap().unwrap(), [2.0, 0.5]);
        assert_eq!(cache.get(&content_key(&[9])).unwrap(), None);
        assert!(cache.has(&content_key(&[0])));
        assert!(VectorCache::open(dir.path(), "other", 2).unwrap().is_empty(), "another model has another file");
        assert!(VectorCache::open(dir.path(), "m", 3).unwrap().is_empty(), "so has another width");
    }

    #[test]
    fn a_job_that_was_killed_keeps_its_whole_records() {
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path(), 3);
        let path = file(dir.path());
        let bytes = std::fs::read(&path).unwrap();
        for cut in [1, 20, 47, 48, 49, 90] {
            std::fs::write(&path, &bytes[..bytes.len() - cut]).unwrap();
            let cache = VectorCache::open(dir.path(), "m", 2).unwrap();
            let whole = (bytes.len() - cut - HEADER) / 48;
            assert_eq!((cache.len(), cache.dropped()), (whole, u64::from(cut != 48)), "{cut} bytes cut");
        }
        // Inside the header.
        std::fs::write(&path, &bytes[..10]).unwrap();
        assert!(VectorCache::open(dir.path(), "m", 2).unwrap().is_empty());
        filled(dir.path(), 2);
        assert_eq!(VectorCache::open(dir.path(), "m", 2).unwrap().len(), 2);
    }

    #[test]
    fn damaged_records_are_dropped_and_the_others_kept() {
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path(), 4);
        let path = file(dir.path());
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[HEADER + 48 + 33] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let mut cache = VectorCache::open(dir.path(), "m", 2).unwrap();
        assert_eq!((cache.len(), cache.dropped()), (3, 1));
        assert_eq!(cache.get(&content_key(&[3])).unwrap().unwrap(), [3.0, 0.5]);
        assert_eq!(cache.get(&content_key(&[1])).unwrap(), None);
        cache.put([(content_key(&[1]), &[1.0, 0.5][..])].into_iter()).unwrap();
        drop(cache);
        let cache = VectorCache::open(dir.path(), "m", 2).unwrap();
        assert_eq!((cache.len(), cache.dropped()), (4, 0));
    }

    #[test]
    fn two_jobs_do_not_write_one_file() {
        let dir = tempfile::tempdir().unwrap();
        let first = VectorCache::open(dir.path(), "m", 2).unwrap();
        assert!(VectorCache::open(dir.path(), "m", 2).unwrap_err().to_string().contains("another job"));
        drop(first);
        VectorCache::open(dir.path(), "m", 2).unwrap();
    }
}
