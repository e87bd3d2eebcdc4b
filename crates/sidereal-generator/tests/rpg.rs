//! RPG: its scores against sums one by one, its three decodings against each other, its gradients, and its refusals.
#![allow(clippy::unwrap_used, missing_docs)]

use candle_core::Device;
use sidereal_core::catalog::Change;
use sidereal_core::{
    Catalog, CollisionPolicy, Embeddings, Histories, ItemId, ItemIndex, LeafFilter, NoProgress, SemanticIds, Split,
    SplitRule,
};
use sidereal_generator::models::ModelConfig;
use sidereal_generator::models::rpg::{Decoding, Pooling, RpgConfig};
use sidereal_generator::{
    Generator, GeneratorConfig, Materials, Network, Question, Row, TrainJob, TrainingConfig, train,
};
use sidereal_nn::rng::Rng;

const LEVELS: usize = 16;
const CODES: u32 = 8;
const NOBODY: [ItemIndex; 0] = [];

/// Items whose codes are drawn, so that all levels tell items apart.
fn catalog_of(items: usize, levels: usize, codes: u32) -> Catalog {
    let mut rng = Rng::new(7, "catalog");
    let ids: Vec<ItemId> = (0..items).map(|i| ItemId::from(format!("item {i}"))).collect();
    let sids = (0..items * levels).map(|_| rng.below(codes as usize) as u16).collect();
    let sids = SemanticIds::new(levels, sids).unwrap();
    Catalog::build(&ids, &sids, &vec![codes; levels], CollisionPolicy::Postings, None).unwrap()
}

fn vectors_of(items: usize) -> Embeddings {
    let mut rng = Rng::new(8, "vectors");
    Embeddings::new(items, 6, (0..items * 6).map(|_| rng.normal() as f32).collect()).unwrap()
}

fn config() -> RpgConfig {
    RpgConfig {
        d_model: 16,
        d_ff: 24,
        heads: 2,
        layers: 2,
        dropout: 0.1,
        max_history: 5,
        temperature: 0.2,
        item_loss: 0.0,
        item_negatives: 0,
        graph_beams: 8,
        graph_edges: 10,
        graph_steps: 3,
        ..RpgConfig::default()
    }
}

/// A network whose parameters are all drawn, heads too, so that nothing is in its first place any more.
fn network(config: &RpgConfig, materials: &Materials<'_>) -> Box<dyn Network> {
    let network = config.build(materials, 3).unwrap();
    let mut rng = Rng::new(9, "moved");
    for (_, var) in network.params().vars() {
        let noise = (0..var.elem_count()).map(|_| rng.normal() as f32 * 0.2).collect::<Vec<_>>();
        let noise = candle_core::Tensor::from_vec(noise, var.dims(), &Device::Cpu).unwrap();
        var.set(&(var.as_tensor() + noise).unwrap()).unwrap();
    }
    network
}

#[test]
fn every_parameter_gets_a_gradient_that_is_not_zero() {
    let catalog = catalog_of(40, LEVELS, CODES);
    let vectors = vectors_of(40);
    let materials = Materials { vectors: Some(&vectors), ..Materials::of_catalog(&catalog, &Device::Cpu) };
    let items: Vec<ItemIndex> = (0..40).collect();
    let rows = [
        Row { user: 1, items: &items[..6] },
        Row { user: 2, items: &items[5..9] },
        Row { user: 3, items: &items[8..40] },
    ];
    let whole = RpgConfig { item_vectors: true, item_embedding: true, item_loss: 0.5, repeats: true, ..config() };
    let configs = [
        whole.clone(),
        RpgConfig { cosine: false, temperature: 1.0, pooling: Pooling::Sum, item_negatives: 7, ..whole },
        config(),
    ];
    for config in configs {
        // Even the first weights, where all heads are zeros; 0.02 is small, so gradients may be too.
        for network in [config.build(&materials, 3).unwrap(), network(&config, &materials)] {
            let grads = network.loss(&rows, Some(5)).unwrap().backward().unwrap();
            for (name, var) in network.params().vars() {
                let gradient = grads.get(var).unwrap_or_else(|| panic!("{name} has no gradient"));
                let size: f32 = gradient.abs().unwrap().sum_all().unwrap().to_scalar().unwrap();
                assert!(size > 0.0 && size.is_finite(), "{name}: {size}");
            }
        }
    }
}

