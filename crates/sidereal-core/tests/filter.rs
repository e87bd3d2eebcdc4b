//! Filters, on catalogs as they were built and as they serve, against brute force.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use sidereal_core::catalog::{Change, LiveCatalog, Node};
use sidereal_core::filter::{Allowed, Bits};
use sidereal_core::{Catalog, CollisionPolicy, ItemId, LeafFilter, SemanticIds};

const CODES: [u32; 3] = [3, 2, 4];

fn row() -> impl Strategy<Value = [u16; 3]> {
    (0u16..3, 0u16..2, 0u16..4).prop_map(|(a, b, c)| [a, b, c])
}

fn built(rows: &[[u16; 3]]) -> Catalog {
    let ids: Vec<ItemId> = (0..rows.len()).map(|i| ItemId::from(format!("i{i}"))).collect();
    Catalog::build(&ids, &SemanticIds::new(3, rows.concat()).unwrap(), &CODES, CollisionPolicy::Postings, None).unwrap()
}

/// Every prefix of a catalog with its node.
fn prefixes(catalog: &Catalog) -> Vec<(Vec<u16>, Node)> {
    let mut all = vec![(Vec::new(), catalog.root())];
    let mut frontier = all.clone();
    for depth in 0..catalog.levels() {
        frontier = frontier
            .iter()
            .flat_map(|(prefix, node)| {
                let children = catalog.children(depth, *node);
                children.map(|(code, child)| ([prefix.as_slice(), &[code]].concat(), child)).collect::<Vec<_>>()
            })
            .collect();
        assert!(frontier.windows(2).all(|w| w[0].0 < w[1].0), "children in the order of their codes, each once");
        all.extend(frontier.clone());
    }
    all
}

/// The filter leaves exactly the items of `expected`, at every node.
fn check(catalog: &Catalog, filter: &LeafFilter, expected: &BTreeSet<u32>) {
    for item in 0..catalog.len() as u32 {
        let alive = catalog.is_alive(item) && filter.item_alive(item);
        assert_eq!(alive, expected.contains(&item), "item {item}");
    }
    let filter = filter.for_catalog(catalog).unwrap();
    for (prefix, node) in prefixes(catalog) {
        let below = expected.iter().any(|&item| catalog.semantic_id(item).starts_with(&prefix));
        assert_eq!(filter.alive(prefix.len(), node), below, "prefix {prefix:?}");
        if prefix.len() == catalog.levels() {
            let leaf = catalog.leaf(node);
            assert_eq!(catalog.semantic_id_of(leaf), prefix);
            for item in catalog.items_of(leaf).filter(|&item| catalog.is_alive(item)) {
                assert_eq!((catalog.semantic_id(item), catalog.leaf_of(item)), (&*prefix, Some(leaf)));
            }
        }
    }
    assert_eq!(filter.why_nothing().is_some(), expected.is_empty());
}

/// One change of a catalog that serves: rows to add, numbers that choose items to remove, whether to merge afterwards.
type Step = (Vec<[u16; 3]>, Vec<usize>, bool);

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (prop::collection::vec(row(), 0..6), prop::collection::vec(0usize..60, 0..6), any::<bool>());
    prop::collection::vec(step, 0..7)
}

