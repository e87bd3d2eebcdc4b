//! What answers are limited to, chosen by, cut into pages by, and how sure they are.
#![allow(clippy::unwrap_used)]

mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::Value;
use world::{LENGTH, SERIES, USERS, World};

const ASK: [&str; 5] = ["recommend", "run", "--history", "S1V0,S1V1", "--json"];

fn trained() -> World {
    let world = World::new();
    world.run_until("generator");
    world
}

fn ask(world: &World, more: &[&str]) -> Value {
    world.json(&[&ASK, more].concat())
}

fn refused(world: &World, more: &[&str], parts: &[&str]) {
    let error = world.refusal(&[&ASK, more].concat());
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
}

fn ids(answer: &Value) -> Vec<String> {
    answer["items"].as_array().unwrap().iter().map(|item| item["item_id"].as_str().unwrap().to_owned()).collect()
}

fn set(answer: &Value) -> BTreeSet<String> {
    ids(answer).into_iter().collect()
}

/// All items but the history, of which a condition holds.
fn all_but_history(keep: impl Fn(usize, usize) -> bool) -> BTreeSet<String> {
    let items = (0..SERIES).flat_map(|series| (0..LENGTH).map(move |volume| (series, volume)));
    let id = |(series, volume): (usize, usize)| format!("S{series}V{volume}");
    items.filter(|&(s, v)| !(s == 1 && v < 2) && keep(s, v)).map(id).collect()
}

#[test]
fn conditions_and_lists_leave_what_they_say_together() {
    let world = trained();
    fs::write(world.path("allow.txt"), "S0V0\n S3V1 \n\nS1V0\nS3V4\nnone of ours\n").unwrap();
    fs::write(world.path("deny.txt"), "S3V4\nS5V0\nneither\nnor\n").unwrap();
    fs::write(world.path("none.txt"), "").unwrap();
    let all = ["--k", "100"];
    let left = |more: &[&str]| ask(&world, &[&all, more].concat());
    // brand is the series modulo 3, price the volume and one.
    let condition = ["--filter", "brand = \"brand0\" and price < 3"];
    assert_eq!(set(&left(&condition)), all_but_history(|s, v| s % 3 == 0 && v < 2));
    let listed = left(&["--allow", "allow.txt"]);
    assert_eq!(set(&listed), BTreeSet::from(["S0V0", "S3V1", "S3V4"].map(str::to_owned)));
    let told = &listed["stats"]["limits"];
    assert_eq!((told["items"].as_u64(), told["unknown_ids"].as_u64()), (Some(4), Some(1)));
    let denied = left(&["--deny", "deny.txt"]);
    assert_eq!(set(&denied), all_but_history(|s, v| (s, v) != (3, 4) && (s, v) != (5, 0)));
    assert_eq!(denied["stats"]["limits"]["unknown_ids"], 2);
    let both = left(&[&condition[..], &["--allow", "allow.txt", "--deny", "deny.txt"]].concat());
    assert_eq!(set(&both), BTreeSet::from(["S0V0", "S3V1"].map(str::to_owned)));
    let told = &both["stats"]["limits"];
    assert_eq!((told["items"].as_u64(), told["unknown_ids"].as_u64()), (Some(2), Some(3)));
    assert_eq!(told["filter"], condition[1]);
    // Nothing is denied by an empty list, and nothing is left of an empty one.
    assert_eq!(set(&left(&["--deny", "none.txt"])), all_but_history(|_, _| true));
    let nothing = left(&["--allow", "none.txt"]);
    assert!(ids(&nothing).is_empty() && nothing["reason"].is_string(), "{nothing}");

    refused(&world, &["--filter", "price <"], &["filter"]);
    refused(&world, &["--filter", "colour = \"red\""], &["colour", "brand"]);
    refused(&world, &["--allow", "missing.txt"], &["missing.txt"]);
    refused(&world, &["--deny", "missing.txt"], &["missing.txt"]);
}

