//! What a device makes of the TIGER shape: agreement with the CPU, latency and throughput of the constrained search, the
//! constraint's price, training.

use candle_core::Device;
use serde_json::{Value, json};
use sidereal_core::{CodeVocab, Error};
use sidereal_generator::bench::{BeamBench, TrainInput, bench_beam, bench_beam_input, bench_model, bench_train_step};
use sidereal_generator::models::t5::T5;
use sidereal_generator::models::tiger::TigerConfig;
use sidereal_nn::device::DeviceChoice;
use sidereal_nn::kernels::Precision;

use super::{CODES, ConstraintWish, LEVELS, Machine, constraint};
use crate::Result;

/// Sizes of [`device`].
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct DeviceWish {
    pub items: usize,
    pub beam: usize,
    pub batches: Vec<usize>,
    pub users: usize,
    pub runs: usize,
    pub precisions: Vec<Precision>,
    pub constraint_ids: Vec<usize>,
    pub constraint_levels: usize,
    pub train_batches: Vec<usize>,
    pub steps: usize,
    pub seed: u64,
}

/// Tokens of a history, and items of it.
const HISTORY_TOKENS: usize = 80;
const HISTORY_ITEMS: usize = 20;

/// Measures a device and holds it against the CPU. Agreement is the share of the CPU's ten best items that the device has
/// among its own ten, f32 against each precision; `loss_curve` has the losses of the same steps on both, without dropout.
///
/// # Errors
/// Sizes of 0; whatever the device says.
pub fn device(wish: &DeviceWish, device: DeviceChoice) -> Result<Value> {
    let numbers = [("--items", wish.items), ("--users", wish.users), ("--runs", wish.runs), ("--steps", wish.steps)];
    let lists = [("--batches", &wish.batches), ("--constraint-ids", &wish.constraint_ids)];
    let zeros = numbers.into_iter().chain(lists.iter().flat_map(|(key, list)| list.iter().map(|&size| (*key, size))));
    for (key, size) in zeros {
        if size == 0 {
            return Err(Error::config(key, "0 of them measure nothing", "give 1 or more").into());
        }
    }
    let opened = device.open()?;
    let (catalog, histories) = bench_beam_input(wish.items, &[CODES; LEVELS], wish.users, HISTORY_ITEMS, wish.seed)?;
    let vocab = CodeVocab::new(CodeVocab::FIRST_CODE, catalog.codes_per_level());
    let model = |device: &Device| -> Result<T5> {
        let config = TigerConfig { dropout: 0.0, ..TigerConfig::default() };
        bench_model(None, config.t5(&vocab)?, wish.seed, device)
    };
    let (on_cpu, on_device) = (model(&Device::Cpu)?, model(&opened)?);
    let reference = bench_beam(&on_cpu, &catalog, &histories, wish.beam, 8, 1, Precision::F32)?;
    let (mut agreement, mut beams) = (Vec::new(), Vec::new());
    for &precision in &wish.precisions {
        for (at, &batch) in wish.batches.iter().enumerate() {
            let found = bench_beam(&on_device, &catalog, &histories, wish.beam, batch, wish.runs, precision)?;
            if at == 0 {
                agreement.push(agree(&found, &reference));
            }
            beams.push(json!({ "precision": precision, "batch": batch, "latency_ms": found.latency_ms,
                "requests_per_s": found.users_per_s }));
        }
    }
    let mut constraints = Vec::new();
    for &ids in &wish.constraint_ids {
        for &batch in &wish.batches {
            let wish = ConstraintWish {
                ids,
                levels: wish.constraint_levels,
                codes: CODES,
                beam: wish.beam,
                users: (4 * batch).min(wish.users.max(batch)),
                batch,
                rounds: wish.runs,
                precision: Precision::F32,
                seed: wish.seed,
            };
            let mut found = constraint(&wish, device)?;
            found.as_object_mut().map(|found| found.remove("machine"));
            constraints.push(found);
        }
    }
    let codes_in_vocab = (vocab.size() - CodeVocab::FIRST_CODE) / LEVELS as u32;
    let mut training = Vec::new();
    for &batch in &wish.train_batches {
        let input = TrainInput::random(batch * 4, HISTORY_TOKENS, LEVELS, codes_in_vocab, wish.seed);
        for precision in [Precision::F32, Precision::Bf16] {
            let model = model(&opened)?;
            let found = bench_train_step(&model, &input, batch, wish.steps, wish.runs, wish.seed, precision)?;
            training.push(json!({ "batch": batch, "precision": precision.name(),
                "samples_per_s": found.samples_per_s, "s_per_step": found.s_per_step }));
        }
    }
    let input = TrainInput::random(64, HISTORY_TOKENS, LEVELS, codes_in_vocab, wish.seed);
    let curve = |model: &T5| -> Result<Vec<f32>> {
        Ok(bench_train_step(model, &input, 16, wish.steps, 1, wish.seed, Precision::F32)?.losses)
    };
    let (ours, theirs) = (curve(&on_device)?, curve(&on_cpu)?);
    let apart = ours.iter().zip(&theirs).map(|(a, b)| f64::from((a - b).abs() / b.abs().max(1e-6)));
    Ok(json!({ "what": "device", "machine": Machine::measure(), "device": device.to_string(), "items": catalog.len(),
        "beam_width": wish.beam, "history_tokens": HISTORY_TOKENS, "agreement_with_cpu": agreement, "beam": beams,
        "constraint": constraints, "train": training, "loss_curve": { "device": ours, "cpu": theirs,
            "most_relative_difference": apart.fold(0.0, f64::max) } }))
}

/// How much of the reference's ten best comes back.
fn agree(found: &BeamBench, reference: &BeamBench) -> Value {
    let (mut shared, mut all, mut apart) = (0usize, 0usize, 0f32);
    for (ours, theirs) in found.sequences.iter().zip(&reference.sequences) {
        let ten = &ours[..ours.len().min(10)];
        all += theirs.len().min(10);
        shared += theirs.iter().take(10).filter(|sequence| ten.contains(sequence)).count();
    }
    for (ours, theirs) in found.scores.iter().zip(&reference.scores) {
        apart = ours.iter().zip(theirs).take(10).fold(apart, |most, (a, b)| most.max((a - b).abs()));
    }
    json!({ "precision": found.precision, "users": found.users, "shared_of_ten_best": shared as f64 / all.max(1) as f64,
        "most_score_difference": apart })
}
