//! LIGER: cold items are in every answer, ranked with the best items by codes, and stay known through files.
#![allow(clippy::unwrap_used, missing_docs)]

use candle_core::Device;
use sidereal_core::{
    Catalog, CollisionPolicy, Embeddings, Histories, ItemId, ItemIndex, LeafFilter, NoProgress, SemanticIds, Split,
    SplitRule,
};
use sidereal_generator::models::ModelConfig;
use sidereal_generator::models::liger::LigerConfig;
use sidereal_generator::models::tiger::TigerConfig;
use sidereal_generator::{Generator, GeneratorConfig, Materials, Question, TrainJob, TrainingConfig, train};
use sidereal_nn::rng::Rng;

const ITEMS: usize = 18;
/// Items from here on are in no history.
const COLD_FROM: usize = 15;

fn catalog() -> Catalog {
    let ids: Vec<ItemId> = (0..ITEMS).map(|i| ItemId::from(format!("item {i}"))).collect();
    let codes = (0..ITEMS as u16).flat_map(|i| [i % 5, i / 5]).collect();
    Catalog::build(&ids, &SemanticIds::new(2, codes).unwrap(), &[5, 4], CollisionPolicy::Postings, None).unwrap()
}

fn vectors() -> Embeddings {
    let mut rng = Rng::new(5, "vectors");
    Embeddings::new(ITEMS, 6, (0..ITEMS * 6).map(|_| rng.normal() as f32).collect()).unwrap()
}

fn config(candidates: usize) -> LigerConfig {
    let training = TrainingConfig {
        batch_size: 16,
        max_epochs: 60,
        learning_rate: 3e-3,
        warmup_steps: 5,
        validate_every: 1_000_000,
        ..TrainingConfig::default()
    };
    let network = TigerConfig {
        d_model: 16,
        d_ff: 32,
        heads: 2,
        d_kv: 8,
        layers: 1,
        dropout: 0.0,
        max_history: 4,
        training,
        ..TigerConfig::default()
    };
    LigerConfig { candidates, network, ..LigerConfig::default() }
}

fn trained(config: LigerConfig, catalog: &Catalog, vectors: &Embeddings) -> Generator {
    let (mut offsets, mut items) = (vec![0u64], Vec::new());
    for user in 0..COLD_FROM {
        items.extend((0..6).map(|i| ((user + i) % COLD_FROM) as ItemIndex));
        offsets.push(items.len() as u64);
    }
    let names = (0..COLD_FROM).map(|u| format!("user {u}")).collect();
    let histories = Histories::new(names, offsets, items, None, None).unwrap();
    let split = Split::new(&histories, SplitRule::LeaveOneOut).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let job = TrainJob {
        config: &GeneratorConfig::Liger(config),
        histories: &histories,
        split: &split,
        materials: Materials { vectors: Some(vectors), ..Materials::of_catalog(catalog, &Device::Cpu) },
        seed: 2,
        work_dir: dir.path(),
        progress: &NoProgress,
    };
    train(&job).unwrap().generator
}

#[test]
fn cold_items_are_ranked_with_the_best_by_codes_and_the_others_stand_behind() {
    let (catalog, vectors) = (catalog(), vectors());
    let generator = trained(config(3), &catalog, &vectors);
    let filter = LeafFilter::deny_items(&catalog, &[16]);
    for history in [vec![], vec![4], vec![1, 2, 3]] {
        let question = [Question::new(&history, &filter)];
        for beam in [1, 3, 7, ITEMS] {
            let ranking = &generator.recommend(&catalog, &question, beam).unwrap()[0];
            let items: Vec<ItemIndex> = ranking.items.iter().map(|scored| scored.item).collect();
            let mut once = items.clone();
            once.sort_unstable();
            once.dedup();
            assert_eq!(once.len(), items.len(), "each item once");
            assert!(ranking.items.windows(2).all(|pair| pair[0].score >= pair[1].score), "scores fall");
            assert!(!items.contains(&16), "a denied item is denied, cold or not");
            assert!(items.len() >= beam.clamp(3, ITEMS - 1));
            // The head: three by codes, and the cold ones that are not among them.
            assert!([15, 17].iter().all(|cold| items[..5].contains(cold)), "{items:?}");
            let head: f32 = ranking.items[..5].iter().map(|scored| scored.score.exp()).sum();
            let by_codes = items[..5].iter().filter(|&&item| (item as usize) < COLD_FROM).count();
            assert!(by_codes <= 3);
            if by_codes == 3 {
                assert!((head - 1.0).abs() < 1e-4, "the head is a distribution: {head}");
            }
        }
        let exact = generator.ranker().score_all(&catalog, &question[0]).unwrap();
        let wide = &generator.recommend(&catalog, &question, ITEMS).unwrap()[0];
        for scored in &wide.items {
            assert!((exact[scored.item as usize] - scored.score).abs() < 1e-4);
        }
        assert_eq!(exact[16], f32::NEG_INFINITY);
    }
}