#[test]
fn pages_are_one_list_whether_by_number_or_by_what_was_shown() {
    let world = trained();
    let whole = ids(&ask(&world, &["--k", "100", "--beam", "64"]));
    assert_eq!(whole.len(), SERIES * LENGTH - 2);
    let mut shown: Vec<String> = Vec::new();
    for page in 1..=9 {
        let number = page.to_string();
        fs::write(world.path("shown.txt"), shown.join("\n") + "\ngone from the catalog\n").unwrap();
        for beam in ["64", "5"] {
            let by_number = ask(&world, &["--k", "5", "--beam", beam, "--page", &number]);
            if beam == "64" {
                let by_file = ask(&world, &["--k", "5", "--beam", beam, "--shown", "shown.txt"]);
                assert_eq!(ids(&by_number), ids(&by_file));
                shown.extend(ids(&by_number));
            }
            assert_eq!(by_number["reason"].is_string(), page == 9, "{by_number}");
            assert_eq!(ids(&by_number).len(), [5, 5, 5, 5, 5, 5, 5, 3, 0][page - 1]);
        }
    }
    assert_eq!(shown, whole);
    // A narrow beam finds all items once, too.
    let narrow: Vec<String> = (1..=8)
        .flat_map(|page: usize| ids(&ask(&world, &["--k", "5", "--beam", "5", "--page", &page.to_string()])))
        .collect();
    assert_eq!(narrow.iter().cloned().collect::<BTreeSet<_>>(), all_but_history(|_, _| true));
    assert_eq!(narrow.len(), whole.len());
    refused(&world, &["--page", "0"], &["page"]);
    refused(&world, &["--k", "0"], &["k"]);
    refused(&world, &["--shown", "missing.txt"], &["missing.txt"]);
}

#[test]
fn quotas_and_likeness_choose_among_what_the_scores_say() {
    let world = trained();
    let everything = ask(&world, &["--k", "100"]);
    let firsts = |answer: &Value| {
        let mut of_code: BTreeMap<u64, usize> = BTreeMap::new();
        let first = |item: &Value| item["semantic_id"][0].as_u64().unwrap();
        answer["items"].as_array().unwrap().iter().for_each(|item| *of_code.entry(first(item)).or_default() += 1);
        of_code
    };
    for quota in [1usize, 2, 4] {
        for k in [3usize, 10, 30] {
            let answer = ask(&world, &["--k", &k.to_string(), "--quota", &quota.to_string()]);
            let possible: usize = firsts(&everything).values().map(|&count| count.min(quota)).sum();
            assert_eq!(ids(&answer).len(), possible.min(k), "quota {quota}, k {k}");
            assert!(firsts(&answer).values().all(|&count| count <= quota));
        }
    }
    let plain = ask(&world, &["--k", "10", "--beam", "64"]);
    let likely = ask(&world, &["--k", "10", "--beam", "64", "--mmr", "1"]);
    assert_eq!(ids(&likely), ids(&plain));
    assert_eq!(likely["stats"]["likeness"], "codebooks");
    let unlike = ask(&world, &["--k", "10", "--beam", "64", "--mmr", "0.2"]);
    assert_eq!(ids(&unlike)[0], ids(&plain)[0], "the best comes first all the same");
    assert!(firsts(&unlike).len() > firsts(&plain).len(), "{unlike} {plain}");
    assert_eq!(ids(&unlike), ids(&ask(&world, &["--k", "10", "--beam", "64", "--mmr", "0.2"])));
    let both = ask(&world, &["--k", "6", "--mmr", "0.5", "--quota", "1"]);
    assert!(firsts(&both).values().all(|&count| count == 1) && both["stats"]["choice"]["quota"] == 1);

    refused(&world, &["--quota", "0"], &["quota", "1 or more"]);
    for lambda in ["-0.1", "1.5", "NaN"] {
        refused(&world, &[&format!("--mmr={lambda}")], &["mmr", "from 0"]);
    }
    // Without codebooks likeness goes by embeddings, without both it is refused.
    fs::remove_dir_all(world.path("run/tokenizer")).unwrap();
    assert_eq!(ask(&world, &["--mmr", "0.5"])["stats"]["likeness"], "embeddings");
    fs::remove_dir_all(world.path("run/embeddings")).unwrap();
    refused(&world, &["--mmr", "0.5"], &["mmr", "neither codebooks nor embeddings", "sidereal embed"]);
    assert_eq!(ids(&ask(&world, &["--quota", "1", "--k", "3"])).len(), 3);
}

