#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use proptest::prelude::*;
use sidereal_core::artifact::{Manifest, StageWriter};

use super::*;

fn file(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn prepared(items: Option<&str>, events: &str, k: Option<u32>) -> Result<PreparedData> {
    let dir = tempfile::tempdir().unwrap();
    let items = items.map(|text| file(dir.path(), "items.csv", text));
    let events = file(dir.path(), "events.csv", events);
    prepare_files(items.as_deref(), &events, &ColumnMap::default(), k)
}

fn ids(data: &PreparedData) -> Vec<&str> {
    data.items.ids().iter().map(ItemId::as_str).collect()
}

const ITEMS: &str = "item_id,title,price\nc,C,1\na,A,\ncold,,3\nb,B,2\n";
const EVENTS: &str = "user_id,item_id,timestamp,rating\nz,a,5,1\ny,b,1,2\nz,c,5,3\nz,b,4,4\ny,b,9,5\n";

#[test]
fn every_item_and_user_is_kept_and_events_are_in_order() {
    let data = prepared(Some(ITEMS), EVENTS, None).unwrap();
    assert_eq!(ids(&data), ["c", "a", "cold", "b"]);
    assert_eq!(data.histories.users(), ["z", "y"]);
    assert_eq!(data.histories.items_of(0), [3, 1, 0], "b at 4, then a and c at 5 as the file has them");
    assert_eq!(data.histories.items_of(1), [3, 3]);
    assert_eq!(data.histories.times_of(0), Some(&[4, 5, 5][..]));
    assert_eq!(data.histories.weights_of(0), Some(&[4.0, 1.0, 3.0][..]));
    assert_eq!(data.kept_items(), [0, 1, 2, 3]);
    let facts = &data.facts;
    assert_eq!((facts.items, facts.users, facts.interactions, facts.cold_items, facts.tied_events), (4, 2, 5, 1, 1));
    assert_eq!((facts.min_history, facts.max_history, facts.mean_history), (2, 3, 2.5));
    assert!(facts.order.contains("by time") && facts.order.contains("order of the file"));
    assert_eq!(facts.time_unit.as_deref(), Some("as given"));
}

#[test]
fn a_k_core_drops_items_and_says_which_rows_stay() {
    let data = prepared(Some(ITEMS), "user_id,item_id\nx,a\nx,a\ny,b\ny,b\nz,c\ny,c\n", Some(2)).unwrap();
    assert_eq!(ids(&data), ["a", "b"]);
    assert_eq!(data.items.title(1), Some("B"));
    assert_eq!(data.items.attributes()["price"], Attribute::Number(vec![None, Some(2.0)]));
    assert_eq!(data.item_rows, ItemRows { in_file: 4, kept: Some(vec![1, 3]) });
    assert_eq!(
        (data.histories.users(), data.histories.items()),
        (&["x".to_owned(), "y".to_owned()][..], &[0, 0, 1, 1][..])
    );
    let dropped = data.facts.k_core.unwrap();
    assert_eq!((dropped.items, dropped.users, dropped.interactions, dropped.rounds), (2, 1, 2, 2));
    assert!(prepared(Some(ITEMS), EVENTS, Some(9)).unwrap_err().to_string().contains("k-core: no user or item has 9"));
}

#[test]
fn an_unknown_item_is_named_with_its_row() {
    let error = prepared(Some(ITEMS), "user_id,item_id\nu,a\nv,zz\nv,yy\n", None).unwrap_err().to_string();
    assert!(error.contains("events.csv, line 3: user \"v\" has item \"zz\", which is not in"), "{error}");
    assert!(error.contains("items.csv (and 1 other item ids are not); add the item"), "{error}");
}

#[test]
fn without_an_items_table_the_items_come_from_the_events() {
    let numbers = prepared(None, "user_id,item_id\nu,10\nu,9\n", None).unwrap();
    assert_eq!((ids(&numbers), numbers.histories.items()), (vec!["9", "10"], &[1, 0][..]));
    let names = prepared(None, "user_id,item_id\nu,b\nu,a\n", None).unwrap();
    assert_eq!((ids(&names), names.facts.items_table), (vec!["b", "a"], false));
}

#[test]
fn a_repeated_position_is_told() {
    let events = "user_id,item_id,position\nu,a,0\nu,b,0\n";
    let error = prepared(Some(ITEMS), events, None).unwrap_err().to_string();
    assert!(error.contains("line 3: user \"u\" has position 0 a second time (first in line 2)"), "{error}");
}

#[test]
fn a_stage_reads_back_as_it_was_and_refuses_edits() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(
        dir.path(),
        "items.jsonl",
        "{\"item_id\": \"a\\u0001\", \"tags\": [\"x\", \"y\"], \"source_row\": 3}\n{\"item_id\": \"b\"}\n{\"item_id\": \"c\", \"brand\": \"B\"}\n",
    );
    let events = file(
        dir.path(),
        "e.jsonl",
        "{\"user_id\": \"u\\u0001\", \"item_id\": \"a\\u0001\", \"position\": 4, \"time\": 2}\n{\"user_id\": \"u\\u0001\", \"item_id\": \"c\", \"position\": 2}\n{\"user_id\": \"v\", \"item_id\": \"c\", \"position\": 0}\n{\"user_id\": \"v\", \"item_id\": \"a\\u0001\", \"position\": 1}\n",
    );
    let data = prepare_files(Some(&path), &events, &ColumnMap::default(), Some(2)).unwrap();
    assert_eq!((data.facts.missing_times, data.histories.times()), (3, None));
    let stage = dir.path().join("data");
    let writer = StageWriter::begin(&stage).unwrap();
    data.save_into(writer.dir()).unwrap();
    writer.finish(Manifest::new("data", None, serde_json::Value::Null, BTreeMap::new())).unwrap();
    same(&PreparedData::load(&stage).unwrap(), &data);
    let again = dir.path().join("again");
    std::fs::create_dir(&again).unwrap();
    data.save_into(&again).unwrap();
    for name in [crate::stage::ITEMS, crate::stage::INTERACTIONS] {
        let bytes = std::fs::read(stage.join(name)).unwrap();
        assert_eq!(bytes, std::fs::read(again.join(name)).unwrap(), "the same data gives the same bytes");
        let mut edited = bytes.clone();
        edited[bytes.len() / 2] ^= 1;
        std::fs::write(stage.join(name), &edited).unwrap();
        assert!(PreparedData::load(&stage).unwrap_err().to_string().contains("its bytes have changed"));
        std::fs::write(stage.join(name), bytes).unwrap();
    }
    std::fs::remove_file(again.join(crate::stage::INTERACTIONS)).unwrap();
    assert!(PreparedData::load(&again).unwrap_err().to_string().contains("interactions.parquet"));
}

