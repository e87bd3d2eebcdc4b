//! Accuracy tables: `compare`, and `evaluate --with`.
#![allow(clippy::unwrap_used)]

mod world;

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;
use world::{RECIPE, USERS, World};

const UNTRAINED: [&str; 5] = ["popularity", "last_item", "text", "neighbours", "fused"];

const SUITE: &str = r#"
description = "Three ways"
seeds = 2

[[row]]
name = "plain"
recipe = "recipe.toml"

[[row]]
name = "wide"
recipe = "recipe.toml"
[row.generator.tiger]
d_model = 32
d_ff = 96
heads = 2
d_kv = 16
layers = 1
max_history = 4
[row.generator.tiger.training]
batch_size = 32
max_epochs = 1
validate_users = 20

[[row]]
name = "published"
recipe = "recipe.toml"
[row.catalog]
import = "ids.json"
"#;

/// A world with semantic IDs beside its data, and a suite.
fn world() -> World {
    let world = World::new();
    world.run_until("catalog");
    world.answer(&["catalog", "export", "run", "--format", "lc-rec", "--out", "data/ids.json"]);
    fs::write(world.path("suite.toml"), SUITE).unwrap();
    world
}

fn row<'a>(found: &'a Value, name: &str, mode: &str) -> &'a Value {
    found["rows"].as_array().unwrap().iter().find(|row| row["name"] == name && row["mode"] == mode).unwrap()
}

#[test]
fn one_command_makes_the_table_and_asked_again_keeps_all_of_it() {
    let world = world();
    let ask = ["compare", "suite.toml", "--data", "data", "--out", "table", "--json", "--quiet"];
    let found = world.json(&ask);
    assert_eq!(found["failed"], serde_json::json!([]));
    assert_eq!(found["rows"].as_array().unwrap().len(), 2 * (3 + UNTRAINED.len()));
    assert_eq!(found["comparisons"].as_array().unwrap().len(), 8 * 7 / 2 * 2 * 2);
    assert_eq!(found["data"]["judged_users"], USERS as u64);
    assert_eq!(serde_json::from_slice::<Value>(&fs::read(world.path("table/accuracy.json")).unwrap()).unwrap(), found);
    for mode in ["no_filter", "seen_removed"] {
        for name in ["plain", "wide", "published"] {
            let row = row(&found, name, mode);
            assert_eq!((row["trained"].as_bool(), row["seeds"].as_u64()), (Some(true), Some(2)), "{name}");
            for metric in ["recall@5", "recall@10", "ndcg@10", "mrr"] {
                let of = |seed: &str| row["by_seed"][seed][metric].as_f64().unwrap();
                let (a, b) = (of("7"), of("8"));
                assert!((row["metrics"][metric].as_f64().unwrap() - (a + b) / 2.0).abs() < 1e-12, "{name} {metric}");
                let deviation = (a - b).abs() / 2f64.sqrt();
                assert!((row["deviation"][metric].as_f64().unwrap() - deviation).abs() < 1e-12, "{name} {metric}");
                let interval = row["intervals"][metric].as_array().unwrap();
                assert!(interval[0].as_f64().unwrap() <= row["metrics"][metric].as_f64().unwrap());
            }
            for key in ["seconds", "cpu_seconds", "samples_per_s", "peak_memory_bytes", "parameters"] {
                assert!(row[key].as_f64().unwrap() > 0.0, "{name} {key}: {row}");
            }
            let users: f64 =
                ["short", "mid", "long"].iter().map(|g| row["history"][g]["users"].as_f64().unwrap()).sum();
            assert_eq!(users as usize, USERS);
        }
        for name in UNTRAINED {
            let row = row(&found, name, mode);
            assert_eq!((row["trained"].as_bool(), &row["deviation"]), (Some(false), &serde_json::json!({})));
        }
    }
    // The untrained rows are those of any run over the same data.
    let alone = world.json(&["evaluate", "table/rows/plain/seed-7", "--json", "--quiet"]);
    assert_eq!(
        alone["baselines"]["fused"]["seen_removed"]["ndcg@10"],
        row(&found, "fused", "seen_removed")["metrics"]["ndcg@10"]
    );
    assert_eq!(alone["no_filter"]["ndcg@10"], row(&found, "plain", "no_filter")["by_seed"]["7"]["ndcg@10"]);

    // Published IDs come without a tokenizer, and are those of the file.
    assert!(!world.path("table/rows/published/seed-7/tokenizer").exists());
    world.answer(&["catalog", "export", "table/rows/published/seed-8", "--out", "again.json"]);
    let ids = |file: &str| serde_json::from_slice::<Value>(&fs::read(world.path(file)).unwrap()).unwrap();
    assert_eq!(ids("again.json"), ids("data/ids.json"));
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let inode = |file: &str| fs::metadata(world.path(&format!("table/{file}"))).unwrap().ino();
        let of = |row: &str, file: &str| inode(&format!("rows/{row}/seed-8/{file}"));
        assert_eq!(of("plain", "tokenizer/codebooks.safetensors"), of("wide", "tokenizer/codebooks.safetensors"));
        assert_eq!(of("plain", "catalog/catalog.safetensors"), of("wide", "catalog/catalog.safetensors"));
        assert_eq!(of("published", "data/items.parquet"), inode("shared/data/items.parquet"));
    }
    let page = fs::read_to_string(world.path("table/accuracy.html")).unwrap();
    assert!(page.contains("of validation users by step, of the first seed: plain"), "no learning curves on the page");
    for part in ["Three ways", "published", "Processor time", "by length of the history", "not trained", "\u{b1}"] {
        assert!(page.contains(part), "{part} is not on the page");
    }
    let manifest: Value = serde_json::from_slice(&fs::read(world.path("table/manifest.json")).unwrap()).unwrap();
    let inputs: BTreeSet<&str> = manifest["inputs"].as_object().unwrap().keys().map(String::as_str).collect();
    assert!(inputs.contains("data") && inputs.contains("wide, seed 8"), "{inputs:?}");

    let before = world::files(&world.path("table"));
    assert_eq!(world.json(&ask), found);
    assert!(world::files(&world.path("table")) == before, "a comparison that is asked again makes nothing anew");
    // A run of it is a run like any other.
    assert!(world.answer(&["compare", "suite.toml", "--data", "data", "--out", "table", "--quiet"]).contains("\u{b1}"));
}

