//! Training end to end on a few users: it learns, survives a kill, and does not depend on threads.
#![allow(clippy::unwrap_used, missing_docs)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::Device;
use sidereal_core::{
    Catalog, CodeVocab, CollisionPolicy, Embeddings, Histories, ItemId, ItemIndex, LeafFilter, NoProgress, Progress,
    SemanticIds, Split, SplitRule,
};
use sidereal_generator::batches::{Batch, Samples};
use sidereal_generator::dropout::Dropout;
use sidereal_generator::models::liger::LigerConfig;
use sidereal_generator::models::llm::LlmConfig;
use sidereal_generator::models::recgpt::RecgptConfig;
use sidereal_generator::models::rpg::RpgConfig;
use sidereal_generator::models::sasrec::SasrecConfig;
use sidereal_generator::models::setrec::SetrecConfig;
use sidereal_generator::models::t5::{FeedForward, T5};
use sidereal_generator::models::tiger::TigerConfig;
use sidereal_generator::training::{Event, METRICS_FILE, ScheduleKind, Start, Stopped, read_metrics};
use sidereal_generator::{
    GENERATORS, Generator, GeneratorConfig, Materials, Network, Question, Result, Row, SampleUnit, ScoreNorm, TrainJob,
    TrainOutcome, TrainingConfig, train, tune,
};

const ITEMS: usize = 24;
const CODES: [u32; 3] = [4, 4, 3];

fn catalog() -> Catalog {
    let ids: Vec<ItemId> = (0..ITEMS).map(|i| ItemId::from(format!("item {i}"))).collect();
    let codes = (0..ITEMS as u16).flat_map(|i| [i % 4, i / 4 % 4, i / 16]).collect();
    Catalog::build(&ids, &SemanticIds::new(3, codes).unwrap(), &CODES, CollisionPolicy::Postings, None).unwrap()
}

/// Users who each walk through the items with a stride of their own: short, distinct, learnable by heart.
fn histories(users: usize) -> (Histories, Split) {
    let (mut offsets, mut items) = (vec![0u64], Vec::new());
    for user in 0..users {
        let (start, stride) = (user * 5 % ITEMS, 1 + user % 5);
        items.extend((0..5 + user % 3).map(|i| ((start + i * stride) % ITEMS) as ItemIndex));
        offsets.push(items.len() as u64);
    }
    let names = (0..users).map(|u| format!("user {u}")).collect();
    let histories = Histories::new(names, offsets, items, None, None).unwrap();
    let split = Split::new(&histories, SplitRule::LeaveOneOut).unwrap();
    (histories, split)
}

fn small(training: TrainingConfig) -> GeneratorConfig {
    GeneratorConfig::Tiger(small_tiger(training))
}

fn small_tiger(training: TrainingConfig) -> TigerConfig {
    TigerConfig {
        d_model: 32,
        d_ff: 64,
        heads: 2,
        d_kv: 16,
        layers: 1,
        dropout: 0.1,
        feed_forward: FeedForward::Relu,
        max_history: 4,
        score_norm: ScoreNorm::Level,
        training,
        ..TigerConfig::default()
    }
}

/// A vector an item, whatever it says.
fn vectors() -> Embeddings {
    Embeddings::new(ITEMS, 4, (0..ITEMS * 4).map(|i| (i as f32 * 0.7).sin()).collect()).unwrap()
}

fn materials<'a>(catalog: &'a Catalog, vectors: &'a Embeddings) -> Materials<'a> {
    Materials { vectors: Some(vectors), ..Materials::of_catalog(catalog, &Device::Cpu) }
}

fn short() -> TrainingConfig {
    TrainingConfig {
        batch_size: 8,
        max_epochs: 100,
        max_steps: Some(24),
        learning_rate: 3e-3,
        warmup_steps: 4,
        validate_every: 6,
        validate_users: 7,
        validate_beam: 10,
        checkpoint_every: 5,
        log_every: 3,
        ..TrainingConfig::default()
    }
}

fn run(config: &GeneratorConfig, dir: &Path, progress: &dyn Progress) -> Result<TrainOutcome> {
    let (catalog, (histories, split), vectors) = (catalog(), histories(12), vectors());
    train(&TrainJob {
        config,
        histories: &histories,
        split: &split,
        materials: materials(&catalog, &vectors),
        seed: 7,
        work_dir: dir,
        progress,
    })
}

fn bytes(network: &dyn Network) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    network.save(dir.path()).unwrap();
    std::fs::read(dir.path().join("model.safetensors")).unwrap()
}