proptest! {
    #[test]
    fn a_node_is_alive_exactly_when_an_item_below_it_is_allowed_alive_and_not_denied(
        first in prop::collection::vec(row(), 1..30),
        steps in steps(),
        allow in prop::option::of(prop::collection::btree_set(0u32..60, 0..40)),
        deny in prop::collection::vec(0u32..70, 0..30),
    ) {
        let mut live = LiveCatalog::new(&built(&first)).unwrap();
        let mut rows: Vec<[u16; 3]> = first;
        let mut removed: BTreeSet<u32> = BTreeSet::new();
        let mut allowed = allow.as_ref().map(|allow| Allowed::new(&live.now(), &Bits::of(60, allow.iter().copied())));
        let mut before: Vec<(Arc<Catalog>, BTreeSet<u32>)> = Vec::new();
        for step in [(Vec::new(), Vec::new(), false)].into_iter().chain(steps) {
            let (add, remove, merge) = step;
            let remove: BTreeSet<u32> = remove.iter().map(|i| (i % rows.len()) as u32).filter(|i| !removed.contains(i)).collect();
            let snapshot = live.now();
            if !add.is_empty() || !remove.is_empty() {
                let ids: Vec<ItemId> = (rows.len()..rows.len() + add.len()).map(|i| ItemId::from(format!("i{i}"))).collect();
                let sids = SemanticIds::new(3, add.concat()).unwrap();
                let list: Vec<u32> = remove.iter().copied().collect();
                live.apply(&Change { add: &ids, add_ids: (!add.is_empty()).then_some(&sids), remove: &list, restore: &[] }).unwrap();
                rows.extend(add);
                removed.extend(remove);
            }
            // A merge of the catalog before the change takes the change in when it is installed.
            if merge && snapshot.changes_since_base() > 0 && snapshot.alive() > 0 {
                live.install(snapshot.merged().unwrap()).unwrap();
            }
            let now = live.now();
            prop_assert_eq!(now.len(), rows.len());
            let alive: BTreeSet<u32> = (0..rows.len() as u32).filter(|item| !removed.contains(item)).collect();
            prop_assert_eq!(now.alive(), alive.len());
            for (item, row) in rows.iter().enumerate() {
                prop_assert_eq!(now.semantic_id(item as u32), row);
                prop_assert_eq!(now.item_id(item as u32), format!("i{item}"));
                prop_assert_eq!(live.item(&format!("i{item}")), Some(item as u32));
            }
            check(&now, &LeafFilter::deny_items(&now, &[]), &alive);
            let denied: BTreeSet<u32> = &alive - &deny.iter().copied().collect();
            check(&now, &LeafFilter::deny_items(&now, &deny), &denied);
            if let (Some(set), Some(allow)) = (&mut allowed, &allow) {
                *set = set.follow(&now, |item| allow.contains(&item));
                prop_assert_eq!(set.count(), alive.intersection(allow).count());
                check(&now, &LeafFilter::new(&now, set, &deny).unwrap(), &(&denied & allow));
            }
            before.push((now, alive));
        }
        // Requests that began earlier still see what they began with.
        for (catalog, alive) in &before {
            check(catalog, &LeafFilter::deny_items(catalog, &[]), alive);
        }
        let now = live.now();
        if now.alive() > 0 {
            let merged = now.merged().unwrap();
            merged.verify().unwrap();
            // By the leaf of an item: later ones have the number of the leaf that was built in, where there is one.
            let leaves: BTreeMap<Vec<u16>, Vec<u32>> = (0..now.len() as u32)
                .filter_map(|item| now.leaf_of(item))
                .map(|leaf| (now.semantic_id_of(leaf), now.items_of(leaf).filter(|&item| now.is_alive(item)).collect()))
                .collect();
            prop_assert_eq!(merged.trie().leaves() as usize, leaves.len());
            for (leaf, (codes, items)) in (0..).zip(leaves) {
                prop_assert_eq!(merged.trie().semantic_id(leaf), codes);
                prop_assert_eq!(merged.postings(leaf), items, "a merge keeps the order within a leaf");
            }
        }
    }
}

#[test]
fn what_a_serving_catalog_refuses_changes_nothing() {
    let mut live = LiveCatalog::new(&built(&[[0, 0, 0], [1, 1, 1]])).unwrap();
    let base = live.now().version().to_owned();
    let (new, taken) = ([ItemId::from("new")], [ItemId::from("i1")]);
    let sids = SemanticIds::new(3, vec![1, 1, 1]).unwrap();
    let removed = live.apply(&Change { remove: &[1], ..Change::default() }).unwrap();
    assert_eq!(removed.version(), format!("{base}+1"));
    let mut told = |change: Change<'_>| live.apply(&change).unwrap_err().to_string();
    assert!(told(Change { restore: &[1], ..Change::default() }).contains("does not come back"));
    assert!(told(Change { add: &taken, add_ids: Some(&sids), ..Change::default() }).contains("is or was another's"));
    assert!(told(Change { remove: &[1], ..Change::default() }).contains("was removed already"));
    assert!(told(Change { add: &new, ..Change::default() }).contains("1 new items but 0 semantic IDs"));
    assert!(told(Change::default()).contains("nothing to change"));
    assert_eq!(live.now().version(), removed.version());
    // A filter of another version is refused, and so is a merge of another catalog.
    let filter = LeafFilter::deny_items(&removed, &[0]);
    let added = live.apply(&Change { add: &new, add_ids: Some(&sids), ..Change::default() }).unwrap();
    assert!(filter.for_catalog(&added).unwrap_err().to_string().contains("make the filter from the catalog"));
    assert!(live.install(built(&[[0, 0, 0], [1, 1, 1]])).is_err());
    // A shared semantic ID: the removed item stays away though another has its leaf now.
    let leaf = added.leaf_of(2).unwrap();
    assert_eq!(added.items_of(leaf).filter(|&item| added.is_alive(item)).collect::<Vec<_>>(), [2]);
    assert_eq!(added.leaf_of(1), None);
}

