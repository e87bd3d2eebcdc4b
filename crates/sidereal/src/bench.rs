//! Measurements of the project's own work on this machine, on inputs that other programs can be given.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sidereal_core::CodeVocab;
use sidereal_core::{Catalog, Error, SemanticIds, Trie};
use sidereal_generator::bench::{
    Times, TrainInput, bench_beam, bench_beam_input, bench_catalog, bench_model, bench_train_step, process_cpu_s,
};
use sidereal_generator::models::t5::T5Config;
use sidereal_generator::models::tiger::TigerConfig;
use sidereal_nn::device::DeviceChoice;
use sidereal_nn::kernels::{Instructions, Precision};
use sidereal_nn::rng::Rng;
pub use sidereal_tokenizer::bench::RqVaeWish;
use sidereal_tokenizer::bench::screen_kernel;

use crate::Result;

mod changes;
mod constraint;
mod device;
mod encode;
mod filter;
mod job;
mod joining;
mod machine;
mod open_loop;

pub use changes::{ChangesWish, changes};
pub use constraint::{ConstraintWish, constraint};
pub use device::{DeviceWish, device};
pub use encode::{EncodeWish, encode};
pub use filter::{FilterWish, filter};
pub use job::{JobWish, job, job_input};
pub use joining::{JoiningWish, joining};
pub use machine::Machine;

/// Levels and codes of the random catalogs and histories: those of the peers' scripts.
const LEVELS: usize = 4;
const CODES: u32 = 256;

/// The middle of the values, the upper one of two; NaN of none.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Threads that the work may use.
pub fn threads() -> usize {
    rayon::current_num_threads()
}

/// RQ-VAE of TIGER's shape on random vectors: encoding and training steps.
///
/// # Errors
/// Sizes of 0.
pub fn rq_vae(input: Option<&Path>, wish: &RqVaeWish) -> Result<Value> {
    let given = input.map(|path| sidereal_embed::read_vectors(path, None)).transpose()?.map(|found| found.embeddings);
    let found = sidereal_tokenizer::bench::rq_vae(wish, given, &process_cpu_s)?;
    let machine = Machine::measure();
    let limit = limit(wish.precision, &machine);
    let share = |gflop: Option<f64>| gflop.map(|rate| rate / limit);
    Ok(json!({ "what": "rq-vae", "machine": machine, "kernel_gflop_per_s": limit,
        "encode_items_per_s": found.encode.rows_per_s, "encode_items_per_cpu_s": found.encode.rows_per_cpu_s,
        "encode_share_of_gemm": share(found.encode.gflop_per_cpu_s),
        "train_samples_per_s": found.train.rows_per_s, "train_samples_per_cpu_s": found.train.rows_per_cpu_s,
        "train_share_of_gemm": share(found.train.gflop_per_cpu_s), "figures": found }))
}

/// What products can reach on one core, 10^9 operations a second. Without a kernel of bf16 its products are f32's behind a
/// conversion.
fn limit(precision: Precision, machine: &Machine) -> f64 {
    let kernel = match precision {
        Precision::F32 => None,
        Precision::Bf16 | Precision::Int8 => screen_kernel(KERNEL_WIDTH).gflop_per_s,
    };
    kernel.unwrap_or(machine.gemm_gflop_per_s)
}

/// Any width that is screened in bf16 where the processor has it.
const KERNEL_WIDTH: usize = 256;

/// Sizes of [`train`].
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct TrainWish {
    pub batch: usize,
    pub encoder_tokens: usize,
    pub decoder_tokens: usize,
    pub vocab: usize,
    pub dropout: f32,
    pub steps: usize,
    pub runs: usize,
    pub seed: u64,
    pub precision: Precision,
}

/// Training steps of the TIGER shape.
///
/// # Errors
/// Sizes that no model can have; whatever the device says.
pub fn train(wish: &TrainWish, device: DeviceChoice) -> Result<Value> {
    let levels = wish.decoder_tokens;
    let codes = (wish.vocab.saturating_sub(CodeVocab::FIRST_CODE as usize) / levels.max(1)) as u32;
    if codes == 0 {
        let problem = format!("{} tokens hold no code for each of {levels} levels", wish.vocab);
        return Err(Error::config("--vocab", problem, "give a larger vocabulary").into());
    }
    let config = TigerConfig { dropout: wish.dropout, ..TigerConfig::default() };
    let t5 =
        T5Config { vocab_size: wish.vocab, ..config.t5(&CodeVocab::new(CodeVocab::FIRST_CODE, &vec![codes; levels]))? };
    let model = bench_model(None, t5, wish.seed, &device.open()?)?;
    let input = TrainInput::random(wish.batch * 4, wish.encoder_tokens, levels, codes, wish.seed);
    let found = bench_train_step(&model, &input, wish.batch, wish.steps, wish.runs, wish.seed, wish.precision)?;
    let machine = Machine::measure();
    let limit = limit(wish.precision, &machine);
    let mut figures = with_what("train", json!(found));
    figures["machine"] = json!(machine);
    figures["kernel_gflop_per_s"] = json!(limit);
    figures["share_of_gemm"] = json!(found.gflop_per_sample * found.samples_per_cpu_s / limit);
    Ok(figures)
}

/// Sizes and files of [`beam`].
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct BeamWish {
    pub model: Option<PathBuf>,
    pub catalog: Option<PathBuf>,
    pub histories: Option<PathBuf>,
    pub items: usize,
    pub users: usize,
    pub k: usize,
    pub batch: usize,
    pub runs: usize,
    pub precision: Precision,
    pub instructions: Option<Instructions>,
    pub save_output: Option<PathBuf>,
    pub seed: u64,
}

