//! What is asked, and what comes back.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use sidereal_core::filter::Allowed;
use sidereal_core::{Catalog, ItemIndex};
use sidereal_generator::calibration::Sureness;
use sidereal_generator::diversity::Diversity;
use sidereal_generator::{Error, ScoredItem, Search, Widths};

/// One question.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Items that were there, oldest first; may be empty: `[H]`.
    pub history: Vec<ItemIndex>,
    /// How many items are wanted.
    pub k: usize,
    /// Beam widths W; at least k beams are kept after every level whatever they are.
    pub beam: Widths,
    /// Whether items of the history may be answered.
    pub include_seen: bool,
    /// Items that may not be answered.
    pub deny: Vec<ItemIndex>,
    /// What earlier answers showed, which is not shown again ([`Request::after`]).
    pub shown: Vec<Shown>,
    /// What items are chosen by beside their scores, where anything.
    pub diversity: Option<Arc<Diversity>>,
    /// How sure items must be, where that is known; there may then be fewer than k.
    pub sureness: Option<Arc<Sureness>>,
    /// What may be answered, where not everything may: made over any version of the catalog since its base.
    pub allowed: Option<Arc<Allowed>>,
    /// Who asks, where the model looks at it.
    pub user: Option<u64>,
    /// When, in the data's own unit, where the model looks at it.
    pub time: Option<i64>,
    /// When the answer is of no use any more.
    pub deadline: Option<Instant>,
}

/// An item that was shown, in whatever version of the catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Its index there.
    pub item: ItemIndex,
    /// Its id, by which it is known where another item has its index.
    pub id: Arc<str>,
}

impl Request {
    /// The request for the page after an answer: what the answer showed, and pages before it, is not shown again, whatever
    /// becomes of the catalog meanwhile. Items that were removed do not come back; items that come may be answered.
    ///
    /// Pages of one version are complete: going on until a page is short shows every item once that may be answered.
    /// Together they are the one long list where beams are as wide as the catalog; elsewhere a later page may have an item
    /// that a wider beam would have found before.
    #[must_use]
    pub fn after(&self, answer: &Answer) -> Self {
        let mut next = self.clone();
        let shown = |scored: &ScoredItem| Shown { item: scored.item, id: answer.catalog.item_id(scored.item).into() };
        next.shown.extend(answer.items.iter().map(shown));
        next
    }

    /// The items of a catalog that earlier answers showed.
    pub(crate) fn shown_in(&self, catalog: &Catalog) -> Vec<ItemIndex> {
        let here = |shown: &&Shown| (shown.item as usize) < catalog.len() && catalog.item_id(shown.item) == &*shown.id;
        let (known, moved): (Vec<&Shown>, Vec<&Shown>) = self.shown.iter().partition(here);
        let mut items: Vec<ItemIndex> = known.into_iter().map(|shown| shown.item).collect();
        if !moved.is_empty() {
            // Another catalog was swapped in, or changes were taken back: only then are all ids looked at.
            let ids: HashSet<&str> = moved.into_iter().map(|shown| &*shown.id).collect();
            items.extend((0..catalog.len() as ItemIndex).filter(|&item| ids.contains(catalog.item_id(item))));
        }
        items
    }

    /// How widely the ranker is to look.
    pub(crate) fn search(&self) -> Search {
        let quota = self.diversity.as_ref().and_then(|diversity| diversity.quota(self.k));
        Search { widths: self.beam.at_least(self.k), quota }
    }
}

/// What is known of one question now.
#[derive(Debug, Clone)]
pub struct Answer {
    /// At most k items, best first, or in the order that the request's diversity gives them; fewer where fewer may be
    /// answered.
    pub items: Vec<ScoredItem>,
    /// How sure each item is, where the request says how that is known.
    pub confidences: Option<Vec<f64>>,
    /// The catalog that was searched: item ids are to be looked up here, and its version is to be told.
    pub catalog: Arc<Catalog>,
    /// Why there is no item, where there is none.
    pub reason: Option<String>,
    /// Items of the history that the catalog does not know, which were left out.
    pub unknown: usize,
    /// Time in the queue.
    pub waited: Duration,
    /// Time with the worker: that of all who began with it, and of those who overtook it.
    pub computed: Duration,
    /// Requests that were asked together.
    pub batch: usize,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The queue is full.
    #[error(
        "{queued} requests are waiting already: ask again later, or give the engine a longer queue or more workers"
    )]
    Busy {
        /// How many are waiting.
        queued: usize,
    },
    /// The deadline passed while the request was waiting, or between two levels of its search.
    #[error("the deadline passed after {waited_ms} ms: ask with a later one, or give the engine more workers")]
    Late {
        /// How long the request was there.
        waited_ms: u64,
    },
    /// The request was taken back.
    #[error("the request was taken back")]
    Cancelled,
    /// The engine was stopped.
    #[error("the engine was stopped before it came to the request")]
    Stopped,
    /// The request cannot be answered by anyone.
    #[error(transparent)]
    Bad(#[from] sidereal_core::Error),
    /// The model could not answer.
    #[error(transparent)]
    Failed(#[from] Error),
    /// The model broke off: a defect of the program.
    #[error("the model broke off ({0}): this is a defect, report it; other requests are answered as before")]
    Broken(String),
}

/// A request on its way. Dropping it takes the request back.
#[derive(Debug)]
pub struct Ticket {
    pub(crate) answer: Receiver<Result<Answer, Refusal>>,
    pub(crate) cancelled: Arc<AtomicBool>,
}

impl Ticket {
    /// Waits for the answer.
    ///
    /// # Errors
    /// Any [`Refusal`] but [`Refusal::Busy`].
    pub fn wait(self) -> Result<Answer, Refusal> {
        self.answer.recv().unwrap_or(Err(Refusal::Stopped))
    }

    /// Waits for the answer, but no longer than `limit`; then the request is still on its way.
    ///
    /// # Errors
    /// As [`Ticket::wait`].
    pub fn wait_for(&self, limit: Duration) -> Result<Option<Answer>, Refusal> {
        match self.answer.recv_timeout(limit) {
            Ok(answer) => answer.map(Some),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(Refusal::Stopped),
        }
    }

    /// Takes the request back. If its search is under way, it is computed no further than the level at hand.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.cancel();
    }
}
