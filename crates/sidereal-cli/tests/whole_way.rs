//! The whole way through the binary: what a user does, and what other tools read.
#![allow(clippy::unwrap_used)]

mod world;

use serde_json::Value;
use world::{LENGTH, SERIES, USERS, World};

fn recommend(world: &World, more: &[&str]) -> Value {
    let mut arguments = vec!["recommend", "run", "--history", "S1V0,S1V1", "--k", "10", "--json"];
    arguments.extend_from_slice(more);
    world.json(&arguments)
}

#[test]
fn a_recipe_goes_from_tables_to_answers() {
    let world = World::new();
    let told = world.json(&["run", "recipe.toml", "--data", "data", "--out", "run", "--json", "--quiet"]);
    assert_eq!(told["stages"].as_array().unwrap().len(), 7);
    assert!(world.path("run/report/report.html").is_file());
    for stage in ["data", "embeddings", "split", "tokenizer", "catalog", "generator", "report"] {
        assert!(world.path(&format!("run/{stage}/manifest.json")).is_file(), "{stage}");
        assert!(!world.path(&format!("run/{stage}.partial")).exists(), "{stage}");
    }

    // Asked again, everything is kept and the same bytes stand there.
    let before = world::files(&world.path("run"));
    let again = world.json(&["run", "recipe.toml", "--data", "data", "--out", "run", "--json", "--quiet"]);
    assert!(again["stages"].as_array().unwrap().iter().all(|stage| stage["kept"] == true), "{again}");
    assert_eq!(before, world::files(&world.path("run")));

    // Recommendations: k catalog items, each once, none of the history.
    let answer = recommend(&world, &[]);
    let items = answer["items"].as_array().unwrap();
    let ids: std::collections::BTreeSet<&str> = items.iter().map(|item| item["item_id"].as_str().unwrap()).collect();
    assert_eq!((items.len(), ids.len()), (10, 10));
    assert!(!ids.contains("S1V0") && !ids.contains("S1V1"));
    assert!(items.iter().all(|item| item["title"].as_str().unwrap().starts_with("Series")));
    assert!(items.iter().all(|item| item["semantic_id"].as_array().unwrap().len() == 2));
    let scores: Vec<f64> = items.iter().map(|item| item["score"].as_f64().unwrap()).collect();
    assert!(scores.windows(2).all(|pair| pair[0] >= pair[1]));
    assert!(answer["catalog_version"].is_string());
    // All items can be asked for, and then all but the history come back.
    let all = world.json(&["recommend", "run", "--history", "S1V0,S1V1", "--k", "1000", "--json"]);
    assert_eq!(all["items"].as_array().unwrap().len(), SERIES * LENGTH - 2);
    let with_seen = world.json(&["recommend", "run", "--history", "S1V0", "--k", "1000", "--include-seen", "--json"]);
    assert_eq!(with_seen["items"].as_array().unwrap().len(), SERIES * LENGTH);

    // Evaluation: the contract's keys, and nothing invalid.
    let evaluation = world.json(&["evaluate", "run", "--json", "--quiet"]);
    assert_eq!((evaluation["split"].as_str(), evaluation["users"].as_u64()), (Some("test"), Some(USERS as u64)));
    assert_eq!((evaluation["invalid_rate"].as_f64(), evaluation["duplicate_rate"].as_f64()), (Some(0.0), Some(0.0)));
    let rows = ["popularity", "last_item", "text", "neighbours", "fused"];
    for mode in ["no_filter", "seen_removed"] {
        for metric in ["recall@5", "recall@10", "ndcg@5", "ndcg@10", "mrr"] {
            assert!(evaluation[mode][metric].is_f64(), "{mode} {metric}");
            for row in rows {
                assert!(evaluation["baselines"][row][mode][metric].is_f64(), "{row} {mode} {metric}");
            }
        }
    }
    let alone = world.json(&["evaluate", "run", "--baselines-only", "--json", "--quiet"]);
    assert_eq!(alone["baselines"], evaluation["baselines"]);
    assert!(alone.get("no_filter").is_none());

    // The quality report and the manifest.
    let report = world.json(&["tokenizer", "report", "run", "--json", "--quiet"]);
    assert_eq!(report["items"], (SERIES * LENGTH) as u64);
    assert_eq!(report["levels"].as_array().unwrap().len(), 2);
    assert_eq!(world.json(&["inspect", "run", "--json"])["what"], "run");
    assert_eq!(world.json(&["inspect", "run/catalog", "--json"])["what"], "stage");
}

#[test]
fn recommendations_for_all_users_are_written_once_and_the_same() {
    let world = World::new();
    world.run_until("generator");
    let ask = ["recommend", "run", "--users", "all", "--k", "3", "--out", "answers.parquet", "--json", "--quiet"];
    let done = world.json(&ask);
    assert_eq!((done["users"].as_u64(), done["rows"].as_u64()), (Some(USERS as u64), Some(3 * USERS as u64)));
    let bytes = std::fs::read(world.path("answers.parquet")).unwrap();
    assert!(!world.path("answers.parquet.partial").exists());
    assert_eq!(world.json(&ask), done);
    assert_eq!(std::fs::read(world.path("answers.parquet")).unwrap(), bytes);
    std::fs::remove_file(world.path("answers.parquet")).unwrap();
    world.json(&ask);
    assert_eq!(std::fs::read(world.path("answers.parquet")).unwrap(), bytes, "the same job gives the same bytes");
    std::fs::write(world.path("users.txt"), "u3\nu5\n").unwrap();
    let some = world.json(&["recommend", "run", "--users", "users.txt", "--out", "some.parquet", "--json", "--quiet"]);
    assert_eq!(some["users"], 2);
}

