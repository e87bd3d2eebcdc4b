//! The encode job on random vectors: what an item costs, however many there are.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{ArrayRef, Float32Array, ListArray, RecordBatch, StringArray};
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, Schema};
use parquet::basic::Compression;
use parquet::file::properties::EnabledStatistics;
use rayon::prelude::*;
use serde_json::{Value, json};
use sidereal_core::artifact::{MANIFEST, Manifest, StageWriter};
use sidereal_core::{Embeddings, Error, Progress};
use sidereal_generator::bench::process_cpu_s;
use sidereal_generator::training::meter;
use sidereal_nn::rng::Rng;
use sidereal_tokenizer::{ItemTokenizer, TokenizerConfig};

use super::machine::Machine;
use crate::encode::EncodeJob;
use crate::parquet_file::{self, JOB_KEY};
use crate::{Result, Stage};

/// Vectors of one random stream.
const BLOCK: usize = 512;
/// Vectors of one row group; the writer holds one in memory.
const GROUP: usize = 1 << 14;
/// Vectors that the tokenizer is trained on.
const TRAINED_ON: usize = 1 << 14;

/// Sizes and folder of [`job`].
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct JobWish {
    pub width: usize,
    pub levels: usize,
    pub codes: u32,
    pub work: PathBuf,
}

impl JobWish {
    fn vectors(&self, items: u64) -> PathBuf {
        self.work.join(format!("vectors-{items}x{}.parquet", self.width))
    }

    fn tokenizer(&self) -> PathBuf {
        self.work.join(format!("tokenizer-{}-{}x{}", self.width, self.levels, self.codes))
    }
}

/// Writes the vectors of a size and the tokenizer, where they are not there yet.
///
/// # Errors
/// A folder that cannot be written; sizes that cannot be trained.
pub fn job_input(wish: &JobWish, items: u64, progress: &dyn Progress) -> Result<()> {
    if items == 0 || wish.width == 0 {
        return Err(Error::config("--items, --width", "0 measures nothing", "give 1 or more").into());
    }
    fs::create_dir_all(&wish.work).map_err(|e| Error::io("create", &wish.work, e))?;
    write_vectors(wish, items, progress)?;
    let dir = wish.tokenizer();
    if dir.join(MANIFEST).is_file() {
        return Ok(());
    }
    let embeddings = Embeddings::new(TRAINED_ON, wish.width, random(u64::MAX / 2, TRAINED_ON, wish.width))?;
    let mut config = TokenizerConfig::with_defaults("rq-kmeans", vec![wish.codes; wish.levels])?;
    if let TokenizerConfig::RqKmeans(kmeans) = &mut config {
        kmeans.max_iterations = 5;
    }
    let tokenizer = ItemTokenizer::train(&config, &embeddings, 0, progress)?;
    let writer = StageWriter::begin(&dir)?;
    tokenizer.save(writer.dir())?;
    writer.finish(Manifest::new(Stage::Tokenizer.name(), Some(0), json!(config), [].into()))?;
    Ok(())
}

