//! What every network of the list must hold, whatever its options: gradients reach every parameter, a killed training
//! goes on to the same bits, threads change nothing, and items that came after the training can be ranked.
#![allow(clippy::unwrap_used, missing_docs)]

use sidereal_core::{ItemIndex, LeafFilter};
use sidereal_generator::batches::Samples;
use sidereal_generator::training::AverageConfig;
use sidereal_generator::{GENERATORS, Generator, Question, Row, TrainOutcome};
use sidereal_nn::kernels::Precision;
use sidereal_nn::ops::in_precision;

mod recipes;
use recipes::{moved, recipes, world};

fn weights(generator: &Generator) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    generator.network().save_weights(&dir.path().join("weights")).unwrap();
    std::fs::read(dir.path().join("weights")).unwrap()
}

#[test]
fn every_model_of_the_list_has_a_recipe_here() {
    let recipes = recipes();
    for method in GENERATORS {
        let found = recipes.iter().any(|(_, config)| config.method() == method.name);
        assert!(found, "{} is in GENERATORS, but no recipe of it is tested here: add one to recipes()", method.name);
    }
}

#[test]
fn every_parameter_of_every_network_gets_a_gradient() {
    let world = world(24);
    for (name, config) in recipes() {
        let network = config.model().build(&world.materials(), 3).unwrap();
        let samples = Samples::new(&world.histories, &world.split, config.model().unit(), 4);
        let rows: Vec<Row<'_>> = (0..samples.len() as u32).map(|number| samples.row(number)).collect();
        let grads = network.loss(&rows, Some(5)).unwrap().backward().unwrap();
        for (parameter, var) in network.params().vars() {
            let gradient = grads.get(var.as_tensor()).unwrap_or_else(|| panic!("{name}: {parameter} has no gradient"));
            let size: f32 = gradient.abs().unwrap().sum_all().unwrap().to_scalar().unwrap();
            assert!(size > 0.0 && size.is_finite(), "{name}: {parameter}: {size}");
        }
    }
}

#[test]
fn in_bf16_every_network_learns_nearly_what_it_learns_in_f32() {
    let world = world(24);
    for (name, config) in recipes() {
        let network = config.model().build(&world.materials(), 3).unwrap();
        let samples = Samples::new(&world.histories, &world.split, config.model().unit(), 4);
        let rows: Vec<Row<'_>> = (0..samples.len() as u32).map(|number| samples.row(number)).collect();
        let learn = |precision: Precision| {
            let loss = in_precision(precision, || network.loss(&rows, Some(5)).unwrap());
            let grads = loss.backward().unwrap();
            let of = |(_, var): &(String, candle_core::Var)| {
                grads.get(var.as_tensor()).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
            };
            let all: Vec<f32> = network.params().vars().iter().flat_map(of).collect();
            (f64::from(loss.to_scalar::<f32>().unwrap()), all)
        };
        let (exact, rounded) = (learn(Precision::F32), learn(Precision::Bf16));
        assert!((rounded.0 / exact.0 - 1.0).abs() < 0.02, "{name}: loss {} for {}", rounded.0, exact.0);
        assert_ne!(rounded.1, exact.1, "{name}: nothing was rounded");
        let length = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt();
        let apart = length(&mut rounded.1.iter().zip(&exact.1).map(|(a, b)| a - b));
        let share = apart / length(&mut exact.1.iter().copied());
        assert!(share < 0.05, "{name}: gradients are {share} of their length apart");
    }
}

#[test]
fn a_training_in_bf16_ends_with_the_same_bits_in_parts_and_on_any_threads() {
    let world = world(24);
    for (name, mut config) in recipes() {
        config.training_mut().precision = Precision::Bf16;
        let [whole, parts] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        pool.install(|| world.train(&config, whole.path()));
        let mut first = config.clone();
        first.training_mut().max_minutes = Some(1e-9);
        world.train(&first, parts.path());
        world.train(&config, parts.path());
        let last = |dir: &std::path::Path| sidereal_nn::checkpoint::load(dir).unwrap().unwrap().params;
        assert_eq!(last(parts.path()), last(whole.path()), "{name}");
        // A checkpoint in bf16 is not gone on from in f32.
        config.training_mut().precision = Precision::F32;
        let refused = world.try_train(&config, whole.path()).unwrap_err().to_string();
        assert!(refused.contains("precision"), "{name}: {refused}");
    }
}

