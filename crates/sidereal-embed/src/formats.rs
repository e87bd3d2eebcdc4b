//! Files of ready vectors, one file a format. [`FORMATS`] is the list: the choice by file name and the errors walk it.

mod mapped;
mod npy;
mod parquet;
mod safetensors;

use std::fs::File;
use std::path::Path;

use memmap2::Mmap;
use sidereal_core::{Error, ItemId, Result};

use crate::precision::Precision;

/// Widest vector that is read.
pub const MAX_WIDTH: usize = 1 << 16;
/// Numbers of one batch, about.
const BATCH_NUMBERS: usize = 1 << 22;

/// A format that vectors are read from.
#[derive(Debug, Clone, Copy)]
pub struct Format {
    /// File names that end so are taken for it.
    pub ending: &'static str,
    /// What such a file must hold.
    pub about: &'static str,
    open: fn(&Path, Option<&str>) -> Result<Contents>,
}

/// All formats.
pub const FORMATS: &[Format] = &[
    Format {
        ending: ".safetensors",
        about: "a tensor [N, D] of f16, bf16, f32 or f64, called \"embeddings\" or the only one of two dimensions",
        open: safetensors::open,
    },
    Format { ending: ".npy", about: "an array [N, D] of f16, bf16, f32 or f64", open: npy::open },
    Format {
        ending: ".parquet",
        about: "a list column \"embedding\" or \"vector\" of f16, f32 or f64, and an \"item_id\" column if rows are to be matched by id",
        open: parquet::open,
    },
];

enum Contents {
    Mapped(mapped::Matrix),
    Parquet(parquet::Columns),
}

/// An open file of vectors.
///
/// # Shapes
/// [N, D]: [`VectorFile::rows`] by [`VectorFile::width`].
pub struct VectorFile {
    place: String,
    contents: Contents,
}

/// Some rows of a file.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The file's row that comes first.
    pub first_row: usize,
    /// The rows' item ids, where the file has them.
    pub ids: Option<Vec<ItemId>>,
    /// The numbers, row-major, [rows, D]. They may be NaN or infinite.
    pub values: Vec<f32>,
}

impl VectorFile {
    /// Opens a file; `name` is the tensor or column, where it is not the usual one.
    ///
    /// # Errors
    /// A format that is not in [`FORMATS`]; a file that is missing, empty, truncated, damaged, or holds no vectors.
    pub fn open(path: &Path, name: Option<&str>) -> Result<Self> {
        let place = path.display().to_string();
        let file_name = path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
        let Some(format) = FORMATS.iter().find(|format| file_name.ends_with(format.ending)) else {
            let known: Vec<String> = FORMATS.iter().map(|f| format!("{} ({})", f.ending, f.about)).collect();
            let problem = "the file's name tells no format that vectors can be read from";
            return Err(Error::input(place, problem, format!("use one of: {}", known.join("; "))));
        };
        if format.ending == ".npy" && name.is_some() {
            let problem = format!("a .npy file has one array, so none is named {:?}", name.unwrap_or_default());
            return Err(Error::input(place, problem, "leave the name out"));
        }
        let contents = (format.open)(path, name)?;
        let file = Self { place, contents };
        if file.rows() == 0 {
            return Err(file.wrong("there are no vectors in it", "write a row for each item"));
        }
        if file.width() == 0 || file.width() > MAX_WIDTH {
            let problem = format!("its vectors are {} wide", file.width());
            return Err(file.wrong(problem, &format!("give vectors of 1 to {MAX_WIDTH} numbers")));
        }
        Ok(file)
    }

    fn wrong(&self, problem: impl Into<String>, mend: &str) -> Error {
        Error::input(&self.place, problem, mend)
    }

    /// The file's name, for errors.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// N.
    pub fn rows(&self) -> usize {
        match &self.contents {
            Contents::Mapped(matrix) => matrix.rows,
            Contents::Parquet(columns) => columns.rows(),
        }
    }

    /// D.
    pub fn width(&self) -> usize {
        match &self.contents {
            Contents::Mapped(matrix) => matrix.width,
            Contents::Parquet(columns) => columns.width,
        }
    }

    /// How the file stores its numbers.
    pub fn precision(&self) -> Precision {
        match &self.contents {
            Contents::Mapped(matrix) => matrix.precision,
            Contents::Parquet(columns) => columns.precision,
        }
    }

    /// Whether rows come with item ids.
    pub fn has_ids(&self) -> bool {
        matches!(&self.contents, Contents::Parquet(columns) if columns.has_ids())
    }

    /// Reads all rows from `from_row` on, in batches that take a few megabytes each.
    ///
    /// # Errors
    /// Damaged batches (the iterator ends with the first), missing vectors, vectors of another width; the row is named.
    pub fn batches(&self, from_row: usize) -> Result<Box<dyn Iterator<Item = Result<Batch>> + '_>> {
        let batch_rows = (BATCH_NUMBERS / self.width().max(1)).max(1);
        match &self.contents {
            Contents::Mapped(matrix) => {
                let first_rows = (from_row..matrix.rows).step_by(batch_rows);
                Ok(Box::new(first_rows.map(move |first_row| {
                    let values = matrix.read(first_row..(first_row + batch_rows).min(matrix.rows));
                    Ok(Batch { first_row, ids: None, values })
                })))
            }
            Contents::Parquet(columns) => Ok(Box::new(columns.batches(from_row, batch_rows)?)),
        }
    }
}

impl std::fmt::Debug for VectorFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "VectorFile({}, [{}, {}], {:?})", self.place, self.rows(), self.width(), self.precision())
    }
}

/// Maps a file that must hold something.
fn map(path: &Path) -> Result<Mmap> {
    let file = File::open(path).map_err(|e| Error::io("read", path, e))?;
    let about = file.metadata().map_err(|e| Error::io("read", path, e))?;
    let place = || path.display().to_string();
    if about.is_dir() {
        return Err(Error::input(place(), "this is a folder, not a file", "name the file in it"));
    }
    if about.len() == 0 {
        let mend = "write it again: the program that wrote it may have failed";
        return Err(Error::input(place(), "the file is empty", mend));
    }
    // SAFETY: the mapping is only read. A user who truncates the file meanwhile breaks this as with every mapped file.
    unsafe { Mmap::map(&file) }.map_err(|e| Error::io("map", path, e))
}

const AGAIN: &str = "write it again: it may be truncated";

/// Checks that `bytes` are [rows, width] numbers.
fn check_len(place: &str, bytes: usize, rows: usize, width: usize, precision: Precision) -> Result<()> {
    let wanted = rows.checked_mul(width).and_then(|n| n.checked_mul(precision.bytes()));
    if wanted == Some(bytes) {
        return Ok(());
    }
    let wanted = wanted.map_or_else(|| "more than a file can have".to_owned(), |n| n.to_string());
    let problem = format!("its shape [{rows}, {width}] needs {wanted} bytes of numbers, but it has {bytes}");
    Err(Error::input(place, problem, AGAIN))
}

#[cfg(test)]
mod tests;
