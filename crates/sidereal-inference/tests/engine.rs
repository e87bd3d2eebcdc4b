//! The engine against its ranker asked directly, and everything that can happen to a request on its way.
#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use sidereal_core::catalog::Change;
use sidereal_core::filter::{Allowed, Bits};
use sidereal_core::{Catalog, CodeVocab, CollisionPolicy, ItemId, ItemIndex, LeafFilter, SemanticIds};
use sidereal_generator::calibration::{Calibrator, Observed, Sureness};
use sidereal_generator::diversity::Diversity;
use sidereal_generator::models::ModelConfig;
use sidereal_generator::models::tiger::TigerConfig;
use sidereal_generator::{Error, Materials, Question, Ranker, Ranking, Result, ScoreNorm, ScoredItem};
use sidereal_inference::{Answer, Engine, EngineOptions, Refusal, Request};
use sidereal_nn::rng::Rng;

fn ids(items: std::ops::Range<usize>) -> Vec<ItemId> {
    items.map(|i| ItemId::from(format!("item {i}"))).collect()
}

fn codes(items: std::ops::Range<usize>) -> SemanticIds {
    SemanticIds::new(3, items.flat_map(|i| [i / 64 % 8, i / 8 % 8, i % 8]).map(|code| code as u16).collect()).unwrap()
}

fn catalog(items: usize) -> Catalog {
    Catalog::build(&ids(0..items), &codes(0..items), &[8; 3], CollisionPolicy::Postings, None).unwrap()
}

/// Ranks the highest numbers first; can be held, break off, or refuse large batches.
#[derive(Debug, Default)]
struct Highest {
    /// Whether rankings wait.
    held: Mutex<bool>,
    let_go: Condvar,
    /// Batches that are being held.
    waiting: AtomicUsize,
    breaks_at: Option<ItemIndex>,
    largest_batch: Option<usize>,
    /// Items that it scores, where it scores a fixed number.
    items: Option<usize>,
}

impl Highest {
    fn hold(&self, held: bool) {
        *self.held.lock().unwrap() = held;
        self.let_go.notify_all();
    }
}

impl Ranker for Highest {
    fn rank(&self, catalog: &Catalog, questions: &[Question<'_>], beam: usize) -> Result<Vec<Ranking>> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let mut held = self.held.lock().unwrap();
        while *held {
            held = self.let_go.wait(held).unwrap();
        }
        drop(held);
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        if self.largest_batch.is_some_and(|most| questions.len() > most) {
            return Err(sidereal_core::Error::input("device", "out of memory", "ask for less at once").into());
        }
        if self.items.is_some_and(|items| items != catalog.len()) {
            return Err(sidereal_core::Error::mismatch("it scores 100 items", "load it anew").into());
        }
        let one = |question: &Question<'_>| {
            assert!(self.breaks_at.is_none_or(|item| !question.history.contains(&item)), "item of doom");
            let allowed = |item: &ItemIndex| catalog.is_alive(*item) && question.filter.item_alive(*item);
            let found = (0..catalog.len() as ItemIndex).rev().filter(allowed).take(beam);
            let items = found.map(|item| ScoredItem { item, score: item as f32 }).collect();
            Ranking { items, leaves: Vec::new(), norm: ScoreNorm::Level, stats: Default::default() }
        };
        Ok(questions.iter().map(one).collect())
    }

    fn score_all(&self, _: &Catalog, _: &Question<'_>) -> Result<Vec<f32>> {
        Ok(Vec::new())
    }

    fn scores_all_cheaply(&self) -> bool {
        true
    }

    fn norm(&self) -> ScoreNorm {
        ScoreNorm::Level
    }
}

fn options() -> EngineOptions {
    EngineOptions { workers: 1, batch: 4, queue: 16, ..EngineOptions::default() }
}

fn engine(ranker: Highest, options: EngineOptions) -> (Engine, Arc<Highest>) {
    let ranker = Arc::new(ranker);
    (Engine::new(&catalog(100), Arc::clone(&ranker) as Arc<dyn Ranker>, options).unwrap(), ranker)
}

fn request(history: &[ItemIndex], k: usize) -> Request {
    Request { history: history.to_vec(), k, beam: 10.into(), ..Request::default() }
}

