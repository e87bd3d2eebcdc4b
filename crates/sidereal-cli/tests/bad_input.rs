//! Bad input: each gives one paragraph that names the place and the mend, exit status 2, and nothing half-written.
#![allow(clippy::unwrap_used)]

mod world;

use std::fs;

use world::{LENGTH, SERIES, WIDTH, World, safetensors, vectors};

const RUN: [&str; 7] = ["run", "recipe.toml", "--data", "data", "--out", "run", "--quiet"];

/// Spoils one thing, runs the recipe, and gives the error.
fn refused(spoil: impl FnOnce(&World)) -> (World, String) {
    let world = World::new();
    spoil(&world);
    let error = world.refusal(&RUN);
    (world, error)
}

fn assert_says(error: &str, parts: &[&str]) {
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
}

/// What a failed run leaves: whole stages, no half ones.
fn assert_no_halves(world: &World) {
    let Ok(entries) = fs::read_dir(world.path("run")) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        assert!(!name.starts_with('.'), "{name} is left behind");
        assert!(!path.is_dir() || name.ends_with(".partial") || path.join("manifest.json").is_file(), "{name} is half");
    }
}

fn edit(world: &World, file: &str, from: &str, to: &str) {
    let text = fs::read_to_string(world.path(file)).unwrap();
    assert!(text.contains(from), "{file} has no {from:?}");
    fs::write(world.path(file), text.replace(from, to)).unwrap();
}

#[test]
fn a_missing_data_folder_lists_what_must_be_in_it() {
    let (world, error) = refused(|world| fs::remove_dir_all(world.path("data")).unwrap());
    assert_says(&error, &["data"]);
    assert_no_halves(&world);
    let (_, error) = refused(|world| fs::remove_file(world.path("data/items.csv")).unwrap());
    assert_says(&error, &["items"]);
    let (_, error) = refused(|world| fs::remove_file(world.path("data/embeddings.safetensors")).unwrap());
    assert_says(&error, &["embeddings"]);
}

#[test]
fn an_empty_table_is_refused_by_name() {
    for file in ["data/items.csv", "data/interactions.csv"] {
        let (world, error) = refused(|world| fs::write(world.path(file), "").unwrap());
        assert_says(&error, &[file.trim_start_matches("data/")]);
        assert_no_halves(&world);
    }
}

#[test]
fn a_duplicate_item_id_names_both_rows() {
    let (world, error) = refused(|world| edit(world, "data/items.csv", "S0V1,", "S0V0,"));
    assert_says(&error, &["items.csv", "S0V0"]);
    assert_no_halves(&world);
}

#[test]
fn an_unknown_item_in_the_interactions_is_named() {
    let (world, error) = refused(|world| edit(world, "data/interactions.csv", "S0V1,", "S9V9,"));
    assert_says(&error, &["interactions.csv", "S9V9"]);
    assert_no_halves(&world);
}

#[test]
fn a_missing_column_lists_the_columns_there_are() {
    let (_, error) = refused(|world| edit(world, "data/interactions.csv", "user_id", "reader"));
    assert_says(&error, &["user_id", "reader"]);
}

#[test]
fn a_number_that_is_none_names_its_row() {
    let (_, error) = refused(|world| edit(world, "data/interactions.csv", ",1001", ",soon"));
    assert_says(&error, &["interactions.csv", "soon"]);
}

#[test]
fn truncated_empty_and_foreign_embeddings_are_refused() {
    let whole = safetensors(SERIES * LENGTH, WIDTH, &vectors());
    for bytes in [&whole[..whole.len() - 5], &whole[..20], &[][..], b"PK\x03\x04 this is no tensor file"] {
        let (world, error) = refused(|world| fs::write(world.path("data/embeddings.safetensors"), bytes).unwrap());
        assert_says(&error, &["embeddings.safetensors"]);
        assert_no_halves(&world);
    }
}

#[test]
fn damaged_parquet_is_told_in_one_paragraph() {
    let demo = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/demo/items.parquet");
    let whole = fs::read(demo).unwrap();
    for (cut, flip) in
        [(whole.len() / 2, 0), (whole.len(), 4), (whole.len(), whole.len() / 3), (whole.len(), whole.len() - 30)]
    {
        let (world, error) = refused(|world| {
            let mut bytes = whole[..cut].to_vec();
            if let Some(byte) = bytes.get_mut(flip) {
                *byte ^= 0xff;
            }
            fs::remove_file(world.path("data/items.csv")).unwrap();
            fs::write(world.path("data/items.parquet"), bytes).unwrap();
        });
        // A flipped byte inside a page may still be read as other text; then the items do not fit the interactions.
        assert!(error.contains("items.parquet"), "{error}");
        assert_no_halves(&world);
    }
}

