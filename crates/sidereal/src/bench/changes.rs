//! What a stream of changes of the catalog costs those who ask meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sidereal_core::catalog::Change;
use sidereal_core::{Catalog, Error, ItemId, ItemIndex, SemanticIds};
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

/// Sizes of [`changes`].
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct ChangesWish {
    pub items: usize,
    pub beam: usize,
    /// Items that come or go in a second.
    pub rate: usize,
    /// Milliseconds between versions.
    pub every_ms: u64,
    /// Requests asked in a second, as a share of what the workers can answer.
    pub load: f64,
    pub workers: usize,
    pub seconds: f64,
    pub rounds: usize,
    pub merge_after: usize,
    pub seed: u64,
}

/// Items of a history, and items asked for.
const HISTORY: usize = 20;
const K: usize = 10;

/// Requests that come at random times to an engine that serves a model of the TIGER shape: while nothing changes, and while
/// items come and go; in turn, round after round. The latency of a request is from its coming to its answer, so that
/// waiting behind others counts. Every answer is checked against the version that it names.
///
/// # Errors
/// Sizes of 0, a load that is not between 0 and 1; whatever the device says.
pub fn changes(wish: &ChangesWish, device: DeviceChoice) -> Result<Value> {
    let sizes = [("--items", wish.items), ("--rate", wish.rate), ("--rounds", wish.rounds), ("--beam", wish.beam)];
    if let Some((key, _)) = sizes.iter().find(|(_, size)| *size == 0) {
        return Err(Error::config(*key, "0 of them measure nothing", "give 1 or more").into());
    }
    check_load(wish.load, wish.seconds)?;
    let (catalog, _) = bench_beam_input(wish.items, &[CODES; LEVELS], 1, HISTORY, wish.seed)?;
    let device = device.open()?;
    let materials = Materials::of_catalog(&catalog, &device);
    let ranker: Arc<dyn Ranker> = TigerConfig::default().build(&materials, wish.seed)?.ranker(&materials)?.into();
    let options = EngineOptions {
        workers: wish.workers,
        queue: 1 << 16,
        merge_after: wish.merge_after,
        ..EngineOptions::default()
    };
    let engine = Engine::new(&catalog, ranker, options)?;
    let mut rng = Rng::new(wish.seed, "bench changes");
    let capacity = wish.workers as f64 / seconds_each(&engine, 48, || request(wish, &mut rng))?;
    let mut stream = Stream::new(&catalog, wish);
    let (mut quiet, mut busy) = (Vec::new(), Vec::new());
    for _ in 0..wish.rounds {
        quiet.push(asked(&engine, wish, capacity, &mut rng)?);
        let stop = AtomicBool::new(false);
        let found = std::thread::scope(|scope| {
            let changing = scope.spawn(|| stream.run(&engine, wish, &stop));
            let found = asked(&engine, wish, capacity, &mut rng);
            stop.store(true, Ordering::Relaxed);
            changing.join().map_err(|_| broken("the thread of changes broke off"))??;
            found
        })?;
        busy.push(found);
    }
    let ratio = |share: f64| {
        median(busy.iter().zip(&quiet).map(|(busy, quiet)| busy.at(share) / quiet.at(share).max(1e-9)).collect())
    };
    let told = |rounds: &[Latencies]| {
        let at = |share: f64| median(rounds.iter().map(|round| round.at(share)).collect());
        json!({ "p50_ms": at(0.5), "p99_ms": at(0.99),
            "answers": rounds.iter().map(|round| round.ms.len()).sum::<usize>(),
            "invalid": rounds.iter().map(|round| round.invalid).sum::<usize>() })
    };
    let now = engine.served().catalog;
    Ok(json!({ "what": "changes", "machine": Machine::measure(), "items": wish.items, "beam": wish.beam,
        "workers": wish.workers, "load": wish.load, "requests_per_s": capacity * wish.load,
        "quiet": told(&quiet), "changing": told(&busy), "p50_ratio": ratio(0.5), "p99_ratio": ratio(0.99),
        "changes_per_s": stream.made as f64 / stream.took.as_secs_f64().max(1e-9), "changes": stream.made,
        "versions": stream.versions, "change_ms": stream.spent.as_secs_f64() * 1e3 / stream.versions.max(1) as f64,
        "merges": stream.merges, "catalog": now.version() }))
}

