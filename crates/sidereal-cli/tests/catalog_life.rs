//! A run's catalog after it was built: items come and go, and the generator goes on.
#![allow(clippy::unwrap_used)]

mod world;

use std::collections::BTreeSet;
use std::fs;

use world::{LENGTH, SERIES, WIDTH, World, safetensors, vectors};

fn recommended(world: &World, history: &str) -> BTreeSet<String> {
    let answer = world.json(&["recommend", "run", "--history", history, "--k", "1000", "--json"]);
    answer["items"].as_array().unwrap().iter().map(|item| item["item_id"].as_str().unwrap().to_owned()).collect()
}

/// Two new volumes, one of which lies where an old item lies.
fn write_new(world: &World) {
    let old = vectors();
    let mut values = old[..WIDTH].to_vec();
    values.extend(old[WIDTH..2 * WIDTH].iter().map(|v| v + 0.01));
    fs::write(world.path("new.safetensors"), safetensors(2, WIDTH, &values)).unwrap();
    fs::write(world.path("new.csv"), "item_id,title\nN0,\"Series 0, again\"\nN1,\n").unwrap();
}

const ADD: [&str; 8] = ["catalog", "add", "run", "--embeddings", "new.safetensors", "--items", "new.csv", "--json"];

#[test]
fn added_items_are_recommended_and_removed_ones_never_with_the_same_generator() {
    let world = World::new();
    world.run_until("generator");
    write_new(&world);
    world.answer(&["catalog", "export", "run", "--out", "before.json"]);
    let generator = fs::read(world.path("run/generator/model.safetensors")).unwrap();
    let first = world.json(&["catalog", "versions", "run", "--json"]);
    let first = first[0]["version"].as_str().unwrap().to_owned();

    let added = world.json(&ADD);
    assert_eq!((added["added"].as_u64(), added["parent"].as_str()), (Some(2), Some(first.as_str())));
    assert_eq!(added["items"], (SERIES * LENGTH + 2) as u64);
    let all = recommended(&world, "S1V0");
    assert_eq!(all.len(), SERIES * LENGTH + 1);
    assert!(all.contains("N0") && all.contains("N1"));
    let answer = world.json(&["recommend", "run", "--history", "N0", "--k", "1000", "--include-seen", "--json"]);
    let items = answer["items"].as_array().unwrap();
    let titles: Vec<&serde_json::Value> = items.iter().filter(|i| i["item_id"] == "N0").map(|i| &i["title"]).collect();
    assert_eq!(titles, [&serde_json::json!("Series 0, again")]);

    let gone = world.json(&["catalog", "remove", "run", "--items", "S0V0, N1", "--json"]);
    assert_eq!((gone["removed"].as_u64(), gone["items"].as_u64()), (Some(2), Some((SERIES * LENGTH) as u64)));
    let all = recommended(&world, "S0V0,S1V0");
    assert_eq!(all.len(), SERIES * LENGTH - 1, "all but the one of the history that is still there");
    assert!(all.contains("N0") && !all.contains("N1") && !all.contains("S0V0"));

    // The quality report and the evaluation go on; a target that was removed is a miss.
    let evaluation = world.json(&["evaluate", "run", "--json", "--quiet"]);
    assert_eq!((evaluation["items"].as_u64(), evaluation["invalid_rate"].as_f64()), (Some(40), Some(0.0)));
    assert_eq!(world.json(&["tokenizer", "report", "run", "--json", "--quiet"])["items"], (SERIES * LENGTH) as u64);

    // What was removed comes back as what it was.
    world.answer(&["catalog", "remove", "run", "--items", "N0"]);
    assert_eq!(world.json(&ADD)["restored"], 2);
    let old = format!("run/catalog.versions/{first}");
    let diff = world.json(&["catalog", "diff", &old, "run", "--out", "map.jsonl", "--json"]);
    assert_eq!((diff["added"].as_u64(), diff["removed"].as_u64(), diff["moved"].as_u64()), (Some(2), Some(1), Some(0)));
    assert_eq!(diff["descends"], true);
    assert_eq!(fs::read_to_string(world.path("map.jsonl")).unwrap().lines().count(), SERIES * LENGTH + 2);
    world.answer(&["catalog", "diff", &old, "run", "--out", "map.parquet"]);

    // And the whole catalog goes back to what it was.
    let versions = world.json(&["catalog", "versions", "run", "--json"]);
    assert_eq!(versions.as_array().unwrap().len(), 5);
    world.answer(&["catalog", "rollback", "run", "--to", &first]);
    world.answer(&["catalog", "export", "run", "--out", "after.json"]);
    let text = |name: &str| fs::read(world.path(name)).unwrap();
    assert_eq!(text("before.json"), text("after.json"));
    assert_eq!(generator, fs::read(world.path("run/generator/model.safetensors")).unwrap());
    assert_eq!(recommended(&world, "S1V0").len(), SERIES * LENGTH - 1);
}

