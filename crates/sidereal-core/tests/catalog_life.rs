//! Any sequence of additions and removals against a plain list of items.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use sidereal_core::catalog::{Change, Motion, diff};
use sidereal_core::{Catalog, CollisionPolicy, ItemId, LeafFilter, SemanticIds};

const CODES: [u32; 3] = [3, 2, 4];

fn built(rows: &[[u16; 3]]) -> Catalog {
    let ids: Vec<ItemId> = (0..rows.len()).map(|i| ItemId::from(format!("i{i}"))).collect();
    Catalog::build(&ids, &SemanticIds::new(3, rows.concat()).unwrap(), &CODES, CollisionPolicy::Postings, None).unwrap()
}

fn rows(most: usize) -> impl Strategy<Value = Vec<[u16; 3]>> {
    prop::collection::vec((0u16..3, 0u16..2, 0u16..4).prop_map(|(a, b, c)| [a, b, c]), 1..most)
}

/// One step: rows to add, and numbers that choose items to remove and to restore.
type Step = (Vec<[u16; 3]>, Vec<usize>, Vec<usize>);

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let chosen = || prop::collection::vec(0usize..40, 0..4);
    prop::collection::vec(
        (prop::collection::vec((0u16..3, 0u16..2, 0u16..4).prop_map(|(a, b, c)| [a, b, c]), 0..5), chosen(), chosen()),
        1..6,
    )
}

/// What a catalog must be: every item's codes and whether it is alive.
#[derive(Default, Clone)]
struct Plain {
    codes: Vec<[u16; 3]>,
    alive: Vec<bool>,
}

impl Plain {
    fn check(&self, catalog: &Catalog) {
        assert_eq!(catalog.len(), self.codes.len());
        assert_eq!(catalog.alive(), self.alive.iter().filter(|&&a| a).count());
        let mut leaves: BTreeMap<[u16; 3], BTreeSet<u32>> = BTreeMap::new();
        for (item, (codes, &alive)) in self.codes.iter().zip(&self.alive).enumerate() {
            assert_eq!(catalog.semantic_id(item as u32), codes, "a published semantic ID moved");
            assert_eq!(catalog.item_id(item as u32), format!("i{item}"));
            assert_eq!(catalog.is_alive(item as u32), alive);
            if alive {
                leaves.entry(*codes).or_default().insert(item as u32);
            }
        }
        assert_eq!(catalog.trie().leaves() as usize, leaves.len());
        for (leaf, (codes, items)) in leaves.iter().enumerate() {
            assert_eq!(catalog.trie().semantic_id(leaf as u32), codes);
            assert_eq!(&catalog.postings(leaf as u32).iter().copied().collect::<BTreeSet<u32>>(), items);
            assert!(items.iter().all(|&item| catalog.leaf_of(item) == Some(leaf as u32)));
        }
    }
}

proptest! {
    #[test]
    fn no_sequence_of_changes_moves_an_id_and_the_trie_is_the_set_of_the_alive(first in rows(12), steps in steps()) {
        let mut catalog = built(&first);
        let mut plain = Plain { alive: vec![true; first.len()], codes: first };
        for (add, remove, restore) in steps {
            let n = plain.codes.len();
            let choose = |numbers: &[usize], alive: bool| -> Vec<u32> {
                let set: BTreeSet<usize> = numbers.iter().map(|i| i % n).filter(|&i| plain.alive[i] == alive).collect();
                set.into_iter().map(|i| i as u32).collect()
            };
            let (remove, restore) = (choose(&remove, true), choose(&restore, false));
            let ids: Vec<ItemId> = (n..n + add.len()).map(|i| ItemId::from(format!("i{i}"))).collect();
            let sids = SemanticIds::new(3, add.concat()).unwrap();
            let change = Change { add: &ids, add_ids: (!add.is_empty()).then_some(&sids), restore: &restore, remove: &remove };
            let mut next = plain.clone();
            next.codes.extend(&add);
            next.alive.resize(n + add.len(), true);
            remove.iter().for_each(|&i| next.alive[i as usize] = false);
            restore.iter().for_each(|&i| next.alive[i as usize] = true);
            let changes = add.len() + remove.len() + restore.len() > 0;
            if !changes || next.alive.iter().all(|alive| !alive) {
                prop_assert!(catalog.change(&change).is_err());
                continue;
            }
            let new = catalog.change(&change).unwrap();
            next.check(&new);
            prop_assert_eq!(new.parent(), Some(catalog.version()));
            prop_assert!(new.descends_from(catalog.version()) && !catalog.descends_from(new.version()));
            // Items that were in a leaf keep their order there, and stand before those that came.
            for leaf in 0..new.trie().leaves() {
                let came = |item: &u32| !((*item as usize) < n && plain.alive[*item as usize]);
                let postings = new.postings(leaf);
                prop_assert!(postings.windows(2).all(|w| came(&w[0]) <= came(&w[1])));
            }
            let found = diff(&catalog, &new);
            prop_assert_eq!((found.removed, found.moved), (remove.len(), 0));
            prop_assert_eq!(found.added, add.len() + restore.len());
            prop_assert_eq!(found.rows.len(), found.added + found.removed + found.unchanged);
            (catalog, plain) = (new, next);
        }
        // A filter that denies every item leaves nothing alive, removed items or not.
        let all: Vec<u32> = (0..catalog.len() as u32).collect();
        let filter = LeafFilter::deny_items(&catalog, &all);
        prop_assert!(!filter.alive(0, catalog.root()));
        prop_assert!(filter.why_nothing().unwrap().contains("are denied"));
    }
}

