//! What Hugging Face's models of `fixtures` said, and how near to it is near enough.
#![allow(dead_code, clippy::unwrap_used, missing_docs)]

use std::path::PathBuf;

use candle_core::Tensor;
use serde::Deserialize;
use sidereal_core::{Catalog, CodeVocab, CollisionPolicy, ItemId, SemanticIds};
use sidereal_generator::Ranking;
use sidereal_nn::tolerance::LOGITS;

/// The order of beams is compared only where neighbours differ by more: the fixtures' own advice.
pub(crate) const TIE: f32 = 1e-4;

pub(crate) fn folder(variant: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(variant)
}

pub(crate) fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

pub(crate) fn agree(place: &str, ours: &[f32], theirs: &[f32]) {
    assert_eq!(ours.len(), theirs.len(), "{place}");
    let breach = ours.iter().zip(theirs).position(|(a, b)| !LOGITS.holds(f64::from(*a), f64::from(*b)));
    assert!(breach.is_none(), "{place}: {:?}", breach.map(|at| (at, ours[at], theirs[at])));
}

pub(crate) fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max)
}

#[derive(Deserialize)]
pub(crate) struct Beams {
    pub(crate) catalog: Vec<Vec<u16>>,
    pub(crate) base: u32,
    pub(crate) levels: usize,
    pub(crate) codes_per_level: u32,
    pub(crate) num_beams: usize,
    pub(crate) sequences: Vec<Vec<Vec<u16>>>,
    pub(crate) scores: Vec<Vec<f32>>,
    pub(crate) exhaustive_top10: Vec<Vec<Vec<u16>>>,
    pub(crate) exhaustive_scores: Vec<Vec<f32>>,
}

impl Beams {
    pub(crate) fn read(variant: &str) -> Self {
        serde_json::from_slice(&std::fs::read(folder(variant).join("beams.json")).unwrap()).unwrap()
    }

    pub(crate) fn catalog(&self) -> (Catalog, CodeVocab) {
        let ids: Vec<ItemId> = (0..self.catalog.len()).map(|i| ItemId::from(format!("item {i}"))).collect();
        let sids = SemanticIds::new(self.levels, self.catalog.concat()).unwrap();
        let codes = vec![self.codes_per_level; self.levels];
        let catalog = Catalog::build(&ids, &sids, &codes, CollisionPolicy::Postings, None).unwrap();
        (catalog, CodeVocab::new(self.base, &codes))
    }
}

pub(crate) fn assert_same_ranking(
    place: &str,
    ranking: &Ranking,
    catalog: &Catalog,
    sequences: &[Vec<u16>],
    scores: &[f32],
) {
    for (rank, (sequence, score)) in sequences.iter().zip(scores).enumerate() {
        let ours = ranking.leaves[rank];
        agree(&format!("{place}, score of rank {rank}"), &[ours.score], &[*score]);
        let apart = |other: Option<&f32>| other.is_none_or(|other| (other - score).abs() > TIE);
        if apart(scores.get(rank + 1)) && apart(rank.checked_sub(1).and_then(|before| scores.get(before))) {
            assert_eq!(&catalog.trie().semantic_id(ours.leaf), sequence, "{place}, rank {rank}");
        }
    }
}