#[test]
fn a_row_that_cannot_be_trained_is_named_and_the_others_stand() {
    let world = world();
    fs::write(world.path("data/ids.json"), r#"{"S0V0": ["<a_1>", "<b_2>"]}"#).unwrap();
    let output =
        world.sidereal(&["compare", "suite.toml", "--data", "data", "--out", "table", "--seeds", "1", "--json", "-q"]);
    assert_eq!(output.status.code(), Some(1), "{}", world::stderr(&output));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["failed"][0]["name"], "published");
    assert!(found["failed"][0]["error"].as_str().unwrap().contains("39 of 40 items"));
    assert_eq!(row(&found, "wide", "no_filter")["deviation"], serde_json::json!({}));
    let error = world.refusal(&["compare", "nothing.toml", "--data", "data", "--out", "table", "--quiet"]);
    assert!(error.contains("nothing.toml"), "{error}");
}

#[test]
fn trained_models_of_other_runs_stand_in_one_table() {
    let world = World::new();
    world.run_until("generator");
    let run = |recipe: String, out: &str| {
        fs::write(world.path("other.toml"), recipe).unwrap();
        let until = if out == "time" { "split" } else { "generator" };
        world.answer(&["run", "other.toml", "--data", "data", "--out", out, "--until", until, "--quiet"]);
    };
    run(RECIPE.replace("codes = [8, 8]", "codes = [4, 4, 4]"), "other");
    let both = world.json(&["evaluate", "run", "--with", "other", "--with", "run", "--json", "--quiet"]);
    let alone = world.json(&["evaluate", "other", "--json", "--quiet"]);
    assert_eq!(both["generator"], "tiger");
    assert_eq!(both["trained"]["tiger, other"]["no_filter"], alone["no_filter"]);
    assert_eq!(both["trained"]["tiger, run"]["seen_removed"], both["seen_removed"], "a model beside itself is itself");
    assert_eq!(both["baselines"], alone["baselines"]);
    let tests = both["comparisons"].as_array().unwrap();
    assert!(tests.iter().any(|test| test["row"] == "tiger" && test["with"] == "tiger, other"));
    for set in ["in_set", "cold"] {
        assert!(both["details"]["tiger"]["no_filter"]["sets"][set]["users"].is_f64(), "{set}");
    }
    assert!(world.answer(&["evaluate", "run", "--with", "other", "--quiet"]).contains("long hist."));

    let time = "split = { time = { validation_from = 1004, test_from = 1006 } }";
    run(RECIPE.replace("split = \"leave-one-out\"", time), "time");
    let error = world.refusal(&["evaluate", "run", "--with", "time", "--quiet"]);
    assert!(error.contains("time has another split than run") && error.contains("`split`"), "{error}");
    let text = fs::read_to_string(world.path("data/interactions.csv")).unwrap();
    fs::write(world.path("data/interactions.csv"), text + "u0,S7V4,5000\n").unwrap();
    run(RECIPE.to_owned(), "more");
    let error = world.refusal(&["evaluate", "run", "--with", "more", "--quiet"]);
    assert!(error.contains("more has other items or interactions than run"), "{error}");
}

