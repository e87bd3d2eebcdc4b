//! Requests that come, overtake and leave while others are computed. The model calls back before each time that it is asked,
//! on the worker's thread, so that whatever happens meanwhile happens at a known place.
#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use sidereal_core::catalog::Change;
use sidereal_core::{Catalog, CodeVocab, CollisionPolicy, ItemId, ItemIndex, LeafFilter, SemanticIds};
use sidereal_generator::models::ModelConfig;
use sidereal_generator::models::tiger::TigerConfig;
use sidereal_generator::ranker::CodeRanker;
use sidereal_generator::scoring::CodeScores;
use sidereal_generator::{Materials, NextCodeModel, Question, Ranker, Result, ScoreNorm, Search};
use sidereal_inference::{Answer, Engine, EngineOptions, Refusal, Request, Ticket};
use sidereal_nn::rng::Rng;

const LEVELS: usize = 3;
const CODES: u32 = 8;
const ITEMS: usize = 200;

fn codes(items: std::ops::Range<usize>) -> SemanticIds {
    let codes = items.flat_map(|i| [i / 64 % 8, i / 8 % 8, i % 8]).map(|code| code as u16).collect();
    SemanticIds::new(LEVELS, codes).unwrap()
}

fn ids(items: std::ops::Range<usize>) -> Vec<ItemId> {
    items.map(|i| ItemId::from(format!("item {i}"))).collect()
}

fn catalog() -> Catalog {
    let per_level = [CODES; LEVELS];
    Catalog::build(&ids(0..ITEMS), &codes(0..ITEMS), &per_level, CollisionPolicy::Postings, None).unwrap()
}

type Hook = Box<dyn FnMut(usize) + Send>;

/// A model whose scores are a hash of history and prefix.
struct Called {
    vocab: CodeVocab,
    /// Is told the number of each call before it is answered.
    hook: Mutex<Option<Hook>>,
    /// Of each call the histories of its rows.
    calls: Mutex<Vec<Vec<Vec<u32>>>>,
    /// A history with this item breaks off at the level after the first.
    breaks_at: Option<ItemIndex>,
}

impl std::fmt::Debug for Called {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Called")
    }
}

type Row = (Vec<u32>, Vec<u16>);

impl Called {
    fn scores(&self, rows: Vec<Row>) -> (Vec<Row>, CodeScores) {
        let number = {
            let mut calls = self.calls.lock().unwrap();
            calls.push(rows.iter().map(|(history, _)| history.clone()).collect());
            calls.len() - 1
        };
        // Taken out while it runs: what it does may ask the model too.
        let hook = self.hook.lock().unwrap().take();
        if let Some(mut hook) = hook {
            hook(number);
            *self.hook.lock().unwrap() = Some(hook);
        }
        if let Some(item) = self.breaks_at {
            let doom = tokens(&[item]);
            let is_doomed =
                |(history, prefix): &Row| prefix.len() == 1 && history.chunks(LEVELS).any(|own| own == doom);
            assert!(!rows.iter().any(is_doomed), "item of doom");
        }
        let row = |(history, prefix): &Row| -> Vec<f32> {
            let key = history.iter().copied().chain(prefix.iter().map(|&code| 1000 + u32::from(code)));
            let seed = key.fold(7u64, |hash, value| (hash ^ u64::from(value)).wrapping_mul(0x9E37_79B9_7F4A_7C15));
            let mut rng = Rng::new(seed, "scores");
            (0..CODES).map(|_| -(rng.uniform() as f32) * 5.0 - 0.1).collect()
        };
        let values = rows.iter().flat_map(row).collect();
        (rows, CodeScores::new(values, CODES as usize))
    }
}

/// The model, as its ranker owns it.
#[derive(Debug)]
struct Shared(Arc<Called>);

impl NextCodeModel for Shared {
    type State = Vec<Row>;

    fn vocab(&self) -> &CodeVocab {
        &self.0.vocab
    }

    fn requests_per_state(&self) -> usize {
        3
    }

    fn begin(&self, histories: &[&[u32]], _: ScoreNorm) -> Result<(Vec<Row>, CodeScores)> {
        Ok(self.0.scores(histories.iter().map(|history| (history.to_vec(), Vec::new())).collect()))
    }