fn items(answer: &Answer) -> Vec<ItemIndex> {
    answer.items.iter().map(|scored| scored.item).collect()
}

/// Until as many batches are held as are wanted.
fn until(ranker: &Highest, held: usize) {
    while ranker.waiting.load(Ordering::SeqCst) < held {
        std::thread::yield_now();
    }
}

#[test]
fn an_answer_says_how_sure_its_items_are_and_leaves_out_those_that_are_not() {
    // Among the highest the next item was often the first and never the last.
    let observed: Vec<Observed> = (0..40)
        .map(|user| Observed { scores: vec![99.0, 60.0, 20.0], history: 1, hit: (user % 2 == 0).then_some(0) })
        .collect();
    let calibrator = Calibrator::fit(&observed).unwrap();
    let asked = |least: Option<f64>| Request {
        history: vec![3],
        k: 3,
        sureness: Some(Arc::new(Sureness::new(calibrator.clone(), least).unwrap())),
        ..Request::default()
    };
    let engine = Engine::new(&catalog(100), Arc::new(Highest::default()), EngineOptions::default()).unwrap();
    let all = engine.answer(asked(None)).unwrap();
    let told = all.confidences.unwrap();
    assert_eq!((all.items.len(), told.len()), (3, 3));
    assert!(told.windows(2).all(|pair| pair[0] >= pair[1]) && told.iter().all(|sure| (0.0..=1.0).contains(sure)));
    let some = engine.answer(asked(Some(told[1]))).unwrap();
    assert_eq!(some.items, all.items[..2]);
    assert_eq!(some.confidences.unwrap(), told[..2]);
    let none = engine.answer(asked(Some(1.0))).unwrap();
    assert!(none.items.is_empty() && none.reason.unwrap().contains("likely enough"));
    assert!(engine.answer(Request { sureness: None, ..asked(None) }).unwrap().confidences.is_none());
    assert!(Sureness::new(calibrator, Some(1.5)).unwrap_err().to_string().contains("0 to 1"));
}

#[test]
fn answers_leave_out_what_was_seen_denied_or_not_allowed() {
    let (engine, _) = engine(Highest::default(), options());
    assert_eq!(items(&engine.answer(request(&[99, 97], 3)).unwrap()), [98, 96, 95]);
    let all = Request { include_seen: true, deny: vec![98, 4000], ..request(&[99, 97], 3) };
    assert_eq!(items(&engine.answer(all).unwrap()), [99, 97, 96]);
    let catalog = engine.served().catalog;
    let allowed = |items: &[u32]| Some(Arc::new(Allowed::new(&catalog, &Bits::of(100, items.iter().copied()))));
    let answer = engine.answer(Request { allowed: allowed(&[3, 50, 97]), ..request(&[97], 3) }).unwrap();
    assert_eq!((items(&answer), answer.reason), (vec![50, 3], None));
    let answer = engine.answer(Request { allowed: allowed(&[97]), ..request(&[97], 3) }).unwrap();
    assert!(answer.items.is_empty() && answer.reason.is_some(), "{answer:?}");
    // More than there are, by a beam that is too narrow.
    let answer = engine.answer(Request { beam: 1.into(), ..request(&[], 1000) }).unwrap();
    assert_eq!((answer.items.len(), answer.catalog.version()), (100, catalog.version()));
    assert!(matches!(engine.submit(request(&[], 0)), Err(Refusal::Bad(_))));
}

#[test]
fn items_that_the_catalog_does_not_know_are_left_out_and_counted_or_refused() {
    let (lenient, _) = engine(Highest::default(), options());
    let answer = lenient.answer(request(&[99, 1000, 2000], 1)).unwrap();
    assert_eq!((items(&answer), answer.unknown), (vec![98], 2));
    let (strict, _) = engine(Highest::default(), EngineOptions { refuse_unknown: true, ..options() });
    let error = strict.answer(request(&[99, 1000], 1)).unwrap_err().to_string();
    assert!(error.contains("1 of 2 items"), "{error}");
    assert!(strict.answer(request(&[99], 1)).is_ok());
}

