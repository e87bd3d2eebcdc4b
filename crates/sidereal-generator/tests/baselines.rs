//! The baselines against the script that defines them, `benches/peers/floors.py`.
//!
//! Golden file: `fixtures/floors/golden.json`, written by `fixtures/floors/make.py`.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use sidereal_core::metrics::{Metric, RankingMetrics, Row, rank_of_target, top_k};
use sidereal_core::{Embeddings, Histories, NoProgress, Split, SplitRule};
use sidereal_generator::baselines::{BASELINES, Baseline, Statistics, rank_examples};
use sidereal_generator::{ItemScorer, Status};

#[derive(Deserialize)]
struct Golden {
    items: usize,
    embeddings: Vec<Vec<f32>>,
    histories: Vec<Vec<u32>>,
    baselines: BTreeMap<String, BTreeMap<String, GoldenRow>>,
}

#[derive(Deserialize)]
struct GoldenRow {
    ranks: Vec<u32>,
    #[serde(flatten)]
    metrics: BTreeMap<String, f64>,
}

struct Set {
    golden: Golden,
    histories: Histories,
    split: Split,
    statistics: Arc<Statistics>,
}

fn set() -> Set {
    let golden: Golden = serde_json::from_str(include_str!("fixtures/floors/golden.json")).unwrap();
    let histories = histories(&golden.histories);
    let split = Split::new(&histories, SplitRule::LeaveOneOut).unwrap();
    let embeddings = embeddings(&golden.embeddings);
    let statistics = Arc::new(Statistics::new(&histories, &split, golden.items, Some(&embeddings)).unwrap());
    Set { golden, histories, split, statistics }
}

fn histories(of: &[Vec<u32>]) -> Histories {
    let mut offsets = vec![0u64];
    of.iter().for_each(|items| offsets.push(offsets.last().unwrap() + items.len() as u64));
    Histories::new((0..of.len()).map(|user| user.to_string()).collect(), offsets, of.concat(), None, None).unwrap()
}

fn embeddings(rows: &[Vec<f32>]) -> Embeddings {
    Embeddings::new(rows.len(), rows[0].len(), rows.concat()).unwrap()
}

#[test]
fn every_baseline_gives_every_user_the_rank_that_floors_gives_in_both_modes() {
    let set = set();
    assert_eq!(set.golden.baselines.len(), BASELINES.len());
    for baseline in Baseline::all(&set.statistics) {
        let both = rank_examples(&baseline, &set.histories, &set.split.test, 20, &NoProgress).unwrap();
        for (mode, row) in [("no_filter", &both.no_filter), ("seen_removed", &both.seen_removed)] {
            let golden = &set.golden.baselines[baseline.name()][mode];
            let expected: Vec<Option<u32>> = golden.ranks.iter().copied().map(Some).collect();
            assert_eq!(row.ranks, expected, "{} {mode}", baseline.name());
            let metrics = RankingMetrics::from_ranks(&row.ranks, &[1, 5, 10, 20, 50]);
            assert_eq!(golden.metrics.len(), 10);
            for (name, expected) in &golden.metrics {
                let found = metrics.get(name.parse::<Metric>().unwrap()).unwrap();
                assert!((found - expected).abs() < 1e-9, "{} {mode} {name}: {found}, {expected}", baseline.name());
            }
        }
    }
}

#[test]
fn ranks_and_lists_of_all_users_are_those_of_each_user_alone() {
    let set = set();
    for baseline in Baseline::all(&set.statistics) {
        let both = rank_examples(&baseline, &set.histories, &set.split.test, 20, &NoProgress).unwrap();
        for (user, example) in set.split.test.iter().enumerate() {
            let history = example.history(&set.histories);
            let scores = baseline.score_all(history).unwrap();
            let check = |row: &Row, seen: Option<&[u32]>| {
                let name = baseline.name();
                let rank = rank_of_target(&scores, example.target(&set.histories), seen);
                assert_eq!(row.ranks[user], Some(rank), "{name}, user {user}");
                let list: Vec<u32> = top_k(&scores, 20, seen).into_iter().map(|entry| entry.0).collect();
                assert_eq!(row.lists.of(user), list, "{name}, user {user}");
            };
            check(&both.no_filter, None);
            check(&both.seen_removed, Some(history));
        }
    }
}

#[test]
fn figures_do_not_depend_on_the_number_of_threads() {
    let set = set();
    for baseline in Baseline::all(&set.statistics) {
        let rank = || rank_examples(&baseline, &set.histories, &set.split.test, 5, &NoProgress).unwrap();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert_eq!(pool.install(rank), rank());
    }
}

