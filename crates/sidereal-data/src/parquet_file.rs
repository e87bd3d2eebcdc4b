//! Parquet files batch by batch.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Fields, Float64Type, Int64Type, TimeUnit, UInt64Type};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use sidereal_core::{Error, Result};

use crate::columns::listed;
use crate::numbers::{Time, whole_of};
use crate::ranges::{LocalFile, Ranges, ReadRanges};

const DAMAGED: &str = "it is damaged, truncated or not Parquet: write it again";
const BATCH_ROWS: usize = 8192;

/// An open Parquet file, on disk or wherever ranges of it can be read. Pages are read one at a time, so the memory that
/// reading takes depends on the size of a batch and of a page, not on the size of a row group.
#[derive(Debug)]
pub struct ParquetFile {
    place: String,
    ranges: Ranges,
    metadata: ArrowReaderMetadata,
}

impl ParquetFile {
    /// Opens a file and reads its footer.
    ///
    /// # Errors
    /// A file that is missing, empty, truncated or not Parquet; one without columns.
    pub fn open(path: &Path) -> Result<Self> {
        Self::from_ranges(path.display().to_string(), Arc::new(LocalFile::open(path)?))
    }

    /// Reads the footer of a file that is read by ranges; `place` names it in errors.
    ///
    /// # Errors
    /// As [`ParquetFile::open`].
    pub fn from_ranges(place: String, ranges: Arc<dyn ReadRanges>) -> Result<Self> {
        let ranges = Ranges::new(ranges);
        // Files may carry an Arrow schema beside Parquet's own. It adds nothing that is used here, and its reader
        // panics on damaged bytes.
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let metadata =
            guarded(&place, &ranges, || ArrowReaderMetadata::load(&ranges, options).map_err(|e| e.to_string()))?;
        Ok(Self { place, ranges, metadata })
    }

    /// The top-level columns.
    pub fn columns(&self) -> &Fields {
        self.metadata.schema().fields()
    }

    /// Names of the top-level columns.
    pub fn names(&self) -> Vec<&str> {
        self.columns().iter().map(|field| field.name().as_str()).collect()
    }

    /// The place of a column.
    ///
    /// # Errors
    /// There is none of that name; the columns there are are listed.
    pub fn column(&self, name: &str) -> Result<usize> {
        let names = self.names();
        names.iter().position(|n| *n == name).ok_or_else(|| {
            let problem = format!("there is no column {name:?} ({})", listed(&names));
            Error::input(self.place(), problem, "check the name of the column")
        })
    }

    /// Number of rows, as the footer claims.
    pub fn rows(&self) -> u64 {
        u64::try_from(self.metadata.metadata().file_metadata().num_rows()).unwrap_or(0)
    }

    /// The file's own metadata by key.
    pub fn key_value(&self, key: &str) -> Option<&str> {
        let pairs = self.metadata.metadata().file_metadata().key_value_metadata()?;
        pairs.iter().find(|pair| pair.key == key)?.value.as_deref()
    }

    /// The file's name, for errors.
    pub fn place(&self) -> String {
        self.place.clone()
    }

    /// Reads some columns from row `from_row` on. A batch has them in the order of the file, each once.
    ///
    /// # Errors
    /// Columns that cannot be read; the iterator ends with the first damaged batch.
    pub fn batches(
        &self,
        columns: &[usize],
        from_row: u64,
    ) -> Result<impl Iterator<Item = Result<RecordBatch>> + use<>> {
        self.batches_of(columns, from_row, BATCH_ROWS)
    }

    /// As [`ParquetFile::batches`], with at most `batch_rows` rows a batch.
    ///
    /// # Errors
    /// As [`ParquetFile::batches`].
    pub fn batches_of(
        &self,
        columns: &[usize],
        from_row: u64,
        batch_rows: usize,
    ) -> Result<impl Iterator<Item = Result<RecordBatch>> + use<>> {
        let place = self.place();
        let (row_groups, offset) = self.row_groups_from(from_row);
        let mut reader = guarded(&place, &self.ranges, || {
            let builder =
                ParquetRecordBatchReaderBuilder::new_with_metadata(self.ranges.clone(), self.metadata.clone());
            let mask = ProjectionMask::roots(builder.parquet_schema(), columns.iter().copied());
            let builder = builder.with_projection(mask).with_batch_size(batch_rows.max(1));
            let builder = builder.with_row_groups(row_groups).with_offset(offset);
            builder.build().map_err(|e| e.to_string())
        })?;
        let ranges = self.ranges.clone();
        let mut damaged = false;
        Ok(std::iter::from_fn(move || {
            if damaged {
                return None;
            }
            let batch = guarded(&place, &ranges, || reader.next().transpose().map_err(|e| e.to_string())).transpose();
            damaged = matches!(batch, Some(Err(_)));
            batch
        }))
    }
}

