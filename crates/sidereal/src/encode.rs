//! The encode job: vectors of any size -> a Parquet of codes, by a trained tokenizer, in bounded memory.
//!
//! Rows are read, encoded and written at the same time, in parts of some rows ([`EncodeJob::part_rows`]) that are each
//! written whole or not at all into `OUT.partial/`, beside a file that says what the job is. When all are there they
//! are joined into OUT, which appears under its name only then, and the folder is removed. A killed job asked again
//! keeps its finished parts; a finished job asked again is done at once. OUT's bytes depend on the tokenizer, the
//! vectors, the ids and the policy alone: not on threads, on part rows, or on where the job was killed.
//!
//! An input is known by its length, its two ends, its object store's tag and, as long as the job is not finished, the
//! time of its last change; a finished OUT that is older than an input on disk is made again. A file that was changed in
//! its middle only, at the same length and with its old time put back, is not noticed.
//!
//! *Memory*: at most five chunks of about 16 MB of vectors (one read, two waiting, one encoded and its copy), one page
//! of each Parquet column (and 64 MiB of an object store's blocks for each file), the codes and ids of three parts, one
//! row group of OUT (1,048,576 rows of codes and ids), and 201 MB of keys while ids are checked or 134 MB while
//! distinct semantic IDs are counted. None of it grows with the number of items, but the passes over ids and codes do:
//! one for every 8 million items.

mod join;
mod parts;
mod state;
mod work;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sidereal_core::artifact::{MANIFEST, read_manifest, sha256_bytes, verify_files};
use sidereal_core::{Error, Progress};
use sidereal_embed::StoreOptions;
use sidereal_tokenizer::ItemTokenizer;

use crate::life::new_items::knowing;
use crate::run::{Run, Stage};
use crate::vectors::{Input, OnInvalid, Source};
use crate::{Result, parquet_file};

use state::{Asked, Folder};

/// Rows of a part where nobody says.
pub const PART_ROWS: u64 = 1 << 18;

/// What is to be encoded, by what, and to where.
#[derive(Debug, Clone)]
pub struct EncodeJob {
    /// A run, or a tokenizer folder.
    pub tokenizer: PathBuf,
    /// Files of vectors of the same items in the same order; their vectors are put together row by row.
    pub inputs: Vec<Input>,
    /// The Parquet file to write.
    pub out: PathBuf,
    /// What becomes of rows that cannot be encoded.
    pub on_invalid: OnInvalid,
    /// Rows of a part: what a kill may lose. A job that is continued keeps the rows that it began with.
    pub part_rows: Option<u64>,
    /// How object stores are reached.
    pub stores: StoreOptions,
}

/// What became of the rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    /// Rows with codes.
    pub encoded: u64,
    /// Rows without codes, because their vectors are missing, not finite or too large.
    pub null: u64,
    /// Rows left out for the same reasons.
    pub skipped: u64,
}

/// What an encode job did.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Done {
    /// Rows of the input, N.
    pub items: u64,
    /// What became of them.
    #[serde(flatten)]
    pub counts: Counts,
    /// Distinct semantic IDs, counted exactly.
    pub unique_ids: u64,
    /// Parts that the job had; none if it was finished before.
    pub parts: usize,
    /// Parts that an earlier, unfinished call had made.
    pub parts_kept: usize,
    /// The file was there already.
    pub finished_before: bool,
}

impl EncodeJob {
    /// A job with the usual settings.
    pub fn new(tokenizer: &Path, embeddings: &Path, out: &Path) -> Self {
        Self {
            tokenizer: tokenizer.to_path_buf(),
            inputs: vec![Input::from(embeddings)],
            out: out.to_path_buf(),
            on_invalid: OnInvalid::Error,
            part_rows: None,
            stores: StoreOptions::from_environment(),
        }
    }

