#![allow(clippy::unwrap_used)]

use super::*;
use crate::quantizers::TokenizerConfig;
use proptest::prelude::*;
use sidereal_core::NoProgress;
use sidereal_nn::rng::Rng;

proptest! {
    #[test]
    fn moves_are_those_of_the_sorted_list_of_all_pairs(
        raw in prop::collection::vec(0u8..6, 5 * 8),
        own in prop::collection::vec(0u16..5, 8),
        free in prop::collection::vec(any::<bool>(), 5),
    ) {
        let distances: Vec<f32> = raw.iter().map(|&v| f32::from(v)).collect();
        let mut left = free.clone();
        let found = cheapest_moves(&distances, &own, &mut left);
        // All pairs, own codes first.
        let mut pairs: Vec<(u8, f32, usize, usize)> = Vec::new();
        for item in 0..8 {
            for code in 0..5 {
                let (d, at_home) = (distances[item * 5 + code], usize::from(own[item]) == code);
                let cost = if at_home { d } else { d - distances[item * 5 + usize::from(own[item])] };
                pairs.push((u8::from(!at_home), cost, item, code));
            }
        }
        pairs.sort_by(|a, b| a.partial_cmp(b).unwrap());
        let (mut want, mut open) = (vec![None; 8], free);
        for (_, _, item, code) in pairs {
            if open[code] && want[item].is_none() {
                open[code] = false;
                want[item] = Some(code as u16);
            }
        }
        prop_assert_eq!(found, want);
        prop_assert_eq!(left, open);
    }
}

/// Items in pairs and triples near each other, so that a few codes must collide.
fn crowded() -> (Vec<ItemId>, Embeddings, ItemTokenizer) {
    let (n, width) = (240, 6);
    let mut rng = Rng::new(8, "crowd");
    let centres: Vec<f32> = (0..80 * width).map(|_| rng.normal() as f32).collect();
    let values =
        (0..n * width).map(|at| centres[at / width % 80 * width + at % width] + 0.02 * rng.normal() as f32).collect();
    let vectors = Embeddings::new(n, width, values).unwrap();
    let config = TokenizerConfig::with_defaults("rq-kmeans", vec![6, 6, 12]).unwrap();
    let tokenizer = ItemTokenizer::train(&config, &vectors, 3, &NoProgress).unwrap();
    ((0..n).map(|i| ItemId::from(format!("i{i:03}"))).collect(), vectors, tokenizer)
}

/// Whether items share a semantic ID only under prefixes whose every code is in use.
fn leaves_over_under_full_prefixes_only(sids: &SemanticIds) -> bool {
    let mut below: HashMap<&[u16], (usize, HashSet<u16>)> = HashMap::new();
    for row in sids.rows() {
        let entry = below.entry(&row[..2]).or_default();
        entry.0 += 1;
        entry.1.insert(row[2]);
    }
    below.values().all(|(items, codes)| codes.len() == (*items).min(12))
}

#[test]
fn repairs_change_last_codes_only_and_part_what_can_be_parted() {
    let (ids, vectors, tokenizer) = crowded();
    let sids = tokenizer.encode(&vectors).unwrap();
    for policy in [CollisionPolicy::NearestFree, CollisionPolicy::Sinkhorn] {
        let done = repair(&tokenizer, policy, &ids, &vectors, &sids).unwrap();
        assert!(done.record.collision_rate_before > 0.2, "{:?}", done.record);
        assert!(done.record.collision_rate < 0.3 * done.record.collision_rate_before, "{:?}", done.record);
        assert!(done.sids.rows().zip(sids.rows()).all(|(new, old)| new[..2] == old[..2]));
        let distinct: HashSet<&[u16]> = done.sids.rows().collect();
        assert_eq!(done.record.left_over, ids.len() - distinct.len());
        if policy == CollisionPolicy::NearestFree {
            assert!(leaves_over_under_full_prefixes_only(&done.sids));
        }
    }
    let refused = repair(&tokenizer, CollisionPolicy::Postings, &ids, &vectors, &sids).unwrap_err();
    assert!(refused.to_string().contains("nearest-free"), "{refused}");
}

