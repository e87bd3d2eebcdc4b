//! Beam search against brute force, with models that are tables of random numbers.
#![allow(clippy::unwrap_used, missing_docs)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};

use proptest::prelude::*;
use sidereal_core::catalog::{Change, LiveCatalog};
use sidereal_core::filter::{Allowed, Bits};
use sidereal_core::metrics::rank_of_target;
use sidereal_core::{Catalog, CodeVocab, CollisionPolicy, ItemId, ItemIndex, LeafFilter, SemanticIds};
use sidereal_generator::beam::{BeamOptions, Request, beam_search};
use sidereal_generator::exact::ExactScorer;
use sidereal_generator::scoring::CodeScores;
use sidereal_generator::{ItemScorer, NextCodeModel, Ranking, Result, ScoreNorm};

/// Log-probabilities that are a hash of history and prefix. What it knows about a prefix, it knows only through
/// `parents` and `codes`, as a real model does.
struct Table {
    vocab: CodeVocab,
    /// Scores are rounded to this many steps, so that a few steps give many ties.
    steps: u64,
    poison: Option<u64>,
}

struct Prefixes {
    of_row: Vec<(u64, Vec<u16>)>, // hash of the history, codes
}

fn hash(values: impl IntoIterator<Item = u64>) -> u64 {
    values.into_iter().fold(0xcbf2_9ce4_8422_2325, |h, v| {
        let mixed = (h ^ v).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        mixed ^ (mixed >> 29)
    })
}

impl Table {
    fn scores(&self, (history, prefix): &(u64, Vec<u16>), norm: ScoreNorm) -> Vec<f32> {
        let level = prefix.len();
        let logit = |at: usize, code: u32| {
            let key = hash([*history, at as u64, u64::from(code)].into_iter().chain(prefix.iter().map(|&c| c.into())));
            if self.poison == Some(key % 64) { f32::NAN } else { (key % self.steps) as f32 / self.steps as f32 * 4.0 }
        };
        let logits: Vec<f32> = (0..self.vocab.codes_per_level()[level]).map(|code| logit(level, code)).collect();
        // Other levels' logits count only in the sum over the whole vocabulary.
        let others = if norm == ScoreNorm::Full { 3.7f32 } else { 0.0 };
        let total = (logits.iter().map(|l| l.exp()).sum::<f32>() + others).ln();
        logits.iter().map(|logit| logit - total).collect()
    }

    fn answer(&self, of_row: Vec<(u64, Vec<u16>)>, norm: ScoreNorm) -> (Prefixes, CodeScores) {
        let codes = self.vocab.codes_per_level()[of_row[0].1.len()] as usize;
        let values = of_row.iter().flat_map(|row| self.scores(row, norm)).collect();
        (Prefixes { of_row }, CodeScores::new(values, codes))
    }

    /// The score of a whole semantic ID, by the definition of each norm.
    fn score(&self, history: &[u32], sid: &[u16], norm: ScoreNorm, alive: &[&[u16]]) -> f32 {
        let history = hash(history.iter().map(|&t| t.into()));
        (0..sid.len()).fold(0.0, |score, level| {
            let prefix = sid[..level].to_vec();
            let row = self.scores(&(history, prefix.clone()), norm);
            let own = row[sid[level] as usize];
            if norm != ScoreNorm::Children {
                return score + own;
            }
            let mut children: Vec<u16> = alive.iter().filter(|s| s[..level] == prefix).map(|s| s[level]).collect();
            children.sort_unstable();
            children.dedup();
            score + own - children.iter().map(|&code| row[code as usize].exp()).sum::<f32>().ln()
        })
    }
}

impl NextCodeModel for Table {
    type State = Prefixes;

    fn vocab(&self) -> &CodeVocab {
        &self.vocab
    }

    fn requests_per_state(&self) -> usize {
        2
    }

    fn begin(&self, histories: &[&[u32]], norm: ScoreNorm) -> Result<(Prefixes, CodeScores)> {
        let rows = histories.iter().map(|h| (hash(h.iter().map(|&t| t.into())), Vec::new())).collect();
        Ok(self.answer(rows, norm))
    }