/// Kills the training, as far as a test can: the step after the `after`-th never ends.
struct KillAt {
    after: u64,
    done: AtomicU64,
}

impl KillAt {
    fn new(after: u64) -> Self {
        Self { after, done: AtomicU64::new(0) }
    }
}

impl Progress for KillAt {
    fn start(&self, _task: &str, _total: Option<u64>, _unit: &'static str) {}
    fn advance(&self, by: u64) {
        assert!(self.done.fetch_add(by, Ordering::SeqCst) + by < self.after, "killed");
    }
    fn note(&self, _text: &str) {}
    fn finish(&self) {}
}

/// What a line of the log says apart from wall time.
fn told(event: &Event) -> String {
    match event {
        Event::Train { step, epoch, loss, learning_rate, grad_norm, .. } => {
            format!("{step} {epoch} {loss} {learning_rate} {grad_norm}")
        }
        Event::Validation { step, metrics, best, .. } => format!("{step} {metrics:?} {best}"),
    }
}

#[test]
fn a_killed_training_goes_on_to_the_same_bits() {
    let config = small(short());
    let whole = tempfile::tempdir().unwrap();
    let expected = run(&config, whole.path(), &NoProgress).unwrap();
    assert_eq!((expected.steps, expected.stopped), (24, Stopped::Finished));
    for kills in [vec![1], vec![8], vec![13, 19], vec![5, 12, 23]] {
        let dir = tempfile::tempdir().unwrap();
        for &after in &kills {
            let killed = catch_unwind(AssertUnwindSafe(|| run(&config, dir.path(), &KillAt::new(after)).map(drop)));
            assert!(killed.is_err(), "the training outlived its kill at step {after}");
        }
        let outcome = run(&config, dir.path(), &NoProgress).unwrap();
        assert_eq!(bytes(outcome.generator.network()), bytes(expected.generator.network()), "killed at {kills:?}");
        assert_eq!(outcome.best_step, expected.best_step);
        assert_eq!(outcome.validation, expected.validation);
        let log =
            |dir: &Path| -> Vec<String> { read_metrics(&dir.join(METRICS_FILE)).unwrap().iter().map(told).collect() };
        assert_eq!(log(dir.path()), log(whole.path()), "killed at {kills:?}");
        let last = |dir: &Path| {
            let checkpoint = sidereal_nn::checkpoint::load(dir).unwrap().unwrap();
            (checkpoint.params, checkpoint.optimizer, checkpoint.step)
        };
        assert_eq!(last(dir.path()), last(whole.path()), "killed at {kills:?}");
    }
    let again = run(&config, whole.path(), &NoProgress).unwrap();
    assert_eq!(bytes(again.generator.network()), bytes(expected.generator.network()), "a finished run stays finished");
}

#[test]
fn weights_do_not_depend_on_the_number_of_threads() {
    let config = small(TrainingConfig { max_steps: Some(6), ..short() });
    let in_pool = |threads: usize| {
        let dir = tempfile::tempdir().unwrap();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        bytes(pool.install(|| run(&config, dir.path(), &NoProgress)).unwrap().generator.network())
    };
    assert_eq!(in_pool(1), in_pool(2));
}

#[test]
fn thirty_users_are_learned_by_heart() {
    let (catalog, (histories, split)) = (catalog(), histories(30));
    let training = TrainingConfig {
        batch_size: 32,
        max_epochs: 250,
        learning_rate: 5e-3,
        weight_decay: 0.0,
        warmup_steps: 10,
        schedule: ScheduleKind::Cosine,
        validate_every: 1_000_000,
        log_every: 10,
        ..TrainingConfig::default()
    };
    let tiger = small_tiger(training);
    let config = GeneratorConfig::Tiger(TigerConfig { dropout: 0.0, ..tiger });
    let dir = tempfile::tempdir().unwrap();
    let job = TrainJob {
        config: &config,
        histories: &histories,
        split: &split,
        materials: Materials::of_catalog(&catalog, &Device::Cpu),
        seed: 3,
        work_dir: dir.path(),
        progress: &NoProgress,
    };
    let generator = train(&job).unwrap().generator;
    let losses: Vec<f64> = read_metrics(&dir.path().join(METRICS_FILE))
        .unwrap()
        .iter()
        .filter_map(|event| match event {
            Event::Train { loss, .. } => Some(*loss),
            Event::Validation { .. } => None,
        })
        .collect();
    assert!(losses[0] > 1.0 && losses[losses.len() - 1] < 0.25, "{losses:?}");
    let samples = Samples::new(&histories, &split, SampleUnit::NextItem, 4);
    let filter = LeafFilter::allow_all();
    // Different users may have shared a history and gone on differently: those cannot all be right.
    let (mut right, mut asked) = (0, 0);
    let rows: Vec<Row<'_>> = (0..samples.len() as u32).map(|number| samples.row(number)).collect();
    for row in &rows {
        let Some((target, history)) = row.items.split_last() else { panic!("a sample without target") };
        let ambiguous = rows.iter().any(|other| {
            other.items.starts_with(history) && other.items.len() == row.items.len() && other.items != row.items
        });
        if !ambiguous {
            let ranking = &generator.recommend(&catalog, &[Question::new(history, &filter)], 10).unwrap()[0];
            asked += 1;
            right += usize::from(ranking.rank_of(*target) == Some(0));
        }
    }
    assert!(asked > 30 && right == asked, "{right} of {asked}");
}

#[test]
fn every_parameter_gets_a_gradient_that_is_not_zero() {
    let (catalog, (histories, split)) = (catalog(), histories(12));
    for feed_forward in [FeedForward::Relu, FeedForward::GatedGelu] {
        let tiger = small_tiger(short());
        let vocab = CodeVocab::new(CodeVocab::FIRST_CODE, &CODES);
        let tiger = TigerConfig { feed_forward, layers: 2, ..tiger };
        let model = T5::new(tiger.t5(&vocab).unwrap(), 1, &Device::Cpu).unwrap();
        let samples = Samples::new(&histories, &split, SampleUnit::NextItem, 4);
        let rows: Vec<Row<'_>> = samples.epoch(16, 1, 0)[0].iter().map(|&number| samples.row(number)).collect();
        let batch = Batch::new(&catalog, &vocab, &rows, 4);
        let grads = model.loss(&batch, 0.1, &Dropout::new(0.1, 5)).unwrap().backward().unwrap();
        for (name, gradient) in model.hugging_face_gradients(&grads).unwrap() {
            let size: f32 = gradient.abs().unwrap().sum_all().unwrap().to_scalar().unwrap();
            assert!(size > 0.0 && size.is_finite(), "{name}: {size}");
        }
    }
}

#[test]
fn dropout_masks_follow_the_seed_and_leave_inference_alone() {
    let (catalog, (histories, split)) = (catalog(), histories(12));
    let tiger = small_tiger(short());
    let vocab = CodeVocab::new(CodeVocab::FIRST_CODE, &CODES);
    let model = T5::new(tiger.t5(&vocab).unwrap(), 1, &Device::Cpu).unwrap();
    let samples = Samples::new(&histories, &split, SampleUnit::NextItem, 4);
    let rows: Vec<Row<'_>> = (0..3).map(|number| samples.row(number)).collect();
    let batch = Batch::new(&catalog, &vocab, &rows, 4);
    let loss = |dropout: Dropout| model.loss(&batch, 0.0, &dropout).unwrap().to_scalar::<f32>().unwrap();
    assert_eq!(loss(Dropout::new(0.3, 5)), loss(Dropout::new(0.3, 5)));
    assert_ne!(loss(Dropout::new(0.3, 5)), loss(Dropout::new(0.3, 6)));
    assert_eq!(loss(Dropout::new(0.0, 5)), loss(Dropout::none()));
}

#[test]
fn a_diverged_training_names_the_step_and_the_mend() {
    let dir = tempfile::tempdir().unwrap();
    let config = small(TrainingConfig { learning_rate: 1e30, warmup_steps: 0, validate_every: 1000, ..short() });
    let error = run(&config, dir.path(), &NoProgress).unwrap_err().to_string();
    assert!(error.contains("training step") && error.contains("lower learning_rate"), "{error}");
}

#[test]
fn a_folder_of_another_training_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    run(&small(TrainingConfig { max_steps: Some(2), ..short() }), dir.path(), &NoProgress).unwrap();
    let other = small(TrainingConfig { max_steps: Some(2), learning_rate: 1e-4, ..short() });
    let error = run(&other, dir.path(), &NoProgress).unwrap_err().to_string();
    assert!(error.contains("another training") && error.contains("another folder"), "{error}");
}

