//! Vectors of a file -> a Parquet of codes, by a trained tokenizer.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ListBuilder, RecordBatch, StringArray, UInt16Builder, UInt64Array};
use arrow::datatypes::{Field, Schema};
use serde::Serialize;
use serde_json::json;
use sidereal_core::artifact::{MANIFEST, read_manifest, sha256_file};
use sidereal_core::{Error, Progress};
use sidereal_tokenizer::ItemTokenizer;

use crate::run::Stage;
use crate::{Result, parquet_file};

/// What an encode job did.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Done {
    /// N.
    pub items: u64,
    /// Distinct semantic IDs.
    pub unique_ids: usize,
}

/// Encodes every row of `embeddings` with the tokenizer of a run or tokenizer folder.
///
/// Columns: `row`, `item_id` where the file of vectors has ids, and `codes`. A finished job asked again is done at once.
///
/// # Errors
/// No tokenizer; vectors of another width; an output that cannot be written.
pub fn encode_file(tokenizer: &Path, embeddings: &Path, out: &Path, progress: &dyn Progress) -> Result<Done> {
    parquet_file::check_folder(out)?;
    let dir = match tokenizer.join(Stage::Tokenizer.name()).join(MANIFEST).is_file() {
        true => tokenizer.join(Stage::Tokenizer.name()),
        false => tokenizer.to_path_buf(),
    };
    let manifest = read_manifest(&dir, Stage::Tokenizer.name())?;
    let item_tokenizer = ItemTokenizer::load(&dir)?;
    let job = json!({ "tokenizer": manifest.digest(), "embeddings": sha256_file(embeddings)? }).to_string();
    let vectors = sidereal_embed::read_vectors(embeddings, None)?;
    progress.start("encode", Some(vectors.embeddings.rows() as u64), "items");
    let sids = item_tokenizer.encode(&vectors.embeddings)?;
    let items = sids.len() as u64;
    let mut distinct: Vec<&[u16]> = sids.rows().collect();
    distinct.sort_unstable();
    distinct.dedup();
    let done = Done { items, unique_ids: distinct.len() };
    if parquet_file::job_of(out).as_ref() != Some(&job) {
        let mut codes = ListBuilder::new(UInt16Builder::new());
        for row in sids.rows() {
            codes.values().append_slice(row);
            codes.append(true);
        }
        let codes = codes.finish();
        let rows: UInt64Array = (0..items).collect();
        let mut fields = vec![Field::new("row", rows.data_type().clone(), false)];
        let mut columns: Vec<arrow::array::ArrayRef> = vec![Arc::new(rows)];
        if let Some(ids) = &vectors.item_ids {
            let ids: StringArray = ids.iter().map(|id| Some(id.as_str())).collect();
            fields.push(Field::new("item_id", ids.data_type().clone(), false));
            columns.push(Arc::new(ids));
        }
        fields.push(Field::new("codes", codes.data_type().clone(), false));
        columns.push(Arc::new(codes));
        let schema = Arc::new(Schema::new(fields));
        let batch = RecordBatch::try_new(Arc::clone(&schema), columns)
            .map_err(|e| Error::input("codes", e.to_string(), "this is a defect: report it").into());
        parquet_file::write(out, &schema, &job, std::iter::once(batch))?;
    }
    progress.advance(items);
    progress.finish();
    Ok(done)
}