    fn step(
        &self,
        state: &Prefixes,
        parents: &[u32],
        codes: &[u16],
        norm: ScoreNorm,
    ) -> Result<(Prefixes, CodeScores)> {
        let extend = |(&parent, &code): (&u32, &u16)| {
            let (history, prefix) = &state.of_row[parent as usize];
            (*history, [prefix.as_slice(), &[code]].concat())
        };
        Ok(self.answer(parents.iter().zip(codes).map(extend).collect(), norm))
    }
}

#[derive(Debug, Clone)]
struct Case {
    codes_per_level: Vec<u32>,
    codes: Vec<u16>,
    histories: Vec<Vec<u32>>,
    denied: Vec<Vec<ItemIndex>>,
    width: usize,
    steps: u64,
    norm: ScoreNorm,
}

impl Case {
    fn catalog(&self) -> Catalog {
        let sids = SemanticIds::new(self.codes_per_level.len(), self.codes.clone()).unwrap();
        let ids: Vec<ItemId> = (0..sids.len()).map(|i| ItemId::from(format!("i{i}"))).collect();
        Catalog::build(&ids, &sids, &self.codes_per_level, CollisionPolicy::Postings, None).unwrap()
    }

    fn model(&self) -> Table {
        Table { vocab: CodeVocab::new(2, &self.codes_per_level), steps: self.steps, poison: None }
    }

    fn search(&self, width: usize) -> Vec<Ranking> {
        let catalog = self.catalog();
        let filters: Vec<LeafFilter> = self.denied.iter().map(|d| LeafFilter::deny_items(&catalog, d)).collect();
        let requests: Vec<Request<'_>> =
            self.histories.iter().zip(&filters).map(|(history, filter)| Request { history, filter }).collect();
        beam_search(&self.model(), &catalog, &requests, BeamOptions { width, norm: self.norm }).unwrap()
    }

    /// The same items, the last of them appended while the catalog serves, and some removed.
    fn live(&self, built: usize, removed: &[ItemIndex]) -> Arc<Catalog> {
        let (levels, id) = (self.codes_per_level.len(), |i: usize| ItemId::from(format!("i{i}")));
        let (first, rest) = self.codes.split_at(built * levels);
        let sids = SemanticIds::new(levels, first.to_vec()).unwrap();
        let ids: Vec<ItemId> = (0..built).map(id).collect();
        let base = Catalog::build(&ids, &sids, &self.codes_per_level, CollisionPolicy::Postings, None).unwrap();
        let mut live = LiveCatalog::new(&base).unwrap();
        for (row, at) in rest.chunks(levels).zip(built..) {
            let sids = SemanticIds::new(levels, row.to_vec()).unwrap();
            live.apply(&Change { add: &[id(at)], add_ids: Some(&sids), ..Change::default() }).unwrap();
        }
        if !removed.is_empty() {
            live.apply(&Change { remove: removed, ..Change::default() }).unwrap();
        }
        live.now()
    }

    fn alive_items(&self, request: usize) -> Vec<ItemIndex> {
        let items = (self.codes.len() / self.codes_per_level.len()) as ItemIndex;
        (0..items).filter(|item| !self.denied[request].contains(item)).collect()
    }

    /// Every alive leaf with its score, best first, by definition.
    fn brute_force(&self, request: usize) -> Vec<(f32, Vec<u16>)> {
        let levels = self.codes_per_level.len();
        let sid = |item: &ItemIndex| &self.codes[*item as usize * levels..(*item as usize + 1) * levels];
        let alive = self.alive_items(request);
        let mut sids: Vec<&[u16]> = alive.iter().map(sid).collect();
        sids.sort_unstable();
        sids.dedup();
        let model = self.model();
        let score = |s: &&[u16]| (model.score(&self.histories[request], s, self.norm, &sids), s.to_vec());
        let mut scored: Vec<(f32, Vec<u16>)> = sids.iter().map(score).collect();
        scored.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
        scored
    }
}

fn norms() -> impl Strategy<Value = ScoreNorm> {
    prop_oneof![Just(ScoreNorm::Full), Just(ScoreNorm::Level), Just(ScoreNorm::Children)]
}

