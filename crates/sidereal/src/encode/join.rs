//! Parts to the finished file. Its bytes depend on its rows alone: they are cut anew into batches of one size before
//! they are written, whatever the parts were.

use std::collections::VecDeque;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::Schema;
use sidereal_core::{Error, Progress};
use sidereal_tokenizer::ItemTokenizer;

use super::parts::{layout, schema};
use super::state::{Asked, Folder};
use super::{Counts, OnInvalid};
use crate::equals::distinct_codes;
use crate::{Result, parquet_file};

/// Rows of one batch, of which pages and row groups are made.
const BATCH_ROWS: usize = 1 << 13;
/// Rows of a row group.
const GROUP_ROWS: usize = 1 << 20;

/// Counts, and writes the finished file.
pub(super) fn join(
    asked: &Asked,
    folder: &Folder,
    parts: &[Range<u64>],
    tokenizer: &ItemTokenizer,
    has_ids: bool,
    out: &Path,
    progress: &dyn Progress,
) -> Result<(Counts, u64)> {
    let mut counts = Counts::default();
    for part in parts {
        let of_part = folder.counts_of(part).ok_or_else(|| {
            let mend = "run the same command again: the other parts are kept";
            Error::artifact(folder.path_of(part), "the part has gone or was changed", mend)
        })?;
        counts.encoded += of_part.encoded;
        counts.null += of_part.null;
        counts.skipped += of_part.skipped;
    }
    let files: Vec<PathBuf> = parts.iter().map(|part| folder.path_of(part)).collect();
    let unique_ids = distinct_codes(&files, tokenizer.codes_per_level(), counts.encoded)?;
    progress.start("write", Some(counts.encoded + counts.null), "rows");
    let schema = schema(has_ids, asked.on_invalid() == OnInvalid::Null);
    let values = asked.values(&counts, unique_ids);
    let values: Vec<(&str, &str)> = values.iter().map(|(key, value)| (*key, value.as_str())).collect();
    let properties = layout(&values).set_max_row_group_row_count(Some(GROUP_ROWS)).build();
    let rows = files.into_iter().flat_map(|file| match parquet_file::batches(&file) {
        Ok(batches) => Box::new(batches) as Box<dyn Iterator<Item = Result<RecordBatch>>>,
        Err(error) => Box::new(std::iter::once(Err(error))),
    });
    let even = Recut { rows, schema: Arc::clone(&schema), waiting: VecDeque::new(), count: 0 };
    let told = even.inspect(|batch| progress.advance(batch.as_ref().map_or(0, |batch| batch.num_rows() as u64)));
    parquet_file::write_by(&folder.joined(), out, &schema, properties, told)
        .map_err(|error| folder.with_kept_parts(error))?;
    sync_folder_of(out)?;
    progress.finish();
    Ok((counts, unique_ids))
}

/// Batches of [`BATCH_ROWS`] rows, and one of what is left.
struct Recut<I> {
    rows: I,
    schema: Arc<Schema>,
    waiting: VecDeque<RecordBatch>,
    /// Rows that wait.
    count: usize,
}

impl<I: Iterator<Item = Result<RecordBatch>>> Iterator for Recut<I> {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.count < BATCH_ROWS {
            match self.rows.next() {
                Some(Ok(batch)) => {
                    self.count += batch.num_rows();
                    self.waiting.push_back(batch);
                }
                Some(Err(error)) => return Some(Err(error)),
                None => break,
            }
        }
        if self.count == 0 {
            return None;
        }
        let wanted = self.count.min(BATCH_ROWS);
        self.count -= wanted;
        Some(self.take(wanted))
    }
}

impl<I> Recut<I> {
    fn take(&mut self, wanted: usize) -> Result<RecordBatch> {
        let defect = |e: arrow::error::ArrowError| Error::input("codes", e.to_string(), "this is a defect: report it");
        let mut pieces = Vec::new();
        let mut left = wanted;
        while left > 0
            && let Some(batch) = self.waiting.pop_front()
        {
            let rows = batch.num_rows().min(left);
            let piece = batch.slice(0, rows);
            if rows < batch.num_rows() {
                self.waiting.push_front(batch.slice(rows, batch.num_rows() - rows));
            }
            left -= rows;
            // Parts say that codes may be null; the finished file says so only where the policy allows it.
            pieces.push(RecordBatch::try_new(Arc::clone(&self.schema), piece.columns().to_vec()).map_err(defect)?);
        }
        Ok(concat_batches(&self.schema, &pieces).map_err(defect)?)
    }
}

#[cfg(unix)]
fn sync_folder_of(path: &Path) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let synced = std::fs::File::open(folder).and_then(|folder| folder.sync_all());
    Ok(synced.map_err(|e| Error::io("sync", folder, e))?)
}

#[cfg(not(unix))]
fn sync_folder_of(_path: &Path) -> Result<()> {
    Ok(())
}
