//! Every method of the list keeps the same promises.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use sidereal_core::{Embeddings, NoProgress, SemanticIds};
use sidereal_nn::rng::Rng;
use sidereal_tokenizer::{ARRAYS_FILE, DESCRIPTION_FILE, ItemTokenizer, TOKENIZERS, TokenizerConfig};

const ITEMS: usize = 300;
const WIDTH: usize = 20;

/// Items around 12 centres, each with 5 points around it, with noise: something for three levels to find.
fn clustered() -> Embeddings {
    let mut rng = Rng::new(17, "clusters");
    let mut draw =
        |count: usize, scale: f64| -> Vec<f32> { (0..count).map(|_| (rng.normal() * scale) as f32).collect() };
    let (centres, inner, noise) = (draw(12 * WIDTH, 3.0), draw(60 * WIDTH, 1.0), draw(ITEMS * WIDTH, 0.3));
    let value = |at: usize| {
        let (item, column) = (at / WIDTH, at % WIDTH);
        centres[item % 12 * WIDTH + column] + inner[item % 60 * WIDTH + column] + noise[at]
    };
    Embeddings::new(ITEMS, WIDTH, (0..ITEMS * WIDTH).map(value).collect()).unwrap()
}

/// As many of these numbers of codes as the method has levels.
fn codes_for<'a>(name: &str, codes: &'a [u32]) -> &'a [u32] {
    if name == "vq" { &codes[..1] } else { codes }
}

/// A method's defaults, with the size of its training cut down where it has one.
fn config(name: &str, codes: &[u32]) -> TokenizerConfig {
    let config = TokenizerConfig::with_defaults(name, codes_for(name, codes).to_vec()).unwrap();
    let mut json = serde_json::to_value(config).unwrap();
    for (key, value) in [("epochs", 40), ("batch", 100), ("latent", 8), ("evaluate_every", 5)] {
        if let Some(entry) = json[name].get_mut(key) {
            *entry = value.into();
        }
    }
    if let Some(rate) = json[name].get_mut("learning_rate") {
        *rate = 0.01.into();
    }
    if let Some(hidden) = json[name].get_mut("hidden") {
        *hidden = serde_json::json!([16]);
    }
    serde_json::from_value(json).unwrap()
}

fn train(name: &str, codes: &[u32], threads: usize) -> ItemTokenizer {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| ItemTokenizer::train(&config(name, codes), &clustered(), 5, &NoProgress).unwrap())
}

fn saved_bytes(tokenizer: &ItemTokenizer, dir: &Path) -> [Vec<u8>; 2] {
    tokenizer.save(dir).unwrap();
    [DESCRIPTION_FILE, ARRAYS_FILE].map(|name| std::fs::read(dir.join(name)).unwrap())
}

#[test]
fn every_method_gives_codes_below_its_sizes_and_respects_each_level() {
    for method in TOKENIZERS {
        let tokenizer = train(method.name, &[16, 7, 3], 1);
        let codes = codes_for(method.name, &[16, 7, 3]);
        assert_eq!(tokenizer.codes_per_level(), codes, "{}", method.name);
        let ids = tokenizer.encode(&clustered()).unwrap();
        assert_eq!((ids.len(), ids.levels()), (ITEMS, codes.len()), "{}", method.name);
        ids.check_codes(codes).unwrap();
    }
}

#[test]
fn every_method_comes_back_from_disk_the_same() {
    for method in TOKENIZERS {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let tokenizer = train(method.name, &[8, 8], 1);
        let bytes = saved_bytes(&tokenizer, one.path());
        let again = ItemTokenizer::load(one.path()).unwrap();
        assert_eq!(again.encode(&clustered()).unwrap(), tokenizer.encode(&clustered()).unwrap(), "{}", method.name);
        assert_eq!(again.description(), tokenizer.description());
        assert_eq!(saved_bytes(&again, two.path()), bytes, "{}", method.name);
    }
}

#[test]
fn every_method_gives_the_same_bytes_for_one_and_two_threads() {
    for method in TOKENIZERS {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let single = saved_bytes(&train(method.name, &[8, 8], 1), one.path());
        let double = saved_bytes(&train(method.name, &[8, 8], 2), two.path());
        assert!(single == double, "{} differs between one and two threads", method.name);
    }
}

