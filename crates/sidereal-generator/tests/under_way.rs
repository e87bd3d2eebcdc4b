//! Searches that go on a level at a time, against the same searches in one go.
#![allow(clippy::unwrap_used, missing_docs)]

mod table;

use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;
use sidereal_core::{Catalog, CodeVocab, ItemIndex, LeafFilter};
use sidereal_generator::ranker::CodeRanker;
use sidereal_generator::scoring::CodeScores;
use sidereal_generator::{NextCodeModel, Question, Ranker, Ranking, Result, ScoreNorm, Search, UnderWay};
use table::{Case, OnDevice, Prefixes, Table, cases};

/// A table that counts how often it is asked, and for how many rows.
#[derive(Debug)]
struct Counted {
    table: Table,
    calls: AtomicUsize,
    rows: AtomicUsize,
}

impl Counted {
    fn new(table: Table) -> Self {
        Self { table, calls: AtomicUsize::new(0), rows: AtomicUsize::new(0) }
    }

    fn count(&self, rows: usize) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.rows.fetch_add(rows, Ordering::Relaxed);
    }
}

impl NextCodeModel for &'static Counted {
    type State = Prefixes;

    fn vocab(&self) -> &CodeVocab {
        &self.table.vocab
    }

    fn requests_per_state(&self) -> usize {
        self.table.requests_per_state()
    }

    fn begin(&self, histories: &[&[u32]], norm: ScoreNorm) -> Result<(Prefixes, CodeScores)> {
        self.count(histories.iter().map(|history| history.len()).sum());
        self.table.begin(histories, norm)
    }

    fn step(
        &self,
        state: &Prefixes,
        parents: &[u32],
        codes: &[u16],
        norm: ScoreNorm,
    ) -> Result<(Prefixes, CodeScores)> {
        self.count(parents.len());
        self.table.step(state, parents, codes, norm)
    }
}

/// A case's model that counts, its ranker and its search.
fn counted(case: &Case) -> (&'static Counted, CodeRanker<&'static Counted>, Search) {
    let model: &'static Counted = Box::leak(Box::new(Counted::new(case.model())));
    (model, CodeRanker::new(model, case.norm, 100), Search::from(case.width))
}

/// Histories of items of very different lengths, so that groups are cut by length too.
fn histories(case: &Case, catalog: &Catalog) -> Vec<Vec<ItemIndex>> {
    let mut histories = Vec::new();
    for (tokens, times) in case.histories.iter().zip([1, 30].into_iter().cycle()) {
        let items: Vec<ItemIndex> = tokens.iter().map(|token| token % catalog.len() as u32).collect();
        histories.push(items.repeat(times));
    }
    histories
}

/// All steps of a search; between two, questions are given up by `give_up`.
fn walked(
    mut search: Box<dyn UnderWay + '_>,
    questions: usize,
    mut give_up: impl FnMut(usize) -> Vec<usize>,
) -> Vec<Option<Ranking>> {
    let mut found = vec![None; questions];
    for step in 0.. {
        for question in give_up(step) {
            search.give_up(question);
        }
        let Some(whole) = search.step().unwrap() else { break };
        for (question, ranking) in whole {
            assert!(found[question].is_none(), "question {question} was answered twice");
            found[question] = Some(ranking);
        }
    }
    assert_eq!(search.rows_left(), 0);
    found
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_search_by_levels_is_the_search_in_one_go_whoever_is_given_up_meanwhile(
        case in cases(), leaves in prop::collection::vec(0usize..12, 6), quota in prop::option::of(1usize..4),
    ) {
        let catalog = case.catalog();
        let histories = histories(&case, &catalog);
        let filters: Vec<LeafFilter> = case.denied.iter().map(|d| LeafFilter::deny_items(&catalog, d)).collect();
        let questions: Vec<Question<'_>> =
            histories.iter().zip(&filters).map(|(history, filter)| Question::new(history, filter)).collect();
        let quota = quota.map(|per_code| sidereal_generator::Quota { per_code, wanted: case.width });
        let search = Search { quota, ..case.width.into() };
        let ranker = CodeRanker::new(case.model(), case.norm, 100);
        let whole = ranker.search(&catalog, &questions, &search).unwrap();
        for (question, ranking) in questions.iter().zip(&whole) {
            prop_assert_eq!(&ranker.search(&catalog, std::slice::from_ref(question), &search).unwrap()[0], ranking);
        }
        let by_levels = walked(ranker.begin(&catalog, &questions, &search).unwrap(), questions.len(), |_| Vec::new());
        prop_assert_eq!(&by_levels.into_iter().collect::<Option<Vec<_>>>().unwrap(), &whole);
        let gone = |step| (0..questions.len()).filter(|&question| leaves[question] == step).collect();
        let some = walked(ranker.begin(&catalog, &questions, &search).unwrap(), questions.len(), gone);
        for (question, (found, whole)) in some.iter().zip(&whole).enumerate() {
            match found {
                Some(found) => prop_assert_eq!(found, whole),
                None => prop_assert!(leaves[question] < 12),
            }
        }
        // A search that stays on a device is one step, with the same answers.
        let on_device = CodeRanker::new(OnDevice { table: case.model(), memory: 100 }, case.norm, 100);
        let whole = on_device.search(&catalog, &questions, &search).unwrap();
        let steps = walked(on_device.begin(&catalog, &questions, &search).unwrap(), questions.len(), |_| Vec::new());
        prop_assert_eq!(steps.into_iter().collect::<Option<Vec<_>>>().unwrap(), whole);
    }

    #[test]
    fn the_rows_that_are_left_are_at_least_those_that_are_computed_and_become_fewer(case in cases()) {
        let catalog = case.catalog();
        let filter = LeafFilter::allow_all();
        let (model, ranker, search) = counted(&case);
        for history in histories(&case, &catalog) {
            let mut under_way = ranker.begin(&catalog, &[Question::new(&history, &filter)], &search).unwrap();
            let mut left = under_way.rows_left();
            prop_assert_eq!(Some(left), ranker.rows(&catalog, history.len(), &search));
            while left > 0 {
                let before = model.rows.load(Ordering::Relaxed);
                under_way.step().unwrap();
                let computed = model.rows.load(Ordering::Relaxed) - before;
                let next = under_way.rows_left();
                prop_assert!(next + computed as u64 <= left, "{computed} of {left}, then {next}");
                prop_assert!(next < left || history.is_empty());
                left = next;
            }
        }
    }
}