#[test]
fn what_was_measured_is_in_the_manifest_and_no_part_of_what_a_generator_is() {
    let world = World::new();
    for (threads, out) in [("1", "one"), ("2", "two")] {
        world.answer(&["run", "recipe.toml", "--data", "data", "--out", out, "--threads", threads, "--quiet"]);
    }
    let manifest = |path: &str| -> Value {
        serde_json::from_slice(&fs::read(world.path(path).join("manifest.json")).unwrap()).unwrap()
    };
    let (one, two) = (manifest("one/generator"), manifest("two/generator"));
    for figure in ["seconds", "cpu_seconds", "samples_per_s", "peak_memory_bytes"] {
        assert!(one["measured"]["figures"][figure].as_f64().unwrap() > 0.0, "{figure}: {one}");
    }
    let logs = one["measured"]["files"].as_object().unwrap();
    assert!(logs.contains_key("metrics.jsonl") && logs.contains_key("events.out.tfevents.0.sidereal"), "{logs:?}");
    assert_eq!(one["files"], two["files"]);
    let digest = |run: &str| manifest(&format!("{run}/report"))["inputs"]["generator"].clone();
    assert_eq!(digest("one"), digest("two"));
}

#[test]
fn a_row_makes_semantic_ids_of_what_another_rows_generator_learnt() {
    let world = world();
    let training = "batch_size = 32\nmax_epochs = 1\nvalidate_users = 20\n";
    let suite = format!(
        "seed = 7\n[[row]]\nname = \"items\"\nrecipe = \"recipe.toml\"\n[row.generator.sasrec]\nd_model = 16\nheads = 2\n\
         [row.generator.sasrec.training]\n{training}\
         [[row]]\nname = \"codes\"\nlearnt_by = \"items\"\nrecipe = \"recipe.toml\"\n"
    );
    fs::write(world.path("suite.toml"), suite).unwrap();
    let ask = ["compare", "suite.toml", "--data", "data", "--out", "table", "--json", "--quiet"];
    let found = world.json(&ask);
    assert_eq!(found["failed"], serde_json::json!([]));
    let manifest = |file: &str| serde_json::from_slice::<Value>(&fs::read(world.path(file)).unwrap()).unwrap();
    let embeddings = manifest("table/rows/codes/seed-7/embeddings/manifest.json");
    assert_eq!(embeddings["facts"]["width"], 16);
    assert!(embeddings["inputs"]["generator"].is_string());
    let tokenizers =
        ["items", "codes"].map(|row| manifest(&format!("table/rows/{row}/seed-7/tokenizer/manifest.json")));
    assert_ne!(tokenizers[0]["inputs"]["embeddings"], tokenizers[1]["inputs"]["embeddings"]);
    // Asked again nothing is made, and the row is a run that the pipeline knows.
    let before = world::files(&world.path("table"));
    assert_eq!(world.json(&ask), found);
    assert!(world::files(&world.path("table")) == before);
    let run = "table/rows/codes/seed-7";
    let told =
        world.sidereal(&["run", &format!("{run}/recipe.toml"), "--data", "data", "--out", run, "--until", "catalog"]);
    assert!(world::stderr(&told).contains("embeddings kept"), "{}", world::stderr(&told));

    // One command does the same for a run, beside other vectors; a generator without item vectors is refused.
    world.run_until("split");
    let learnt = "table/rows/items/seed-7";
    let file = "data/embeddings.safetensors";
    let made = world.json(&["embed", "run", "--from", file, "--learnt-by", learnt, "--json"]);
    assert_eq!(made["facts"]["parts"][1]["width"], 16);
    let error = world.refusal(&["embed", "run", "--learnt-by", run]);
    assert!(error.contains("tiger learns no vectors of items") && error.contains("sasrec"), "{error}");

    // Baselines over text look at text alone, or do not call themselves so.
    world.answer(&["tokenizer", "train", "run", "--levels", "2", "--codes", "8", "--quiet"]);
    world.answer(&["catalog", "build", "run", "--quiet"]);
    let baselines =
        |run: &str| world.json(&["evaluate", run, "--baselines-only", "--json", "--quiet"])["baselines"].take();
    let (text, beside, over_learnt) = (baselines(learnt), baselines("run"), baselines("table/rows/codes/seed-7"));
    assert_eq!(beside, text);
    for name in ["text", "fused"] {
        assert!(over_learnt.get(name).is_none(), "{over_learnt}");
        assert_ne!(over_learnt[format!("{name} over learnt vectors")], text[name]);
        assert_eq!(row(&found, name, "no_filter")["metrics"]["mrr"], text[name]["no_filter"]["mrr"]);
    }
    assert_eq!(over_learnt["neighbours"], text["neighbours"]);
}

