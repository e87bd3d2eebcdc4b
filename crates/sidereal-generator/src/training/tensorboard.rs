//! The training's scalars as a TensorBoard event file, beside `metrics.jsonl`.
//!
//! The file is a row of TFRecords: length (8 bytes), masked CRC-32C of it, bytes, masked CRC-32C of them. Each holds one
//! `tensorflow.Event` in protobuf's wire format: wall time (field 1, double), step (2, varint), and either the file's
//! version (3) or a summary (5) of one tag (1) with one value (2, float).
//!
//! # Why does the name hold no host and no time?
//! TensorBoard reads every file of a folder whose name contains `tfevents`, and uses host and time in a name only to put
//! several files of one folder in order. There is one file here, appended to by every part of a continued run, and a
//! fixed name lets a stage be found and checked.
//!
//! *Checked against* the bytes that TensorBoard 2.21's own protobuf classes and record writer give for the same events (in
//! the tests), and by reading the file back.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use sidereal_core::Error as CoreError;
use sidereal_core::artifact::write_atomic;

use crate::Result;

/// The file's name in the work folder and in the generator's.
pub const EVENTS_FILE: &str = "events.out.tfevents.0.sidereal";

/// What the first event of a file says of its format.
const VERSION: &str = "brain.Event:2";

/// The open file.
#[derive(Debug)]
pub(super) struct EventFile {
    path: PathBuf,
    file: File,
}

impl EventFile {
    /// Opens the file of a run that stands at `step`: events after it and a torn last one are taken away.
    pub(super) fn open(work_dir: &Path, step: u64) -> Result<Self> {
        let path = work_dir.join(EVENTS_FILE);
        let before = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(CoreError::io("read", &path, e).into()),
        };
        let mut kept = Vec::with_capacity(before.len());
        for (record, event) in records(&before) {
            if step_of(event).is_some_and(|of| of <= step) {
                kept.extend_from_slice(record);
            }
        }
        if kept.is_empty() {
            kept = record(&event(0, Content::Version));
        }
        if kept != before {
            write_atomic(&path, |out| out.write_all(&kept))?;
        }
        let file = OpenOptions::new().append(true).open(&path).map_err(|e| CoreError::io("write", &path, e))?;
        Ok(Self { path, file })
    }

    /// Appends scalars of a step.
    pub(super) fn write(&mut self, step: u64, scalars: &[(&str, f64)]) -> Result<()> {
        let mut bytes = Vec::new();
        for &(tag, value) in scalars {
            bytes.extend(record(&event(step, Content::Scalar(tag, value as f32))));
        }
        Ok(self.file.write_all(&bytes).map_err(|e| CoreError::io("write", &self.path, e))?)
    }
}

/// What an event says.
enum Content<'a> {
    Version,
    Scalar(&'a str, f32),
}

fn event(step: u64, content: Content<'_>) -> Vec<u8> {
    // A clock before 1970 is no reason to stop a training.
    let wall_time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64());
    event_at(wall_time, step, content)
}

fn event_at(wall_time: f64, step: u64, content: Content<'_>) -> Vec<u8> {
    let mut bytes = vec![0x09];
    bytes.extend(wall_time.to_le_bytes());
    if step > 0 {
        bytes.push(0x10);
        varint(&mut bytes, step);
    }
    match content {
        Content::Version => field(&mut bytes, 3, VERSION.as_bytes()),
        Content::Scalar(tag, value) => {
            let mut one = Vec::new();
            field(&mut one, 1, tag.as_bytes());
            one.push(0x15);
            one.extend(value.to_le_bytes());
            let mut summary = Vec::new();
            field(&mut summary, 1, &one);
            field(&mut bytes, 5, &summary);
        }
    }
    bytes
}

/// A field of bytes: its number with wire type 2, its length, itself.
fn field(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    out.push(number << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn record(event: &[u8]) -> Vec<u8> {
    let length = (event.len() as u64).to_le_bytes();
    let mut bytes = Vec::with_capacity(event.len() + 16);
    bytes.extend(length);
    bytes.extend(masked(crc32c(&length)).to_le_bytes());
    bytes.extend_from_slice(event);
    bytes.extend(masked(crc32c(event)).to_le_bytes());
    bytes
}

/// TFRecord's mask: a checksum over bytes that hold checksums would be weak.
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli), bit by bit: a file of scalars is small.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 })
    })
}

/// The whole records at the beginning of a file, each with the event in it; ends at the first that is torn or damaged.
fn records(bytes: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (length, after) = rest.split_first_chunk::<8>()?;
        let (length_crc, after) = after.split_first_chunk::<4>()?;
        let length_is_whole = u32::from_le_bytes(*length_crc) == masked(crc32c(length));
        let size = usize::try_from(u64::from_le_bytes(*length)).ok().filter(|_| length_is_whole)?;
        let (event, after) = after.split_at_checked(size)?;
        let (crc, after) = after.split_first_chunk::<4>()?;
        let whole = (u32::from_le_bytes(*crc) == masked(crc32c(event))).then(|| &rest[..rest.len() - after.len()])?;
        rest = after;
        Some((whole, event))
    })
}

