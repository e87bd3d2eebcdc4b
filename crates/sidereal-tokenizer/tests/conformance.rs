//! Every method of the list keeps the same promises: quantizers, which encode vectors, and tables, which list items.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::{HashMap, HashSet};
use std::path::Path;

use sidereal_core::{CollisionPolicy, Embeddings, Histories, ItemId, NoProgress, SemanticIds};
use sidereal_nn::rng::Rng;
use sidereal_tokenizer::life::repair::{Repaired, repair};
use sidereal_tokenizer::{
    ItemTokenizer, LevelsSee, Method, TOKENIZERS, TokenizerConfig, Training, TrainingHistories, TrainingItems,
};

const ITEMS: usize = 300;
const WIDTH: usize = 20;
const USERS: usize = 120;

/// All that a method may ask for, about items around 12 centres, each with 5 points around it, with noise: something
/// for three levels to find. Users stay near one centre; categories are centre and point, unknown for some.
struct World {
    vectors: Embeddings,
    ids: Vec<ItemId>,
    categories: Vec<Vec<String>>,
    domains: Vec<u32>,
    collaborative: Embeddings,
    histories: Histories,
    ends: Vec<u32>,
}

impl World {
    /// The first `count` of the items, and what users did with these.
    fn of(count: usize) -> Self {
        let vectors = Embeddings::new(count, WIDTH, clustered().values()[..count * WIDTH].to_vec()).unwrap();
        let path = |i: usize| match i % 29 {
            0 => vec![],
            1 => vec![format!("centre {}", i % 12)],
            _ => vec![format!("centre {}", i % 12), format!("point {}", i % 60)],
        };
        let mut rng = Rng::new(18, "users");
        let (mut offsets, mut events) = (vec![0], Vec::new());
        for user in 0..USERS {
            let liked = |rng: &mut Rng| (user % 12 + 12 * rng.below(ITEMS / 12)) as u32;
            events.extend((0..8).map(|_| liked(&mut rng)).filter(|&item| (item as usize) < count));
            offsets.push(events.len() as u64);
        }
        let ends = offsets.windows(2).map(|w| (w[1] - w[0]) as u32).collect();
        let users = (0..USERS).map(|user| format!("u{user}")).collect();
        let mut behaviour =
            |i: usize| (0..6).map(|c| ((i % 12 + c * c) as f64).sin() as f32 + 0.1 * rng.normal() as f32).collect();
        let collaborative: Vec<Vec<f32>> = (0..count).map(&mut behaviour).collect();
        Self {
            vectors,
            ids: (0..count).map(|i| ItemId::from(format!("item-{i}"))).collect(),
            categories: (0..count).map(path).collect(),
            domains: (0..count).map(|i| (i % 3) as u32).collect(),
            collaborative: Embeddings::new(count, 6, collaborative.concat()).unwrap(),
            histories: Histories::new(users, offsets, events, None, None).unwrap(),
            ends,
        }
    }

    fn items(&self) -> TrainingItems<'_> {
        TrainingItems {
            vectors: &self.vectors,
            ids: Some(&self.ids),
            categories: Some(&self.categories),
            domains: Some(&self.domains),
            collaborative: Some(&self.collaborative),
            histories: Some(TrainingHistories::new(&self.histories, &self.ends)),
        }
    }

    /// The items with other vectors.
    fn with(self, values: Vec<f32>) -> Self {
        let vectors = Embeddings::new(self.vectors.rows(), WIDTH, values).unwrap();
        Self { vectors, ..self }
    }

    fn encode(&self, tokenizer: &ItemTokenizer) -> SemanticIds {
        tokenizer.encode_items(&self.ids, &self.vectors).unwrap()
    }
}

/// The vectors of all items, [ITEMS, WIDTH].
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

