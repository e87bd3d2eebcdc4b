//! Files of ready vectors, one file a format. [`FORMATS`] is the list: the choice by file name and the errors walk it.

mod json_lines;
mod matrix;
mod npy;
pub(crate) mod opened;
mod parquet;
mod safetensors;

use std::path::Path;

use sidereal_core::{Error, ItemId, Result};

use crate::objects::StoreOptions;
use crate::precision::Precision;
use opened::{Opened, unread};

pub use opened::FileIdentity;

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
    open: fn(&Opened, Option<&str>) -> Result<Contents>,
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
    Format {
        ending: ".jsonl",
        about: "an object a line with a list of numbers \"embedding\" or \"vector\", and an \"item_id\" if rows are to be matched by id",
        open: json_lines::open,
    },
];

/// Columns or keys that vectors are looked for in, in this order.
const USUAL_NAMES: [&str; 4] = ["embedding", "embeddings", "vector", "vectors"];
/// The column or key of item ids.
const ID: &str = "item_id";

enum Contents {
    Matrix(matrix::Matrix),
    JsonLines(json_lines::JsonLines),
    Parquet(parquet::Columns),
}

/// An open file of vectors.
///
/// # Shapes
/// [N, D]: [`VectorFile::rows`] by [`VectorFile::width`].
pub struct VectorFile {
    file: Opened,
    contents: Contents,
}

/// How rows are read.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reading {
    /// The first row.
    pub from_row: usize,
    /// Rows of a batch; by default as many as take about 16 MB.
    pub batch_rows: Option<usize>,
    /// Vectors that are missing come as NaN and are named in [`Batch::missing`]; else they are an error.
    pub keep_missing: bool,
}

/// Item ids batch by batch, each with the row that comes first.
pub type IdBatches<'a> = Box<dyn Iterator<Item = Result<(usize, Vec<ItemId>)>> + 'a>;

/// Some rows of a file.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The file's row that comes first.
    pub first_row: usize,
    /// The rows' item ids, where the file has them.
    pub ids: Option<Vec<ItemId>>,
    /// The numbers, row-major, [rows, D]. They may be NaN or infinite.
    pub values: Vec<f32>,
    /// Rows of the file whose vectors are missing, where [`Reading::keep_missing`] asks for them.
    pub missing: Vec<usize>,
}

impl VectorFile {
    /// Opens a file on disk, or an object by its URL (`s3://`, `gs://`, `az://`, `http://`, `https://`) with the
    /// credentials in the environment; `name` is the tensor or column, where it is not the usual one.
    ///
    /// # Errors
    /// A format that is not in [`FORMATS`]; a file that is missing, empty, truncated, damaged, or holds no vectors.
    pub fn open(location: &Path, name: Option<&str>) -> Result<Self> {
        Self::open_with(location, name, &StoreOptions::from_environment())
    }

    /// As [`VectorFile::open`], with these options for object stores instead of those of the environment.
    ///
    /// # Errors
    /// As [`VectorFile::open`].
    pub fn open_with(location: &Path, name: Option<&str>, options: &StoreOptions) -> Result<Self> {
        let place = location.display().to_string();
        let file_name = location.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
        // A URL with more behind its path is refused by the one that opens it.
        let file_name = file_name.split(['?', '#']).next().unwrap_or_default();
        let Some(format) = FORMATS.iter().find(|format| file_name.ends_with(format.ending)) else {
            let known: Vec<String> = FORMATS.iter().map(|f| format!("{} ({})", f.ending, f.about)).collect();
            let problem = "the file's name tells no format that vectors can be read from";
            return Err(Error::input(place, problem, format!("use one of: {}", known.join("; "))));
        };
        if format.ending == ".npy" && name.is_some() {
            let problem = format!("a .npy file has one array, so none is named {:?}", name.unwrap_or_default());
            return Err(Error::input(place, problem, "leave the name out"));
        }
        let opened = Opened::open(location, options)?;
        let contents = (format.open)(&opened, name)?;
        let file = Self { file: opened, contents };
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
        Error::input(&self.file.place, problem, mend)
    }

    /// The file's name, for errors.
    pub fn place(&self) -> &str {
        &self.file.place
    }

    /// What tells this state of the file apart from others; the file's name is no part of it.
    ///
    /// # Errors
    /// Ends that cannot be read.
    pub fn identity(&self) -> Result<FileIdentity> {
        self.file.identity()
    }

