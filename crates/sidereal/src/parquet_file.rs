//! Answers as Parquet: written beside their place and renamed, with the job that made them in the file's metadata, so
//! that the same job asked again knows that it is done.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::arrow::{ArrowWriter, ProjectionMask};
use parquet::basic::Compression;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{WriterProperties, WriterPropertiesBuilder};
use parquet::file::reader::{FileReader, SerializedFileReader};
use sidereal_core::Error;

use crate::Result;

/// The metadata key that holds the job.
pub(crate) const JOB_KEY: &str = "sidereal.job";

/// Refuses an output whose folder is not there, before any work is done.
///
/// # Errors
/// Names the folder.
pub(crate) fn check_folder(path: &Path) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if folder.is_dir() {
        return Ok(());
    }
    let problem = format!("there is no folder {} to write it into", folder.display());
    Err(Error::input(path.display().to_string(), problem, "make the folder, or choose another place").into())
}

/// What every file of ours is written with: zstd, and some values for keys of its metadata.
pub(crate) fn properties(values: &[(&str, &str)]) -> WriterPropertiesBuilder {
    let values = values.iter().map(|(key, value)| KeyValue::new((*key).to_owned(), (*value).to_owned())).collect();
    WriterProperties::builder()
        .set_compression(Compression::ZSTD(parquet::basic::ZstdLevel::default()))
        .set_key_value_metadata(Some(values))
        .set_created_by(concat!("sidereal ", env!("CARGO_PKG_VERSION")).to_owned())
}

/// Writes batches to a file under a temporary name and renames it.
///
/// # Errors
/// Whatever the file system says, or a batch's producer; then no file of that name is made or changed.
pub(crate) fn write(
    path: &Path,
    schema: &Arc<Schema>,
    job: &str,
    batches: impl Iterator<Item = Result<RecordBatch>>,
) -> Result<()> {
    write_by(&temporary_name(path), path, schema, properties(&[(JOB_KEY, job)]).build(), batches)
}

/// As [`write`], under a temporary name of the caller's choice on the same file system.
///
/// # Errors
/// As [`write`].
pub(crate) fn write_by(
    temporary: &Path,
    path: &Path,
    schema: &Arc<Schema>,
    properties: WriterProperties,
    batches: impl Iterator<Item = Result<RecordBatch>>,
) -> Result<()> {
    let written = write_to(temporary, path, schema, properties, batches);
    if written.is_err() {
        // The first error is the one to tell.
        let _ = std::fs::remove_file(temporary);
    }
    written
}

fn write_to(
    temporary: &Path,
    path: &Path,
    schema: &Arc<Schema>,
    properties: WriterProperties,
    batches: impl Iterator<Item = Result<RecordBatch>>,
) -> Result<()> {
    let io = |e| Error::io("write", path, e);
    let bad = |e: parquet::errors::ParquetError| parquet_error(path, &e);
    let file = File::create(temporary).map_err(io)?;
    let mut writer = ArrowWriter::try_new(file, Arc::clone(schema), Some(properties)).map_err(bad)?;
    for batch in batches {
        writer.write(&batch?).map_err(bad)?;
    }
    let file = writer.into_inner().map_err(bad)?;
    file.sync_all().map_err(io)?;
    std::fs::rename(temporary, path).map_err(io)?;
    Ok(())
}

/// The job that a file was made by; `None` if it is absent, unreadable or not ours.
pub(crate) fn job_of(path: &Path) -> Option<String> {
    value_of(path, JOB_KEY)
}

/// A value of a file's metadata; `None` if the file or the value is absent or unreadable.
pub(crate) fn value_of(path: &Path, key: &str) -> Option<String> {
    let reader = SerializedFileReader::new(File::open(path).ok()?).ok()?;
    let pairs = reader.metadata().file_metadata().key_value_metadata()?;
    pairs.iter().find(|pair| pair.key == key)?.value.clone()
}

/// Number of rows of a file.
pub(crate) fn rows_of(path: &Path) -> Result<u64> {
    let file = File::open(path).map_err(|e| Error::io("read", path, e))?;
    let reader = SerializedFileReader::new(file).map_err(|e| parquet_error(path, &e))?;
    Ok(u64::try_from(reader.metadata().file_metadata().num_rows()).unwrap_or(0))
}

/// Reads a file of ours batch by batch.
pub(crate) fn batches(path: &Path) -> Result<impl Iterator<Item = Result<RecordBatch>> + use<>> {
    read(path, None)
}

/// Reads some columns of a file of ours batch by batch.
pub(crate) fn columns(path: &Path, names: &[&str]) -> Result<impl Iterator<Item = Result<RecordBatch>> + use<>> {
    read(path, Some(names))
}

fn read(path: &Path, names: Option<&[&str]>) -> Result<impl Iterator<Item = Result<RecordBatch>> + use<>> {
    let file = File::open(path).map_err(|e| Error::io("read", path, e))?;
    let reader = ParquetRecordBatchReaderBuilder::try_new(file)
        .and_then(|builder| {
            let mask = match names {
                Some(names) => ProjectionMask::columns(builder.parquet_schema(), names.iter().copied()),
                None => ProjectionMask::all(),
            };
            builder.with_projection(mask).build()
        })
        .map_err(|e| parquet_error(path, &e))?;
    let path = path.to_path_buf();
    Ok(reader.map(move |batch| {
        batch.map_err(|e| Error::artifact(&path, e.to_string(), "remove it and run the same command again").into())
    }))
}

/// A folder beside a file for its unfinished parts.
pub(crate) fn parts_folder(path: &Path) -> PathBuf {
    path.with_file_name(format!("{}.partial", name_of(path)))
}

fn temporary_name(path: &Path) -> PathBuf {
    path.with_file_name(format!(".{}.{}.writing", name_of(path), std::process::id()))
}

fn name_of(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn parquet_error(path: &Path, error: &parquet::errors::ParquetError) -> crate::Error {
    let mend = "free some space, or check the file and run the same command again";
    Error::artifact(path, error.to_string(), mend).into()
}
