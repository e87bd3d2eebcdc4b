//! Ranking metrics against figures of an independent implementation.
//!
//! Golden file: `fixtures/metrics/ranking_metrics.json`, 64 users with 50 ranked ids of 500 each, written with NumPy by
//! `benches/peers/make_fixtures.py`; its NDCG@10 of several targets was held against scikit-learn's `ndcg_score`.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use serde::Deserialize;
use sidereal_core::metrics::{DEFAULT_KS, Metric, RankedLists, RankingMetrics, multi_target_metrics};

#[derive(Deserialize)]
struct Golden {
    ranked: Vec<Vec<u32>>,
    target: Vec<u32>,
    targets_multi: Vec<Vec<u32>>,
    single: BTreeMap<String, f64>,
    multi: BTreeMap<String, f64>,
    per_user: BTreeMap<String, Vec<f64>>,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("fixtures/metrics/ranking_metrics.json")).unwrap()
}

/// The golden file writes `NDCG@10`.
fn metric(name: &str) -> Metric {
    name.to_lowercase().parse().unwrap()
}

fn ranks(golden: &Golden) -> Vec<Option<u32>> {
    let place = |(list, target): (&Vec<u32>, &u32)| list.iter().position(|item| item == target).map(|p| p as u32);
    golden.ranked.iter().zip(&golden.target).map(place).collect()
}

#[test]
fn metrics_of_one_target_equal_the_golden_means_and_users() {
    let golden = golden();
    let ranks = ranks(&golden);
    let metrics = RankingMetrics::from_ranks(&ranks, DEFAULT_KS);
    assert_eq!(golden.single.len(), 3 * DEFAULT_KS.len());
    for (name, expected) in &golden.single {
        let found = metrics.get(metric(name)).unwrap();
        assert!((found - expected).abs() < 1e-12, "{name}: {found}, golden {expected}");
    }
    for (name, users) in &golden.per_user {
        assert_eq!(users.len(), ranks.len());
        for (user, (&rank, expected)) in ranks.iter().zip(users).enumerate() {
            let found = metric(name).of_rank(rank);
            assert!((found - expected).abs() < 1e-12, "{name}, user {user}: {found}, golden {expected}");
        }
    }
}

#[test]
fn metrics_of_several_targets_equal_the_golden_means() {
    let golden = golden();
    let mut lists = RankedLists::new(50);
    golden.ranked.iter().for_each(|list| lists.push(list.iter().copied()));
    let metrics = multi_target_metrics(&lists, &golden.targets_multi, DEFAULT_KS).unwrap();
    assert_eq!((metrics.users, golden.multi.len()), (64, 2 * DEFAULT_KS.len()));
    for (name, expected) in &golden.multi {
        let found = metrics.get(metric(name)).unwrap();
        assert!((found - expected).abs() < 1e-12, "{name}: {found}, golden {expected}");
    }
}

#[test]
fn sets_of_one_target_give_the_metrics_of_one_target() {
    let golden = golden();
    let mut lists = RankedLists::new(50);
    golden.ranked.iter().for_each(|list| lists.push(list.iter().copied()));
    let mut sets: Vec<Vec<u32>> = golden.target.iter().map(|&target| vec![target, target]).collect();
    let single = RankingMetrics::from_ranks(&ranks(&golden), DEFAULT_KS);
    let multi = multi_target_metrics(&lists, &sets, DEFAULT_KS).unwrap();
    for &(metric, expected) in single.values() {
        assert!((multi.get(metric).unwrap() - expected).abs() < 1e-12, "{metric}");
    }
    sets[0].clear();
    assert_eq!(multi_target_metrics(&lists, &sets, DEFAULT_KS).unwrap().users, 63, "no target, no part in the mean");
    sets.pop();
    assert!(multi_target_metrics(&lists, &sets, DEFAULT_KS).unwrap_err().to_string().contains("63 sets"));
}