#[test]
fn losses_follow_finite_differences() {
    let world = world(24);
    for (name, config) in recipes() {
        let network = config.model().build(&world.materials(), 3).unwrap();
        let samples = Samples::new(&world.histories, &world.split, config.model().unit(), 4);
        let rows: Vec<Row<'_>> = (0..4).map(|number| samples.row(number)).collect();
        let loss = || f64::from(network.loss(&rows, Some(5)).unwrap().to_scalar::<f32>().unwrap());
        let grads = network.loss(&rows, Some(5)).unwrap().backward().unwrap();
        for (parameter, var) in network.params().vars() {
            let gradient = grads.get(var.as_tensor()).unwrap().clone();
            let length = gradient.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
            let before = var.as_tensor().copy().unwrap();
            // Along the gradient itself the loss rises fastest, so rounding matters least.
            let step = 2e-3 / f64::from(length).max(1e-3);
            let at = |factor: f64| {
                var.set(&(&before + (&gradient * (factor * step)).unwrap()).unwrap()).unwrap();
                loss()
            };
            let measured = (at(1.0) - at(-1.0)) / (2.0 * step);
            var.set(&before).unwrap();
            let expected = f64::from(length).powi(2);
            let close = (measured - expected).abs() < 0.05 * expected + 2e-4;
            assert!(close, "{name}: {parameter}: {measured} along the gradient, not {expected}");
        }
    }
}

#[test]
fn a_training_in_two_parts_ends_with_the_bits_of_one_in_one() {
    let world = world(24);
    for (name, config) in recipes() {
        let whole = tempfile::tempdir().unwrap();
        let expected = world.train(&config, whole.path());
        let parts = tempfile::tempdir().unwrap();
        let mut first = config.clone();
        // The limit of minutes is no part of a run's identity, so this stops after a step or two and can go on.
        first.training_mut().max_minutes = Some(1e-9);
        world.train(&first, parts.path());
        let outcome = world.train(&config, parts.path());
        assert_eq!(outcome.steps, expected.steps, "{name}");
        let last = |dir: &std::path::Path| sidereal_nn::checkpoint::load(dir).unwrap().unwrap().params;
        assert_eq!(last(parts.path()), last(whole.path()), "{name}");
    }
}

#[test]
fn averaged_weights_go_on_to_the_same_bits_and_are_what_is_validated_and_comes_back() {
    let world = world(24);
    for (name, mut config) in recipes() {
        // One validation, after the last step: what it judges is what comes back.
        config.training_mut().validate_every = 1000;
        let plain = tempfile::tempdir().unwrap();
        let without = world.train(&config, plain.path());
        config.training_mut().average = Some(AverageConfig { decay: 0.6 });
        let [whole, parts] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let expected = world.train(&config, whole.path());
        let mut first = config.clone();
        first.training_mut().max_minutes = Some(1e-9);
        world.train(&first, parts.path());
        world.train(&config, parts.path());
        let last = |dir: &std::path::Path| sidereal_nn::checkpoint::load(dir).unwrap().unwrap();
        let (ours, theirs) = (last(parts.path()), last(whole.path()));
        assert!(ours.params == theirs.params && ours.average == theirs.average, "{name}");

        // Steps are those of a training without a mean.
        assert_eq!(theirs.params, last(plain.path()).params, "{name}");
        let weights = |outcome: &TrainOutcome| outcome.generator.network().params().snapshot().unwrap();
        assert_eq!(expected.best_step, expected.steps, "{name}");
        assert_eq!(Some(weights(&expected)), theirs.average, "{name}");
        assert_eq!(weights(&without), theirs.params, "{name}");
        assert_ne!(weights(&expected), theirs.params, "{name}");

        // A checkpoint without a mean is not gone on from with one.
        let refused = world.try_train(&config, plain.path()).unwrap_err().to_string();
        assert!(refused.contains("average was null"), "{name}: {refused}");
    }
}

