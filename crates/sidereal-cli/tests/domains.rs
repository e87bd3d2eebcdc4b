//! Two data sets, one tokenizer: joined runs, answers and figures by domain, and tuning for one of them.
#![allow(clippy::unwrap_used)]

mod world;

use std::fs;

use serde_json::{Value, json};
use world::{LENGTH, RECIPE, SERIES, USERS, WIDTH, World, safetensors, vectors};

const ITEMS: usize = SERIES * LENGTH;
/// Users of the second set: fewer, so that the two can be told apart.
const OTHERS: usize = 30;

/// The world with a second data set beside it, whose items and users have the same ids and are other things, and a recipe
/// that validates all users.
fn two_domains() -> World {
    let world = World::new();
    fs::create_dir(world.path("other")).unwrap();
    let items: String = (0..ITEMS).map(|item| format!("S{}V{},Other {item}\n", item / LENGTH, item % LENGTH)).collect();
    fs::write(world.path("other/items.csv"), format!("item_id,title\n{items}")).unwrap();
    // Backwards through the volumes of two series.
    let event = |user: usize, at: usize| {
        let series = if at < LENGTH { user % SERIES } else { (user + 3) % SERIES };
        format!("u{user},S{series}V{},{}\n", LENGTH - 1 - at % LENGTH, 1000 + at)
    };
    let events: String = (0..OTHERS).flat_map(|user| (0..2 * LENGTH - 2).map(move |at| event(user, at))).collect();
    fs::write(world.path("other/interactions.csv"), format!("user_id,item_id,timestamp\n{events}")).unwrap();
    let turned: Vec<f32> = vectors().chunks_exact(WIDTH).flat_map(|row| row.iter().rev().map(|x| -x)).collect();
    fs::write(world.path("other/embeddings.safetensors"), safetensors(ITEMS, WIDTH, &turned)).unwrap();
    let recipe = RECIPE.replace("validate_users = 20", "validate_users = 0");
    fs::write(world.path("recipe.toml"), recipe.replace("validate_beam = 10", "validate_beam = 50")).unwrap();
    world
}

const BOTH: [&str; 4] = ["--data", "first=data", "--data", "second=other"];

fn joint(world: &World, until: &str) {
    world.answer(&[&["run", "recipe.toml", "--out", "joint", "--until", until, "--quiet"][..], &BOTH].concat());
}

fn manifest(world: &World, stage: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(world.path(&format!("{stage}/manifest.json"))).unwrap()).unwrap()
}

fn ids(answer: &Value) -> Vec<&str> {
    answer["items"].as_array().unwrap().iter().map(|item| item["item_id"].as_str().unwrap()).collect()
}

#[test]
fn two_data_sets_become_one_run_with_answers_and_figures_by_domain() {
    let world = two_domains();
    joint(&world, "report");
    let facts = manifest(&world, "joint/data")["facts"].clone();
    assert_eq!((&facts["items"], &facts["users"]), (&json!(2 * ITEMS), &json!(USERS + OTHERS)));
    assert_eq!(facts["domains"][1]["name"], "second");
    let again = [&["run", "recipe.toml", "--out", "joint", "--json", "--quiet"][..], &BOTH].concat();
    let told = world.json(&again);
    assert!(told["stages"].as_array().unwrap().iter().all(|stage| stage["kept"] == true), "{told}");

    // Ids that both sets have are two items; the trie of a domain holds all of its items and no others.
    let ask = ["recommend", "joint", "--history", "second:S1V4,second:S1V3", "--k", "1000", "--json"];
    let all = world.json(&ask);
    assert_eq!(ids(&all).len(), 2 * ITEMS - 2);
    assert!(ids(&all).contains(&"first:S1V4") && !ids(&all).contains(&"second:S1V4"));
    let within = world.json(&[&ask[..], &["--filter", "domain = \"second\""]].concat());
    assert_eq!(ids(&within).len(), ITEMS - 2);
    assert!(ids(&within).iter().all(|id| id.starts_with("second:")));
    assert!(within["items"][0]["title"].as_str().unwrap().starts_with("Other"));
    let unknown = world.refusal(&["recommend", "joint", "--history", "S1V4"]);
    assert!(unknown.contains("the catalog has no item \"S1V4\""), "{unknown}");

    // Figures of the domains add up to those of all users; a domain's items alone are never harder to rank.
    let evaluation = world.json(&["evaluate", "joint", "--json", "--quiet"]);
    let domains = evaluation["domains"].as_array().unwrap();
    let sizes: Vec<(&Value, &Value)> = domains.iter().map(|domain| (&domain["users"], &domain["items"])).collect();
    assert_eq!(sizes, [(&json!(USERS), &json!(ITEMS)), (&json!(OTHERS), &json!(ITEMS))]);
    let number = |value: &Value| value.as_f64().unwrap();
    let mut moved = false;
    for row in ["tiger", "popularity", "last_item", "text", "neighbours", "fused"] {
        for mode in ["no_filter", "seen_removed"] {
            for metric in ["recall@10", "ndcg@10", "mrr"] {
                let whole = match row {
                    "tiger" => &evaluation[mode],
                    _ => &evaluation["baselines"][row][mode],
                };
                let of = |domain: &Value, items: &str| number(&domain["rows"][row][items][mode][metric]);
                let sum: f64 = domains.iter().map(|domain| of(domain, "whole") * number(&domain["users"])).sum();
                let mean = sum / (USERS + OTHERS) as f64;
                assert!((mean - number(&whole[metric])).abs() < 1e-9, "{row} {mode} {metric}");
                for domain in domains.iter().filter(|_| row != "tiger") {
                    assert!(of(domain, "within") >= of(domain, "whole") - 1e-12, "{row} {mode} {metric}");
                    moved |= of(domain, "within") > of(domain, "whole");
                }
            }
        }
    }
    assert!(moved, "no row ranks better among fewer items: nothing was cut down");
    assert!(fs::read_to_string(world.path("joint/report/report.html")).unwrap().contains("id=\"domains\""));
    let table = world.answer(&["evaluate", "joint", "--quiet"]);
    assert!(table.contains(&format!("second: {OTHERS} users, {ITEMS} items")), "{table}");
}