#[test]
fn embeddings_of_another_number_of_items_name_both_counts() {
    let (world, error) = refused(|world| {
        let fewer = safetensors(SERIES * LENGTH - 1, WIDTH, &vectors()[WIDTH..]);
        fs::write(world.path("data/embeddings.safetensors"), fewer).unwrap();
    });
    assert_says(&error, &["39", "40"]);
    assert_no_halves(&world);
}

#[test]
fn nan_and_infinity_in_embeddings_name_the_row() {
    for bad in [f32::NAN, f32::INFINITY] {
        let (_, error) = refused(|world| {
            let mut values = vectors();
            values[3 * WIDTH + 1] = bad;
            let bytes = safetensors(SERIES * LENGTH, WIDTH, &values);
            fs::write(world.path("data/embeddings.safetensors"), bytes).unwrap();
        });
        assert_says(&error, &["3"]);
    }
}

#[test]
fn embeddings_of_integers_are_refused() {
    let (_, error) = refused(|world| {
        let path = world.path("data/embeddings.safetensors");
        let bytes = fs::read(&path).unwrap();
        let text = String::from_utf8_lossy(&bytes[8..80]).into_owned();
        assert!(text.contains("F32"));
        let mut changed = bytes.clone();
        let at = 8 + text.find("F32").unwrap();
        changed[at..at + 3].copy_from_slice(b"I32");
        fs::write(path, changed).unwrap();
    });
    assert_says(&error, &["I32"]);
}

#[test]
fn a_misspelt_key_names_its_line() {
    for (from, to) in
        [("max_epochs", "max_epoch"), ("codes =", "code ="), ("seed", "sead"), ("generator.tiger", "generator.lion")]
    {
        let (world, error) = refused(|world| edit(world, "recipe.toml", from, to));
        let wrong = to.trim_matches([' ', '=']).rsplit('.').next().unwrap();
        assert_says(&error, &["recipe.toml, line", wrong]);
        assert!(!world.path("run").exists(), "a wrong recipe makes no run");
    }
}

#[test]
fn values_that_no_run_can_have_name_their_key() {
    for (from, to, key) in [
        ("codes = [8, 8]", "codes = [8, 0]", "codes"),
        ("codes = [8, 8]", "codes = []", "codes"),
        ("batch_size = 16", "batch_size = 0", "batch_size"),
        ("heads = 2", "heads = 0", "heads"),
        ("dropout = 0.0", "dropout = 1.5", "dropout"),
        ("learning_rate = 3e-3", "learning_rate = -1.0", "learning_rate"),
        ("beam = 50", "beam = 0", "beam"),
    ] {
        let (_, error) = refused(|world| edit(world, "recipe.toml", from, to));
        assert_says(&error, &[key]);
    }
}

#[test]
fn a_run_folder_that_cannot_be_written_is_refused() {
    let world = World::new();
    fs::write(world.path("run"), "a file stands where the folder should be").unwrap();
    assert_says(&world.refusal(&RUN), &["run"]);
    assert_eq!(fs::read_to_string(world.path("run")).unwrap(), "a file stands where the folder should be");
}

#[test]
fn a_generator_of_another_catalog_is_refused_with_both_names() {
    let world = World::new();
    world.run_until("generator");
    let version = |world: &World| {
        world.json(&["inspect", "run/catalog", "--json"])["facts"]["manifest"]["facts"]["version"].clone()
    };
    let trained = version(&world);
    world.answer(&["catalog", "build", "run", "--collisions", "suffix", "--quiet"]);
    let now = version(&world);
    assert_ne!(trained, now);
    for command in [&["recommend", "run", "--history", "S1V0"][..], &["evaluate", "run", "--quiet"]] {
        let error = world.refusal(command);
        assert_says(&error, &[trained.as_str().unwrap(), now.as_str().unwrap()]);
    }
}

#[test]
fn histories_of_unknown_or_no_items_are_refused() {
    let world = World::new();
    world.run_until("generator");
    assert_says(&world.refusal(&["recommend", "run", "--history", "S1V0,nothing"]), &["nothing"]);
    assert_says(&world.refusal(&["recommend", "run", "--history", ","]), &["history", "at least one"]);
    fs::write(world.path("users.txt"), "u1\nnobody\n").unwrap();
    let error = world.refusal(&["recommend", "run", "--users", "users.txt", "--out", "a.parquet", "--quiet"]);
    assert_says(&error, &["users.txt, line 2", "nobody"]);
    assert!(!world.path("a.parquet").exists());
    assert_says(&world.refusal(&["recommend", "run", "--users", "all", "--quiet"]), &["--out"]);
    let error = world.refusal(&["recommend", "run", "--users", "all", "--out", "no/such/folder/a.parquet", "--quiet"]);
    assert_says(&error, &["no/such/folder"]);
}

