//! Any text as a condition on items: read it, and evaluate what could be read.
#![no_main]

use std::collections::BTreeMap;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use sidereal_core::attributes::Attributes;
use sidereal_core::predicate::Predicate;
use sidereal_core::{Attribute, ItemId, Items};

static ATTRIBUTES: LazyLock<Attributes> = LazyLock::new(|| {
    let words = |words: [Option<&str>; 3]| Attribute::Text(words.map(|word| word.map(str::to_owned)).to_vec());
    let columns = BTreeMap::from([
        ("a".to_owned(), words([Some("x"), None, Some("é")])),
        ("b".to_owned(), Attribute::Number(vec![Some(1.0), None, Some(-2.5)])),
        ("c".to_owned(), Attribute::TextList(vec![vec!["x".to_owned(), "y".to_owned()], vec![], vec![]])),
    ]);
    let ids = ["0", "1", "2"].map(ItemId::from).to_vec();
    Attributes::of(&Items::new(ids, vec![None; 3], columns).expect("columns of one length"))
});

fuzz_target!(|text: &str| {
    if let Ok(predicate) = Predicate::parse(text) {
        if let Ok(bits) = predicate.items(&ATTRIBUTES, 4) {
            assert!(bits.count() <= 4);
            let negated = Predicate::parse(&format!("not ({text})"));
            if let Ok(others) = negated.and_then(|negated| negated.items(&ATTRIBUTES, 4)) {
                assert_eq!(others, bits.not(), "a condition and its opposite share the items");
            }
        }
    }
});
