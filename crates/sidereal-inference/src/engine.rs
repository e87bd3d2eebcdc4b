//! The engine: its options, its queue, its catalog and its workers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;
use std::time::Instant;

use sidereal_core::catalog::Change;
use sidereal_core::{Catalog, Error as CoreError};
use sidereal_generator::{Error, Ranker};

use crate::meter::{Meter, Stats};
use crate::queue::{Queue, Waiting};
use crate::request::{Answer, Refusal, Request, Ticket};
use crate::serving::{Served, Serving};

/// How an engine works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineOptions {
    /// Workers of one thread each; 0: one a core.
    pub workers: usize,
    /// Requests that a worker has at a time at most.
    pub batch: usize,
    /// Whether a request may overtake one that a worker is at: between two levels of a search, the worker first answers
    /// requests that wait and have fewer rows to compute than are left of each question under way. A search of n requests
    /// is overtaken by `batch` - n others at most, and by 64. Requests of equal lengths are answered in the order of their coming in
    /// any case, and what cannot stop between two levels (scorers of items, searches on a device) is not overtaken.
    /// `sidereal bench joining` measures both settings.
    pub joining: bool,
    /// Requests that may wait.
    pub queue: usize,
    /// Whether a history with items that the catalog does not know is refused; else they are left out and counted.
    pub refuse_unknown: bool,
    /// Changes after which the catalog is built anew in the background; 0: never.
    pub merge_after: usize,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self { workers: 0, batch: 8, joining: true, queue: 1024, refuse_unknown: false, merge_after: 10_000 }
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
pub(crate) struct Shared {
    pub(crate) options: EngineOptions,
    pub(crate) queue: Queue,
    pub(crate) serving: Serving,
    pub(crate) meter: Meter,
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
        let (search, served) = (request.search(), self.served());
        search.check(served.catalog.levels())?;
        let rows = served.ranker.rows(&served.catalog, request.history.len(), &search);
        let waiting =
            Waiting { request, search, rows, since: Instant::now(), reply, cancelled: Arc::clone(&cancelled) };
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