fn fixed() -> (Case, Catalog) {
    let case = Case {
        codes_per_level: vec![4, 3, 2],
        codes: (0..24u16).flat_map(|i| [i % 4, i / 4 % 3, i / 12]).collect(),
        histories: vec![vec![2, 3], vec![4]],
        denied: vec![Vec::new(); 2],
        width: 6,
        steps: 1 << 40,
        sharpness: 4.0,
        norm: ScoreNorm::Level,
    };
    let catalog = case.catalog();
    (case, catalog)
}

#[test]
fn the_rows_of_a_question_that_was_given_up_are_computed_no_more() {
    let (case, catalog) = fixed();
    let (model, ranker, search) = counted(&case);
    let filter = LeafFilter::allow_all();
    let questions = [Question::new(&[1, 2], &filter), Question::new(&[3, 4], &filter)];
    let mut under_way = ranker.begin(&catalog, &questions, &search).unwrap();
    let mut rows = |give_up: Option<usize>| {
        give_up.into_iter().for_each(|question| under_way.give_up(question));
        let before = (model.calls.load(Ordering::Relaxed), model.rows.load(Ordering::Relaxed));
        let found = under_way.step().unwrap();
        let after = (model.calls.load(Ordering::Relaxed), model.rows.load(Ordering::Relaxed));
        (after.0 - before.0, after.1 - before.1, found.map(|found| found.iter().map(|(at, _)| *at).collect()))
    };
    assert_eq!(rows(None), (1, 2 * 2 * 3, Some(Vec::new())), "two histories of two items of three codes");
    assert_eq!(rows(None), (1, 2 * 4, Some(Vec::new())), "four first codes each");
    assert_eq!(rows(Some(0)), (1, 6, Some(vec![1])), "six beams of the other one");
    assert_eq!(rows(None), (0, 0, None));
    // Given up before anything is computed, and all of them in the midst.
    let mut under_way = ranker.begin(&catalog, &questions, &search).unwrap();
    let before = model.rows.load(Ordering::Relaxed);
    under_way.give_up(1);
    assert!(under_way.step().unwrap().unwrap().is_empty());
    assert_eq!(model.rows.load(Ordering::Relaxed) - before, 6);
    under_way.give_up(0);
    under_way.give_up(7);
    assert!(under_way.step().unwrap().is_none());
    assert_eq!(model.rows.load(Ordering::Relaxed) - before, 6);
}

#[test]
fn a_short_history_is_answered_before_a_long_one_of_the_same_search_is_read() {
    let (case, catalog) = fixed();
    let (model, ranker, search) = counted(&case);
    let filter = LeafFilter::allow_all();
    let long: Vec<ItemIndex> = (0..60).map(|i| i % 24).collect();
    let questions = [Question::new(&long, &filter), Question::new(&[3], &filter)];
    let mut under_way = ranker.begin(&catalog, &questions, &search).unwrap();
    let mut answered = Vec::new();
    while let Some(found) = under_way.step().unwrap() {
        answered.extend(found.iter().map(|(at, _)| (*at, model.rows.load(Ordering::Relaxed))));
    }
    // 3 tokens, then 4 and 6 beams; 180 tokens and the same.
    assert_eq!(answered, [(1, 13), (0, 203)]);
}

#[test]
fn a_search_that_cannot_be_made_is_refused_before_anything_is_computed() {
    let (case, catalog) = fixed();
    let filter = LeafFilter::allow_all();
    let questions = [Question::new(&[1], &filter)];
    let ranker = CodeRanker::new(case.model(), case.norm, 100);
    let on_device = CodeRanker::new(OnDevice { table: case.model(), memory: 1 }, case.norm, 100);
    for search in [Search::from(0), Search { widths: vec![3, 3].into(), quota: None }] {
        assert!(ranker.begin(&catalog, &questions, &search).is_err());
        assert!(on_device.begin(&catalog, &questions, &search).is_err());
    }
    let other = Table { vocab: CodeVocab::new(2, &[4, 4]), ..case.model() };
    let error = CodeRanker::new(other, case.norm, 100).begin(&catalog, &questions, &6.into()).unwrap_err().to_string();
    assert!(error.contains("[4, 4]"), "{error}");
}
