//! A job killed at any moment is completed by asking again, and then holds what an undisturbed one holds.
#![allow(clippy::unwrap_used)]

mod world;

use std::process::{Command, Stdio};

use world::World;

/// Starts the recipe, waits for a folder or file to appear, and kills the process at once.
fn kill_when(world: &World, appears: &str) {
    let mut child = Command::new(assert_cmd::cargo::cargo_bin("sidereal"))
        .args(["run", "recipe.toml", "--data", "data", "--out", "run", "--quiet"])
        .current_dir(world.path("."))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while !world.path(appears).exists() {
        if child.try_wait().unwrap().is_some() {
            return; // It was faster than we: there is nothing to kill.
        }
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_run_killed_at_any_stage_is_completed_with_the_same_bytes() {
    let calm = World::new();
    calm.run_until("generator");
    for moment in [
        "run/data",
        "run/embeddings",
        "run/split",
        "run/tokenizer",
        "run/catalog",
        "run/generator.partial",
        "run/generator",
    ] {
        let world = World::new();
        kill_when(&world, moment);
        world.run_until("generator");
        for file in [
            "data/items.parquet",
            "catalog/catalog.safetensors",
            "split/split.safetensors",
            "generator/model.safetensors",
        ] {
            let bytes = |world: &World| std::fs::read(world.path("run").join(file)).unwrap();
            assert!(bytes(&world) == bytes(&calm), "{file} differs after a kill at {moment}");
        }
    }
}

#[test]
fn a_training_killed_after_a_checkpoint_continues_from_it() {
    let world = World::new();
    world.run_until("catalog");
    // A file of the checkpoint appears in the work folder while training runs.
    kill_when(&world, "run/generator.partial/checkpoint");
    world.run_until("generator");
    let lines = std::fs::read_to_string(world.path("run/generator/metrics.jsonl")).unwrap();
    let steps: Vec<u64> = lines
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .filter(|event| event["event"] == "train")
        .map(|event| event["step"].as_u64().unwrap())
        .collect();
    assert!(steps.windows(2).all(|pair| pair[0] < pair[1]), "a step is told twice: {steps:?}");
}
