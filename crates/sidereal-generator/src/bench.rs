//! Measurements of this crate, on inputs that another program can be given: a training step and a beam search.
//!
//! Time is wall time and processor time of the whole process: on a busy machine only the second is the program's own.

mod free_search;

use std::path::Path;
use std::time::Instant;

use candle_core::Device;
use serde::Serialize;
use sidereal_core::{Catalog, CodeVocab, CollisionPolicy, Error as CoreError, ItemId, LeafFilter, SemanticIds};
use sidereal_nn::kernels::{Instructions, Precision};
use sidereal_nn::ops::in_precision;
use sidereal_nn::optimizer::{AdamW, AdamWConfig};
use sidereal_nn::rng::Rng;

use crate::Result;
use crate::batches::Batch;
use crate::beam::{BeamOptions, Request, Searcher};
use crate::dropout::Dropout;
use crate::models::t5::{T5, T5Config};
use crate::scoring::ScoreNorm;
use crate::training::gradients::{Weighted, gradients};
use crate::training::meter;

pub use free_search::free_search;

/// Times of some runs of the same work.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Times {
    /// Wall time of each run.
    pub wall_s: Vec<f64>,
    /// Processor time of each run, all threads; empty where the system does not tell.
    pub cpu_s: Vec<f64>,
}

impl Times {
    /// Runs `work` `warmup` times unmeasured and `runs` times measured; gives the last result.
    ///
    /// # Errors
    /// 0 runs; whatever `work` says.
    pub fn of<T>(warmup: usize, runs: usize, mut work: impl FnMut() -> Result<T>) -> Result<(Self, T)> {
        let mut last = None;
        for _ in 0..warmup {
            last = Some(work()?);
        }
        let mut times = Self { wall_s: Vec::new(), cpu_s: Vec::new() };
        for _ in 0..runs {
            let (wall, cpu) = (Instant::now(), process_cpu_s());
            last = Some(work()?);
            times.wall_s.push(wall.elapsed().as_secs_f64());
            if let (Some(before), Some(after)) = (cpu, process_cpu_s()) {
                times.cpu_s.push(after - before);
            }
        }
        match last {
            Some(last) => Ok((times, last)),
            None => Err(CoreError::config("runs", "0 runs measure nothing", "give 1 or more").into()),
        }
    }

    /// The median wall time of a run.
    pub fn wall_median_s(&self) -> f64 {
        median(&self.wall_s)
    }

    /// The median processor time of a run; the wall time where the system does not tell.
    pub fn cpu_median_s(&self) -> f64 {
        if self.cpu_s.is_empty() { self.wall_median_s() } else { median(&self.cpu_s) }
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}

/// Processor time of this process so far, all threads (`getrusage`), where the system tells.
pub fn process_cpu_s() -> Option<f64> {
    #[cfg(unix)]
    {
        let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
        // SAFETY: `usage` is a whole `rusage` that the call writes; every bit pattern of its integers is valid.
        let (status, usage) = unsafe { (libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()), usage.assume_init()) };
        let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 * 1e-6;
        (status == 0).then(|| seconds(usage.ru_utime) + seconds(usage.ru_stime))
    }
    #[cfg(not(unix))]
    None
}

/// Rows of a part on the CPU, as [`crate::network::Network::part_rows`] has it.
const PART_ROWS: usize = 32;

impl Weighted for Batch {
    fn targets(&self) -> usize {
        self.rows
    }
}

/// Samples that a training step is measured on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrainInput {
    /// Token ids of histories, 0 is padding at the right: `[N, T]`.
    pub history: Vec<u32>,
    /// T.
    pub history_tokens: usize,
    /// Token ids of targets: `[N, L]`.
    pub target: Vec<u32>,
    /// L.
    pub levels: usize,
}

impl TrainInput {
    /// `samples` random histories of whole semantic IDs of `codes` codes at each of `levels` levels.
    pub fn random(samples: usize, history_tokens: usize, levels: usize, codes: u32, seed: u64) -> Self {
        let mut rng = Rng::new(seed, "bench train");
        let mut tokens = |per_sample: usize| -> Vec<u32> {
            (0..samples * per_sample)
                .map(|at| {
                    let level = (at % per_sample % levels) as u32;
                    CodeVocab::FIRST_CODE + level * codes + rng.below(codes as usize) as u32
                })
                .collect()
        };
        let (history, target) = (tokens(history_tokens), tokens(levels));
        Self { history, history_tokens, target, levels }
    }

