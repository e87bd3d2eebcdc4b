#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float32Builder, ListBuilder, RecordBatch, StringArray};
use arrow::datatypes::{UInt16Type, UInt64Type};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use serde_json::json;
use sidereal_core::artifact::{Manifest, StageWriter};
use sidereal_core::{Embeddings, NoProgress};
use sidereal_tokenizer::TokenizerConfig;
use tempfile::TempDir;

use super::*;

const ROWS: usize = 300;
const WIDTH: usize = 4;

/// A folder with a tokenizer of [`WIDTH`] numbers and some vectors.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        place.tokenizer("tokenizer", 0);
        place.parquet("v.parquet", &ids(), &vectors());
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn tokenizer(&self, name: &str, seed: u64) {
        let values: Vec<f32> = vectors().into_iter().flatten().flatten().collect();
        let embeddings = Embeddings::new(ROWS, WIDTH, values).unwrap();
        let config = TokenizerConfig::with_defaults("rq-kmeans", vec![8, 8]).unwrap();
        let tokenizer = ItemTokenizer::train(&config, &embeddings, seed, &NoProgress).unwrap();
        let writer = StageWriter::begin(&self.path(name)).unwrap();
        tokenizer.save(writer.dir()).unwrap();
        writer.finish(Manifest::new("tokenizer", Some(seed), json!(config), [].into())).unwrap();
    }

    fn parquet(&self, name: &str, ids: &[String], vectors: &[Option<Vec<f32>>]) -> PathBuf {
        let mut lists = ListBuilder::new(Float32Builder::new());
        for vector in vectors {
            lists.values().append_slice(vector.as_deref().unwrap_or(&[]));
            lists.append(vector.is_some());
        }
        let mut columns: Vec<(&str, ArrayRef)> = vec![("embedding", Arc::new(lists.finish()))];
        if !ids.is_empty() {
            columns.push(("item_id", Arc::new(ids.iter().map(Some).collect::<StringArray>())));
        }
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let properties = WriterProperties::builder().set_max_row_group_row_count(Some(64)).build();
        let file = File::create(self.path(name)).unwrap();
        let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        self.path(name)
    }

    fn job(&self, vectors: &[&str], out: &str) -> EncodeJob {
        let inputs = vectors.iter().map(|name| Input { location: self.path(name), name: None }).collect();
        EncodeJob {
            inputs,
            part_rows: Some(50),
            ..EncodeJob::new(&self.path("tokenizer"), &self.path(""), &self.path(out))
        }
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    /// Row, id and codes of every row of a finished file.
    fn rows(&self, name: &str) -> Vec<(u64, Option<String>, Option<Vec<u16>>)> {
        let mut rows = Vec::new();
        for batch in parquet_file::batches(&self.path(name)).unwrap() {
            let batch = batch.unwrap();
            let ids = batch.column_by_name("item_id").map(|ids| ids.as_string::<i32>().clone());
            let codes = batch.column_by_name("codes").unwrap().as_list::<i32>();
            for row in 0..batch.num_rows() {
                let list = codes.is_valid(row).then(|| codes.value(row).as_primitive::<UInt16Type>().values().to_vec());
                let number = batch.column(0).as_primitive::<UInt64Type>().value(row);
                rows.push((number, ids.as_ref().map(|ids| ids.value(row).to_owned()), list));
            }
        }
        rows
    }
}

fn ids() -> Vec<String> {
    (0..ROWS).map(|row| format!("item {row}")).collect()
}

fn vectors() -> Vec<Option<Vec<f32>>> {
    (0..ROWS)
        .map(|row| Some((0..WIDTH).map(|d| ((row * 7 + d * 13) % 31) as f32 - (row % 5) as f32).collect()))
        .collect()
}

