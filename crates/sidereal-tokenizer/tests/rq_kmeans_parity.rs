//! Residual k-means against faiss: the codes of its codebooks, and the error of its fit.
//!
//! Fixture `rkmeans/residual_kmeans.safetensors`, written by `benches/peers/make_fixtures.py`.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use sidereal_core::array_file::ArrayFile;
use sidereal_core::{Embeddings, NoProgress, SemanticIds};
use sidereal_tokenizer::quantizers::rq_kmeans::{RqKmeans, RqKmeansConfig};
use sidereal_tokenizer::quantizers::{Quantizer, Scratch};
use sidereal_tokenizer::{ItemTokenizer, TokenizerConfig};

fn fixture() -> ArrayFile {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/rkmeans/residual_kmeans.safetensors");
    ArrayFile::open(&path).unwrap()
}

#[test]
fn codes_equal_those_of_faiss_on_its_codebooks() {
    let file = fixture();
    let rows = file.column::<f32>("x").unwrap();
    let codebooks: Vec<Vec<f32>> =
        file.column::<f32>("codebooks").unwrap().chunks(32 * 16).map(<[f32]>::to_vec).collect();
    let quantizer = RqKmeans::from_codebooks(16, codebooks).unwrap();
    let mut codes = vec![0u16; 2000 * 3];
    quantizer.encode_rows(&rows, &mut Scratch::default(), &mut codes);
    for name in ["codes", "codes_beam1"] {
        let want: Vec<u16> = file.column::<i64>(name).unwrap().iter().map(|&c| c as u16).collect();
        assert_eq!(codes, want, "{name}");
    }
}

#[test]
fn codes_of_a_beam_equal_those_of_faiss_on_its_codebooks() {
    let file = fixture();
    let rows = file.column::<f32>("x").unwrap();
    let codebooks: Vec<Vec<f32>> =
        file.column::<f32>("codebooks").unwrap().chunks(32 * 16).map(<[f32]>::to_vec).collect();
    let quantizer = RqKmeans::from_codebooks(16, codebooks).unwrap().with_beam(5).unwrap();
    let mut codes = vec![0u16; 2000 * 3];
    quantizer.encode_rows(&rows, &mut Scratch::default(), &mut codes);
    let want: Vec<u16> = file.column::<i64>("codes_beam5").unwrap().iter().map(|&c| c as u16).collect();
    assert_eq!(codes, want);
    let rows = Embeddings::new(2000, 16, rows.to_vec()).unwrap();
    let energy = quantizer.residual_energy(&rows, &SemanticIds::new(3, codes).unwrap()).unwrap().unwrap();
    let theirs = f64::from(file.column::<f32>("mse_beam5").unwrap()[0]);
    assert!((energy[3] / 2000.0 / theirs - 1.0).abs() < 1e-5, "{} here, {theirs} in faiss", energy[3] / 2000.0);
}

#[test]
fn the_error_of_our_fit_with_a_beam_is_at_most_two_percent_above_that_of_faiss() {
    let theirs = f64::from(fixture().column::<f32>("mse_beam5").unwrap()[0]);
    let ours = errors_of_a_fit(RqKmeansConfig { beam: 5, ..RqKmeansConfig::default() })[3];
    assert!(ours <= 1.02 * theirs, "{ours} here, {theirs} in faiss");
}

/// Squared error an item after each level of residual k-means fitted to the fixture's rows, `[L + 1]`.
fn errors_of_a_fit(config: RqKmeansConfig) -> Vec<f64> {
    let rows = Embeddings::new(2000, 16, fixture().column::<f32>("x").unwrap().to_vec()).unwrap();
    let config = RqKmeansConfig { codes: vec![32; 3], ..config };
    let tokenizer = ItemTokenizer::train(&TokenizerConfig::RqKmeans(config), &rows, 7, &NoProgress).unwrap();
    let ids = tokenizer.encode(&rows).unwrap();
    let energy = tokenizer.quantizer().unwrap().residual_energy(&rows, &ids).unwrap().unwrap();
    energy.iter().map(|energy| energy / 2000.0).collect()
}

#[test]
fn the_error_of_our_fit_is_at_most_two_percent_above_that_of_faiss() {
    // By default, and with exactly the iterations that faiss made of each level.
    let as_faiss = RqKmeansConfig { max_iterations: 15, tolerance: 0.0, ..RqKmeansConfig::default() };
    let theirs = fixture().column::<f32>("residual_mse_per_level").unwrap().to_vec();
    for (name, config) in [("default", RqKmeansConfig::default()), ("15 iterations", as_faiss)] {
        let ours = errors_of_a_fit(config);
        for (level, (&ours, &theirs)) in ours[1..].iter().zip(&theirs).enumerate() {
            assert!(ours <= 1.02 * f64::from(theirs), "{name}, level {level}: {ours} here, {theirs} in faiss");
        }
    }
}
