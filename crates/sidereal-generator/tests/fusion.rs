//! Fusion: every ranking holds allowed items only, and as many as were asked for; the fit finds what decided the
//! targets, and does not depend on threads.
#![allow(clippy::unwrap_used, missing_docs)]

use sidereal_core::{
    Catalog, CollisionPolicy, Embeddings, Histories, ItemId, ItemIndex, LeafFilter, NoProgress, SemanticIds, Split,
    SplitRule,
};
use sidereal_generator::fusion::{
    FEATURES, FitJob, Form, FusedRanker, Fusion, FusionConfig, Knowledge, KnowledgeJob, Learnt, LinearConfig,
    LinearModel,
};
use sidereal_generator::ranker::ItemRanker;
use sidereal_generator::{ItemScorer, Question, Ranker, Result};
use sidereal_nn::rng::Rng;
use std::sync::Arc;

const ITEMS: usize = 60;

fn catalog() -> Catalog {
    let ids: Vec<ItemId> = (0..ITEMS).map(|i| ItemId::from(format!("item {i}"))).collect();
    let codes = (0..ITEMS as u16).flat_map(|i| [i % 8, i / 8]).collect();
    Catalog::build(&ids, &SemanticIds::new(2, codes).unwrap(), &[8, 8], CollisionPolicy::Postings, None).unwrap()
}

/// Users who mostly step to the item three further on.
fn histories(users: usize) -> (Histories, Split) {
    let mut rng = Rng::new(1, "users");
    let (mut offsets, mut events) = (vec![0u64], Vec::new());
    for _ in 0..users {
        let mut item = rng.below(ITEMS);
        for _ in 0..4 + rng.below(5) {
            events.push(item as ItemIndex);
            item = if rng.uniform() < 0.8 { (item + 3) % ITEMS } else { rng.below(ITEMS) };
        }
        offsets.push(events.len() as u64);
    }
    let names = (0..users).map(|u| format!("user {u}")).collect();
    let histories = Histories::new(names, offsets, events, None, None).unwrap();
    let split = Split::new(&histories, SplitRule::LeaveOneOut).unwrap();
    (histories, split)
}

/// A generator that is right, or says nothing.
#[derive(Debug)]
struct Oracle {
    knows: bool,
}

impl ItemScorer for Oracle {
    fn name(&self) -> &str {
        "oracle"
    }

    fn items(&self) -> usize {
        ITEMS
    }

    fn score_block(&self, histories: &[&[ItemIndex]], scores: &mut [f32]) -> Result<()> {
        for (history, scores) in histories.iter().zip(scores.chunks_exact_mut(ITEMS)) {
            let next = history.last().map(|&last| (last as usize + 3) % ITEMS);
            for (item, score) in scores.iter_mut().enumerate() {
                *score = if self.knows && next == Some(item) { -0.3 } else { -6.0 };
            }
        }
        Ok(())
    }
}

fn knowledge(histories: &Histories, split: &Split) -> Arc<Knowledge> {
    let values = (0..ITEMS * 4).map(|i| ((i * 29 % 31) as f32 - 15.0) / 15.0).collect();
    let vectors = Embeddings::new(ITEMS, 4, values).unwrap();
    let texts: Vec<String> = (0..ITEMS).map(|i| format!("kind {} of {}", i % 7, i % 11)).collect();
    let times: Vec<i64> = (0..histories.events() as i64).map(|i| i * 997 % 5000).collect();
    let job = KnowledgeJob {
        histories,
        split,
        items: ITEMS,
        removed: &[],
        vectors: Some(&vectors),
        texts: Some(&texts),
        times: Some(&times),
        learnt: learnt(histories, split),
    };
    Arc::new(Knowledge::new(job).unwrap())
}

/// A linear model, and vectors of the first items alone: the others came later.
fn learnt(histories: &Histories, split: &Split) -> Learnt {
    let linear = LinearModel::fit(histories, split, ITEMS, LinearConfig::default(), &NoProgress).unwrap();
    let values = (0..50 * 3).map(|i| ((i * 17 % 23) as f32 - 11.0) / 11.0).collect();
    Learnt { linear: Some(linear), item2vec: Some(Embeddings::new(50, 3, values).unwrap()), user_item: None }
}

fn fit(knows: bool, users: usize) -> Fusion {
    fit_form(knows, users, Some(Form::ByPopularity))
}

fn fit_form(knows: bool, users: usize, form: Option<Form>) -> Fusion {
    let (catalog, (histories, split)) = (catalog(), histories(users));
    let generator = ItemRanker(Oracle { knows });
    let knowledge = knowledge(&histories, &split);
    let job = FitJob {
        config: FusionConfig { candidates: 20, penalty: 1.0, form, ..FusionConfig::default() },
        generator: Some(&generator),
        knowledge: &knowledge,
        catalog: &catalog,
        histories: &histories,
        times: None,
        examples: &split.validation,
        seed: 3,
        progress: &NoProgress,
    };
    Fusion::fit(&job).unwrap()
}

fn weight(fusion: &Fusion, name: &str) -> f64 {
    fusion.weights.iter().find(|weight| weight.features == [name]).unwrap().weight
}