#[test]
fn nothing_to_learn_is_an_error_that_says_so() {
    let (catalog, (histories, split)) = (catalog(), histories(0));
    let dir = tempfile::tempdir().unwrap();
    let job = TrainJob {
        config: &small(short()),
        histories: &histories,
        split: &split,
        materials: Materials::of_catalog(&catalog, &Device::Cpu),
        seed: 1,
        work_dir: dir.path(),
        progress: &NoProgress,
    };
    assert!(train(&job).unwrap_err().to_string().contains("no next item to learn"));
}

#[test]
fn patience_ends_a_training_that_no_longer_becomes_better() {
    let dir = tempfile::tempdir().unwrap();
    let training = TrainingConfig { learning_rate: 0.0, validate_every: 2, patience: 3, ..short() };
    let outcome = run(&small(training), dir.path(), &NoProgress).unwrap();
    assert_eq!((outcome.stopped, outcome.steps, outcome.best_step), (Stopped::Patience, 8, 2));
}

#[test]
fn another_catalog_is_refused_by_both_names_unless_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let outcome = run(&small(TrainingConfig { max_steps: Some(1), ..short() }), dir.path(), &NoProgress).unwrap();
    let saved = tempfile::tempdir().unwrap();
    outcome.generator.save(saved.path()).unwrap();
    let ids: Vec<ItemId> = (0..3).map(|i| ItemId::from(format!("other {i}"))).collect();
    let sids = SemanticIds::new(3, vec![0, 0, 0, 1, 2, 1, 3, 3, 2]).unwrap();
    let other = Catalog::build(&ids, &sids, &CODES, CollisionPolicy::Postings, None).unwrap();
    let error =
        Generator::load(saved.path(), &Materials::of_catalog(&other, &Device::Cpu), false).unwrap_err().to_string();
    assert!(error.contains(other.version()) && error.contains(catalog().version()), "{error}");
    let allowed = Generator::load(saved.path(), &Materials::of_catalog(&other, &Device::Cpu), true).unwrap();
    let filter = LeafFilter::allow_all();
    assert_eq!(allowed.recommend(&other, &[Question::new(&[0, 1], &filter)], 5).unwrap()[0].items.len(), 3);
    let wider = Catalog::build(&ids, &sids, &[4, 4, 4], CollisionPolicy::Postings, None).unwrap();
    let error =
        Generator::load(saved.path(), &Materials::of_catalog(&wider, &Device::Cpu), true).unwrap_err().to_string();
    assert!(error.contains("[4, 4, 3]") && error.contains("[4, 4, 4]"), "{error}");
}