    /// Does the job, or what is left of it.
    ///
    /// Columns of the file: `row` (of the input), `item_id` where a file of vectors has ids, and `codes`, null where
    /// [`OnInvalid::Null`] says so. The metadata key `sidereal.job` holds the tokenizer's digest and the inputs' marks.
    ///
    /// # Errors
    /// No tokenizer, or one of another version; vectors of another width; files of other items; an id that appears
    /// twice; rows that cannot be encoded, under [`OnInvalid::Error`]; damaged input; an unfinished job of the same
    /// name that is another one; an output that cannot be written. Finished parts are kept and nothing half-written
    /// gets OUT's name.
    pub fn run(&self, progress: &dyn Progress) -> Result<Done> {
        let out = &self.out;
        parquet_file::check_folder(out)?;
        if out.is_dir() {
            let problem = "this is a folder, not a file";
            return Err(Error::input(out.display().to_string(), problem, "name the file to write").into());
        }
        if self.part_rows == Some(0) {
            return Err(Error::config("--part-rows", "a part of 0 rows", "give 1 or more").into());
        }
        let (digest, tokenizer) = load(&self.tokenizer)?;
        let source = Source::open(&self.inputs, &self.stores)?;
        source.check_width(tokenizer.description().width)?;
        let asked = Asked::new(digest, &source, self.on_invalid)?;
        if let Some((counts, unique_ids)) = asked.answered_by(out) {
            // A kill may have come after the file got its name and before its parts were removed.
            if parquet_file::parts_folder(out).is_dir()
                && let Ok(folder) = Folder::open(out, &asked, self.part_rows)
            {
                folder.remove()?;
            }
            let items = source.rows();
            return Ok(Done { items, counts, unique_ids, parts: 0, parts_kept: 0, finished_before: true });
        }
        let folder = Folder::open(out, &asked, self.part_rows)?;
        self.finish(&asked, &source, &tokenizer, folder, progress)
    }

    fn finish(
        &self,
        asked: &Asked,
        source: &Source,
        tokenizer: &ItemTokenizer,
        folder: Folder,
        progress: &dyn Progress,
    ) -> Result<Done> {
        if !folder.ids_are_checked() {
            source.check_ids(progress)?;
            folder.mark_ids_checked()?;
        }
        let parts = folder.parts();
        let wanted: Vec<_> = parts.iter().filter(|part| folder.counts_of(part).is_none()).cloned().collect();
        let parts_kept = parts.len() - wanted.len();
        let left = wanted.iter().map(|part| part.end - part.start).sum();
        progress.start("encode", Some(left), "items");
        if parts_kept > 0 {
            progress.note(&format!("{parts_kept} of {} parts were finished before", parts.len()));
        }
        let work = work::Work { source, tokenizer, folder: &folder, on_invalid: self.on_invalid, progress };
        work.encode(&wanted).map_err(|error| folder.with_kept_parts(error))?;
        progress.finish();
        asked.check_unchanged(source).map_err(|error| folder.with_kept_parts(error))?;
        let has_ids = source.has_ids();
        let (counts, unique_ids) = join::join(asked, &folder, &parts, tokenizer, has_ids, &self.out, progress)?;
        folder.remove()?;
        let items = source.rows();
        Ok(Done { items, counts, unique_ids, parts: parts.len(), parts_kept, finished_before: false })
    }
}

/// The tokenizer of a run or tokenizer folder, and its digest. A run's list of items has those too that were added to its
/// catalog.
fn load(folder: &Path) -> Result<(String, ItemTokenizer)> {
    let name = Stage::Tokenizer.name();
    let dir = match folder.join(name).join(MANIFEST).is_file() {
        true => folder.join(name),
        false => folder.to_path_buf(),
    };
    let manifest = read_manifest(&dir, name)?;
    // Loading comes first: it tells another version from damage.
    let tokenizer = ItemTokenizer::load(&dir)?;
    verify_files(&dir, &manifest)?;
    let digest = manifest.digest();
    if tokenizer.description().config.lists_items() && dir != folder {
        let run = Run::open(folder)?;
        if run.has(Stage::Catalog) && run.manifest(Stage::Catalog)?.inputs.get(name) == Some(&digest) {
            let catalog = run.catalog()?;
            if catalog.len() > catalog.built_items() {
                let digest = sha256_bytes(format!("{digest} {}", catalog.version()).as_bytes());
                return Ok((digest, knowing(tokenizer, &catalog)?));
            }
        }
    }
    Ok((digest, tokenizer))
}

#[cfg(test)]
mod tests;
