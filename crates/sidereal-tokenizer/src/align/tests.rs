#![allow(clippy::unwrap_used)]

use candle_core::{Device, Tensor, Var};
use sidereal_core::Histories;

use super::*;
use crate::training_items::TrainingHistories;

const ITEMS: usize = 12;
const WIDTH: usize = 4;

/// Twelve items with collaborative vectors (item 5 has none), two domains and some histories.
struct World {
    vectors: Embeddings,
    behaviour: Embeddings,
    domains: Vec<u32>,
    histories: Histories,
}

fn noise(count: usize, seed: u64) -> Vec<f32> {
    let mut rng = Rng::new(seed, "noise");
    (0..count).map(|_| rng.normal() as f32).collect()
}

impl World {
    fn new(width: usize) -> Self {
        let mut behaviour = noise(ITEMS * width, 1);
        behaviour[5 * width..6 * width].fill(0.0);
        let events = vec![0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 2, 4, 1, 3, 7, 9, 0, 6, 2, 8, 3, 10, 1, 5];
        let users = ["u", "v", "w", "x"].map(str::to_owned).to_vec();
        Self {
            vectors: Embeddings::new(ITEMS, 1, (0..ITEMS).map(|item| item as f32).collect()).unwrap(),
            behaviour: Embeddings::new(ITEMS, width, behaviour).unwrap(),
            domains: (0..ITEMS as u32).map(|i| if i == 7 { 2 } else { i % 2 }).collect(),
            histories: Histories::new(users, vec![0, 6, 12, 18, 24], events, None, None).unwrap(),
        }
    }

    fn items(&self) -> TrainingItems<'_> {
        TrainingItems {
            collaborative: Some(&self.behaviour),
            domains: Some(&self.domains),
            histories: Some(TrainingHistories::new(&self.histories, &[6; 4])),
            ..TrainingItems::new(&self.vectors)
        }
    }
}

fn aligner<'a>(config: &AlignConfig, world: &'a World) -> (Aligner<'a>, Params) {
    let mut params = Params::new(&Device::Cpu);
    let made = Aligner::new(config, &world.items(), WIDTH, &mut params, &mut Rng::new(2, "align")).unwrap();
    (made.unwrap(), params)
}

/// The loss of a batch of latents, those of users behind those of items, and its gradient.
fn loss_of(aligner: &Aligner<'_>, items: &[usize], users: Option<&DrawnUsers>, latents: &[f32]) -> (f64, Vec<f32>) {
    let rows = latents.len() / WIDTH;
    let all = Var::from_slice(latents, (rows, WIDTH), &Device::Cpu).unwrap();
    let part = |start: usize, end: usize| all.narrow(0, start, end - start).unwrap();
    let (quantized, of_users) = (part(0, items.len()), users.map(|_| part(items.len(), rows)));
    let users = users.zip(of_users.as_ref());
    let loss = aligner.loss(&AlignedBatch { items, users, quantized: &quantized, codes: &[], codebooks: &[] }).unwrap();
    let gradients = loss.backward().unwrap();
    let gradient = gradients.get(&all).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    (f64::from(loss.to_scalar::<f32>().unwrap()), gradient)
}

/// Holds a loss and its gradient against a plain f64 function of the latents.
fn check(aligner: &Aligner<'_>, items: &[usize], brute_force: &dyn Fn(&[f64]) -> f64) {
    check_beside(aligner, items, None, brute_force);
}