fn cases() -> impl Strategy<Value = Case> {
    let shape = (prop::collection::vec(1u32..6, 1..5), 1usize..50, 1usize..6);
    let options = (1usize..60, prop_oneof![Just(4u64), Just(1 << 40)], norms());
    (shape, options).prop_flat_map(|((codes_per_level, items, requests), (width, steps, norm))| {
        let row: Vec<_> = codes_per_level.iter().map(|&codes| 0u16..codes as u16).collect();
        let codes = prop::collection::vec(row, items).prop_map(|rows| rows.concat());
        let histories = prop::collection::vec(prop::collection::vec(2u32..9, 0..4), requests);
        let denied = prop::collection::vec(prop::collection::vec(0..items as ItemIndex, 0..items), requests);
        (codes, histories, denied).prop_map(move |(codes, histories, denied)| Case {
            codes_per_level: codes_per_level.clone(),
            codes,
            histories,
            denied,
            width,
            steps,
            norm,
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_beam_as_wide_as_the_catalog_is_the_exact_ranking(case in cases()) {
        let catalog = case.catalog();
        for (request, ranking) in case.search(64).iter().enumerate() {
            let expected = case.brute_force(request);
            prop_assert_eq!(ranking.leaves.len(), expected.len());
            for (leaf, (score, sid)) in ranking.leaves.iter().zip(&expected) {
                prop_assert!((leaf.score - score).abs() < 1e-5);
                // Scores are sums in one order on both sides, so even ties agree, except where `Children` adds logs.
                if case.norm != ScoreNorm::Children {
                    prop_assert_eq!(&catalog.trie().semantic_id(leaf.leaf), sid);
                }
            }
            let (model, filter) = (case.model(), LeafFilter::deny_items(&catalog, &case.denied[request]));
            let exact = ExactScorer::new(&model, &catalog, case.norm, 10).unwrap();
            let exact = exact.ranking(&case.histories[request], &filter).unwrap();
            prop_assert_eq!(&exact.leaves, &ranking.leaves);
            prop_assert_eq!(&exact.items, &ranking.items);
        }
    }

    #[test]
    fn beam_search_never_leaves_the_catalog_and_never_loses_an_item(case in cases()) {
        let catalog = case.catalog();
        for (request, ranking) in case.search(case.width).iter().enumerate() {
            let alive = case.alive_items(request);
            let items: Vec<ItemIndex> = ranking.items.iter().map(|scored| scored.item).collect();
            let mut distinct = items.clone();
            distinct.sort_unstable();
            distinct.dedup();
            prop_assert_eq!(distinct.len(), items.len(), "an item came back twice");
            prop_assert!(items.iter().all(|item| alive.contains(item)));
            prop_assert!(items.len() >= alive.len().min(case.width));
            prop_assert!(ranking.items.iter().all(|scored| scored.score.is_finite()));
            let in_order = ranking.leaves.windows(2).all(|w| {
                w[0].score > w[1].score || (w[0].score == w[1].score && w[0].leaf < w[1].leaf)
            });
            prop_assert!(in_order, "beams out of order");
            for depth in 1..=case.codes_per_level.len() {
                let mut prefixes: Vec<&[u16]> =
                    alive.iter().map(|&item| &catalog.semantic_id(item)[..depth]).collect();
                prefixes.sort_unstable();
                prefixes.dedup();
                let expected = prefixes.len().min(case.width) as u32;
                prop_assert_eq!(ranking.stats.beams[depth - 1], expected, "beams after level {}", depth);
            }
        }
    }

    #[test]
    fn a_catalog_that_serves_answers_as_one_that_was_built_of_the_same_items(
        case in cases(),
        built in any::<prop::sample::Index>(),
        removed in prop::collection::btree_set(0u32..50, 0..20),
        allowed in prop::option::of(prop::collection::btree_set(0u32..50, 0..40)),
    ) {
        let items = case.codes.len() / case.codes_per_level.len();
        let removed: Vec<ItemIndex> = removed.into_iter().filter(|&item| (item as usize) < items).collect();
        prop_assume!(removed.len() < items);
        let live = case.live(1 + built.index(items), &removed);
        let merged = live.merged().unwrap();
        let (model, options) = (case.model(), BeamOptions { width: case.width, norm: case.norm });
        for (request, history) in case.histories.iter().enumerate() {
            let search = |catalog: &Catalog| {
                let denied = &case.denied[request];
                let filter = match &allowed {
                    Some(allowed) => {
                        let allowed = Allowed::new(catalog, &Bits::of(50, allowed.iter().copied()));
                        LeafFilter::new(catalog, &allowed, denied).unwrap()
                    }
                    None => LeafFilter::deny_items(catalog, denied),
                };
                let found = beam_search(&model, catalog, &[Request { history, filter: &filter }], options).unwrap();
                let exact = ExactScorer::new(&model, catalog, case.norm, 10).unwrap();
                (found[0].clone(), exact.ranking(history, &filter).unwrap(), filter.why_nothing())
            };
            let (found, exact, reason) = search(&live);
            let (expected, expected_exact, _) = search(&merged);
            prop_assert_eq!(&found.items, &expected.items);
            prop_assert_eq!(&exact.items, &expected_exact.items);
            let may = |item: &ItemIndex| {
                !removed.contains(item) && !case.denied[request].contains(item)
                    && allowed.as_ref().is_none_or(|allowed| allowed.contains(item))
            };
            let alive = (0..items as ItemIndex).filter(may).count();
            prop_assert!(found.items.iter().all(|scored| may(&scored.item)));
            prop_assert!(found.items.len() >= alive.min(case.width), "{} of {alive}", found.items.len());
            prop_assert_eq!(reason.is_some(), alive == 0);
        }
    }

    #[test]
    fn children_scores_are_a_distribution_over_the_alive_leaves(case in cases()) {
        let case = Case { norm: ScoreNorm::Children, ..case };
        for (request, ranking) in case.search(64).iter().enumerate() {
            let total: f32 = ranking.leaves.iter().map(|leaf| leaf.score.exp()).sum();
            let expected = if case.alive_items(request).is_empty() { 0.0 } else { 1.0 };
            prop_assert!((total - expected).abs() < 1e-4, "probabilities add up to {}", total);
        }
    }

    #[test]
    fn the_exact_scorer_ranks_items_as_its_scores_say(case in cases()) {
        let catalog = case.catalog();
        let model = case.model();
        let scorer = ExactScorer::new(&model, &catalog, case.norm, 10).unwrap();
        let history: Vec<ItemIndex> = vec![0];
        let scores = scorer.score_all(&history).unwrap();
        prop_assert_eq!(scores.len(), catalog.len());
        let tokens = sidereal_generator::batches::history_tokens(&catalog, model.vocab(), &history, 10);
        let ranking = scorer.ranking(&tokens, &LeafFilter::allow_all()).unwrap();
        for scored in &ranking.items {
            prop_assert_eq!(scores[scored.item as usize], scored.score);
            prop_assert_eq!(ranking.rank_of(scored.item), Some(rank_of_target(&scores, scored.item, None)));
        }
    }
}

fn fixed_case() -> Case {
    Case {
        codes_per_level: vec![4, 3],
        codes: (0..12u16).flat_map(|i| [i / 3, i % 3]).collect(),
        histories: vec![vec![2, 3], vec![4]],
        denied: vec![vec![], vec![]],
        width: 5,
        steps: 1 << 40,
        norm: ScoreNorm::Level,
    }
}

#[test]
fn answers_do_not_depend_on_the_number_of_threads() {
    let case = Case { histories: (0..23).map(|i| vec![2 + i]).collect(), denied: vec![vec![]; 23], ..fixed_case() };
    let in_pool = |threads: usize| {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| case.search(5))
    };
    assert_eq!(in_pool(1), in_pool(2));
    assert_eq!(in_pool(1), in_pool(7));
}

#[test]
fn a_filter_that_denies_everything_gives_an_empty_ranking() {
    let case = Case { denied: vec![(0..12).collect(), vec![]], ..fixed_case() };
    let rankings = case.search(5);
    assert!(rankings[0].items.is_empty() && rankings[0].leaves.is_empty());
    assert_eq!(rankings[0].stats.beams, [0, 0]);
    assert_eq!(rankings[1].items.len(), 5);
}

#[test]
fn searches_during_changes_merges_and_swaps_answer_from_one_version_each() {
    let case = Case { codes: (0..240u16).flat_map(|i| [i % 4, i / 4 % 3]).collect(), ..fixed_case() };
    let mut live = LiveCatalog::new(&case.catalog()).unwrap();
    let now = RwLock::new(live.now());
    let (model, done) = (case.model(), AtomicBool::new(false));
    let search = || {
        let mut versions = 0;
        let mut last = String::new();
        while !done.load(Ordering::Acquire) || versions == 0 {
            let catalog = Arc::clone(&now.read().unwrap());
            let filter = LeafFilter::deny_items(&catalog, &[0, 7, 100]);
            let requests = [Request { history: &case.histories[0], filter: &filter }];
            let options = BeamOptions { width: 8, norm: ScoreNorm::Level };
            let found = beam_search(&model, &catalog, &requests, options).unwrap();
            let mut items: Vec<ItemIndex> = found[0].items.iter().map(|scored| scored.item).collect();
            assert!(items.iter().all(|&item| catalog.is_alive(item) && ![0, 7, 100].contains(&item)));
            items.sort_unstable();
            assert!(items.windows(2).all(|w| w[0] < w[1]) && items.len() >= 8);
            versions += usize::from(catalog.version() != last);
            last = catalog.version().to_owned();
        }
        versions
    };
    std::thread::scope(|scope| {
        let searchers = [scope.spawn(search), scope.spawn(search)];
        for round in 0..100u16 {
            let add: Vec<ItemId> = (0..3).map(|i| ItemId::from(format!("new {round} {i}"))).collect();
            let sids =
                SemanticIds::new(2, (0..3).flat_map(|i| [(round + i) % 4, (round / 4 + i) % 3]).collect()).unwrap();
            let first = live.now().len() as ItemIndex;
            // One that was built in, one that came in the round before.
            let remove: Vec<ItemIndex> = [u32::from(round) * 2 + 1, first.saturating_sub(2)]
                .into_iter()
                .filter(|&item| live.now().is_alive(item))
                .collect();
            live.apply(&Change { add: &add, add_ids: Some(&sids), remove: &remove, restore: &[] }).unwrap();
            if round % 7 == 0 {
                let merged = live.now().merged().unwrap();
                live.install(merged).unwrap();
            }
            *now.write().unwrap() = live.now();
        }
        done.store(true, Ordering::Release);
        assert!(searchers.into_iter().all(|searcher| searcher.join().unwrap() > 0));
    });
}

#[test]
fn a_score_that_is_no_number_is_an_error() {
    let case = fixed_case();
    let catalog = case.catalog();
    let filter = LeafFilter::allow_all();
    let requests = [Request { history: &case.histories[0], filter: &filter }];
    let search = |poison| {
        let model = Table { poison: Some(poison), ..case.model() };
        beam_search(&model, &catalog, &requests, BeamOptions { width: 12, norm: ScoreNorm::Level })
    };
    let errors: Vec<String> = (0..64).filter_map(|poison| search(poison).err()).map(|e| e.to_string()).collect();
    assert!(!errors.is_empty());
    assert!(errors.iter().all(|e| e.contains("NaN") && e.contains("level")), "{errors:?}");
}

#[test]
fn a_width_of_zero_and_a_model_of_other_codes_are_errors() {
    let case = fixed_case();
    let (catalog, filter) = (case.catalog(), LeafFilter::allow_all());
    let requests = [Request { history: &[], filter: &filter }];
    let options = BeamOptions { width: 0, norm: ScoreNorm::Level };
    assert!(beam_search(&case.model(), &catalog, &requests, options).unwrap_err().to_string().contains("beam"));
    let other = Table { vocab: CodeVocab::new(2, &[4, 4]), ..case.model() };
    let options = BeamOptions { width: 3, norm: ScoreNorm::Level };
    let error = beam_search(&other, &catalog, &requests, options).unwrap_err().to_string();
    assert!(error.contains("[4, 4]") && error.contains("[4, 3]"), "{error}");
}