/// A method's defaults, with the size of its training cut down where it has one.
fn config(name: &str, codes: &[u32]) -> TokenizerConfig {
    let config = TokenizerConfig::with_defaults(name, sizes(name, codes)).unwrap();
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

/// The sizes nearest to `codes` that a method can have: vq has one level, the codes of lfq are bits, and tables give
/// every item a semantic ID of its own, so their last level must have room.
fn sizes(name: &str, codes: &[u32]) -> Vec<u32> {
    let mut codes = codes.to_vec();
    if name == "vq" {
        codes.truncate(1);
    }
    if name == "lfq" {
        codes.iter_mut().for_each(|codes| *codes = codes.next_power_of_two());
    }
    if let Some(last) = codes.last_mut().filter(|_| lists_items(name)) {
        *last = 400;
    }
    codes
}

fn lists_items(name: &str) -> bool {
    TokenizerConfig::with_defaults(name, vec![4]).unwrap().lists_items()
}

fn quantizers() -> impl Iterator<Item = &'static Method> {
    TOKENIZERS.iter().filter(|method| !lists_items(method.name))
}

fn tables() -> impl Iterator<Item = &'static Method> {
    TOKENIZERS.iter().filter(|method| lists_items(method.name))
}

fn train_on(world: &World, name: &str, codes: &[u32]) -> ItemTokenizer {
    let config = config(name, &sizes(name, codes));
    ItemTokenizer::train_with(&config, &world.items(), &Training::new(5, &NoProgress)).unwrap()
}

fn train(name: &str, codes: &[u32], threads: usize) -> ItemTokenizer {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| train_on(&World::of(ITEMS), name, codes))
}

/// Names and bytes of all files of a tokenizer.
fn saved_bytes(tokenizer: &ItemTokenizer, dir: &Path) -> Vec<(String, Vec<u8>)> {
    tokenizer.save(dir).unwrap();
    let mut files: Vec<(String, Vec<u8>)> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap()))
        .collect();
    files.sort();
    assert_eq!(files.len(), 2);
    files
}

#[test]
fn every_method_gives_codes_below_its_sizes_and_respects_each_level() {
    for method in TOKENIZERS {
        let tokenizer = train(method.name, &[16, 7, 3], 1);
        let codes = sizes(method.name, &[16, 7, 3]);
        assert_eq!(tokenizer.codes_per_level(), codes, "{}", method.name);
        let ids = World::of(ITEMS).encode(&tokenizer);
        assert_eq!((ids.len(), ids.levels()), (ITEMS, codes.len()), "{}", method.name);
        ids.check_codes(&codes).unwrap();
    }
}

#[test]
fn every_method_comes_back_from_disk_the_same() {
    let world = World::of(ITEMS);
    for method in TOKENIZERS {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let tokenizer = train(method.name, &[8, 8], 1);
        let bytes = saved_bytes(&tokenizer, one.path());
        let again = ItemTokenizer::load(one.path()).unwrap();
        assert_eq!(world.encode(&again), world.encode(&tokenizer), "{}", method.name);
        assert_eq!(again.description(), tokenizer.description());
        assert!(saved_bytes(&again, two.path()) == bytes, "{}", method.name);
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
        let world = World::of(ITEMS);
        let together = world.encode(&tokenizer);
        let mut alone = Vec::new();
        for (start, end) in [(0, 1), (1, 2), (2, 100), (100, 257), (257, ITEMS)] {
            let values = world.vectors.values()[start * WIDTH..end * WIDTH].to_vec();
            let part = Embeddings::new(end - start, WIDTH, values).unwrap();
            alone.extend_from_slice(tokenizer.encode_items(&world.ids[start..end], &part).unwrap().codes());
        }
        assert_eq!(SemanticIds::new(together.levels(), alone).unwrap(), together, "{}", method.name);
    }
}

