//! The trie, catalog and filter against brute force.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use sidereal_core::{Catalog, CollisionPolicy, ItemId, SemanticIds};

fn ids(n: usize) -> Vec<ItemId> {
    (0..n).map(|i| ItemId::from(format!("item-{i}"))).collect()
}

/// Catalogs of up to 60 items over per-level K of 1..=5, so that collisions and single-child chains are common.
fn catalogs() -> impl Strategy<Value = (Vec<u32>, Vec<u16>)> {
    prop::collection::vec(1u32..=5, 1..=4).prop_flat_map(|codes_per_level| {
        let row: Vec<_> = codes_per_level.iter().map(|&k| 0..k as u16).collect();
        let rows = prop::collection::vec(row, 1..60).prop_map(|rows| rows.concat());
        (Just(codes_per_level), rows)
    })
}

fn build((codes_per_level, codes): &(Vec<u32>, Vec<u16>), prior: Option<&[u32]>) -> (SemanticIds, Catalog) {
    let sids = SemanticIds::new(codes_per_level.len(), codes.clone()).unwrap();
    let catalog = Catalog::build(&ids(sids.len()), &sids, codes_per_level, CollisionPolicy::Postings, prior).unwrap();
    (sids, catalog)
}

/// Every node of every depth: its prefix and its leaves.
fn walk(catalog: &Catalog) -> Vec<(Vec<u16>, u32)> {
    let trie = catalog.trie();
    let mut frontier = vec![(Vec::new(), 0u32)];
    for depth in 0..trie.levels() {
        assert_eq!(frontier.len(), trie.nodes(depth));
        frontier = frontier
            .iter()
            .flat_map(|(prefix, node)| {
                let (children, codes) = trie.children(depth, *node);
                children
                    .zip(codes)
                    .map(|(child, code)| ([prefix.as_slice(), &[code]].concat(), child))
                    .collect::<Vec<_>>()
            })
            .collect();
    }
    frontier
}