/// The same of a batch with users.
fn check_beside(
    aligner: &Aligner<'_>,
    items: &[usize],
    users: Option<&DrawnUsers>,
    brute_force: &dyn Fn(&[f64]) -> f64,
) {
    let latents = noise((items.len() + users.map_or(0, |drawn| drawn.users.len())) * WIDTH, 8);
    let (found, gradient) = loss_of(aligner, items, users, &latents);
    let exact: Vec<f64> = latents.iter().map(|&v| f64::from(v)).collect();
    let want = brute_force(&exact);
    assert!((found - want).abs() < 1e-5 * want.abs().max(1.0), "{found} and {want}");
    assert!(gradient.iter().any(|g| g.abs() > 1e-4), "no gradient: {gradient:?}");
    for at in 0..exact.len() {
        let moved = |by: f64| {
            let mut moved = exact.clone();
            moved[at] += by;
            brute_force(&moved)
        };
        let slope = (moved(1e-5) - moved(-1e-5)) / 2e-5;
        assert!(
            (f64::from(gradient[at]) - slope).abs() < 1e-4 * slope.abs().max(1.0),
            "{at}: {} {slope}",
            gradient[at]
        );
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

fn row(values: &[f64], i: usize) -> &[f64] {
    &values[i * WIDTH..(i + 1) * WIDTH]
}

/// Mean over queries of -log softmax of the first score among all.
fn mean_likelihood(queries: Vec<(f64, Vec<f64>)>) -> f64 {
    let count = queries.len() as f64;
    let one = |(own, others): (f64, Vec<f64>)| (own.exp() + others.iter().map(|s| s.exp()).sum::<f64>()).ln() - own;
    queries.into_iter().map(one).sum::<f64>() / count
}

fn behaviour(world: &World, item: usize) -> Vec<f64> {
    world.behaviour.row(item).iter().map(|&v| f64::from(v)).collect()
}

#[test]
fn the_collaborative_loss_equals_its_definition() {
    let world = World::new(WIDTH);
    let config = AlignConfig { letter: Some(LetterConfig { weight: 0.3 }), ..AlignConfig::default() };
    let (aligner, _) = aligner(&config, &world);
    // Item 5 has no vector, item 3 is there twice.
    let items = [3, 1, 5, 0, 3, 9];
    check(&aligner, &items, &|z| {
        let kept: Vec<usize> = (0..6).filter(|&i| items[i] != 5).collect();
        let score = |i: usize, j: usize| dot(row(z, i), &behaviour(&world, items[j]));
        let others = |i: usize| kept.iter().filter(|&&j| items[j] != items[i]).map(|&j| score(i, j)).collect();
        0.3 * mean_likelihood(kept.iter().map(|&i| (score(i, i), others(i))).collect())
    });
}

#[test]
fn dual_contrasts_of_items_equal_their_definition() {
    let world = World::new(WIDTH);
    let das = DasConfig { weight: 0.5, temperature: 0.2, pairs: vec![PairKind::ItemItem], ..DasConfig::default() };
    let (aligner, _) = aligner(&AlignConfig { das: Some(das), ..AlignConfig::default() }, &world);
    let items = [0, 1, 2, 5, 7];
    let (extended, beside) = aligner.extend_batch(&items, &mut Rng::new(1, "batch"));
    assert!(extended == items && beside.is_none());
    check(&aligner, &items, &|z| {
        let kept = [0, 1, 2, 4];
        let score = |i: usize, j: usize| cosine(row(z, i), &behaviour(&world, items[j])) / 0.2;
        let forward = |i: usize| kept.iter().filter(|&&j| j != i).map(|&j| score(i, j)).collect();
        let backward = |i: usize| kept.iter().filter(|&&j| j != i).map(|&j| score(j, i)).collect();
        let first = mean_likelihood(kept.iter().map(|&i| (score(i, i), forward(i))).collect());
        let second = mean_likelihood(kept.iter().map(|&i| (score(i, i), backward(i))).collect());
        0.5 * (first + second)
    });
}

#[test]
fn dual_contrasts_of_partners_equal_their_definition() {
    let world = World::new(WIDTH);
    let das = DasConfig { weight: 1.0, temperature: 0.5, pairs: vec![PairKind::CoOccurrence], ..DasConfig::default() };
    let (aligner, _) = aligner(&AlignConfig { das: Some(das), ..AlignConfig::default() }, &world);
    let items = [0, 3, 6, 11, 8];
    let (extended, _) = aligner.extend_batch(&items, &mut Rng::new(1, "batch"));
    assert_eq!((extended.len(), &extended[..5]), (10, &items[..]));
    let (a, b) = extended.split_at(5);
    assert_eq!(b[3], 11, "nobody has item 11");
    assert!((0..5).filter(|&i| i != 3).all(|i| a[i] != b[i]));
    check(&aligner, &extended, &|z| {
        let negative = |i: usize, j: usize| b[j] != b[i] && b[j] != a[i];
        let contrast = |score: &dyn Fn(usize, usize) -> f64, known: &dyn Fn(usize) -> usize| {
            let kept: Vec<usize> = (0..5).filter(|&i| a[i] != b[i] && known(i) != 5).collect();
            let others =
                |i: usize| kept.iter().filter(|&&j| j != i && negative(i, j)).map(|&j| score(i, j)).collect::<Vec<_>>();
            mean_likelihood(kept.iter().map(|&i| (score(i, i), others(i))).collect())
        };
        let forward = |i: usize, j: usize| cosine(row(z, i), &behaviour(&world, b[j])) / 0.5;
        let backward = |i: usize, j: usize| cosine(&behaviour(&world, a[i]), row(z, 5 + j)) / 0.5;
        contrast(&forward, &|i| b[i]) + contrast(&backward, &|i| a[i])
    });
    let odd = Tensor::zeros((3, WIDTH), candle_core::DType::F32, &Device::Cpu).unwrap();
    let batch = AlignedBatch { items: &[0, 1, 2], users: None, quantized: &odd, codes: &[], codebooks: &[] };
    assert!(aligner.loss(&batch).unwrap_err().to_string().contains("3 rows"));
}

/// An aligner of one kind of pair with users, a batch of items that it drew users for, and these.
fn drawn<'a>(kind: PairKind, world: &'a World) -> (Aligner<'a>, Vec<usize>, DrawnUsers) {
    let das = DasConfig { weight: 1.0, temperature: 0.5, pairs: vec![kind], ..DasConfig::default() };
    let (aligner, _) = aligner(&AlignConfig { das: Some(das), ..AlignConfig::default() }, world);
    // Nobody has item 11, and item 5 has no collaborative vector.
    let (items, beside) = aligner.extend_batch(&[0, 7, 11, 2, 5, 8, 4], &mut Rng::new(3, "batch"));
    let Beside { drawn, vectors } = beside.unwrap();
    assert_eq!((items.len(), &drawn.had[..]), (7, &[true, true, false, true, true, true, true][..]));
    // The means of the vectors of their items, which are the items' numbers.
    let means: Vec<f32> = drawn.users.iter().map(|&user| ([15.0, 36.0, 26.0, 29.0][user] / 6.0f64) as f32).collect();
    assert_eq!(vectors, means);
    (aligner, items, drawn)
}

/// A user's collaborative vector.
fn mean_behaviour(world: &World, user: usize) -> Vec<f64> {
    let items = world.histories.items_of(user);
    let mut mean = vec![0.0; WIDTH];
    for &item in items {
        mean.iter_mut().zip(behaviour(world, item as usize)).for_each(|(m, v)| *m += v / items.len() as f64);
    }
    mean
}

/// The contrast of those that count, where `score` says how much key j speaks for query i.
fn contrast_of(counts: &[usize], told_from: &dyn Fn(usize, usize) -> bool, score: &dyn Fn(usize, usize) -> f64) -> f64 {
    let others = |i: usize| counts.iter().filter(|&&j| j != i && told_from(i, j)).map(|&j| score(i, j)).collect();
    mean_likelihood(counts.iter().map(|&i| (score(i, i), others(i))).collect())
}

#[test]
fn dual_contrasts_of_items_and_users_equal_their_definition() {
    let world = World::new(WIDTH);
    let (aligner, items, drawn) = drawn(PairKind::UserItem, &world);
    check_beside(&aligner, &items, Some(&drawn), &|z| {
        let differ = |i: usize, j: usize| drawn.users[i] != drawn.users[j] && items[i] != items[j];
        let forward = |i: usize, j: usize| cosine(row(z, i), &mean_behaviour(&world, drawn.users[j])) / 0.5;
        let backward = |i: usize, j: usize| cosine(&behaviour(&world, items[i]), row(z, 7 + j)) / 0.5;
        contrast_of(&[0, 1, 3, 4, 5, 6], &differ, &forward) + contrast_of(&[0, 1, 3, 5, 6], &differ, &backward)
    });
}

#[test]
fn dual_contrasts_of_users_equal_their_definition() {
    let world = World::new(WIDTH);
    let (aligner, items, drawn) = drawn(PairKind::UserUser, &world);
    check_beside(&aligner, &items, Some(&drawn), &|z| {
        let differ = |i: usize, j: usize| drawn.users[i] != drawn.users[j];
        let forward = |i: usize, j: usize| cosine(row(z, 7 + i), &mean_behaviour(&world, drawn.users[j])) / 0.5;
        let backward = |i: usize, j: usize| forward(j, i);
        let counts = [0, 1, 3, 4, 5, 6];
        contrast_of(&counts, &differ, &forward) + contrast_of(&counts, &differ, &backward)
    });
}

#[test]
fn dual_contrasts_of_users_who_share_items_equal_their_definition() {
    let world = World::new(WIDTH);
    let (aligner, items, drawn) = drawn(PairKind::UserCoOccurrence, &world);
    let (a, b) = drawn.users.split_at(7);
    // Every user shares an item with another.
    assert!((0..7).all(|i| (a[i] != b[i]) == drawn.had[i]), "{a:?} {b:?}");
    check_beside(&aligner, &items, Some(&drawn), &|z| {
        let differ = |i: usize, j: usize| b[j] != b[i] && b[j] != a[i];
        let forward = |i: usize, j: usize| cosine(row(z, 7 + i), &mean_behaviour(&world, b[j])) / 0.5;
        let backward = |i: usize, j: usize| cosine(&mean_behaviour(&world, a[i]), row(z, 14 + j)) / 0.5;
        let counts = [0, 1, 3, 4, 5, 6];
        contrast_of(&counts, &differ, &forward) + contrast_of(&counts, &differ, &backward)
    });
}

#[test]
fn users_of_a_batch_are_needed_and_their_vectors_are_mapped_like_those_of_items() {
    let world = World::new(6);
    let das = DasConfig { pairs: vec![PairKind::UserUser], ..DasConfig::default() };
    let (aligner, params) = aligner(&AlignConfig { das: Some(das), ..AlignConfig::default() }, &world);
    let map = params.get("align.das.map").unwrap();
    assert_eq!(map.dims(), [WIDTH, 6]);
    // Nobody had both.
    let (items, beside) = aligner.extend_batch(&[4, 10], &mut Rng::new(1, "batch"));
    let drawn = beside.unwrap().drawn;
    let latents = Tensor::from_vec(noise(2 * WIDTH, 4), (2, WIDTH), &Device::Cpu).unwrap();
    let batch = |users| AlignedBatch { items: &items, users, quantized: &latents, codes: &[], codebooks: &[] };
    let gradients = aligner.loss(&batch(Some((&drawn, &latents)))).unwrap().backward().unwrap();
    let gradient = gradients.get(map).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert!(gradient.iter().any(|g| g.abs() > 1e-6), "{gradient:?}");
    assert!(aligner.loss(&batch(None)).unwrap_err().to_string().contains("no users"));
}

#[test]
fn the_contrast_of_domains_equals_its_definition() {
    let world = World::new(WIDTH);
    let config = AlignConfig { domain: Some(DomainConfig { weight: 2.0, temperature: 0.4 }), ..AlignConfig::default() };
    let (aligner, _) = aligner(&config, &world);
    // Item 7 is alone in its domain.
    let items = [0, 1, 2, 3, 7, 4];
    check(&aligner, &items, &|z| {
        let score = |i: usize, j: usize| cosine(row(z, i), row(z, j)) / 0.4;
        let mut losses = Vec::new();
        for i in (0..6).filter(|&i| items[i] != 7) {
            let all: f64 = (0..6).filter(|&j| j != i).map(|j| score(i, j).exp()).sum();
            let positives: Vec<usize> =
                (0..6).filter(|&j| j != i && world.domains[items[j]] == world.domains[items[i]]).collect();
            losses.push(positives.iter().map(|&j| all.ln() - score(i, j)).sum::<f64>() / positives.len() as f64);
        }
        2.0 * losses.iter().sum::<f64>() / losses.len() as f64
    });
}

#[test]
fn the_diversity_loss_equals_its_definition_and_moves_codebooks() {
    let world = World::new(WIDTH);
    let diversity = DiversityConfig { weight: 1.0, groups: 3 };
    let (mut aligner, _) = aligner(&AlignConfig { diversity: Some(diversity), ..AlignConfig::default() }, &world);
    // Groups of two make the positive certain.
    let mut codebook: Vec<f32> = noise(6 * WIDTH, 3).into_iter().map(|v| 0.2 * v).collect();
    codebook.chunks_exact_mut(2 * WIDTH).enumerate().for_each(|(pair, rows)| {
        rows[pair] += 2.0;
        rows[WIDTH + pair] += 2.0;
    });
    aligner.start_epoch(1, 0, &[codebook.clone()]).unwrap();
    let table = Var::from_slice(&codebook, (6, WIDTH), &Device::Cpu).unwrap();
    let codes = [Tensor::new(&[0u32, 3, 3], &Device::Cpu).unwrap()];
    let quantized = Tensor::zeros((3, WIDTH), candle_core::DType::F32, &Device::Cpu).unwrap();
    let batch = AlignedBatch {
        items: &[0, 1, 2],
        users: None,
        quantized: &quantized,
        codes: &codes,
        codebooks: &[table.as_tensor().clone()],
    };
    let loss = aligner.loss(&batch).unwrap();
    let exact: Vec<f64> = codebook.iter().map(|&v| f64::from(v)).collect();
    let score = |i: usize, j: usize| dot(row(&exact, i), row(&exact, j));
    let query = |code: usize, positive: usize| {
        (score(code, positive), (0..6).filter(|&j| j != code && j != positive).map(|j| score(code, j)).collect())
    };
    let want = mean_likelihood(vec![query(0, 1), query(3, 2), query(3, 2)]);
    assert!((f64::from(loss.to_scalar::<f32>().unwrap()) - want).abs() < 1e-3 * want.max(1.0));
    let gradients = loss.backward().unwrap();
    let gradient = gradients.get(&table).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert!(gradient.iter().all(|g| g.is_finite()) && gradient.iter().any(|&g| g != 0.0), "{gradient:?}");
}

#[test]
fn what_an_alignment_lacks_is_named_and_nothing_asked_for_is_nothing_made() {
    let world = World::new(WIDTH);
    let mut params = Params::new(&Device::Cpu);
    let mut rng = Rng::new(1, "align");
    let mut make = |config: &AlignConfig, items: &TrainingItems<'_>| {
        Aligner::new(config, items, WIDTH, &mut params, &mut rng).map(|made| made.is_some())
    };
    assert!(!make(&AlignConfig::default(), &world.items()).unwrap());
    let letter = AlignConfig { letter: Some(LetterConfig::default()), ..AlignConfig::default() };
    let das = AlignConfig { das: Some(DasConfig::default()), ..AlignConfig::default() };
    let domain = AlignConfig { domain: Some(DomainConfig::default()), ..AlignConfig::default() };
    let bare = TrainingItems::new(&world.vectors);
    for (config, words) in [(&letter, ["align.letter", "collaborative"]), (&domain, ["align.domain", "domains"])] {
        let error = make(config, &bare).unwrap_err().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    }
    let error = make(&das, &TrainingItems { histories: None, ..world.items() }).unwrap_err().to_string();
    assert!(error.contains("align.das") && error.contains("histories"), "{error}");
    let nothing = Embeddings::new(ITEMS, 2, vec![0.0; ITEMS * 2]).unwrap();
    let error = make(&letter, &TrainingItems { collaborative: Some(&nothing), ..world.items() });
    assert!(error.unwrap_err().to_string().contains("no item has"));
}