#[test]
fn requests_that_wait_together_are_answered_together_and_only_those_of_one_width() {
    let (engine, ranker) = engine(Highest::default(), options());
    ranker.hold(true);
    let first = engine.submit(request(&[], 1)).unwrap();
    until(&ranker, 1);
    let wide = Request { beam: 50.into(), ..request(&[], 2) };
    let wishes = [request(&[99], 1), wide.clone(), request(&[98], 1), wide, request(&[97], 1), request(&[], 5)];
    let tickets: Vec<_> = wishes.into_iter().map(|wish| engine.submit(wish).unwrap()).collect();
    assert_eq!(engine.stats().queued, 6);
    ranker.hold(false);
    assert_eq!(first.wait().unwrap().batch, 1);
    let answers: Vec<Answer> = tickets.into_iter().map(|ticket| ticket.wait().unwrap()).collect();
    assert_eq!(answers.iter().map(|answer| answer.batch).collect::<Vec<_>>(), [4, 2, 4, 2, 4, 4]);
    assert_eq!(answers.iter().map(items).collect::<Vec<_>>()[..3], [vec![98], vec![99, 98], vec![99]]);
    let stats = engine.stats();
    assert_eq!((stats.queued, stats.answered, stats.batches, stats.given_up), (0, 7, 3, 0));
    assert!(stats.p50_ms <= stats.p99_ms && stats.p99_ms > 0.0);
}

#[test]
fn a_full_queue_a_deadline_and_a_request_taken_back_are_told_apart() {
    let (engine, ranker) = engine(Highest::default(), EngineOptions { queue: 3, ..options() });
    ranker.hold(true);
    let first = engine.submit(request(&[], 1)).unwrap();
    until(&ranker, 1);
    let late = engine.submit(Request { deadline: Some(Instant::now()), ..request(&[], 1) }).unwrap();
    let cancelled = engine.submit(request(&[], 1)).unwrap();
    cancelled.cancel();
    let last = engine.submit(request(&[], 1)).unwrap();
    assert!(matches!(engine.submit(request(&[], 1)), Err(Refusal::Busy { queued: 3 })));
    assert!(last.wait_for(Duration::from_millis(1)).unwrap().is_none());
    ranker.hold(false);
    assert!(first.wait().is_ok() && last.wait().is_ok());
    assert!(matches!(late.wait(), Err(Refusal::Late { .. })));
    assert!(matches!(cancelled.wait(), Err(Refusal::Cancelled)));
    assert_eq!(engine.stats().given_up, 2);
}

#[test]
fn those_who_wait_when_the_engine_stops_are_told_and_those_who_are_asked_for_are_answered() {
    let (engine, ranker) = engine(Highest::default(), options());
    ranker.hold(true);
    let asked = engine.submit(request(&[], 1)).unwrap();
    until(&ranker, 1);
    let waiting = engine.submit(request(&[], 1)).unwrap();
    let stopping = std::thread::spawn(move || drop(engine));
    assert!(matches!(waiting.wait(), Err(Refusal::Stopped)));
    ranker.hold(false);
    assert_eq!(items(&asked.wait().unwrap()), [99]);
    stopping.join().unwrap();
}

#[test]
fn a_request_that_breaks_the_ranker_takes_nobody_along() {
    let (engine, ranker) = engine(Highest { breaks_at: Some(13), ..Highest::default() }, options());
    ranker.hold(true);
    let first = engine.submit(request(&[], 1)).unwrap();
    until(&ranker, 1);
    let tickets: Vec<_> =
        [&[1][..], &[13], &[2], &[3]].iter().map(|history| engine.submit(request(history, 1)).unwrap()).collect();
    ranker.hold(false);
    assert!(first.wait().is_ok());
    let told: Vec<_> = tickets.into_iter().map(|ticket| ticket.wait()).collect();
    assert!(matches!(&told[1], Err(Refusal::Broken(why)) if why.contains("item of doom")), "{:?}", told[1]);
    assert!([0, 2, 3].iter().all(|&at| told[at].is_ok()));
    assert!(engine.answer(request(&[], 1)).is_ok(), "the worker goes on");
}