#[test]
fn a_repair_depends_neither_on_the_order_of_items_nor_on_threads() {
    let (ids, vectors, tokenizer) = crowded();
    let sids = tokenizer.encode(&vectors).unwrap();
    let mut order: Vec<usize> = (0..ids.len()).collect();
    Rng::new(1, "order").shuffle(&mut order);
    let shuffled_ids: Vec<ItemId> = order.iter().map(|&i| ids[i].clone()).collect();
    let values = order.iter().flat_map(|&i| vectors.row(i)).copied().collect();
    let shuffled = Embeddings::new(ids.len(), vectors.width(), values).unwrap();
    let shuffled_sids = tokenizer.encode(&shuffled).unwrap();
    for policy in [CollisionPolicy::NearestFree, CollisionPolicy::Sinkhorn] {
        let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let straight = one.install(|| repair(&tokenizer, policy, &ids, &vectors, &sids).unwrap());
        let other = repair(&tokenizer, policy, &shuffled_ids, &shuffled, &shuffled_sids).unwrap();
        assert_eq!(straight.record, other.record);
        assert!(order.iter().enumerate().all(|(at, &item)| other.sids.row(at) == straight.sids.row(item)));
    }
}

#[test]
fn new_items_find_places_that_nobody_has() {
    let (ids, vectors, tokenizer) = crowded();
    let sids = tokenizer.encode(&vectors).unwrap();
    let taken: HashSet<&[u16]> = sids.rows().collect();
    let new = Embeddings::new(3, vectors.width(), vectors.values()[..3 * vectors.width()].to_vec()).unwrap();
    let new_sids = tokenizer.encode(&new).unwrap();
    let done = place(&tokenizer, CollisionPolicy::Sinkhorn, &ids[..3], &new, &new_sids, &taken).unwrap();
    assert_eq!((done.record.moved, done.record.left_over, done.record.colliding_items), (3, 0, 3));
    assert!(done.sids.rows().all(|row| !taken.contains(row)));
    // Nothing to do where nothing is taken.
    let alone =
        place(&tokenizer, CollisionPolicy::NearestFree, &ids[..1], &new_row(&new), &row(&new_sids), &HashSet::new());
    assert_eq!(alone.unwrap().record.moved, 0);
}

fn new_row(rows: &Embeddings) -> Embeddings {
    Embeddings::new(1, rows.width(), rows.row(0).to_vec()).unwrap()
}

fn row(sids: &SemanticIds) -> SemanticIds {
    SemanticIds::new(sids.levels(), sids.row(0).to_vec()).unwrap()
}

#[test]
fn what_a_repair_leaves_follows_its_own_policy() {
    let (ids, vectors, tokenizer) = crowded();
    let sids = tokenizer.encode(&vectors).unwrap();
    let repaired = |leftovers| {
        let how = Collisions { policy: CollisionPolicy::Balanced, leftovers };
        repair(&tokenizer, how, &ids, &vectors, &sids)
    };
    let kept = repaired(Leftovers::Postings).unwrap();
    assert!(kept.record.left_over > 5, "{:?}", kept.record);
    assert_eq!(repaired(Leftovers::Suffix).unwrap(), kept, "the catalog adds the suffix");
    let freed = repaired(Leftovers::NearestFree).unwrap();
    assert!(freed.record.left_over < kept.record.left_over, "{:?}", freed.record);
    assert!(leaves_over_under_full_prefixes_only(&freed.sids) && !leaves_over_under_full_prefixes_only(&kept.sids));
    // Only items that shared their semantic ID moved, within their prefix.
    let mut sharing: HashMap<&[u16], usize> = HashMap::new();
    kept.sids.rows().for_each(|row| *sharing.entry(row).or_default() += 1);
    for (before, after) in kept.sids.rows().zip(freed.sids.rows()) {
        assert!(before[..2] == after[..2] && (before == after || sharing[before] > 1));
    }
    let error = repaired(Leftovers::Error).unwrap_err().to_string();
    assert!(error.contains(&format!("{} items still share", kept.record.left_over)), "{error}");
    assert!(error.contains("\"i") && error.contains("postings"), "{error}");
}