#[test]
fn every_method_trains_on_fewer_items_than_codes_and_on_one_item() {
    for method in TOKENIZERS {
        for count in [1, 5] {
            let few = World::of(count);
            let tokenizer = train_on(&few, method.name, &[64, 64]);
            assert_eq!(few.encode(&tokenizer).len(), count, "{}", method.name);
            if let Ok(quantizer) = tokenizer.quantizer() {
                assert!(quantizer.codebook(0).iter().all(|v| v.is_finite()), "{}", method.name);
            }
        }
    }
}

#[test]
fn every_method_takes_items_with_a_column_that_is_always_the_same() {
    for method in TOKENIZERS {
        let mut values = clustered().into_values();
        values.iter_mut().skip(3).step_by(WIDTH).for_each(|v| *v = 7.5);
        let world = World::of(ITEMS).with(values);
        let tokenizer = train_on(&world, method.name, &[16, 8]);
        let ids = world.encode(&tokenizer);
        let distinct: HashSet<&[u16]> = ids.rows().collect();
        assert!(distinct.len() > 8, "{} gives {} semantic IDs", method.name, distinct.len());
        if let Ok(quantizer) = tokenizer.quantizer() {
            let back = quantizer.reconstruct(&ids).unwrap();
            assert!(back.values().iter().all(|v| v.is_finite()), "{}", method.name);
            // A new item that differs in this column alone is no fault either.
            let mut other = world.vectors.row(0).to_vec();
            other[3] = -7.5;
            let other = Embeddings::new(1, WIDTH, other).unwrap();
            tokenizer.encode(&other).unwrap().check_codes(tokenizer.codes_per_level()).unwrap();
        }
    }
}

#[test]
fn every_method_takes_fewer_different_items_than_codes() {
    const DIFFERENT: usize = 5;
    for method in TOKENIZERS {
        let few = &clustered().values()[..DIFFERENT * WIDTH].to_vec();
        let world = World::of(40).with((0..40 / DIFFERENT).flat_map(|_| few.clone()).collect());
        let tokenizer = train_on(&world, method.name, &[64, 64]);
        let ids = world.encode(&tokenizer);
        ids.check_codes(tokenizer.codes_per_level()).unwrap();
        let Ok(quantizer) = tokenizer.quantizer() else {
            let distinct: HashSet<&[u16]> = ids.rows().collect();
            assert!(distinct.len() == 40 || method.name == "random", "{}: lists tell equal items apart", method.name);
            continue;
        };
        for (item, row) in ids.rows().enumerate() {
            assert_eq!(row, ids.row(item % DIFFERENT), "{}: equal vectors, other codes", method.name);
        }
        assert!((0..ids.levels()).all(|level| quantizer.codebook(level).iter().all(|v| v.is_finite())));
        // k-means has a codeword for each of them.
        if ["rq-kmeans", "vq", "pq", "opq"].contains(&method.name) {
            let (back, rows) = (quantizer.reconstruct(&ids).unwrap(), tokenizer.prepare(&world.vectors).unwrap());
            let furthest = back.values().iter().zip(rows.values()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(furthest < 1e-3, "{}: off by {furthest}", method.name);
        }
    }
}

#[test]
fn every_method_is_named_once_and_reads_its_own_defaults() {
    for (i, method) in TOKENIZERS.iter().enumerate() {
        assert!(TOKENIZERS[..i].iter().all(|other| other.name != method.name));
        assert!(!method.paper.is_empty());
        let codes = sizes(method.name, &[32, 16]);
        let config = TokenizerConfig::with_defaults(method.name, codes.to_vec()).unwrap();
        assert_eq!((config.name(), config.codes()), (method.name, &codes[..]));
        let json = serde_json::to_value(&config).unwrap();
        assert_eq!(serde_json::from_value::<TokenizerConfig>(json).unwrap(), config);
        let misspelt = serde_json::json!({ method.name: { "codez": [256] } });
        let error = serde_json::from_value::<TokenizerConfig>(misspelt).unwrap_err().to_string();
        assert!(error.contains("codez"), "{error}");
    }
}

#[test]
fn every_quantizer_needs_nothing_but_vectors() {
    let vectors = clustered();
    for method in quantizers() {
        let tokenizer = ItemTokenizer::train(&config(method.name, &[8, 8]), &vectors, 5, &NoProgress).unwrap();
        assert_eq!(tokenizer.encode(&vectors).unwrap(), World::of(ITEMS).encode(&tokenizer), "{}", method.name);
    }
}

#[test]
fn every_quantizer_reconstructs_what_it_says_and_leaves_less_after_each_level() {
    for method in quantizers() {
        let tokenizer = train(method.name, &[12, 8, 8], 1);
        let quantizer = tokenizer.quantizer().unwrap();
        let rows = tokenizer.prepare(&clustered()).unwrap();
        let ids = tokenizer.encode(&clustered()).unwrap();
        // Codes that do not refine one another have no residuals.
        if let Some(energy) = quantizer.residual_energy(&rows, &ids).unwrap() {
            assert!(energy.windows(2).all(|w| w[1] < w[0]), "{}: {energy:?}", method.name);
            assert_eq!(energy.len(), ids.levels() + 1, "{}", method.name);
        }
        let back = quantizer.reconstruct(&ids).unwrap();
        let width = rows.width();
        let mean: Vec<f32> =
            (0..width).map(|at| (0..ITEMS).map(|i| rows.row(i)[at]).sum::<f32>() / ITEMS as f32).collect();
        let squares = |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum() };
        let error: f64 = (0..ITEMS).map(|i| squares(rows.row(i), back.row(i))).sum();
        let spread: f64 = (0..ITEMS).map(|i| squares(rows.row(i), &mean)).sum();
        assert!(error < 0.5 * spread, "{} is little better than the mean: {error} of {spread}", method.name);
    }
}