#[test]
fn a_batch_that_does_not_fit_is_halved_until_it_does() {
    let (engine, ranker) = engine(Highest { largest_batch: Some(1), ..Highest::default() }, options());
    ranker.hold(true);
    let tickets: Vec<_> = (0..5).map(|_| engine.submit(request(&[], 1)).unwrap()).collect();
    ranker.hold(false);
    assert!(tickets.into_iter().all(|ticket| ticket.wait().unwrap().batch == 1));
    let none = Highest { largest_batch: Some(0), ..Highest::default() };
    let error = Engine::new(&catalog(10), Arc::new(none), options()).unwrap_err().to_string();
    assert!(error.contains("out of memory"), "{error}");
}

#[test]
fn what_cannot_be_served_changes_nothing() {
    let (engine, _) = engine(Highest::default(), options());
    let before = engine.served().catalog;
    let sids = SemanticIds::new(2, vec![0, 1, 1, 1]).unwrap();
    let other = Catalog::build(&ids(0..2), &sids, &[4, 4], CollisionPolicy::Postings, None).unwrap();
    let error = engine.swap(&other, None).unwrap_err().to_string();
    assert!(error.contains("[4, 4]") && error.contains("[8, 8, 8]"), "{error}");
    let refusing = Arc::new(Highest { largest_batch: Some(0), ..Highest::default() });
    assert!(engine.swap(&catalog(10), Some(refusing)).is_err());
    assert!(engine.change(&Change { remove: &[4000], ..Change::default() }).is_err());
    // A ranker of a fixed number of items cannot follow when there are more.
    let fixed = Engine::new(&catalog(100), Arc::new(Highest { items: Some(100), ..Highest::default() }), options());
    let fixed = fixed.unwrap();
    fixed.change(&Change { remove: &[99], ..Change::default() }).unwrap();
    let (new, sids) = (ids(100..101), codes(100..101));
    let more = Change { add: &new, add_ids: Some(&sids), remove: &[], restore: &[] };
    assert!(fixed.change(&more).unwrap_err().to_string().contains("100 items"));
    assert_eq!((fixed.served().catalog.len(), items(&fixed.answer(request(&[], 1)).unwrap())), (100, vec![98]));
    assert!(engine.change(&more).is_ok() && engine.roll_back(before.version()).is_ok());
    assert!(engine.roll_back("never").is_err());
    assert_eq!(engine.served().catalog.version(), before.version());
    assert_eq!(engine.stats().swaps, 2);
    assert_eq!(items(&engine.answer(request(&[], 1)).unwrap()), [99]);
    for broken in [EngineOptions { batch: 0, ..options() }, EngineOptions { queue: 0, ..options() }] {
        let error = Engine::new(&catalog(4), Arc::new(Highest::default()), broken).unwrap_err().to_string();
        assert!(error.contains("engine."), "{error}");
    }
}

#[test]
fn a_request_keeps_the_catalog_that_it_began_with_and_names_it() {
    let (engine, ranker) = engine(Highest::default(), options());
    let first = engine.served().catalog;
    ranker.hold(true);
    let before = engine.submit(request(&[], 1)).unwrap();
    until(&ranker, 1);
    let changed = engine.change(&Change { remove: &[99], ..Change::default() }).unwrap();
    ranker.hold(false);
    let before = before.wait().unwrap();
    assert_eq!((items(&before), before.catalog.version()), (vec![99], first.version()));
    let after = engine.answer(request(&[], 1)).unwrap();
    assert_eq!((items(&after), after.catalog.version()), (vec![98], changed.version()));
    engine.roll_back(first.version()).unwrap();
    assert_eq!(items(&engine.answer(request(&[], 1)).unwrap()), [99]);
    engine.swap(&catalog(50), None).unwrap();
    assert_eq!(items(&engine.answer(request(&[], 1)).unwrap()), [49]);
    assert_eq!(engine.stats().swaps, 3);
}

/// Pages of three until one is short.
fn pages(engine: &Engine, first: Request) -> Vec<Vec<ItemIndex>> {
    let (mut asked, mut pages) = (first, Vec::new());
    loop {
        let answer = engine.answer(asked.clone()).unwrap();
        asked = asked.after(&answer);
        pages.push(items(&answer));
        if answer.items.len() < asked.k {
            assert_eq!(answer.reason.is_some(), answer.items.is_empty());
            return pages;
        }
    }
}

