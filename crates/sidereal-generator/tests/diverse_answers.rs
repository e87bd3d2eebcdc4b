//! Widths by level, quotas, likeness and pages, against their definitions.
#![allow(clippy::unwrap_used, missing_docs)]

mod table;

use std::collections::HashMap;

use proptest::prelude::*;
use sidereal_core::{Catalog, Embeddings, ItemIndex, LeafFilter};
use sidereal_generator::beam::{BeamOptions, Request, beam_search};
use sidereal_generator::diversity::{Diversity, ItemVectors, Mmr};
use sidereal_generator::ranker::ItemRanker;
use sidereal_generator::{ItemScorer, Question, Quota, Ranker, Ranking, Result, ScoreNorm, ScoredItem, Search, Widths};
use table::{Case, cases, cases_of};

/// Cases with so many items that beams are passed over, and a search of any widths and quota.
fn searches() -> impl Strategy<Value = (Case, Search)> {
    let quota = prop::option::of((1usize..5, 1usize..20));
    (cases_of(2..14, 300), prop::collection::vec(1usize..25, 4), any::<bool>(), quota).prop_map(
        |(case, widths, schedule, quota)| {
            let levels = case.codes_per_level.len();
            let widths = if schedule { Widths::from(widths[..levels].to_vec()) } else { widths[0].into() };
            let quota = quota.map(|(per_code, wanted)| Quota { per_code, wanted });
            (case, Search { widths, quota })
        },
    )
}

fn first_code(catalog: &Catalog, item: ItemIndex) -> u16 {
    catalog.semantic_id(item)[0]
}

/// The most items that fit a quota.
fn fitting(catalog: &Catalog, items: &[ItemIndex], per_code: usize) -> usize {
    let mut of_code: HashMap<u16, usize> = HashMap::new();
    items.iter().for_each(|&item| *of_code.entry(first_code(catalog, item)).or_default() += 1);
    of_code.values().map(|&count| count.min(per_code)).sum()
}

/// The first `k` items of a ranking of which no more than `per_code` have the same first code.
fn struck(catalog: &Catalog, ranked: &[ScoredItem], per_code: usize, k: usize) -> Vec<ScoredItem> {
    let mut chosen: Vec<ScoredItem> = Vec::new();
    for scored in ranked {
        let code = first_code(catalog, scored.item);
        if chosen.len() < k && chosen.iter().filter(|c| first_code(catalog, c.item) == code).count() < per_code {
            chosen.push(*scored);
        }
    }
    chosen
}

fn items(scored: &[ScoredItem]) -> Vec<ItemIndex> {
    scored.iter().map(|scored| scored.item).collect()
}

/// Scores that are a hash of the item.
#[derive(Debug)]
struct Scores(Vec<f32>);

impl ItemScorer for Scores {
    fn name(&self) -> &str {
        "scores"
    }

    fn items(&self) -> usize {
        self.0.len()
    }