#[test]
fn every_quantizer_names_both_widths_when_they_differ() {
    for method in quantizers() {
        let other = Embeddings::new(1, WIDTH + 1, vec![0.0; WIDTH + 1]).unwrap();
        let error = train(method.name, &[4], 1).encode(&other).unwrap_err().to_string();
        assert!(
            error.contains("20") && error.contains("21") && error.contains("same") | error.contains("model"),
            "{error}"
        );
    }
}

#[test]
fn every_table_names_what_it_lacks_and_items_that_it_does_not_know() {
    let world = World::of(ITEMS);
    for method in tables() {
        let config = config(method.name, &sizes(method.name, &[8, 8]));
        let error = ItemTokenizer::train(&config, &world.vectors, 5, &NoProgress).unwrap_err().to_string();
        assert!(error.contains(method.name) && error.contains("item ids"), "{error}");
        let tokenizer = train(method.name, &[8, 8], 1);
        let unknown = [world.ids[3].clone(), ItemId::from("nobody's")];
        let two = Embeddings::new(2, WIDTH, vec![0.0; 2 * WIDTH]).unwrap();
        let error = tokenizer.encode_items(&unknown, &two).unwrap_err().to_string();
        assert!(error.contains("nobody's"), "{error}");
        assert!(tokenizer.encode(&two).unwrap_err().to_string().contains(method.name));
    }
}

#[test]
fn every_table_takes_new_items_and_moves_no_old_ones() {
    let (before, after) = (World::of(250), World::of(ITEMS));
    for method in tables() {
        let mut tokenizer = train_on(&before, method.name, &[8, 8]);
        let old = before.encode(&tokenizer);
        let all = tokenizer.extend_items(&after.items()).unwrap();
        assert_eq!(&all.codes()[..old.codes().len()], old.codes(), "{}", method.name);
        assert_eq!(all.len(), ITEMS);
        let mut distinct: Vec<&[u16]> = all.rows().collect();
        distinct.sort_unstable();
        distinct.dedup();
        assert!(distinct.len() == ITEMS || method.name == "random", "{}", method.name);
        assert_eq!(tokenizer.extend_items(&after.items()).unwrap(), all, "{}", method.name);
        let dir = tempfile::tempdir().unwrap();
        tokenizer.save(dir.path()).unwrap();
        assert_eq!(after.encode(&ItemTokenizer::load(dir.path()).unwrap()), all, "{}", method.name);
    }
}