    /// Batches of `size` samples, each in parts of `part` rows as training takes them.
    fn batches(&self, size: usize, part: usize) -> Vec<Vec<Batch>> {
        let rows = self.history.chunks_exact(self.history_tokens * size);
        let targets = self.target.chunks_exact(self.levels * size);
        rows.zip(targets)
            .map(|(history, target)| {
                let histories = history.chunks(self.history_tokens * part);
                histories.zip(target.chunks(self.levels * part)).map(|(h, t)| self.part(h, t)).collect()
            })
            .collect()
    }

    fn part(&self, history: &[u32], target: &[u32]) -> Batch {
        let used = |row: &[u32]| row.iter().rposition(|&t| t != CodeVocab::PAD).map_or(0, |last| last + 1);
        let lengths: Vec<u32> = history.chunks_exact(self.history_tokens).map(|row| used(row) as u32).collect();
        let (rows, width, levels) = (lengths.len(), self.history_tokens, self.levels);
        Batch { history: history.to_vec(), lengths, target: target.to_vec(), rows, width, levels, ..Batch::default() }
    }
}

/// A training step, measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TrainBench {
    /// How many numbers the model holds.
    pub parameters: usize,
    /// Samples a step.
    pub batch: usize,
    /// Steps a run.
    pub steps: usize,
    /// Samples a second of wall time.
    pub samples_per_s: f64,
    /// Samples a second of processor time.
    pub samples_per_cpu_s: f64,
    /// Wall time of a step.
    pub s_per_step: f64,
    /// What products multiplied.
    pub precision: Precision,
    /// Billions of additions and multiplications in the products of a sample, forwards and backwards.
    pub gflop_per_sample: f64,
    /// The most memory so far beyond what the idle process had, in MiB, where the system tells.
    pub memory_beyond_idle_mib: Option<f64>,
    /// Losses of all steps in order, warm-up included.
    pub losses: Vec<f32>,
    /// Times of the runs.
    pub times: Times,
}

/// Measures forward, backward and optimiser (AdamW, rate 1e-3, decay 0.01) on a model.
///
/// One run is `steps` steps of `batch` samples, taken in turn; one run before the measured ones warms up. Products multiply
/// in `precision`.
///
/// # Errors
/// Fewer samples than a batch; whatever the device says.
pub fn bench_train_step(
    model: &T5,
    input: &TrainInput,
    batch: usize,
    steps: usize,
    runs: usize,
    seed: u64,
    precision: Precision,
) -> Result<TrainBench> {
    let part = if model.device().is_cpu() { PART_ROWS } else { batch.max(1) };
    let batches = input.batches(batch.max(1), part);
    if batches.is_empty() || steps == 0 {
        let problem = "fewer samples than a batch holds, or no steps";
        return Err(CoreError::config("batch", problem, "give a smaller batch, or more steps").into());
    }
    let config = AdamWConfig { lr: 1e-3, weight_decay: 0.01, ..Default::default() };
    let mut optimizer = AdamW::new(model.params().vars().to_vec(), config)?;
    let mut losses = Vec::new();
    let (times, ()) = Times::of(1, runs, || {
        for _ in 0..steps {
            let parts = &batches[losses.len() % batches.len()];
            let mask_seed = seed.wrapping_add(losses.len() as u64);
            let rate = model.config().dropout_rate;
            let loss = |part: &Batch, noise| model.loss(part, 0.0, &Dropout::new(rate, noise));
            let of_part = |part: &Batch, noise| in_precision(precision, || loss(part, noise));
            let (loss, grads) = gradients(model.params(), parts, usize::MAX, mask_seed, of_part)?;
            optimizer.step(&grads, 1e-3)?;
            losses.push(loss as f32);
        }
        Ok(())
    })?;
    let samples = (batch * steps) as f64;
    Ok(TrainBench {
        parameters: model.parameter_count(),
        batch,
        steps,
        samples_per_s: samples / times.wall_median_s(),
        samples_per_cpu_s: samples / times.cpu_median_s(),
        s_per_step: times.wall_median_s() / steps as f64,
        precision,
        // Backward has two products for each of forward's.
        gflop_per_sample: 6.0 * model.config().products(input.history_tokens, input.levels) * 1e-9,
        memory_beyond_idle_mib: meter::peak_since().map(|bytes| bytes as f64 / f64::from(1 << 20)),
        losses,
        times,
    })
}