#[test]
fn every_method_encodes_a_row_alone_as_in_any_batch() {
    for method in TOKENIZERS {
        let tokenizer = train(method.name, &[16, 8], 2);
        let rows = clustered();
        let together = tokenizer.encode(&rows).unwrap();
        let mut alone = Vec::new();
        for (start, end) in [(0, 1), (1, 2), (2, 100), (100, 257), (257, ITEMS)] {
            let part = Embeddings::new(end - start, WIDTH, rows.values()[start * WIDTH..end * WIDTH].to_vec()).unwrap();
            alone.extend_from_slice(tokenizer.encode(&part).unwrap().codes());
        }
        assert_eq!(SemanticIds::new(together.levels(), alone).unwrap(), together, "{}", method.name);
    }
}

#[test]
fn every_method_leaves_less_after_each_level_and_reconstructs_what_it_says() {
    for method in TOKENIZERS {
        let tokenizer = train(method.name, &[12, 8, 8], 1);
        let rows = tokenizer.prepare(&clustered()).unwrap();
        let ids = tokenizer.encode(&clustered()).unwrap();
        let energy = tokenizer.quantizer().unwrap().residual_energy(&rows, &ids).unwrap().unwrap();
        assert!(energy.windows(2).all(|w| w[1] < w[0]), "{}: {energy:?}", method.name);
        assert_eq!(energy.len(), ids.levels() + 1, "{}", method.name);
        let back = tokenizer.quantizer().unwrap().reconstruct(&ids).unwrap();
        let error =
            |other: &[f32]| -> f64 { rows.values().iter().zip(other).map(|(a, b)| f64::from(a - b).powi(2)).sum() };
        let mean: Vec<f32> = (0..rows.values().len())
            .map(|at| (0..ITEMS).map(|i| rows.row(i)[at % WIDTH]).sum::<f32>() / ITEMS as f32)
            .collect();
        assert!(error(back.values()) < 0.5 * error(&mean), "{} is little better than the mean", method.name);
    }
}

#[test]
fn every_method_names_both_widths_when_they_differ() {
    for method in TOKENIZERS {
        let other = Embeddings::new(1, WIDTH + 1, vec![0.0; WIDTH + 1]).unwrap();
        let error = train(method.name, &[4], 1).encode(&other).unwrap_err().to_string();
        assert!(
            error.contains("20") && error.contains("21") && error.contains("same") | error.contains("model"),
            "{error}"
        );
    }
}

#[test]
fn every_method_trains_on_fewer_items_than_codes_and_on_one_item() {
    for method in TOKENIZERS {
        for count in [1, 5] {
            let few = Embeddings::new(count, WIDTH, clustered().values()[..count * WIDTH].to_vec()).unwrap();
            let tokenizer = ItemTokenizer::train(&config(method.name, &[64, 64]), &few, 1, &NoProgress).unwrap();
            let ids = tokenizer.encode(&few).unwrap();
            assert_eq!(ids.len(), count, "{}", method.name);
            assert!(tokenizer.quantizer().unwrap().codebook(0).iter().all(|v| v.is_finite()), "{}", method.name);
        }
    }
}

#[test]
fn every_method_is_named_once_and_reads_its_own_defaults() {
    for (i, method) in TOKENIZERS.iter().enumerate() {
        assert!(TOKENIZERS[..i].iter().all(|other| other.name != method.name));
        assert!(!method.paper.is_empty());
        let codes = codes_for(method.name, &[32, 16]);
        let config = TokenizerConfig::with_defaults(method.name, codes.to_vec()).unwrap();
        assert_eq!((config.name(), config.codes()), (method.name, codes));
        let json = serde_json::to_value(&config).unwrap();
        assert_eq!(serde_json::from_value::<TokenizerConfig>(json).unwrap(), config);
        let misspelt = serde_json::json!({ method.name: { "codez": [256] } });
        let error = serde_json::from_value::<TokenizerConfig>(misspelt).unwrap_err().to_string();
        assert!(error.contains("codez"), "{error}");
    }
}