impl ParquetFile {
    /// The row groups that hold rows from `from_row` on, and how many rows of the first come before it.
    fn row_groups_from(&self, from_row: u64) -> (Vec<usize>, usize) {
        let groups = self.metadata.metadata().row_groups();
        let (mut first, mut before) = (0, 0);
        for group in groups {
            let rows = u64::try_from(group.num_rows()).unwrap_or(0);
            if before + rows > from_row {
                break;
            }
            (first, before) = (first + 1, before + rows);
        }
        ((first..groups.len()).collect(), usize::try_from(from_row - before).unwrap_or(usize::MAX))
    }
}

/// Runs a part of the parquet reader, which returns an error for most damaged files and panics for some.
fn guarded<T>(place: &str, ranges: &Ranges, read: impl FnOnce() -> Result<T, String>) -> Result<T> {
    let damaged = |problem: String| Error::input(place, format!("it cannot be read as Parquet ({problem})"), DAMAGED);
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(read))
        .map_err(|_| damaged("a page does not hold what its header says".to_owned()))?
        .map_err(|problem| match ranges.failure() {
            Some(error) => {
                let mend = "check the disk or the network, and run the same command again";
                Error::input(place, format!("it cannot be read ({error})"), mend)
            }
            None => damaged(problem),
        })
}

/// A column of ids, strings or integers, read as text.
#[derive(Debug)]
pub enum IdColumn {
    /// Strings.
    Text(StringArray),
    /// Integers.
    Signed(arrow::array::Int64Array),
    /// Integers that may be beyond `i64`.
    Unsigned(arrow::array::UInt64Array),
}

impl IdColumn {
    /// Whether ids of this type can be read.
    pub fn accepts(data_type: &DataType) -> bool {
        let value = plain(data_type);
        is_text(value) || value.is_integer()
    }

    /// # Errors
    /// A type that ids cannot have; `place` and `name` say whose.
    pub fn new(array: &ArrayRef, place: &str, name: &str) -> Result<Self> {
        let value = plain(array.data_type());
        let cast = |to| cast_with_options(array, to, &STRICT).map_err(|e| type_error(place, name, &e.to_string()));
        if is_text(value) {
            return Ok(Self::Text(cast(&DataType::Utf8)?.as_string().clone()));
        }
        if value.is_unsigned_integer() {
            return Ok(Self::Unsigned(cast(&DataType::UInt64)?.as_primitive::<UInt64Type>().clone()));
        }
        if value.is_integer() {
            return Ok(Self::Signed(cast(&DataType::Int64)?.as_primitive::<Int64Type>().clone()));
        }
        Err(wrong_type(place, name, array.data_type(), "ids are strings or integers"))
    }

    /// The id in a row of the batch; `buffer` holds its text where it is a number.
    pub fn get<'a>(&'a self, row: usize, buffer: &'a mut String) -> Option<&'a str> {
        use std::fmt::Write;
        buffer.clear();
        // Writing to a string cannot fail.
        match self {
            Self::Text(array) => return array.is_valid(row).then(|| array.value(row)),
            Self::Signed(array) if array.is_valid(row) => write!(buffer, "{}", array.value(row)).ok()?,
            Self::Unsigned(array) if array.is_valid(row) => write!(buffer, "{}", array.value(row)).ok()?,
            _ => return None,
        }
        Some(buffer)
    }
}

/// Fails instead of turning what does not fit into nulls.
pub(crate) const STRICT: CastOptions<'static> =
    CastOptions { safe: false, format_options: arrow::util::display::FormatOptions::new() };

/// A dictionary's values, else the type itself.
pub(crate) fn plain(data_type: &DataType) -> &DataType {
    match data_type {
        DataType::Dictionary(_, value) => value,
        other => other,
    }
}

pub(crate) fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

pub(crate) fn wrong_type(place: &str, name: &str, found: &DataType, wanted: &str) -> Error {
    let problem = format!("column {name:?} is {found}, but {wanted}");
    Error::input(place, problem, "cast the column in the program that writes the file, or name another one")
}

fn type_error(place: &str, name: &str, problem: &str) -> Error {
    Error::input(place, format!("column {name:?}: {problem}"), "write the column again with sound values")
}

/// A column of floats; null where there is no value.
///
/// # Errors
/// A type that is no number.
pub(crate) fn floats(array: &ArrayRef, place: &str, name: &str) -> Result<arrow::array::Float64Array> {
    if !plain(array.data_type()).is_numeric() {
        return Err(wrong_type(place, name, array.data_type(), "numbers are wanted"));
    }
    let cast = cast_with_options(array, &DataType::Float64, &STRICT);
    Ok(cast.map_err(|e| type_error(place, name, &e.to_string()))?.as_primitive::<Float64Type>().clone())
}

/// A column of whole numbers or, where `dates` allows, of dates.
#[derive(Debug)]
pub(crate) enum WholeColumn {
    Signed(arrow::array::Int64Array),
    Unsigned(arrow::array::UInt64Array),
    Floats(arrow::array::Float64Array),
    Dates(arrow::array::Int64Array),
    Text(StringArray),
}