/// A recipe of the method that is small enough for a test.
fn shrunk(config: GeneratorConfig) -> GeneratorConfig {
    match config {
        GeneratorConfig::Tiger(_) => small(TrainingConfig { max_steps: Some(3), ..short() }),
        GeneratorConfig::Llm(config) => GeneratorConfig::Llm(LlmConfig {
            d_model: 16,
            d_ff: 24,
            layers: 1,
            training: TrainingConfig { max_steps: Some(3), ..short() },
            ..config
        }),
        GeneratorConfig::Sasrec(config) => GeneratorConfig::Sasrec(SasrecConfig {
            d_model: 16,
            d_ff: 32,
            training: TrainingConfig { max_steps: Some(3), ..short() },
            ..config
        }),
        GeneratorConfig::Rpg(rpg) => GeneratorConfig::Rpg(RpgConfig {
            d_model: 16,
            d_ff: 24,
            layers: 1,
            max_history: 4,
            training: TrainingConfig { max_steps: Some(3), ..short() },
            ..rpg
        }),
        GeneratorConfig::Recgpt(recgpt) => GeneratorConfig::Recgpt(RecgptConfig {
            d_model: 16,
            d_ff: 24,
            layers: 1,
            max_history: 4,
            training: TrainingConfig { max_steps: Some(3), ..short() },
            ..recgpt
        }),
        GeneratorConfig::Setrec(setrec) => GeneratorConfig::Setrec(SetrecConfig {
            d_model: 16,
            d_ff: 24,
            layers: 1,
            training: TrainingConfig { max_steps: Some(3), ..short() },
            ..setrec
        }),
        GeneratorConfig::Liger(liger) => {
            let network = small_tiger(TrainingConfig { max_steps: Some(3), ..short() });
            GeneratorConfig::Liger(LigerConfig { network, ..liger })
        }
    }
}

