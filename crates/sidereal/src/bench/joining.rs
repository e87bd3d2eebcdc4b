//! What it is worth to short requests that they may overtake long ones, and what it costs these.

use std::sync::Arc;

use serde_json::{Value, json};
use sidereal_core::{Error, ItemIndex};
use sidereal_generator::bench::bench_beam_input;
use sidereal_generator::models::ModelConfig;
use sidereal_generator::models::tiger::TigerConfig;
use sidereal_generator::{Materials, Ranker};
use sidereal_inference::{Engine, EngineOptions, Request};
use sidereal_nn::device::DeviceChoice;
use sidereal_nn::rng::Rng;

use super::open_loop::{Latencies, Load, check_load, seconds_each};
use super::{CODES, LEVELS, Machine, median};
use crate::Result;

/// Sizes of [`joining`].
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct JoiningWish {
    pub items: usize,
    /// Items of the history, and beam width, of a short request.
    pub short: (usize, usize),
    /// Those of a long one.
    pub long: (usize, usize),
    /// Share of long requests.
    pub long_share: f64,
    /// Requests asked in a second, as a share of what the workers can answer.
    pub load: f64,
    pub workers: usize,
    pub batch: usize,
    pub seconds: f64,
    pub rounds: usize,
    pub seed: u64,
}

/// Items asked for.
const K: usize = 10;
/// The kinds of request.
const KINDS: [&str; 2] = ["short", "long"];

impl JoiningWish {
    fn request(&self, rng: &mut Rng) -> (usize, Request) {
        let kind = usize::from(rng.uniform() < self.long_share);
        let (items, beam) = if kind == 1 { self.long } else { self.short };
        let history = (0..items).map(|_| rng.below(self.items) as ItemIndex).collect();
        (kind, Request { history, k: K, beam: beam.into(), ..Request::default() })
    }
}

/// Short and long requests that come at random times to an engine that serves a model of the TIGER shape: where requests may
/// overtake others and where they may not, in turn, round after round, the same requests at the same times.
///
/// # Errors
/// Sizes of 0, a load that is not between 0 and 1; whatever the device says.
pub fn joining(wish: &JoiningWish, device: DeviceChoice) -> Result<Value> {
    let beams = [("--short-beam", wish.short.1), ("--long-beam", wish.long.1)];
    let sizes = [("--items", wish.items), ("--rounds", wish.rounds), ("--workers", wish.workers)];
    if let Some((key, _)) = sizes.iter().chain(&beams).find(|(_, size)| *size == 0) {
        return Err(Error::config(*key, "0 of them measure nothing", "give 1 or more").into());
    }
    check_load(wish.load, wish.seconds)?;
    let longest = wish.short.0.max(wish.long.0).max(1);
    let (catalog, _) = bench_beam_input(wish.items, &[CODES; LEVELS], 1, longest, wish.seed)?;
    let device = device.open()?;
    let materials = Materials::of_catalog(&catalog, &device);
    let config = TigerConfig { max_history: longest, ..TigerConfig::default() };
    let ranker: Arc<dyn Ranker> = config.build(&materials, wish.seed)?.ranker(&materials)?.into();
    let engine = |joining| {
        let options = EngineOptions {
            workers: wish.workers,
            batch: wish.batch,
            joining,
            queue: 1 << 16,
            ..EngineOptions::default()
        };
        Engine::new(&catalog, Arc::clone(&ranker), options)
    };
    let engines = [engine(true)?, engine(false)?];
    let mut rng = Rng::new(wish.seed, "bench joining");
    let each = seconds_each(&engines[1], 96, || wish.request(&mut rng).1)?;
    let load = Load { seconds: wish.seconds, per_s: wish.load * wish.workers as f64 / each, kinds: KINDS.len() };
    let mut found: [Vec<Vec<Latencies>>; 2] = [Vec::new(), Vec::new()];
    for round in 0..wish.rounds {
        // Which is first takes turns as well.
        for way in [round % 2, 1 - round % 2] {
            let mut rng = Rng::new(wish.seed.wrapping_add(round as u64), "bench joining requests");
            found[way].push(load.ask(&engines[way], &mut rng, |rng| wish.request(rng))?);
        }
    }
    let [on, off] = &found;
    let told = |rounds: &[Vec<Latencies>], kind: usize| {
        let at = |share: f64| median(rounds.iter().map(|round| round[kind].at(share)).collect());
        json!({ "p50_ms": at(0.5), "p99_ms": at(0.99),
            "answers": rounds.iter().map(|round| round[kind].ms.len()).sum::<usize>(),
            "invalid": rounds.iter().map(|round| round[kind].invalid).sum::<usize>() })
    };
    let ratio = |kind: usize, share: f64| {
        let rounds = on.iter().zip(off);
        median(rounds.map(|(on, off)| on[kind].at(share) / off[kind].at(share).max(1e-9)).collect())
    };
    let kinds = KINDS.iter().enumerate().map(|(kind, name)| {
        let value = json!({ "on": told(on, kind), "off": told(off, kind), "p50_ratio": ratio(kind, 0.5),
            "p99_ratio": ratio(kind, 0.99) });
        ((*name).to_owned(), value)
    });
    let stats = engines.each_ref().map(Engine::stats);
    let mut figures = json!({ "what": "joining", "machine": Machine::measure(), "items": wish.items,
        "short_history": wish.short.0, "short_beam": wish.short.1, "long_history": wish.long.0,
        "long_beam": wish.long.1, "long_share": wish.long_share, "workers": wish.workers, "batch": wish.batch,
        "load": wish.load, "requests_per_s": load.per_s, "request_ms": each * 1e3, "joined": stats[0].joined,
        "batches_on": stats[0].batches, "batches_off": stats[1].batches });
    if let Some(figures) = figures.as_object_mut() {
        figures.extend(kinds);
    }
    Ok(figures)
}
