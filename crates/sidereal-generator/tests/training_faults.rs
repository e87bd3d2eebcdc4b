//! What goes wrong around a training, and what a training leaves beside its weights.
#![allow(clippy::unwrap_used, missing_docs)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::Device;
use sidereal_core::{
    Catalog, CollisionPolicy, Histories, ItemId, ItemIndex, LeafFilter, NoProgress, Progress, SemanticIds, Split,
    SplitRule,
};
use sidereal_generator::models::tiger::TigerConfig;
use sidereal_generator::training::{EVENTS_FILE, Event, METRICS_FILE, ScheduleKind, read_metrics};
use sidereal_generator::{
    GeneratorConfig, Materials, Network, Question, Result, TrainJob, TrainOutcome, TrainingConfig, train,
};

const ITEMS: usize = 24;

fn catalog_of(items: usize, codes: &[u32]) -> Catalog {
    let ids: Vec<ItemId> = (0..items).map(|i| ItemId::from(format!("item {i}"))).collect();
    let sids = (0..items as u32).flat_map(|i| [i % codes[0], i / codes[0]]).map(|code| code as u16).collect();
    Catalog::build(&ids, &SemanticIds::new(2, sids).unwrap(), codes, CollisionPolicy::Postings, None).unwrap()
}

fn catalog() -> Catalog {
    catalog_of(ITEMS, &[4, 6])
}

/// Users who each walk through the items with a stride of their own.
fn histories(users: usize, items: usize) -> (Histories, Split) {
    let (mut offsets, mut taken) = (vec![0u64], Vec::new());
    for user in 0..users {
        let (start, stride) = (user * 5 % items, 1 + user % 5);
        taken.extend((0..5 + user % 3).map(|i| ((start + i * stride) % items) as ItemIndex));
        offsets.push(taken.len() as u64);
    }
    let names = (0..users).map(|u| format!("user {u}")).collect();
    let histories = Histories::new(names, offsets, taken, None, None).unwrap();
    let split = Split::new(&histories, SplitRule::LeaveOneOut).unwrap();
    (histories, split)
}

fn small(training: TrainingConfig) -> TigerConfig {
    TigerConfig {
        d_model: 32,
        d_ff: 64,
        heads: 2,
        d_kv: 16,
        layers: 1,
        dropout: 0.1,
        max_history: 4,
        training,
        ..TigerConfig::default()
    }
}