proptest! {
    #[test]
    fn a_trie_of_rows_in_any_order_is_the_one_of_the_catalog(
        // Up to 12 levels of up to 65,536 codes: keys of one integer, of two, and rows that fit neither.
        (codes_per_level, rows) in prop::collection::vec(1u32..=65_536, 1..=12).prop_flat_map(|codes_per_level| {
            let row: Vec<_> = codes_per_level.iter().map(|&k| prop_oneof![Just(0), 0..=(k - 1) as u16]).collect();
            (Just(codes_per_level), prop::collection::vec(row, 1..40))
        }),
    ) {
        let (sids, catalog) = build(&(codes_per_level.clone(), rows.concat()), None);
        let trie = sidereal_core::Trie::build(&sids, &codes_per_level).unwrap();
        trie.verify(&codes_per_level).unwrap();
        let expected: BTreeSet<&[u16]> = sids.rows().collect();
        prop_assert_eq!(trie.leaves() as usize, expected.len());
        prop_assert_eq!(trie.bytes(), catalog.trie().bytes());
        for (leaf, row) in (0..).zip(expected) {
            prop_assert_eq!(trie.semantic_id(leaf), row);
            prop_assert_eq!(trie.find(row), Some(leaf));
            prop_assert_eq!(catalog.trie().find(row), Some(leaf));
            let mut node = leaf;
            for depth in (0..=sids.levels()).rev() {
                prop_assert!(trie.leaves_below(depth, node).contains(&leaf));
                node = trie.parent(depth, node);
            }
        }
    }

    #[test]
    fn trie_holds_exactly_the_distinct_semantic_ids_in_order(raw in catalogs()) {
        let (sids, catalog) = build(&raw, None);
        let expected: BTreeSet<Vec<u16>> = sids.rows().map(<[u16]>::to_vec).collect();
        let found = walk(&catalog);
        prop_assert_eq!(found.iter().map(|(p, _)| p.clone()).collect::<Vec<_>>(), expected.iter().cloned().collect::<Vec<_>>());
        for (leaf, (prefix, node)) in found.iter().enumerate() {
            prop_assert_eq!(*node as usize, leaf);
            prop_assert_eq!(catalog.trie().find(prefix), Some(*node));
            prop_assert_eq!(&catalog.trie().semantic_id(*node), prefix);
        }
    }

    #[test]
    fn leaves_below_a_node_are_those_with_its_prefix(raw in catalogs(), depth in 0usize..4) {
        let (sids, catalog) = build(&raw, None);
        let depth = depth.min(sids.levels());
        for row in sids.rows() {
            let node = catalog.trie().find(&row[..depth]).unwrap();
            let below: BTreeSet<Vec<u16>> =
                catalog.trie().leaves_below(depth, node).map(|leaf| catalog.trie().semantic_id(leaf)).collect();
            let expected: BTreeSet<Vec<u16>> = sids.rows().filter(|r| r[..depth] == row[..depth]).map(<[u16]>::to_vec).collect();
            prop_assert_eq!(below, expected);
        }
    }

    #[test]
    fn no_item_is_lost_in_a_collision_and_the_prior_orders_it(raw in catalogs(), priors in prop::collection::vec(0u32..3, 60)) {
        let n = raw.1.len() / raw.0.len();
        let (sids, catalog) = build(&raw, Some(&priors[..n]));
        let mut expected: BTreeMap<Vec<u16>, Vec<u32>> = BTreeMap::new();
        for (item, row) in sids.rows().enumerate() {
            expected.entry(row.to_vec()).or_default().push(item as u32);
        }
        for (leaf, items) in expected.values_mut().enumerate() {
            items.sort_by_key(|&i| (std::cmp::Reverse(priors[i as usize]), i));
            prop_assert_eq!(catalog.postings(leaf as u32), items.as_slice());
            for &item in items.iter() {
                prop_assert_eq!(catalog.leaf_of(item), Some(leaf as u32));
                prop_assert_eq!(catalog.semantic_id(item), sids.row(item as usize));
            }
        }
    }

    #[test]
    fn a_catalog_comes_back_from_disk_as_it_was(raw in catalogs()) {
        let (_, catalog) = build(&raw, None);
        let dir = tempfile::tempdir().unwrap();
        catalog.save(dir.path()).unwrap();
        let opened = Catalog::open(dir.path()).unwrap();
        opened.verify().unwrap();
        prop_assert_eq!(opened.version(), catalog.version());
        prop_assert_eq!(walk(&opened), walk(&catalog));
        for item in 0..catalog.len() as u32 {
            prop_assert_eq!(opened.item_id(item), catalog.item_id(item));
            prop_assert_eq!(opened.semantic_id(item), catalog.semantic_id(item));
        }
        for leaf in 0..catalog.trie().leaves() {
            prop_assert_eq!(opened.postings(leaf), catalog.postings(leaf));
        }
        let first = std::fs::read(dir.path().join("catalog.safetensors")).unwrap();
        opened.save(dir.path()).unwrap();
        prop_assert_eq!(first, std::fs::read(dir.path().join("catalog.safetensors")).unwrap());
    }
}

#[test]
fn catalogs_with_wrong_lengths_or_codes_name_the_mend() {
    let sids = SemanticIds::new(2, vec![0, 1, 2, 3]).unwrap();
    let build = |n, codes: &[u32]| {
        Catalog::build(&ids(n), &sids, codes, CollisionPolicy::Postings, None).unwrap_err().to_string()
    };
    assert!(build(3, &[4, 4]).contains("3 items but 2 semantic IDs"));
    assert!(build(2, &[4, 3]).contains("code 3 at level 1 is not below 3"));
}

#[test]
fn the_suffix_policy_gives_every_item_its_own_leaf() {
    let sids = SemanticIds::new(2, vec![0, 1, 2, 3, 0, 1]).unwrap();
    let catalog = Catalog::build(&ids(3), &sids, &[4, 4], CollisionPolicy::Suffix, None).unwrap();
    assert_eq!((catalog.levels(), catalog.tokenizer_levels(), catalog.trie().leaves()), (3, 2, 3));
    assert_eq!(catalog.semantic_id(2), [0, 1, 1]);
    assert_eq!(catalog.tokenizer_semantic_ids().unwrap(), sids);
}
