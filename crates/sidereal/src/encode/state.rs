//! What a job is, and the folder of one that is not finished: `OUT.partial/` with `job.json`, a lock that a running job
//! holds, and the finished parts.

use std::fs::{self, File, TryLockError};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use arrow::array::RecordBatch;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sidereal_core::Error;
use sidereal_core::artifact::{read_json, write_json};
use sidereal_embed::FileIdentity;

use super::parts::{COUNTS_KEY, layout, schema};
use super::{Counts, OnInvalid, PART_ROWS};
use crate::parquet_file::{self, JOB_KEY};
use crate::vectors::Source;
use crate::{Result, parquet_file::parts_folder};

/// The metadata key that holds the number of distinct semantic IDs.
const DISTINCT_KEY: &str = "sidereal.unique_ids";
const FORMAT_VERSION: u32 = 1;
const JOB_FILE: &str = "job.json";
const LOCK_FILE: &str = "lock";
const IDS_CHECKED: &str = "ids.checked";

/// A file of vectors, as a job knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AskedInput {
    /// The tensor or column, where it was named.
    name: Option<String>,
    file: FileIdentity,
}

/// What was asked for.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    tokenizer: String,
    inputs: Vec<AskedInput>,
    places: Vec<String>,
    rows: u64,
    has_ids: bool,
    on_invalid: OnInvalid,
}

/// What `job.json` holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct JobFile {
    format_version: u32,
    /// The tokenizer's digest.
    tokenizer: String,
    inputs: Vec<AskedInput>,
    rows: u64,
    part_rows: u64,
}

impl Asked {
    pub(super) fn new(tokenizer: String, source: &Source, on_invalid: OnInvalid) -> Result<Self> {
        let inputs = source.identities()?.into_iter().map(|(name, file)| AskedInput { name, file }).collect();
        let places = source.places().map(ToOwned::to_owned).collect();
        Ok(Self { tokenizer, inputs, places, rows: source.rows(), has_ids: source.has_ids(), on_invalid })
    }

    /// Refuses files that are no longer what they were when the job looked at them.
    pub(super) fn check_unchanged(&self, source: &Source) -> Result<()> {
        let now = source.identities()?;
        match self.inputs.iter().zip(now).position(|(input, (_, now))| input.file != now) {
            None => Ok(()),
            Some(at) => {
                let place = self.places.get(at).cloned().unwrap_or_default();
                let mend = "remove the folder of its parts and run the same command again when nobody writes to it";
                Err(Error::input(place, "it was changed while it was read", mend).into())
            }
        }
    }

    /// As the finished file keeps it: without times.
    fn key(&self) -> String {
        let input = |input: &AskedInput| json!({ "bytes": input.file.bytes, "ends": input.file.ends, "tag": input.file.tag, "name": input.name });
        let inputs: Vec<serde_json::Value> = self.inputs.iter().map(input).collect();
        json!({ "tokenizer": self.tokenizer, "on_invalid": self.on_invalid, "inputs": inputs }).to_string()
    }

    /// The metadata of the finished file.
    pub(super) fn values(&self, counts: &Counts, unique_ids: u64) -> [(&'static str, String); 3] {
        let counts = serde_json::to_string(counts).unwrap_or_default();
        [(JOB_KEY, self.key()), (COUNTS_KEY, counts), (DISTINCT_KEY, unique_ids.to_string())]
    }

    pub(super) fn on_invalid(&self) -> OnInvalid {
        self.on_invalid
    }

    /// What a finished file says, if it answers this: made by the same job, after the inputs' last change.
    pub(super) fn answered_by(&self, out: &Path) -> Option<(Counts, u64)> {
        if parquet_file::job_of(out)? != self.key() {
            return None;
        }
        let made = fs::metadata(out).ok()?.modified().ok()?.duration_since(UNIX_EPOCH).ok()?.as_nanos();
        let newer = |input: &AskedInput| {
            // A store's tag tells more than its clock.
            input.file.tag.is_none() && input.file.modified.is_some_and(|changed| u128::from(changed) > made)
        };
        if self.inputs.iter().any(newer) {
            return None;
        }
        let counts = serde_json::from_str(&parquet_file::value_of(out, COUNTS_KEY)?).ok()?;
        Some((counts, parquet_file::value_of(out, DISTINCT_KEY)?.parse().ok()?))
    }

    fn differs_from(&self, other: &JobFile) -> Option<String> {
        if other.tokenizer != self.tokenizer {
            return Some("another tokenizer".to_owned());
        }
        if other.inputs.len() != self.inputs.len() {
            return Some(format!("{} files of vectors, not {}", other.inputs.len(), self.inputs.len()));
        }
        let changed = other.inputs.iter().zip(&self.inputs).position(|(theirs, ours)| theirs != ours);
        match changed {
            Some(at) => {
                let place = self.places.get(at).map(String::as_str).unwrap_or_default();
                Some(format!("vectors other than {place} holds now (it was changed, or another file was meant)"))
            }
            None => (other.rows != self.rows).then(|| format!("{} rows, not {}", other.rows, self.rows)),
        }
    }
}

/// The folder of an unfinished job, locked for this process.
#[derive(Debug)]
pub(super) struct Folder {
    dir: PathBuf,
    job: JobFile,
    /// What a part must have been made by.
    key: String,
    has_ids: bool,
    on_invalid: OnInvalid,
    lock: File,
}

impl Folder {
    /// Begins a job, or goes on with one; then its part rows are those that it began with.
    ///
    /// # Errors
    /// Another job of the same name is unfinished, or this one is running.
    pub(super) fn open(out: &Path, asked: &Asked, part_rows: Option<u64>) -> Result<Self> {
        let dir = parts_folder(out);
        fs::create_dir_all(&dir).map_err(|e| Error::io("create", &dir, e))?;
        let lock = lock(&dir)?;
        let path = dir.join(JOB_FILE);
        let job = if path.is_file() {
            let job: JobFile = read_json(&path)?;
            if let Some(difference) = asked.differs_from(&job) {
                let problem = format!("it holds the unfinished parts of a job with {difference}");
                let mend = "remove the folder to begin anew, or give that job's tokenizer and files to finish it";
                return Err(Error::artifact(&dir, problem, mend).into());
            }
            job
        } else {
            let job = JobFile {
                format_version: FORMAT_VERSION,
                tokenizer: asked.tokenizer.clone(),
                inputs: asked.inputs.clone(),
                rows: asked.rows,
                part_rows: part_rows.unwrap_or(PART_ROWS).max(1),
            };
            write_json(&path, &job)?;
            job
        };
        let key = json!({ "tokenizer": job.tokenizer, "inputs": job.inputs }).to_string();
        Ok(Self { dir, job, key, has_ids: asked.has_ids, on_invalid: asked.on_invalid, lock })
    }