#[test]
fn what_the_training_held_comes_back_from_the_folder() {
    let (catalog, vectors) = (catalog(), vectors());
    let generator = trained(config(4), &catalog, &vectors);
    let dir = tempfile::tempdir().unwrap();
    generator.save(dir.path()).unwrap();
    let materials = Materials { vectors: Some(&vectors), ..Materials::of_catalog(&catalog, &Device::Cpu) };
    let loaded = Generator::load(dir.path(), &materials, false).unwrap();
    let filter = LeafFilter::allow_all();
    let questions = [Question::new(&[0, 1], &filter), Question { user: Some(3), ..Question::new(&[], &filter) }];
    let answer = |generator: &Generator| generator.recommend(&catalog, &questions, 6).unwrap();
    assert_eq!(answer(&loaded), answer(&generator));
    let error = Generator::load(dir.path(), &Materials::of_catalog(&catalog, &Device::Cpu), false).unwrap_err();
    assert!(error.to_string().contains("item vectors"), "{error}");
    std::fs::remove_file(dir.path().join("training_counts.safetensors")).unwrap();
    let error = Generator::load(dir.path(), &materials, false).unwrap_err().to_string();
    assert!(error.contains("training_counts"), "{error}");
}

#[test]
fn the_vector_that_is_said_comes_to_be_the_targets() {
    let (catalog, vectors) = (catalog(), vectors());
    // All items come into the head, so the ranking is by vectors alone.
    let generator = trained(config(ITEMS), &catalog, &vectors);
    let filter = LeafFilter::allow_all();
    let hits = (0..COLD_FROM as ItemIndex).filter(|&last| {
        let before = (last + COLD_FROM as ItemIndex - 1) % COLD_FROM as ItemIndex;
        let next = (last + 1) % COLD_FROM as ItemIndex;
        let history = [before, last];
        let ranking = &generator.recommend(&catalog, &[Question::new(&history, &filter)], ITEMS).unwrap()[0];
        ranking.rank_of(next).unwrap() < 3
    });
    let hits = hits.count();
    assert!(hits > COLD_FROM * 2 / 3, "{hits} of {COLD_FROM}");
}

#[test]
fn a_recipe_that_learns_no_vectors_is_refused_by_key() {
    let error = |config: LigerConfig| config.check(&[5, 4]).unwrap_err().to_string();
    assert!(error(LigerConfig { contrastive: 0.0, ..config(3) }).contains("generator.liger.contrastive"));
    assert!(error(config(0)).contains("generator.liger.candidates"));
    let network = TigerConfig { temperature: -1.0, ..config(3).network };
    assert!(error(LigerConfig { network, ..config(3) }).contains("generator.liger.network, temperature"));
    let network =
        TigerConfig { training: TrainingConfig { batch_size: 0, ..config(3).network.training }, ..config(3).network };
    let bad = GeneratorConfig::Liger(LigerConfig { network, ..config(3) });
    let error = bad.check(&[5, 4]).unwrap_err().to_string();
    assert!(error.contains("generator.liger.network.training.batch_size"), "{error}");
}
