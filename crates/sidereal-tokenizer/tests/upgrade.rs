//! Tokenizers carried over to another embedding model by a new encoder before the published codebooks.
#![allow(clippy::unwrap_used)]

mod kill_at;

use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::atomic::AtomicU64;

use sidereal_core::{Embeddings, NoProgress, Progress, SemanticIds};
use sidereal_nn::rng::Rng;
use sidereal_tokenizer::arrays::NamedArray;
use sidereal_tokenizer::life::upgrade::Agreement;
use sidereal_tokenizer::life::upgrade::bridge::bridge;
use sidereal_tokenizer::life::upgrade::encoder::retrain_encoder;
use sidereal_tokenizer::life::upgrade::relabel::relabel;
use sidereal_tokenizer::{
    ARRAYS_FILE, DESCRIPTION_FILE, Error, ItemTokenizer, Result, TokenizerConfig, Training, TrainingItems,
};

use kill_at::KillAt;

const ITEMS: usize = 400;
const WIDTH: usize = 6;

/// Items around 12 centres, at 4 points around each, with hardly any noise: codes are those of the points.
fn items() -> Embeddings {
    let mut rng = Rng::new(4, "items");
    let mut draw = |count: usize, scale: f32| -> Vec<f32> { (0..count).map(|_| scale * rng.normal() as f32).collect() };
    let (centres, points, noise) = (draw(12 * WIDTH, 3.0), draw(4 * WIDTH, 1.0), draw(ITEMS * WIDTH, 0.02));
    let value = |at: usize| {
        let (item, column) = (at / WIDTH, at % WIDTH);
        centres[item % 12 * WIDTH + column] + points[item / 12 % 4 * WIDTH + column] + noise[at]
    };
    Embeddings::new(ITEMS, WIDTH, (0..ITEMS * WIDTH).map(value).collect()).unwrap()
}

/// Another model's vectors of the items: no linear map leads back.
fn seen_by_another(width: usize, seed: u64) -> Embeddings {
    let mut rng = Rng::new(seed, "map");
    let map: Vec<f32> = (0..WIDTH * width).map(|_| 0.4 * rng.normal() as f32).collect();
    let items = items();
    let values = items.values().chunks_exact(WIDTH).flat_map(|row| {
        let value = |o: usize| row.iter().enumerate().map(|(i, v)| v * map[i * width + o]).sum::<f32>();
        (0..width).map(|o| value(o).sin() + 0.5 * value(o)).collect::<Vec<f32>>()
    });
    Embeddings::new(ITEMS, width, values.collect()).unwrap()
}

fn tokenizer(method: &str) -> ItemTokenizer {
    let mut json = serde_json::json!({ method: { "codes": [12, 8], "hidden": [32], "epochs": 30, "batch": 100 } });
    json[method]["learning_rate"] = 0.01.into();
    if method == "rq-vae" {
        json[method]["latent"] = 5.into();
    }
    let config: TokenizerConfig = serde_json::from_value(json).unwrap();
    ItemTokenizer::train(&config, &items(), 1, &NoProgress).unwrap()
}

fn retrained(tokenizer: ItemTokenizer, new: &Embeddings, published: &SemanticIds) -> Result<ItemTokenizer> {
    retrain_encoder(tokenizer, &TrainingItems::new(new), published, &Training::new(7, &NoProgress))
}

/// Codebooks and decoder.
fn frozen(tokenizer: &ItemTokenizer) -> Vec<NamedArray> {
    let arrays = tokenizer.quantizer().unwrap().arrays().into_iter();
    arrays.filter(|array| !array.name.starts_with("enc.")).collect()
}

#[test]
fn items_keep_their_published_codes_behind_an_encoder_for_another_model_also_from_disk() {
    for (method, width) in [("rq-vae", 9), ("rq-vae", WIDTH), ("rq-kmeans-plus", 9)] {
        let old = tokenizer(method);
        let (published, kept) = (old.encode(&items()).unwrap(), frozen(&old));
        let new = seen_by_another(width, 9);
        let upgraded = retrained(old, &new, &published).unwrap();
        let record = upgraded.description().encoder.clone().unwrap();
        let told = format!("{method} {width}: {record:?}");
        assert!(record.before.whole < 0.2 && record.after.whole > 0.9, "{told}");
        assert!(record.held_out.as_ref().unwrap().whole > 0.75, "{told}");
        assert_eq!((record.items, record.width_out), (ITEMS, WIDTH), "{told}");
        assert_eq!(frozen(&upgraded), kept, "{method}: codebooks or decoder moved");
        let sids = upgraded.encode(&new).unwrap();
        assert_eq!(Agreement::of(&sids, &published).unwrap(), record.after);
        let dir = tempfile::tempdir().unwrap();
        upgraded.save(dir.path()).unwrap();
        let again = ItemTokenizer::load(dir.path()).unwrap();
        assert_eq!(again.encode(&new).unwrap(), sids);
        let alone = Embeddings::new(1, width, new.row(7).to_vec()).unwrap();
        assert_eq!(again.encode(&alone).unwrap().row(0), sids.row(7));
        // The decoder gives back what it always did.
        let back = again.quantizer().unwrap().reconstruct(&published).unwrap();
        assert_eq!((back.rows(), back.width()), (ITEMS, WIDTH));
        let fit = again.description().fit.as_ref().unwrap();
        assert!(fit.error_percentiles[50] > 0.0 && fit.measured_items == ITEMS);
    }
}

