//! Measurements of this crate's own work, on inputs that another program can be given.
//!
//! Time is wall time and, by the caller's clock, processor time of the whole process: on a busy machine only the second
//! is the program's own.

use std::time::Instant;

use serde::Serialize;

use sidereal_core::{Embeddings, Error, NoProgress};
use sidereal_nn::kernels::Precision;
use sidereal_nn::rng::Rng;

use crate::Result;
use crate::algebra::bf16::{Bf16Columns, Bf16Rows, PANEL};
use crate::codebooks::screen::Kernel;
use crate::encode::encode_prepared;
use crate::quantizers::Training;
use crate::quantizers::rq_vae::{Place, Plan, RqVaeConfig, Steps};
use crate::training_items::TrainingItems;

/// Processor time of this process so far, in seconds, where the system tells.
pub type CpuClock<'a> = &'a dyn Fn() -> Option<f64>;

/// Sizes of [`rq_vae`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RqVaeWish {
    /// Items encoded in a run.
    pub items: usize,
    /// D.
    pub width: usize,
    /// Items of a training step.
    pub batch: usize,
    /// Training steps of a run.
    pub steps: usize,
    /// Measured runs, after one that is not measured.
    pub runs: usize,
    /// Of vectors, net and batches.
    pub seed: u64,
    /// Of the nets' products.
    pub precision: Precision,
}

impl Default for RqVaeWish {
    /// 100,000 items of width 768, batches of 1024.
    fn default() -> Self {
        Self { items: 100_000, width: 768, batch: 1024, steps: 40, runs: 3, seed: 0, precision: Precision::F32 }
    }
}

/// Speed of one kind of work.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Speed {
    /// Wall time of each run.
    pub wall_s: Vec<f64>,
    /// Processor time of each run, all threads; empty where the system does not tell.
    pub cpu_s: Vec<f64>,
    /// Rows a second of wall time, in the median run.
    pub rows_per_s: f64,
    /// Rows a second of processor time, in the median run; null where the system does not tell.
    pub rows_per_cpu_s: Option<f64>,
    /// Billions of additions and multiplications in the products of matrices, a second of processor time.
    pub gflop_per_cpu_s: Option<f64>,
}

/// What [`rq_vae`] found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RqVaeFigures {
    /// Items encoded in a run.
    pub items: usize,
    /// D.
    pub width: usize,
    /// Widths of the encoder's layers behind D.
    pub layers: Vec<usize>,
    /// K of every level.
    pub codes: Vec<u32>,
    /// Items of a training step.
    pub batch: usize,
    /// Training steps of a run.
    pub steps: usize,
    /// Threads that the work could use.
    pub threads: usize,
    /// Of the nets' products.
    pub precision: &'static str,
    /// Vectors to codes.
    pub encode: Speed,
    /// Training steps: forward, backward, clipping, optimizer.
    pub train: Speed,
}

/// Encodes and trains with RQ-VAE of TIGER's shape (D-512-256-128-32, three levels of 256), on given vectors, whose sizes
/// then count, or on random ones.
///
/// # Errors
/// Sizes of 0; whatever the device says.
pub fn rq_vae(wish: &RqVaeWish, given: Option<Embeddings>, clock: CpuClock<'_>) -> Result<RqVaeFigures> {
    let sizes = given.as_ref().map_or((wish.items, wish.width), |vectors| (vectors.rows(), vectors.width()));
    let wish = &RqVaeWish { items: sizes.0, width: sizes.1, ..wish.clone() };
    for (key, value) in [
        ("items", wish.items),
        ("width", wish.width),
        ("batch", wish.batch),
        ("steps", wish.steps),
        ("runs", wish.runs),
    ] {
        if value == 0 {
            return Err(Error::config(key, "0 measures nothing", "give 1 or more").into());
        }
    }
    let config = RqVaeConfig { batch: wish.batch, precision: wish.precision, ..RqVaeConfig::default() };
    let layers: Vec<usize> = config.hidden.iter().copied().chain([config.latent]).collect();
    let codes = config.codes.clone();
    let vectors = match given {
        Some(vectors) => vectors,
        None => {
            let mut rng = Rng::new(wish.seed, "bench vectors");
            let values = (0..wish.items * wish.width).map(|_| rng.normal() as f32).collect();
            Embeddings::new(wish.items, wish.width, values)?
        }
    };
    let items = TrainingItems::new(&vectors);
    let training = Training::new(wish.seed, &NoProgress);
    let plan = Plan::rq_vae(&config);
    let mut steps = Steps::new(&plan, &items, &training)?;
    steps.start()?;
    let quantizer = steps.to_quantizer()?;
    let encode = measure(wish.runs, wish.items, clock, || encode_prepared(&quantizer, &vectors).map(drop))?;
    let mut rng = Rng::new(wish.seed, "bench batches");
    let train = measure(wish.runs, wish.batch * wish.steps, clock, || {
        for batch in 0..wish.steps {
            let items: Vec<usize> = (0..wish.batch).map(|_| rng.below(wish.items)).collect();
            steps.step(&items, 1, Place { epoch: 0, batch })?;
        }
        Ok::<(), crate::Error>(())
    })?;
    let products: usize = [wish.width].iter().chain(&layers).zip(&layers).map(|(i, o)| i * o).sum();
    let search: usize = codes.iter().map(|&k| k as usize * config.latent).sum();
    // Backward has two products for each of forward's, but the first layer's inputs need no gradient.
    let trained = 6 * products - wish.width * layers[0] + search;
    let flop = |speed: Speed, per_row: usize| Speed {
        gflop_per_cpu_s: speed.rows_per_cpu_s.map(|rows| rows * 2.0 * per_row as f64 * 1e-9),
        ..speed
    };
    Ok(RqVaeFigures {
        items: wish.items,
        width: wish.width,
        layers,
        codes,
        batch: wish.batch,
        steps: wish.steps,
        threads: rayon::current_num_threads(),
        precision: wish.precision.name(),
        encode: flop(encode, products + search),
        train: flop(train, trained),
    })
}