#[test]
fn impossible_settings_name_their_key_and_tables_come_back() {
    let config: AlignConfig = serde_json::from_value(serde_json::json!({
        "letter": { "weight": 0.02 }, "diversity": {}, "das": { "pairs": ["user-item"] }, "domain": {}
    }))
    .unwrap();
    config.check("rq-vae").unwrap();
    assert_eq!(config.letter, Some(LetterConfig { weight: 0.02 }));
    assert_eq!(config.das.as_ref().unwrap().pairs, [PairKind::UserItem]);
    assert_eq!(serde_json::from_value::<AlignConfig>(serde_json::to_value(&config).unwrap()).unwrap(), config);
    assert_eq!(serde_json::to_value(AlignConfig::default()).unwrap(), serde_json::json!({}));
    for (json, key) in [
        (serde_json::json!({ "letter": { "weight": -1.0 } }), "rq-vae.align.letter.weight"),
        (serde_json::json!({ "diversity": { "groups": 0 } }), "rq-vae.align.diversity.groups"),
        (serde_json::json!({ "das": { "temperature": 0.0 } }), "rq-vae.align.das.temperature"),
        (serde_json::json!({ "das": { "pairs": [] } }), "rq-vae.align.das.pairs"),
        (serde_json::json!({ "das": { "window": 0 } }), "rq-vae.align.das.window"),
        (serde_json::json!({ "das": { "debias": 2.0 } }), "rq-vae.align.das.debias"),
        (serde_json::json!({ "domain": { "temperature": -1.0 } }), "rq-vae.align.domain.temperature"),
    ] {
        let config: AlignConfig = serde_json::from_value(json).unwrap();
        assert!(config.check("rq-vae").unwrap_err().to_string().contains(key), "{key}");
    }
}