#[test]
fn widths_by_level_are_searched_with_and_checked() {
    let world = trained();
    assert_eq!(ids(&ask(&world, &["--beam", "64,64"])), ids(&ask(&world, &["--beam", "64"])));
    // No level is narrower than what is wanted.
    let answer = ask(&world, &["--beam", "1,20", "--k", "38"]);
    assert_eq!((ids(&answer).len(), &answer["stats"]["beam"]), (38, &serde_json::json!([38, 38])));
    refused(&world, &["--beam", "9,9,9"], &["3 beam widths (9,9,9)", "2 codes"]);
    let told = world.sidereal(&[&ASK[..], &["--beam", "wide"]].concat());
    assert!(world::stderr(&told).contains("200,100,50"), "{}", world::stderr(&told));
    let evaluation = world.json(&["evaluate", "run", "--beam", "20,50", "--json", "--quiet"]);
    assert_eq!(evaluation["beam"], serde_json::json!([20, 50]));

    // In a recipe: refused before anything is made, where the levels are known.
    let recipe = fs::read_to_string(world.path("recipe.toml")).unwrap();
    for (beam, parts) in [
        ("[50, 50, 50]", ["evaluate.beam", "2 codes"]),
        ("[50, 0]", ["evaluate.beam", "level 1"]),
        ("[]", ["evaluate.beam", "no beam widths"]),
    ] {
        fs::write(world.path("wide.toml"), recipe.replace("beam = 50\n", &format!("beam = {beam}\n"))).unwrap();
        let error = world.refusal(&["run", "wide.toml", "--data", "data", "--out", "other", "--quiet"]);
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        assert!(!world.path("other/data").exists());
    }
    let schedule = recipe.replace("beam = 50\n", "beam = [60, 50]\n") + "\n[calibration]\nitems = 40\n";
    fs::write(world.path("wide.toml"), schedule).unwrap();
    let told = world.json(&["run", "wide.toml", "--data", "data", "--out", "run", "--json", "--quiet"]);
    let stages: Vec<&str> =
        told["stages"].as_array().unwrap().iter().map(|stage| stage["stage"].as_str().unwrap_or_default()).collect();
    assert_eq!(stages.len(), 8, "{told}");
    assert!(world.path("run/calibration/calibration.json").is_file());
    let evaluation: Value =
        serde_json::from_slice(&fs::read(world.path("run/report/evaluation.json")).unwrap()).unwrap();
    assert_eq!(evaluation["beam"], serde_json::json!([60, 50]));
}