#[test]
fn decodings_are_compared_with_exact_scores_where_there_is_something_to_compare() {
    let world = World::new();
    let models = [
        (
            "graph",
            "[generator.rpg]\nd_model = 16\nheads = 2\nlayers = 1\nd_ff = 24\ndecoding = \"graph\"\ngraph_beams = 2\ngraph_edges = 2\ngraph_steps = 1\n[generator.rpg.training]\n",
        ),
        ("items", "[generator.sasrec]\nd_model = 16\nheads = 2\n[generator.sasrec.training]\n"),
    ];
    world.answer(&["run", "recipe.toml", "--data", "data", "--out", "run", "--until", "generator", "--quiet"]);
    for (name, table) in models {
        let text =
            format!("seed = 7\n[tokenizer.rq-kmeans]\ncodes = [8, 8]\n{table}max_epochs = 2\nvalidate_users = 9\n");
        fs::write(world.path(&format!("{name}.toml")), text).unwrap();
        let recipe = format!("{name}.toml");
        world.answer(&["run", &recipe, "--data", "data", "--out", name, "--until", "generator", "--quiet"]);
    }
    let ask = |run: &str, more: &[&str]| {
        world.json(&[&["evaluate", run, "--exact-users", "25", "--json", "--quiet"], more].concat())
    };
    // A beam as wide as the catalog is exact; one of a single node is not.
    let wide = ask("run", &[]);
    let of = |found: &Value, row: &str| found["exact"][row]["share"].as_f64().unwrap();
    assert_eq!((of(&wide, "tiger"), wide["exact"]["tiger"]["users"].as_u64()), (1.0, Some(25)));
    let narrow = ask("run", &["--beam", "1"]);
    assert!(of(&narrow, "tiger") < 0.9, "{}", narrow["exact"]);
    let interval = narrow["exact"]["tiger"]["interval"].as_array().unwrap();
    assert!(
        interval[0].as_f64().unwrap() <= of(&narrow, "tiger") && interval[1].as_f64().unwrap() >= of(&narrow, "tiger")
    );
    assert_eq!(ask("run", &["--beam", "1"])["exact"], narrow["exact"], "the same seed asks the same users");
    // More than there are users: all of them; nothing that is not asked for.
    let all = world.json(&["evaluate", "run", "--exact-users", "5000", "--beam", "1", "--json", "--quiet"]);
    assert_eq!(all["exact"]["tiger"]["users"], USERS as u64);
    assert!(world.json(&["evaluate", "run", "--json", "--quiet"]).get("exact").is_none());

    // Beside other runs: those that score everything anyway have no such figure, and alone they say why.
    let both = ask("graph", &["--with", "items", "--beam", "10"]);
    assert!((0.0..1.0).contains(&of(&both, "rpg")), "{}", both["exact"]);
    assert_eq!(both["exact"].as_object().unwrap().len(), 1);
    let error = world.refusal(&["evaluate", "items", "--exact-users", "25", "--quiet"]);
    assert!(error.contains("sasrec scores all items of the catalog anyway"), "{error}");
    let error = world.refusal(&["evaluate", "run", "--exact-users", "0", "--quiet"]);
    assert!(error.contains("exact_users") && error.contains("ask for 300"), "{error}");
    let table = world.answer(&["evaluate", "run", "--exact-users", "25", "--quiet"]);
    assert!(table.contains("first ten items, exact scoring") && table.contains("1.0000 to 1.0000"), "{table}");
    let error = world.refusal(&["evaluate", "run", "--baselines-only", "--exact-users", "25", "--quiet"]);
    assert!(error.contains("no generator is asked"), "{error}");
}

#[test]
fn a_recipe_that_asks_for_exact_scores_has_them_in_its_report() {
    let world = World::new();
    fs::write(world.path("recipe.toml"), format!("{RECIPE}exact_users = 12\n")).unwrap();
    world.answer(&["run", "recipe.toml", "--data", "data", "--out", "run", "--quiet"]);
    let text = fs::read(world.path("run/report/evaluation.json")).unwrap();
    let found: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(found["exact"]["tiger"]["users"], 12);
    let page = fs::read_to_string(world.path("run/report/report.html")).unwrap();
    assert!(page.contains("Beside exact scoring") && page.contains("12 users"));
}