#[test]
fn figures_by_domain_are_told_of_runs_side_by_side_whatever_their_semantic_ids() {
    let world = two_domains();
    joint(&world, "generator");
    fs::write(world.path("other.toml"), RECIPE.replace("codes = [8, 8]", "codes = [4, 4, 4]")).unwrap();
    let run = ["run", "other.toml", "--out", "beside", "--until", "generator", "--quiet"];
    world.answer(&[&run[..], &BOTH].concat());
    let alone = world.json(&["evaluate", "beside", "--json", "--quiet"]);
    let both = world.json(&["evaluate", "joint", "--with", "beside", "--json", "--quiet"]);
    for domain in [0, 1] {
        let rows = |told: &Value, row: &str| told["domains"][domain]["rows"][row].clone();
        assert!(rows(&both, "tiger")["within"]["no_filter"]["mrr"].is_f64(), "{both}");
        assert_eq!(rows(&both, "tiger, beside"), rows(&alone, "tiger"));
    }
}

#[test]
fn a_generator_tuned_for_a_domain_begins_with_its_parent_and_is_a_run() {
    let world = two_domains();
    joint(&world, "generator");
    let tune = |more: &[&str]| {
        world.json(&[&["generator", "tune", "joint", "--domain", "second", "--json", "--quiet"][..], more].concat())
    };
    let told = tune(&["--out", "tuned", "--epochs", "2"]);
    assert_eq!(told["config"]["tuned"], json!({ "domain": "second" }));
    let parent: String = told["inputs"]["parent"].as_str().unwrap().to_owned();
    assert_eq!(told["facts"]["parent"]["run"], "joint");
    assert_eq!((&told["facts"]["users"], &told["facts"]["items"]), (&json!(OTHERS), &json!(ITEMS)));
    for stage in ["data", "embeddings", "split", "tokenizer", "catalog"] {
        assert_eq!(manifest(&world, &format!("tuned/{stage}")), manifest(&world, &format!("joint/{stage}")), "{stage}");
    }

    // The first validation is that of the parent's weights, among the domain's items and users.
    let before = world.json(&["evaluate", "joint", "--split", "validation", "--json", "--quiet"]);
    let expected = &before["domains"][1]["rows"]["tiger"]["within"]["no_filter"];
    let log = fs::read_to_string(world.path("tuned/generator/metrics.jsonl")).unwrap();
    let first: Value = serde_json::from_str(log.lines().next().unwrap()).unwrap();
    assert_eq!((&first["event"], &first["step"]), (&json!("validation"), &json!(0)));
    assert_eq!(first["metrics"]["users"], OTHERS);
    for metric in ["recall@10", "ndcg@10"] {
        let (found, expected) = (first["metrics"][metric].as_f64().unwrap(), expected[metric].as_f64().unwrap());
        assert!((found - expected).abs() < 1e-9, "{metric}: {found}, and the parent has {expected}");
    }
    // What is kept is never behind it.
    let chosen = told["facts"]["validation"]["ndcg@10"].as_f64().unwrap();
    assert!(chosen >= first["metrics"]["ndcg@10"].as_f64().unwrap());

    // Steps of no length leave the parent's weights, to the byte.
    let weights = |run: &str| fs::read(world.path(&format!("{run}/generator/model.safetensors"))).unwrap();
    tune(&["--out", "still", "--epochs", "1", "--learning-rate", "0"]);
    assert_eq!(weights("still"), weights("joint"));
    // Asked again it is kept; another parent is another request.
    let bytes = weights("tuned");
    assert_eq!(tune(&["--out", "tuned", "--epochs", "2"]), told);
    assert_eq!(weights("tuned"), bytes);
    assert_eq!(manifest(&world, "still/generator")["inputs"]["parent"], parent);

    // A whole run: it answers, and stands beside its parent.
    let answer = world.json(&["recommend", "tuned", "--history", "second:S1V4", "--k", "3", "--json"]);
    assert_eq!(ids(&answer).len(), 3);
    let beside = world.json(&["evaluate", "joint", "--with", "tuned", "--json", "--quiet"]);
    assert!(beside["trained"]["tiger, tuned"]["no_filter"]["recall@10"].is_f64(), "{beside}");
    assert!(beside["domains"][1]["rows"]["tiger, tuned"]["within"]["no_filter"]["ndcg@10"].is_f64());
}