#[test]
fn policies_place_new_items_beside_published_ones() {
    let world = World::new();
    world.run_until("catalog");
    write_new(&world);
    for policy in ["suffix", "nearest-free", "sinkhorn", "balanced"] {
        world.answer(&["catalog", "build", "run", "--collisions", policy]);
        let built = world.json(&["inspect", "run/catalog", "--json"]);
        let facts = &built["facts"]["manifest"]["facts"];
        if policy != "suffix" {
            assert_eq!(facts["repair"]["policy"], policy);
            assert!(facts["repair"]["left_over"].is_u64() && facts["repair"]["rounds"].is_u64());
        }
        let before = facts["unique_ids"].as_u64().unwrap();
        let added = world.json(&ADD);
        let shared = added["placement"]["left_over"].as_u64().unwrap_or(0);
        assert_eq!(added["unique_ids"].as_u64(), Some(before + 2 - shared), "{policy}");
        let wrong = world.refusal(&ADD);
        assert!(wrong.contains("\"N0\"") && wrong.contains("in the catalog already"), "{wrong}");
    }
}

#[test]
fn changes_that_cannot_be_made_change_nothing() {
    let world = World::new();
    world.run_until("catalog");
    write_new(&world);
    let before = world::files(&world.path("run"));
    for (arguments, told) in [
        (&["catalog", "remove", "run", "--items", "S0V0,nobody"][..], "\"nobody\""),
        (&["catalog", "remove", "run", "--items", ","][..], "nothing to change"),
        (&["catalog", "add", "run", "--embeddings", "new.safetensors"][..], "--items"),
        (&["catalog", "rollback", "run", "--to", "0000"][..], "0000"),
        (&["catalog", "diff", "run", "data"][..], "no catalog"),
        (&["catalog", "diff", "run", "run", "--out", "map.txt"][..], ".parquet"),
    ] {
        let error = world.refusal(arguments);
        assert!(error.contains(told), "{told:?} is not in: {error}");
    }
    assert!(before == world::files(&world.path("run")), "a refused change left something behind");
    // A tokenizer that did not make the catalog may not add to it.
    world.answer(&["tokenizer", "train", "run", "--codes", "8,8", "--seed", "9", "--quiet"]);
    let error = world.refusal(&ADD);
    assert!(error.contains("was not built with the run's tokenizer"), "{error}");
}

#[test]
fn a_run_is_carried_over_to_another_embedding_model() {
    let world = World::new();
    world.run_until("generator");
    world.answer(&["catalog", "remove", "run", "--items", "S0V0"]);
    // The other model turns pairs of dimensions round and doubles everything.
    let turned = |v: &[f32]| -> Vec<f32> {
        v.chunks(2).flat_map(|p| [2.0 * (0.8 * p[0] - 0.6 * p[1]), 2.0 * (0.6 * p[0] + 0.8 * p[1])]).collect()
    };
    fs::write(world.path("other.safetensors"), safetensors(SERIES * LENGTH, WIDTH, &turned(&vectors()))).unwrap();
    let upgrade = |how: &str, out: &str| {
        let command =
            ["tokenizer", "upgrade", "run", "--new-embeddings", "other.safetensors", "--how", how, "--out", out];
        world.json(&[&command[..], &["--json", "--quiet"]].concat())
    };
    let mapped = upgrade("map", "mapped");
    assert_eq!((mapped["moved_items"].as_u64(), mapped["generator_kept"].as_bool()), (Some(0), Some(true)));
    assert!(mapped["agreement"]["whole"].as_f64().unwrap() > 0.9, "{mapped}");
    // New items of the other model can be added, and the generator goes on.
    fs::write(world.path("new.safetensors"), safetensors(1, WIDTH, &turned(&vectors()[WIDTH..2 * WIDTH]))).unwrap();
    fs::write(world.path("new.csv"), "item_id,title\nN0,New\n").unwrap();
    world.answer(&["catalog", "add", "mapped", "--embeddings", "new.safetensors", "--items", "new.csv"]);
    let answer = world.json(&["recommend", "mapped", "--history", "S1V0", "--k", "1000", "--json"]);
    assert_eq!(answer["items"].as_array().unwrap().len(), SERIES * LENGTH - 1);

    let relabelled = upgrade("relabel", "relabelled");
    let (before, after) = (&relabelled["relabelled"]["before"], &relabelled["relabelled"]["after"]);
    assert!(after["whole"].as_f64() >= before["whole"].as_f64(), "{relabelled}");
    assert_eq!(relabelled["generator_kept"], false);
    assert!(world.path("relabelled/migration.parquet").is_file());
    let again =
        ["tokenizer", "upgrade", "run", "--new-embeddings", "other.safetensors", "--how", "map", "--out", "mapped"];
    assert!(world.refusal(&again).contains("is a run already"));
}