fn request(wish: &ChangesWish, rng: &mut Rng) -> Request {
    let history = (0..HISTORY).map(|_| rng.below(wish.items) as ItemIndex).collect();
    Request { history, k: K, beam: wish.beam.into(), ..Request::default() }
}

fn broken(what: &str) -> Error {
    Error::input("bench changes", what, "give smaller sizes, or report it as a defect")
}

/// Asks at random times for a while.
fn asked(engine: &Engine, wish: &ChangesWish, capacity: f64, rng: &mut Rng) -> Result<Latencies> {
    let load = Load { seconds: wish.seconds, per_s: capacity * wish.load, kinds: 1 };
    let mut found = load.ask(engine, rng, |rng| (0, request(wish, rng)))?;
    Ok(found.swap_remove(0))
}

/// Items that come and go.
struct Stream {
    /// Items of the first catalog that are still there, in the order in which they will go.
    to_go: Vec<ItemIndex>,
    rng: Rng,
    come: usize,
    made: usize,
    versions: usize,
    merges: usize,
    took: Duration,
    spent: Duration,
}

impl Stream {
    fn new(catalog: &Catalog, wish: &ChangesWish) -> Self {
        let mut rng = Rng::new(wish.seed, "bench changes stream");
        let mut to_go: Vec<ItemIndex> = (0..catalog.len() as ItemIndex).collect();
        (1..to_go.len()).rev().for_each(|at| to_go.swap(at, rng.below(at + 1)));
        Self { to_go, rng, come: 0, made: 0, versions: 0, merges: 0, took: Duration::ZERO, spent: Duration::ZERO }
    }

    /// Half of the changes bring an item, half take one away; what has come due since the last version makes the next.
    fn run(&mut self, engine: &Engine, wish: &ChangesWish, stop: &AtomicBool) -> Result<()> {
        let (began, mut done) = (Instant::now(), 0);
        let mut base = engine.served().catalog.changes_since_base();
        while !stop.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(wish.every_ms));
            let due = (began.elapsed().as_secs_f64() * wish.rate as f64) as usize - done;
            let left = self.to_go.len().min(due / 2);
            let gone = self.to_go.split_off(self.to_go.len() - left);
            let ids: Vec<ItemId> = (0..due - left).map(|at| ItemId::from(format!("come {}", self.come + at))).collect();
            let codes = || (0..LEVELS).map(|_| self.rng.below(CODES as usize) as u16).collect();
            let sids: Vec<SemanticIds> = std::iter::repeat_with(codes)
                .take(ids.len())
                .map(|row| SemanticIds::new(LEVELS, row))
                .collect::<std::result::Result<_, _>>()?;
            let came = ids.iter().zip(&sids);
            let came = came.map(|(id, sids)| Change {
                add: std::slice::from_ref(id),
                add_ids: Some(sids),
                ..Change::default()
            });
            let went = gone.iter().map(|item| Change { remove: std::slice::from_ref(item), ..Change::default() });
            let changes: Vec<Change<'_>> = came.chain(went).collect();
            let asked = Instant::now();
            let (catalog, results) = engine.change_each(&changes)?;
            self.spent += asked.elapsed();
            results.into_iter().collect::<std::result::Result<Vec<()>, _>>()?;
            self.merges += usize::from(catalog.changes_since_base() < base);
            base = catalog.changes_since_base();
            self.come += ids.len();
            self.versions += 1;
            self.made += due;
            done += due;
        }
        self.took += began.elapsed();
        Ok(())
    }
}
