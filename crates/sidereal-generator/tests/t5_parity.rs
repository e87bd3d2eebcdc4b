//! The T5 against Hugging Face's, on three small checkpoints: see `benches/peers/make_fixtures.py` for how the files
//! in `fixtures` were made.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::{BTreeMap, HashMap};

use candle_core::{DType, Device, Tensor};
use sidereal_core::LeafFilter;
use sidereal_generator::batches::Batch;
use sidereal_generator::beam::{BeamOptions, Request, beam_search};
use sidereal_generator::dropout::Dropout;
use sidereal_generator::exact::ExactScorer;
use sidereal_generator::models::t5::{T5, T5Inference};
use sidereal_generator::scoring::CodeScores;
use sidereal_generator::{NextCodeModel, ScoreNorm};
use sidereal_nn::kernels::{Instructions, Precision};
use sidereal_nn::tolerance::{BF16_DEVICE_SCORES, BF16_SCORES, INT8_SCORES, LOGITS};

mod hugging_face;
use hugging_face::{Beams, agree, assert_same_ranking, flat, folder, largest_difference};

const VARIANTS: [&str; 3] = ["t5_relu_tied", "t5_gated_gelu", "t5_gated_gelu_noscale"];
struct Fixture {
    model: T5,
    batch: Batch,
    io: HashMap<String, Tensor>,
}

fn fixture(variant: &str) -> Fixture {
    let io = candle_core::safetensors::load(folder(variant).join("io.safetensors"), &Device::Cpu).unwrap();
    let tokens = |name: &str| io[name].to_dtype(DType::U32).unwrap();
    let (ids, mask) = (tokens("input_ids"), tokens("attention_mask"));
    let (rows, width) = ids.dims2().unwrap();
    let batch = Batch {
        history: ids.flatten_all().unwrap().to_vec1().unwrap(),
        lengths: mask.to_vec2::<u32>().unwrap().iter().map(|row| row.iter().sum()).collect(),
        target: tokens("labels").flatten_all().unwrap().to_vec1().unwrap(),
        rows,
        width,
        levels: io["labels"].dim(1).unwrap(),
        ..Batch::default()
    };
    Fixture { model: T5::load(&folder(variant), &Device::Cpu).unwrap(), batch, io }
}

#[test]
fn encoder_states_logits_and_loss_equal_hugging_face() {
    for variant in VARIANTS {
        let f = fixture(variant);
        let none = Dropout::none();
        let states = f.model.encoder_states(&f.batch, &none).unwrap();
        let (ours, theirs) = (flat(&states), flat(&f.io["encoder_last_hidden_state"]));
        let d = f.model.config().d_model;
        for (row, &length) in f.batch.lengths.iter().enumerate() {
            let tokens = row * f.batch.width * d..(row * f.batch.width + length as usize) * d;
            agree(&format!("{variant}, encoder states of row {row}"), &ours[tokens.clone()], &theirs[tokens]);
        }
        let logits = f.model.logits(&f.batch, &none).unwrap();
        agree(&format!("{variant}, logits"), &flat(&logits), &flat(&f.io["logits"]));
        let loss = f.model.loss(&f.batch, 0.0, &none).unwrap();
        agree(&format!("{variant}, loss"), &flat(&loss), &flat(&f.io["loss"]));
    }
}

#[test]
fn every_gradient_equals_hugging_face() {
    for variant in VARIANTS {
        let f = fixture(variant);
        let grads = f.model.loss(&f.batch, 0.0, &Dropout::none()).unwrap().backward().unwrap();
        let ours: BTreeMap<String, Tensor> = f.model.hugging_face_gradients(&grads).unwrap().into_iter().collect();
        let theirs = candle_core::safetensors::load(folder(variant).join("grads.safetensors"), &Device::Cpu).unwrap();
        let names: BTreeMap<&String, ()> = theirs.keys().map(|name| (name, ())).collect();
        assert!(ours.keys().eq(names.keys().copied()), "{variant}: the names of the gradients differ");
        for (name, expected) in &theirs {
            assert_eq!(ours[name].dims(), expected.dims(), "{variant}, {name}");
            let (ours, expected) = (flat(&ours[name]), flat(expected));
            let largest = expected.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            let difference = largest_difference(&ours, &expected);
            assert!(difference <= 1e-6 + 1e-4 * largest, "{variant}, {name}: {difference} of {largest}");
        }
    }
}

fn histories(batch: &Batch) -> Vec<&[u32]> {
    let rows = batch.history.chunks_exact(batch.width).zip(&batch.lengths);
    rows.map(|(row, &length)| &row[..length as usize]).collect()
}