#[test]
fn a_row_costs_what_all_that_has_a_part_in_it_cost() {
    let world = World::new();
    let rows =
        ["alone", "both", "without"].map(|name| format!("[[row]]\nname = \"{name}\"\nrecipe = \"recipe.toml\"\n"));
    let [alone, both, without] = rows;
    let suite = format!("{alone}{both}[row.fusion]\n{without}[row.fusion]\nwithout = [\"generator\"]\n");
    fs::write(world.path("suite.toml"), suite).unwrap();
    let found = world.json(&["compare", "suite.toml", "--data", "data", "--out", "table", "--json", "--quiet"]);
    assert_eq!(found["failed"], serde_json::json!([]));
    let figures = |row: &str, stage: &str| -> Value {
        let file = world.path(&format!("table/rows/{row}/seed-7/{stage}/manifest.json"));
        serde_json::from_slice::<Value>(&fs::read(file).unwrap()).unwrap()["measured"]["figures"].take()
    };
    let of = |figures: &Value, name: &str| figures[name].as_f64().unwrap();
    for name in ["seconds", "cpu_seconds", "peak_memory_bytes"] {
        assert!(of(&figures("both", "fusion"), name) > 0.0, "{name}");
    }
    for mode in ["no_filter", "seen_removed"] {
        let (alone, both, without) =
            (row(&found, "alone", mode), row(&found, "both", mode), row(&found, "without", mode));
        for name in ["seconds", "cpu_seconds"] {
            let generator = of(&figures("both", "generator"), name);
            assert!((of(alone, name) - generator).abs() < 1e-9, "{name}: one training is lent to all three");
            assert!((of(both, name) - generator - of(&figures("both", "fusion"), name)).abs() < 1e-9, "{name}");
            assert!((of(without, name) - of(&figures("without", "fusion"), name)).abs() < 1e-9, "{name}");
        }
        let peaks = ["generator", "fusion"].map(|stage| of(&figures("both", stage), "peak_memory_bytes"));
        assert_eq!(of(both, "peak_memory_bytes"), peaks[0].max(peaks[1]));
        assert!(both["parameters"].is_u64() && both["samples_per_s"].is_f64());
        assert!(without.get("parameters").is_none() && without.get("samples_per_s").is_none(), "{without}");
    }
}

#[test]
fn what_several_trainings_say_of_items_is_averaged_into_a_row() {
    let world = World::new();
    for seed in [7, 8] {
        let text = format!(
            "seed = {seed}\n[tokenizer.rq-kmeans]\ncodes = [8, 8]\n[generator.sasrec]\nd_model = 16\nheads = 2\n\
             [generator.sasrec.training]\nmax_epochs = 3\nbatch_size = 16\nvalidate_users = 9\n"
        );
        fs::write(world.path("items.toml"), text).unwrap();
        let out = format!("s{seed}");
        world.answer(&["run", "items.toml", "--data", "data", "--out", &out, "--until", "generator", "--quiet"]);
    }
    let ask = |with: &str| world.json(&["evaluate", "s7", "--with", with, "--mean-scores", "--json", "--quiet"]);
    // The mean of a generator and itself is itself; that of two is another.
    let (itself, two) = (ask("s7"), ask("s8"));
    for mode in ["no_filter", "seen_removed"] {
        for metric in ["recall@5", "recall@10", "ndcg@10", "mrr"] {
            let mean = itself["trained"]["mean of sasrec and sasrec, s7"][mode][metric].as_f64().unwrap();
            assert!((mean - itself[mode][metric].as_f64().unwrap()).abs() < 1e-9, "{mode} {metric}");
        }
    }
    let mean = &two["trained"]["mean of sasrec and sasrec, s8"]["no_filter"];
    assert!(mean["mrr"].is_f64() && mean["mrr"] != two["no_filter"]["mrr"], "{mean}");
    assert_ne!(mean["mrr"], two["trained"]["sasrec, s8"]["no_filter"]["mrr"]);
    let tests = two["comparisons"].as_array().unwrap();
    assert!(tests.iter().any(|test| test["row"] == "sasrec" && test["with"] == "mean of sasrec and sasrec, s8"));

    world.run_until("generator");
    let error = world.refusal(&["evaluate", "s7", "--with", "run", "--mean-scores", "--quiet"]);
    assert!(error.contains("tiger looks at a part of the catalog") && error.contains("sasrec"), "{error}");
}