#[test]
fn every_quantizer_gives_new_items_what_their_vectors_say() {
    let (before, after) = (World::of(250), World::of(ITEMS));
    for method in quantizers() {
        let mut tokenizer = train_on(&before, method.name, &[8, 8]);
        let all = tokenizer.extend_items(&after.items()).unwrap();
        assert_eq!(all, after.encode(&tokenizer), "{}", method.name);
        assert_eq!(&all.codes()[..250 * all.levels()], before.encode(&tokenizer).codes(), "{}", method.name);
    }
}

#[test]
fn every_quantizers_codes_are_the_nearest_of_what_its_levels_see() {
    for method in quantizers() {
        let tokenizer = train(method.name, &[12, 8, 6], 1);
        let (quantizer, ids) = (tokenizer.quantizer().unwrap(), tokenizer.encode(&clustered()).unwrap());
        let latents = quantizer.latents(&tokenizer.prepare(&clustered()).unwrap()).unwrap();
        let books: Vec<(&[f32], usize)> = tokenizer
            .codes_per_level()
            .iter()
            .enumerate()
            .map(|(level, &codes)| (quantizer.codebook(level), quantizer.codebook(level).len() / codes as usize))
            .collect();
        for (item, codes) in ids.rows().enumerate() {
            let mut left = latents.row(item).to_vec();
            for (&code, &(book, width)) in codes.iter().zip(&books) {
                let seen = &left[..width];
                let distance = |codeword: &[f32]| -> f64 {
                    codeword.iter().zip(seen).map(|(c, v)| f64::from(c - v).powi(2)).sum()
                };
                let own = &book[usize::from(code) * width..][..width];
                let least = book.chunks_exact(width).map(distance).fold(f64::INFINITY, f64::min);
                assert!(distance(own) <= least * (1.0 + 1e-4) + 1e-6, "{}, item {item}", method.name);
                match quantizer.levels_see() {
                    LevelsSee::SubVectors => _ = left.drain(..width),
                    LevelsSee::Residuals { normalised } => {
                        assert!(!normalised, "{}: the defaults have been changed", method.name);
                        left.iter_mut().zip(own).for_each(|(v, c)| *v -= c);
                    }
                    LevelsSee::SomethingElse => panic!("{} cannot be repaired", method.name),
                }
            }
        }
    }
}