/// Constrained beam search of the TIGER shape, encoding included, scores over the whole vocabulary.
///
/// # Errors
/// Files that cannot be read or do not fit; whatever the device says.
pub fn beam(wish: &BeamWish, device: DeviceChoice) -> Result<Value> {
    if let Some(most) = wish.instructions {
        Instructions::limit(most);
    }
    let codes = [CODES; LEVELS];
    let (mut catalog, mut histories) = bench_beam_input(wish.items, &codes, wish.users, 20, wish.seed)?;
    if let Some(path) = &wish.catalog {
        let sids = read_sids(path)?;
        catalog = bench_catalog(&sids, &vec![CODES; sids.levels()])?;
    }
    if let Some(path) = &wish.histories {
        let (shape, tokens) = read_integers(path)?;
        let width = shape.get(1).copied().unwrap_or(0).max(1);
        histories = tokens.chunks(width).map(|row| row.iter().map(|&token| token as u32).collect()).collect();
    }
    let vocab = CodeVocab::new(CodeVocab::FIRST_CODE, catalog.codes_per_level());
    let t5 = TigerConfig::default().t5(&vocab)?;
    let model = bench_model(wish.model.as_deref(), t5, wish.seed, &device.open()?)?;
    let found = bench_beam(&model, &catalog, &histories, wish.k, wish.batch, wish.runs, wish.precision)?;
    if let Some(path) = &wish.save_output {
        let answer = json!({ "sequences": found.sequences, "scores": found.scores });
        sidereal_core::artifact::write_json(path, &answer)?;
    }
    let mut value = with_what("beam", json!(found));
    if let Some(object) = value.as_object_mut() {
        // Answers are for comparing, not for reading.
        object.remove("sequences");
        object.remove("scores");
    }
    Ok(value)
}

/// Sizes and file of [`trie`].
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct TrieWish {
    pub input: Option<PathBuf>,
    pub ids: usize,
    pub levels: usize,
    pub codes: u32,
    pub runs: usize,
}

/// Building the trie of semantic IDs in any order, building the catalog of as many items, and opening it.
///
/// # Errors
/// A file that cannot be read; a temporary folder without room for the catalog.
pub fn trie(wish: &TrieWish) -> Result<Value> {
    let sids = match &wish.input {
        Some(path) => read_sids(path)?,
        None => {
            let mut rng = Rng::new(0, "bench trie");
            let codes = (0..wish.ids * wish.levels).map(|_| (rng.next_u64() % u64::from(wish.codes.max(1))) as u16);
            SemanticIds::new(wish.levels, codes.collect())?
        }
    };
    let codes_per_level: Vec<u32> = (0..sids.levels())
        .map(|level| sids.rows().map(|row| u32::from(row[level]) + 1).max().unwrap_or(1).max(wish.codes))
        .collect();
    let (times, trie) = Times::of(0, wish.runs.max(1), || Ok(Trie::build(&sids, &codes_per_level)?))?;
    let (leaves, trie_mb) = (trie.leaves(), trie.bytes() as f64 / 1e6);
    drop(trie);
    let (catalog_times, catalog) = Times::of(0, 1, || bench_catalog(&sids, &codes_per_level))?;
    let folder = tempfile::tempdir().map_err(|e| Error::io("create", std::env::temp_dir(), e))?;
    catalog.save(folder.path())?;
    drop(catalog);
    let (open_times, _) = Times::of(1, wish.runs.max(3), || Ok(Catalog::open(folder.path())?))?;
    Ok(json!({ "what": "trie", "machine": Machine::measure(), "ids": sids.len(), "leaves": leaves,
        "levels": sids.levels(), "codes_per_level": codes_per_level, "trie_mb": trie_mb,
        "build_s": times.wall_median_s(), "build_cpu_s": times.cpu_median_s(),
        "catalog_build_cpu_s": catalog_times.cpu_median_s(), "open_ms": open_times.wall_median_s() * 1e3 }))
}

fn with_what(what: &str, mut value: Value) -> Value {
    if let Some(object) = value.as_object_mut() {
        object.insert("what".to_owned(), what.into());
    }
    value
}

fn read_sids(path: &Path) -> Result<SemanticIds> {
    let (shape, codes) = read_integers(path)?;
    let levels = shape.get(1).copied().unwrap_or(1);
    let codes: Option<Vec<u16>> = codes.iter().map(|&code| u16::try_from(code).ok()).collect();
    let codes = codes.ok_or_else(|| {
        Error::input(path.display().to_string(), "a code is not between 0 and 65535", "give codes [N, L]")
    })?;
    Ok(SemanticIds::new(levels, codes)?)
}

/// Integers of a `.npy` file, whatever their width, with its shape.
fn read_integers(path: &Path) -> Result<(Vec<usize>, Vec<i64>)> {
    let io = |e| Error::io("read", path, e);
    let bytes = std::fs::read(path).map_err(io)?;
    let file = npyz::NpyFile::new(&bytes[..]).map_err(io)?;
    let shape: Vec<usize> = file.shape().iter().map(|&n| n as usize).collect();
    let descr = file.dtype().descr();
    let values = match descr.trim_matches(['\'', '"']) {
        "<u2" => widened::<u16>(file),
        "<i4" => widened::<i32>(file),
        "<u4" => widened::<u32>(file),
        "<i8" => widened::<i64>(file),
        other => Err(std::io::Error::other(format!("its numbers are {other}, not integers of 16 to 64 bits"))),
    };
    Ok((shape, values.map_err(io)?))
}

fn widened<T: npyz::Deserialize + Into<i64>>(file: npyz::NpyFile<&[u8]>) -> std::io::Result<Vec<i64>> {
    let numbers = file.data::<T>().map_err(|e| std::io::Error::other(e.to_string()))?;
    numbers.map(|number| number.map(Into::into)).collect()
}