#[test]
fn pages_repeat_nothing_and_are_one_list_and_leave_out_what_is_denied() {
    let (engine, _) = engine(Highest::default(), options());
    let first = Request { deny: vec![97], ..request(&[99], 3) };
    let expected: Vec<ItemIndex> = (0..99).rev().filter(|&item| item != 97).collect();
    assert_eq!(pages(&engine, first).concat(), expected);
    let real = Engine::new(&catalog(100), tiger(&catalog(100)), options()).unwrap();
    let mut listed = pages(&real, request(&[5], 3)).concat();
    // A beam as wide as the catalog: the pages are the one list.
    let wide = Request { beam: 100.into(), ..request(&[5], 3) };
    let whole = items(&real.answer(Request { k: 99, ..wide.clone() }).unwrap());
    assert_eq!(pages(&real, wide).concat(), whole);
    listed.sort_unstable();
    assert_eq!(listed, (0..100).filter(|&item| item != 5).collect::<Vec<_>>());
}

#[test]
fn pages_go_on_over_changes_rollbacks_and_another_catalog() {
    let (engine, _) = engine(Highest::default(), options());
    let before = engine.served().catalog;
    let first = request(&[], 2);
    let answer = engine.answer(first.clone()).unwrap();
    assert_eq!(items(&answer), [99, 98]);
    let second = first.after(&answer);
    // One that was shown and one that was not go, and one comes.
    let (new, sids) = (ids(100..101), codes(100..101));
    engine.change(&Change { add: &new, add_ids: Some(&sids), remove: &[99, 97], restore: &[] }).unwrap();
    let answer = engine.answer(second.clone()).unwrap();
    assert_eq!(items(&answer), [100, 96]);
    let third = second.after(&answer);
    assert_eq!(items(&engine.answer(third.clone()).unwrap()), [95, 94]);
    // Index 100 becomes another item's, which was not shown.
    engine.roll_back(before.version()).unwrap();
    assert_eq!(items(&engine.answer(third.clone()).unwrap()), [97, 95]);
    engine.change(&Change { add: &ids(500..501), add_ids: Some(&sids), ..Change::default() }).unwrap();
    assert_eq!(items(&engine.answer(third.clone()).unwrap()), [100, 97]);
    // The same ids under other indexes: item 100 - i has index i, and 100, 99, 98 and 96 were shown.
    let turned: Vec<ItemId> = (0..101).rev().map(|i| ItemId::from(format!("item {i}"))).collect();
    let turned = Catalog::build(&turned, &codes(0..101), &[8; 3], CollisionPolicy::Postings, None).unwrap();
    engine.swap(&turned, None).unwrap();
    let last = Request { k: 101, ..third };
    let left: Vec<ItemIndex> = (0..101).rev().filter(|index| ![0, 1, 2, 4].contains(index)).collect();
    assert_eq!(items(&engine.answer(last).unwrap()), left);
}

#[test]
fn a_quota_is_met_by_whoever_ranks_and_widths_that_do_not_fit_are_refused() {
    let catalog = catalog(200);
    let diversity = Some(Arc::new(Diversity::new(Some(2), None).unwrap()));
    for ranker in [Arc::new(Highest::default()) as Arc<dyn Ranker>, tiger(&catalog)] {
        let engine = Engine::new(&catalog, ranker, options()).unwrap();
        // 200 items: first codes 0, 1, 2, and 8 items of 3.
        for (k, expected) in [(3, 3), (7, 7), (50, 8)] {
            let answer = engine.answer(Request { diversity: diversity.clone(), ..request(&[], k) }).unwrap();
            assert_eq!(answer.items.len(), expected);
            let first = |item: &ItemIndex| catalog.semantic_id(*item)[0];
            for code in 0..4 {
                assert!(items(&answer).iter().filter(|item| first(item) == code).count() <= 2, "code {code}");
            }
        }
        let schedule = |widths: Vec<usize>| engine.answer(Request { beam: widths.into(), ..request(&[], 5) });
        assert_eq!(schedule(vec![1, 60, 2]).unwrap().items.len(), 5, "no level is narrower than what is wanted");
        let refused = schedule(vec![60, 2]).unwrap_err();
        assert!(matches!(&refused, Refusal::Bad(e) if e.to_string().contains("3 codes")), "{refused}");
    }
}