    fn step(&self, state: &Vec<Row>, parents: &[u32], codes: &[u16], _: ScoreNorm) -> Result<(Vec<Row>, CodeScores)> {
        let row = |(&parent, &code): (&u32, &u16)| {
            let (history, prefix) = &state[parent as usize];
            (history.clone(), [prefix.as_slice(), &[code]].concat())
        };
        Ok(self.0.scores(parents.iter().zip(codes).map(row).collect()))
    }
}

/// What the model reads of a history.
fn tokens(history: &[ItemIndex]) -> Vec<u32> {
    let vocab = CodeVocab::new(CodeVocab::FIRST_CODE, &[CODES; LEVELS]);
    let catalog = catalog();
    let item = |&item: &ItemIndex| {
        let codes = catalog.semantic_id(item);
        (0..LEVELS).map(|level| vocab.token(level, codes[level])).collect::<Vec<u32>>()
    };
    history.iter().flat_map(item).collect()
}

/// An engine of one worker over the model, and the ranker to be asked directly.
struct World {
    engine: Arc<Engine>,
    model: Arc<Called>,
    ranker: Arc<dyn Ranker>,
}

fn world(options: EngineOptions, breaks_at: Option<ItemIndex>) -> World {
    let vocab = CodeVocab::new(CodeVocab::FIRST_CODE, &[CODES; LEVELS]);
    let model = Arc::new(Called { vocab, hook: Mutex::default(), calls: Mutex::default(), breaks_at });
    let ranker: Arc<dyn Ranker> = Arc::new(CodeRanker::new(Shared(Arc::clone(&model)), ScoreNorm::Level, 50));
    let engine = Arc::new(Engine::new(&catalog(), Arc::clone(&ranker), options).unwrap());
    model.calls.lock().unwrap().clear();
    World { engine, model, ranker }
}

fn options(batch: usize, joining: bool) -> EngineOptions {
    EngineOptions { workers: 1, batch, joining, queue: 100, ..EngineOptions::default() }
}

impl World {
    /// Calls `then` before each answer of the model, with the number of its call.
    fn before_calls(&self, mut then: impl FnMut(usize, &Engine) + Send + 'static) {
        let engine: Weak<Engine> = Arc::downgrade(&self.engine);
        let hook: Hook = Box::new(move |number| {
            if let Some(engine) = engine.upgrade() {
                then(number, &engine);
            }
        });
        *self.model.hook.lock().unwrap() = Some(hook);
    }

    /// Submits requests before call `number`, and keeps their tickets.
    fn submits_before(&self, number: usize, requests: Vec<Request>) -> Arc<Mutex<Vec<Ticket>>> {
        let tickets = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&tickets);
        self.before_calls(move |call, engine| {
            if call == number {
                let submitted = requests.iter().map(|request| engine.submit(request.clone()).unwrap());
                kept.lock().unwrap().extend(submitted);
            }
        });
        tickets
    }

    /// The rows of each call, as numbers of these histories.
    fn calls(&self, histories: &[&[ItemIndex]]) -> Vec<Vec<usize>> {
        let known: Vec<Vec<u32>> = histories.iter().map(|history| tokens(history)).collect();
        let number = |row: &Vec<u32>| known.iter().position(|own| own == row).unwrap();
        self.model.calls.lock().unwrap().iter().map(|call| call.iter().map(number).collect()).collect()
    }

    /// The histories of each call, each once.
    fn order(&self, histories: &[&[ItemIndex]]) -> Vec<Vec<usize>> {
        let mut calls = self.calls(histories);
        calls.iter_mut().for_each(Vec::dedup);
        calls
    }

    /// An answer is that of the same request alone, from the catalog that it names, to the bit.
    fn assert_as_alone(&self, request: &Request, answer: &Answer) {
        *self.model.hook.lock().unwrap() = None;
        let catalog = &answer.catalog;
        let filter = LeafFilter::deny_items(catalog, &request.history);
        let search: Search = request.beam.at_least(request.k).into();
        let alone = self.ranker.search(catalog, &[Question::new(&request.history, &filter)], &search).unwrap();
        let allowed = (0..catalog.len() as ItemIndex)
            .filter(|item| catalog.is_alive(*item) && !request.history.contains(item))
            .count();
        assert_eq!(answer.items.len(), request.k.min(allowed));
        assert_eq!(answer.items, alone[0].items[..answer.items.len()]);
    }
}

fn request(history: &[ItemIndex], width: usize, k: usize) -> Request {
    Request { history: history.to_vec(), k, beam: width.into(), ..Request::default() }
}

type Told = std::result::Result<Answer, Refusal>;

