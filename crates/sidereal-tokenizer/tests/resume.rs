//! A killed RQ-VAE training goes on bit for bit.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use sidereal_core::{Embeddings, NoProgress, Progress};
use sidereal_nn::rng::Rng;
use sidereal_tokenizer::{ARRAYS_FILE, DESCRIPTION_FILE, ItemTokenizer, TokenizerConfig, Training, TrainingItems};

fn rows() -> Embeddings {
    let mut rng = Rng::new(3, "rows");
    Embeddings::new(90, 10, (0..900).map(|_| rng.normal() as f32).collect()).unwrap()
}

fn config(epochs: usize) -> TokenizerConfig {
    serde_json::from_value(serde_json::json!({ "rq-vae": {
        "codes": [16, 16], "hidden": [12], "latent": 4, "batch": 32, "epochs": epochs, "evaluate_every": 4, "patience": 0
    } }))
    .unwrap()
}

/// Panics at a step, as a kill would end the process there.
struct KillAt(AtomicU64);

impl Progress for KillAt {
    fn start(&self, _: &str, _: Option<u64>, _: &'static str) {}
    fn advance(&self, _: u64) {
        assert!(self.0.fetch_sub(1, Ordering::Relaxed) > 0, "killed");
    }
    fn note(&self, _: &str) {}
    fn finish(&self) {}
}

fn bytes(tokenizer: &ItemTokenizer) -> [Vec<u8>; 2] {
    let dir = tempfile::tempdir().unwrap();
    tokenizer.save(dir.path()).unwrap();
    [DESCRIPTION_FILE, ARRAYS_FILE].map(|name| std::fs::read(dir.path().join(name)).unwrap())
}

fn train(work: &Path, progress: &dyn Progress, seed: u64) -> sidereal_tokenizer::Result<ItemTokenizer> {
    ItemTokenizer::train_with(
        &config(20),
        &TrainingItems::new(&rows()),
        &Training { work: Some(work), ..Training::new(seed, progress) },
    )
}

#[test]
fn a_killed_training_gives_the_bytes_of_the_uninterrupted_one() {
    let whole = bytes(&ItemTokenizer::train(&config(20), &rows(), 9, &NoProgress).unwrap());
    for kill_at in [2, 14, 30, 55] {
        let work = tempfile::tempdir().unwrap();
        let killed = std::panic::catch_unwind(|| train(work.path(), &KillAt(AtomicU64::new(kill_at)), 9));
        assert!(killed.is_err(), "the run was not killed");
        let resumed = train(work.path(), &NoProgress, 9).unwrap();
        assert!(bytes(&resumed) == whole, "killed at step {kill_at}");
        let again = train(work.path(), &NoProgress, 9).unwrap();
        assert!(bytes(&again) == whole, "a finished training is not continued");
    }
}

#[test]
fn a_checkpoint_of_another_training_is_refused() {
    let work = tempfile::tempdir().unwrap();
    train(work.path(), &NoProgress, 9).unwrap();
    let error = train(work.path(), &NoProgress, 10).unwrap_err().to_string();
    assert!(error.contains("another seed") && error.contains("checkpoint"), "{error}");
}