#[test]
fn a_catalog_that_has_lived_comes_back_from_disk() {
    let first = vec![[0, 0, 0], [1, 1, 1], [1, 1, 1]];
    let sids = SemanticIds::new(3, vec![1, 1, 1]).unwrap();
    let change = Change { add: &[ItemId::from("i3")], add_ids: Some(&sids), remove: &[1], ..Change::default() };
    let catalog = built(&first).change(&change).unwrap();
    let dir = tempfile::tempdir().unwrap();
    catalog.save(dir.path()).unwrap();
    let opened = Catalog::open(dir.path()).unwrap();
    Plain { codes: [first, vec![[1, 1, 1]]].concat(), alive: vec![true, false, true, true] }.check(&opened);
    assert_eq!((opened.version(), opened.ancestors()), (catalog.version(), catalog.ancestors()));
    assert_eq!((opened.built_items(), opened.removed().collect::<Vec<_>>()), (3, vec![1]));
    assert_eq!(opened.postings(1), [2, 3], "what came stands behind what was there");
    // Another format is refused by its number, before its fields are read.
    let path = dir.path().join("catalog.safetensors");
    let mut newer = std::fs::read(&path).unwrap();
    let word = b"format_version";
    let at = newer.windows(word.len()).position(|w| w == word).unwrap();
    let digit = at + newer[at..].iter().position(u8::is_ascii_digit).unwrap();
    newer[digit] = b'7';
    std::fs::write(&path, newer).unwrap();
    let error = Catalog::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("format version 7, but this program reads 3"), "{error}");
}

#[test]
fn changes_that_make_no_sense_name_the_item() {
    let catalog = built(&[[0, 0, 0], [1, 1, 1]]);
    let sids = SemanticIds::new(3, vec![0, 0, 9]).unwrap();
    let told = |change: Change<'_>| catalog.change(&change).unwrap_err().to_string();
    let (taken, new) = ([ItemId::from("i1")], [ItemId::from("new")]);
    assert!(told(Change::default()).contains("nothing to change"));
    assert!(told(Change { add: &new, add_ids: Some(&sids), ..Change::default() }).contains("code 9 at level 2"));
    let sids = SemanticIds::new(3, vec![0, 0, 0]).unwrap();
    assert!(
        told(Change { add: &taken, add_ids: Some(&sids), ..Change::default() }).contains("\"i1\" is in the catalog")
    );
    assert!(told(Change { add: &new, ..Change::default() }).contains("1 new items but 0 semantic IDs"));
    assert!(told(Change { remove: &[2], ..Change::default() }).contains("no item 2"));
    assert!(told(Change { remove: &[1, 1], ..Change::default() }).contains("\"i1\" is named twice"));
    assert!(told(Change { remove: &[0, 1], ..Change::default() }).contains("leave no item"));
    assert!(told(Change { restore: &[0], ..Change::default() }).contains("\"i0\" was not removed"));
    let removed = catalog.change(&Change { remove: &[1], ..Change::default() }).unwrap();
    let again = removed.change(&Change { remove: &[1], ..Change::default() }).unwrap_err().to_string();
    assert!(again.contains("\"i1\" was removed already"), "{again}");
    let told = removed.change(&Change { add: &taken, add_ids: Some(&sids), ..Change::default() });
    assert!(told.unwrap_err().to_string().contains("\"i1\" was removed"));
}

#[test]
fn a_map_says_what_became_of_every_item() {
    let old = built(&[[0, 0, 0], [1, 1, 1], [2, 0, 3]]);
    let old = old.change(&Change { remove: &[2], ..Change::default() }).unwrap();
    let new = built(&[[0, 0, 0], [1, 1, 2], [2, 0, 3]]);
    let found = diff(&old, &new);
    assert!(!found.descends);
    let motions: Vec<Motion> = found.rows.iter().map(|row| row.change).collect();
    assert_eq!(motions, [Motion::Unchanged, Motion::Moved, Motion::Added]);
    assert_eq!(found.rows[1].new_semantic_id.as_deref(), Some(&[1u16, 1, 2][..]));
    assert_eq!(found.rows[2].old_semantic_id, None);
}