/// What has been told by now to those of whom it is not known yet. Nobody waits while tickets are held: the model's callback
/// may want them.
fn look(tickets: &Mutex<Vec<Ticket>>, told: &mut Vec<Option<Told>>) {
    let tickets = tickets.lock().unwrap();
    told.resize_with(tickets.len(), || None);
    for (ticket, told) in tickets.iter().zip(told).filter(|(_, told)| told.is_none()) {
        *told = ticket.wait_for(Duration::ZERO).transpose();
    }
    drop(tickets);
    std::thread::yield_now();
}

fn answers(tickets: &Mutex<Vec<Ticket>>) -> Vec<Told> {
    let mut told = Vec::new();
    loop {
        look(tickets, &mut told);
        if told.iter().all(Option::is_some) {
            return told.into_iter().flatten().collect();
        }
    }
}

#[test]
fn a_short_request_overtakes_a_long_one_only_where_joining_is_on() {
    for joining in [true, false] {
        let world = world(options(8, joining), None);
        let (long, short) = (request(&[1, 2], 100, 5), request(&[3], 2, 2));
        let tickets = world.submits_before(1, vec![short.clone()]);
        let first = world.engine.answer(long.clone()).unwrap();
        let second = answers(&tickets).remove(0).unwrap();
        let order = world.order(&[&long.history, &short.history]).concat();
        match joining {
            true => assert_eq!(order, [0, 0, 1, 1, 1, 0]),
            false => assert_eq!(order, [0, 0, 0, 1, 1, 1]),
        }
        assert_eq!(world.engine.stats().joined, u64::from(joining));
        assert!(first.computed >= second.computed || !joining);
        world.assert_as_alone(&long, &first);
        world.assert_as_alone(&short, &second);
    }
}

#[test]
fn requests_of_equal_lengths_are_answered_as_they_came_and_longer_ones_wait() {
    let world = world(options(8, true), None);
    let (first, equal, longer) = (request(&[1], 10, 5), request(&[2], 10, 5), request(&[3], 90, 5));
    let tickets = world.submits_before(0, vec![longer.clone(), equal.clone()]);
    world.engine.answer(first.clone()).unwrap();
    assert!(answers(&tickets).iter().all(Told::is_ok));
    // The equal one overtakes the longer one, which stood before it, once that has begun; not the one under way.
    let order = world.order(&[&first.history, &equal.history, &longer.history]).concat();
    assert_eq!(order, [0, 0, 0, 1, 1, 1, 2, 2, 2]);
}

#[test]
fn a_search_is_overtaken_by_no_more_than_there_are_places() {
    for batch in [1, 2, 4] {
        let world = world(options(batch, true), None);
        let (long, kept) = (request(&[1, 2], 100, 5), Arc::new(Mutex::new(Vec::new())));
        let tickets = Arc::clone(&kept);
        // Whenever anything is computed, another short one comes.
        world.before_calls(move |call, engine| {
            if (1..=20).contains(&call) {
                kept.lock().unwrap().push(engine.submit(request(&[3], 2, 1)).unwrap());
            }
        });
        let answer = world.engine.answer(long.clone()).unwrap();
        let rows = world.calls(&[&long.history, &[3]]).concat();
        let last = rows.iter().rposition(|&history| history == 0).unwrap();
        // A short one is one row that is read, and two levels of two beams.
        assert_eq!(rows[..=last].iter().filter(|&&history| history == 1).count(), (batch - 1) * 5);
        assert!(answers(&tickets).iter().all(Told::is_ok));
        world.assert_as_alone(&long, &answer);
    }
}

#[test]
fn nobody_computes_for_a_request_that_was_taken_back_in_the_midst_of_its_search() {
    for joining in [true, false] {
        let world = world(options(8, joining), None);
        // Two that are asked together, while a first one is computed; one of them is taken back when both are read.
        let (first, stays, goes) = (request(&[9], 20, 5), request(&[1], 20, 5), request(&[2], 20, 5));
        let tickets = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&tickets);
        let wishes = [stays.clone(), goes.clone()];
        world.before_calls(move |call, engine| match call {
            0 => kept.lock().unwrap().extend(wishes.iter().map(|wish| engine.submit(wish.clone()).unwrap())),
            4 => kept.lock().unwrap().iter().skip(1).for_each(Ticket::cancel),
            _ => {}
        });
        world.engine.answer(first.clone()).unwrap();
        let mut told = answers(&tickets);
        assert!(matches!(told.pop().unwrap(), Err(Refusal::Cancelled)));
        let calls = world.calls(&[&first.history, &stays.history, &goes.history]);
        let of = |call: usize, history| calls[call].iter().filter(|&&own| own == history).count();
        assert_eq!((of(3, 2), of(4, 2)), (1, 4), "it was read, and its first codes were being written on");
        assert_eq!((of(5, 1), of(5, 2)), (20, 0), "then no more");
        assert_eq!(calls.len(), 6);
        world.assert_as_alone(&stays, &told.pop().unwrap().unwrap());
        assert_eq!((world.engine.stats().given_up, world.engine.stats().answered), (1, 2));
    }
}