#[test]
fn the_fit_trusts_a_generator_that_knows_and_ignores_one_that_says_nothing() {
    let (knowing, silent) = (fit(true, 300), fit(false, 300));
    assert!(weight(&knowing, "generator") > 0.3, "{knowing:?}");
    assert!(weight(&silent, "generator").abs() < 1e-6, "{silent:?}");
    let counts = |fusion: &Fusion| weight(fusion, "after") + weight(fusion, "linear");
    assert!(counts(&silent) > counts(&knowing), "counts have to stand in");
    assert!(knowing.loss[1] < silent.loss[1] && silent.loss[1] < silent.loss[0]);
}

#[test]
fn weights_do_not_depend_on_threads() {
    let in_pool = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| fit_form(true, 200, None))
    };
    assert_eq!(in_pool(1), in_pool(3));
}

#[test]
fn a_form_that_is_not_given_is_the_one_that_does_best_on_users_it_was_not_fitted_on() {
    let fusion = fit_form(false, 300, None);
    assert_eq!(fusion.held_out.iter().map(|held_out| held_out.form).collect::<Vec<_>>(), Form::ALL);
    let best = fusion.held_out.iter().map(|held_out| held_out.ndcg_10).fold(0.0, f64::max);
    let chosen = fusion.held_out.iter().find(|held_out| held_out.form == fusion.form).unwrap();
    assert!(chosen.ndcg_10 == best && best > 0.2 && best <= 1.0, "{fusion:?}");
    assert!(fit_form(false, 300, Some(Form::Plain)).held_out.is_empty());
}

#[test]
fn what_was_learnt_of_more_items_than_the_catalog_has_is_refused() {
    let (histories, split) = histories(20);
    let values = vec![1.0; (ITEMS + 1) * 2];
    let learnt = Learnt { item2vec: Some(Embeddings::new(ITEMS + 1, 2, values).unwrap()), ..Learnt::default() };
    let job = KnowledgeJob {
        histories: &histories,
        split: &split,
        items: ITEMS,
        removed: &[],
        vectors: None,
        texts: None,
        times: None,
        learnt,
    };
    let error = Knowledge::new(job).unwrap_err().to_string();
    assert!(error.contains("61") && error.contains("fit the fusion again"), "{error}");
}

#[test]
fn a_fused_ranking_holds_allowed_items_once_and_as_many_as_asked() {
    let (catalog, (histories, split)) = (catalog(), histories(150));
    let ranker = FusedRanker::new(
        Some(Arc::new(ItemRanker(Oracle { knows: true }))),
        knowledge(&histories, &split),
        fit(true, 150),
    );
    let ranker = ranker.unwrap();
    let denied: Vec<ItemIndex> = (0..40).collect();
    let filter = LeafFilter::deny_items(&catalog, &denied);
    for history in [&[][..], &[5][..], &[5, 8, 11, 14, 50, 51][..]] {
        for beam in [1, 10, 100] {
            let ranking = &ranker.rank(&catalog, &[Question::new(history, &filter)], beam).unwrap()[0];
            let mut items: Vec<ItemIndex> = ranking.items.iter().map(|scored| scored.item).collect();
            assert!(items.len() >= beam.min(20), "{} of {beam}", items.len());
            assert!(items.iter().all(|&item| item >= 40));
            assert!(ranking.items.windows(2).all(|pair| pair[0].score >= pair[1].score));
            items.sort_unstable();
            items.dedup();
            assert_eq!(items.len(), ranking.items.len());
        }
    }
    let everything = LeafFilter::allow_all();
    let all = ranker.score_all(&catalog, &Question::new(&[5, 8], &everything)).unwrap();
    assert!(all.iter().all(|score| score.is_finite()));
    assert!((all.iter().map(|score| score.exp()).sum::<f32>() - 1.0).abs() < 1e-4);
}

#[test]
fn nobody_to_learn_from_is_an_error_with_a_mend() {
    let (catalog, (histories, split)) = (catalog(), histories(20));
    let knowledge = knowledge(&histories, &split);
    let job = FitJob {
        config: FusionConfig::default(),
        generator: None,
        knowledge: &knowledge,
        catalog: &catalog,
        histories: &histories,
        times: None,
        examples: &[],
        seed: 3,
        progress: &NoProgress,
    };
    let error = Fusion::fit(&job).unwrap_err().to_string();
    assert!(error.contains("validation"), "{error}");
}

#[test]
fn features_are_left_out_by_name() {
    let all: Vec<String> = FEATURES.iter().map(|feature| feature.name.to_owned()).collect();
    let config: FusionConfig = serde_json::from_str(r#"{"without": ["generator", "seen"]}"#).unwrap();
    assert!(config.without.has(0) && config.without.has(all.len() - 1) && !config.without.has(1));
    assert_eq!(serde_json::to_value(config).unwrap()["without"], serde_json::json!(["generator", "seen"]));
    let error = serde_json::from_str::<FusionConfig>(r#"{"without": ["colour"]}"#).unwrap_err().to_string();
    assert!(error.contains("colour") && error.contains("neighbours"), "{error}");
}