    /// What the file is, for manifests: its sha256, or in an object store, where reading it costs as much as the work that
    /// is to be saved, that of its [`VectorFile::identity`] (without its time, where it has a tag).
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn digest(&self) -> Result<String> {
        self.file.digest()
    }

    /// N.
    pub fn rows(&self) -> usize {
        match &self.contents {
            Contents::Matrix(matrix) => matrix.rows,
            Contents::JsonLines(lines) => lines.rows,
            Contents::Parquet(columns) => columns.rows(),
        }
    }

    /// D.
    pub fn width(&self) -> usize {
        match &self.contents {
            Contents::Matrix(matrix) => matrix.width,
            Contents::JsonLines(lines) => lines.width,
            Contents::Parquet(columns) => columns.width,
        }
    }

    /// How the file stores its numbers.
    pub fn precision(&self) -> Precision {
        match &self.contents {
            Contents::Matrix(matrix) => matrix.precision,
            Contents::JsonLines(_) => Precision::F32,
            Contents::Parquet(columns) => columns.precision,
        }
    }

    /// Whether rows come with item ids.
    pub fn has_ids(&self) -> bool {
        match &self.contents {
            Contents::Matrix(_) => false,
            Contents::JsonLines(lines) => lines.has_ids,
            Contents::Parquet(columns) => columns.has_ids(),
        }
    }

    /// Reads all rows from `from_row` on, in batches that take a few megabytes each.
    ///
    /// # Errors
    /// Damaged batches (the iterator ends with the first), missing vectors, vectors of another width; the row is named.
    pub fn batches(&self, from_row: usize) -> Result<Box<dyn Iterator<Item = Result<Batch>> + '_>> {
        self.read(Reading { from_row, ..Reading::default() })
    }

    /// Reads all rows from some row on, in batches; what is held in memory depends on the rows of a batch alone, not on
    /// the file or its row groups.
    ///
    /// # Errors
    /// As [`VectorFile::batches`].
    pub fn read(&self, reading: Reading) -> Result<Box<dyn Iterator<Item = Result<Batch>> + '_>> {
        let usual = BATCH_NUMBERS / self.width().max(1);
        let (from_row, batch_rows) = (reading.from_row, reading.batch_rows.unwrap_or(usual).max(1));
        match &self.contents {
            Contents::Matrix(matrix) => {
                let first_rows = (from_row..matrix.rows).step_by(batch_rows);
                Ok(Box::new(first_rows.map(move |first_row| {
                    let values = matrix.read(first_row..(first_row + batch_rows).min(matrix.rows));
                    let values = values.map_err(|e| unread(self.place(), &e))?;
                    Ok(Batch { first_row, ids: None, values, missing: Vec::new() })
                })))
            }
            Contents::JsonLines(lines) => Ok(Box::new(lines.batches(from_row, batch_rows, reading.keep_missing))),
            Contents::Parquet(columns) => Ok(Box::new(columns.batches(from_row, batch_rows, reading.keep_missing)?)),
        }
    }

    /// Reads the item ids alone, with the row that each batch of them begins at; nothing where the file has none.
    ///
    /// # Errors
    /// Damaged batches; missing ids.
    pub fn ids(&self) -> Result<IdBatches<'_>> {
        match &self.contents {
            Contents::Matrix(_) => Ok(Box::new(std::iter::empty())),
            Contents::JsonLines(lines) => Ok(lines.id_batches()),
            Contents::Parquet(columns) => columns.id_batches(),
        }
    }
}

impl std::fmt::Debug for VectorFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "VectorFile({}, [{}, {}], {:?})", self.place(), self.rows(), self.width(), self.precision())
    }
}

const AGAIN: &str = "write it again: it may be truncated";

/// Checks that `bytes` are [rows, width] numbers.
fn check_len(place: &str, bytes: u64, rows: usize, width: usize, precision: Precision) -> Result<()> {
    let wanted = rows.checked_mul(width).and_then(|n| n.checked_mul(precision.bytes()));
    if wanted.map(|n| n as u64) == Some(bytes) {
        return Ok(());
    }
    let wanted = wanted.map_or_else(|| "more than a file can have".to_owned(), |n| n.to_string());
    let problem = format!("its shape [{rows}, {width}] needs {wanted} bytes of numbers, but it has {bytes}");
    Err(Error::input(place, problem, AGAIN))
}

#[cfg(test)]
mod tests;