#[test]
fn tuning_that_cannot_be_is_told_and_changes_nothing() {
    let world = two_domains();
    joint(&world, "generator");
    let tune = |run: &str, domain: &str, more: &[&str]| {
        world.refusal(&[&["generator", "tune", run, "--domain", domain, "--quiet"][..], more].concat())
    };
    let error = tune("joint", "third", &["--out", "tuned"]);
    assert!(error.contains("domain called \"third\"") && error.contains("first, second"), "{error}");
    assert!(!world.path("tuned").exists(), "nothing was made");
    let before = world::files(&world.path("joint"));
    let error = tune("joint", "first", &["--out", "joint"]);
    assert!(error.contains("holds another run"), "{error}");
    world.run_until("split");
    let error = tune("joint", "first", &["--out", "run"]);
    assert!(error.contains("holds another run"), "{error}");
    assert_eq!(world::files(&world.path("joint")), before);
    let recipe = "[tokenizer.rq-kmeans]\ncodes = [8, 8]\n[generator.sasrec]\n";
    fs::write(world.path("sasrec.toml"), recipe).unwrap();
    let error = tune("joint", "first", &["--out", "tuned", "--recipe", "sasrec.toml"]);
    assert!(error.contains("sasrec cannot go on from the weights of tiger"), "{error}");
    let wider = RECIPE.replace("d_ff = 64", "d_ff = 96");
    fs::write(world.path("wider.toml"), wider).unwrap();
    let error = tune("joint", "first", &["--out", "tuned", "--recipe", "wider.toml"]);
    assert!(error.contains("generator.tiger.d_ff") && error.contains("96, but the parent has 64"), "{error}");
    assert!(!world.path("tuned").exists(), "nothing was made");
    // A run of one set has no domains to tune for.
    world.run_until("generator");
    let error = tune("run", "first", &["--out", "new"]);
    assert!(error.contains("have no domains"), "{error}");
}

#[test]
fn data_sets_that_cannot_be_one_are_told() {
    let world = two_domains();
    let run = |more: &[&str]| world.refusal(&[&["run", "recipe.toml", "--out", "joint", "--quiet"][..], more].concat());
    let error = run(&["--data", "data", "--data", "second=other"]);
    assert!(error.contains("data has no name"), "{error}");
    let error = run(&["--data", "same=data", "--data", "same=other"]);
    assert!(error.contains("two data sets are called \"same\""), "{error}");
    let error = run(&["--data", "first=data", "--data", "second=absent"]);
    assert!(error.contains("absent") && error.contains("no such folder"), "{error}");
    let narrow = vec![0.5; ITEMS * 3];
    fs::write(world.path("other/embeddings.safetensors"), safetensors(ITEMS, 3, &narrow)).unwrap();
    let error = run(&BOTH);
    assert!(error.contains(&format!("vectors of second have 3 numbers, those of first {WIDTH}")), "{error}");
    fs::write(world.path("shared.toml"), format!("{}\n[data]\nshared_users = true\n", RECIPE)).unwrap();
    let error = world.refusal(&["run", "shared.toml", "--out", "one", "--data", "data", "--quiet"]);
    assert!(error.contains("data.shared_users") && error.contains("one data set"), "{error}");
    world.answer(&[&["run", "shared.toml", "--out", "shared", "--until", "data", "--quiet"][..], &BOTH].concat());
    assert_eq!(
        manifest(&world, "shared/data")["facts"]["users"],
        USERS,
        "the second set's users are among the first's"
    );
}

