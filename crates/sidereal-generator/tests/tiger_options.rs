//! TIGER's options: every combination answers alike on both paths, learns in every parameter, and keeps its files.
#![allow(clippy::unwrap_used, missing_docs)]

use candle_core::{Device, Tensor, Var};
use sidereal_core::{Catalog, CodeVocab, CollisionPolicy, Embeddings, ItemId, ItemIndex, LeafFilter, SemanticIds};
use sidereal_generator::history_layout::HistoryLayout;
use sidereal_generator::models::ModelConfig;
use sidereal_generator::models::t5::{Extensions, FeedForward, T5, T5Config};
use sidereal_generator::models::tiger::{Output, TigerConfig};
use sidereal_generator::{GeneratorConfig, Materials, Network, NextCodeModel, Question, Ranker, Row, ScoreNorm};
use sidereal_nn::kernels::Precision;
use sidereal_nn::rng::Rng;
use sidereal_nn::tolerance::FINITE_DIFFERENCES;

const ITEMS: usize = 20;
const CODES: [u32; 3] = [3, 4, 2];
const WIDTH: usize = 5;
const USERS: [Option<u64>; 3] = [Some(7), None, Some(u64::MAX)];

fn catalog() -> Catalog {
    let ids: Vec<ItemId> = (0..ITEMS).map(|i| ItemId::from(format!("item {i}"))).collect();
    let codes = (0..ITEMS as u16).flat_map(|i| [i % 3, i / 3 % 4, i / 12]).collect();
    Catalog::build(&ids, &SemanticIds::new(3, codes).unwrap(), &CODES, CollisionPolicy::Postings, None).unwrap()
}

fn random(rows: usize, width: usize, seed: u64) -> Embeddings {
    let mut rng = Rng::new(seed, "test vectors");
    Embeddings::new(rows, width, (0..rows * width).map(|_| rng.normal() as f32).collect()).unwrap()
}

fn codebooks() -> Vec<Embeddings> {
    CODES.iter().map(|&codes| random(codes as usize, WIDTH, u64::from(codes))).collect()
}

struct World {
    catalog: Catalog,
    vectors: Embeddings,
    codebooks: Vec<Embeddings>,
}

impl World {
    fn new() -> Self {
        Self { catalog: catalog(), vectors: random(ITEMS, WIDTH, 1), codebooks: codebooks() }
    }

    fn materials(&self) -> Materials<'_> {
        Materials {
            vectors: Some(&self.vectors),
            codebooks: Some(&self.codebooks),
            ..Materials::of_catalog(&self.catalog, &Device::Cpu)
        }
    }
}

fn small() -> TigerConfig {
    TigerConfig { d_model: 12, d_ff: 16, heads: 2, d_kv: 4, layers: 2, max_history: 4, ..TigerConfig::default() }
}

fn everything() -> TigerConfig {
    TigerConfig {
        user_tokens: 5,
        separator: true,
        output: Output::PerLevel,
        temperature: 0.8,
        in_item_positions: true,
        dual_branch: true,
        codebook_embeddings: true,
        item_vectors: true,
        contrastive: 0.5,
        ..small()
    }
}

/// Every combination of what changes inputs and heads.
fn combinations() -> Vec<TigerConfig> {
    let outputs = [Output::Tied, Output::Untied, Output::PerLevel];
    let with = |bits: usize, output: Output| TigerConfig {
        user_tokens: if bits & 1 == 0 { 0 } else { 3 },
        separator: bits & 2 != 0,
        in_item_positions: bits & 4 != 0,
        dual_branch: bits & 8 != 0,
        item_vectors: bits & 16 != 0,
        feed_forward: if bits & 1 == 0 { FeedForward::Relu } else { FeedForward::GatedGelu },
        output,
        ..small()
    };
    outputs.iter().flat_map(|&output| (0..32).map(move |bits| with(bits, output))).collect()
}