/// The step of an event of ours; none where it is no event.
fn step_of(event: &[u8]) -> Option<u64> {
    let (&0x09, rest) = event.split_first()? else { return None };
    let (_, rest) = rest.split_first_chunk::<8>()?;
    let Some((0x10, rest)) = rest.split_first() else { return Some(0) };
    let mut step = 0u64;
    for (at, &byte) in rest.iter().enumerate().take(10) {
        step |= u64::from(byte & 0x7f).checked_shl(7 * at as u32)?;
        if byte < 0x80 {
            return Some(step);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Steps, tags and values of a file, read by the wire format alone.
    fn scalars(path: &Path) -> Vec<(u64, String, f32)> {
        let bytes = std::fs::read(path).unwrap();
        let all: Vec<(&[u8], &[u8])> = records(&bytes).collect();
        assert_eq!(all.iter().map(|(record, _)| record.len()).sum::<usize>(), bytes.len(), "a record is damaged");
        assert!(all[0].1.ends_with(VERSION.as_bytes()));
        let scalar = |event: &[u8]| {
            let value = f32::from_le_bytes(*event.last_chunk().unwrap());
            let head = &event[..event.len() - 5];
            let tag_at = head.iter().rposition(|&byte| byte < 0x20).unwrap();
            assert_eq!(head[tag_at] as usize, head.len() - tag_at - 1);
            (step_of(event).unwrap(), String::from_utf8(head[tag_at + 1..].to_vec()).unwrap(), value)
        };
        all[1..].iter().map(|(_, event)| scalar(event)).collect()
    }

    #[test]
    fn checksums_are_those_of_the_standard() {
        // RFC 3720, appendix B.4.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        // TFRecord's length of the version event below, masked.
        assert_eq!(masked(crc32c(&24u64.to_le_bytes())), u32::from_le_bytes([0xa3, 0x7f, 0x4b, 0x22]));
    }

    #[test]
    fn events_have_the_bytes_that_protobuf_gives_them() {
        let version = event_at(1.5, 0, Content::Version);
        assert_eq!(version, [&[0x09, 0, 0, 0, 0, 0, 0, 0xf8, 0x3f, 0x1a, 13][..], b"brain.Event:2"].concat());
        let whole = record(&version);
        assert_eq!(whole[..12], [0x18, 0, 0, 0, 0, 0, 0, 0, 0xa3, 0x7f, 0x4b, 0x22]);
        assert_eq!(whole[36..], [0x2a, 0x28, 0x64, 0x6c]);
        let loss = event_at(1.5, 300, Content::Scalar("loss", 0.5));
        let expected = [
            &[0x09, 0, 0, 0, 0, 0, 0, 0xf8, 0x3f, 0x10, 0xac, 0x02, 0x2a, 13, 0x0a, 11, 0x0a, 4][..],
            b"loss",
            &[0x15, 0, 0, 0, 0x3f],
        ];
        assert_eq!(loss, expected.concat());
        assert_eq!(step_of(&loss), Some(300));
    }

    #[test]
    fn a_continued_file_tells_no_step_twice_and_keeps_what_was_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(EVENTS_FILE);
        let mut file = EventFile::open(dir.path(), 0).unwrap();
        for step in [10, 20, 30] {
            file.write(step, &[("train/loss", step as f64 / 4.0), ("train/learning_rate", 1e-3)]).unwrap();
        }
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 3]).unwrap();
        let mut file = EventFile::open(dir.path(), 20).unwrap();
        assert!(whole.starts_with(&std::fs::read(&path).unwrap()), "what was before keeps its bytes");
        file.write(30, &[("train/loss", 7.5)]).unwrap();
        let steps: Vec<u64> = scalars(&path).iter().map(|scalar| scalar.0).collect();
        assert_eq!(steps, [10, 10, 20, 20, 30]);
        assert_eq!(scalars(&path)[0], (10, "train/loss".to_owned(), 2.5));
        assert_eq!(scalars(&path)[4], (30, "train/loss".to_owned(), 7.5));
    }

    #[test]
    fn no_damage_panics_or_survives() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(EVENTS_FILE);
        EventFile::open(dir.path(), 0).unwrap().write(1, &[("a", 1.0), ("b", 2.0)]).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut bad = whole.clone();
            bad[at] ^= 0x41;
            std::fs::write(&path, &bad).unwrap();
            drop(EventFile::open(dir.path(), 9).unwrap());
            assert!(scalars(&path).len() < 2, "byte {at} was changed and nothing noticed");
        }
    }
}
