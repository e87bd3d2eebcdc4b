//! Recommendations for many users into one Parquet file, a row a user and rank; resumable.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Float32Array, Float64Array, Int32Array, ListBuilder, RecordBatch, StringArray, UInt16Builder};
use arrow::datatypes::{DataType, Field, Schema};
use serde::Serialize;
use serde_json::json;
use sidereal_core::artifact::sha256_bytes;
use sidereal_core::{Error, Histories, ItemIndex, Progress};

use crate::recommend::{Query, Recommender, Wish};
use crate::run::{Run, Stage};
use crate::{Result, parquet_file};

/// Users of one part: what a killed job may lose.
const PART_USERS: usize = 1024;

/// What a batch job did.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Done {
    /// Users asked for.
    pub users: usize,
    /// Users without any event, who get no rows.
    pub users_without_history: usize,
    /// Rows written.
    pub rows: u64,
}

/// Recommends to all users of a run, or to those whose ids a file lists (one a line), by their whole histories.
///
/// Columns: `user_id`, `rank` (from 1 on each page), `item_id`, `title`, `score`, `semantic_id`, and where the run is
/// calibrated `confidence`. Finished parts of a killed job are
/// kept; a finished job asked again is done at once.
///
/// # Errors
/// A user that the run does not have; an output that cannot be written; whatever the device says.
pub fn recommend_users(
    run: &Run,
    recommender: &Recommender,
    users: &str,
    out: &Path,
    wish: &Wish,
    progress: &dyn Progress,
) -> Result<Done> {
    parquet_file::check_folder(out)?;
    let data = run.data()?;
    let histories = &data.histories;
    let chosen = choose(histories, users)?;
    let asked = chosen.len();
    let with_history: Vec<usize> = chosen.into_iter().filter(|&u| !histories.items_of(u).is_empty()).collect();
    let users_digest = sha256_bytes(with_history.iter().flat_map(|u| u.to_le_bytes()).collect::<Vec<_>>().as_slice());
    let calibration = if recommender.is_calibrated() { Some(run.digest(Stage::Calibration)?) } else { None };
    let job = json!({
        "catalog": recommender.catalog().version(), "generator": run.digest(Stage::Generator)?,
        "data": run.digest(Stage::Data)?, "users": users_digest,
        "k": wish.k, "beam": wish.beam, "include_seen": wish.include_seen, "page": wish.page,
        "choice": recommender.choice(), "calibration": calibration,
        "limits": recommender.limits().told().map(|told| &told.digest),
        "precision": recommender.generator().precision(),
    })
    .to_string();
    let done = |rows| Done { users: asked, users_without_history: asked - with_history.len(), rows };
    if parquet_file::job_of(out).as_ref() == Some(&job) {
        return Ok(done(parquet_file::rows_of(out)?));
    }
    let schema = schema(recommender.is_calibrated());
    let folder = parquet_file::parts_folder(out);
    std::fs::create_dir_all(&folder).map_err(|e| Error::io("create", &folder, e))?;
    progress.start("recommend", Some(with_history.len() as u64), "users");
    let mut parts = Vec::new();
    for (number, users) in with_history.chunks(PART_USERS).enumerate() {
        let part = folder.join(format!("part-{number:06}.parquet"));
        if parquet_file::job_of(&part).as_ref() != Some(&job) {
            let batch = answer_part(recommender, histories, users, wish);
            parquet_file::write(&part, &schema, &job, std::iter::once(batch))?;
            progress.advance(users.len() as u64);
        } else {
            progress.resume(users.len() as u64);
        }
        parts.push(part);
    }
    let mut readers = Vec::with_capacity(parts.len());
    for part in &parts {
        readers.push(parquet_file::batches(part)?);
    }
    parquet_file::write(out, &schema, &job, readers.into_iter().flatten())?;
    std::fs::remove_dir_all(&folder).map_err(|e| Error::io("remove", &folder, e))?;
    progress.finish();
    Ok(done(parquet_file::rows_of(out)?))
}

fn choose(histories: &Histories, users: &str) -> Result<Vec<usize>> {
    if users == "all" {
        return Ok((0..histories.len()).collect());
    }
    let text = std::fs::read_to_string(users).map_err(|e| Error::io("read", users, e))?;
    let numbers: HashMap<&str, usize> = histories.users().iter().enumerate().map(|(u, id)| (id.as_str(), u)).collect();
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(row, line)| {
            numbers.get(line.trim()).copied().ok_or_else(|| {
                let problem = format!("the run has no user {:?}", line.trim());
                Error::input(format!("{users}, line {}", row + 1), problem, "use ids of the interactions table").into()
            })
        })
        .collect()
}

fn schema(calibrated: bool) -> Arc<Schema> {
    let code = Field::new("item", DataType::UInt16, true);
    let mut fields = vec![
        Field::new("user_id", DataType::Utf8, false),
        Field::new("rank", DataType::Int32, false),
        Field::new("item_id", DataType::Utf8, false),
        Field::new("title", DataType::Utf8, true),
        Field::new("score", DataType::Float32, false),
        Field::new("semantic_id", DataType::List(Arc::new(code)), false),
    ];
    fields.extend(calibrated.then(|| Field::new("confidence", DataType::Float64, true)));
    Arc::new(Schema::new(fields))
}

fn answer_part(recommender: &Recommender, histories: &Histories, users: &[usize], wish: &Wish) -> Result<RecordBatch> {
    let catalog = recommender.catalog();
    let queries: Vec<Query<'_>> = users
        .iter()
        .map(|&u| {
            let history: &[ItemIndex] = histories.items_of(u);
            Query {
                history,
                deny: if wish.include_seen { &[] } else { history },
                user: Some(histories.user(u)),
                time: histories.times_of(u).and_then(|times| times.last().copied()),
            }
        })
        .collect();
    let pages = recommender.pages(&queries, &[], wish)?;
    let mut confidences = Vec::new();
    let (mut user_ids, mut ranks, mut item_ids, mut titles, mut scores) = (vec![], vec![], vec![], vec![], vec![]);
    let mut semantic_ids = ListBuilder::new(UInt16Builder::new());
    for (&u, page) in users.iter().zip(&pages) {
        for (rank, chosen) in page.items.iter().enumerate() {
            user_ids.push(histories.user(u));
            ranks.push(rank as i32 + 1);
            item_ids.push(catalog.item_id(chosen.item));
            titles.push(recommender.title(chosen.item));
            scores.push(chosen.score);
            confidences.push(chosen.confidence);
            semantic_ids.values().append_slice(catalog.semantic_id(chosen.item));
            semantic_ids.append(true);
        }
    }
    let mut columns: Vec<arrow::array::ArrayRef> = vec![
        Arc::new(StringArray::from(user_ids)),
        Arc::new(Int32Array::from(ranks)),
        Arc::new(StringArray::from(item_ids)),
        Arc::new(StringArray::from(titles)),
        Arc::new(Float32Array::from(scores)),
        Arc::new(semantic_ids.finish()),
    ];
    let calibrated = recommender.is_calibrated();
    if calibrated {
        columns.push(Arc::new(Float64Array::from(confidences)));
    }
    RecordBatch::try_new(schema(calibrated), columns)
        .map_err(|e| Error::input("answers", e.to_string(), "this is a defect: report it").into())
}