#[test]
fn constrained_beams_equal_hugging_face_generate_on_every_path() {
    for variant in VARIANTS {
        let (f, beams) = (fixture(variant), Beams::read(variant));
        let (catalog, vocab) = beams.catalog();
        let filter = LeafFilter::allow_all();
        let requests: Vec<Request<'_>> =
            histories(&f.batch).into_iter().map(|history| Request { history, filter: &filter }).collect();
        let options = BeamOptions::new(beams.num_beams, ScoreNorm::Full);
        for inference in [
            f.model.inference(&vocab, Precision::F32).unwrap(),
            f.model.device_inference(&vocab, Precision::F32).unwrap(),
        ] {
            let rankings = beam_search(&inference, &catalog, &requests, &options).unwrap();
            for (user, ranking) in rankings.iter().enumerate() {
                assert_eq!(ranking.leaves.len(), beams.num_beams);
                let place = format!("{variant}, user {user}");
                assert_same_ranking(&place, ranking, &catalog, &beams.sequences[user], &beams.scores[user]);
            }
        }
    }
}

#[test]
fn exact_ranking_equals_the_exhaustive_one() {
    for variant in VARIANTS {
        let (f, beams) = (fixture(variant), Beams::read(variant));
        let (catalog, vocab) = beams.catalog();
        let inference = f.model.inference(&vocab, Precision::F32).unwrap();
        let scorer = ExactScorer::new(&inference, &catalog, ScoreNorm::Full, 100).unwrap();
        for (user, history) in histories(&f.batch).into_iter().enumerate() {
            let ranking = scorer.ranking(history, &LeafFilter::allow_all()).unwrap();
            assert_eq!(ranking.items.len(), catalog.len());
            let (sequences, scores) = (&beams.exhaustive_top10[user], &beams.exhaustive_scores[user]);
            assert_same_ranking(&format!("{variant}, user {user}"), &ranking, &catalog, sequences, scores);
        }
    }
}

#[test]
fn a_request_is_scored_alike_alone_and_in_company_of_other_lengths() {
    let (f, beams) = (fixture("t5_relu_tied"), Beams::read("t5_relu_tied"));
    let (_, vocab) = beams.catalog();
    for inference in
        [f.model.inference(&vocab, Precision::F32).unwrap(), f.model.device_inference(&vocab, Precision::F32).unwrap()]
    {
        let histories = histories(&f.batch);
        let (_, together) = inference.begin(&histories, ScoreNorm::Level).unwrap();
        for (row, history) in histories.iter().enumerate() {
            let (_, alone) = inference.begin(&[history], ScoreNorm::Level).unwrap();
            assert!(largest_difference(alone.row(0), together.row(row)) < 1e-5);
        }
        let (_, empty) = inference.begin(&[histories[0], &[]], ScoreNorm::Level).unwrap();
        assert!(empty.row(1).iter().all(|score| score.is_finite()));
    }
}

#[test]
fn every_precision_answers_near_the_reference_with_all_instructions() {
    for variant in VARIANTS {
        let (f, beams) = (fixture(variant), Beams::read(variant));
        let (_, vocab) = beams.catalog();
        let histories = histories(&f.batch);
        let scores = |model: &T5Inference| -> Vec<f32> {
            let (first, begun) = model.begin(&histories, ScoreNorm::Full).unwrap();
            let (parents, codes) = ([0, 0, 1, 2, 2, 2], [3, 5, 0, 15, 7, 7]);
            let (_, next) = model.step(&first, &parents, &codes, ScoreNorm::Full).unwrap();
            let rows = |of: &CodeScores| -> Vec<f32> { (0..of.rows()).flat_map(|r| of.row(r).to_vec()).collect() };
            [rows(&begun), rows(&next)].concat()
        };
        let reference = scores(&f.model.device_inference(&vocab, Precision::F32).unwrap());
        let size = reference.iter().map(|score| f64::from(score.abs())).sum::<f64>() / reference.len() as f64;
        let off = |found: &[f32]| -> f64 {
            let error: f32 = found.iter().zip(&reference).map(|(a, b)| (a - b).abs()).sum();
            f64::from(error) / reference.len() as f64
        };
        let on_device = off(&scores(&f.model.device_inference(&vocab, Precision::Bf16).unwrap()));
        let holds = BF16_DEVICE_SCORES.holds(size + on_device, size);
        assert!(holds && on_device > 0.0, "{variant}, bf16 on a device: {on_device} in {size}");
        for (precision, tolerance) in
            [(Precision::F32, LOGITS), (Precision::Bf16, BF16_SCORES), (Precision::Int8, INT8_SCORES)]
        {
            for instructions in Instructions::ALL {
                let allowed = Instructions::limit(instructions);
                let found = scores(&f.model.inference(&vocab, precision).unwrap());
                let mean = off(&found);
                let holds = tolerance.holds(size + mean, size);
                assert!(holds, "{variant}, {precision:?} with {allowed:?}: {mean} in {size}");
            }
            Instructions::limit(Instructions::Avx512Bf16);
        }
    }
}

