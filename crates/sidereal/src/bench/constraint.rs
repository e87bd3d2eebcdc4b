//! What the catalog's constraint costs a beam search of the TIGER shape.

use std::time::Instant;

use serde_json::{Value, json};
use sidereal_core::{CodeVocab, Error, LeafFilter};
use sidereal_generator::ScoreNorm;
use sidereal_generator::beam::{BeamOptions, Request, Searcher};
use sidereal_generator::bench::{bench_beam_input, bench_model, free_search, process_cpu_s};
use sidereal_generator::models::tiger::TigerConfig;
use sidereal_nn::device::DeviceChoice;
use sidereal_nn::kernels::Precision;

use crate::Result;
use crate::bench::{Machine, median};

/// Sizes of [`constraint`].
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct ConstraintWish {
    pub ids: usize,
    pub levels: usize,
    pub codes: u32,
    pub beam: usize,
    pub users: usize,
    pub batch: usize,
    pub rounds: usize,
    pub precision: Precision,
    pub seed: u64,
}

/// Items of a history.
const HISTORY: usize = 20;

/// One model, the same histories and beams: with the trie, and with every code allowed; in turn, batch by batch, round
/// after round. `ratio` is that of the medians of a batch's wall time, `interval` holds the middle 95 of 100 ratios of
/// one batch with and without.
///
/// # Errors
/// Sizes of 0; whatever the device says.
pub fn constraint(wish: &ConstraintWish, device: DeviceChoice) -> Result<Value> {
    for (key, size) in [
        ("--ids", wish.ids),
        ("--users", wish.users),
        ("--rounds", wish.rounds),
        ("--beam", wish.beam),
        ("--batch", wish.batch),
    ] {
        if size == 0 {
            return Err(Error::config(key, "0 of them measure nothing", "give 1 or more").into());
        }
    }
    let codes = vec![wish.codes; wish.levels];
    let (catalog, histories) = bench_beam_input(wish.ids, &codes, wish.users, HISTORY, wish.seed)?;
    let vocab = CodeVocab::new(CodeVocab::FIRST_CODE, catalog.codes_per_level());
    let model = bench_model(None, TigerConfig::default().t5(&vocab)?, wish.seed, &device.open()?)?;
    let searcher = Searcher::new(model.inference(&vocab, wish.precision)?);
    let filter = LeafFilter::allow_all();
    let options = BeamOptions::new(wish.beam, ScoreNorm::Level);
    let timed = |work: &dyn Fn() -> Result<()>| -> Result<[f64; 2]> {
        let (wall, cpu) = (Instant::now(), process_cpu_s().unwrap_or_default());
        work()?;
        Ok([wall.elapsed().as_secs_f64() * 1e3, (process_cpu_s().unwrap_or_default() - cpu) * 1e3])
    };
    let (mut on, mut off) = (Vec::new(), Vec::new());
    for round in 0..=wish.rounds {
        for (at, histories) in histories.chunks(wish.batch).enumerate() {
            let requests: Vec<Request<'_>> =
                histories.iter().map(|history| Request { history, filter: &filter }).collect();
            let histories: Vec<&[u32]> = histories.iter().map(Vec::as_slice).collect();
            let with = || searcher.search(&catalog, &requests, &options).map(drop);
            let without = || free_search(&searcher, &catalog, &histories, &options).map(drop);
            // Who goes first changes with every request.
            let (first, second): (&dyn Fn() -> Result<()>, &dyn Fn() -> Result<()>) =
                if (round + at) % 2 == 0 { (&with, &without) } else { (&without, &with) };
            let times = [timed(first)?, timed(second)?];
            let [with, without] = if (round + at) % 2 == 0 { times } else { [times[1], times[0]] };
            // The first round warms up.
            if round > 0 {
                on.push(with);
                off.push(without);
            }
        }
    }
    let of = |times: &[[f64; 2]], which: usize| times.iter().map(|time| time[which]).collect::<Vec<f64>>();
    let (on_ms, off_ms) = (median(of(&on, 0)), median(of(&off, 0)));
    let mut ratios: Vec<f64> = on.iter().zip(&off).map(|(on, off)| on[0] / off[0].max(1e-9)).collect();
    ratios.sort_by(f64::total_cmp);
    let share = |share: f64| ratios[((ratios.len() - 1) as f64 * share) as usize];
    Ok(json!({ "what": "constraint", "machine": Machine::measure(), "ids": catalog.leaves(), "levels": wish.levels,
        "codes": wish.codes, "beam": wish.beam, "precision": wish.precision, "batch": wish.batch, "batches": on.len(),
        "on_ms": on_ms, "off_ms": off_ms, "ratio": on_ms / off_ms, "interval": [share(0.025), share(0.975)],
        "cpu_ratio": median(of(&on, 1)) / median(of(&off, 1)).max(1e-9) }))
}