#[test]
fn threads_change_no_weight() {
    let world = world(24);
    for (name, config) in recipes() {
        let in_pool = |threads: usize| {
            let dir = tempfile::tempdir().unwrap();
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            weights(&pool.install(|| world.train(&config, dir.path())).generator)
        };
        assert_eq!(in_pool(1), in_pool(3), "{name}");
    }
}

#[test]
fn histories_of_no_item_and_one_item_are_answered_with_every_allowed_item() {
    let world = world(24);
    for (name, config) in recipes() {
        let dir = tempfile::tempdir().unwrap();
        let generator = world.train(&config, dir.path()).generator;
        let filter = LeafFilter::deny_items(&world.catalog, &[1, 5]);
        let long: Vec<ItemIndex> = (0..23).collect();
        let questions = [&[][..], &[5][..], &long[..]].map(|history| Question::new(history, &filter));
        for ranking in generator.recommend(&world.catalog, &questions, 24).unwrap() {
            let mut items: Vec<ItemIndex> = ranking.items.iter().map(|scored| scored.item).collect();
            assert!(ranking.items.windows(2).all(|pair| pair[0].score >= pair[1].score), "{name}");
            items.sort_unstable();
            let allowed: Vec<ItemIndex> = (0..24).filter(|item| ![1, 5].contains(item)).collect();
            assert_eq!(items, allowed, "{name}");
        }
    }
}

#[test]
fn rankings_of_every_item_have_the_scores_of_the_whole_catalog() {
    let world = world(24);
    let filter = LeafFilter::deny_items(&world.catalog, &[1, 5]);
    for (name, config) in recipes() {
        let ranker = moved(&config, &world.materials()).ranker(&world.materials()).unwrap();
        // Items of these histories may be answered again: some models score them otherwise than others.
        let questions = [&[][..], &[7][..], &[1, 3, 9][..], &[2, 4, 6, 8, 10, 12][..]]
            .map(|history| Question { user: Some(3), ..Question::new(history, &filter) });
        let together = ranker.score_each(&world.catalog, &questions).unwrap();
        let rankings = ranker.rank(&world.catalog, &questions, 24).unwrap();
        for ((question, ranking), together) in questions.iter().zip(&rankings).zip(together.chunks_exact(24)) {
            let scores = ranker.score_all(&world.catalog, question).unwrap();
            assert_eq!(ranking.items.len(), 22, "{name}");
            assert!([1, 5].iter().all(|&denied: &usize| scores[denied] == f32::NEG_INFINITY), "{name}");
            for scored in &ranking.items {
                let exact = [scores[scored.item as usize], together[scored.item as usize]];
                let close = exact.iter().all(|exact| (exact - scored.score).abs() < 1e-3);
                assert!(close, "{name}, item {}: ranked by {}, scored {exact:?}", scored.item, scored.score);
            }
        }
    }
}

#[test]
fn a_catalog_with_one_item_is_answered_with_it() {
    let world = world(1);
    for (name, config) in recipes() {
        let dir = tempfile::tempdir().unwrap();
        let generator = world.train(&config, dir.path()).generator;
        let filter = LeafFilter::allow_all();
        let ranking = &generator.recommend(&world.catalog, &[Question::new(&[0], &filter)], 10).unwrap()[0];
        assert_eq!(ranking.items.len(), 1, "{name}");
    }
}

#[test]
fn items_that_came_after_the_training_are_ranked_too() {
    let (before, after) = (world(24), world(26));
    for (name, config) in recipes() {
        let (dir, saved) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        before.train(&config, dir.path()).generator.save(saved.path()).unwrap();
        let generator = Generator::load(saved.path(), &after.materials(), true).unwrap();
        let filter = LeafFilter::allow_all();
        for history in [&[3, 4][..], &[25, 24][..]] {
            let ranking = &generator.recommend(&after.catalog, &[Question::new(history, &filter)], 26).unwrap()[0];
            assert_eq!(ranking.items.len(), 26, "{name}");
        }
    }
}
