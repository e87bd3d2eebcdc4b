//! Chunks of vectors to tables of codes.

use std::sync::Arc;

use arrow::array::{ArrayRef, ListBuilder, RecordBatch, StringArray, UInt16Builder, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema};
use parquet::basic::Encoding;
use parquet::file::properties::WriterPropertiesBuilder;
use parquet::schema::types::ColumnPath;
use sidereal_core::{Embeddings, Error, ItemId, SemanticIds};
use sidereal_tokenizer::ItemTokenizer;

use super::Counts;
use crate::vectors::{Chunk, OnInvalid, faults, refusal};
use crate::{Result, parquet_file};

/// The metadata key that holds what became of the rows.
pub(super) const COUNTS_KEY: &str = "sidereal.rows";

/// The columns of a part, or of the finished file.
pub(super) fn schema(has_ids: bool, codes_may_be_null: bool) -> Arc<Schema> {
    let mut fields = vec![Field::new("row", DataType::UInt64, false)];
    if has_ids {
        fields.push(Field::new("item_id", DataType::Utf8, false));
    }
    let code = Field::new("item", DataType::UInt16, true);
    fields.push(Field::new("codes", DataType::List(Arc::new(code)), codes_may_be_null));
    Arc::new(Schema::new(fields))
}

/// How parts and the finished file are written. No two rows have the same number or id: dictionaries of them are wasted.
pub(super) fn layout(values: &[(&str, &str)]) -> WriterPropertiesBuilder {
    parquet_file::properties(values)
        .set_column_dictionary_enabled(ColumnPath::from("row"), false)
        .set_column_encoding(ColumnPath::from("row"), Encoding::DELTA_BINARY_PACKED)
        .set_column_dictionary_enabled(ColumnPath::from("item_id"), false)
}

/// Encodes the rows of a chunk; a row's codes do not depend on the chunk.
///
/// # Errors
/// Rows that cannot be encoded, under [`OnInvalid::Error`]; items that a list does not have.
pub(super) fn encode(
    tokenizer: &ItemTokenizer,
    place: &str,
    chunk: Chunk,
    on_invalid: OnInvalid,
) -> Result<(RecordBatch, Counts)> {
    let faults = faults(&chunk);
    if !faults.is_empty() && on_invalid == OnInvalid::Error {
        let mend = "`--on-invalid null` (they get no codes) or `--on-invalid skip` (they are left out)";
        return Err(refusal(place, &chunk, &faults, Some(mend)).into());
    }
    let Chunk { first_row, rows, mut ids, mut values, .. } = chunk;
    let width = values.len() / rows.max(1);
    let mut sound = vec![true; rows];
    faults.iter().for_each(|&(row, _)| sound[row] = false);
    let count = rows - faults.len();
    let mut ids_of_sound = None;
    if !faults.is_empty() {
        for (kept, row) in (0..rows).filter(|&row| sound[row]).enumerate() {
            values.copy_within(row * width..(row + 1) * width, kept * width);
        }
        values.truncate(count * width);
        let of =
            |ids: &Vec<ItemId>| ids.iter().zip(&sound).filter(|(_, sound)| **sound).map(|(id, _)| id.clone()).collect();
        ids_of_sound = ids.as_ref().map(of);
        if on_invalid == OnInvalid::Skip {
            ids = ids_of_sound.take();
        }
    }
    let sids = match count {
        0 => None,
        _ => {
            let vectors = Embeddings::new(count, width, values)?;
            let ids = ids_of_sound.as_ref().or(ids.as_ref());
            Some(match ids {
                Some(ids) => tokenizer.encode_items(ids, &vectors)?,
                None => tokenizer.encode(&vectors)?,
            })
        }
    };
    let skips = on_invalid == OnInvalid::Skip;
    let batch = table(first_row, &sound, skips, ids.as_deref(), sids.as_ref())?;
    let invalid = faults.len() as u64;
    let (null, skipped) = if skips { (0, invalid) } else { (invalid, 0) };
    Ok((batch, Counts { encoded: count as u64, null, skipped }))
}

fn table(
    first_row: u64,
    sound: &[bool],
    skips: bool,
    ids: Option<&[ItemId]>,
    sids: Option<&SemanticIds>,
) -> Result<RecordBatch> {
    let mut codes = ListBuilder::new(UInt16Builder::new());
    let mut next = sids.into_iter().flat_map(SemanticIds::rows);
    let mut rows = Vec::with_capacity(sound.len());
    for (row, &sound) in (first_row..).zip(sound) {
        match if sound { next.next() } else { None } {
            Some(sid) => codes.values().append_slice(sid),
            None if skips => continue,
            None => {}
        }
        codes.append(sound);
        rows.push(row);
    }
    let mut columns: Vec<ArrayRef> = vec![Arc::new(UInt64Array::from(rows))];
    if let Some(ids) = ids {
        columns.push(Arc::new(ids.iter().map(|id| Some(id.as_str())).collect::<StringArray>()));
    }
    columns.push(Arc::new(codes.finish()));
    RecordBatch::try_new(schema(ids.is_some(), true), columns)
        .map_err(|e| Error::input("codes", e.to_string(), "this is a defect: report it").into())
}