impl WholeColumn {
    pub(crate) fn new(array: &ArrayRef, place: &str, name: &str, dates: bool) -> Result<Self> {
        let cast = |array: &ArrayRef, to: &DataType| {
            cast_with_options(array, to, &STRICT).map_err(|e| type_error(place, name, &e.to_string()))
        };
        let value = plain(array.data_type());
        Ok(match value {
            v if v.is_unsigned_integer() => {
                Self::Unsigned(cast(array, &DataType::UInt64)?.as_primitive::<UInt64Type>().clone())
            }
            v if v.is_integer() => Self::Signed(cast(array, &DataType::Int64)?.as_primitive::<Int64Type>().clone()),
            v if v.is_numeric() => Self::Floats(floats(array, place, name)?),
            DataType::Timestamp(..) | DataType::Date32 | DataType::Date64 if dates => {
                let zone = match value {
                    DataType::Timestamp(_, zone) => zone.clone(),
                    _ => None,
                };
                let micros = cast(array, &DataType::Timestamp(TimeUnit::Microsecond, zone))?;
                Self::Dates(cast(&micros, &DataType::Int64)?.as_primitive::<Int64Type>().clone())
            }
            v if is_text(v) && dates => Self::Text(cast(array, &DataType::Utf8)?.as_string().clone()),
            _ if dates => return Err(wrong_type(place, name, array.data_type(), "times are whole numbers or dates")),
            _ => return Err(wrong_type(place, name, array.data_type(), "whole numbers are wanted")),
        })
    }

    /// The value in a row of the batch.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub(crate) fn get(&self, row: usize) -> Result<Option<Time>, String> {
        let value = match self {
            Self::Signed(array) => array.is_valid(row).then(|| Time::Number(array.value(row))),
            Self::Dates(array) => array.is_valid(row).then(|| Time::Date(array.value(row))),
            Self::Unsigned(array) if array.is_valid(row) => {
                let value = i64::try_from(array.value(row)).map_err(|_| "does not fit a 64-bit integer".to_owned())?;
                Some(Time::Number(value))
            }
            Self::Floats(array) if array.is_valid(row) => Some(Time::Number(whole_of(array.value(row))?)),
            Self::Text(array) if array.is_valid(row) => crate::numbers::time(array.value(row))?,
            _ => None,
        };
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use arrow::array::{Float32Builder, ListBuilder};
    use parquet::arrow::ArrowWriter;
    use std::io;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// Bytes in memory that count what is read of them, and fail when that is too much.
    #[derive(Debug)]
    struct Counted {
        bytes: Vec<u8>,
        read: AtomicU64,
        largest: AtomicU64,
        most: u64,
    }

    impl Counted {
        fn new(bytes: Vec<u8>, most: u64) -> Arc<Self> {
            Arc::new(Self { bytes, read: AtomicU64::new(0), largest: AtomicU64::new(0), most })
        }
    }

    impl ReadRanges for Counted {
        fn size(&self) -> u64 {
            self.bytes.len() as u64
        }

        fn read(&self, from: u64, len: usize) -> io::Result<bytes::Bytes> {
            crate::ranges::check_range(self.size(), from, len)?;
            self.largest.fetch_max(len as u64, Ordering::Relaxed);
            if self.read.fetch_add(len as u64, Ordering::Relaxed) + len as u64 > self.most {
                return Err(io::Error::other("the cable was pulled"));
            }
            Ok(self.bytes[from as usize..from as usize + len].to_vec().into())
        }
    }

    /// One row group of about 12 MB.
    fn one_row_group() -> Vec<u8> {
        let mut lists = ListBuilder::new(Float32Builder::new());
        for row in 0..100_000 {
            lists.values().append_slice(&std::array::from_fn::<f32, 30, _>(|d| ((row * 31 + d) as f32).sin()));
            lists.append(true);
        }
        let batch = RecordBatch::try_from_iter([("v", Arc::new(lists.finish()) as ArrayRef)]).unwrap();
        let mut bytes = Vec::new();
        let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        bytes
    }

    #[test]
    fn a_row_group_is_read_page_by_page() {
        let source = Counted::new(one_row_group(), u64::MAX);
        let ranges: Arc<dyn ReadRanges> = source.clone();
        let file = ParquetFile::from_ranges("v.parquet".to_owned(), ranges).unwrap();
        let mut batches = file.batches_of(&[0], 0, 1000).unwrap();
        assert_eq!(batches.next().unwrap().unwrap().num_rows(), 1000);
        let read = source.read.load(Ordering::Relaxed);
        assert!(read < source.size() / 3, "{read} of {} bytes were read for the first batch", source.size());
        assert_eq!(batches.map(|batch| batch.unwrap().num_rows()).sum::<usize>(), 99_000);
        let largest = source.largest.load(Ordering::Relaxed);
        assert!(largest < 3 << 20, "{largest} bytes were read at once");
    }

    #[test]
    fn a_read_that_fails_is_not_told_as_damage() {
        let bytes = one_row_group();
        let most = bytes.len() as u64 / 2;
        let file = ParquetFile::from_ranges("v.parquet".to_owned(), Counted::new(bytes, most)).unwrap();
        let error = file.batches_of(&[0], 0, 1000).unwrap().find_map(Result::err).unwrap().to_string();
        assert!(error.contains("the cable was pulled") && error.contains("check the disk or the network"), "{error}");
    }
}