#[test]
fn every_quantizers_collisions_are_repaired_whatever_the_order_of_items_and_the_threads() {
    let world = World::of(ITEMS);
    let mut order: Vec<usize> = (0..ITEMS).collect();
    Rng::new(1, "order").shuffle(&mut order);
    let ids: Vec<ItemId> = order.iter().map(|&item| world.ids[item].clone()).collect();
    let values = order.iter().flat_map(|&item| world.vectors.row(item)).copied().collect();
    let shuffled = Embeddings::new(ITEMS, WIDTH, values).unwrap();
    for method in quantizers() {
        let name = method.name;
        let tokenizer = train(name, &[4, 4, 16], 1);
        let sids = tokenizer.encode(&world.vectors).unwrap();
        let codes = *tokenizer.codes_per_level().last().unwrap() as usize;
        let levels = sids.levels();
        let distinct = |sids: &SemanticIds| sids.rows().collect::<HashSet<_>>().len();
        assert!(distinct(&sids) < ITEMS, "{name} has no collisions to repair");
        for policy in [CollisionPolicy::NearestFree, CollisionPolicy::Sinkhorn, CollisionPolicy::Balanced] {
            let with = |threads: usize, ids: &[ItemId], vectors: &Embeddings| -> Repaired {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| repair(&tokenizer, policy, ids, vectors, &tokenizer.encode(vectors).unwrap()).unwrap())
            };
            let done = with(1, &world.ids, &world.vectors);
            let told = format!("{name}, {}", policy.name());
            assert_eq!(done.record.left_over, ITEMS - distinct(&done.sids), "{told}");
            done.sids.check_codes(tokenizer.codes_per_level()).unwrap();
            if policy == CollisionPolicy::Balanced {
                for (level, &k) in tokenizer.codes_per_level().iter().enumerate() {
                    let mut shares = vec![0; k as usize];
                    done.sids.rows().for_each(|row| shares[usize::from(row[level])] += 1);
                    let even = ITEMS / k as usize;
                    assert!(shares.iter().all(|&n| (even - 1..=even + 1).contains(&n)), "{told}: {shares:?}");
                }
            } else {
                let all: u32 = tokenizer.codes_per_level().iter().product();
                assert!(distinct(&done.sids) > distinct(&sids).min(all as usize - 1), "{told} parts nothing");
                assert!(done.sids.rows().zip(sids.rows()).all(|(new, old)| new[..levels - 1] == old[..levels - 1]));
            }
            if policy == CollisionPolicy::NearestFree {
                // What is left over stands under prefixes of which every code is in use.
                let mut below: HashMap<&[u16], (usize, HashSet<u16>)> = HashMap::new();
                for row in done.sids.rows() {
                    let entry = below.entry(&row[..levels - 1]).or_default();
                    entry.0 += 1;
                    entry.1.insert(row[levels - 1]);
                }
                assert!(below.values().all(|(items, used)| used.len() == (*items).min(codes)), "{told}");
            }
            assert_eq!(with(4, &world.ids, &world.vectors), done, "{told}, 4 threads");
            let again = with(2, &ids, &shuffled);
            assert_eq!(again.record, done.record, "{told}, another order");
            let same = order.iter().enumerate().all(|(at, &item)| again.sids.row(at) == done.sids.row(item));
            assert!(same, "{told}, another order");
        }
    }
}

#[test]
fn methods_fitted_on_seen_items_do_not_know_the_others() {
    let world = World::of(ITEMS);
    // Users have had the first 100 items only; what the others look like makes no difference to the codebooks.
    let events: Vec<u32> = (0..100).collect();
    let histories = Histories::new(vec!["u".to_owned()], vec![0, 100], events, None, None).unwrap();
    let mut values = world.vectors.values().to_vec();
    values[100 * WIDTH..].iter_mut().for_each(|v| *v = 50.0 - 3.0 * *v);
    let others = Embeddings::new(ITEMS, WIDTH, values).unwrap();
    for name in ["rq-kmeans", "pq", "opq"] {
        let config = |fit: &str| -> TokenizerConfig {
            serde_json::from_value(serde_json::json!({ name: { "codes": [8, 8], "fit": fit } })).unwrap()
        };
        let codebooks = |fit: &str, vectors: &Embeddings| -> Vec<f32> {
            let histories = Some(TrainingHistories::new(&histories, &[100]));
            let items = TrainingItems { histories, ..TrainingItems::new(vectors) };
            let tokenizer = ItemTokenizer::train_with(&config(fit), &items, &Training::new(5, &NoProgress)).unwrap();
            assert_eq!(tokenizer.encode(vectors).unwrap().len(), ITEMS);
            tokenizer.quantizer().unwrap().arrays().into_iter().flat_map(|array| array.values).collect()
        };
        assert_eq!(codebooks("seen", &world.vectors), codebooks("seen", &others), "{name}");
        assert_ne!(codebooks("all", &world.vectors), codebooks("all", &others), "{name}");
        let alone = ItemTokenizer::train(&config("seen"), &world.vectors, 5, &NoProgress).unwrap_err().to_string();
        assert!(alone.contains(name) && alone.contains("training histories"), "{alone}");
    }
}