#[test]
fn going_back_brings_a_version_back_as_it_was() {
    let mut live = LiveCatalog::new(&built(&[[0, 0, 0], [1, 1, 1]])).unwrap();
    let sids = SemanticIds::new(3, vec![2, 1, 3]).unwrap();
    let add = |live: &mut LiveCatalog, id: &str| {
        live.apply(&Change { add: &[ItemId::from(id)], add_ids: Some(&sids), ..Change::default() }).unwrap()
    };
    let first = add(&mut live, "a");
    let second = add(&mut live, "b");
    let merge_of_second = second.merged().unwrap();
    assert_eq!(live.roll_back(first.version()).unwrap().version(), first.version());
    assert_eq!((live.item("a"), live.item("b")), (Some(2), None));
    let third = add(&mut live, "c");
    assert!(third.version() != second.version(), "a version's name is never used again");
    assert!(live.install(merge_of_second).is_err(), "a merge of what was gone back from would change item 3");
    assert_eq!(live.roll_back(second.version()).unwrap().item_id(3), "b");
    assert_eq!((live.item("b"), live.item("c")), (Some(3), None));
    assert!(live.roll_back("unknown").unwrap_err().to_string().contains("not kept"));
    assert!(live.kept().count() <= sidereal_core::catalog::MAX_KEPT);
}

proptest! {
    /// Together they leave what they leave one after another, a change that cannot be made touches no other, and there is
    /// one version.
    #[test]
    fn changes_made_together_are_those_made_one_after_another(
        first in prop::collection::vec(row(), 2..6),
        steps in prop::collection::vec((prop::option::of((0usize..9, row())), prop::collection::vec(0u32..9, 0..2)), 1..8),
    ) {
        let base = built(&first);
        let ids: Vec<ItemId> = (0..9).map(|i| ItemId::from(format!("n{i}"))).collect();
        let sids: Vec<Option<SemanticIds>> =
            steps.iter().map(|(add, _)| add.map(|(_, row)| SemanticIds::new(3, row.to_vec()).unwrap())).collect();
        let changes: Vec<Change<'_>> = steps.iter().zip(&sids).map(|((add, remove), sids)| Change {
            add: add.as_ref().map_or(&[], |(id, _)| std::slice::from_ref(&ids[*id])),
            add_ids: sids.as_ref(),
            remove,
            restore: &[],
        }).collect();
        let (mut together, mut in_turn) = (LiveCatalog::new(&base).unwrap(), LiveCatalog::new(&base).unwrap());
        let results = together.apply_each(&changes);
        // One by one: what a change in the same group brings cannot be removed by it, for nobody knows its number yet.
        let mut made = 0;
        for (change, result) in changes.iter().zip(&results) {
            let known = change.remove.iter().all(|&item| (item as usize) < base.len());
            let done = if known { in_turn.apply(change).is_ok() } else { false };
            prop_assert_eq!(result.is_ok(), done);
            made += usize::from(done);
        }
        let (together, in_turn) = (together.now(), in_turn.now());
        let version = if made > 0 { format!("{}+1", base.version()) } else { base.version().to_owned() };
        prop_assert_eq!(together.version(), version);
        prop_assert_eq!(together.len(), in_turn.len());
        let alive: BTreeSet<u32> = (0..in_turn.len() as u32).filter(|&item| in_turn.is_alive(item)).collect();
        for item in 0..in_turn.len() as u32 {
            prop_assert_eq!(together.item_id(item), in_turn.item_id(item));
            prop_assert_eq!(together.semantic_id(item), in_turn.semantic_id(item));
        }
        check(&together, &LeafFilter::deny_items(&together, &[]), &alive);
    }
}
