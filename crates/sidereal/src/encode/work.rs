//! The work itself, three things at a time: one thread reads chunks, all threads encode one, one thread writes parts.
//! Between them are channels with little room, so that the fastest waits for the slowest and memory stays bounded.

use std::ops::Range;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use arrow::array::RecordBatch;
use sidereal_core::{Error, Progress};
use sidereal_tokenizer::ItemTokenizer;

use super::Counts;
use super::parts::encode;
use super::state::Folder;
use crate::Result;
use crate::vectors::{Chunk, OnInvalid, Source};

/// Chunks that wait to be encoded.
const CHUNKS_AHEAD: usize = 2;
/// Parts that wait to be written.
const PARTS_AHEAD: usize = 1;

/// What the threads share.
pub(super) struct Work<'a> {
    pub(super) source: &'a Source,
    pub(super) tokenizer: &'a ItemTokenizer,
    pub(super) folder: &'a Folder,
    pub(super) on_invalid: OnInvalid,
    pub(super) progress: &'a dyn Progress,
}

/// A part whose rows are all encoded.
struct Part {
    rows: Range<u64>,
    counts: Counts,
    batches: Vec<RecordBatch>,
}

impl Work<'_> {
    /// Makes parts, in their order.
    ///
    /// # Errors
    /// The first of reading, encoding or writing; parts that were whole before it are written.
    pub(super) fn encode(&self, wanted: &[Range<u64>]) -> Result<()> {
        std::thread::scope(|scope| {
            let (chunks_out, chunks_in) = sync_channel(CHUNKS_AHEAD);
            let (parts_out, parts_in) = sync_channel(PARTS_AHEAD);
            scope.spawn(move || self.read(wanted, &chunks_out));
            let writer = scope.spawn(move || self.write(parts_in));
            let encoded = self.encode_chunks(chunks_in, parts_out);
            let written = writer.join().unwrap_or_else(|_| {
                let mend = "this is a defect: report it";
                Err(Error::input("encode", "the thread that writes parts has panicked", mend).into())
            });
            written.and(encoded)
        })
    }

    /// Reads what is wanted; parts that follow one another are read in one go.
    fn read(&self, wanted: &[Range<u64>], out: &SyncSender<Result<(Range<u64>, Chunk)>>) {
        for run in wanted.chunk_by(|before, after| before.end == after.start) {
            let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
            let chunks = match self.source.chunks(first.start..last.end, self.folder.part_rows()) {
                Ok(chunks) => chunks,
                Err(error) => {
                    // Whoever has gone away has an error of its own to tell; so below.
                    let _ = out.send(Err(error));
                    return;
                }
            };
            let mut parts = run.iter();
            let mut part = parts.next().cloned().unwrap_or_default();
            for chunk in chunks {
                let mut rest = match chunk {
                    Ok(chunk) => Some(chunk),
                    Err(error) => {
                        let _ = out.send(Err(error));
                        return;
                    }
                };
                while let Some(chunk) = rest {
                    if chunk.first_row == part.end {
                        part = parts.next().cloned().unwrap_or_default();
                    }
                    let (now, later) = chunk.split_at(part.end);
                    if out.send(Ok((part.clone(), now))).is_err() {
                        return;
                    }
                    rest = later;
                }
            }
        }
    }

    fn encode_chunks(&self, chunks: Receiver<Result<(Range<u64>, Chunk)>>, parts: SyncSender<Part>) -> Result<()> {
        let place = self.source.place();
        let mut part: Option<Part> = None;
        for chunk in chunks {
            let (rows, chunk) = chunk?;
            let (read, end) = (chunk.rows as u64, chunk.first_row + chunk.rows as u64);
            let (batch, counts) = encode(self.tokenizer, &place, chunk, self.on_invalid)?;
            let now =
                part.get_or_insert_with(|| Part { rows: rows.clone(), counts: Counts::default(), batches: vec![] });
            now.counts.encoded += counts.encoded;
            now.counts.null += counts.null;
            now.counts.skipped += counts.skipped;
            now.batches.push(batch);
            self.progress.advance(read);
            if end == rows.end
                && let Some(whole) = part.take()
                && parts.send(whole).is_err()
            {
                // The writer has failed and tells why.
                return Ok(());
            }
        }
        Ok(())
    }

    fn write(&self, parts: Receiver<Part>) -> Result<()> {
        for part in parts {
            self.folder.write(&part.rows, part.counts, part.batches)?;
        }
        Ok(())
    }
}

impl Chunk {
    /// The rows before `row` and those from it on, if there are any.
    fn split_at(mut self, row: u64) -> (Self, Option<Self>) {
        let rows = usize::try_from(row - self.first_row).unwrap_or(usize::MAX);
        if rows >= self.rows {
            return (self, None);
        }
        let width = self.values.len() / self.rows;
        let later = Self {
            first_row: row,
            rows: self.rows - rows,
            ids: self.ids.as_mut().map(|ids| ids.split_off(rows)),
            values: self.values.split_off(rows * width),
            missing: self.missing.split_off(self.missing.partition_point(|&missing| missing < row)),
        };
        self.rows = rows;
        (self, Some(later))
    }
}