#[test]
fn the_stages_one_by_one_give_what_the_recipe_gives() {
    let world = World::new();
    world.run_until("catalog");
    for command in [
        &["data", "prepare", "--items", "data/items.csv", "--interactions", "data/interactions.csv", "--out", "steps"]
            [..],
        &["embed", "steps", "--from", "data/embeddings.safetensors"],
        &["tokenizer", "train", "steps", "--method", "rq-kmeans", "--codes", "8,8", "--seed", "7"],
        &["catalog", "build", "steps", "--collisions", "postings"],
    ] {
        world.answer(&[command, &["--quiet"]].concat());
    }
    let codes = |run: &str| {
        let file = format!("{run}.json");
        world.answer(&["catalog", "export", run, "--format", "lc-rec", "--out", &file]);
        std::fs::read_to_string(world.path(&file)).unwrap()
    };
    assert_eq!(codes("run"), codes("steps"));
    // What was exported comes back, into a new run and into one with data.
    world.answer(&["catalog", "import", "run.json", "--format", "lc-rec", "--codes", "8", "--out", "imported"]);
    assert_eq!(codes("imported"), codes("run"));
    let report = world.json(&["tokenizer", "report", "imported", "--json", "--quiet"]);
    assert_eq!(report["items"], (SERIES * LENGTH) as u64);
    world.answer(&["generator", "train", "steps", "--recipe", "recipe.toml", "--seed", "7", "--quiet"]);
    let answer = world.json(&["recommend", "steps", "--history", "S0V0", "--k", "3", "--json"]);
    assert_eq!(answer["items"].as_array().unwrap().len(), 3);
}

#[test]
fn the_number_of_threads_does_not_change_a_byte() {
    let world = World::new();
    for (threads, out) in [("1", "one"), ("2", "two")] {
        let command = ["run", "recipe.toml", "--data", "data", "--until", "generator", "--quiet", "--threads", threads];
        world.answer(&[&command[..], &["--out", out]].concat());
    }
    let bytes = |run: &str, file: &str| std::fs::read(world.path(&format!("{run}/{file}"))).unwrap();
    for file in ["tokenizer/codebooks.safetensors", "catalog/catalog.safetensors", "generator/model.safetensors"] {
        assert!(bytes("one", file) == bytes("two", file), "{file} differs between one and two threads");
    }
}

#[test]
fn recgpt_learns_from_codes_of_finite_scalar_quantization_by_the_recipe_that_joins_them() {
    let world = World::new();
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/beauty/recgpt.toml");
    let mut recipe = std::fs::read_to_string(example).unwrap();
    // The world has 40 items of 12 numbers: the recipe's sizes are too large for it, and nothing else is changed.
    for (size, smaller) in [
        ("codes = [1000, 1000, 1000, 1000]", "codes = [12, 12, 12]\nhidden = [16]\nepochs = 30"),
        ("d_model = 128", "d_model = 16\nheads = 2\nlayers = 1"),
        ("d_ff = 512", "d_ff = 24"),
        ("max_epochs = 30", "max_epochs = 12\nwarmup_steps = 4"),
        ("batch_size = 128", "batch_size = 16"),
    ] {
        assert_eq!(recipe.matches(size).count(), 1, "{size}");
        recipe = recipe.replace(size, smaller);
    }
    let run = |decoding: &str| {
        let recipe = recipe.replace("decoding = \"exact\"", &format!("decoding = \"{decoding}\""));
        std::fs::write(world.path("recgpt.toml"), recipe).unwrap();
        world.answer(&["run", "recgpt.toml", "--data", "data", "--out", decoding, "--until", "generator", "--quiet"]);
        world.json(&["evaluate", decoding, "--json", "--quiet"])
    };
    let (exact, trie) = (run("exact"), run("trie"));
    assert_eq!(exact["generator"], "recgpt");
    // It has learnt something of series that are read in order, and a beam as wide as the catalog finds the same.
    let recall = |found: &serde_json::Value, row: &str| match row {
        "recgpt" => found["no_filter"]["recall@10"].as_f64().unwrap(),
        row => found["baselines"][row]["no_filter"]["recall@10"].as_f64().unwrap(),
    };
    assert!(recall(&exact, "recgpt") > recall(&exact, "popularity"), "{exact}");
    assert_eq!(recall(&exact, "recgpt"), recall(&trie, "recgpt"));
}

#[test]
fn methods_and_completions_answer() {
    let world = World::new();
    let methods = world.json(&["methods", "--json"]);
    for (kind, name) in
        [("tokenizers", "rq-kmeans"), ("tokenizers", "rq-vae"), ("generators", "tiger"), ("baselines", "fused")]
    {
        let found = methods[kind].as_array().unwrap().iter().find(|method| method["name"] == name);
        assert!(found.is_some_and(|method| method["paper"].is_string() && method["status"].is_string()), "{name}");
    }
    assert!(world.answer(&["completions", "bash"]).contains("sidereal"));
}