/// NaN in row 120, no vector in row 130, infinity in row 131, too much in row 299.
fn spoilt() -> Vec<Option<Vec<f32>>> {
    let mut vectors = vectors();
    for (row, value) in [(120, f32::NAN), (131, f32::INFINITY), (299, 2e30)] {
        vectors[row].as_mut().unwrap()[2] = value;
    }
    vectors[130] = None;
    vectors
}

fn run(job: &EncodeJob) -> Done {
    job.run(&NoProgress).unwrap()
}

fn refusal(job: &EncodeJob) -> String {
    job.run(&NoProgress).unwrap_err().to_string()
}

#[test]
fn the_bytes_are_the_same_for_any_parts_and_threads_and_the_codes_those_of_the_tokenizer() {
    let place = Place::new();
    let done = run(&place.job(&["v.parquet"], "calm.parquet"));
    assert_eq!((done.items, done.counts.encoded, done.parts, done.parts_kept), (ROWS as u64, ROWS as u64, 6, 0));
    for (part_rows, threads) in [(1, 1), (7, 3), (299, 2), (100_000, 1)] {
        let job = EncodeJob { part_rows: Some(part_rows), ..place.job(&["v.parquet"], "x.parquet") };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| run(&job));
        assert!(place.bytes("x.parquet") == place.bytes("calm.parquet"), "parts of {part_rows}, {threads} threads");
        fs::remove_file(place.path("x.parquet")).unwrap();
    }
    let tokenizer = ItemTokenizer::load(&place.path("tokenizer")).unwrap();
    let values = vectors().into_iter().flatten().flatten().collect();
    let sids = tokenizer.encode(&Embeddings::new(ROWS, WIDTH, values).unwrap()).unwrap();
    let rows = place.rows("calm.parquet");
    for (row, sid) in sids.rows().enumerate() {
        assert_eq!(rows[row], (row as u64, Some(format!("item {row}")), Some(sid.to_vec())));
    }
    let distinct: std::collections::BTreeSet<&[u16]> = sids.rows().collect();
    assert_eq!(done.unique_ids, distinct.len() as u64);
    assert!(!place.path("calm.parquet.partial").exists());
}