fn build(config: &TigerConfig, materials: &Materials<'_>) -> Box<dyn Network> {
    let network = config.build(materials, 3).unwrap();
    // First values hide what is 0 or 1 at first.
    let mut rng = Rng::new(4, "shake");
    for (_, var) in network.params().vars() {
        let shaken: Vec<f32> = flat(var).iter().map(|v| v + 0.1 * rng.normal() as f32).collect();
        var.set(&Tensor::from_vec(shaken, var.dims(), &Device::Cpu).unwrap()).unwrap();
    }
    network
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn rows<'a>(items: &'a [Vec<ItemIndex>]) -> Vec<Row<'a>> {
    items.iter().enumerate().map(|(user, items)| Row { user: user as u64 * 17, items }).collect()
}

fn histories() -> Vec<Vec<ItemIndex>> {
    vec![vec![3, 4, 5], vec![0, 19, 7, 7, 2, 11], vec![8, 9], vec![12, 1, 0, 6]]
}

fn t5(config: &TigerConfig, world: &World) -> T5 {
    let vocab = CodeVocab::new(CodeVocab::FIRST_CODE, &CODES);
    let sizes: T5Config = config.t5(&vocab).unwrap();
    let extensions = Extensions {
        in_item_positions: config.in_item_positions,
        dual_branch: config.dual_branch,
        level_heads: config.output == Output::PerLevel,
        item_vectors: config.item_vectors,
        vector_head: true,
        vector_width: WIDTH,
        ..Extensions::none(config.layout(&vocab))
    };
    let model = T5::extended(sizes, extensions, Some(&world.vectors), 3, &Device::Cpu).unwrap();
    let mut rng = Rng::new(4, "shake");
    for (_, var) in model.params().vars() {
        let shaken: Vec<f32> = flat(var).iter().map(|v| v + 0.1 * rng.normal() as f32).collect();
        var.set(&Tensor::from_vec(shaken, var.dims(), &Device::Cpu).unwrap()).unwrap();
    }
    model
}

fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max)
}