#[test]
fn a_set_may_be_read_in_its_own_way() {
    let world = two_domains();
    joint(&world, "data");
    fs::create_dir(world.path("odd")).unwrap();
    for (file, ours, theirs) in [
        ("items.csv", "item_id,title", "asin,name"),
        ("interactions.csv", "user_id,item_id,timestamp", "who,asin,when"),
    ] {
        let text = fs::read_to_string(world.path(&format!("other/{file}"))).unwrap();
        fs::write(world.path(&format!("odd/{file}")), text.replace(ours, theirs)).unwrap();
    }
    fs::copy(world.path("other/embeddings.safetensors"), world.path("odd/embeddings.safetensors")).unwrap();
    let own =
        "[data.domains.second]\ncolumns = { item = \"asin\", title = \"name\", user = \"who\", time = \"when\" }\n";
    let run = |own: &str| {
        fs::write(world.path("own.toml"), format!("{RECIPE}\n{own}")).unwrap();
        [
            "run",
            "own.toml",
            "--out",
            "own",
            "--until",
            "data",
            "--data",
            "first=data",
            "--data",
            "second=odd",
            "--quiet",
        ]
    };
    world.answer(&run(own));
    let table = |run: &str| fs::read(world.path(&format!("{run}/data/interactions.parquet"))).unwrap();
    assert!(table("own") == table("joint"), "the same events, whatever their columns are called");
    let error = world.refusal(&run(&own.replace("second", "third")));
    assert!(error.contains("data.domains.third") && error.contains("first, second"), "{error}");
    let error = world.refusal(&run(&format!("{own}k_core = 99\n")));
    assert!(error.contains("k-core of second"), "{error}");
}

#[test]
fn baselines_imports_and_tables_of_rows_take_several_sets() {
    let world = two_domains();
    joint(&world, "catalog");
    let told = world.json(&["evaluate", "joint", "--baselines-only", "--json", "--quiet"]);
    assert!(told["domains"][0]["rows"]["fused"]["within"]["seen_removed"]["mrr"].is_f64(), "{told}");
    let recipe = RECIPE.replace("[tokenizer.rq-kmeans]\ncodes = [8, 8]", "[catalog]\nimport = \"ids.json\"");
    fs::write(world.path("import.toml"), recipe).unwrap();
    let error = world.refusal(&[&["run", "import.toml", "--out", "imported", "--quiet"][..], &BOTH].concat());
    assert!(error.contains("several data folders in which ids.json could be"), "{error}");
    let told = world.json(&[&["compare", "recipe.toml", "--out", "table", "--json", "--quiet"][..], &BOTH].concat());
    assert_eq!((&told["data"]["items"], &told["failed"]), (&json!(2 * ITEMS), &json!([])));
}

#[test]
fn a_run_of_one_unnamed_set_is_what_it_was() {
    let world = World::new();
    world.run_until("embeddings");
    let data = manifest(&world, "run/data");
    assert_eq!(data["config"], json!({ "columns": {} }));
    assert_eq!(data["inputs"].as_object().unwrap().keys().collect::<Vec<_>>(), ["interactions", "items"]);
    assert!(data["facts"].get("domains").is_none());
    assert_eq!(manifest(&world, "run/embeddings")["config"], json!({ "name": null }));
    // Named, the same set is a domain: other ids, the same vectors.
    world.answer(&["run", "recipe.toml", "--data", "only=data", "--out", "named", "--until", "embeddings", "--quiet"]);
    let bytes = |run: &str| fs::read(world.path(&format!("{run}/embeddings/embeddings.safetensors"))).unwrap();
    assert_eq!(bytes("named"), bytes("run"));
    assert_eq!(manifest(&world, "named/data")["config"]["data_sets"], json!(["only"]));
}
