//! Workers that answer.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sidereal_core::catalog::Change;
use sidereal_core::{Catalog, Error as CoreError, ItemIndex, LeafFilter};
use sidereal_generator::{Error, Question, Ranker, Ranking, Search};

use crate::meter::{Meter, Stats};
use crate::queue::{Queue, Taken, Waiting};
use crate::request::{Answer, Refusal, Request, Ticket};
use crate::serving::{Served, Serving};

/// How an engine works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineOptions {
    /// Workers of one thread each; 0: one a core.
    pub workers: usize,
    /// Requests that a worker answers together at most.
    pub batch: usize,
    /// Requests that may wait.
    pub queue: usize,
    /// Whether a history with items that the catalog does not know is refused; else they are left out and counted.
    pub refuse_unknown: bool,
    /// Changes after which the catalog is built anew in the background; 0: never.
    pub merge_after: usize,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self { workers: 0, batch: 8, queue: 1024, refuse_unknown: false, merge_after: 10_000 }
    }
}

/// A ranker that answers many at once from a catalog that changes.
#[derive(Debug)]
pub struct Engine {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

/// What workers and callers share.
#[derive(Debug)]
struct Shared {
    options: EngineOptions,
    queue: Queue,
    serving: Serving,
    meter: Meter,
    merging: AtomicBool,
}

impl Engine {
    /// Starts the workers.
    ///
    /// # Errors
    /// A ranker that cannot answer from the catalog; 0 requests a batch or in the queue; threads that do not start.
    pub fn new(catalog: &Catalog, ranker: Arc<dyn Ranker>, options: EngineOptions) -> Result<Self, Error> {
        for (key, value) in [("batch", options.batch), ("queue", options.queue)] {
            if value == 0 {
                let problem = format!("{key} is 0, so nothing could be answered");
                return Err(CoreError::config(format!("engine.{key}"), problem, "give 1 or more").into());
            }
        }
        let serving = Serving::new(catalog, ranker)?;
        let queue = Queue::new(options.queue);
        let shared = Shared { options, queue, serving, meter: Meter::default(), merging: AtomicBool::new(false) };
        let mut engine = Self { shared: Arc::new(shared), workers: Vec::new() };
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let workers = if options.workers == 0 { cores() } else { options.workers };
        for number in 0..workers {
            let failed = |e: String| {
                let mend = "give the engine fewer workers, or the process more threads";
                Error::from(CoreError::config("engine.workers", format!("worker {number} did not start: {e}"), mend))
            };
            // What the ranker does in parallel stays on the worker's one thread.
            let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().map_err(|e| failed(e.to_string()))?;
            let shared = Arc::clone(&engine.shared);
            let named = std::thread::Builder::new().name(format!("answers {number}"));
            let thread = named.spawn(move || pool.install(|| shared.work())).map_err(|e| failed(e.to_string()))?;
            engine.workers.push(thread);
        }
        Ok(engine)
    }