#[test]
fn every_generator_trains_saves_loads_and_answers_with_catalog_items() {
    let (catalog, vectors) = (catalog(), vectors());
    for method in GENERATORS {
        let default = (method.default_config)();
        assert_eq!(default.method(), method.name);
        assert!(method.paper.contains("arXiv") && !method.summary.is_empty(), "{}", method.name);
        let mut json = serde_json::to_value(&default).unwrap();
        assert_eq!(serde_json::from_value::<GeneratorConfig>(json.clone()).unwrap(), default);
        json[method.name]["layerz"] = 3.into();
        let error = serde_json::from_value::<GeneratorConfig>(json).unwrap_err().to_string();
        assert!(error.contains("layerz"), "{}: {error}", method.name);

        let dir = tempfile::tempdir().unwrap();
        let outcome = run(&shrunk(default), dir.path(), &NoProgress).unwrap();
        let saved = tempfile::tempdir().unwrap();
        outcome.generator.save(saved.path()).unwrap();
        let loaded = Generator::load(saved.path(), &materials(&catalog, &vectors), false).unwrap();
        assert_eq!(loaded.info(), outcome.generator.info());
        let denied = LeafFilter::deny_items(&catalog, &[3, 4, 5]);
        let questions = [Question::new(&[3, 4, 5], &denied), Question::new(&[], &denied)];
        let (ours, theirs) =
            (loaded.recommend(&catalog, &questions, ITEMS), outcome.generator.recommend(&catalog, &questions, ITEMS));
        assert_eq!(ours.as_ref().unwrap(), &theirs.unwrap());
        for ranking in ours.unwrap() {
            assert_eq!(ranking.items.len(), ITEMS - 3, "{}", method.name);
            assert!(ranking.items.iter().all(|scored| ![3, 4, 5].contains(&scored.item)));
        }
        let exact = loaded.ranker().score_all(&catalog, &questions[0]).unwrap();
        let best = &loaded.recommend(&catalog, &questions[..1], ITEMS).unwrap()[0];
        for scored in &best.items {
            assert!((exact[scored.item as usize] - scored.score).abs() < 1e-4, "{}", method.name);
        }
        assert!([3, 4, 5].iter().all(|&denied: &usize| exact[denied] == f32::NEG_INFINITY), "{}", method.name);
    }
}

#[test]
fn every_generator_goes_on_from_saved_weights_also_when_it_is_killed() {
    let (catalog, (histories, split), vectors) = (catalog(), histories(12), vectors());
    for method in GENERATORS {
        let config = shrunk((method.default_config)());
        let dir = tempfile::tempdir().unwrap();
        let parent = run(&config, dir.path(), &NoProgress).unwrap();
        let saved = tempfile::tempdir().unwrap();
        parent.generator.save(saved.path()).unwrap();
        let tuned = |config: &GeneratorConfig, dir: &Path, digest: &str, progress: &dyn Progress| {
            let start = Start { folder: saved.path(), digest, allowed: None };
            let (materials, seed) = (materials(&catalog, &vectors), 7);
            let (histories, split) = (&histories, &split);
            tune(&TrainJob { config, histories, split, materials, seed, work_dir: dir, progress }, &start)
        };
        let log =
            |dir: &Path| -> Vec<String> { read_metrics(&dir.join(METRICS_FILE)).unwrap().iter().map(told).collect() };

        // Steps of no length: what comes back is what was there, and it was judged before the first of them.
        let mut still = config.clone();
        still.training_mut().learning_rate = 0.0;
        let dir = tempfile::tempdir().unwrap();
        let outcome = tuned(&still, dir.path(), "parent", &NoProgress).unwrap();
        assert_eq!(bytes(outcome.generator.network()), bytes(parent.generator.network()), "{}", method.name);
        assert_eq!((outcome.best_step, outcome.validation), (0, parent.validation), "{}", method.name);
        assert_eq!(log(dir.path())[0], format!("0 {:?} true", parent.validation.unwrap()));

        let whole = tempfile::tempdir().unwrap();
        let expected = tuned(&config, whole.path(), "parent", &NoProgress).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let killed = catch_unwind(AssertUnwindSafe(|| tuned(&config, dir.path(), "parent", &KillAt::new(2)).map(drop)));
        assert!(killed.is_err(), "{} outlived its kill", method.name);
        let outcome = tuned(&config, dir.path(), "parent", &NoProgress).unwrap();
        assert_eq!(bytes(outcome.generator.network()), bytes(expected.generator.network()), "{}", method.name);
        assert_eq!(log(dir.path()), log(whole.path()), "{}", method.name);
        let error = tuned(&config, dir.path(), "another", &NoProgress).unwrap_err().to_string();
        assert!(error.contains("start was \"parent\", but is \"another\""), "{error}");
    }
}
