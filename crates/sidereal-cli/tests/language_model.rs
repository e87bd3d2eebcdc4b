//! A language model that was trained elsewhere, from its folder to recommendations.
#![allow(clippy::unwrap_used)]

mod world;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use world::World;

const LETTERS: [char; 4] = ['a', 'b', 'c', 'd'];

/// A small Llama and what Hugging Face's constrained beam search answers with it, see `tests/fixtures` of the generator.
fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../sidereal-generator/tests/fixtures/llama_tiny")
}

fn beams() -> Value {
    serde_json::from_slice(&fs::read(fixture().join("beams.json")).unwrap()).unwrap()
}

/// A text tokenizer whose tokens from 4 on are the codes, level after level.
fn text_tokenizer() -> Value {
    let code = |at: usize| format!("<{}_{}>", LETTERS[at / 16], at % 16);
    let added: Vec<Value> = (0..64)
        .map(|at| {
            json!({
                "id": 4 + at, "content": code(at), "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": false,
            })
        })
        .collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": { "type": "Whitespace" }, "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "unk_token": "<unk>", "vocab": { "<pad>": 0, "<end>": 1, "<begin>": 2, "<unk>": 3 } },
    })
}

/// A world with the model's folder, its catalog in a run, and its prompt: codes alone.
fn world() -> World {
    let world = World::new();
    let model = world.path("model");
    fs::create_dir(&model).unwrap();
    for name in ["config.json", "model.safetensors", "generation_config.json"] {
        if fixture().join(name).is_file() {
            fs::copy(fixture().join(name), model.join(name)).unwrap();
        }
    }
    fs::write(model.join("tokenizer.json"), text_tokenizer().to_string()).unwrap();
    fs::write(world.path("prompt.toml"), "template = \"{history}\"\nseparator = \"\"\n").unwrap();
    let written = |item: &Value| -> Vec<String> {
        let codes = item.as_array().unwrap().iter().zip(LETTERS);
        codes.map(|(code, letter)| format!("<{letter}_{code}>")).collect()
    };
    let beams = beams();
    let items = beams["catalog"].as_array().unwrap().iter().enumerate();
    let index: serde_json::Map<String, Value> =
        items.map(|(at, item)| (at.to_string(), json!(written(item)))).collect();
    fs::write(world.path("items.index.json"), Value::Object(index).to_string()).unwrap();
    world.answer(&[
        "catalog",
        "import",
        "items.index.json",
        "--format",
        "lc-rec",
        "--codes",
        "16,16,16,16",
        "--out",
        "llm",
    ]);
    world
}

fn import(more: &[&str]) -> Vec<String> {
    let command = ["generator", "import", "llm", "--model", "model", "--prompt", "prompt.toml"];
    command.iter().chain(more).map(|word| (*word).to_owned()).collect()
}

fn words(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

/// The fixture's prompts as items: six, four and three of them.
fn histories() -> Vec<String> {
    let bytes = fs::read(fixture().join("io.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let ids = tensors.tensor("input_ids").unwrap();
    let ids: Vec<i64> = ids.data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect();
    let catalog: Vec<Vec<i64>> = serde_json::from_value(beams()["catalog"].clone()).unwrap();
    let item = |tokens: &[i64]| {
        let codes: Vec<i64> = tokens.iter().enumerate().map(|(level, token)| token - 4 - 16 * level as i64).collect();
        catalog.iter().position(|known| *known == codes).unwrap().to_string()
    };
    let history = |row: &[i64]| {
        let items: Vec<String> = row.chunks_exact(4).filter(|tokens| tokens[0] != 0).map(item).collect();
        items.join(",")
    };
    ids.chunks_exact(24).map(history).collect()
}

#[test]
fn an_imported_model_recommends_what_hugging_face_generates_under_the_catalogs_constraint() {
    let (world, beams) = (world(), beams());
    world.answer(&words(&import(&[])));
    // The same again is kept.
    let written = || fs::metadata(world.path("llm/generator/model.safetensors")).unwrap().modified().unwrap();
    let first = written();
    world.answer(&words(&import(&[])));
    assert_eq!(written(), first);
    for (user, history) in histories().iter().enumerate() {
        let answer = world.json(&[
            "recommend",
            "llm",
            "--history",
            history,
            "--k",
            "10",
            "--beam",
            "10",
            "--include-seen",
            "--json",
        ]);
        let items = answer["items"].as_array().unwrap();
        assert_eq!(items.len(), 10);
        for (rank, item) in items.iter().enumerate() {
            let (ours, theirs) = (item["score"].as_f64().unwrap(), beams["scores"][user][rank].as_f64().unwrap());
            assert!((ours - theirs).abs() < 1e-3, "user {user}, rank {rank}: {ours} for {theirs}");
            // Ranks of equal scores may change places: the fixture's own advice.
            let near = |other: usize| (beams["scores"][user][other].as_f64().unwrap_or(9.9) - theirs).abs() < 1e-4;
            let tied = (rank > 0 && near(rank - 1)) || near(rank + 1);
            if !tied {
                assert_eq!(item["semantic_id"], beams["sequences"][user][rank], "user {user}, rank {rank}");
            }
        }
        // Without items of the history, and in a coarser precision.
        let fresh =
            world.json(&["recommend", "llm", "--history", history, "--k", "10", "--precision", "int8", "--json"]);
        let seen: Vec<&str> = history.split(',').collect();
        let ids = fresh["items"].as_array().unwrap().iter().map(|item| item["item_id"].as_str().unwrap());
        assert!(ids.clone().count() == 10 && ids.clone().all(|id| !seen.contains(&id)));
    }
}

#[test]
fn a_model_that_does_not_know_the_catalog_is_refused_in_words() {
    let world = world();
    let refusal = |more: &[&str]| world.refusal(&words(&import(more)));
    let tokenizer = world.path("model/tokenizer.json");
    let sound = text_tokenizer();

    // A code that was never added.
    let mut fewer = sound.clone();
    fewer["added_tokens"].as_array_mut().unwrap().remove(3);
    fs::write(&tokenizer, fewer.to_string()).unwrap();
    let error = refusal(&[]);
    assert!(error.contains("<a_3>") && error.contains("which item"), "{error}");

    // No text tokenizer, and one that is damaged.
    fs::remove_file(&tokenizer).unwrap();
    let error = refusal(&[]);
    assert!(error.contains("tokenizer.json"), "{error}");
    fs::write(&tokenizer, "{").unwrap();
    assert!(refusal(&[]).contains("damaged"));
    fs::write(&tokenizer, sound.to_string()).unwrap();

    // Prompts that say nothing.
    for (prompt, part) in [
        ("template = \"next\"", "{history}"),
        ("code = \"<{code}>\"", "{letter}"),
        ("templte = \"{history}\"", "templte"),
    ] {
        fs::write(world.path("prompt.toml"), prompt).unwrap();
        let error = refusal(&[]);
        assert!(error.contains(part), "{prompt}: {error}");
    }
    fs::write(world.path("prompt.toml"), "").unwrap();

    // Another kind of model, and weights that are cut off.
    let config = world.path("model/config.json");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("\"llama\"", "\"gpt2\"")).unwrap();
    assert!(refusal(&[]).contains("gpt2"));
    fs::write(&config, text).unwrap();
    let weights = world.path("model/model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
    assert!(refusal(&[]).contains("damaged or truncated"));
    assert!(!world.path("llm/generator").exists(), "nothing half-written");

    // Sound again, it comes in.
    fs::write(&weights, bytes).unwrap();
    world.answer(&words(&import(&[])));
}
