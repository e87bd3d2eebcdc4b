//! The vectors of a job: one file, or several of the same items in the same order, put together row by row.

use std::ops::Range;

use sidereal_core::{Error, ItemId, Progress};
use sidereal_embed::{Batch, FileIdentity, Reading, StoreOptions, VectorFile};

use super::Input;
use crate::Result;
use crate::equals::{Hash, Passes, first_twice, hash_of};

/// Numbers of one chunk, about: 16 MB.
const CHUNK_NUMBERS: usize = 1 << 22;
/// Most rows of one chunk.
const CHUNK_ROWS: usize = 1 << 16;

/// Open files of vectors.
pub(crate) struct Source {
    files: Vec<VectorFile>,
    names: Vec<Option<String>>,
    width: usize,
}

/// Some rows, with the vectors of all files put together.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) first_row: u64,
    pub(crate) rows: usize,
    pub(crate) ids: Option<Vec<ItemId>>,
    /// [rows, D], of all files.
    pub(crate) values: Vec<f32>,
    /// Rows of the input, ascending, that lack a vector in some file; their numbers are NaN.
    pub(crate) missing: Vec<u64>,
}

impl Source {
    pub(crate) fn open(inputs: &[Input], stores: &StoreOptions) -> Result<Self> {
        let open = |input: &Input| VectorFile::open_with(&input.location, input.name.as_deref(), stores);
        let files: Vec<VectorFile> = inputs.iter().map(open).collect::<sidereal_core::Result<_>>()?;
        let Some(first) = files.first() else {
            return Err(Error::config("--embeddings", "no file of vectors is given", "name one or more").into());
        };
        if let Some(other) = files.iter().find(|file| file.rows() != first.rows()) {
            let problem = format!("{} vectors, but {} has {}", other.rows(), first.place(), first.rows());
            let mend = "give files of the same items in the same order";
            return Err(Error::input(other.place(), problem, mend).into());
        }
        let width = files.iter().map(VectorFile::width).sum();
        Ok(Self { files, names: inputs.iter().map(|input| input.name.clone()).collect(), width })
    }

    /// N.
    pub(crate) fn rows(&self) -> u64 {
        self.files.first().map_or(0, |file| file.rows() as u64)
    }

    /// D, of all files together.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// What the files are, for manifests.
    pub(crate) fn digests(&self) -> Result<Vec<String>> {
        Ok(self.files.iter().map(VectorFile::digest).collect::<sidereal_core::Result<_>>()?)
    }

    pub(crate) fn has_ids(&self) -> bool {
        self.files.iter().any(VectorFile::has_ids)
    }

    /// The files' names, for errors.
    pub(crate) fn place(&self) -> String {
        self.files.iter().map(VectorFile::place).collect::<Vec<_>>().join(" + ")
    }

    pub(crate) fn places(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(VectorFile::place)
    }

    /// What tells the files and what is read of them apart.
    pub(crate) fn identities(&self) -> Result<Vec<(Option<String>, FileIdentity)>> {
        let each = self.names.iter().zip(&self.files);
        each.map(|(name, file)| Ok((name.clone(), file.identity()?))).collect()
    }

    /// Refuses vectors that are not as wide as the tokenizer's.
    pub(crate) fn check_width(&self, wanted: usize) -> Result<()> {
        if self.width == wanted {
            return Ok(());
        }
        let widths: Vec<String> = self.files.iter().map(|file| file.width().to_string()).collect();
        let sum = if widths.len() > 1 { format!("{} = {}", widths.join(" + "), self.width) } else { widths.concat() };
        let problem =
            format!("the vectors of {} are {sum} wide, but the tokenizer was trained on width {wanted}", self.place());
        let mend = "use embeddings of the model that the tokenizer was trained on, or train a tokenizer on these";
        Err(Error::mismatch(problem, mend).into())
    }

    /// Refuses ids that appear twice, before any vector is read. All keys of a pass are held, so that memory does not
    /// grow with the ids: many ids take several passes over their column.
    pub(crate) fn check_ids(&self, progress: &dyn Progress) -> Result<()> {
        let Some(file) = self.files.iter().find(|file| file.has_ids()) else { return Ok(()) };
        let passes = Passes::over(self.rows());
        progress.start("check ids", Some(self.rows() * passes.count()), "ids");
        for pass in passes.each() {
            let mut keys: Vec<(Hash, u64)> = passes.room_for_keys();
            for batch in file.ids()? {
                let (first_row, ids) = batch?;
                let hashed = ids.iter().enumerate().map(|(row, id)| (hash_of(id.as_str()), (first_row + row) as u64));
                keys.extend(hashed.filter(|(hash, _)| pass.takes(*hash)));
                progress.advance(ids.len() as u64);
            }
            if let Some((first, second)) = first_twice(&mut keys) {
                return Err(twice(file, first, second)?.into());
            }
        }
        progress.finish();
        Ok(())
    }

    /// Reads some rows in order, not many more than `about` at a time; the last chunk ends with the last of them.
    pub(crate) fn chunks(&self, rows: Range<u64>, about: u64) -> Result<impl Iterator<Item = Result<Chunk>> + '_> {
        let most = usize::try_from(about).unwrap_or(usize::MAX).clamp(1, CHUNK_ROWS);
        let batch_rows = (CHUNK_NUMBERS / self.width.max(1)).clamp(1, most);
        let reading = Reading { from_row: rows.start as usize, batch_rows: Some(batch_rows), keep_missing: true };
        let feeds = self.files.iter().map(|file| Feed::new(file, reading)).collect::<Result<Vec<_>>>()?;
        let mut merge = Merge { feeds, next_row: rows.start, end: rows.end, failed: false };
        Ok(std::iter::from_fn(move || merge.next()))
    }
}

