//! Trainings and evaluations on what nobody should have, but somebody has.
#![allow(clippy::unwrap_used)]

mod world;

use std::fs;
use std::process::{Command, Stdio};

use serde_json::Value;
use world::{RECIPE, World, safetensors};

const RUN: [&str; 7] = ["run", "recipe.toml", "--data", "data", "--out", "run", "--quiet"];

/// A world of other items and events: `events` are items in the order of each user.
fn other(items: usize, events: &[&[usize]], recipe: &str) -> World {
    let world = World::new();
    let rows: String = (0..items).map(|item| format!("i{item},Item {item}\n")).collect();
    fs::write(world.path("data/items.csv"), format!("item_id,title\n{rows}")).unwrap();
    let mut text = "user_id,item_id,timestamp\n".to_owned();
    for (user, events) in events.iter().enumerate() {
        for (time, item) in events.iter().enumerate() {
            text += &format!("u{user},i{item},{}\n", 1000 + time);
        }
    }
    fs::write(world.path("data/interactions.csv"), text).unwrap();
    let values: Vec<f32> = (0..items * 3).map(|i| (i as f32 * 0.7).sin()).collect();
    fs::write(world.path("data/embeddings.safetensors"), safetensors(items, 3, &values)).unwrap();
    fs::write(world.path("recipe.toml"), recipe).unwrap();
    world
}

fn evaluation(world: &World) -> Value {
    world.answer(&RUN);
    world.json(&["evaluate", "run", "--json", "--quiet"])
}

#[test]
fn a_catalog_of_one_item_goes_the_whole_way() {
    let recipe = RECIPE.replace("codes = [8, 8]", "codes = [1, 1]");
    let found = evaluation(&other(1, &[&[0; 4], &[0; 5], &[0; 3]], &recipe));
    assert_eq!(found["no_filter"]["recall@1"], 1.0);
    // Its only item is in everybody's history.
    assert_eq!(found["seen_removed"]["recall@50"], 0.0);
    assert_eq!((found["items"].as_u64(), found["invalid_rate"].as_f64()), (Some(1), Some(0.0)));
}

#[test]
fn targets_that_are_all_cold_are_counted_as_such() {
    // Everybody learns from 0, 1 and 2, and then takes what nobody has had.
    let found = evaluation(&other(
        9,
        &[&[0, 1, 2, 3, 4], &[1, 0, 2, 5, 6], &[2, 1, 0, 7, 8]],
        &RECIPE.replace("codes = [8, 8]", "codes = [3, 3]"),
    ));
    let detail = &found["details"]["tiger"]["no_filter"];
    assert_eq!(
        (detail["sets"]["cold"]["users"].as_f64(), detail["sets"]["in_set"]["users"].as_f64()),
        (Some(3.0), Some(0.0))
    );
    assert_eq!(
        (detail["sets"]["cold"]["items"].as_f64(), detail["buckets"]["cold"]["users"].as_f64()),
        (Some(6.0), Some(3.0))
    );
    // 50 are more than there are: every item is found.
    assert_eq!(found["no_filter"]["recall@50"], 1.0);
    assert_eq!(found["no_filter"]["coverage@50"], 1.0);
}

#[test]
fn users_with_nothing_to_learn_from_are_told_so() {
    let world = other(6, &[&[0, 1, 2], &[3, 4, 5]], &RECIPE.replace("codes = [8, 8]", "codes = [3, 3]"));
    let error = world.refusal(&RUN);
    assert!(error.contains("no user has two training events"), "{error}");
    // What needs no training answers all the same.
    let found = world.json(&["evaluate", "run", "--baselines-only", "--json", "--quiet"]);
    assert_eq!(found["details"]["popularity"]["no_filter"]["sets"]["cold"]["users"], 2.0);
}