    /// Puts a request in the queue.
    ///
    /// # Errors
    /// [`Refusal::Busy`]; [`Refusal::Bad`] for a request that asks for nothing, or for beam widths of another number of
    /// levels.
    pub fn submit(&self, request: Request) -> Result<Ticket, Refusal> {
        if request.k == 0 {
            return Err(CoreError::config("k", "0 items are wanted", "ask for 1 or more").into());
        }
        let (reply, answer) = sync_channel(1);
        let cancelled = Arc::new(AtomicBool::new(false));
        let search = request.search();
        search.check(self.served().catalog.levels())?;
        let waiting = Waiting { request, search, since: Instant::now(), reply, cancelled: Arc::clone(&cancelled) };
        self.shared.queue.push(waiting)?;
        Ok(Ticket { answer, cancelled })
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// Any [`Refusal`].
    pub fn answer(&self, request: Request) -> Result<Answer, Refusal> {
        self.submit(request)?.wait()
    }

    /// What requests that begin now are answered from.
    pub fn served(&self) -> Served {
        self.shared.serving.now()
    }

    /// Adds and removes items, all or none of them; requests that have begun end with the catalog that they began with.
    ///
    /// # Errors
    /// As [`sidereal_core::catalog::LiveCatalog::apply`]; a ranker that cannot follow: then nothing changes.
    pub fn change(&self, change: &Change<'_>) -> Result<Arc<Catalog>, Error> {
        let (catalog, results) = self.change_each(std::slice::from_ref(change))?;
        results.into_iter().collect::<sidereal_core::Result<()>>()?;
        Ok(catalog)
    }

    /// Changes one after another, each as by [`Engine::change`], but as one version: many small changes cost what one does.
    /// What each came to is at its place; one that cannot be made does not touch the others.
    ///
    /// # Errors
    /// A ranker that cannot follow: then nothing changes.
    pub fn change_each(&self, changes: &[Change<'_>]) -> Result<(Arc<Catalog>, Vec<sidereal_core::Result<()>>), Error> {
        let (catalog, results) = self.shared.serving.change_each(changes)?;
        if results.iter().any(Result::is_ok) {
            self.shared.meter.swap();
            self.merge_if_due(&catalog);
        }
        Ok((catalog, results))
    }

    /// Serves another catalog from now on, by the same model or by the one that comes along.
    ///
    /// # Errors
    /// A catalog whose codes the model does not write; a model that cannot answer from it. Nothing changes then.
    pub fn swap(&self, catalog: &Catalog, ranker: Option<Arc<dyn Ranker>>) -> Result<Arc<Catalog>, Error> {
        let catalog = self.shared.serving.swap(catalog, ranker)?;
        self.shared.meter.swap();
        Ok(catalog)
    }

    /// Goes back to a version that served before.
    ///
    /// # Errors
    /// A version that is not kept.
    pub fn roll_back(&self, version: &str) -> Result<Arc<Catalog>, Error> {
        let catalog = self.shared.serving.roll_back(version)?;
        self.shared.meter.swap();
        Ok(catalog)
    }

    /// What was done so far.
    pub fn stats(&self) -> Stats {
        self.shared.meter.stats(self.shared.queue.len())
    }

    fn merge_if_due(&self, catalog: &Catalog) {
        let after = self.shared.options.merge_after;
        let due = after > 0 && catalog.changes_since_base() >= after;
        if !due || self.shared.merging.swap(true, Ordering::Relaxed) {
            return;
        }
        let shared = Arc::clone(&self.shared);
        // What a merge cannot do (the catalog was swapped meanwhile) the next change tries again.
        std::thread::spawn(move || {
            if shared.serving.merge().is_ok() {
                shared.meter.swap();
            }
            shared.merging.store(false, Ordering::Relaxed);
        });
    }
}

impl Drop for Engine {
    /// Requests that wait are told; those that a worker has are answered first.
    fn drop(&mut self) {
        self.shared.queue.stop().into_iter().for_each(|waiting| waiting.tell(Err(Refusal::Stopped)));
        self.workers.drain(..).for_each(|worker| drop(worker.join()));
    }
}

/// A request as the ranker is asked it.
struct Prepared {
    history: Vec<ItemIndex>,
    filter: LeafFilter,
    shown: Vec<ItemIndex>,
    unknown: usize,
}

impl Shared {
    fn work(&self) {
        while let Some(Taken { batch, given_up }) = self.queue.take(self.options.batch) {
            for (waiting, refusal) in given_up {
                self.refuse(waiting, refusal);
            }
            if !batch.is_empty() {
                self.answer(batch);
            }
        }
    }

    fn refuse(&self, waiting: Waiting, refusal: Refusal) {
        self.meter.gave_up();
        waiting.tell(Err(refusal));
    }

    fn answer(&self, batch: Vec<Waiting>) {
        let (served, began) = (self.serving.now(), Instant::now());
        let mut asked = Vec::with_capacity(batch.len());
        for waiting in batch {
            match self.prepared(&served.catalog, &waiting.request) {
                Ok(prepared) => asked.push((waiting, prepared)),
                Err(error) => self.refuse(waiting, error.into()),
            }
        }
        if !asked.is_empty() {
            self.meter.batch();
            self.rank(&served, asked, began);
        }
    }

    fn prepared(&self, catalog: &Catalog, request: &Request) -> sidereal_core::Result<Prepared> {
        let known = |item: &ItemIndex| (*item as usize) < catalog.len();
        let history: Vec<ItemIndex> = request.history.iter().copied().filter(known).collect();
        let unknown = request.history.len() - history.len();
        if unknown > 0 && self.options.refuse_unknown {
            let problem = format!("{unknown} of {} items are not in the catalog", request.history.len());
            return Err(CoreError::input("history", problem, "leave them out, or let the engine do it"));
        }
        let seen: &[ItemIndex] = if request.include_seen { &[] } else { &history };
        let shown = request.shown_in(catalog);
        let denied = request.deny.iter().filter(|item| known(item));
        let deny: Vec<ItemIndex> = denied.chain(seen).chain(&shown).copied().collect();
        let filter = match &request.allowed {
            Some(allowed) => LeafFilter::new(catalog, allowed, &deny)?,
            None => LeafFilter::deny_items(catalog, &deny),
        };
        Ok(Prepared { history, filter, shown, unknown })
    }

    /// Asks the ranker; a batch that it cannot answer is halved, so that a request that cannot be answered, or a device
    /// that is too small for all at once, takes nobody else along.
    fn rank(&self, served: &Served, mut asked: Vec<(Waiting, Prepared)>, began: Instant) {
        let questions: Vec<Question<'_>> = asked
            .iter()
            .map(|(waiting, prepared)| Question {
                history: &prepared.history,
                filter: &prepared.filter,
                user: waiting.request.user,
                time: waiting.request.time,
            })
            .collect();
        let search = asked.first().map_or_else(Search::default, |(waiting, _)| waiting.search.clone());
        let found = catch_unwind(AssertUnwindSafe(|| served.ranker.search(&served.catalog, &questions, &search)));
        drop(questions);
        let refusal = match found {
            Ok(Ok(rankings)) => {
                let (computed, batch) = (began.elapsed(), asked.len());
                for ((waiting, prepared), ranking) in asked.into_iter().zip(rankings) {
                    let waited = began.saturating_duration_since(waiting.since);
                    let answer = answer(served, &waiting.request, &prepared, ranking, waited, computed, batch);
                    self.meter.answer(waiting.since.elapsed());
                    waiting.tell(Ok(answer));
                }
                return;
            }
            Ok(Err(error)) => Refusal::Failed(error),
            Err(panic) => Refusal::Broken(told_by(panic.as_ref())),
        };
        if asked.len() > 1 {
            let rest = asked.split_off(asked.len() / 2);
            self.rank(served, asked, began);
            self.rank(served, rest, began);
        } else if let Some((waiting, _)) = asked.pop() {
            self.refuse(waiting, refusal);
        }
    }
}

fn answer(
    served: &Served,
    request: &Request,
    prepared: &Prepared,
    ranking: Ranking,
    waited: Duration,
    computed: Duration,
    batch: usize,
) -> Answer {
    let items = match &request.diversity {
        Some(diversity) => diversity.choose(&served.catalog, &ranking.items, &prepared.shown, request.k),
        None => {
            let mut items = ranking.items;
            items.truncate(request.k);
            items
        }
    };
    let reason = if items.is_empty() { prepared.filter.why_nothing() } else { None };
    let catalog = Arc::clone(&served.catalog);
    Answer { items, catalog, reason, unknown: prepared.unknown, waited, computed, batch }
}

fn told_by(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "it does not say why".to_owned())
}
