//! Beam search against brute force, with models that are tables of random numbers.
#![allow(clippy::unwrap_used, missing_docs)]

mod table;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};

use proptest::prelude::*;
use sidereal_core::catalog::{Change, LiveCatalog};
use sidereal_core::filter::{Allowed, Bits};
use sidereal_core::metrics::rank_of_target;
use sidereal_core::{Catalog, CodeVocab, ItemId, ItemIndex, LeafFilter, SemanticIds};
use sidereal_generator::beam::{BeamOptions, Request, beam_search};
use sidereal_generator::exact::ExactScorer;
use sidereal_generator::{ItemScorer, NextCodeModel, ScoreNorm};
use table::{Case, Table, cases};

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
        let (model, options) = (case.model(), BeamOptions::new(case.width, case.norm));
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
                let found = beam_search(&model, catalog, &[Request { history, filter: &filter }], &options).unwrap();
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
        sharpness: 4.0,
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
            let options = BeamOptions::new(8, ScoreNorm::Level);
            let found = beam_search(&model, &catalog, &requests, &options).unwrap();
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
        beam_search(&model, &catalog, &requests, &BeamOptions::new(12, ScoreNorm::Level))
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
    let options = BeamOptions::new(0, ScoreNorm::Level);
    assert!(beam_search(&case.model(), &catalog, &requests, &options).unwrap_err().to_string().contains("beam"));
    let other = Table { vocab: CodeVocab::new(2, &[4, 4]), ..case.model() };
    let options = BeamOptions::new(3, ScoreNorm::Level);
    let error = beam_search(&other, &catalog, &requests, &options).unwrap_err().to_string();
    assert!(error.contains("[4, 4]") && error.contains("[4, 3]"), "{error}");
}