#[test]
fn a_catalog_of_several_tiles_and_blocks_ranks_as_a_plain_sum_does() {
    // More items than a tile of products and more users than a block holds.
    let (items, width, users) = (1300u32, 3, 300u32);
    let vectors: Vec<Vec<f32>> =
        (0..items).map(|i| (0..width).map(|d| ((i * 37 + d * 101) % 97) as f32 - 48.0).collect()).collect();
    let of: Vec<Vec<u32>> = (0..users).map(|u| (0..7).map(|h| (u * 113 + h * h * 29) % items).collect()).collect();
    let all = histories(&of);
    let split = Split::new(&all, SplitRule::LeaveOneOut).unwrap();
    let statistics = Arc::new(Statistics::new(&all, &split, items as usize, Some(&embeddings(&vectors))).unwrap());

    let popularity = split.training_popularity(&all, items as usize);
    let mut counts = vec![0.0f64; (items * items) as usize];
    for s in &of {
        for (i, j) in (0..5usize).flat_map(|i| (i + 1..5).map(move |j| (i, j))) {
            counts[(s[i] * items + s[j]) as usize] += 1.0 / (j - i) as f64;
            counts[(s[j] * items + s[i]) as usize] += 0.5 / (j - i) as f64;
        }
    }
    let unit: Vec<Vec<f64>> = vectors
        .iter()
        .map(|row| {
            let length = row.iter().map(|v| v * v).sum::<f32>().sqrt();
            row.iter().map(|v| f64::from(v / length)).collect()
        })
        .collect();
    let fused = |history: &[u32], item: usize| -> f64 {
        let recent = || history.iter().rev().take(10).zip(0..).map(|(&i, age)| (i as usize, 0.6f64.powi(age)));
        let near: f64 = recent().map(|(i, w)| w * counts[i * items as usize + item]).sum();
        let cosine: f64 =
            recent().map(|(i, w)| w * unit[i].iter().zip(&unit[item]).map(|(a, b)| a * b).sum::<f64>()).sum();
        (5.0 * near * f64::from(popularity[item].max(1)).powf(-0.3)).ln_1p() + 3.0 * cosine
    };
    let baselines = Baseline::all(&statistics);
    let baseline = baselines.iter().find(|baseline| baseline.name() == "fused").unwrap();
    let block: Vec<&[u32]> = split.test.iter().map(|example| example.history(&all)).collect();
    let mut scores = vec![0.0; block.len() * items as usize];
    baseline.score_block(&block, &mut scores).unwrap();
    for (history, scores) in block.iter().zip(scores.chunks(items as usize)).step_by(23) {
        for (item, &score) in scores.iter().enumerate() {
            let slow = fused(history, item);
            assert!((f64::from(score) - slow).abs() < 1e-5, "item {item}: {score}, {slow}");
        }
    }
    let both = rank_examples(baseline, &all, &split.test, 10, &NoProgress).unwrap();
    let ranks = split.test.iter().zip(scores.chunks(items as usize));
    let ranks: Vec<Option<u32>> = ranks.map(|(e, scores)| Some(rank_of_target(scores, e.target(&all), None))).collect();
    assert_eq!(both.no_filter.ranks, ranks);
}

#[test]
fn items_with_equal_vectors_get_equal_scores_and_a_user_without_history_popularity_or_nothing() {
    let set = set();
    for baseline in Baseline::all(&set.statistics) {
        let scores = baseline.score_all(&[3, 8, 10]).unwrap();
        assert!(scores.iter().all(|score| score.is_finite()), "{}", baseline.name());
        if baseline.name() == "text" {
            assert_eq!((scores[11], scores[12], scores[40]), (scores[10], scores[10], scores[10]));
            assert_eq!(scores[33], 0.0, "a vector of zeros is like nothing");
        }
        let nobody = baseline.score_all(&[]).unwrap();
        let best = top_k(&nobody, 1, None)[0];
        match baseline.name() {
            "popularity" | "last_item" | "neighbours" => assert!(best.1 > 0.0, "{}", baseline.name()),
            _ => assert!(nobody.iter().all(|&score| score == 0.0), "{}", baseline.name()),
        }
    }
}

#[test]
fn without_item_vectors_the_baselines_that_need_none_remain() {
    let set = set();
    let bare = Arc::new(Statistics::new(&set.histories, &set.split, set.golden.items, None).unwrap());
    let left: Vec<&str> = Baseline::all(&bare).iter().map(|baseline| baseline.method().name).collect();
    assert_eq!(left, ["popularity", "last_item", "neighbours"]);
    assert!(BASELINES.iter().all(|method| method.status == Status::Stable && !method.paper.is_empty()));
}

#[test]
fn data_that_do_not_fit_the_catalog_are_refused_with_both_numbers() {
    let set = set();
    let message = |error: sidereal_generator::Error| error.to_string();
    let few = Statistics::new(&set.histories, &set.split, 20, None).map_err(message).unwrap_err();
    assert!(few.contains("20 items"), "{few}");
    let vectors = embeddings(&set.golden.embeddings[1..]);
    let short = Statistics::new(&set.histories, &set.split, set.golden.items, Some(&vectors)).map_err(message);
    let short = short.unwrap_err();
    assert!(short.contains("60 embeddings") && short.contains("61 items"), "{short}");
    let unknown = Baseline::all(&set.statistics)[0].score_all(&[4, 61]).map_err(message).unwrap_err();
    assert!(unknown.contains("item 61") && unknown.contains("61 items"), "{unknown}");
}