#[test]
fn gradients_are_the_slopes_of_the_loss() {
    let catalog = catalog_of(40, LEVELS, CODES);
    let vectors = vectors_of(40);
    let materials = Materials { vectors: Some(&vectors), ..Materials::of_catalog(&catalog, &Device::Cpu) };
    let items: Vec<ItemIndex> = (0..12).collect();
    let rows = [Row { user: 1, items: &items[..6] }, Row { user: 2, items: &items[5..9] }];
    let config = RpgConfig { item_vectors: true, item_embedding: true, item_loss: 0.5, repeats: true, ..config() };
    let network = network(&config, &materials);
    let loss = || f64::from(network.loss(&rows, None).unwrap().to_scalar::<f32>().unwrap());
    let grads = network.loss(&rows, None).unwrap().backward().unwrap();
    for (name, var) in network.params().vars() {
        let before = var.as_tensor().copy().unwrap();
        let gradient = grads.get(var).unwrap();
        let size = gradient.sqr().unwrap().sum_all().unwrap().sqrt().unwrap().to_scalar::<f32>().unwrap();
        // Along the gradient the slope is the gradient's length.
        let moved = |by: f64| {
            var.set(&(&before + (gradient * (by / f64::from(size))).unwrap()).unwrap()).unwrap();
            loss()
        };
        let slope = (moved(1e-2) - moved(-1e-2)) / 2e-2;
        var.set(&before).unwrap();
        assert!((slope - f64::from(size)).abs() < 0.02 * f64::from(size) + 2e-4, "{name}: {slope} is not {size}");
    }
}

#[test]
fn exact_scores_are_sums_over_codes_that_add_up_to_one() {
    let catalog = catalog_of(200, LEVELS, CODES);
    let materials = Materials::of_catalog(&catalog, &Device::Cpu);
    let exact = network(&config(), &materials).ranker(&materials).unwrap();
    let trie = network(&RpgConfig { decoding: Decoding::Trie, ..config() }, &materials).ranker(&materials).unwrap();
    let filter = LeafFilter::allow_all();
    for history in [&[3, 7, 11][..], &[1], &[1, 2, 3, 4, 5, 6, 7, 8], &NOBODY] {
        let question = Question::new(history, &filter);
        let scores = exact.score_all(&catalog, &question).unwrap();
        let total: f64 = scores.iter().map(|score| f64::from(*score).exp()).sum();
        assert!((total - 1.0).abs() < 1e-4, "{total}");
        // The trie's scorer walks prefixes and adds one code after the other: another way to the same sums.
        let sums = trie.score_all(&catalog, &question).unwrap();
        let shift = f64::from(sums[0] - scores[0]);
        assert!(shift <= 0.0);
        for (score, sum) in scores.iter().zip(&sums) {
            assert!((f64::from(sum - score) - shift).abs() < 1e-3, "{score} {sum} {shift}");
        }
    }
}

#[test]
fn a_longer_history_than_the_model_sees_is_cut_to_its_end() {
    let catalog = catalog_of(50, LEVELS, CODES);
    let materials = Materials::of_catalog(&catalog, &Device::Cpu);
    let ranker = network(&config(), &materials).ranker(&materials).unwrap();
    let filter = LeafFilter::allow_all();
    let score = |history: &[ItemIndex]| ranker.score_all(&catalog, &Question::new(history, &filter)).unwrap();
    assert_eq!(score(&[9, 8, 1, 2, 3, 4, 5]), score(&[1, 2, 3, 4, 5]));
    assert_ne!(score(&[1, 2, 3, 4, 5]), score(&[2, 1, 3, 4, 5]));
}

#[test]
fn answers_do_not_depend_on_the_questions_beside_them() {
    let catalog = catalog_of(50, LEVELS, CODES);
    let materials = Materials::of_catalog(&catalog, &Device::Cpu);
    let filter = LeafFilter::allow_all();
    let histories: Vec<Vec<ItemIndex>> = (0..70).map(|i| (0..i % 7).map(|t| (i * 3 + t) % 50).collect()).collect();
    let questions: Vec<Question<'_>> = histories.iter().map(|history| Question::new(history, &filter)).collect();
    for decoding in [Decoding::Exact, Decoding::Trie, Decoding::Graph] {
        let ranker = network(&RpgConfig { decoding, ..config() }, &materials).ranker(&materials).unwrap();
        let together = ranker.rank(&catalog, &questions, 5).unwrap();
        for (question, together) in questions.iter().zip(&together) {
            let alone = &ranker.rank(&catalog, &[*question], 5).unwrap()[0];
            for (a, b) in alone.items.iter().zip(&together.items) {
                assert!((a.score - b.score).abs() < 1e-3, "{decoding:?}");
            }
        }
    }
}