fn short() -> TrainingConfig {
    TrainingConfig {
        batch_size: 8,
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

fn run_on(
    catalog: &Catalog,
    (histories, split): &(Histories, Split),
    config: TigerConfig,
    dir: &Path,
    progress: &dyn Progress,
) -> Result<TrainOutcome> {
    train(&TrainJob {
        config: &GeneratorConfig::Tiger(config),
        histories,
        split,
        materials: Materials::of_catalog(catalog, &Device::Cpu),
        seed: 7,
        work_dir: dir,
        progress,
    })
}

fn run(config: TigerConfig, dir: &Path) -> Result<TrainOutcome> {
    run_on(&catalog(), &histories(12, ITEMS), config, dir, &NoProgress)
}

fn bytes(network: &dyn Network) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    network.save(dir.path()).unwrap();
    std::fs::read(dir.path().join("model.safetensors")).unwrap()
}

#[test]
fn a_loss_that_is_no_number_names_step_and_samples() {
    let dir = tempfile::tempdir().unwrap();
    let training = TrainingConfig { learning_rate: 1e30, warmup_steps: 0, validate_every: 1000, ..short() };
    let error = run(small(training), dir.path()).unwrap_err().to_string();
    for part in ["training step 2", "of 8 samples", "sample ", "user \"user ", "events ", "lower learning_rate"] {
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
    assert!(error.contains("No checkpoint was saved before"), "{error}");
}

#[test]
fn weights_that_broke_never_replace_the_last_good_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    // This decay makes every weight a thousand times longer a step: the first steps are sound, and no number of f32
    // holds the weights of the thirteenth.
    let training = TrainingConfig {
        learning_rate: 1e-3,
        weight_decay: 1e6,
        warmup_steps: 0,
        schedule: ScheduleKind::Constant,
        checkpoint_every: 1,
        validate_every: 1000,
        ..short()
    };
    let file = sidereal_nn::checkpoint::path(dir.path());
    let error = run(small(training.clone()), dir.path()).unwrap_err().to_string();
    let checkpoint = sidereal_nn::checkpoint::load(dir.path()).unwrap().expect("a checkpoint of a sound step");
    assert!((1..13).contains(&checkpoint.step), "{}", checkpoint.step);
    assert!(checkpoint.params.arrays().all(|(_, _, values)| values.iter().all(|value| value.is_finite())));
    for part in [
        format!("training step {}:", checkpoint.step + 1),
        " a batch of ".to_owned(),
        "user \"user ".to_owned(),
        format!("The checkpoint of step {} in {} is whole", checkpoint.step, dir.path().display()),
    ] {
        assert!(error.contains(&part), "{part:?} is not in: {error}");
    }
    // It can be gone on from, and breaks again where it broke.
    let kept = std::fs::read(&file).unwrap();
    assert_eq!(run(small(training), dir.path()).unwrap_err().to_string(), error);
    assert_eq!(std::fs::read(&file).unwrap(), kept);
}

#[test]
fn a_checkpoint_of_another_shape_or_catalog_is_refused_with_both_named() {
    let dir = tempfile::tempdir().unwrap();
    let two = || TrainingConfig { max_steps: Some(2), ..short() };
    run(small(two()), dir.path()).unwrap();
    let before = std::fs::read(sidereal_nn::checkpoint::path(dir.path())).unwrap();
    let error = run(TigerConfig { d_model: 48, ..small(two()) }, dir.path()).unwrap_err().to_string();
    assert!(error.contains("config.tiger.d_model was 32, but is 48") && error.contains("another folder"), "{error}");
    let other = catalog_of(ITEMS, &[6, 4]);
    let error = run_on(&other, &histories(12, ITEMS), small(two()), dir.path(), &NoProgress).unwrap_err().to_string();
    for part in [catalog().version(), other.version(), "[4,6]", "[6,4]"] {
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
    let error = run(small(TrainingConfig { learning_rate: 1e-4, ..two() }), dir.path()).unwrap_err().to_string();
    assert!(error.contains("learning_rate was 0.003, but is 0.0001"), "{error}");
    assert_eq!(std::fs::read(sidereal_nn::checkpoint::path(dir.path())).unwrap(), before);
}

#[test]
fn accumulation_changes_no_bit_on_the_cpu() {
    let (catalog, world) = (catalog(), histories(60, ITEMS));
    let with = |accumulation| {
        let dir = tempfile::tempdir().unwrap();
        let training = TrainingConfig { batch_size: 150, max_steps: Some(4), accumulation, ..short() };
        bytes(run_on(&catalog, &world, small(training), dir.path(), &NoProgress).unwrap().generator.network())
    };
    let whole = with(1);
    assert!(with(2) == whole && with(5) == whole && with(150) == whole);
    let dir = tempfile::tempdir().unwrap();
    for (accumulation, mend) in [(0, "give 1 or more"), (9, "at most batch_size")] {
        let error = run(small(TrainingConfig { accumulation, ..short() }), dir.path()).unwrap_err().to_string();
        assert!(error.contains("tiger.training.accumulation") && error.contains(mend), "{error}");
    }
}

#[test]
fn a_recipe_without_accumulation_is_resolved_as_before_there_was_the_key() {
    let plain = serde_json::to_string(&short()).unwrap();
    assert!(!plain.contains("accumulation"), "{plain}");
    let four = serde_json::to_value(TrainingConfig { accumulation: 4, ..short() }).unwrap();
    assert_eq!(serde_json::from_value::<TrainingConfig>(four).unwrap().accumulation, 4);
}

/// The step after the `after`-th never ends.
struct KillAt(u64, AtomicU64);

impl Progress for KillAt {
    fn start(&self, _task: &str, _total: Option<u64>, _unit: &'static str) {}
    fn advance(&self, by: u64) {
        assert!(self.1.fetch_add(by, Ordering::SeqCst) + by < self.0, "killed");
    }
    fn note(&self, _text: &str) {}
    fn finish(&self) {}
}

#[test]
fn a_continued_training_tells_tensorboard_what_an_undisturbed_one_tells() {
    let events = |dir: &Path| std::fs::metadata(dir.join(EVENTS_FILE)).unwrap().len();
    let (whole, killed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let outcome = run(small(short()), whole.path()).unwrap();
    for after in [4, 13, 20] {
        let watcher = KillAt(after, AtomicU64::new(0));
        let (catalog, world) = (catalog(), histories(12, ITEMS));
        let job = || run_on(&catalog, &world, small(short()), killed.path(), &watcher).map(drop);
        assert!(catch_unwind(AssertUnwindSafe(job)).is_err());
    }
    run(small(short()), killed.path()).unwrap();
    // All scalars of a tag are of one size: another number of them would be another size.
    assert_eq!(events(killed.path()), events(whole.path()));
    let told = read_metrics(&whole.path().join(METRICS_FILE)).unwrap();
    assert!(told.len() > 10);
    for event in told {
        // Drawing samples is a small part of a step, and some part.
        let Event::Train { data_share, .. } = event else { continue };
        assert!(data_share > 0.0 && data_share < 0.5, "{data_share}");
    }
    let measured = outcome.measured;
    assert!(measured.seconds > 0.0 && measured.samples_per_s > 0.0, "{measured:?}");
    #[cfg(target_os = "linux")]
    assert!(measured.cpu_seconds > 0.0 && measured.peak_memory_bytes > 1 << 20, "{measured:?}");
}

#[test]
fn a_catalog_of_one_item_is_trained_on_and_answers_with_it() {
    let catalog = catalog_of(1, &[4, 6]);
    let dir = tempfile::tempdir().unwrap();
    let outcome = run_on(&catalog, &histories(12, 1), small(short()), dir.path(), &NoProgress).unwrap();
    assert_eq!(outcome.validation.unwrap().recall_at_10, 1.0);
    let filter = LeafFilter::allow_all();
    for width in [1, 50, 10_000] {
        let ranking = &outcome.generator.recommend(&catalog, &[Question::new(&[0], &filter)], width).unwrap()[0];
        assert_eq!((ranking.items.len(), ranking.items[0].item), (1, 0));
    }
}

#[test]
fn a_width_beyond_the_catalog_answers_every_item_once() {
    let dir = tempfile::tempdir().unwrap();
    let training = TrainingConfig { max_steps: Some(2), validate_beam: 1000, ..short() };
    let outcome = run(small(training), dir.path()).unwrap();
    let filter = LeafFilter::allow_all();
    let ranking = &outcome.generator.recommend(&catalog(), &[Question::new(&[1, 2], &filter)], 1000).unwrap()[0];
    let mut items: Vec<ItemIndex> = ranking.items.iter().map(|scored| scored.item).collect();
    items.sort_unstable();
    assert_eq!(items, (0..ITEMS as ItemIndex).collect::<Vec<_>>());
}