#[cfg(unix)]
#[test]
fn a_disk_that_fills_during_a_save_leaves_the_checkpoint_before() {
    let recipe =
        RECIPE.replace("max_epochs = 2", "max_epochs = 40").replace("checkpoint_every = 3", "checkpoint_every = 20");
    let world = World::new();
    fs::write(world.path("recipe.toml"), recipe).unwrap();
    let checkpoint = world.path("run/generator.partial/checkpoint.safetensors");
    let mut child = Command::new(assert_cmd::cargo::cargo_bin("sidereal"))
        .args(RUN)
        .current_dir(world.path("."))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while !checkpoint.exists() && child.try_wait().unwrap().is_none() {
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let before = fs::read(&checkpoint).unwrap();
    // A kill may leave a temporary file; a failed write must not.
    let halves = || {
        let entries = fs::read_dir(world.path("run/generator.partial")).unwrap();
        entries.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with('.')).count()
    };
    let halves_before = halves();
    // No file may become as large as a checkpoint, all others may. The shell counts in blocks of 512 or of 1024 bytes.
    let blocks = before.len() / 1024 - 4;
    let binary = assert_cmd::cargo::cargo_bin("sidereal");
    let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec {} {}", binary.display(), RUN.join(" "));
    let output = Command::new("sh").args(["-c", &script]).current_dir(world.path(".")).output().unwrap();
    let told = world::stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(told.contains("checkpoint.safetensors") && !told.contains("panicked"), "{told}");
    assert!(fs::read(&checkpoint).unwrap() == before, "the checkpoint before is gone");
    assert_eq!(halves(), halves_before, "half a file is left");
    // With room again the training goes on from there, and ends as one that never failed.
    world.run_until("generator");
    let calm = World::new();
    fs::copy(world.path("recipe.toml"), calm.path("recipe.toml")).unwrap();
    calm.run_until("generator");
    let bytes = |world: &World| fs::read(world.path("run/generator/model.safetensors")).unwrap();
    assert!(bytes(&world) == bytes(&calm), "the weights differ from those of an undisturbed training");
}

#[test]
fn a_diverged_training_names_users_and_keeps_the_run_whole() {
    let world = World::new();
    let recipe =
        RECIPE.replace("learning_rate = 3e-3", "learning_rate = 1e30").replace("warmup_steps = 4", "warmup_steps = 0");
    fs::write(world.path("recipe.toml"), recipe).unwrap();
    let error = world.refusal(&RUN);
    for part in ["training step", "diverged", "lower learning_rate"] {
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
    assert!(!world.path("run/generator").exists() && world.path("run/catalog/manifest.json").is_file());
}

#[test]
fn a_recipe_that_imports_its_catalog_needs_no_tokenizer_and_refuses_a_stale_one() {
    let world = World::new();
    world.run_until("catalog");
    world.answer(&["catalog", "export", "run", "--format", "lc-rec", "--out", "data/ids.json"]);
    let tokenizer = "[tokenizer.rq-kmeans]\ncodes = [8, 8]\n";
    let import = "[catalog]\nimport = \"ids.json\"\n";
    let write = |recipe: String| fs::write(world.path("recipe.toml"), recipe).unwrap();
    write(RECIPE.replace(tokenizer, import));
    let error = world.refusal(&RUN);
    assert!(error.contains("has a tokenizer") && error.contains("another run folder"), "{error}");
    let told = world.json(&["run", "recipe.toml", "--data", "data", "--out", "new", "--json", "--quiet"]);
    assert_eq!(told["stages"].as_array().unwrap().len(), 6);
    assert!(world.path("new/report/report.html").is_file() && !world.path("new/tokenizer").exists());
    // Without the data folder nothing has to be made again.
    let again = world.json(&["run", "recipe.toml", "--out", "new", "--json", "--quiet"]);
    assert!(again["stages"].as_array().unwrap().iter().all(|stage| stage["kept"] == true), "{again}");
    for (recipe, parts) in [
        (RECIPE.replace(tokenizer, ""), &["tokenizer", "catalog.import"][..]),
        (RECIPE.replace(tokenizer, &format!("{tokenizer}{import}")), &["catalog.import", "rq-kmeans"]),
        (RECIPE.replace(tokenizer, &format!("{import}collisions = \"suffix\"\n")), &["catalog.collisions"]),
        (RECIPE.replace(tokenizer, &format!("{import}format = \"magic\"\n")), &["magic", "lc-rec"]),
        (RECIPE.replace(tokenizer, &format!("{tokenizer}[catalog]\nformat = \"grid\"\n")), &["catalog.format"]),
    ] {
        write(recipe);
        let error = world.refusal(&["run", "recipe.toml", "--data", "data", "--out", "wrong", "--quiet"]);
        assert!(parts.iter().all(|part| error.contains(part)), "{parts:?}: {error}");
        assert!(!world.path("wrong").exists());
    }
}