#[test]
fn a_calibrated_run_says_how_sure_it_is_and_leaves_out_what_is_not() {
    let world = in_turn(None);
    world.run_until("generator");
    refused(&world, &["--min-confidence", "0.1"], &["min_confidence", "sidereal calibrate"]);
    assert!(ask(&world, &[])["items"][0].get("confidence").is_none());
    let made = world.json(&["calibrate", "run", "--json", "--quiet"]);
    for mode in ["no_filter", "seen_removed"] {
        let told = &made["facts"]["held_out"][mode];
        assert_eq!(told["users"], (USERS / 2) as u64);
        for figure in ["brier", "brier_of_share", "ece"] {
            assert!((0.0..=1.0).contains(&told[figure].as_f64().unwrap()), "{figure}: {told}");
        }
    }
    assert_eq!(made["facts"]["fitted_on"], (USERS / 2) as u64);
    let table = world.answer(&["calibrate", "run", "--quiet"]);
    assert!(table.contains("kept") && table.contains("Brier") && table.contains("ECE"), "{table}");

    let answer = ask(&world, &["--k", "20"]);
    let sure = |answer: &Value| -> Vec<f64> {
        answer["items"].as_array().unwrap().iter().map(|item| item["confidence"].as_f64().unwrap()).collect()
    };
    let confidences = sure(&answer);
    assert!(confidences.windows(2).all(|pair| pair[0] >= pair[1]), "{confidences:?}");
    assert!(confidences[0] > confidences[19] && confidences[19] > 0.0 && confidences[0] < 1.0);
    // Cut at the seventh item.
    let cut = ask(&world, &["--k", "20", "--min-confidence", &confidences[6].to_string()]);
    assert_eq!(ids(&cut), ids(&answer)[..ids(&cut).len()]);
    assert_eq!(ids(&cut).len(), confidences.iter().filter(|&&c| c >= confidences[6]).count());
    let none = ask(&world, &["--min-confidence", "1"]);
    assert!(ids(&none).is_empty() && none["reason"].as_str().unwrap().contains("confidence"), "{none}");
    let chosen = ask(&world, &["--k", "5", "--mmr", "0.3", "--quota", "1"]);
    let of_item: BTreeMap<String, f64> = ids(&answer).into_iter().zip(confidences).collect();
    for (id, confidence) in ids(&chosen).into_iter().zip(sure(&chosen)) {
        assert!(of_item.get(&id).is_none_or(|&alone| alone == confidence), "{id}");
    }
    for least in ["-0.1", "1.1", "NaN"] {
        refused(&world, &[&format!("--min-confidence={least}")], &["min_confidence", "0 to 1"]);
    }
    // For many users, with fewer rows where fewer are likely enough.
    let rows = |more: &[&str]| {
        let many = ["recommend", "run", "--users", "all", "--k", "3", "--out", "rows.parquet", "--json", "--quiet"];
        world.json(&[&many, more].concat())["rows"].as_u64().unwrap()
    };
    assert_eq!(rows(&[]), 3 * USERS as u64);
    assert_eq!(rows(&["--min-confidence", "1"]), 0);
    assert_eq!(rows(&["--quota", "1", "--page", "2"]), 3 * USERS as u64);

    // Another generator needs another calibration, and a damaged one is told.
    let file = world.path("run/calibration/calibration.json");
    let whole = fs::read_to_string(&file).unwrap();
    fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    refused(&world, &[], &["calibration"]);
    fs::write(&file, whole).unwrap();
    world.answer(&["generator", "train", "run", "--recipe", "recipe.toml", "--seed", "8", "--quiet"]);
    refused(&world, &[], &["another generator", "sidereal calibrate"]);
    world.answer(&["calibrate", "run", "--quiet"]);
    assert!(ask(&world, &[])["items"][0]["confidence"].is_f64());
    for (flags, part) in [(["--items", "0"], "calibration.items"), (["--beam", "0"], "calibration.beam")] {
        let error = world.refusal(&[&["calibrate", "run", "--quiet"][..], &flags].concat());
        assert!(error.contains(part), "{error}");
    }
}

/// A world whose users take the volumes of one series in turn, from any of them on, so that a short training learns what
/// comes next; with another item at one place from the end of every history.
fn in_turn(other_from_end: Option<usize>) -> World {
    let world = World::new();
    let mut text = "user_id,item_id,timestamp\n".to_owned();
    for user in 0..USERS {
        for step in 0..LENGTH {
            let (series, volume) = match other_from_end {
                Some(place) if place == LENGTH - step => (SERIES - 1, LENGTH - 1),
                _ => (user % SERIES, (user / SERIES + step) % LENGTH),
            };
            text += &format!("u{user},S{series}V{volume},{}\n", 1000 + step);
        }
    }
    fs::write(world.path("data/interactions.csv"), text).unwrap();
    let recipe = fs::read_to_string(world.path("recipe.toml")).unwrap();
    fs::write(world.path("recipe.toml"), recipe.replace("max_epochs = 2\n", "max_epochs = 20\n")).unwrap();
    world
}

#[test]
fn confidences_depend_on_validation_targets_and_not_on_test_targets() {
    let calibration = |world: &World| {
        world.run_until("generator");
        world.answer(&["calibrate", "run", "--quiet"]);
        fs::read(world.path("run/calibration/calibration.json")).unwrap()
    };
    let plain = calibration(&in_turn(None));
    assert!(calibration(&in_turn(Some(1))) == plain, "the last event of a history is its test target");
    assert!(calibration(&in_turn(Some(2))) != plain, "the one before is its validation target");
}