/// The job on the vectors of a size, done from its beginning, with what it moves as a share of one core's copying: every
/// number is read from the file's pages, written as a vector, and read by the products. The peak of memory is the job's own
/// (`peak_memory_mib`), without that of writing the vectors or of measuring the machine.
///
/// # Errors
/// As [`job_input`] and [`EncodeJob::run`].
pub fn job(wish: &JobWish, items: u64, progress: &dyn Progress) -> Result<Value> {
    job_input(wish, items, progress)?;
    let (vectors, out) = (wish.vectors(items), wish.work.join(format!("codes-{items}.parquet")));
    for old in [&out, &parquet_file::parts_folder(&out)] {
        let removed = if old.is_dir() { fs::remove_dir_all(old) } else { fs::remove_file(old) };
        removed.or_else(|e| {
            if e.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(Error::io("remove", old, e)) }
        })?;
    }
    meter::begin_peak();
    let (began, used, read) = (Instant::now(), process_cpu_s(), bytes_read());
    let done = EncodeJob::new(&wish.tokenizer(), &vectors, &out).run(progress)?;
    let wall_s = began.elapsed().as_secs_f64();
    let cpu_s = process_cpu_s().zip(used).map(|(now, before)| now - before);
    let each = |s: f64| s / items as f64;
    let peak_memory_mib = meter::resident_peak().map(|bytes| bytes >> 20);
    let machine = Machine::measure();
    let moved = 3.0 * (items * wish.width as u64 * size_of::<f32>() as u64) as f64;
    let moved_gb_per_cpu_s = cpu_s.map(|s| moved / s * 1e-9);
    Ok(json!({ "items": items, "wall_s": wall_s, "cpu_s": cpu_s, "items_per_s": items as f64 / wall_s,
        "items_per_cpu_s": cpu_s.map(|s| items as f64 / s), "cpu_s_per_item": cpu_s.map(each),
        "input_bytes": fs::metadata(&vectors).map(|about| about.len()).ok(),
        "bytes_read": bytes_read().zip(read).map(|(now, before)| now - before),
        "moved_gb_per_cpu_s": moved_gb_per_cpu_s, "machine": machine,
        "share_of_copy": moved_gb_per_cpu_s.map(|rate| rate / machine.copy_gb_per_s),
        "peak_memory_mib": peak_memory_mib, "parts": done.parts, "unique_ids": done.unique_ids }))
}

fn write_vectors(wish: &JobWish, items: u64, progress: &dyn Progress) -> Result<()> {
    let path = wish.vectors(items);
    let about = json!({ "bench": "job", "items": items, "width": wish.width }).to_string();
    if parquet_file::job_of(&path).as_ref() == Some(&about) {
        return Ok(());
    }
    progress.start("write vectors", Some(items), "items");
    let number = Arc::new(Field::new("item", DataType::Float32, true));
    let schema = Arc::new(Schema::new(vec![
        Field::new("item_id", DataType::Utf8, false),
        Field::new("embedding", DataType::List(Arc::clone(&number)), false),
    ]));
    // Random numbers neither repeat nor shrink.
    let properties = parquet_file::properties(&[(JOB_KEY, &about)])
        .set_compression(Compression::UNCOMPRESSED)
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_max_row_group_row_count(Some(GROUP))
        .build();
    let batches = (0..items.div_ceil(GROUP as u64)).map(|group| {
        let first = group * GROUP as u64;
        let rows = (items - first).min(GROUP as u64) as usize;
        let ids: StringArray = (first..first + rows as u64).map(|item| Some(format!("item-{item:010}"))).collect();
        let offsets = (0..=rows).map(|row| (row * wish.width) as i32).collect::<Vec<_>>();
        let values: ArrayRef = Arc::new(Float32Array::from(random(first, rows, wish.width)));
        let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
        let lists = ListArray::new(Arc::clone(&number), offsets, values, None);
        progress.advance(rows as u64);
        RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(ids), Arc::new(lists)])
            .map_err(|e| Error::input("vectors", e.to_string(), "this is a defect: report it").into())
    });
    let temporary = path.with_extension("writing");
    parquet_file::write_by(&temporary, &path, &schema, properties, batches)?;
    progress.finish();
    Ok(())
}

/// Numbers in [-1, 1), [rows, D], that depend on the first row alone.
fn random(first: u64, rows: usize, width: usize) -> Vec<f32> {
    let mut values = vec![0f32; rows * width];
    values.par_chunks_mut(BLOCK * width).enumerate().for_each(|(block, values)| {
        let mut rng = Rng::new(first + block as u64, "bench job");
        for pair in values.chunks_mut(2) {
            let bits = rng.next_u64();
            for (value, bits) in pair.iter_mut().zip([bits as u32, (bits >> 32) as u32]) {
                *value = (bits >> 8) as f32 / (1u32 << 23) as f32 - 1.0;
            }
        }
    });
    values
}

/// Bytes that the process has read from files, where the system tells it.
fn bytes_read() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/io").ok()?;
    text.lines().find_map(|line| line.strip_prefix("rchar: "))?.trim().parse().ok()
}
