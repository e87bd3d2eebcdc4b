//! A killed training of RQ-VAE and its relatives goes on bit for bit.
#![allow(clippy::unwrap_used)]

mod kill_at;

use std::path::Path;
use std::sync::atomic::AtomicU64;

use sidereal_core::{Embeddings, Histories, NoProgress, Progress};
use sidereal_nn::rng::Rng;
use sidereal_tokenizer::{
    ARRAYS_FILE, DESCRIPTION_FILE, ItemTokenizer, TokenizerConfig, Training, TrainingHistories, TrainingItems,
};

use kill_at::KillAt;

fn rows() -> Embeddings {
    let mut rng = Rng::new(3, "rows");
    Embeddings::new(90, 10, (0..900).map(|_| rng.normal() as f32).collect()).unwrap()
}

fn config() -> TokenizerConfig {
    method("rq-vae", serde_json::json!({ "latent": 4 }))
}

/// A method with small sizes and these settings beside them.
fn method(name: &str, settings: serde_json::Value) -> TokenizerConfig {
    let mut all = serde_json::json!({
        "codes": [16, 16], "hidden": [12], "batch": 32, "epochs": 20, "evaluate_every": 4, "patience": 0
    });
    for (key, value) in settings.as_object().unwrap() {
        all[key] = value.clone();
    }
    serde_json::from_value(serde_json::json!({ name: all })).unwrap()
}

fn bytes(tokenizer: &ItemTokenizer) -> [Vec<u8>; 2] {
    let dir = tempfile::tempdir().unwrap();
    tokenizer.save(dir.path()).unwrap();
    [DESCRIPTION_FILE, ARRAYS_FILE].map(|name| std::fs::read(dir.path().join(name)).unwrap())
}

/// Items with all that an alignment may ask for.
struct World {
    rows: Embeddings,
    learnt: Embeddings,
    histories: Histories,
    ends: Vec<u32>,
}

impl World {
    fn new() -> Self {
        let mut rng = Rng::new(4, "world");
        let learnt = Embeddings::new(90, 5, (0..450).map(|_| rng.normal() as f32).collect()).unwrap();
        let events = (0..40 * 6).map(|_| rng.below(90) as u32).collect();
        let (users, offsets) =
            ((0..40).map(|user| user.to_string()).collect(), (0..=40).map(|user| 6 * user).collect());
        Self {
            rows: rows(),
            learnt,
            histories: Histories::new(users, offsets, events, None, None).unwrap(),
            ends: vec![5; 40],
        }
    }

    fn items(&self) -> TrainingItems<'_> {
        TrainingItems {
            collaborative: Some(&self.learnt),
            histories: Some(TrainingHistories::new(&self.histories, &self.ends)),
            ..TrainingItems::new(&self.rows)
        }
    }
}

fn train(
    config: &TokenizerConfig,
    work: &Path,
    progress: &dyn Progress,
    seed: u64,
) -> sidereal_tokenizer::Result<ItemTokenizer> {
    ItemTokenizer::train_with(
        config,
        &World::new().items(),
        &Training { work: Some(work), ..Training::new(seed, progress) },
    )
}

fn goes_on(config: &TokenizerConfig, kills: &[u64]) {
    let whole = ItemTokenizer::train_with(config, &World::new().items(), &Training::new(9, &NoProgress));
    let whole = bytes(&whole.unwrap());
    for &kill_at in kills {
        let work = tempfile::tempdir().unwrap();
        let killed = std::panic::catch_unwind(|| train(config, work.path(), &KillAt(AtomicU64::new(kill_at)), 9));
        assert!(killed.is_err(), "the run was not killed");
        let resumed = train(config, work.path(), &NoProgress, 9).unwrap();
        assert!(bytes(&resumed) == whole, "killed at step {kill_at}: {config:?}");
        let again = train(config, work.path(), &NoProgress, 9).unwrap();
        assert!(bytes(&again) == whole, "a finished training is not continued");
    }
}

#[test]
fn a_killed_training_gives_the_bytes_of_the_uninterrupted_one() {
    goes_on(&config(), &[2, 14, 30, 55]);
}

#[test]
fn every_way_of_training_goes_on_after_a_kill() {
    for settings in [
        serde_json::json!({ "estimator": "rotation", "codebook_update": { "ema": { "decay": 0.9 } } }),
        serde_json::json!({ "estimator": { "gumbel": { "temperature": 0.5 } }, "input_norm": "layer" }),
        serde_json::json!({ "sim_vq": true, "sinkhorn": { "levels": [1] }, "input_norm": "batch" }),
        serde_json::json!({ "precision": "bf16" }),
        serde_json::json!({ "align": { "das": { "pairs": ["co-occurrence", "user-item", "item-item", "user-user", "user-co-occurrence"] } }, "estimator": { "gumbel": {} } }),
    ] {
        let mut settings = settings;
        settings["latent"] = 4.into();
        goes_on(&method("rq-vae", settings), &[2, 30]);
    }
    goes_on(&method("rq-kmeans-plus", serde_json::json!({})), &[2, 30]);
}

#[test]
fn a_checkpoint_of_another_training_is_refused() {
    let work = tempfile::tempdir().unwrap();
    train(&config(), work.path(), &NoProgress, 9).unwrap();
    let error = train(&config(), work.path(), &NoProgress, 10).unwrap_err().to_string();
    assert!(error.contains("another seed") && error.contains("checkpoint"), "{error}");
}
