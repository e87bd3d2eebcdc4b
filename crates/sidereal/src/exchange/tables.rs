//! Parquet tables of items and lists of codes.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Int64Array, Int64Builder, ListBuilder, RecordBatch, StringArray, StringBuilder,
};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use sidereal_core::{Catalog, Error, ItemIndex};
use sidereal_data::parquet_file::{IdColumn, ParquetFile};

use super::rows::Rows;
use crate::{Result, parquet_file};

/// Rows of a batch that is written.
const BATCH_ROWS: usize = 65_536;
const STRICT: CastOptions<'static> =
    CastOptions { safe: false, format_options: arrow::util::display::FormatOptions::new() };

/// Reads items and their codes from one file into `rows`.
///
/// # Errors
/// Columns that are absent or of another type; nulls; whatever [`Rows::push`] refuses. The row is named.
pub(super) fn read_codes(path: &Path, id_name: &str, codes_name: &str, rows: &mut Rows) -> Result<()> {
    let file = ParquetFile::open(path)?;
    let columns = [file.column(id_name)?, file.column(codes_name)?];
    let place = file.place();
    let wrong = |problem: String, mend: &str| crate::Error::from(Error::input(&place, problem, mend));
    let mut row = 0usize;
    for batch in file.batches(&columns, 0)? {
        let batch = batch?;
        let column = |name: &str| {
            let found = batch.column_by_name(name);
            found.ok_or_else(|| wrong(format!("column {name:?} cannot be read"), "write the file again"))
        };
        let ids = IdColumn::new(column(id_name)?, &place, id_name)?;
        let to = DataType::List(Arc::new(Field::new_list_field(DataType::Int64, true)));
        let codes = cast_with_options(column(codes_name)?, &to, &STRICT).map_err(|e| {
            let problem = format!("column {codes_name:?} does not hold lists of codes: {e}");
            wrong(problem, "write a list of integers for each item")
        })?;
        let codes = codes.as_list::<i32>();
        let mut buffer = String::new();
        for at in 0..batch.num_rows() {
            let id = ids.get(at, &mut buffer).ok_or_else(|| {
                wrong(format!("row {row} has no {id_name}"), "give every row an item id, or remove it")
            })?;
            let list = (codes.is_valid(at)).then(|| codes.value(at)).filter(|list| list.null_count() == 0);
            let list = list.ok_or_else(|| {
                wrong(format!("row {row}, item {id:?} has no code, or an empty one"), "give it a code per level")
            })?;
            rows.push(&format!("row {row}"), id, list.as_primitive::<Int64Type>().values().iter().copied())?;
            row += 1;
        }
    }
    Ok(())
}

/// Item ids of a catalog as a column: integers where all of them are, else text.
pub(super) fn ids(catalog: &Catalog, items: &[ItemIndex], whole: bool) -> ArrayRef {
    let ids = items.iter().map(|&item| catalog.item_id(item));
    match whole {
        true => Arc::new(ids.map(|id| id.parse::<i64>().ok()).collect::<Int64Array>()),
        false => Arc::new(ids.map(Some).collect::<StringArray>()),
    }
}

/// Whether all item ids are integers that are written back as they were.
pub(super) fn whole_ids(catalog: &Catalog) -> bool {
    let whole = |id: &str| id.parse::<i64>().is_ok_and(|number| number.to_string() == id);
    (0..catalog.len() as ItemIndex).all(|item| whole(catalog.item_id(item)))
}

/// Lists of integers as a column.
pub(super) fn lists(rows: impl Iterator<Item = Vec<i64>>) -> ArrayRef {
    let mut lists = ListBuilder::new(Int64Builder::new());
    for row in rows {
        lists.values().append_slice(&row);
        lists.append(true);
    }
    Arc::new(lists.finish())
}

/// Lists of item ids as a column.
pub(super) fn id_lists<'a>(catalog: &Catalog, rows: impl Iterator<Item = &'a [ItemIndex]>, whole: bool) -> ArrayRef {
    if whole {
        return lists(rows.map(|row| row.iter().filter_map(|&item| catalog.item_id(item).parse().ok()).collect()));
    }
    let mut lists = ListBuilder::new(StringBuilder::new());
    for row in rows {
        row.iter().for_each(|&item| lists.values().append_value(catalog.item_id(item)));
        lists.append(true);
    }
    Arc::new(lists.finish())
}

/// Writes a table, `columns` of some rows at a time.
///
/// # Errors
/// Whatever the file system says.
pub(super) fn write_table(
    path: &Path,
    rows: usize,
    columns: impl Fn(std::ops::Range<usize>) -> Vec<(&'static str, ArrayRef)>,
) -> Result<()> {
    let fields: Vec<Field> =
        columns(0..0).iter().map(|(name, column)| Field::new(*name, column.data_type().clone(), false)).collect();
    let schema = Arc::new(Schema::new(fields));
    let batches = (0..rows).step_by(BATCH_ROWS).map(|start| {
        let columns = columns(start..rows.min(start + BATCH_ROWS)).into_iter().map(|(_, column)| column).collect();
        RecordBatch::try_new(Arc::clone(&schema), columns)
            .map_err(|e| Error::input("table", e.to_string(), "this is a defect: report it").into())
    });
    parquet_file::write(path, &schema, "exchange", batches)
}