#[test]
fn a_beam_as_wide_as_the_catalog_gives_the_exact_ranking() {
    for (levels, codes) in [(4, 5), (LEVELS, CODES), (32, 256)] {
        let catalog = catalog_of(150, levels, codes);
        let materials = Materials::of_catalog(&catalog, &Device::Cpu);
        let ranker = |decoding| {
            let config = RpgConfig { decoding, ..config() };
            network(&config, &materials).ranker(&materials).unwrap()
        };
        let (exact, trie) = (ranker(Decoding::Exact), ranker(Decoding::Trie));
        let filter = LeafFilter::deny_items(&catalog, &[0, 5, 149]);
        let questions = [Question::new(&[3, 7, 11], &filter), Question::new(&[149], &filter)];
        let found = trie.rank(&catalog, &questions, 150).unwrap();
        for (exact, trie) in exact.rank(&catalog, &questions, 150).unwrap().iter().zip(&found) {
            assert_eq!((exact.items.len(), trie.items.len()), (147, 147));
            let shift = trie.items[0].score - exact.items[0].score;
            for (a, b) in exact.items.iter().zip(&trie.items) {
                assert!((b.score - a.score - shift).abs() < 1e-3);
                // Only items of almost the same score may stand the other way round.
                let other = exact.items.iter().find(|scored| scored.item == b.item).unwrap();
                assert!((other.score - a.score).abs() < 1e-3);
            }
        }
    }
}

#[test]
fn the_graph_finds_most_of_the_best_and_only_what_is_allowed() {
    let catalog = catalog_of(2000, LEVELS, CODES);
    let materials = Materials::of_catalog(&catalog, &Device::Cpu);
    let ranker = |decoding| {
        let config = RpgConfig { decoding, graph_beams: 20, graph_edges: 50, ..config() };
        network(&config, &materials).ranker(&materials).unwrap()
    };
    let (exact, graph) = (ranker(Decoding::Exact), ranker(Decoding::Graph));
    let denied: Vec<ItemIndex> = (0..2000).filter(|item| item % 5 == 0).collect();
    let filter = LeafFilter::deny_items(&catalog, &denied);
    let histories: Vec<Vec<ItemIndex>> = (0..40).map(|i| vec![i * 31 % 2000, i * 77 % 2000]).collect();
    let questions: Vec<Question<'_>> = histories.iter().map(|history| Question::new(history, &filter)).collect();
    let scores_of = ranker(Decoding::Trie);
    let (mut shared, mut scored) = (0, 0);
    let found = graph.rank(&catalog, &questions, 10).unwrap();
    assert_eq!(found, graph.rank(&catalog, &questions, 10).unwrap());
    for ((exact, graph), question) in exact.rank(&catalog, &questions, 10).unwrap().iter().zip(&found).zip(&questions) {
        assert_eq!(graph.items.len(), 10);
        let sums = scores_of.score_all(&catalog, question).unwrap();
        for item in &graph.items {
            assert!(!denied.contains(&item.item) && (sums[item.item as usize] - item.score).abs() < 1e-3);
        }
        let items: Vec<ItemIndex> = graph.items.iter().map(|scored| scored.item).collect();
        shared += exact.items.iter().filter(|scored| items.contains(&scored.item)).count();
        scored += graph.stats.candidates;
    }
    // Codes that are drawn have no neighbourhoods to speak of; those of a tokenizer do.
    assert!(shared >= 40 * 10 * 8 / 10, "{shared} of 400");
    assert!(scored < 40 * 2000 * 9 / 10, "{scored} scored");
}

