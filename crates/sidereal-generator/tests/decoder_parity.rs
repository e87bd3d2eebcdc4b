//! The decoder against Hugging Face's, on four small checkpoints: see `benches/peers/make_fixtures.py` for how the files in
//! `fixtures` were made.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use sidereal_core::{CodeVocab, LeafFilter};
use sidereal_generator::beam::{BeamOptions, Request, Searcher, beam_search};
use sidereal_generator::exact::ExactScorer;
use sidereal_generator::models::llm::{CodeTokens, DecoderInference, DecoderModel};
use sidereal_generator::scoring::CodeScores;
use sidereal_generator::{NextCodeModel, ScoreNorm};
use sidereal_nn::kernels::{Instructions, Precision};
use sidereal_nn::pretrained::ModelFolder;
use sidereal_nn::tolerance::{BF16_DEVICE_SCORES, BF16_SCORES, INT8_SCORES, LOGITS};

mod hugging_face;
use hugging_face::{Beams, agree, assert_same_ranking, flat, folder, largest_difference};

/// Shared keys and tied or own heads; norms of heads; biases; slower positions.
const VARIANTS: [&str; 4] = ["llama_tiny", "qwen3_tiny", "qwen2_tiny", "llama_slow_tiny"];

fn model(variant: &str) -> DecoderModel {
    DecoderModel::read(&ModelFolder::local(&folder(variant)), &Device::Cpu).unwrap()
}

fn inference(model: &DecoderModel, vocab: &CodeVocab, precision: Precision, device: bool) -> DecoderInference {
    let codes = CodeTokens::counted(vocab);
    match device {
        true => model.device_inference(vocab, &codes, precision).unwrap(),
        false => model.inference(vocab, &codes, precision, true).unwrap(),
    }
}

/// Prompts without the padding on their left, and Hugging Face's logits at their tokens.
fn prompts(variant: &str) -> Vec<(Vec<u32>, Vec<f32>)> {
    let io = candle_core::safetensors::load(folder(variant).join("io.safetensors"), &Device::Cpu).unwrap();
    let ids = io["input_ids"].to_dtype(DType::U32).unwrap().to_vec2::<u32>().unwrap();
    let mask = io["attention_mask"].to_dtype(DType::U32).unwrap().to_vec2::<u32>().unwrap();
    let row = |row: usize| {
        let padding = mask[row].iter().filter(|&&seen| seen == 0).count();
        let logits = io["logits"].get(row).unwrap().narrow(0, padding, ids[row].len() - padding).unwrap();
        (ids[row][padding..].to_vec(), flat(&logits))
    };
    (0..ids.len()).map(row).collect()
}

#[test]
fn logits_equal_hugging_face_at_every_token() {
    for variant in VARIANTS {
        let model = model(variant);
        for (row, (prompt, logits)) in prompts(variant).iter().enumerate() {
            let ids = Tensor::from_slice(prompt, (1, prompt.len()), &Device::Cpu).unwrap();
            agree(&format!("{variant}, row {row}"), &flat(&model.logits(&ids).unwrap()), logits);
        }
    }
}