fn twice(file: &VectorFile, first: u64, second: u64) -> Result<Error> {
    let mut name = String::new();
    for batch in file.ids()? {
        let (first_row, ids) = batch?;
        if let Some(id) = (second as usize).checked_sub(first_row).and_then(|row| ids.get(row)) {
            name = id.as_str().to_owned();
            break;
        }
    }
    let problem = format!("item id {name:?} appears a second time (first in row {first})");
    let mend = "remove one of the two rows";
    Ok(Error::input(format!("{}, row {second}", file.place()), problem, mend))
}

/// One file as it is read.
struct Feed<'a> {
    file: &'a VectorFile,
    batches: Box<dyn Iterator<Item = sidereal_core::Result<Batch>> + 'a>,
    batch: Option<Batch>,
    /// Rows of the batch that were taken.
    taken: usize,
}

impl<'a> Feed<'a> {
    fn new(file: &'a VectorFile, reading: Reading) -> Result<Self> {
        Ok(Self { file, batches: file.read(reading)?, batch: None, taken: 0 })
    }

    /// Rows at hand; the next batch is read where there are none.
    fn at_hand(&mut self, next_row: u64) -> Result<usize> {
        loop {
            if let Some(batch) = &self.batch {
                let rows = batch.values.len() / self.file.width();
                if rows > self.taken {
                    return Ok(rows - self.taken);
                }
            }
            self.taken = 0;
            match self.batches.next() {
                Some(batch) => self.batch = Some(batch?),
                None => {
                    let problem = format!("it holds {next_row} vectors, but its header says {}", self.file.rows());
                    let mend = "write it again: it may be truncated";
                    return Err(Error::input(self.file.place(), problem, mend).into());
                }
            }
        }
    }
}

struct Merge<'a> {
    feeds: Vec<Feed<'a>>,
    next_row: u64,
    end: u64,
    failed: bool,
}

impl Merge<'_> {
    fn next(&mut self) -> Option<Result<Chunk>> {
        if self.failed || self.next_row >= self.end {
            return None;
        }
        let chunk = self.chunk();
        self.failed = chunk.is_err();
        Some(chunk)
    }

    fn chunk(&mut self) -> Result<Chunk> {
        let mut rows = usize::try_from(self.end - self.next_row).unwrap_or(usize::MAX);
        for feed in &mut self.feeds {
            rows = rows.min(feed.at_hand(self.next_row)?);
        }
        let first_row = self.next_row;
        self.next_row += rows as u64;
        let ids = self.ids(first_row, rows)?;
        let mut missing: Vec<u64> = Vec::new();
        for feed in &self.feeds {
            let of_batch = feed.batch.iter().flat_map(|batch| batch.missing.iter().map(|&row| row as u64));
            missing.extend(of_batch.filter(|row| (first_row..self.next_row).contains(row)));
        }
        missing.sort_unstable();
        missing.dedup();
        let values = self.values(rows);
        for feed in &mut self.feeds {
            feed.taken += rows;
        }
        Ok(Chunk { first_row, rows, ids, values, missing })
    }

    fn values(&mut self, rows: usize) -> Vec<f32> {
        if let [feed] = self.feeds.as_mut_slice()
            && let Some(batch) = &mut feed.batch
        {
            let width = feed.file.width();
            if feed.taken == 0 && batch.values.len() == rows * width {
                // The whole batch, as it mostly is: nothing is copied, and an empty one is read on.
                feed.taken = 0;
                return std::mem::take(&mut batch.values);
            }
        }
        let width: usize = self.feeds.iter().map(|feed| feed.file.width()).sum();
        let mut values = Vec::with_capacity(rows * width);
        for row in 0..rows {
            for feed in &self.feeds {
                let (from, width) = (feed.taken + row, feed.file.width());
                let batch = feed.batch.as_ref().map_or(&[][..], |batch| &batch.values);
                values.extend_from_slice(batch.get(from * width..(from + 1) * width).unwrap_or(&[]));
            }
        }
        values
    }

    /// The rows' ids, which must be the same in every file that has them.
    fn ids(&self, first_row: u64, rows: usize) -> Result<Option<Vec<ItemId>>> {
        let of = |feed: &Feed<'_>| -> Option<Vec<ItemId>> {
            let ids = feed.batch.as_ref()?.ids.as_ref()?;
            Some(ids.get(feed.taken..feed.taken + rows)?.to_vec())
        };
        let mut found = self.feeds.iter().filter_map(|feed| Some((feed.file, of(feed)?)));
        let Some((first_file, ids)) = found.next() else { return Ok(None) };
        for (file, others) in found {
            if let Some(row) = (0..rows).find(|&row| ids.get(row) != others.get(row)) {
                let id = |ids: &[ItemId]| ids.get(row).map(|id| id.as_str().to_owned()).unwrap_or_default();
                let problem =
                    format!("item id {:?}, but {} has {:?} in this row", id(&others), first_file.place(), id(&ids));
                let at = format!("{}, row {}", file.place(), first_row + row as u64);
                return Err(Error::input(at, problem, "put the rows of all files into the same order").into());
            }
        }
        Ok(Some(ids))
    }
}
