//! Every model on a device against the CPU: loss, gradients, trained weights, and rankings under every kind of filter.
//!
//! `SIDEREAL_DEVICE=cuda` (or `metal`) names the device. Without it the device's path is followed on the CPU: ops composed of
//! candle's, and the search that stays where the scores are. A device that is named and missing fails the suite.
#![allow(clippy::unwrap_used)]

mod recipes;

use candle_core::Device;
use recipes::{World, moved, recipes, world};
use sidereal_core::filter::{Allowed, Bits};
use sidereal_core::{LeafFilter, NoProgress};
use sidereal_generator::batches::Samples;
use sidereal_generator::{
    Generator, GeneratorConfig, Materials, Network, Question, Quota, Ranking, Row, Search, TrainJob, Widths, train,
};
use sidereal_nn::device::DeviceChoice;
use sidereal_nn::kernels::Precision;
use sidereal_nn::ops::{composed, in_precision};
use sidereal_nn::tolerance::{DEVICE_F32, Tolerance};

/// Scores are sums over levels, and losses means over targets: both add up what single numbers may be off.
const SUMS: Tolerance = Tolerance { absolute: 5.0 * DEVICE_F32.absolute, relative: 5.0 * DEVICE_F32.relative };
/// Losses of products in bf16, which a device adds up in another order and rounds once more.
const ROUNDED: Tolerance = Tolerance { absolute: 0.0, relative: 2e-2 };
/// What six steps make of it: Adam divides by what is near zero.
const TRAINED: Tolerance = Tolerance { absolute: 1e-2, relative: 1e-2 };

/// What a model says on one device.
struct Answers {
    loss: f32,
    loss_in_bf16: f32,
    gradients: Vec<(String, Vec<f32>)>,
    rankings: Vec<Vec<Ranking>>,
    trained_loss: f32,
}

fn network(config: &GeneratorConfig, materials: &Materials<'_>, weights: Option<&std::path::Path>) -> Box<dyn Network> {
    let Some(path) = weights else { return moved(config, materials) };
    let mut network = config.model().build(materials, 3).unwrap();
    network.load_weights(path).unwrap();
    network
}

fn loss_of(network: &dyn Network, world: &World, config: &GeneratorConfig) -> candle_core::Tensor {
    let samples = Samples::new(&world.histories, &world.split, config.model().unit(), 4);
    let rows: Vec<Row<'_>> = (0..samples.len().min(24) as u32).map(|number| samples.row(number)).collect();
    network.loss(&rows, Some(5)).unwrap()
}

fn filters(world: &World) -> Vec<LeafFilter> {
    let catalog = &world.catalog;
    let third = Allowed::new(catalog, &Bits::of(24, (0..24).filter(|item| item % 3 == 1)));
    let none = Allowed::new(catalog, &Bits::none(24));
    vec![
        LeafFilter::allow_all(),
        LeafFilter::deny_items(catalog, &[1, 5, 6, 7, 20]),
        LeafFilter::new(catalog, &third, &[]).unwrap(),
        LeafFilter::new(catalog, &third, &[4, 7, 10]).unwrap(),
        LeafFilter::new(catalog, &none, &[]).unwrap(),
    ]
}