#[test]
fn rows_that_cannot_be_encoded_stop_the_job_or_get_no_codes_or_no_row() {
    let place = Place::new();
    place.parquet("bad.parquet", &ids(), &spoilt());
    let job = |policy: OnInvalid| EncodeJob { on_invalid: policy, ..place.job(&["bad.parquet"], "x.parquet") };
    let error = refusal(&job(OnInvalid::Error));
    for part in
        ["row 120 (item \"item 120\"): NaN", "row 130 (item \"item 130\"): no vector", "2 of 6 parts are finished"]
    {
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
    assert!(!place.path("x.parquet").exists());
    // The two sound parts are good for every policy; the others are not good for another one.
    let null = run(&job(OnInvalid::Null));
    assert_eq!((null.parts_kept, null.counts), (2, Counts { encoded: 296, null: 4, skipped: 0 }));
    let rows = place.rows("x.parquet");
    assert_eq!(rows.len(), ROWS);
    for (row, _, codes) in &rows {
        assert_eq!(codes.is_none(), [120, 130, 131, 299].contains(row), "row {row}");
    }
    let skip = run(&job(OnInvalid::Skip));
    assert_eq!((skip.parts_kept, skip.counts), (0, Counts { encoded: 296, null: 0, skipped: 4 }));
    let kept: Vec<_> = rows.into_iter().filter(|row| row.2.is_some()).collect();
    assert_eq!(place.rows("x.parquet"), kept);
    assert_eq!(skip.unique_ids, null.unique_ids);
}

#[test]
fn a_continued_job_keeps_its_parts_and_gives_the_same_bytes() {
    let place = Place::new();
    place.parquet("bad.parquet", &ids(), &spoilt());
    let calm = EncodeJob { on_invalid: OnInvalid::Skip, ..place.job(&["bad.parquet"], "calm.parquet") };
    run(&calm);
    refusal(&place.job(&["bad.parquet"], "x.parquet"));
    let parts = place.path("x.parquet.partial");
    assert!(parts.join("part-000001.parquet").is_file() && !parts.join("part-000002.parquet").exists());
    // What was half-written, or is gone, is made again.
    fs::write(parts.join("part-000002.parquet"), b"PAR1 half").unwrap();
    fs::remove_file(parts.join("part-000000.parquet")).unwrap();
    let job = EncodeJob { on_invalid: OnInvalid::Skip, part_rows: Some(9), ..place.job(&["bad.parquet"], "x.parquet") };
    let done = run(&job);
    assert_eq!((done.parts, done.parts_kept), (6, 1), "the job keeps the part rows that it began with");
    assert!(place.bytes("x.parquet") == place.bytes("calm.parquet"));
}

#[test]
fn a_finished_job_is_done_at_once_and_a_changed_one_is_done_again() {
    let place = Place::new();
    let job = place.job(&["v.parquet"], "x.parquet");
    let first = run(&job);
    let bytes = place.bytes("x.parquet");
    let again = run(&job);
    assert!(again.finished_before && !first.finished_before);
    assert_eq!((again.counts, again.unique_ids), (first.counts, first.unique_ids));
    place.tokenizer("tokenizer", 5);
    assert!(!run(&job).finished_before);
    assert_ne!(place.bytes("x.parquet"), bytes);
    // The same bytes written anew are newer than the answer: it is made again, and is the same.
    let now = place.bytes("x.parquet");
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(60);
    File::options().append(true).open(place.path("v.parquet")).unwrap().set_modified(later).unwrap();
    assert!(!run(&job).finished_before);
    assert!(place.bytes("x.parquet") == now);
}

#[test]
fn unfinished_parts_of_another_job_are_refused() {
    let place = Place::new();
    place.tokenizer("other", 9);
    place.parquet("bad.parquet", &ids(), &spoilt());
    let job = place.job(&["bad.parquet"], "x.parquet");
    refusal(&job);
    let other = EncodeJob { tokenizer: place.path("other"), ..job.clone() };
    let error = refusal(&other);
    assert!(error.contains("x.parquet.partial") && error.contains("another tokenizer"), "{error}");
    place.parquet("bad.parquet", &ids(), &vectors());
    let error = refusal(&job);
    assert!(
        error.contains("bad.parquet") && error.contains("changed") && error.contains("remove the folder"),
        "{error}"
    );
    fs::remove_dir_all(place.path("x.parquet.partial")).unwrap();
    assert_eq!(run(&job).counts.encoded, ROWS as u64);
}

#[test]
fn a_job_that_runs_is_not_begun_twice() {
    let place = Place::new();
    let job = place.job(&["v.parquet"], "x.parquet");
    fs::create_dir(place.path("x.parquet.partial")).unwrap();
    let running = File::create(place.path("x.parquet.partial/lock")).unwrap();
    running.lock().unwrap();
    assert!(refusal(&job).contains("another process"));
    drop(running);
    run(&job);
}

/// Spoils the file of vectors while it is read.
struct Meddler(PathBuf);

impl Progress for Meddler {
    fn start(&self, _task: &str, _total: Option<u64>, _unit: &'static str) {}
    fn advance(&self, _by: u64) {
        let later = std::time::SystemTime::now() + std::time::Duration::from_secs(1);
        File::options().append(true).open(&self.0).unwrap().set_modified(later).unwrap();
    }
    fn note(&self, _text: &str) {}
    fn finish(&self) {}
}

#[test]
fn a_file_that_changes_while_it_is_read_gives_no_answer() {
    let place = Place::new();
    let job = place.job(&["v.parquet"], "x.parquet");
    let error = job.run(&Meddler(place.path("v.parquet"))).unwrap_err().to_string();
    assert!(error.contains("v.parquet: it was changed while it was read"), "{error}");
    assert!(!place.path("x.parquet").exists());
}

#[test]
fn parts_that_a_kill_left_beside_a_finished_file_are_removed() {
    let place = Place::new();
    let job = place.job(&["v.parquet"], "x.parquet");
    run(&job);
    fs::create_dir(place.path("x.parquet.partial")).unwrap();
    assert!(run(&job).finished_before);
    assert!(!place.path("x.parquet.partial").exists());
}

#[test]
fn several_files_are_put_together_row_by_row() {
    let place = Place::new();
    let half = |from: usize| -> Vec<Option<Vec<f32>>> {
        vectors().into_iter().map(|v| v.map(|v| v[from..from + 2].to_vec())).collect()
    };
    place.parquet("text.parquet", &ids(), &half(0));
    place.parquet("image.parquet", &[], &half(2));
    run(&place.job(&["v.parquet"], "one.parquet"));
    run(&place.job(&["text.parquet", "image.parquet"], "two.parquet"));
    assert_eq!(place.rows("one.parquet"), place.rows("two.parquet"));
    let mut swapped = ids();
    swapped.swap(170, 171);
    place.parquet("image.parquet", &swapped, &half(2));
    let error = refusal(&place.job(&["text.parquet", "image.parquet"], "x.parquet"));
    assert!(
        error.contains("image.parquet, row 170: item id \"item 171\", but ") && error.contains("\"item 170\""),
        "{error}"
    );
    assert!(error.contains("3 of 6 parts are finished"), "{error}");
    place.parquet("short.parquet", &[], &half(2)[1..]);
    let error = refusal(&place.job(&["text.parquet", "short.parquet"], "y.parquet"));
    assert!(error.contains("299 vectors, but") && error.contains("text.parquet has 300"), "{error}");
    let error = refusal(&place.job(&["text.parquet", "v.parquet"], "y.parquet"));
    assert!(error.contains("2 + 4 = 6 wide") && error.contains("width 4"), "{error}");
}

#[test]
fn an_id_that_appears_twice_is_refused_before_anything_is_encoded() {
    let place = Place::new();
    let mut ids = ids();
    ids[250] = "item 40".to_owned();
    place.parquet("v.parquet", &ids, &vectors());
    let error = refusal(&place.job(&["v.parquet"], "x.parquet"));
    let says = "v.parquet, row 250: item id \"item 40\" appears a second time (first in row 40)";
    assert!(error.contains(says), "{error}");
}

#[test]
fn damaged_input_keeps_the_parts_before_it() {
    let place = Place::new();
    let mut bytes = place.bytes("v.parquet");
    // The first bytes of the last row group's first page are its header.
    let reader =
        parquet::file::reader::SerializedFileReader::new(File::open(place.path("v.parquet")).unwrap()).unwrap();
    use parquet::file::reader::FileReader;
    let groups = reader.metadata().row_groups();
    let at = groups.last().unwrap().column(0).data_page_offset() as usize;
    bytes[at..at + 8].fill(0xff);
    fs::write(place.path("v.parquet"), &bytes).unwrap();
    let job = EncodeJob { part_rows: Some(20), ..place.job(&["v.parquet"], "x.parquet") };
    let error = refusal(&job);
    assert!(error.contains("v.parquet") && error.contains("parts are finished and kept"), "{error}");
    let again = refusal(&job);
    assert_eq!(error, again, "what is finished stays so");
    assert!(!place.path("x.parquet").exists() && place.path("x.parquet.partial/part-000000.parquet").is_file());
}

#[test]
fn a_tokenizer_of_another_version_is_refused() {
    let place = Place::new();
    let path = place.path("tokenizer/tokenizer.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replacen("\"format_version\": 2", "\"format_version\": 1", 1)).unwrap();
    let error = refusal(&place.job(&["v.parquet"], "x.parquet"));
    assert!(error.contains("tokenizer.json") && error.contains("format version 1"), "{error}");
    assert!(!place.path("x.parquet.partial").exists());
}