#[test]
fn bytes_on_a_device_are_refused_with_what_there_is_instead() {
    let (f, beams) = (fixture(VARIANTS[0]), Beams::read(VARIANTS[0]));
    let error = f.model.device_inference(&beams.catalog().1, Precision::Int8).unwrap_err().to_string();
    assert!(error.contains("int8") && error.contains("bf16") && error.contains("--device cpu"), "{error}");
}

#[test]
fn paths_agree_on_scores_of_prefixes_under_every_norm() {
    let (f, beams) = (fixture("t5_gated_gelu"), Beams::read("t5_gated_gelu"));
    let (_, vocab) = beams.catalog();
    let (cpu, device) =
        (f.model.inference(&vocab, Precision::F32).unwrap(), f.model.device_inference(&vocab, Precision::F32).unwrap());
    let histories = histories(&f.batch);
    for norm in [ScoreNorm::Full, ScoreNorm::Level] {
        let (a, b) = (cpu.begin(&histories, norm).unwrap(), device.begin(&histories, norm).unwrap());
        let (parents, codes) = ([0, 0, 1, 2, 2, 2], [3, 5, 0, 15, 7, 7]);
        let (a, _) = cpu.step(&a.0, &parents, &codes, norm).unwrap();
        let (b, _) = device.step(&b.0, &parents, &codes, norm).unwrap();
        let (parents, codes) = ([1, 0, 2, 5, 3], [1, 2, 3, 4, 5]);
        let (_, a) = cpu.step(&a, &parents, &codes, norm).unwrap();
        let (_, b) = device.step(&b, &parents, &codes, norm).unwrap();
        for row in 0..5 {
            let difference = largest_difference(a.row(row), b.row(row));
            assert!(difference < 2e-5, "{norm:?}, row {row}: {difference}");
        }
    }
}

#[test]
fn saving_writes_the_same_tensors_that_were_loaded() {
    for variant in VARIANTS {
        let dir = tempfile::tempdir().unwrap();
        fixture(variant).model.save(dir.path()).unwrap();
        let read = |dir: &std::path::Path| {
            candle_core::safetensors::load(dir.join("model.safetensors"), &Device::Cpu).unwrap()
        };
        let (ours, theirs) = (read(dir.path()), read(&folder(variant)));
        assert_eq!(ours.len(), theirs.len());
        for (name, expected) in &theirs {
            assert_eq!(ours[name].dims(), expected.dims(), "{variant}, {name}");
            assert_eq!(flat(&ours[name]), flat(expected), "{variant}, {name}");
        }
        T5::load(dir.path(), &Device::Cpu).unwrap();
    }
}

fn copy_with(change: impl FnOnce(&mut HashMap<String, Tensor>)) -> tempfile::TempDir {
    let (dir, from) = (tempfile::tempdir().unwrap(), folder("t5_relu_tied"));
    std::fs::copy(from.join("config.json"), dir.path().join("config.json")).unwrap();
    let mut tensors = candle_core::safetensors::load(from.join("model.safetensors"), &Device::Cpu).unwrap();
    change(&mut tensors);
    candle_core::safetensors::save(&tensors, dir.path().join("model.safetensors")).unwrap();
    dir
}

fn load_error(dir: &tempfile::TempDir) -> String {
    T5::load(dir.path(), &Device::Cpu).unwrap_err().to_string()
}

#[test]
fn a_tensor_that_is_missing_unexpected_misshapen_or_not_finite_is_named() {
    let name = "decoder.block.1.layer.1.EncDecAttention.k.weight";
    let error = load_error(&copy_with(|tensors| drop(tensors.remove(name))));
    assert!(error.contains(name), "{error}");
    let extra = Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap();
    let error = load_error(&copy_with(|tensors| drop(tensors.insert("adapter.weight".into(), extra))));
    assert!(error.contains("adapter.weight"), "{error}");
    let small = Tensor::zeros((4, 32), DType::F32, &Device::Cpu).unwrap();
    let error = load_error(&copy_with(|tensors| drop(tensors.insert(name.into(), small))));
    assert!(error.contains(name) && error.contains("[4, 32]") && error.contains("[32, 32]"), "{error}");
    let half = Tensor::zeros((32, 32), DType::F16, &Device::Cpu).unwrap();
    let error = load_error(&copy_with(|tensors| drop(tensors.insert(name.into(), half))));
    assert!(error.contains(name) && error.contains("F16"), "{error}");
    let nan = Tensor::full(f32::NAN, (32, 32), &Device::Cpu).unwrap();
    let error = load_error(&copy_with(|tensors| drop(tensors.insert(name.into(), nan))));
    assert!(error.contains(name) && error.contains("NaN"), "{error}");
}