fn answers(
    world: &World,
    config: &GeneratorConfig,
    device: &Device,
    weights: &std::path::Path,
    first: bool,
) -> Answers {
    let materials = world.materials_on(device);
    let network = network(config, &materials, (!first).then_some(weights));
    if first {
        network.save_weights(weights).unwrap();
    }
    let loss = loss_of(network.as_ref(), world, config);
    let in_bf16 = in_precision(Precision::Bf16, || loss_of(network.as_ref(), world, config));
    let grads = loss.backward().unwrap();
    let gradient = |(name, var): &(String, candle_core::Var)| {
        let gradient = grads.get(var.as_tensor()).unwrap_or_else(|| panic!("{name} has no gradient"));
        (name.clone(), gradient.flatten_all().unwrap().to_vec1().unwrap())
    };
    let gradients = network.params().vars().iter().map(gradient).collect();

    let ranker = network.ranker(&materials).unwrap();
    let histories = [&[][..], &[7][..], &[1, 3, 9][..], &[2, 4, 6, 8, 10, 12][..]];
    let searches = [
        Search::from(24),
        Search::from(5),
        Search::from(Widths::from(vec![4, 9, 7])),
        Search { quota: Some(Quota { per_code: 2, wanted: 5 }), ..Search::from(8) },
    ];
    let filters = filters(world);
    let mut rankings = Vec::new();
    for search in &searches {
        // All questions together: a device takes those under the same condition at a time.
        let questions: Vec<Question<'_>> = filters
            .iter()
            .flat_map(|filter| histories.map(|history| Question { user: Some(3), ..Question::new(history, filter) }))
            .collect();
        rankings.push(ranker.search(&world.catalog, &questions, search).unwrap());
    }

    let dir = tempfile::tempdir().unwrap();
    let job = TrainJob {
        config,
        histories: &world.histories,
        split: &world.split,
        materials,
        seed: 7,
        work_dir: dir.path(),
        progress: &NoProgress,
    };
    let trained: Generator = train(&job).unwrap().generator;
    let trained_loss = loss_of(trained.network(), world, config).to_scalar().unwrap();
    let loss_in_bf16 = in_bf16.to_scalar().unwrap();
    Answers { loss: loss.to_scalar().unwrap(), loss_in_bf16, gradients, rankings, trained_loss }
}

fn assert_close(what: &str, within: Tolerance, device: f32, cpu: f32) {
    assert!(within.holds(f64::from(device), f64::from(cpu)), "{what}: {device} on the device, {cpu} on the CPU");
}

#[test]
fn every_model_learns_and_answers_on_the_device_as_on_the_cpu() {
    let choice: DeviceChoice = std::env::var("SIDEREAL_DEVICE").unwrap_or_else(|_| "cpu".to_owned()).parse().unwrap();
    let device = choice.open().unwrap();
    let world = world(24);
    let folder = tempfile::tempdir().unwrap();
    let weights = |at: usize| folder.path().join(format!("{at}.safetensors"));
    let recipes = recipes();
    let on_cpu: Vec<Answers> =
        (0..recipes.len()).map(|at| answers(&world, &recipes[at].1, &Device::Cpu, &weights(at), true)).collect();
    if choice == DeviceChoice::Cpu {
        composed::everywhere();
    }
    for (at, (name, config)) in recipes.iter().enumerate() {
        let (cpu, device) = (&on_cpu[at], answers(&world, config, &device, &weights(at), false));
        assert_close(&format!("{name}: loss"), SUMS, device.loss, cpu.loss);
        assert_close(&format!("{name}: loss in bf16"), ROUNDED, device.loss_in_bf16, cpu.loss_in_bf16);
        assert_close(&format!("{name}: loss after training"), TRAINED, device.trained_loss, cpu.trained_loss);
        for ((parameter, ours), (_, theirs)) in device.gradients.iter().zip(&cpu.gradients) {
            let largest = theirs.iter().fold(0f32, |most, value| most.max(value.abs()));
            for (ours, theirs) in ours.iter().zip(theirs) {
                let close = (ours - theirs).abs() <= 2e-3 * largest + 1e-5;
                assert!(close, "{name}, gradient of {parameter}: {ours} on the device, {theirs} on the CPU");
            }
        }
        for (search, (ours, theirs)) in device.rankings.iter().zip(&cpu.rankings).enumerate() {
            for (question, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
                let what = format!("{name}, search {search}, question {question}");
                assert_eq!(ours.items.len(), theirs.items.len(), "{what}");
                for (ours, theirs) in ours.items.iter().zip(&theirs.items) {
                    assert_close(&what, SUMS, ours.score, theirs.score);
                }
                // Items that score alike may change places; those that stand apart may not.
                let apart = |items: &[sidereal_generator::ScoredItem], at: usize| {
                    let near = |other: Option<&sidereal_generator::ScoredItem>| {
                        other.is_some_and(|other| (other.score - items[at].score).abs() < 5e-3)
                    };
                    !near(at.checked_sub(1).and_then(|before| items.get(before))) && !near(items.get(at + 1))
                };
                for at in (0..theirs.items.len()).filter(|&at| apart(&theirs.items, at)) {
                    // The last of a narrow beam may stand beside one that was left out.
                    if at + 1 < theirs.items.len() || search == 0 {
                        assert_eq!(ours.items[at].item, theirs.items[at].item, "{what}, place {at}");
                    }
                }
            }
        }
    }
}