#[test]
fn constrained_beams_equal_hugging_face_generate_on_every_path() {
    for variant in VARIANTS {
        let (model, beams, prompts) = (model(variant), Beams::read(variant), prompts(variant));
        let (catalog, vocab) = beams.catalog();
        let filter = LeafFilter::allow_all();
        let request = |(prompt, _)| Request { history: prompt, filter: &filter };
        let requests: Vec<Request<'_>> =
            prompts.iter().map(|(p, l): &(Vec<u32>, Vec<f32>)| (p.as_slice(), l)).map(request).collect();
        let options = BeamOptions::new(beams.num_beams, ScoreNorm::Full);
        let on_host = beam_search(&inference(&model, &vocab, Precision::F32, false), &catalog, &requests, &options);
        // The device's model by the host's search, and by its own.
        let by_host = beam_search(&inference(&model, &vocab, Precision::F32, true), &catalog, &requests, &options);
        let by_itself =
            Searcher::new(inference(&model, &vocab, Precision::F32, true)).search(&catalog, &requests, &options);
        for rankings in [on_host.unwrap(), by_host.unwrap(), by_itself.unwrap()] {
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
        let (model, beams) = (model(variant), Beams::read(variant));
        let (catalog, vocab) = beams.catalog();
        let inference = inference(&model, &vocab, Precision::F32, false);
        let scorer = ExactScorer::new(&inference, &catalog, ScoreNorm::Full, 100).unwrap();
        for (user, (prompt, _)) in prompts(variant).iter().enumerate() {
            let ranking = scorer.ranking(prompt, &LeafFilter::allow_all()).unwrap();
            assert_eq!(ranking.items.len(), catalog.len());
            let (sequences, scores) = (&beams.exhaustive_top10[user], &beams.exhaustive_scores[user]);
            assert_same_ranking(&format!("{variant}, user {user}"), &ranking, &catalog, sequences, scores);
        }
    }
}

#[test]
fn a_prompt_is_scored_alike_alone_and_in_company_of_other_lengths() {
    for variant in VARIANTS {
        let (model, beams, prompts) = (model(variant), Beams::read(variant), prompts(variant));
        let vocab = beams.catalog().1;
        for device in [false, true] {
            let inference = inference(&model, &vocab, Precision::F32, device);
            let texts: Vec<&[u32]> = prompts.iter().map(|(prompt, _)| prompt.as_slice()).collect();
            let (state, together) = inference.begin(&texts, ScoreNorm::Level).unwrap();
            let (_, next) = inference.step(&state, &[0, 1, 1, 2], &[3, 5, 6, 7], ScoreNorm::Level).unwrap();
            for (row, prompt) in texts.iter().enumerate() {
                let (state, alone) = inference.begin(&[prompt], ScoreNorm::Level).unwrap();
                assert!(largest_difference(alone.row(0), together.row(row)) < 1e-5);
                let (code, at) = [(3, 0), (6, 2), (7, 3)][row];
                let (_, alone) = inference.step(&state, &[0], &[code], ScoreNorm::Level).unwrap();
                assert!(largest_difference(alone.row(0), next.row(at)) < 1e-5, "{variant}, row {row}");
            }
            let nothing = inference.begin(&[texts[0], &[]], ScoreNorm::Level).unwrap_err().to_string();
            assert!(nothing.contains("no token"), "{nothing}");
            let unknown = inference.begin(&[&[68]], ScoreNorm::Level).unwrap_err().to_string();
            assert!(unknown.contains("token 68"), "{unknown}");
            let long = inference.begin(&[&[4; 254]], ScoreNorm::Level).unwrap_err().to_string();
            assert!(long.contains("257 tokens") && long.contains("256"), "{long}");
        }
    }
}

#[test]
fn every_precision_answers_near_the_reference_with_all_instructions() {
    for variant in VARIANTS {
        let (model, beams, prompts) = (model(variant), Beams::read(variant), prompts(variant));
        let vocab = beams.catalog().1;
        let texts: Vec<&[u32]> = prompts.iter().map(|(prompt, _)| prompt.as_slice()).collect();
        let scores = |model: &DecoderInference| -> Vec<f32> {
            let (first, begun) = model.begin(&texts, ScoreNorm::Full).unwrap();
            let (parents, codes) = ([0, 0, 1, 2, 2, 2], [3, 5, 0, 15, 7, 7]);
            let (next, one) = model.step(&first, &parents, &codes, ScoreNorm::Full).unwrap();
            let (_, two) = model.step(&next, &[0, 2, 5], &[1, 2, 3], ScoreNorm::Full).unwrap();
            let rows = |of: &CodeScores| -> Vec<f32> { (0..of.rows()).flat_map(|r| of.row(r).to_vec()).collect() };
            [rows(&begun), rows(&one), rows(&two)].concat()
        };
        let reference = scores(&inference(&model, &vocab, Precision::F32, true));
        let size = reference.iter().map(|score| f64::from(score.abs())).sum::<f64>() / reference.len() as f64;
        let off = |found: &[f32]| -> f64 {
            let error: f32 = found.iter().zip(&reference).map(|(a, b)| (a - b).abs()).sum();
            f64::from(error) / reference.len() as f64
        };
        let on_device = off(&scores(&inference(&model, &vocab, Precision::Bf16, true)));
        let holds = BF16_DEVICE_SCORES.holds(size + on_device, size);
        assert!(holds && on_device > 0.0, "{variant}, bf16 on a device: {on_device} in {size}");
        for (precision, tolerance) in
            [(Precision::F32, LOGITS), (Precision::Bf16, BF16_SCORES), (Precision::Int8, INT8_SCORES)]
        {
            for instructions in Instructions::ALL {
                let allowed = Instructions::limit(instructions);
                let mean = off(&scores(&inference(&model, &vocab, precision, false)));
                let holds = tolerance.holds(size + mean, size);
                assert!(holds, "{variant}, {precision:?} with {allowed:?}: {mean} in {size}");
            }
            Instructions::limit(Instructions::Avx512Bf16);
        }
    }
}

fn copy_with(variant: &str, change: impl FnOnce(&mut HashMap<String, Tensor>)) -> tempfile::TempDir {
    let (dir, from) = (tempfile::tempdir().unwrap(), folder(variant));
    std::fs::copy(from.join("config.json"), dir.path().join("config.json")).unwrap();
    let mut tensors = candle_core::safetensors::load(from.join("model.safetensors"), &Device::Cpu).unwrap();
    change(&mut tensors);
    candle_core::safetensors::save(&tensors, dir.path().join("model.safetensors")).unwrap();
    dir
}

#[test]
fn a_tensor_that_is_missing_unexpected_misshapen_or_not_finite_is_named() {
    let error = |change: &dyn Fn(&mut HashMap<String, Tensor>)| {
        let dir = copy_with("llama_tiny", change);
        DecoderModel::read(&ModelFolder::local(dir.path()), &Device::Cpu).unwrap_err().to_string()
    };
    let zeros = |shape: (usize, usize)| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    let name = "model.layers.1.self_attn.k_proj.weight";
    let missing = error(&|tensors| drop(tensors.remove(name)));
    assert!(missing.contains(name), "{missing}");
    let extra = error(&|tensors| drop(tensors.insert("adapter.weight".into(), zeros((1, 3)))));
    assert!(extra.contains("adapter.weight"), "{extra}");
    let small = error(&|tensors| drop(tensors.insert(name.into(), zeros((4, 32)))));
    assert!(small.contains(name) && small.contains("[4, 32]") && small.contains("[16, 32]"), "{small}");
    let nan = error(&|tensors| {
        tensors.insert(name.into(), Tensor::full(f32::NAN, (16, 32), &Device::Cpu).unwrap());
    });
    assert!(nan.contains(name) && nan.contains("NaN"), "{nan}");
}

#[test]
fn halves_are_read_as_the_numbers_they_are() {
    let dir = copy_with("qwen2_tiny", |tensors| {
        tensors.values_mut().for_each(|tensor| *tensor = tensor.to_dtype(DType::BF16).unwrap());
    });
    let half = DecoderModel::read(&ModelFolder::local(dir.path()), &Device::Cpu).unwrap();
    let ids = Tensor::new(&[[4u32, 20, 36, 52]], &Device::Cpu).unwrap();
    let (half, full) = (flat(&half.logits(&ids).unwrap()), flat(&model("qwen2_tiny").logits(&ids).unwrap()));
    let off = largest_difference(&half, &full);
    assert!(off > 0.0 && off < 0.2, "{off}");
}
