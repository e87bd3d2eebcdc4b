//! Pairs with users (DAS's alignments) pull codes, and leave the rest of a training as it is.
#![allow(clippy::unwrap_used)]

use sidereal_core::{Embeddings, Histories, NoProgress};
use sidereal_nn::rng::Rng;
use sidereal_tokenizer::behaviour::collaborative_vectors::user_vectors;
use sidereal_tokenizer::{ARRAYS_FILE, ItemTokenizer, TokenizerConfig, Training, TrainingHistories, TrainingItems};

const ITEMS: usize = 120;
const USERS: usize = 80;
const EVENTS: usize = 6;
const WIDTH: usize = 6;
const LATENT: usize = 4;

/// Items and users of two groups, even and odd. An item's vector says little of its group, its collaborative vector all;
/// the last event of a history is of the other group, and no part of training.
struct World {
    vectors: Embeddings,
    learnt: Embeddings,
    histories: Histories,
    ends: Vec<u32>,
}

impl World {
    fn new() -> Self {
        let mut rng = Rng::new(6, "world");
        let side = |at: usize| if at.is_multiple_of(2) { 1.0 } else { -1.0 };
        let vector = |item: usize, rng: &mut Rng| -> Vec<f32> {
            (0..WIDTH).map(|column| (rng.normal() + if column == 0 { 0.4 * side(item) } else { 0.0 }) as f32).collect()
        };
        let learnt = |item: usize, rng: &mut Rng| -> Vec<f32> {
            (0..LATENT).map(|column| (0.3 * rng.normal() + if column == 0 { side(item) } else { 0.0 }) as f32).collect()
        };
        let vectors = (0..ITEMS).flat_map(|item| vector(item, &mut rng)).collect();
        let learnt = (0..ITEMS).flat_map(|item| learnt(item, &mut rng)).collect();
        let event = |user: usize, at: usize, rng: &mut Rng| {
            (2 * rng.below(ITEMS / 2) + (user + usize::from(at + 1 == EVENTS)) % 2) as u32
        };
        let events =
            (0..USERS).flat_map(|user| (0..EVENTS).map(move |at| (user, at))).map(|(u, at)| event(u, at, &mut rng));
        let names = (0..USERS).map(|user| user.to_string()).collect();
        let offsets = (0..=USERS).map(|user| (user * EVENTS) as u64).collect();
        Self {
            vectors: Embeddings::new(ITEMS, WIDTH, vectors).unwrap(),
            learnt: Embeddings::new(ITEMS, LATENT, learnt).unwrap(),
            histories: Histories::new(names, offsets, events.collect(), None, None).unwrap(),
            ends: vec![EVENTS as u32 - 1; USERS],
        }
    }

    fn histories(&self) -> TrainingHistories<'_> {
        TrainingHistories::new(&self.histories, &self.ends)
    }

    fn train(&self, settings: &serde_json::Value) -> ItemTokenizer {
        let mut all = serde_json::json!({
            "codes": [8, 8], "hidden": [16], "latent": LATENT, "batch": 60, "epochs": 12, "evaluate_every": 12,
            "learning_rate": 0.01
        });
        for (key, value) in settings.as_object().unwrap() {
            all[key] = value.clone();
        }
        let config: TokenizerConfig = serde_json::from_value(serde_json::json!({ "rq-vae": all })).unwrap();
        let items = TrainingItems {
            collaborative: Some(&self.learnt),
            histories: Some(self.histories()),
            ..TrainingItems::new(&self.vectors)
        };
        ItemTokenizer::train_with(&config, &items, &Training::new(5, &NoProgress)).unwrap()
    }
}

fn das(kinds: &[&str], weight: f64) -> serde_json::Value {
    serde_json::json!({ "das": { "pairs": kinds, "weight": weight } })
}

fn arrays(tokenizer: &ItemTokenizer) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    tokenizer.save(dir.path()).unwrap();
    std::fs::read(dir.path().join(ARRAYS_FILE)).unwrap()
}

#[test]
fn users_beside_a_batch_touch_nothing_but_the_encoder_and_that_by_their_pairs() {
    let world = World::new();
    let kinds = ["user-item", "user-user", "user-co-occurrence"];
    for mut settings in [
        serde_json::json!({ "codebook_update": { "ema": { "decay": 0.9 } }, "sinkhorn": { "levels": [1] } }),
        serde_json::json!({ "input_norm": "batch", "estimator": { "gumbel": { "temperature": 0.5 } } }),
    ] {
        let plain = arrays(&world.train(&settings));
        settings["align"] = das(&kinds, 0.0);
        assert!(arrays(&world.train(&settings)) == plain, "{settings}");
        for kind in kinds {
            settings["align"] = das(&[kind], 0.5);
            assert!(arrays(&world.train(&settings)) != plain, "{kind} teaches nothing: {settings}");
        }
    }
}

#[test]
fn users_of_two_groups_part_where_users_are_contrasted_with_themselves() {
    let world = World::new();
    let users = user_vectors(&world.histories(), &world.vectors, f64::INFINITY).unwrap();
    // The share of users who have a first code that is mostly of their own group.
    let purity = |align: serde_json::Value| {
        let codes = world.train(&serde_json::json!({ "align": align, "epochs": 60 })).encode(&users).unwrap();
        let mut counts = [[0usize; 2]; 8];
        codes.rows().enumerate().for_each(|(user, codes)| counts[usize::from(codes[0])][user % 2] += 1);
        counts.iter().map(|groups| groups[0].max(groups[1])).sum::<usize>() as f64 / USERS as f64
    };
    let plain = purity(serde_json::json!({}));
    for kind in ["user-user", "user-co-occurrence"] {
        let aligned = purity(das(&[kind], 1.0));
        assert!(aligned > plain + 0.1, "{kind}: {plain} to {aligned}");
    }
}

#[test]
fn the_same_bytes_come_out_for_one_and_two_threads() {
    let world = World::new();
    let settings = serde_json::json!({ "align": das(&["co-occurrence", "user-item", "user-co-occurrence"], 0.1) });
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| arrays(&world.train(&settings)))
    };
    assert!(run(1) == run(2));
}
