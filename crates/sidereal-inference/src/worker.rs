//! What a worker does: it goes on with a search level by level, and looks up between two levels.
//!
//! # Who comes first?
//! Of a worker's searches, that which has the fewest rows left for each of its questions. A search that is overtaken waits
//! until those that overtook it are answered; so the searches under way are a stack, and here they are the calls of
//! [`Shared::search`] within each other. Taking turns instead, a level each, would answer nobody sooner: all semantic IDs of a
//! catalog have the same number of levels, so who begins later would end later, and hold up the others all the same. Whether
//! those who wait on the stack are late or were taken back is looked at when their turn comes.
//!
//! # What holds them apart?
//! Each search has the catalog that it began with, its widths and its questions. An error or a panic within it comes to
//! light in its own call: those of its requests that are still open are asked again in halves, and nobody else notices.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use sidereal_core::{Catalog, Error as CoreError, ItemIndex, LeafFilter};
use sidereal_generator::{Error, Question, Ranking, Search};

use crate::engine::Shared;
use crate::queue::{Taken, Waiting};
use crate::request::{Answer, Refusal, Request};
use crate::serving::Served;

/// Requests that may overtake a search, however many a worker may have: each can be a call within a call.
const MOST_OVERTAKING: usize = 64;

/// A request as the ranker is asked it.
struct Prepared {
    history: Vec<ItemIndex>,
    filter: LeafFilter,
    shown: Vec<ItemIndex>,
    unknown: usize,
}

/// A request of a search, and what it is asked as.
struct Asked {
    waiting: Waiting,
    prepared: Prepared,
}

impl Asked {
    fn question(&self) -> Question<'_> {
        let (Prepared { history, filter, .. }, request) = (&self.prepared, &self.waiting.request);
        Question { history, filter, user: request.user, time: request.time }
    }
}

/// What the requests of a search share: the catalog and the ranker, and when it began.
struct Begun {
    served: Served,
    began: Instant,
}

impl Shared {
    /// Answers until the engine stops.
    pub(crate) fn work(&self) {
        while let Some(taken) = self.queue.take(self.options.batch) {
            let mut room = self.options.batch.saturating_sub(taken.batch.len()).min(MOST_OVERTAKING);
            self.answer(taken, &mut room);
        }
    }

    fn refuse(&self, waiting: &Waiting, refusal: Refusal) {
        self.meter.gave_up();
        waiting.tell(Err(refusal));
    }

    /// Answers or refuses everyone who was taken from the queue, and as many who overtake them as there is `room` for.
    fn answer(&self, taken: Taken, room: &mut usize) {
        for (waiting, refusal) in taken.given_up {
            self.refuse(&waiting, refusal);
        }
        let begun = Begun { served: self.serving.now(), began: Instant::now() };
        let mut asked = Vec::with_capacity(taken.batch.len());
        for waiting in taken.batch {
            match self.prepared(&begun.served.catalog, &waiting.request) {
                Ok(prepared) => asked.push(Asked { waiting, prepared }),
                Err(error) => self.refuse(&waiting, error.into()),
            }
        }
        if !asked.is_empty() {
            self.meter.batch();
            self.rank(&begun, asked, room);
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
    fn rank(&self, begun: &Begun, asked: Vec<Asked>, room: &mut usize) {
        let mut open = vec![true; asked.len()];
        let found = catch_unwind(AssertUnwindSafe(|| self.search(begun, &asked, &mut open, room)));
        let refusal = match found {
            Ok(Ok(())) => Refusal::Broken("it gave no ranking".to_owned()),
            Ok(Err(error)) => Refusal::Failed(error),
            Err(panic) => Refusal::Broken(told_by(panic.as_ref())),
        };
        let left = asked.into_iter().zip(open).filter(|(_, open)| *open);
        let mut left: Vec<Asked> = left.map(|(asked, _)| asked).collect();
        if left.len() > 1 {
            let rest = left.split_off(left.len() / 2);
            self.rank(begun, left, room);
            self.rank(begun, rest, room);
        } else if let Some(asked) = left.pop() {
            self.refuse(&asked.waiting, refusal);
        }
    }

    /// Searches for some requests level by level. Who is answered or refused is not `open` any more.
    ///
    /// # Errors
    /// Whatever the ranker says.
    fn search(&self, begun: &Begun, asked: &[Asked], open: &mut [bool], room: &mut usize) -> Result<(), Error> {
        let Served { catalog, ranker } = &begun.served;
        let questions: Vec<Question<'_>> = asked.iter().map(Asked::question).collect();
        let no_search = Search::default();
        let search = asked.first().map_or(&no_search, |asked| &asked.waiting.search);
        let mut under_way = ranker.begin(catalog, &questions, search)?;
        loop {
            self.let_overtake(under_way.rows_left(), room);
            let now = Instant::now();
            for (at, (asked, open)) in asked.iter().zip(&mut *open).enumerate().filter(|(_, (_, open))| **open) {
                if let Some(refusal) = asked.waiting.given_up(now) {
                    *open = false;
                    under_way.give_up(at);
                    self.refuse(&asked.waiting, refusal);
                }
            }
            let Some(whole) = under_way.step()? else { return Ok(()) };
            for (at, ranking) in whole {
                let answer = answer(begun, &asked[at], ranking, asked.len());
                open[at] = false;
                self.meter.answer(asked[at].waiting.since.elapsed());
                asked[at].waiting.tell(Ok(answer));
            }
        }
    }

    /// Answers requests that wait and have fewer rows to compute than these, until there are none or no room.
    fn let_overtake(&self, rows: u64, room: &mut usize) {
        while self.options.joining && *room > 0 && rows > 0 {
            let taken = self.queue.take_shorter(*room, rows);
            let joining = taken.batch.len();
            *room -= joining;
            self.meter.joined(joining);
            self.answer(taken, room);
            if joining == 0 {
                return;
            }
        }
    }
}

fn answer(begun: &Begun, asked: &Asked, ranking: Ranking, batch: usize) -> Answer {
    let (Begun { served, began }, Asked { waiting, prepared }) = (begun, asked);
    let Request { k, diversity, sureness, .. } = &waiting.request;
    let judged = sureness.as_ref().map(|sureness| sureness.judge(&ranking.items, prepared.history.len()));
    let sure = judged.as_ref().map_or(ranking.items.as_slice(), |judged| judged.items);
    let items = match diversity {
        Some(diversity) => diversity.choose(&served.catalog, sure, &prepared.shown, *k),
        None => sure.iter().take(*k).copied().collect(),
    };
    let confidences = judged
        .as_ref()
        .map(|judged| items.iter().map(|scored| judged.confidence(scored.item).unwrap_or_default()).collect());
    let unsure = judged.as_ref().and_then(|judged| judged.reason.clone());
    let reason = if items.is_empty() { prepared.filter.why_nothing().or(unsure) } else { None };
    Answer {
        items,
        confidences,
        catalog: Arc::clone(&served.catalog),
        reason,
        unknown: prepared.unknown,
        waited: began.saturating_duration_since(waiting.since),
        computed: began.elapsed(),
        batch,
    }
}

fn told_by(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "it does not say why".to_owned())
}