    fn score_block(&self, histories: &[&[ItemIndex]], scores: &mut [f32]) -> Result<()> {
        let rows = scores.chunks_exact_mut(self.0.len());
        rows.zip(histories).for_each(|(row, _)| row.copy_from_slice(&self.0));
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_search_is_what_its_definition_says_for_any_widths_and_quota((case, search) in searches()) {
        let catalog = case.catalog();
        for (request, ranking) in case.search(search.clone()).iter().enumerate() {
            let found: Vec<(f32, Vec<u16>)> =
                ranking.leaves.iter().map(|l| (l.score, catalog.trie().semantic_id(l.leaf))).collect();
            prop_assert_eq!(found, case.plain_search(request, &search));
        }
    }

    #[test]
    fn no_item_is_lost_where_no_level_is_narrower_than_what_is_wanted((case, search) in searches()) {
        let k = search.widths.at_least(3).least();
        let search = Search { widths: search.widths.at_least(3), quota: None };
        for (request, ranking) in case.search(search).iter().enumerate() {
            prop_assert!(ranking.items.len() >= case.alive_items(request).len().min(k));
        }
    }

    #[test]
    fn an_answer_has_as_many_items_as_its_quota_allows(
        (case, search) in searches(),
        per_code in 1usize..5,
        k in 1usize..20,
    ) {
        let catalog = case.catalog();
        let diversity = Diversity::new(Some(per_code), None).unwrap();
        let widths = search.widths.at_least(k);
        let found = case.search(Search { widths, quota: diversity.quota(k) });
        let all = case.search(Search { widths: 1000.into(), quota: diversity.quota(k) });
        let exact = case.search(1000);
        for request in 0..case.histories.len() {
            let possible = fitting(&catalog, &case.alive_items(request), per_code).min(k);
            let chosen = diversity.choose(&catalog, &found[request].items, &[], k);
            prop_assert_eq!(chosen.len(), possible);
            prop_assert_eq!(&chosen, &struck(&catalog, &found[request].items, per_code, k));
            // A beam as wide as the catalog is the exact ranking without surplus items.
            let chosen = diversity.choose(&catalog, &all[request].items, &[], k);
            prop_assert_eq!(chosen, struck(&catalog, &exact[request].items, per_code, k));
        }
    }

    #[test]
    fn a_ranker_without_beams_meets_a_quota_too(case in cases(), per_code in 1usize..4, k in 1usize..20) {
        let catalog = case.catalog();
        let score = |item: usize| ((item as u32).wrapping_mul(2_654_435_761) >> 20) as f32;
        let scores: Vec<f32> = (0..catalog.len()).map(score).collect();
        let ranker = ItemRanker(Scores(scores));
        let filters: Vec<LeafFilter> = case.denied.iter().map(|d| LeafFilter::deny_items(&catalog, d)).collect();
        let questions: Vec<Question<'_>> = filters.iter().map(|filter| Question::new(&[], filter)).collect();
        let diversity = Diversity::new(Some(per_code), None).unwrap();
        let search = Search { widths: k.into(), quota: diversity.quota(k) };
        let found = ranker.search(&catalog, &questions, &search).unwrap();
        let exact = ranker.rank(&catalog, &questions, catalog.len()).unwrap();
        for (found, exact) in found.iter().zip(&exact) {
            let chosen = diversity.choose(&catalog, &found.items, &[], k);
            prop_assert_eq!(chosen, struck(&catalog, &exact.items, per_code, k));
        }
    }

    #[test]
    fn every_place_goes_to_an_item_that_no_other_beats_by_the_definition_of_mmr(
        case in cases(),
        values in prop::collection::vec(-3i8..4, 4 * 6 * 2),
        lambda in prop_oneof![Just(0.0), Just(1.0), 0.0..1.0],
        quota in prop::option::of(1usize..4),
        shown in prop::collection::vec(any::<prop::sample::Index>(), 0..3),
        k in 1usize..12,
    ) {
        let catalog = case.catalog();
        let book = |at: usize| Embeddings::new(6, 2, values[at * 12..][..12].iter().map(|&v| v.into()).collect());
        // One level fewer than there are: codes of suffixes stand for nothing.
        let levels = case.codes_per_level.len().max(2) - 1;
        let books: Vec<Embeddings> = (0..levels).map(|level| book(level).unwrap()).collect();
        let vector = |item: ItemIndex| -> [f64; 2] {
            let codes = books.iter().zip(catalog.semantic_id(item));
            codes.fold([0.0; 2], |[a, b], (book, &code)| {
                let row = book.row(code.into());
                [a + f64::from(row[0]), b + f64::from(row[1])]
            })
        };
        let cosine = |a: ItemIndex, b: ItemIndex| {
            let ([a, b], [c, d]) = (vector(a), vector(b));
            let lengths = a.hypot(b) * c.hypot(d);
            if lengths > 0.0 { (a * c + b * d) / lengths } else { 0.0 }
        };
        let shown: Vec<ItemIndex> = shown.iter().map(|at| at.index(catalog.len()) as ItemIndex).collect();
        let mmr = Mmr::new(lambda, ItemVectors::Codewords(books.clone())).unwrap();
        let diversity = Diversity::new(quota, Some(mmr)).unwrap();
        for ranking in case.search(1000) {
            let ranked = &ranking.items;
            let chosen = diversity.choose(&catalog, ranked, &shown, k);
            let (best, worst) = (ranked.first().map_or(0.0, |s| s.score), ranked.last().map_or(0.0, |s| s.score));
            let relevance = |s: &ScoredItem| {
                if best > worst { f64::from(s.score - worst) / f64::from(best - worst) } else { 1.0 }
            };
            for (place, scored) in chosen.iter().enumerate() {
                let placed: Vec<ItemIndex> = shown.iter().copied().chain(items(&chosen[..place])).collect();
                let value = |s: &ScoredItem| {
                    let likeness = placed.iter().map(|&other| cosine(s.item, other)).fold(f64::NEG_INFINITY, f64::max);
                    lambda * relevance(s) - if placed.is_empty() { 0.0 } else { (1.0 - lambda) * likeness }
                };
                let left = |s: &&ScoredItem| {
                    let code = first_code(&catalog, s.item);
                    let same = chosen[..place].iter().filter(|c| first_code(&catalog, c.item) == code).count();
                    !chosen[..place].contains(s) && quota.is_none_or(|most| same < most)
                };
                let open: Vec<&ScoredItem> = ranked.iter().filter(left).collect();
                prop_assert!(open.iter().all(|other| value(other) <= value(scored) + 1e-5), "place {}", place);
                let twin = open.iter().find(|other| {
                    other.score == scored.score
                        && catalog.semantic_id(other.item) == catalog.semantic_id(scored.item)
                });
                prop_assert_eq!(twin.map(|twin| twin.item), Some(scored.item), "the first of equals comes first");
            }
            let possible = fitting(&catalog, &items(ranked), quota.unwrap_or(usize::MAX)).min(k);
            prop_assert_eq!(chosen.len(), possible);
            if lambda == 1.0 {
                prop_assert_eq!(&chosen, &struck(&catalog, ranked, quota.unwrap_or(usize::MAX), k));
            }
        }
    }

    #[test]
    fn pages_are_disjoint_and_complete_and_one_list_where_the_beam_is_wide(
        case in cases(),
        k in 1usize..8,
        wide in any::<bool>(),
    ) {
        // Scores of children change with what is denied; the others are the same on every page.
        let case = Case { norm: if case.norm == ScoreNorm::Children { ScoreNorm::Level } else { case.norm }, ..case };
        let (catalog, model) = (case.catalog(), case.model());
        let width = if wide { 1000 } else { k };
        for (request, history) in case.histories.iter().enumerate() {
            let page = |shown: &[ItemIndex]| -> Ranking {
                let filter = LeafFilter::deny_items(&catalog, &[case.denied[request].as_slice(), shown].concat());
                let requests = [Request { history, filter: &filter }];
                beam_search(&model, &catalog, &requests, &BeamOptions::new(width, case.norm)).unwrap().remove(0)
            };
            let whole = page(&[]);
            let mut shown: Vec<ItemIndex> = Vec::new();
            loop {
                let next: Vec<ItemIndex> = items(&page(&shown).items).into_iter().take(k).collect();
                prop_assert!(next.iter().all(|item| !shown.contains(item)));
                shown.extend(&next);
                if next.len() < k {
                    break;
                }
            }
            if wide {
                prop_assert_eq!(&shown, &items(&whole.items));
            }
            shown.sort_unstable();
            prop_assert_eq!(shown, case.alive_items(request));
        }
    }
}

#[test]
fn beams_that_cannot_enter_are_passed_over_and_counted() {
    let case = Case {
        codes_per_level: vec![20, 20, 20],
        codes: (0..3000u16).flat_map(|i| [i % 20, i / 20 % 20, i / 400]).collect(),
        histories: (0..6).map(|i| vec![2 + i]).collect(),
        denied: vec![vec![]; 6],
        width: 10,
        steps: 1 << 40,
        sharpness: 30.0,
        norm: ScoreNorm::Level,
    };
    let catalog = case.catalog();
    for norm in [ScoreNorm::Full, ScoreNorm::Level, ScoreNorm::Children] {
        for quota in [None, Some(Quota { per_code: 1, wanted: 5 })] {
            let (case, search) = (Case { norm, ..case.clone() }, Search { widths: 10.into(), quota });
            let rankings = case.search(search.clone());
            assert!(rankings.iter().map(|ranking| ranking.stats.pruned).sum::<u64>() > 0, "{norm:?} {quota:?}");
            for (request, ranking) in rankings.iter().enumerate() {
                let found: Vec<(f32, Vec<u16>)> =
                    ranking.leaves.iter().map(|l| (l.score, catalog.trie().semantic_id(l.leaf))).collect();
                assert_eq!(found, case.plain_search(request, &search), "{norm:?} {quota:?}");
            }
        }
    }
}

#[test]
fn quotas_weights_and_widths_that_mean_nothing_are_refused() {
    for lambda in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
        let error = Mmr::new(lambda, ItemVectors::Codewords(Vec::new())).unwrap_err().to_string();
        assert!(error.contains("0 (unlike) to 1"), "{error}");
    }
    assert!(Diversity::new(Some(0), None).unwrap_err().to_string().contains("quota"));
    let case = Case {
        codes_per_level: vec![2, 2],
        codes: vec![0, 0, 1, 1],
        histories: vec![vec![]],
        denied: vec![vec![]],
        width: 1,
        steps: 9,
        sharpness: 4.0,
        norm: ScoreNorm::Level,
    };
    let (catalog, model, filter) = (case.catalog(), case.model(), LeafFilter::allow_all());
    let ranker = ItemRanker(Scores(vec![1.0, 2.0]));
    for (search, part) in [
        (Search::from(Widths::from(vec![3, 3, 3])), "semantic IDs of 2 codes"),
        (Search::from(Widths::from(vec![3, 0])), "level 1"),
        (Search { widths: 3.into(), quota: Some(Quota { per_code: 0, wanted: 3 }) }, "quota"),
    ] {
        let options = BeamOptions::new(search.clone(), ScoreNorm::Level);
        let error = beam_search(&model, &catalog, &[Request { history: &[], filter: &filter }], &options).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
        let error = ranker.search(&catalog, &[Question::new(&[], &filter)], &search).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[test]
fn likeness_by_item_vectors_passes_over_items_without_one() {
    let case = Case {
        codes_per_level: vec![4],
        codes: vec![0, 1, 2, 3],
        histories: vec![vec![]],
        denied: vec![vec![]],
        width: 4,
        steps: 1,
        sharpness: 4.0,
        norm: ScoreNorm::Level,
    };
    let catalog = case.catalog();
    // Items 0 and 1 are alike, 2 is unlike both, 3 came later and has no vector.
    let vectors = Embeddings::new(3, 2, vec![1.0, 0.0, 2.0, 0.0, -1.0, 0.0]).unwrap();
    let diversity = Diversity::new(None, Some(Mmr::new(0.5, ItemVectors::OfItems(vectors)).unwrap())).unwrap();
    let ranked: Vec<ScoredItem> = (0..4).map(|item| ScoredItem { item, score: -1.0 }).collect();
    assert_eq!(items(&diversity.choose(&catalog, &ranked, &[], 4)), [0, 2, 3, 1]);
    assert_eq!(items(&diversity.choose(&catalog, &ranked, &[2], 2)), [0, 3]);
}