    /// Rows of a part; chunks are no larger, so that damage behind a part does not take it along.
    pub(super) fn part_rows(&self) -> u64 {
        self.job.part_rows
    }

    /// The rows of every part, in order.
    pub(super) fn parts(&self) -> Vec<Range<u64>> {
        let rows = self.job.rows;
        let part_rows = self.job.part_rows.max(1);
        (0..rows.div_ceil(part_rows)).map(|n| n * part_rows..((n + 1) * part_rows).min(rows)).collect()
    }

    pub(super) fn path_of(&self, part: &Range<u64>) -> PathBuf {
        self.dir.join(format!("part-{:06}.parquet", part.start / self.job.part_rows.max(1)))
    }

    /// The name of the joined file until it gets its own.
    pub(super) fn joined(&self) -> PathBuf {
        self.dir.join("joined.writing")
    }

    /// What became of a finished part's rows. A part without invalid rows is the same under every policy.
    pub(super) fn counts_of(&self, part: &Range<u64>) -> Option<Counts> {
        let path = self.path_of(part);
        let made: PartKey = serde_json::from_str(&parquet_file::value_of(&path, COUNTS_KEY)?).ok()?;
        let sound = made.counts.null + made.counts.skipped == 0 || made.on_invalid == self.on_invalid;
        let of_this = parquet_file::job_of(&path)? == self.key && made.rows == *part;
        (of_this && sound).then_some(made.counts)
    }

    /// Writes a finished part, whole or not at all.
    pub(super) fn write(&self, part: &Range<u64>, counts: Counts, batches: Vec<RecordBatch>) -> Result<()> {
        let path = self.path_of(part);
        let about = PartKey { rows: part.clone(), on_invalid: self.on_invalid, counts };
        let about = serde_json::to_string(&about).unwrap_or_default();
        let properties = layout(&[(JOB_KEY, &self.key), (COUNTS_KEY, &about)]).build();
        let schema = schema(self.has_ids, true);
        parquet_file::write_by(&path.with_extension("writing"), &path, &schema, properties, batches.into_iter().map(Ok))
    }

    pub(super) fn ids_are_checked(&self) -> bool {
        self.dir.join(IDS_CHECKED).is_file()
    }

    pub(super) fn mark_ids_checked(&self) -> Result<()> {
        let path = self.dir.join(IDS_CHECKED);
        Ok(fs::write(&path, b"").map_err(|e| Error::io("write", &path, e))?)
    }

    /// Says with an error how much of the work is kept.
    pub(super) fn with_kept_parts(&self, error: crate::Error) -> crate::Error {
        let parts = self.parts();
        let finished = parts.iter().filter(|part| self.counts_of(part).is_some()).count();
        let kept = format!(" ({finished} of {} parts are finished and kept in {})", parts.len(), self.dir.display());
        match error {
            crate::Error::Core(Error::Input { place, problem, mend }) => {
                Error::Input { place, problem, mend: mend + &kept }
            }
            crate::Error::Core(Error::Artifact { path, problem, mend }) => {
                Error::Artifact { path, problem, mend: mend + &kept }
            }
            crate::Error::Core(Error::Mismatch { problem, mend }) => Error::Mismatch { problem, mend: mend + &kept },
            crate::Error::Core(Error::Io { action, path, source }) => {
                let source = std::io::Error::new(source.kind(), format!("{source}{kept}"));
                Error::Io { action, path, source }
            }
            other => return other,
        }
        .into()
    }

    /// Removes the folder of a job that is finished.
    pub(super) fn remove(self) -> Result<()> {
        drop(self.lock);
        Ok(fs::remove_dir_all(&self.dir).map_err(|e| Error::io("remove", &self.dir, e))?)
    }
}

/// What a part says of itself.
#[derive(Debug, Serialize, Deserialize)]
struct PartKey {
    rows: Range<u64>,
    on_invalid: OnInvalid,
    counts: Counts,
}

/// A lock that goes away with the process, however it ends.
fn lock(dir: &Path) -> Result<File> {
    let path = dir.join(LOCK_FILE);
    let file = File::create(&path).map_err(|e| Error::io("create", &path, e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            let problem = "another process is doing this job";
            Err(Error::artifact(dir, problem, "wait until it has ended, or choose another output").into())
        }
        Err(TryLockError::Error(e)) => Err(Error::io("lock", &path, e).into()),
    }
}
