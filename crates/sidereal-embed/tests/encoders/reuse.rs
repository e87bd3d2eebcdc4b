//! What is encoded again when items change, and in which order vectors come.

use std::path::Path;

use candle_core::Device;
use sidereal_core::{Embeddings, NoProgress};
use sidereal_embed::encoders::Content;
use sidereal_embed::{
    BATCH_TOKENS, Contents, Embedder, EncodeFacts, EncodeWork, EncoderOptions, Template, VectorCache, cache_name,
    encode_items,
};

use crate::{copy, fixture, open, titled};

fn encode(
    embedder: &dyn Embedder,
    titles: &[&str],
    budget: usize,
    cache: Option<&Path>,
) -> (Embeddings, EncodeFacts, EncodeWork) {
    let items = titled(titles);
    let texts = "{title}".parse::<Template>().unwrap().texts(&items).unwrap();
    let name = cache_name(embedder);
    let mut cache = cache.map(|dir| VectorCache::open(dir, &name, embedder.facts().width).unwrap());
    let contents = Contents::Texts(texts);
    encode_items(embedder, &Device::Cpu, &items, &contents, budget, cache.as_mut(), &NoProgress).unwrap()
}

const TITLES: [&str; 6] =
    ["coffee", "", "a knife of steel for the kitchen", "puzzle", "coffee", "headphones with battery"];

#[test]
fn only_changed_items_are_encoded_again() {
    let dir = tempfile::tempdir().unwrap();
    let embedder = open(&fixture("bert_tiny"), &EncoderOptions::default());
    let (first, facts, work) = encode(embedder.as_ref(), &TITLES, BATCH_TOKENS, Some(dir.path()));
    assert_eq!(facts, EncodeFacts { items: 6, empty: 1 });
    assert_eq!((work.encoded, work.reused), (5, 1), "two items share a text");
    let (second, _, work) = encode(embedder.as_ref(), &TITLES, BATCH_TOKENS, Some(dir.path()));
    assert_eq!((work.encoded, work.reused), (0, 6));
    assert_eq!(first.values(), second.values());
    let mut changed = TITLES;
    changed[3] = "wooden puzzle";
    let (third, _, work) = encode(embedder.as_ref(), &changed, BATCH_TOKENS, Some(dir.path()));
    assert_eq!((work.encoded, work.reused), (1, 5));
    assert_eq!(third.values()[..3 * 32], first.values()[..3 * 32]);
    assert_ne!(third.values()[3 * 32..4 * 32], first.values()[3 * 32..4 * 32]);
}

#[test]
fn another_model_or_setting_shares_no_vector() {
    let dir = tempfile::tempdir().unwrap();
    let model = tempfile::tempdir().unwrap();
    copy(&fixture("bert_tiny"), model.path());
    let default = EncoderOptions::default();
    let encoded = |options: &EncoderOptions| {
        encode(open(model.path(), options).as_ref(), &TITLES, BATCH_TOKENS, Some(dir.path())).2.encoded
    };
    assert_eq!(encoded(&default), 5);
    assert_eq!(encoded(&EncoderOptions { max_tokens: Some(9), ..default.clone() }), 5);
    assert_eq!(encoded(&default), 0);
    let mut weights = std::fs::read(model.path().join("model.safetensors")).unwrap();
    *weights.last_mut().unwrap() ^= 1;
    std::fs::write(model.path().join("model.safetensors"), weights).unwrap();
    assert_eq!(encoded(&default), 5);
}

#[test]
fn vectors_come_in_the_order_of_the_items_whatever_the_batches_and_threads() {
    for name in ["bert_tiny", "t5_tiny", "qwen3_tiny"] {
        let embedder = open(&fixture(name), &EncoderOptions::default());
        let (all, ..) = encode(embedder.as_ref(), &TITLES, BATCH_TOKENS, None);
        let width = embedder.facts().width;
        assert_eq!((all.rows(), all.width()), (6, width));
        for budget in [1, 20, 40] {
            let (other, ..) = encode(embedder.as_ref(), &TITLES, budget, None);
            let off = all.values().iter().zip(other.values()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(off < 1e-5, "{name}: off by {off:e} with a budget of {budget}");
        }
        for (title, vector) in TITLES.iter().zip(all.values().chunks(width)) {
            let input = embedder.prepare(Content::Text(title)).unwrap();
            let alone: Vec<f32> = embedder.embed(&[&input]).unwrap().flatten_all().unwrap().to_vec1().unwrap();
            assert!(alone.iter().zip(vector).all(|(a, b)| (a - b).abs() < 1e-5), "{name}: {title:?}");
        }
        let with = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| encode(embedder.as_ref(), &TITLES, 20, None).0)
        };
        assert_eq!(with(1).values(), with(3).values());
    }
}

#[test]
fn a_vector_that_is_not_finite_names_its_item_and_keeps_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let model = tempfile::tempdir().unwrap();
    copy(&fixture("bert_tiny"), model.path());
    // The last tensor of the file is a table of token vectors or a norm; NaN in a norm's weight reaches every text.
    let path = model.path().join("model.safetensors");
    let mut weights = std::fs::read(&path).unwrap();
    let len = weights.len();
    weights[len - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&path, weights).unwrap();
    let embedder = open(model.path(), &EncoderOptions::default());
    let items = titled(&["coffee"]);
    let mut cache = VectorCache::open(dir.path(), "m", 32).unwrap();
    let contents = Contents::Texts(vec!["coffee".to_owned()]);
    let error = encode_items(embedder.as_ref(), &Device::Cpu, &items, &contents, 64, Some(&mut cache), &NoProgress);
    assert!(error.unwrap_err().to_string().contains("item \"item0\": the model makes NaN"));
    assert!(cache.is_empty());
}
