//! Catalog files: noise, and sound files with bytes overwritten. What opens is asked everything that a search asks.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use sidereal_core::catalog::FILE;
use sidereal_core::{Catalog, CollisionPolicy, ItemId, LeafFilter, SemanticIds};

static FOLDER: LazyLock<PathBuf> = LazyLock::new(sidereal_fuzz::folder);

static SOUND: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let codes: Vec<u16> = (0..40).flat_map(|i| [i % 3, i % 5, i % 300]).collect();
    let ids: Vec<ItemId> = (0..40).map(|i| ItemId::from(format!("item-{i}"))).collect();
    let sids = SemanticIds::new(3, codes).expect("three levels");
    let catalog = Catalog::build(&ids, &sids, &[3, 5, 300], CollisionPolicy::Postings, None).expect("a sound catalog");
    catalog.save(&FOLDER).expect("room for a small file");
    vec![std::fs::read(FOLDER.join(FILE)).expect("the file just written")]
});

fuzz_target!(|data: &[u8]| {
    let bytes = sidereal_fuzz::almost(&SOUND, data);
    std::fs::write(FOLDER.join(FILE), bytes).expect("room for a small file");
    if let Ok(catalog) = Catalog::open(&FOLDER) {
        use_all(&catalog);
    }
});

fn use_all(catalog: &Catalog) {
    let items: Vec<u32> = (0..catalog.len() as u32).collect();
    for &item in &items {
        let _ = (catalog.item_id(item).len(), catalog.semantic_id(item).len(), catalog.leaf_of(item));
    }
    let filter = LeafFilter::deny_items(catalog, &items[..items.len() / 2]);
    let mut frontier = vec![catalog.root()];
    for depth in 0..catalog.levels() {
        let below = frontier.iter().flat_map(|&node| catalog.children(depth, node).map(|(_, child)| child));
        frontier = below.filter(|&child| filter.alive(depth + 1, child)).take(1 << 12).collect();
    }
    for node in frontier {
        let leaf = catalog.leaf(node);
        assert_eq!(catalog.semantic_id_of(leaf).len(), catalog.levels());
        for item in catalog.items_of(leaf) {
            let _ = (catalog.item_id(item).len(), filter.item_alive(item));
        }
    }
    let _ = catalog.verify();
}