#[test]
fn the_graph_widens_until_it_has_what_was_asked_for() {
    let catalog = catalog_of(300, LEVELS, CODES);
    let materials = Materials::of_catalog(&catalog, &Device::Cpu);
    let config = RpgConfig { decoding: Decoding::Graph, graph_beams: 2, graph_edges: 2, graph_steps: 1, ..config() };
    let ranker = network(&config, &materials).ranker(&materials).unwrap();
    let denied: Vec<ItemIndex> = (0..280).collect();
    let few = LeafFilter::deny_items(&catalog, &denied);
    let none = LeafFilter::deny_items(&catalog, &(0..300).collect::<Vec<_>>());
    let all = LeafFilter::allow_all();
    let count = |filter: &LeafFilter, wanted| {
        let ranking = &ranker.rank(&catalog, &[Question::new(&[1, 2], filter)], wanted).unwrap()[0];
        let mut items: Vec<ItemIndex> = ranking.items.iter().map(|scored| scored.item).collect();
        assert!(items.iter().all(|item| filter.item_alive(*item)));
        items.sort_unstable();
        items.dedup();
        assert_eq!(items.len(), ranking.items.len());
        items.len()
    };
    assert_eq!([count(&few, 20), count(&few, 50), count(&few, 7)], [20, 20, 7]);
    assert_eq!([count(&none, 20), count(&all, 300), count(&all, 1000), count(&all, 1)], [0, 300, 300, 1]);
}

/// Users who walk through the items with strides of their own.
fn histories(users: usize, items: usize) -> (Histories, Split) {
    let (mut offsets, mut events) = (vec![0u64], Vec::new());
    for user in 0..users {
        events.extend((0..5 + user % 3).map(|i| ((user * 5 + i * (1 + user % 4)) % items) as ItemIndex));
        offsets.push(events.len() as u64);
    }
    let names = (0..users).map(|user| format!("user {user}")).collect();
    let histories = Histories::new(names, offsets, events, None, None).unwrap();
    let split = Split::new(&histories, SplitRule::LeaveOneOut).unwrap();
    (histories, split)
}

fn trained(config: RpgConfig, materials: Materials<'_>, steps: u64) -> Generator {
    let (histories, split) = histories(40, materials.catalog.len());
    let training = TrainingConfig {
        batch_size: 16,
        max_epochs: 1000,
        max_steps: Some(steps),
        learning_rate: 5e-3,
        warmup_steps: 5,
        validate_every: 1_000_000,
        weight_decay: 0.0,
        ..TrainingConfig::default()
    };
    let config = GeneratorConfig::Rpg(RpgConfig { training, ..config });
    let dir = tempfile::tempdir().unwrap();
    let (work_dir, progress) = (dir.path(), &NoProgress);
    let job =
        TrainJob { config: &config, histories: &histories, split: &split, materials, seed: 1, work_dir, progress };
    train(&job).unwrap().generator
}

#[test]
fn a_few_users_are_learned_by_heart_through_codes_or_items() {
    let catalog = catalog_of(24, 6, CODES);
    let materials = Materials::of_catalog(&catalog, &Device::Cpu);
    let (histories, split) = histories(12, 24);
    for item_loss in [0.0, 1.0] {
        let config = RpgConfig { dropout: 0.0, item_loss, ..config() };
        let generator = trained(config, materials, 250);
        let filter = LeafFilter::allow_all();
        let mut right = 0;
        for user in 0..12 {
            let items = split.training_items(&histories, user);
            let (target, history) = items.split_last().unwrap();
            let ranking = &generator.recommend(&catalog, &[Question::new(history, &filter)], 5).unwrap()[0];
            right += usize::from(ranking.rank_of(*target) == Some(0));
        }
        assert!(right >= 11, "{right} of 12 with an item loss of {item_loss}");
    }
}

#[test]
fn weights_do_not_depend_on_the_number_of_threads() {
    let catalog = catalog_of(24, 6, CODES);
    let (histories, split) = histories(300, 24);
    let training =
        TrainingConfig { batch_size: 300, max_steps: Some(3), validate_every: 100, ..TrainingConfig::default() };
    // Three parts a step; drawn negatives and dropout masks are theirs.
    let config = GeneratorConfig::Rpg(RpgConfig { item_loss: 1.0, item_negatives: 5, training, ..config() });
    let in_pool = |threads: usize| {
        let dir = tempfile::tempdir().unwrap();
        let materials = Materials::of_catalog(&catalog, &Device::Cpu);
        let (work_dir, progress) = (dir.path(), &NoProgress);
        let job =
            TrainJob { config: &config, histories: &histories, split: &split, materials, seed: 1, work_dir, progress };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let outcome = pool.install(|| train(&job)).unwrap();
        outcome.generator.network().params().snapshot().unwrap()
    };
    assert_eq!(in_pool(1), in_pool(2));
}

