//! Tokenizers and semantic IDs from the command line: reports, comparisons, exchange, features.
#![allow(clippy::unwrap_used)]

mod world;

use world::{LENGTH, SERIES, WIDTH, World, safetensors, vectors};

const ITEMS: u64 = (SERIES * LENGTH) as u64;

#[test]
fn tokenizers_are_judged_alone_and_side_by_side() {
    let world = World::new();
    world.run_until("catalog");
    let two =
        ["tokenizer", "compare", "run", "--methods", "two.toml", "--out", "compared", "--page", "--json", "--quiet"];
    std::fs::write(
        world.path("two.toml"),
        "[[tokenizers]]\nlabel = \"small\"\ncollisions = \"suffix\"\n[tokenizers.tokenizer.rq-kmeans]\ncodes = [8, 8]\n\
         [[tokenizers]]\n[tokenizers.tokenizer.rq-kmeans]\ncodes = [16, 16]\n",
    )
    .unwrap();
    let found = world.json(&two);
    assert_eq!(found["items"], ITEMS);
    let part = |at: usize| &found["tokenizers"][at];
    assert_eq!((part(0)["name"].as_str(), part(1)["name"].as_str()), (Some("small"), Some("rq-kmeans")));
    assert_eq!(part(0)["collision_rate_after"], 0.0);
    for at in [0, 1] {
        assert_eq!(part(at)["method"], "rq-kmeans");
        assert!(part(at)["seconds"].is_number() && part(at)["reconstruction"]["relative_error"].is_number());
        assert_eq!(part(at)["levels"].as_array().unwrap().len(), 2);
    }
    let page = std::fs::read_to_string(world.path("compared/compare.html")).unwrap();
    assert!(page.contains("small") && page.contains("Co-purchase lift"));
    // The same again is kept, seconds included.
    assert_eq!(world.json(&two), found);
    // Its tokenizers are folders that a report can be set beside.
    let report = ["tokenizer", "report", "run", "--compare", "compared/small", "run", "--json", "--quiet"];
    let report = world.json(&[&report[..], &["--page", "page.html"]].concat());
    assert_eq!(report["items"], ITEMS);
    assert_eq!(report["compare"][1]["levels"], report["levels"]);
    assert_eq!(report["cards"][0]["prefix"].as_array().unwrap().len(), 1);
    assert!(std::fs::read_to_string(world.path("page.html")).unwrap().contains("What codes stand for"));
    let alone = world.json(&["tokenizer", "report", "run", "--json", "--quiet"]);
    assert!(alone.get("compare").is_none() && alone.get("cards").is_none());
    let failed = ["tokenizer", "compare", "run", "--methods", "rq-kmean", "--out", "other"];
    assert!(world.refusal(&failed).contains("rq-kmeans"));
}

#[test]
fn semantic_ids_go_out_and_come_back_in_every_format() {
    let world = World::new();
    world.run_until("catalog");
    world.answer(&["catalog", "build", "run", "--collisions", "suffix", "--quiet"]);
    for (format, file) in [
        ("lc-rec", "ids.index.json"),
        ("lc-rec-numbers", "ids.numbers.json"),
        ("lc-rec-short", "ids.short.json"),
        ("lc-rec-short-numbers", "ids.short.numbers.json"),
        ("open-one-rec", "ids.parquet"),
        ("grid", "ids.pt"),
        ("torch-easy-rec", "bundle"),
        ("nvidia", "ids.jsonl"),
    ] {
        world.answer(&["catalog", "export", "run", "--format", format, "--out", file]);
        world.answer(&["catalog", "import", file, "--format", format, "--codes", "8", "--out", format]);
        let again = format!("{format}.json");
        for (run, out) in [("run", "run.json"), (format, again.as_str())] {
            world.answer(&["catalog", "export", run, "--format", "lc-rec", "--out", out]);
        }
        let text = |file: &str| std::fs::read_to_string(world.path(file)).unwrap();
        assert_eq!(text("run.json"), text(&again), "{format}");
    }
    assert!(world.refusal(&["catalog", "export", "run", "--format", "xllm", "--out", "ids.bin"]).contains("integer"));
    world.answer(&["catalog", "export", "run", "--format", "static", "--out", "arrays"]);
    assert!(world.path("arrays/packed_csr.npy").is_file());
    for kind in ["prefix", "ngram", "pieces"] {
        let out = format!("{kind}.parquet");
        let done = world.json(&["catalog", "features", "run", "--kind", kind, "--out", &out, "--json"]);
        assert_eq!(done["items"], ITEMS);
        assert!(world.path(&format!("{out}.vocabulary.json")).is_file());
    }
}

#[test]
fn feature_ids_stay_what_they_are_when_items_are_added() {
    let world = World::new();
    world.run_until("catalog");
    let features = |out: &str, more: &[&str]| {
        world.json(&[&["catalog", "features", "run", "--out", out, "--json", "--quiet"][..], more].concat())
    };
    features("first.parquet", &["--kind", "prefix"]);
    let first = std::fs::read_to_string(world.path("first.parquet.vocabulary.json")).unwrap();
    let new: Vec<f32> = vectors()[..2 * WIDTH].iter().rev().map(|v| 5.0 * v).collect();
    std::fs::write(world.path("new.safetensors"), safetensors(2, WIDTH, &new)).unwrap();
    std::fs::write(world.path("new.csv"), "item_id,title\nA1,One\nA2,Two\n").unwrap();
    world.answer(&["catalog", "add", "run", "--embeddings", "new.safetensors", "--items", "new.csv", "--quiet"]);
    let more = features("second.parquet", &["--vocabulary", "first.parquet.vocabulary.json"]);
    assert_eq!(more["items"], ITEMS + 2);
    let read =
        |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap()["entries"].as_array().unwrap().clone();
    let second = read(&std::fs::read_to_string(world.path("second.parquet.vocabulary.json")).unwrap());
    assert_eq!(second[..read(&first).len()], read(&first)[..]);
    assert_eq!(more["ids"], second.len());
    let run = ["catalog", "features", "run", "--out", "x.parquet", "--quiet"];
    let other = [&run[..], &["--kind", "pieces", "--vocabulary", "first.parquet.vocabulary.json"]].concat();
    assert!(world.refusal(&other).contains("vocabulary is of prefix"));
    assert!(!world.sidereal(&run).status.success(), "a kind or a vocabulary is needed");
}