/// A beam search, measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BeamBench {
    /// What the model multiplied.
    pub precision: Precision,
    /// What the processor could do, or was allowed to.
    pub instructions: &'static str,
    /// Items of the catalog.
    pub items: usize,
    /// W.
    pub beam: usize,
    /// Requests searched together.
    pub batch: usize,
    /// Requests a run.
    pub users: usize,
    /// Requests a second of processor time.
    pub users_per_cpu_s: f64,
    /// Requests a second of wall time.
    pub users_per_s: f64,
    /// Wall time of one batch.
    pub latency_ms: f64,
    /// Semantic IDs found, `[users, W, L]`.
    pub sequences: Vec<Vec<Vec<u16>>>,
    /// Their scores (log-probabilities over the whole vocabulary), `[users, W]`.
    pub scores: Vec<Vec<f32>>,
    /// Times of the runs.
    pub times: Times,
}

/// Measures constrained beam search, encoding included, with scores over the whole vocabulary.
///
/// `histories` hold token ids, 0 is padding at the right; a run asks all of them, `batch` at a time.
///
/// # Errors
/// Semantic IDs or histories that do not fit the model; no histories.
pub fn bench_beam(
    model: &T5,
    catalog: &Catalog,
    histories: &[Vec<u32>],
    beam: usize,
    batch: usize,
    runs: usize,
    precision: Precision,
) -> Result<BeamBench> {
    let vocab = CodeVocab::new(CodeVocab::FIRST_CODE, catalog.codes_per_level());
    let searcher = Searcher::new(model.inference(&vocab, precision)?);
    let filter = LeafFilter::allow_all();
    let unpadded = |history: &'_ Vec<u32>| -> usize {
        history.iter().rposition(|&token| token != CodeVocab::PAD).map_or(0, |last| last + 1)
    };
    let requests: Vec<Request<'_>> =
        histories.iter().map(|h| Request { history: &h[..unpadded(h)], filter: &filter }).collect();
    let options = BeamOptions::new(beam, ScoreNorm::Full);
    let batch = batch.max(1);
    let (times, rankings) = Times::of(1, runs, || {
        let mut rankings = Vec::with_capacity(requests.len());
        for chunk in requests.chunks(batch) {
            rankings.extend(searcher.search(catalog, chunk, &options)?);
        }
        Ok(rankings)
    })?;
    let users = requests.len();
    let sequence = |leaf: u32| catalog.trie().semantic_id(leaf);
    Ok(BeamBench {
        precision,
        instructions: Instructions::current().name(),
        items: catalog.len(),
        beam,
        batch,
        users,
        users_per_cpu_s: users as f64 / times.cpu_median_s(),
        users_per_s: users as f64 / times.wall_median_s(),
        latency_ms: 1e3 * times.wall_median_s() / users.div_ceil(batch).max(1) as f64,
        sequences: rankings.iter().map(|r| r.leaves.iter().map(|l| sequence(l.leaf)).collect()).collect(),
        scores: rankings.iter().map(|r| r.leaves.iter().map(|l| l.score).collect()).collect(),
        times,
    })
}

/// A catalog of numbered items over given semantic IDs, as the measurements need one.
///
/// # Errors
/// A code that is not below its level's number of codes.
pub fn bench_catalog(sids: &SemanticIds, codes_per_level: &[u32]) -> Result<Catalog> {
    let ids: Vec<ItemId> = (0..sids.len()).map(|item| ItemId::from(item.to_string())).collect();
    Ok(Catalog::build(&ids, sids, codes_per_level, CollisionPolicy::Postings, None)?)
}

/// `items` random semantic IDs, and `users` random histories of `history_items` of them as token ids.
///
/// # Errors
/// Never for sizes above 0.
pub fn bench_beam_input(
    items: usize,
    codes_per_level: &[u32],
    users: usize,
    history_items: usize,
    seed: u64,
) -> Result<(Catalog, Vec<Vec<u32>>)> {
    let mut rng = Rng::new(seed, "bench beam");
    let codes =
        (0..items).flat_map(|_| codes_per_level.iter()).map(|&codes| rng.below(codes as usize) as u16).collect();
    let catalog = bench_catalog(&SemanticIds::new(codes_per_level.len(), codes)?, codes_per_level)?;
    let vocab = CodeVocab::new(CodeVocab::FIRST_CODE, codes_per_level);
    let histories = (0..users)
        .map(|_| {
            let items: Vec<u32> = (0..history_items).map(|_| rng.below(catalog.len()) as u32).collect();
            crate::batches::history_tokens(&catalog, &vocab, &items, history_items)
        })
        .collect();
    Ok((catalog, histories))
}

/// The model to measure: a folder in Hugging Face's layout, or random weights.
///
/// # Errors
/// As [`T5::load`] and [`T5::new`].
pub fn bench_model(dir: Option<&Path>, config: T5Config, seed: u64, device: &Device) -> Result<T5> {
    match dir {
        Some(dir) => T5::load(dir, device),
        None => T5::new(config, seed, device),
    }
}
