//! The weights that the project ships are whole and answer.
#![allow(clippy::unwrap_used)]

use std::path::Path;

fn sidereal(arguments: &[&str]) -> serde_json::Value {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let output =
        assert_cmd::Command::cargo_bin("sidereal").unwrap().current_dir(root).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn every_stage_of_the_demo_weights_is_what_its_manifest_says() {
    for stage in ["data", "embeddings", "split", "tokenizer", "catalog", "generator", "report"] {
        let found = sidereal(&["inspect", &format!("weights/demo/{stage}"), "--json"]);
        assert_eq!(found["facts"]["files"], "verified", "{stage}");
    }
}

#[test]
fn the_demo_weights_offer_a_reader_catalog_items() {
    let methods = ["recommend", "weights/demo", "--history"];
    let data = sidereal(&["inspect", "weights/demo", "--json"]);
    let items = data["facts"]["stages"]["data"]["facts"]["items"].as_u64().unwrap();
    assert!(items > 1500, "{items} items");
    let first = sidereal(&[&methods[..], &["B0001", "--k", "20", "--json"]].concat());
    let found: std::collections::BTreeSet<&str> =
        first["items"].as_array().unwrap().iter().map(|item| item["item_id"].as_str().unwrap()).collect();
    assert_eq!(found.len(), 20, "twenty different items");
    assert!(!found.contains("B0001"), "the history is left out");
}