#[test]
fn an_encoder_can_be_followed_by_any_other_way() {
    let old = tokenizer("rq-vae");
    let published = old.encode(&items()).unwrap();
    let (second, third) = (seen_by_another(9, 9), seen_by_another(4 + WIDTH, 10));
    let upgraded = retrained(old, &second, &published).unwrap();
    let sids = upgraded.encode(&second).unwrap();
    let mapped = bridge(upgraded, &third, &second).unwrap();
    assert_eq!(mapped.encode(&third).unwrap().len(), ITEMS);
    // A new encoder reads the third model's vectors itself.
    let again = retrained(mapped, &third, &published).unwrap();
    assert!(again.description().bridge.is_none() && again.description().width == third.width());
    assert!(again.description().encoder.as_ref().unwrap().after.whole > 0.8);
    let renamed = relabel(again, &third, &sids).unwrap();
    assert_eq!(renamed.record.after.items, ITEMS);
}

#[test]
fn the_bytes_do_not_depend_on_the_number_of_threads() {
    let new = seen_by_another(9, 9);
    let published = tokenizer("rq-vae").encode(&items()).unwrap();
    let bytes = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let dir = tempfile::tempdir().unwrap();
            retrained(tokenizer("rq-vae"), &new, &published).unwrap().save(dir.path()).unwrap();
            [DESCRIPTION_FILE, ARRAYS_FILE].map(|name| std::fs::read(dir.path().join(name)).unwrap())
        })
    };
    assert!(bytes(1) == bytes(3));
}

#[test]
fn what_cannot_be_retrained_names_the_ways_that_are_left() {
    let new = seen_by_another(9, 9);
    let refused = |method: &str, codes: Vec<u32>| {
        let config = TokenizerConfig::with_defaults(method, codes).unwrap();
        let tokenizer = ItemTokenizer::train(&config, &items(), 1, &NoProgress).unwrap();
        let published = tokenizer.encode(&items()).unwrap();
        retrained(tokenizer, &new, &published).unwrap_err().to_string()
    };
    let error = refused("rq-kmeans", vec![8, 8]);
    assert!(error.contains("rq-kmeans has no encoder") && error.contains("--how map or --how relabel"), "{error}");
    let error = refused("pq", vec![8, 8]);
    assert!(error.contains("--how map or --how relabel"), "{error}");
    let old = tokenizer("rq-vae");
    let few = SemanticIds::new(2, vec![0; 20]).unwrap();
    let error = retrained(old, &new, &few).unwrap_err().to_string();
    assert!(error.contains("400 new vectors beside 10"), "{error}");
    let beyond = SemanticIds::new(2, vec![11; 2 * ITEMS]).unwrap();
    assert!(retrained(tokenizer("rq-vae"), &new, &beyond).unwrap_err().to_string().contains("not below 8"));
}

#[test]
fn a_killed_training_of_an_encoder_gives_the_bytes_of_the_uninterrupted_one() {
    let published = tokenizer("rq-vae").encode(&items()).unwrap();
    let new = seen_by_another(9, 9);
    let run = |work: Option<&Path>, progress: &dyn Progress, published: &SemanticIds| {
        let training = Training { work, ..Training::new(7, progress) };
        let done = retrain_encoder(tokenizer("rq-vae"), &TrainingItems::new(&new), published, &training)?;
        let dir = tempfile::tempdir().unwrap();
        done.save(dir.path()).unwrap();
        Ok::<_, Error>([DESCRIPTION_FILE, ARRAYS_FILE].map(|name| std::fs::read(dir.path().join(name)).unwrap()))
    };
    let whole = run(None, &NoProgress, &published).unwrap();
    let work = tempfile::tempdir().unwrap();
    for kill_at in [30, 400] {
        let killed = std::panic::catch_unwind(AssertUnwindSafe(|| {
            drop(run(Some(work.path()), &KillAt(AtomicU64::new(kill_at)), &published));
        }));
        assert!(killed.is_err(), "it was not killed at step {kill_at}");
    }
    // What the checkpoint was of other codes is refused.
    let mut others = published.codes().to_vec();
    others.swap(0, 2);
    let others = SemanticIds::new(2, others).unwrap();
    let error = run(Some(work.path()), &NoProgress, &others).unwrap_err().to_string();
    assert!(others == published || error.contains("checkpoint belongs to other settings"), "{error}");
    assert!(run(Some(work.path()), &NoProgress, &published).unwrap() == whole);
}