#[test]
fn a_list_of_items_grows_under_the_same_generator() {
    let world = World::new();
    world.run_until("split");
    world.answer(&["tokenizer", "train", "run", "--method", "collaborative", "--codes", "8", "--quiet"]);
    world.answer(&["catalog", "build", "run", "--quiet"]);
    world.answer(&["generator", "train", "run", "--recipe", "recipe.toml", "--quiet"]);
    write_new(&world);
    let added = world.json(&ADD);
    assert_eq!((added["added"].as_u64(), added["unique_ids"].as_u64()), (Some(2), Some(42)));
    let all = recommended(&world, "S1V0");
    assert!(all.len() == SERIES * LENGTH + 1 && all.contains("N0") && all.contains("N1"));
    let wrong = world.refusal(&ADD);
    assert!(wrong.contains("\"N1\"") && wrong.contains("in the catalog already"), "{wrong}");
}

#[test]
fn a_run_gets_a_new_encoder_and_keeps_catalog_and_generator() {
    let world = World::new();
    let recipe = world::RECIPE.replace(
        "[tokenizer.rq-kmeans]\ncodes = [8, 8]",
        "[tokenizer.rq-vae]\ncodes = [8, 8]\nhidden = [16]\nlatent = 8\nbatch = 20\nepochs = 50\nlearning_rate = 0.01",
    );
    fs::write(world.path("recipe.toml"), recipe).unwrap();
    world.run_until("generator");
    // The other model has fewer numbers, none of which is a sum of the old ones.
    let other: Vec<f32> = vectors().chunks(WIDTH).flat_map(|v| (0..9).map(|d| (v[d] + 2.0 * v[d + 3]).exp())).collect();
    fs::write(world.path("other.safetensors"), safetensors(SERIES * LENGTH, 9, &other)).unwrap();
    let upgrade =
        ["tokenizer", "upgrade", "run", "--new-embeddings", "other.safetensors", "--how", "encoder", "--out", "new"];
    let done = world.json(&[&upgrade[..], &["--json", "--quiet"]].concat());
    assert_eq!((done["moved_items"].as_u64(), done["generator_kept"].as_bool()), (Some(0), Some(true)), "{done}");
    let whole = |agreement: &serde_json::Value| agreement["whole"].as_f64().unwrap();
    assert_eq!(done["encoder"]["after"]["levels"].as_array().unwrap().len(), 2);
    assert!(whole(&done["encoder"]["after"]) > whole(&done["encoder"]["before"]), "{done}");
    assert!(done["encoder"]["held_out"]["items"] == 4 && done["agreement"] == done["encoder"]["after"], "{done}");
    let answer = world.json(&["recommend", "new", "--history", "S1V0", "--k", "1000", "--json"]);
    assert_eq!(answer["items"].as_array().unwrap().len(), SERIES * LENGTH - 1);
    let told = world.answer(&[&upgrade[..8], &["again", "--quiet"]].concat());
    assert!(told.contains("before: codes") && told.contains("after, items held out: codes"), "{told}");

    world.answer(&["tokenizer", "train", "run", "--codes", "8,8", "--quiet"]);
    world.answer(&["catalog", "build", "run", "--quiet"]);
    let error = world.refusal(&[&upgrade[..8], &["refused"]].concat());
    assert!(error.contains("rq-kmeans has no encoder") && error.contains("--how map or --how relabel"), "{error}");
}

#[test]
fn drift_beyond_a_limit_is_told_and_exits_with_one() {
    let world = World::new();
    world.run_until("catalog");
    let same = ["tokenizer", "drift", "run", "--embeddings", "data/embeddings.safetensors", "--json"];
    let report = world.json(&same);
    assert_eq!((report["divergence"].as_f64(), report["collision_share"].as_f64()), (Some(0.0), Some(1.0)));
    assert!(report["error_percentile"].is_f64());
    let far: Vec<f32> = vectors().iter().map(|v| 5.0 - v).collect();
    fs::write(world.path("far.safetensors"), safetensors(SERIES * LENGTH, WIDTH, &far)).unwrap();
    let judged =
        ["tokenizer", "drift", "run", "--embeddings", "far.safetensors", "--max-error-percentile", "95", "--json"];
    let output = world.sidereal(&judged);
    assert_eq!(output.status.code(), Some(1), "{}", world::stderr(&output));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["exceeded"][0]["figure"], "error_percentile");
    assert!(world.refusal(&[&same[..], &["--max-divergence", "2"]].concat()).contains("--max-divergence"));
}