#[test]
fn a_damaged_stage_without_a_manifest_never_panics() {
    let dir = tempfile::tempdir().unwrap();
    let data = prepared(Some(ITEMS), EVENTS, None).unwrap();
    data.save_into(dir.path()).unwrap();
    let path = dir.path().join(crate::stage::INTERACTIONS);
    let bytes = std::fs::read(&path).unwrap();
    for at in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[at] ^= 0x80;
        std::fs::write(&path, &bad).unwrap();
        let _ = PreparedData::load(dir.path());
    }
    std::fs::write(&path, &bytes).unwrap();
    same(&PreparedData::load(dir.path()).unwrap(), &data);
}

fn same(a: &PreparedData, b: &PreparedData) {
    assert_eq!((a.items.ids(), a.items.titles()), (b.items.ids(), b.items.titles()));
    assert_eq!(a.items.attributes(), b.items.attributes());
    assert_eq!((&a.histories, &a.item_rows), (&b.histories, &b.item_rows));
    assert_eq!((&a.facts, &a.partial_times), (&b.facts, &b.partial_times));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn preparing_loses_and_invents_nothing(events in proptest::collection::vec((0u8..4, 0u8..5, 0i64..4), 1..30)) {
        let rows: String = events.iter().map(|(u, i, t)| format!("u{u},i{i},{t}\n")).collect();
        let data = prepared(None, &format!("user_id,item_id,time\n{rows}"), None).unwrap();
        let mut given: Vec<(String, String, i64)> = events.iter().map(|(u, i, t)| (format!("u{u}"), format!("i{i}"), *t)).collect();
        let mut found = Vec::new();
        for u in 0..data.histories.len() {
            let times = data.histories.times_of(u).unwrap();
            prop_assert!(times.windows(2).all(|pair| pair[0] <= pair[1]));
            for (&item, &time) in data.histories.items_of(u).iter().zip(times) {
                found.push((data.histories.user(u).to_owned(), data.items.id(item).to_string(), time));
            }
        }
        given.sort();
        found.sort();
        prop_assert_eq!(given, found);
        let dir = tempfile::tempdir().unwrap();
        data.save_into(dir.path()).unwrap();
        same(&PreparedData::load(dir.path()).unwrap(), &data);
    }
}