#[test]
fn a_deadline_that_passes_in_the_midst_of_a_search_ends_it() {
    // The machine may be so busy that the time is over before the worker comes to it: then with more time.
    for ms in [20, 200, 2000, 20_000] {
        let world = world(options(8, true), None);
        let deadline = Instant::now() + Duration::from_millis(ms);
        world.before_calls(move |call, _| {
            while call == 1 && Instant::now() < deadline {
                std::thread::yield_now();
            }
        });
        let late = Request { deadline: Some(deadline), ..request(&[1], 20, 5) };
        let told = world.engine.answer(late);
        assert!(matches!(told, Err(Refusal::Late { .. })), "{told:?}");
        assert_eq!(world.engine.stats().given_up, 1);
        let calls = world.calls(&[&[1]]).len();
        if calls > 0 {
            assert!(calls <= 2, "it was computed to its end");
            assert!(world.engine.answer(request(&[1], 20, 5)).is_ok(), "the worker goes on");
            return;
        }
    }
    unreachable!("twenty seconds were not enough to begin");
}

#[test]
fn a_request_that_breaks_the_model_in_the_midst_takes_neither_its_fellows_nor_those_it_overtook_along() {
    let world = world(options(8, true), Some(13));
    let (long, doomed, fellow) = (request(&[1, 2], 100, 5), request(&[13], 3, 2), request(&[4], 3, 2));
    let tickets = world.submits_before(1, vec![doomed, fellow.clone(), request(&[13, 5], 60, 2)]);
    let answer = world.engine.answer(long.clone()).unwrap();
    let mut told = answers(&tickets);
    assert!(matches!(told.pop().unwrap(), Err(Refusal::Broken(why)) if why.contains("item of doom")));
    world.assert_as_alone(&fellow, &told.pop().unwrap().unwrap());
    assert!(matches!(told.pop().unwrap(), Err(Refusal::Broken(_))));
    world.assert_as_alone(&long, &answer);
    // One that was overtaken breaks: who overtook it was answered, and fellows are.
    let first = world.engine.submit(request(&[9], 30, 5)).unwrap();
    let doomed = world.engine.submit(request(&[13], 30, 5)).unwrap();
    assert!(matches!(doomed.wait(), Err(Refusal::Broken(_))));
    assert!(first.wait().is_ok());
}

#[test]
fn searches_on_both_sides_of_a_swap_each_name_and_keep_their_catalog() {
    let world = world(options(8, true), None);
    let (long, short) = (request(&[1, 2], 100, 150), request(&[3], 2, 2));
    let before = world.engine.served().catalog;
    let (kept, wish) = (Arc::new(Mutex::new(Vec::new())), short.clone());
    let tickets = Arc::clone(&kept);
    world.before_calls(move |call, engine| {
        if call == 1 {
            let change = Change {
                add: &ids(ITEMS..ITEMS + 1),
                add_ids: Some(&codes(ITEMS..ITEMS + 1)),
                remove: &[7, 8, 9],
                restore: &[],
            };
            engine.change(&change).unwrap();
            kept.lock().unwrap().push(engine.submit(wish.clone()).unwrap());
        }
    });
    let old = world.engine.answer(long.clone()).unwrap();
    let new = answers(&tickets).remove(0).unwrap();
    assert_eq!(world.engine.stats().joined, 1);
    assert_eq!(old.catalog.version(), before.version());
    assert_eq!(new.catalog.version(), world.engine.served().catalog.version());
    assert_eq!((old.catalog.alive(), new.catalog.alive()), (ITEMS, ITEMS - 2));
    world.assert_as_alone(&long, &old);
    world.assert_as_alone(&short, &new);
}

/// A request of a random schedule: before which call it comes, and before which it is taken back.
#[derive(Clone)]
struct Scheduled {
    request: Request,
    comes: usize,
    goes: usize,
}

