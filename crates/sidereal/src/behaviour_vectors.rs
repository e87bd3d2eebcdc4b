//! Vectors learnt from what users did, as files: of items (item2vec) and of users (means of their items).
//!
//! Both are read back like any other vectors: `sidereal embed --from` makes collaborative-only IDs of the first (as
//! ColaRec does from its own), `sidereal tokenizer train --embeddings` semantic IDs of users of the
//! second (as ULMRec, arXiv 2412.05543). A user's id stands in the column `item_id`: what is tokenized is an item.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Float32Builder, ListBuilder, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use serde::Serialize;
use serde_json::json;
use sidereal_core::{Embeddings, Error, Progress};
use sidereal_tokenizer::behaviour::collaborative_vectors::{CollaborativeConfig, user_vectors};

use crate::run::{Run, Stage};
use crate::stages::collaborative::CollaborativeRecipe;
use crate::stages::tokenizer::Known;
use crate::{Result, parquet_file};

/// Whose vectors.
#[derive(Debug, Clone)]
pub enum Whose {
    /// Of items, from the training histories.
    Items(CollaborativeConfig),
    /// Of users: the mean of the embeddings of their training events, whose weight halves with every `half_life` newer
    /// ones.
    Users {
        /// In events.
        half_life: f64,
    },
}

/// What was written.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Done {
    /// Rows of the file.
    pub rows: usize,
    /// Numbers of a vector.
    pub width: usize,
    /// Rows that are zero everywhere, of which nothing is known.
    pub zero_rows: usize,
}

/// Rows of one batch of the file.
const BATCH: usize = 4096;

/// Writes the vectors of a run's items or users to a Parquet file: `item_id`, `embedding`.
///
/// # Errors
/// A run without data or split (for users: or embeddings); a file that cannot be written.
pub fn write(run: &Run, whose: &Whose, out: &Path, seed: u64, progress: &dyn Progress) -> Result<Done> {
    parquet_file::check_folder(out)?;
    let known = Known::of(run)?;
    let histories = known.histories()?;
    let Some(data) = &known.data else {
        return Err(Error::mismatch("the run has no data", "prepare items and interactions first").into());
    };
    let (ids, vectors, job): (Vec<&str>, Embeddings, _) = match whose {
        Whose::Items(config) => {
            let vectors = CollaborativeRecipe::Item2vec(config.clone()).vectors(&known, seed, progress)?;
            (data.items.ids().iter().map(|id| id.as_str()).collect(), vectors, json!({ "items": config }))
        }
        Whose::Users { half_life } => {
            let vectors = user_vectors(&histories, &run.embeddings()?, *half_life)?;
            let ids = (0..data.histories.len()).map(|user| data.histories.user(user)).collect();
            (ids, vectors, json!({ "users": { "half_life": half_life } }))
        }
    };
    let job = json!({ "vectors": job, "seed": seed, "split": run.digest(Stage::Split)? }).to_string();
    let list = ListBuilder::new(Float32Builder::new()).finish().data_type().clone();
    let fields = vec![Field::new("item_id", DataType::Utf8, false), Field::new("embedding", list, false)];
    let schema = Arc::new(Schema::new(fields));
    let batches = (0..ids.len()).step_by(BATCH).map(|first| {
        let last = (first + BATCH).min(ids.len());
        let mut embedding = ListBuilder::new(Float32Builder::new());
        for row in first..last {
            embedding.values().append_slice(vectors.row(row));
            embedding.append(true);
        }
        let names: StringArray = ids[first..last].iter().map(|id| Some(*id)).collect();
        let columns: Vec<ArrayRef> = vec![Arc::new(names), Arc::new(embedding.finish())];
        RecordBatch::try_new(Arc::clone(&schema), columns)
            .map_err(|e| Error::input("vectors", e.to_string(), "this is a defect: report it").into())
    });
    parquet_file::write(out, &schema, &job, batches)?;
    let zero = |row: &&[f32]| row.iter().all(|&v| v == 0.0);
    let zero_rows = vectors.values().chunks_exact(vectors.width()).filter(zero).count();
    Ok(Done { rows: vectors.rows(), width: vectors.width(), zero_rows })
}
