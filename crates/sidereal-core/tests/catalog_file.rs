//! Catalog files that were damaged, or made to harm: opening and every access to what opens.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use proptest::prelude::*;
use sidereal_core::catalog::FILE;
use sidereal_core::{Catalog, CollisionPolicy, ItemId, LeafFilter, SemanticIds};

fn saved(dir: &Path) -> Vec<u8> {
    let codes: Vec<u16> = (0..40).flat_map(|i| [i % 3, i % 5, i % 300]).collect();
    let ids: Vec<ItemId> = (0..40).map(|i| ItemId::from(format!("item-{i}"))).collect();
    let sids = SemanticIds::new(3, codes).unwrap();
    let catalog = Catalog::build(&ids, &sids, &[3, 5, 300], CollisionPolicy::Postings, None).unwrap();
    catalog.save(dir).unwrap();
    std::fs::read(dir.join(FILE)).unwrap()
}

fn header_end(bytes: &[u8]) -> usize {
    8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize
}

/// Everything that a search or a report asks of a catalog. Numbers from the file go into the next question.
fn use_all(catalog: &Catalog) {
    let trie = catalog.trie();
    let items: Vec<u32> = (0..catalog.len() as u32).collect();
    for &item in &items {
        let _ = (catalog.item_id(item).len(), catalog.semantic_id(item).len(), catalog.is_alive(item));
        if let Some(leaf) = catalog.leaf_of(item) {
            let _ = (trie.semantic_id(leaf), catalog.postings(leaf).len());
        }
    }
    for depth in 0..=trie.levels() {
        for node in (0..trie.nodes(depth) as u32).chain([u32::MAX]) {
            let below = trie.leaves_below(depth, node);
            assert!(below.start <= below.end && below.end <= trie.leaves());
            let (children, codes) = trie.children(depth, node);
            assert_eq!(children.len(), codes.len());
            assert!(children.end as usize <= trie.nodes(depth + 1));
            let _ = (trie.parent(depth, node), trie.child(depth, node, 1));
        }
    }
    for leaf in 0..trie.leaves() {
        for &item in catalog.postings(leaf) {
            let _ = catalog.item_id(item);
        }
    }
    let filter = LeafFilter::deny_items(catalog, &items[..items.len() / 2]);
    let _ = items.iter().filter(|&&item| filter.item_alive(item)).count();
    let _ = (catalog.semantic_ids().is_ok(), catalog.verify().is_ok());
}

#[test]
fn every_changed_byte_of_content_is_found_by_verify_and_none_panics() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = saved(dir.path());
    for at in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[at] ^= 0x41;
        std::fs::write(dir.path().join(FILE), &bad).unwrap();
        let Ok(opened) = Catalog::open(dir.path()) else { continue };
        use_all(&opened);
        // Padding between arrays does not exist, so every byte behind the header counts.
        assert!(at < header_end(&bytes) || opened.verify().is_err(), "byte {at} was changed and not noticed");
    }
}

#[test]
fn every_truncation_is_refused_when_opened() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = saved(dir.path());
    for len in 0..bytes.len() {
        std::fs::write(dir.path().join(FILE), &bytes[..len]).unwrap();
        assert!(Catalog::open(dir.path()).is_err(), "cut to {len} bytes");
    }
}

#[test]
fn an_older_file_names_the_mend() {
    let dir = tempfile::tempdir().unwrap();
    let mut bytes = saved(dir.path());
    let word = b"format_version";
    let at = bytes.windows(word.len()).position(|w| w == word).unwrap();
    let digit = at + bytes[at..].iter().position(u8::is_ascii_digit).unwrap();
    bytes[digit] = b'2';
    std::fs::write(dir.path().join(FILE), &bytes).unwrap();
    let error = Catalog::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("format version 2, but this program reads 3; build the catalog again"), "{error}");
}

proptest! {
    #[test]
    fn overwritten_numbers_never_panic(
        writes in prop::collection::vec((any::<prop::sample::Index>(), prop_oneof![
            Just(u32::MAX), Just(0), Just(1 << 31), 0u32..400, any::<u32>()
        ]), 1..30),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut bytes = saved(dir.path());
        let start = header_end(&bytes);
        for (at, value) in writes {
            let at = start + at.index(bytes.len() - start - 4);
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        std::fs::write(dir.path().join(FILE), &bytes).unwrap();
        if let Ok(opened) = Catalog::open(dir.path()) {
            use_all(&opened);
        }
    }
}