fn schedule(rng: &mut Rng) -> Vec<Scheduled> {
    let (mut comes, mut all) = (0, Vec::new());
    for _ in 0..12 {
        comes += rng.below(4);
        let history: Vec<ItemIndex> = (0..[0, 1, 3, 20][rng.below(4)]).map(|_| rng.below(ITEMS) as ItemIndex).collect();
        let request = request(&history, [1, 3, 10, 80][rng.below(4)], 1 + rng.below(12));
        let goes = if rng.below(4) == 0 { comes + rng.below(6) } else { usize::MAX };
        all.push(Scheduled { request, comes, goes });
    }
    all
}

#[test]
fn answers_are_those_of_the_request_alone_whoever_joins_or_leaves_and_whenever() {
    let (mut joined, mut given_up) = (0, 0);
    for seed in 0..150 {
        let mut rng = Rng::new(seed, "schedule");
        let world = world(options(1 + rng.below(6), rng.below(4) > 0), None);
        let scheduled = schedule(&mut rng);
        let tickets: Arc<Mutex<Vec<Ticket>>> = Arc::default();
        let (kept, all) = (Arc::clone(&tickets), scheduled.clone());
        let changes_at = rng.below(20);
        world.before_calls(move |call, engine| {
            let mut kept = kept.lock().unwrap();
            while let Some(next) = all.get(kept.len()).filter(|next| next.comes <= call) {
                kept.push(engine.submit(next.request.clone()).unwrap());
            }
            kept.iter().zip(&all).filter(|(_, one)| one.goes <= call).for_each(|(ticket, _)| ticket.cancel());
            if call == changes_at {
                engine.change(&Change { remove: &[seed as ItemIndex], ..Change::default() }).unwrap();
            }
        });
        let mut told = Vec::new();
        while told.len() < scheduled.len() || told.iter().any(Option::is_none) {
            let mut kept = tickets.lock().unwrap();
            if kept.len() == told.len() && kept.len() < scheduled.len() && told.iter().all(Option::is_some) {
                // Nobody is there whose computing would bring the next one.
                let next = &scheduled[told.len()];
                kept.push(world.engine.submit(next.request.clone()).unwrap());
            }
            drop(kept);
            look(&tickets, &mut told);
        }
        let stats = world.engine.stats();
        joined += stats.joined;
        given_up += stats.given_up;
        assert_eq!(stats.answered + stats.given_up, scheduled.len() as u64);
        for (one, told) in scheduled.iter().zip(told.into_iter().flatten()) {
            match told {
                Ok(answer) => world.assert_as_alone(&one.request, &answer),
                Err(refusal) => {
                    assert!(matches!(refusal, Refusal::Cancelled) && one.goes < usize::MAX, "{refusal}");
                }
            }
        }
    }
    assert!(joined > 50 && given_up > 20, "{joined} joined, {given_up} were given up");
}

#[test]
fn a_model_with_weights_answers_to_the_bit_as_alone_whoever_is_asked_beside() {
    let catalog = catalog();
    let config = TigerConfig { d_model: 16, d_ff: 32, heads: 2, d_kv: 8, layers: 1, ..TigerConfig::default() };
    let materials = Materials::of_catalog(&catalog, &candle_core::Device::Cpu);
    let ranker: Arc<dyn Ranker> = config.build(&materials, 3).unwrap().ranker(&materials).unwrap().into();
    let engine = Engine::new(&catalog, Arc::clone(&ranker), options(5, true)).unwrap();
    let mut rng = Rng::new(5, "histories");
    let wish = |at: usize| {
        let history: Vec<ItemIndex> = (0..at % 7 * 2).map(|_| rng.below(ITEMS) as ItemIndex).collect();
        request(&history, [2, 10, 60][at % 3], 4)
    };
    let wishes: Vec<Request> = (0..60).map(wish).collect();
    let tickets: Vec<Ticket> = wishes.iter().map(|wish| engine.submit(wish.clone()).unwrap()).collect();
    for (wish, ticket) in wishes.iter().zip(tickets) {
        let answer = ticket.wait().unwrap();
        let filter = LeafFilter::deny_items(&catalog, &wish.history);
        let search: Search = wish.beam.at_least(wish.k).into();
        let alone = ranker.search(&catalog, &[Question::new(&wish.history, &filter)], &search).unwrap();
        assert_eq!(answer.items, alone[0].items[..4]);
    }
}