#[test]
fn items_that_come_later_are_ranked_by_their_codes_and_removed_ones_are_not() {
    let catalog = catalog_of(60, LEVELS, CODES);
    let (vectors, more) = (vectors_of(60), vectors_of(61));
    // The item that is added has the codes of item 7, and so its scores.
    let ids = SemanticIds::new(LEVELS, catalog.semantic_id(7).to_vec()).unwrap();
    let new = [ItemId::from("new".to_owned())];
    let grown = catalog.change(&Change { add: &new, add_ids: Some(&ids), restore: &[], remove: &[30] }).unwrap();
    for (item_vectors, item_embedding) in [(false, false), (true, false), (false, true)] {
        let config = RpgConfig { item_vectors, item_embedding, ..config() };
        let materials = Materials { vectors: Some(&vectors), ..Materials::of_catalog(&catalog, &Device::Cpu) };
        let generator = trained(config, materials, 3);
        let saved = tempfile::tempdir().unwrap();
        generator.save(saved.path()).unwrap();
        let materials = Materials { vectors: Some(&more), ..Materials::of_catalog(&grown, &Device::Cpu) };
        let loaded = Generator::load(saved.path(), &materials, false).unwrap();
        let filter = LeafFilter::allow_all();
        // It may stand in a history too.
        let question = Question::new(&[1, 60, 30], &filter);
        let scores = loaded.ranker().score_all(&grown, &question).unwrap();
        assert_eq!(scores.len(), 61);
        assert!((scores[60] - scores[7]).abs() < 1e-5 && scores[30] == f32::NEG_INFINITY);
        let total: f64 = scores.iter().map(|score| f64::from(*score).exp()).sum();
        assert!((total - 1.0).abs() < 1e-4, "{total}");
        let ranking = &loaded.recommend(&grown, &[question], 61).unwrap()[0];
        assert_eq!(ranking.items.len(), 60);
        assert!(ranking.items.iter().any(|scored| scored.item == 60));
    }
}

#[test]
fn weights_that_are_no_numbers_are_refused() {
    let catalog = catalog_of(60, LEVELS, CODES);
    let materials = Materials::of_catalog(&catalog, &Device::Cpu);
    let filter = LeafFilter::allow_all();
    for decoding in [Decoding::Exact, Decoding::Trie, Decoding::Graph] {
        let config = RpgConfig { decoding, ..config() };
        for name in ["codes", "heads", "norm.bias"] {
            let network = network(&config, &materials);
            let var = network.params().get(name).unwrap();
            var.set(&(var.as_tensor() * f64::NAN).unwrap()).unwrap();
            let error = network.ranker(&materials).unwrap().rank(&catalog, &[Question::new(&[1], &filter)], 5);
            let error = error.unwrap_err().to_string();
            assert!(error.contains("not a finite number") && error.contains("damaged"), "{decoding:?}: {error}");
        }
    }
}

#[test]
fn values_that_no_model_can_have_are_refused_by_key() {
    let good = config();
    let refused = [
        ("d_model", RpgConfig { d_model: 0, ..good.clone() }),
        ("heads", RpgConfig { heads: 3, ..good.clone() }),
        ("layers", RpgConfig { layers: 0, ..good.clone() }),
        ("dropout", RpgConfig { dropout: 1.0, ..good.clone() }),
        ("temperature", RpgConfig { temperature: 0.0, ..good.clone() }),
        ("item_loss", RpgConfig { item_loss: f64::NAN, ..good.clone() }),
        ("repeats", RpgConfig { repeats: true, item_loss: 0.0, ..good.clone() }),
        ("repeats", RpgConfig { repeats: true, decoding: Decoding::Trie, ..good.clone() }),
        ("graph_beams", RpgConfig { graph_beams: 0, ..good.clone() }),
        ("graph_edges", RpgConfig { graph_edges: 1 << 20, ..good.clone() }),
        ("max_history", RpgConfig { max_history: 0, ..good.clone() }),
    ];
    for (key, config) in refused {
        let error = GeneratorConfig::Rpg(config).check(&[8; 4]).unwrap_err().to_string();
        assert!(error.contains(&format!("generator.rpg.{key}")), "{key}: {error}");
    }
    GeneratorConfig::Rpg(good.clone()).check(&[256; 32]).unwrap();
    GeneratorConfig::named("rpg-paper").unwrap().check(&[256; 32]).unwrap();
    let catalog = catalog_of(10, 4, 8);
    let materials = Materials::of_catalog(&catalog, &Device::Cpu);
    let error = RpgConfig { item_vectors: true, ..good }.build(&materials, 1).unwrap_err().to_string();
    assert!(error.contains("generator.rpg.item_vectors") && error.contains("embed the run"), "{error}");
}
