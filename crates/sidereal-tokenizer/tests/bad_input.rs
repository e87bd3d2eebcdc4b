//! What is wrong is refused, with the place and the mend.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use sidereal_core::{Embeddings, NoProgress};
use sidereal_tokenizer::arrays::NamedArray;
use sidereal_tokenizer::{ARRAYS_FILE, DESCRIPTION_FILE, ItemTokenizer, TokenizerConfig};

fn rows() -> Embeddings {
    Embeddings::new(12, 3, (0..36).map(|v| (v * v % 17) as f32).collect()).unwrap()
}

fn saved(dir: &Path) -> ItemTokenizer {
    let config = TokenizerConfig::with_defaults("rq-kmeans", vec![4, 3]).unwrap();
    let tokenizer = ItemTokenizer::train(&config, &rows(), 1, &NoProgress).unwrap();
    tokenizer.save(dir).unwrap();
    tokenizer
}

fn load_error(dir: &Path) -> String {
    ItemTokenizer::load(dir).unwrap_err().to_string()
}

#[test]
fn impossible_sizes_are_refused_before_training() {
    for (codes, word) in [(vec![], "0 levels"), (vec![65_537], "65537"), (vec![4, 0], "level 1 has 0 codes")] {
        let error = TokenizerConfig::with_defaults("rq-kmeans", codes).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
    let error = TokenizerConfig::with_defaults("rq-kmeens", vec![4]).unwrap_err().to_string();
    assert!(error.contains("rq-kmeens") && error.contains("rq-kmeans"), "{error}");
}

#[test]
fn rows_that_are_not_numbers_or_too_large_are_named() {
    let mut values = rows().into_values();
    values[3 * 5 + 1] = f32::NAN;
    assert!(Embeddings::new(12, 3, values.clone()).unwrap_err().to_string().contains("row 5"));
    values[3 * 5 + 1] = 3e38;
    let large = Embeddings::new(12, 3, values).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let tokenizer = saved(dir.path());
    assert!(tokenizer.encode(&large).unwrap_err().to_string().contains("row 5"));
    let config = tokenizer.description().config.clone();
    assert!(ItemTokenizer::train(&config, &large, 1, &NoProgress).unwrap_err().to_string().contains("row 5"));
    let none = Embeddings::new(0, 3, vec![]).unwrap();
    assert!(ItemTokenizer::train(&config, &none, 1, &NoProgress).unwrap_err().to_string().contains("no items"));
    assert_eq!(tokenizer.encode(&none).unwrap().len(), 0);
}

#[test]
fn a_missing_folder_and_every_truncation_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    assert!(load_error(&dir.path().join("absent")).contains("absent"));
    saved(dir.path());
    for name in [DESCRIPTION_FILE, ARRAYS_FILE] {
        let path = dir.path().join(name);
        let bytes = std::fs::read(&path).unwrap();
        // The description's last byte is the line end.
        for len in 0..bytes.len() - 1 {
            std::fs::write(&path, &bytes[..len]).unwrap();
            assert!(load_error(dir.path()).contains(name), "{name} cut to {len} bytes");
        }
        std::fs::write(&path, &bytes).unwrap();
    }
    ItemTokenizer::load(dir.path()).unwrap();
}

#[test]
fn mutated_files_never_panic() {
    let dir = tempfile::tempdir().unwrap();
    saved(dir.path());
    for name in [DESCRIPTION_FILE, ARRAYS_FILE] {
        let path = dir.path().join(name);
        let bytes = std::fs::read(&path).unwrap();
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 0x15;
            std::fs::write(&path, &bad).unwrap();
            if let Ok(tokenizer) = ItemTokenizer::load(dir.path()) {
                let _ = tokenizer.encode(&rows());
            }
        }
        std::fs::write(&path, &bytes).unwrap();
    }
}

#[test]
fn arrays_that_do_not_fit_the_description_are_named() {
    let dir = tempfile::tempdir().unwrap();
    saved(dir.path());
    let path = dir.path().join(DESCRIPTION_FILE);
    let text = std::fs::read_to_string(&path).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let try_with = |edit: &dyn Fn(&mut serde_json::Value)| {
        let mut edited = json.clone();
        edit(&mut edited);
        std::fs::write(&path, edited.to_string()).unwrap();
        load_error(dir.path())
    };
    let error = try_with(&|json| json["width"] = 4.into());
    assert!(error.contains("codebooks.0") && error.contains("[4, 3]") && error.contains("[4, 4]"), "{error}");
    let error = try_with(&|json| {
        json["codes_per_level"] = serde_json::json!([4]);
        json["config"]["rq-kmeans"]["codes"] = serde_json::json!([4]);
    });
    assert!(error.contains("codebooks.1") && error.contains("does not belong"), "{error}");
    let error = try_with(&|json| json["config"]["rq-kmeans"]["pre_steps"] = serde_json::json!(["standardise"]));
    assert!(error.contains("pre_steps.0.mean") && error.contains("missing"), "{error}");
    assert!(try_with(&|json| json["codes_per_level"] = serde_json::json!([5, 3])).contains("codes_per_level"));
    assert!(try_with(&|json| json["format_version"] = 1.into()).contains("version 1"));
    assert!(try_with(&|json| json["width"] = serde_json::json!(1u64 << 40)).contains("width"));
}

#[test]
fn an_unwritable_folder_is_named_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let tokenizer = saved(dir.path());
    let file = dir.path().join("a-file");
    std::fs::write(&file, b"x").unwrap();
    assert!(tokenizer.save(&file).unwrap_err().to_string().contains("a-file"));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3);
    assert_eq!(NamedArray::new("a", &[1], vec![1.0]).shape, [1]);
}

#[test]
fn a_training_that_diverges_says_so() {
    let config: TokenizerConfig = serde_json::from_value(serde_json::json!({ "rq-vae": {
        "codes": [4], "hidden": [4], "latent": 2, "learning_rate": 1e30, "epochs": 20, "batch": 4, "pre_steps": [],
        "clip_norm": 1e30
    } }))
    .unwrap();
    let error = ItemTokenizer::train(&config, &rows(), 1, &NoProgress).unwrap_err().to_string();
    assert!(error.contains("rq-vae") || error.contains("gradient"), "{error}");
}
