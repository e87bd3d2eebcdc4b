//! `sidereal embed` with models: what is kept, what is made again, what the manifest says.
#![allow(clippy::unwrap_used)]

mod world;

use std::fs;
use std::path::{Path, PathBuf};

use world::{LENGTH, SERIES, WIDTH, World, stderr};

const ITEMS: usize = SERIES * LENGTH;

fn model(name: &str) -> String {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let dir: PathBuf = crates.join("sidereal-embed/tests/fixtures").join(name);
    dir.canonicalize().unwrap().display().to_string()
}

fn prepare(world: &World) {
    let data = ["--items", "data/items.csv", "--interactions", "data/interactions.csv", "--out", "run", "--quiet"];
    world.answer(&[&["data", "prepare"][..], &data].concat());
}

#[test]
fn only_items_that_changed_go_through_the_model_again() {
    let world = World::new();
    prepare(&world);
    let bert = model("bert_tiny");
    let embed = |more: &[&str]| {
        let output = world.sidereal(&[&["embed", "run", "--model", &bert, "--json"][..], more].concat());
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let manifest: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        (manifest, stderr(&output))
    };
    let (manifest, told) = embed(&["--template", "{title}. {brand}", "--max-tokens", "32"]);
    assert!(told.contains("40 items encoded, 0 reused"), "{told}");
    assert_eq!((&manifest["facts"]["rows"], &manifest["facts"]["width"]), (&ITEMS.into(), &32.into()));
    let part = &manifest["facts"]["parts"][0];
    assert_eq!((&part["name"], &part["width"]), (&"bert_tiny".into(), &32.into()));
    assert_eq!((&part["facts"]["pooling"], &part["facts"]["dtype"]), (&"mean".into(), &"f32".into()));
    assert_eq!(part["facts"]["sha256"].as_str().unwrap().len(), 64);
    assert_eq!(manifest["config"]["template"], "{title}. {brand}");
    assert_eq!(manifest["config"]["template_sha256"].as_str().unwrap().len(), 64);
    let (_, told) = embed(&["--template", "{title}. {brand}", "--max-tokens", "32"]);
    assert!(!told.contains("encoded"), "a finished stage is kept: {told}");
    let bytes = fs::read(world.path("run/embeddings/embeddings.safetensors")).unwrap();

    let items = fs::read_to_string(world.path("data/items.csv")).unwrap();
    fs::write(world.path("data/items.csv"), items.replace("Series 3, volume 2", "Series 3, the second")).unwrap();
    prepare(&world);
    let (_, told) = embed(&["--template", "{title}. {brand}", "--max-tokens", "32"]);
    assert!(told.contains("1 items encoded, 39 reused"), "{told}");
    let changed = fs::read(world.path("run/embeddings/embeddings.safetensors")).unwrap();
    let rows =
        |bytes: &[u8]| bytes[bytes.len() - ITEMS * 32 * 4..].chunks(32 * 4).map(<[u8]>::to_vec).collect::<Vec<_>>();
    let differing: Vec<usize> =
        rows(&bytes).iter().zip(rows(&changed)).enumerate().filter(|(_, (a, b))| **a != *b).map(|(i, _)| i).collect();
    assert_eq!(differing, [3 * LENGTH + 2]);
    world.answer(&["tokenizer", "train", "run", "--levels", "2", "--codes", "4", "--quiet"]);
}

#[test]
fn files_and_models_stand_side_by_side() {
    let world = World::new();
    prepare(&world);
    let siglip = model("siglip_tiny");
    fs::create_dir(world.path("pictures")).unwrap();
    for id in ["S0V0", "S7V4"] {
        fs::copy(Path::new(&siglip).join("photo.jpg"), world.path(&format!("pictures/{id}.jpg"))).unwrap();
    }
    let (bert, file) = (model("bert_tiny"), "data/embeddings.safetensors");
    let command =
        ["embed", "run", "--from", file, "--model", &bert, "--model", &siglip, "--images", "pictures", "--json"];
    let manifest = world.json(&command);
    let parts = manifest["facts"]["parts"].as_array().unwrap();
    let widths: Vec<u64> = parts.iter().map(|part| part["width"].as_u64().unwrap()).collect();
    assert_eq!(widths, [WIDTH as u64, 32, 32]);
    assert_eq!(manifest["facts"]["width"], 76);
    assert_eq!((&parts[1]["empty_items"], &parts[2]["empty_items"]), (&0.into(), &38.into()));
    assert!(manifest["inputs"]["pictures-3"].is_string());
    world.answer(&command);
}

#[test]
fn a_wrong_wish_is_told_with_its_mend() {
    let world = World::new();
    prepare(&world);
    let (bert, siglip) = (model("bert_tiny"), model("siglip_tiny"));
    for (arguments, words) in [
        (&["--model", "nowhere"][..], "neither a folder nor"),
        (&["--model", "data"], "no model here"),
        (&["--model", &bert, "--template", "{colour}"], "item_id, title, brand, price"),
        (&["--model", &bert, "--dtype", "f16"], "bf16"),
        (&["--model", &bert, "--max-tokens", "65"], "8 to 64"),
        (&["--model", &bert, "--instruction", "find"], "--instruction"),
        (&["--model", &siglip], "--images"),
        (&["--model", &siglip, "--images", "colour"], "neither a folder nor a text column"),
        (&["--template", "tiger"], "--model"),
        (&[], "--from"),
    ] {
        let output = world.sidereal(&[&["embed", "run"][..], arguments].concat());
        let told = stderr(&output);
        assert!(output.status.code() == Some(2) && told.contains(words), "{arguments:?}: {told}");
        assert!(!told.contains("panicked"), "{told}");
    }
}