/// What residual k-means screens with on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ScreenKernel {
    /// `bf16` or `f32`.
    pub kernel: &'static str,
    /// Its limit on one core, 10^9 operations a second, on matrices that stay in the first-level cache; nothing in f32,
    /// where the products are gemm's.
    pub gflop_per_s: Option<f64>,
}

/// Names the kernel for vectors of a width, and measures it on the calling thread.
pub fn screen_kernel(width: usize) -> ScreenKernel {
    if Kernel::for_width(width) == Kernel::F32 {
        return ScreenKernel { kernel: "f32", gflop_per_s: None };
    }
    let (count, width, products) = (8, 256, 2000);
    let columns = Bf16Columns::pack(&vec![0.25; PANEL * width], width);
    let (mut rows, mut out) = (Bf16Rows::default(), vec![0.0; count * PANEL]);
    rows.round(&vec![0.5; count * width], &vec![0.0; width], |_| ());
    let seconds = (0..5).map(|_| {
        let began = Instant::now();
        for _ in 0..products {
            columns.product(&rows, count, std::hint::black_box(&mut out));
        }
        began.elapsed().as_secs_f64()
    });
    let best = seconds.fold(f64::INFINITY, f64::min);
    ScreenKernel { kernel: "bf16", gflop_per_s: Some((2 * count * PANEL * width * products) as f64 / best * 1e-9) }
}

/// Runs `work`, which handles `rows` rows, once unmeasured and `runs` times measured.
fn measure<E>(
    runs: usize,
    rows: usize,
    clock: CpuClock<'_>,
    mut work: impl FnMut() -> std::result::Result<(), E>,
) -> std::result::Result<Speed, E> {
    work()?;
    let (mut wall_s, mut cpu_s) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        let (wall, cpu) = (Instant::now(), clock());
        work()?;
        wall_s.push(wall.elapsed().as_secs_f64());
        if let (Some(before), Some(after)) = (cpu, clock()) {
            cpu_s.push(after - before);
        }
    }
    let rows = rows as f64;
    let rows_per_s = rows / median(&wall_s).unwrap_or(f64::NAN);
    let rows_per_cpu_s = median(&cpu_s).map(|seconds| rows / seconds);
    Ok(Speed { wall_s, cpu_s, rows_per_s, rows_per_cpu_s, gflop_per_cpu_s: None })
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len().checked_sub(1)? / 2).copied()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_measurement_names_its_sizes_and_refuses_none() {
        let wish = RqVaeWish { items: 40, width: 6, batch: 8, steps: 1, runs: 1, seed: 1, ..RqVaeWish::default() };
        let found = rq_vae(&wish, None, &|| None).unwrap();
        assert_eq!((found.items, found.layers.as_slice()), (40, &[512, 256, 128, 32][..]));
        assert!(found.encode.rows_per_s > 0.0 && found.train.rows_per_s > 0.0);
        assert_eq!(found.train.rows_per_cpu_s, None);
        let error = rq_vae(&RqVaeWish { runs: 0, ..wish.clone() }, None, &|| None).unwrap_err().to_string();
        assert!(error.contains("runs"), "{error}");
        let given = Embeddings::new(9, 5, (0..45).map(|v| (v % 7) as f32).collect()).unwrap();
        let found = rq_vae(&wish, Some(given), &|| None).unwrap();
        assert_eq!((found.items, found.width), (9, 5));
    }
}