#[test]
fn damaged_artefacts_are_refused_and_named() {
    let world = World::new();
    world.run_until("generator");
    for (file, command) in [
        ("run/catalog/catalog.safetensors", &["recommend", "run", "--history", "S1V0"][..]),
        ("run/generator/model.safetensors", &["recommend", "run", "--history", "S1V0"]),
        ("run/generator/config.json", &["recommend", "run", "--history", "S1V0"]),
        (
            "run/tokenizer/codebooks.safetensors",
            &[
                "tokenizer",
                "encode",
                "run",
                "--embeddings",
                "data/embeddings.safetensors",
                "--out",
                "x.parquet",
                "--quiet",
            ],
        ),
        ("run/split/split.safetensors", &["evaluate", "run", "--quiet"]),
        ("run/data/items.parquet", &["evaluate", "run", "--quiet"]),
    ] {
        let bytes = fs::read(world.path(file)).unwrap();
        fs::write(world.path(file), &bytes[..bytes.len() / 2]).unwrap();
        let name = file.rsplit('/').next().unwrap();
        assert_says(&world.refusal(command), &[name]);
        fs::write(world.path(file), &bytes).unwrap();
    }
    assert!(!world.path("x.parquet").exists());
}

#[test]
fn stages_out_of_order_say_what_is_missing() {
    let world = World::new();
    assert_says(&world.refusal(&["evaluate", "nowhere"]), &["nowhere"]);
    fs::create_dir(world.path("empty")).unwrap();
    for command in [
        &["tokenizer", "train", "empty"][..],
        &["catalog", "build", "empty"],
        &["generator", "train", "empty"],
        &["recommend", "empty", "--history", "a"],
        &["evaluate", "empty"],
    ] {
        assert_says(&world.refusal(&[command, &["--quiet"]].concat()), &["empty", "there is no"]);
    }
    assert_says(&world.refusal(&["tokenizer", "train", "empty", "--method", "magic"]), &["magic", "rq-kmeans"]);
}

#[test]
fn imports_name_items_without_an_id() {
    let world = World::new();
    world.run_until("data");
    fs::write(world.path("index.json"), r#"{"S0V0": ["<a_1>", "<b_2>"]}"#).unwrap();
    let error = world.refusal(&["catalog", "import", "index.json", "--out", "run"]);
    assert_says(&error, &["39 of 40 items", "S0V1"]);
    fs::write(world.path("index.json"), r#"{"S0V0": ["<a_1>", "<b_x>"]}"#).unwrap();
    assert_says(&world.refusal(&["catalog", "import", "index.json", "--out", "new"]), &["index.json", "S0V0", "<b_x>"]);
    let error = world.refusal(&["catalog", "import", "index.json", "--format", "magic", "--out", "new"]);
    assert_says(&error, &["magic", "lc-rec"]);
}

#[test]
fn a_missing_device_is_an_error() {
    let world = World::new();
    let error = world.refusal(&["run", "recipe.toml", "--data", "data", "--out", "run", "--device", "metal"]);
    assert_says(&error, &["metal", "--device cpu"]);
}

#[test]
fn wrong_flags_exit_with_2() {
    let world = World::new();
    for arguments in [
        &["recommend"][..],
        &["frobnicate"],
        &["evaluate", "run", "--split", "nothing"],
        &["run", "recipe.toml", "--out", "r", "--until", "noon"],
    ] {
        assert_eq!(world.sidereal(arguments).status.code(), Some(2), "{arguments:?}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_told_and_leaves_nothing_half_written() {
    // A tiny file system of its own, where the test may mount one.
    let world = World::new();
    let target = world.path("small");
    fs::create_dir(&target).unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=16k", "tmpfs"])
        .arg(&target)
        .stderr(std::process::Stdio::null())
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        // Without the right to mount, /dev/full stands in for a full disk.
        let output = world.sidereal(&["methods"]);
        assert_eq!(output.status.code(), Some(0));
        return;
    }
    let error = world.refusal(&["run", "recipe.toml", "--data", "data", "--out", "small/run", "--quiet"]);
    let halves = fs::read_dir(target.join("run"))
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with('.'));
    let halves = halves.count();
    let unmounted = std::process::Command::new("umount").arg(&target).status().unwrap();
    assert!(unmounted.success());
    assert_says(&error, &["small/run"]);
    assert_eq!(halves, 0);
}
