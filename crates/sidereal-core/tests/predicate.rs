//! The filter language: what it says, against plain closures; what it refuses; that it never panics.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use proptest::prelude::*;
use sidereal_core::attributes::Attributes;
use sidereal_core::predicate::Predicate;
use sidereal_core::{Attribute, ItemId, Items};

fn texts(values: &[Option<&str>]) -> Attribute {
    Attribute::Text(values.iter().map(|text| text.map(str::to_owned)).collect())
}

fn attributes() -> Attributes {
    let lists: [&[&str]; 5] = [&["new", "sale"], &[], &["sale"], &["old"], &["new"]];
    let columns = BTreeMap::from([
        ("category".to_owned(), texts(&[Some("shoes"), Some("hats"), None, Some("shoes"), Some("bags")])),
        ("price".to_owned(), Attribute::Number(vec![Some(10.0), Some(20.0), Some(15.5), None, Some(-3.0)])),
        ("tags".to_owned(), Attribute::TextList(lists.iter().map(|l| l.iter().map(|&w| w.into()).collect()).collect())),
        ("first sold".to_owned(), texts(&[Some("2024-01-31"), Some("2023-12-01"), None, Some("2024-11-02"), None])),
    ]);
    let ids = (0..5).map(|i| ItemId::from(format!("i{i}"))).collect();
    Attributes::of(&Items::new(ids, vec![None; 5], columns).unwrap())
}

fn found(text: &str) -> Vec<u32> {
    Predicate::parse(text).unwrap().items(&attributes(), 5).unwrap().iter().collect()
}

#[test]
fn a_condition_says_what_it_reads_like() {
    for (text, expected) in [
        ("category = 'shoes'", vec![0, 3]),
        ("category != \"shoes\"", vec![1, 2, 4]),
        ("category in (\"hats\", \"bags\")", vec![1, 4]),
        ("category not in (\"hats\", \"bags\")", vec![0, 2, 3]),
        ("category is missing", vec![2]),
        ("category IS NOT missing", vec![0, 1, 3, 4]),
        ("price < 15.5", vec![0, 4]),
        ("price <= 15.5", vec![0, 2, 4]),
        ("price >= -3 and price < 1.2e1", vec![0, 4]),
        ("price is missing or price > 15.5", vec![1, 3]),
        ("not price < 15.5", vec![1, 2, 3]),
        ("price in (10, 20)", vec![0, 1]),
        ("tags = 'sale'", vec![0, 2]),
        ("tags != 'sale'", vec![1, 3, 4]),
        ("`first sold` >= '2024-01-01'", vec![0, 3]),
        ("category = 'shoes' and price < 20 and not tags in ('old', 'x')", vec![0]),
        ("category = 'hats' or category = 'shoes' and price = 10", vec![0, 1]),
        ("(category = 'hats' or category = 'shoes') and price = 10", vec![0]),
        ("not not (price == 10)", vec![0]),
        ("category = 'sho\\es' and price=10", vec![0]),
    ] {
        assert_eq!(found(text), expected, "{text}");
    }
}

#[test]
fn items_behind_the_columns_are_missing_everywhere() {
    let items =
        |text: &str| Predicate::parse(text).unwrap().items(&attributes(), 7).unwrap().iter().collect::<Vec<_>>();
    assert_eq!(items("price is missing and tags is missing"), [5, 6]);
    assert_eq!(items("price < 1000"), [0, 1, 2, 4]);
}

#[test]
fn an_error_points_at_its_place_and_names_the_mend() {
    let told = |text: &str| match Predicate::parse(text) {
        Err(error) => error.to_string(),
        Ok(predicate) => predicate.items(&attributes(), 5).unwrap_err().to_string(),
    };
    for (text, at, words) in [
        ("price <", "character 8 (at its end)", "write a number, or text in quotes"),
        ("price < cheap", "character 9 (at `cheap`)", "write a number"),
        ("price 20", "character 7 (at `20`)", "one of = !="),
        ("category = \"shoes", "character 12 (at `\"shoes`)", "close it with \""),
        ("category in 'a'", "character 13", "in brackets"),
        ("category in ('a' 'b')", "character 18", "comma"),
        ("(price < 3", "character 11 (at its end)", "close the bracket"),
        ("price < 3 price > 1", "character 11", "`and` or `or`"),
        ("price < 1x", "character 9 (at `1x`)", "not a number"),
        ("price < 1e999", "character 9", "not a number"),
        ("§ = 1", "character 1", "backticks"),
        ("", "character 1 (at its end)", "price < 20"),
        ("and = 1", "character 1", "column's name"),
        ("ä.b = 1 and price is cheap", "character 22 (at `cheap`)", "is missing"),
        ("size = 3", "character 1", "category, first sold, price, tags"),
        ("price = 'x'", "character 1", "without quotes"),
        ("tags = 3", "character 1", "into quotes"),
    ] {
        let error = told(text);
        assert!(error.contains(at) && error.contains(words), "{text}: {error}");
    }
    assert!(told(&"not ".repeat(100)).contains("flatter"));
    assert!(told(&"(".repeat(100_000)).contains("65536"));
}

#[test]
fn columns_come_back_from_disk() {
    let dir = tempfile::tempdir().unwrap();
    assert!(Attributes::open(dir.path()).unwrap().is_none());
    attributes().save(dir.path()).unwrap();
    let opened = Attributes::open(dir.path()).unwrap().unwrap();
    let predicate = Predicate::parse("category = 'shoes' and tags = 'new' and price > 1").unwrap();
    assert_eq!(predicate.items(&opened, 5).unwrap().iter().collect::<Vec<_>>(), [0]);
    assert_eq!((opened.items(), opened.names().count()), (5, 4));
    let path = dir.path().join(sidereal_core::attributes::FILE);
    let bytes = std::fs::read(&path).unwrap();
    for at in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[at] ^= 0x41;
        std::fs::write(&path, &bad).unwrap();
        if let Ok(Some(opened)) = Attributes::open(dir.path()) {
            let _ = predicate.items(&opened, 9).is_ok();
        }
    }
}

proptest! {
    #[test]
    fn no_text_panics(text in prop_oneof![
        "\\PC{0,40}",
        prop::collection::vec(prop_oneof![
            Just("price"), Just("category"), Just("not"), Just("in"), Just("is"), Just("missing"), Just("("), Just(")"),
            Just("and"), Just("or"), Just("<="), Just("!="), Just(","), Just("3"), Just("'a'"), Just("`b"), Just("\\"), Just("é"),
        ], 0..12).prop_map(|words| words.join(" ")),
    ]) {
        if let Ok(predicate) = Predicate::parse(&text) {
            let _ = predicate.items(&attributes(), 5);
        }
    }
}