/// A TIGER with random weights.
fn tiger(catalog: &Catalog) -> Arc<dyn Ranker> {
    let config = TigerConfig { d_model: 16, d_ff: 32, heads: 2, d_kv: 8, layers: 1, ..TigerConfig::default() };
    let materials = Materials::of_catalog(catalog, &candle_core::Device::Cpu);
    config.build(&materials, 3).unwrap().ranker(&materials).unwrap().into()
}

#[test]
fn a_model_answers_through_the_engine_as_it_does_alone_whatever_waits_together() {
    let catalog = catalog(200);
    let ranker = tiger(&catalog);
    assert_eq!(CodeVocab::new(CodeVocab::FIRST_CODE, catalog.codes_per_level()).levels(), 3);
    for workers in [1, 3] {
        let options = EngineOptions { workers, batch: 5, queue: 100, ..EngineOptions::default() };
        let engine = Engine::new(&catalog, Arc::clone(&ranker), options).unwrap();
        let mut rng = Rng::new(5, "histories");
        let histories: Vec<Vec<ItemIndex>> =
            (0..40).map(|i| (0..i % 7).map(|_| rng.below(200) as ItemIndex).collect()).collect();
        let tickets: Vec<_> = histories.iter().map(|history| engine.submit(request(history, 7)).unwrap()).collect();
        for (history, ticket) in histories.iter().zip(tickets) {
            let filter = LeafFilter::deny_items(&catalog, history);
            let alone = &ranker.rank(&catalog, &[Question::new(history, &filter)], 10).unwrap()[0];
            let answer = ticket.wait().unwrap();
            assert_eq!(answer.items.len(), 7);
            for (ours, theirs) in answer.items.iter().zip(&alone.items) {
                assert_eq!(ours.item, theirs.item);
                assert!((ours.score - theirs.score).abs() < 1e-4);
            }
        }
    }
}

#[test]
fn nothing_invalid_is_returned_while_the_catalog_changes_a_hundred_times() -> std::result::Result<(), Error> {
    let base = catalog(200);
    let options = EngineOptions { workers: 2, batch: 4, queue: 100, merge_after: 30, ..EngineOptions::default() };
    let engine = Engine::new(&base, tiger(&base), options)?;
    let done = AtomicBool::new(false);
    let answered = std::thread::scope(|scope| {
        let asking: Vec<_> = (0..2)
            .map(|seed| {
                let (engine, done) = (&engine, &done);
                scope.spawn(move || {
                    let mut rng = Rng::new(seed, "asking");
                    let mut answered = 0;
                    while !done.load(Ordering::SeqCst) || answered < 50 {
                        let history: Vec<ItemIndex> = (0..3).map(|_| rng.below(260) as ItemIndex).collect();
                        let answer = engine.answer(request(&history, 10)).unwrap();
                        assert_eq!(answer.items.len(), 10);
                        for scored in &answer.items {
                            assert!(answer.catalog.is_alive(scored.item), "{scored:?} was removed");
                            assert!(!history.contains(&scored.item));
                        }
                        answered += 1;
                    }
                    answered
                })
            })
            .collect();
        for number in 0..100usize {
            let (new, sids) = (ids(200 + number..201 + number), codes(200 + number..201 + number));
            let change = Change { add: &new, add_ids: Some(&sids), remove: &[number as ItemIndex], restore: &[] };
            let catalog = engine.change(&change).unwrap();
            assert_eq!(catalog.alive(), 200);
            assert!(!catalog.is_alive(number as ItemIndex) && catalog.is_alive(200 + number as ItemIndex));
        }
        done.store(true, Ordering::SeqCst);
        asking.into_iter().map(|thread| thread.join().unwrap()).sum::<u64>()
    });
    let stats = engine.stats();
    assert_eq!((stats.answered, stats.given_up), (answered, 0));
    assert!(stats.swaps >= 100);
    Ok(())
}