#[test]
fn both_paths_give_the_same_scores_under_every_combination() {
    let world = World::new();
    for config in combinations() {
        let model = t5(&config, &world);
        let layout: HistoryLayout = config.layout(&CodeVocab::new(CodeVocab::FIRST_CODE, &CODES));
        let (cpu, device) = (
            model.inference(&layout.vocab, Precision::F32).unwrap(),
            model.device_inference(&layout.vocab, Precision::F32).unwrap(),
        );
        let of_length = [vec![], vec![5], vec![3, 3, 19, 0, 8, 2]];
        let histories: Vec<Vec<u32>> =
            of_length.iter().zip(USERS).map(|(items, user)| layout.tokens(&world.catalog, items, user)).collect();
        let histories: Vec<&[u32]> = histories.iter().map(Vec::as_slice).collect();
        for norm in [ScoreNorm::Full, ScoreNorm::Level] {
            let (a, b) = (cpu.begin(&histories, norm).unwrap(), device.begin(&histories, norm).unwrap());
            let (parents, codes) = ([0, 0, 1, 2, 2], [2, 0, 1, 2, 2]);
            let (a2, b2) =
                (cpu.step(&a.0, &parents, &codes, norm).unwrap(), device.step(&b.0, &parents, &codes, norm).unwrap());
            let (parents, codes) = ([1, 0, 2, 4], [3, 2, 0, 1]);
            let (a3, b3) =
                (cpu.step(&a2.0, &parents, &codes, norm).unwrap(), device.step(&b2.0, &parents, &codes, norm).unwrap());
            for (a, b) in [(&a.1, &b.1), (&a2.1, &b2.1), (&a3.1, &b3.1)] {
                for row in 0..a.rows() {
                    assert!(a.row(row).iter().all(|score| score.is_finite()), "{config:?}");
                    assert!(difference(a.row(row), b.row(row)) < 3e-5, "{norm:?} {config:?}");
                }
            }
        }
        let (a, b) =
            (cpu.next_vectors(&histories).unwrap().unwrap(), device.next_vectors(&histories).unwrap().unwrap());
        assert!(difference(&a, &b) < 3e-5, "{config:?}");
        assert!(a.chunks_exact(WIDTH).all(|v| (v.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-4));
    }
}

#[test]
fn training_and_answering_score_a_target_alike() {
    // Without dropout the loss of one row is minus the sum of its target's log-probabilities over L.
    let world = World::new();
    for config in combinations() {
        let network = build(&config, &world.materials());
        let ranker = network.ranker(&world.materials()).unwrap();
        let history: Vec<ItemIndex> = vec![3, 4, 19, 2, 7];
        let user = 12;
        let row = Row { user, items: &history };
        let loss = network.loss(&[row], None).unwrap().to_scalar::<f32>().unwrap();
        let full = TigerConfig { score_norm: ScoreNorm::Full, ..config.clone() };
        let filter = LeafFilter::allow_all();
        let question = Question { user: Some(user), ..Question::new(&history[..4], &filter) };
        let dir = tempfile::tempdir().unwrap();
        network.save(dir.path()).unwrap();
        let scores = full
            .load(dir.path(), &world.materials())
            .and_then(|network| network.ranker(&world.materials())?.score_all(&world.catalog, &question))
            .unwrap();
        assert!((loss + scores[7] / 3.0).abs() < 1e-4, "{loss} {} {config:?}", scores[7]);
        assert_eq!(ranker.norm(), ScoreNorm::Level);
    }
}

#[test]
fn a_beam_as_wide_as_the_catalog_is_the_exact_ranking() {
    let world = World::new();
    let filter = LeafFilter::deny_items(&world.catalog, &[4, 13]);
    for config in combinations().into_iter().step_by(5).chain([everything()]) {
        let ranker = build(&config, &world.materials()).ranker(&world.materials()).unwrap();
        for (history, user) in [(vec![], None), (vec![6], Some(3)), (vec![1, 2, 3, 4, 5, 6], Some(99))] {
            let question = Question { user, ..Question::new(&history, &filter) };
            let ranking = &ranker.rank(&world.catalog, &[question], ITEMS).unwrap()[0];
            let exact = ranker.score_all(&world.catalog, &question).unwrap();
            assert_eq!(ranking.items.len(), ITEMS - 2);
            for scored in &ranking.items {
                assert!((exact[scored.item as usize] - scored.score).abs() < 1e-4, "{config:?}");
            }
        }
    }
}

#[test]
fn every_parameter_of_every_option_gets_the_gradient_of_its_differences() {
    let world = World::new();
    let untied = TigerConfig { output: Output::Untied, ..everything() };
    let positions_alone = TigerConfig { dual_branch: false, ..everything() };
    let histories = histories();
    for config in [everything(), untied, positions_alone] {
        let network = build(&config, &world.materials());
        let rows = rows(&histories);
        let loss = || network.loss(&rows, None).unwrap();
        let value = || f64::from(loss().to_scalar::<f32>().unwrap());
        let grads = loss().backward().unwrap();
        for (name, var) in network.params().vars() {
            let gradient = flat(grads.get(var.as_tensor()).unwrap_or_else(|| panic!("{name} has no gradient")));
            let length = gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
            assert!(length > 0.0 && length.is_finite(), "{name}: {length}");
            // Along the gradient, where the loss changes most, so that the step may be short: at longer ones some of the
            // rectifiers switch, and the difference is of two slopes.
            let before = flat(var);
            let moved = |by: f64| {
                let along = |(v, g): (&f32, &f32)| (f64::from(*v) + by * f64::from(*g) / length) as f32;
                set(var, before.iter().zip(&gradient).map(along).collect());
                value()
            };
            let h = 5e-4;
            let measured = (moved(h) - moved(-h)) / (2.0 * h);
            set(var, before.clone());
            assert!(FINITE_DIFFERENCES.holds(length, measured), "{name}: {length} {measured}");
        }
    }
}

fn set(var: &Var, values: Vec<f32>) {
    var.set(&Tensor::from_vec(values, var.dims(), &Device::Cpu).unwrap()).unwrap();
}

#[test]
fn a_saved_network_comes_back_with_the_same_bytes_and_answers() {
    let world = World::new();
    let names = ["in_item_positions.weight", "item_projection.weight", "level_heads.2.weight", "vector_head.weight"];
    for config in combinations().into_iter().step_by(7).chain([everything()]) {
        let network = build(&config, &world.materials());
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        network.save(first.path()).unwrap();
        let loaded = config.load(first.path(), &world.materials()).unwrap();
        loaded.save(second.path()).unwrap();
        for file in ["config.json", "model.safetensors"] {
            let read = |dir: &tempfile::TempDir| std::fs::read(dir.path().join(file)).unwrap();
            assert_eq!(read(&first), read(&second), "{file}");
        }
        let filter = LeafFilter::allow_all();
        let question = Question { user: Some(1), ..Question::new(&[1, 2], &filter) };
        let answer = |network: &dyn Network| {
            network.ranker(&world.materials()).unwrap().rank(&world.catalog, &[question], 5).unwrap()
        };
        assert_eq!(answer(network.as_ref()), answer(loaded.as_ref()));
        if config == everything() {
            let tensors = candle_core::safetensors::load(first.path().join("model.safetensors"), &Device::Cpu).unwrap();
            assert!(names.iter().all(|name| tensors.contains_key(*name)), "{:?}", tensors.keys());
            let error = small().load(first.path(), &world.materials()).unwrap_err().to_string();
            assert!(error.contains("shared.weight") || error.contains("does not have"), "{error}");
        }
    }
}

#[test]
fn weights_learnt_go_on_answering_while_training_goes_on() {
    let world = World::new();
    let network = build(&everything(), &world.materials());
    let ranker = network.ranker(&world.materials()).unwrap();
    let filter = LeafFilter::allow_all();
    let answer = |ranker: &dyn Ranker| {
        let question = Question::new(&[1, 2], &filter);
        ranker.rank(&world.catalog, &[question], 5).unwrap()
    };
    let before = answer(ranker.as_ref());
    for (_, var) in network.params().vars() {
        set(var, flat(var).iter().map(|v| v * 1.5 + 0.01).collect());
    }
    assert_eq!(answer(ranker.as_ref()), before);
    assert_ne!(answer(network.ranker(&world.materials()).unwrap().as_ref()), before);
}

#[test]
fn every_option_changes_answers_and_what_it_looks_at_changes_them_too() {
    let world = World::new();
    let filter = LeafFilter::allow_all();
    let scores = |config: &TigerConfig, user: Option<u64>, world: &World| {
        let ranker = build(config, &world.materials()).ranker(&world.materials()).unwrap();
        ranker.score_all(&world.catalog, &Question { user, ..Question::new(&[3, 8], &filter) }).unwrap()
    };
    let plain = scores(&small(), None, &world);
    let options = [
        TigerConfig { user_tokens: 5, ..small() },
        TigerConfig { separator: true, ..small() },
        TigerConfig { output: Output::Untied, ..small() },
        TigerConfig { output: Output::PerLevel, ..small() },
        TigerConfig { in_item_positions: true, ..small() },
        TigerConfig { dual_branch: true, ..small() },
        TigerConfig { codebook_embeddings: true, ..small() },
        TigerConfig { item_vectors: true, ..small() },
    ];
    for config in options {
        assert!(difference(&scores(&config, None, &world), &plain) > 1e-4, "{config:?}");
    }
    let users = TigerConfig { user_tokens: 5, ..small() };
    let of_user = |user| scores(&users, user, &world);
    assert_eq!(of_user(Some(1)), of_user(Some(6)), "five tokens: users 1 and 6 share one");
    assert_ne!(of_user(Some(1)), of_user(Some(2)));
    assert_ne!(of_user(Some(1)), of_user(None));
    assert_eq!(scores(&small(), Some(1), &world), plain, "no user token, no difference");
    let looking = TigerConfig { item_vectors: true, ..small() };
    let other = World { vectors: random(ITEMS, WIDTH, 9), ..World::new() };
    assert_ne!(scores(&looking, None, &world), scores(&looking, None, &other));
}

#[test]
fn a_temperature_divides_the_logits_of_the_loss_and_a_contrast_adds_to_it() {
    let world = World::new();
    let histories = histories();
    let loss = |config: TigerConfig| {
        let network = build(&config, &world.materials());
        network.loss(&rows(&histories), None).unwrap().to_scalar::<f32>().unwrap()
    };
    let with = |contrastive| TigerConfig { contrastive, ..small() };
    let (one, two) = (loss(with(1.0)), loss(with(2.0)));
    let contrast = two - one;
    // Random directions among 20 items at this temperature: not far from any other guess, and never negative.
    assert!(contrast > 0.0 && (one - contrast) > 0.0, "{one} {two}");
    let cold = loss(TigerConfig { temperature: 0.5, ..small() });
    assert!((cold - loss(small())).abs() > 1e-3);
    assert!(loss(TigerConfig { temperature: 1.0, ..small() }) == loss(small()));
}

#[test]
fn an_option_without_its_material_names_the_key_and_the_mend() {
    let world = World::new();
    let bare = Materials::of_catalog(&world.catalog, &Device::Cpu);
    let error = |config: TigerConfig| config.build(&bare, 1).unwrap_err().to_string();
    let looking = error(TigerConfig { item_vectors: true, ..small() });
    assert!(looking.contains("item_vectors") && looking.contains("embed the run"), "{looking}");
    let contrast = error(TigerConfig { contrastive: 1.0, ..small() });
    assert!(contrast.contains("contrastive"), "{contrast}");
    let codebooks = error(TigerConfig { codebook_embeddings: true, ..small() });
    assert!(codebooks.contains("codebook_embeddings"), "{codebooks}");
    let check = |config: TigerConfig| config.check(&CODES).unwrap_err().to_string();
    assert!(check(TigerConfig { temperature: 0.0, ..small() }).contains("generator.tiger, temperature"));
    assert!(check(TigerConfig { contrastive: f32::NAN, ..small() }).contains("generator.tiger, contrastive"));
    assert!(check(TigerConfig { dual_branch: true, d_model: 13, ..small() }).contains("d_model"));
    assert!(check(TigerConfig { user_tokens: u32::MAX, ..small() }).contains("user_tokens"));
    let narrow = random(ITEMS, WIDTH + 1, 1);
    let config = TigerConfig { item_vectors: true, ..small() };
    let other = Materials { vectors: Some(&narrow), ..world.materials() };
    let error = build(&config, &world.materials()).ranker(&other).unwrap_err().to_string();
    assert!(error.contains("width 6") && error.contains("with 5"), "{error}");
}

#[test]
fn a_plain_recipe_is_written_as_before_there_were_options() {
    let json = serde_json::to_value(TigerConfig::default()).unwrap();
    let keys: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
    let mut expected = [
        "d_model",
        "d_ff",
        "heads",
        "d_kv",
        "layers",
        "dropout",
        "feed_forward",
        "max_history",
        "score_norm",
        "training",
    ];
    expected.sort_unstable();
    assert!(keys.len() == expected.len() && keys.iter().all(|key| expected.contains(key)), "{keys:?}");
    let again: TigerConfig = serde_json::from_value(serde_json::to_value(everything()).unwrap()).unwrap();
    assert_eq!(again, everything());
}

#[test]
fn every_preset_is_a_recipe_of_its_own_that_passes_its_check() {
    for preset in sidereal_generator::models::presets() {
        let config = GeneratorConfig::named(preset.name).unwrap();
        config.check(&[256, 256, 256, 4]).unwrap();
        assert!(preset.paper.contains("arXiv"), "{}", preset.name);
        assert_ne!(config, GeneratorConfig::named(config.method()).unwrap(), "{}", preset.name);
    }
    for name in ["tiger-paper", "tiger-paischer", "tiger-letter", "tiger-grid", "discrec"] {
        assert_eq!(GeneratorConfig::named(name).unwrap().method(), "tiger");
    }
}

#[test]
fn weights_from_before_there_were_options_are_written_back_byte_for_byte() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../weights/demo/generator");
    let ids: Vec<ItemId> = (0..3).map(|i| ItemId::from(format!("item {i}"))).collect();
    let sids = SemanticIds::new(3, vec![0, 1, 2, 127, 0, 3, 5, 6, 127]).unwrap();
    let catalog = Catalog::build(&ids, &sids, &[128; 3], CollisionPolicy::Postings, None).unwrap();
    let materials = Materials::of_catalog(&catalog, &Device::Cpu);
    let generator = sidereal_generator::Generator::load(&folder, &materials, true).unwrap();
    let dir = tempfile::tempdir().unwrap();
    generator.save(dir.path()).unwrap();
    for file in ["config.json", "generator.json", "model.safetensors"] {
        let read = |dir: &std::path::Path| std::fs::read(dir.join(file)).unwrap();
        assert!(read(dir.path()) == read(&folder), "{file} is written otherwise than before");
    }
}
