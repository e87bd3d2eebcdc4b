//! Requests that wait: first come, first served, but those that fit together go together.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

use sidereal_generator::Search;

use crate::request::{Answer, Refusal, Request};

/// How far behind the first a request may stand and still go with it, in batches.
const LOOK_AHEAD: usize = 4;

/// A request and where its answer goes.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) request: Request,
    /// How widely to look for its answer.
    pub(crate) search: Search,
    /// Rows that are to be computed for it, where the ranker knows.
    pub(crate) rows: Option<u64>,
    pub(crate) since: Instant,
    pub(crate) reply: SyncSender<Result<Answer, Refusal>>,
    pub(crate) cancelled: Arc<AtomicBool>,
}

impl Waiting {
    /// Answers; nobody may be there to hear it.
    pub(crate) fn tell(&self, answer: Result<Answer, Refusal>) {
        let _heard = self.reply.try_send(answer);
    }

    /// Why it is not worth while any more.
    pub(crate) fn given_up(&self, now: Instant) -> Option<Refusal> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Some(Refusal::Cancelled);
        }
        let late = self.request.deadline.is_some_and(|deadline| deadline <= now);
        late.then(|| Refusal::Late { waited_ms: (now - self.since).as_millis() as u64 })
    }
}

/// The queue of an engine.
#[derive(Debug)]
pub(crate) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    limit: usize,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Waiting>,
    stopped: bool,
}

/// What a worker gets: requests to answer, and requests that are given up.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    pub(crate) batch: Vec<Waiting>,
    pub(crate) given_up: Vec<(Waiting, Refusal)>,
}

impl Queue {
    pub(crate) fn new(limit: usize) -> Self {
        Self { state: Mutex::default(), changed: Condvar::new(), limit }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // Whoever panicked held no half-made change: every step below is a whole one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.state().waiting.len()
    }

    /// Puts a request at the end.
    pub(crate) fn push(&self, waiting: Waiting) -> Result<(), Refusal> {
        let mut state = self.state();
        if state.stopped {
            return Err(Refusal::Stopped);
        }
        if state.waiting.len() >= self.limit {
            return Err(Refusal::Busy { queued: state.waiting.len() });
        }
        state.waiting.push_back(waiting);
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    /// Waits for a request and takes up to `most` that go with it: those of the same search that stand near the front.
    /// None once the queue is stopped.
    pub(crate) fn take(&self, most: usize) -> Option<Taken> {
        let mut state = self.state();
        loop {
            if state.stopped {
                return None;
            }
            let taken = state.take(most, LOOK_AHEAD.saturating_mul(most), |_| true);
            if !taken.batch.is_empty() || !taken.given_up.is_empty() {
                return Some(taken);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Takes up to `most` requests of the same search that have fewer rows to compute than these, wherever they stand. It does
    /// not wait.
    pub(crate) fn take_shorter(&self, most: usize, rows: u64) -> Taken {
        self.state().take(most, usize::MAX, |waiting| waiting.rows.is_some_and(|own| own < rows))
    }

    /// Ends the waiting of everyone.
    pub(crate) fn stop(&self) -> Vec<Waiting> {
        let mut state = self.state();
        state.stopped = true;
        let left = state.waiting.drain(..).collect();
        drop(state);
        self.changed.notify_all();
        left
    }
}

impl State {
    /// Up to `most` that may be taken and go together, of the first `look`; and those before them that are given up.
    fn take(&mut self, most: usize, look: usize, may_be: impl Fn(&Waiting) -> bool) -> Taken {
        let mut taken = Taken::default();
        let now = Instant::now();
        let mut at = 0;
        while at < self.waiting.len().min(look) && taken.batch.len() < most {
            let waiting = &self.waiting[at];
            let given_up = waiting.given_up(now);
            let fits = || may_be(waiting) && taken.batch.first().is_none_or(|first| first.search == waiting.search);
            if given_up.is_none() && !fits() {
                at += 1;
                continue;
            }
            let Some(waiting) = self.waiting.remove(at) else { break };
            match given_up {
                Some(refusal) => taken.given_up.push((waiting, refusal)),
                None => taken.batch.push(waiting),
            }
        }
        taken
    }
}
