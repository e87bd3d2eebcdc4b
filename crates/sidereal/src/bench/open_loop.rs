//! Requests that come at random times, whoever is still waiting, and how long each waits.

use std::collections::HashSet;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use sidereal_core::{Error, ItemIndex};
use sidereal_inference::{Answer, Engine, Refusal, Request, Ticket};
use sidereal_nn::rng::Rng;

use crate::Result;

/// How many requests come, and how long.
pub(super) struct Load {
    pub(super) seconds: f64,
    pub(super) per_s: f64,
    /// Kinds of request that are told apart.
    pub(super) kinds: usize,
}

/// Latencies of the requests of one kind.
#[derive(Default)]
pub(super) struct Latencies {
    /// From a request's coming to its answer, so that waiting behind others counts. Ascending.
    pub(super) ms: Vec<f64>,
    /// Answers that are not what was asked for: too few items, one twice, or one that is not alive in the version that the
    /// answer names.
    pub(super) invalid: usize,
}

impl Latencies {
    /// What so large a share of the requests kept to.
    pub(super) fn at(&self, share: f64) -> f64 {
        let place = ((self.ms.len() as f64 * share).ceil() as usize).clamp(1, self.ms.len().max(1)) - 1;
        self.ms.get(place).copied().unwrap_or(0.0)
    }
}

/// # Errors
/// A load that is not between 0 and 1, or no time.
pub(super) fn check_load(load: f64, seconds: f64) -> Result<()> {
    if load > 0.0 && load < 1.0 && seconds > 0.0 {
        return Ok(());
    }
    let mend = "give --load between 0 and 1, and --seconds above 0";
    Err(Error::config("--load", "a queue that never empties has no latency", mend).into())
}

fn broken(what: impl Into<String>) -> Error {
    Error::input("bench", what, "give smaller sizes, or report it as a defect")
}

fn failed(refusal: Refusal) -> Error {
    broken(format!("a request was refused: {refusal}"))
}

/// What a request takes when it is asked alone, the mean of so many.
///
/// # Errors
/// A request that is refused.
pub(super) fn seconds_each(engine: &Engine, count: usize, mut next: impl FnMut() -> Request) -> Result<f64> {
    let mut ask = || engine.answer(next()).map(drop).map_err(failed);
    (0..8).try_for_each(|_| ask())?;
    let began = Instant::now();
    (0..count).try_for_each(|_| ask())?;
    Ok(began.elapsed().as_secs_f64() / count as f64)
}

impl Load {
    /// Asks at random times for a while; `next` gives a request and the number of its kind. The latencies of each kind.
    /// Answers are looked at as they come: one that is kept keeps its version.
    ///
    /// # Errors
    /// A request that is refused.
    pub(super) fn ask(
        &self,
        engine: &Engine,
        rng: &mut Rng,
        mut next: impl FnMut(&mut Rng) -> (usize, Request),
    ) -> Result<Vec<Latencies>> {
        let (began, end) = (Instant::now(), Duration::from_secs_f64(self.seconds));
        let (tickets, coming) = std::sync::mpsc::channel::<Asked>();
        std::thread::scope(|scope| {
            let looking = scope.spawn(move || looked_at(coming, self.kinds));
            let mut due = Duration::ZERO;
            while due < end {
                std::thread::sleep(due.saturating_sub(began.elapsed()));
                let (kind, request) = next(rng);
                let wanted = request.k;
                let ticket = engine.submit(request).map_err(failed)?;
                let sent = tickets.send(Asked { kind, wanted, ticket });
                sent.map_err(|_| broken("the thread of answers broke off"))?;
                // Times between requests of independent users.
                let apart = -(1.0 - rng.uniform()).ln() / self.per_s;
                due += Duration::from_secs_f64(apart);
            }
            drop(tickets);
            looking.join().map_err(|_| broken("the thread of answers broke off"))?
        })
    }
}

struct Asked {
    kind: usize,
    wanted: usize,
    ticket: Ticket,
}

fn looked_at(coming: Receiver<Asked>, kinds: usize) -> Result<Vec<Latencies>> {
    let mut found: Vec<Latencies> = std::iter::repeat_with(Latencies::default).take(kinds).collect();
    for Asked { kind, wanted, ticket } in coming {
        let answer = ticket.wait().map_err(failed)?;
        let Some(found) = found.get_mut(kind) else { continue };
        found.invalid += usize::from(!is_valid(&answer, wanted));
        found.ms.push((answer.waited + answer.computed).as_secs_f64() * 1e3);
    }
    found.iter_mut().for_each(|found| found.ms.sort_by(f64::total_cmp));
    Ok(found)
}

/// As many items as were asked for, each once, and all alive in the version that the answer names.
fn is_valid(answer: &Answer, wanted: usize) -> bool {
    let mut seen = HashSet::new();
    let good = |item: ItemIndex| answer.catalog.is_alive(item) && seen.insert(item);
    answer.items.len() == wanted && answer.items.iter().map(|scored| scored.item).all(good)
}
