//! Options of RQ-VAE: every one trains and says what is wrong with it; none changes what a plain training gives.
#![allow(clippy::unwrap_used)]

use sidereal_core::{Embeddings, NoProgress};
use sidereal_nn::rng::Rng;
use sidereal_tokenizer::{ItemTokenizer, TokenizerConfig};

/// 240 items around 12 centres.
fn rows() -> Embeddings {
    let mut rng = Rng::new(4, "rows");
    let centres: Vec<f64> = (0..12 * 10).map(|_| 3.0 * rng.normal()).collect();
    let value = |at: usize, noise: f64| (centres[at / 10 % 12 * 10 + at % 10] + 0.3 * noise) as f32;
    Embeddings::new(240, 10, (0..2400).map(|at| value(at, rng.normal())).collect()).unwrap()
}

fn config(settings: serde_json::Value) -> Result<TokenizerConfig, String> {
    let mut all = serde_json::json!({
        "codes": [8, 8], "hidden": [16], "latent": 4, "batch": 60, "epochs": 30, "evaluate_every": 30, "learning_rate": 0.01
    });
    for (key, value) in settings.as_object().unwrap() {
        all[key] = value.clone();
    }
    let config: TokenizerConfig =
        serde_json::from_value(serde_json::json!({ "rq-vae": all })).map_err(|e| e.to_string())?;
    config.check().map_err(|e| e.to_string())?;
    Ok(config)
}

/// Squared error of the reconstruction as a share of the squared distance to the mean.
fn lost_share(tokenizer: &ItemTokenizer) -> f64 {
    let rows = tokenizer.prepare(&rows()).unwrap();
    let ids = tokenizer.encode(&self::rows()).unwrap();
    let back = tokenizer.quantizer().unwrap().reconstruct(&ids).unwrap();
    let error: f64 = rows.values().iter().zip(back.values()).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    // Standardised columns have mean 0.
    error / rows.values().iter().map(|&v| f64::from(v).powi(2)).sum::<f64>()
}

#[test]
fn every_option_learns_the_clusters() {
    for settings in [
        serde_json::json!({}),
        serde_json::json!({ "estimator": "rotation" }),
        serde_json::json!({ "estimator": { "gumbel": { "temperature": 0.2 } } }),
        serde_json::json!({ "codebook_update": { "ema": { "decay": 0.9 } } }),
        serde_json::json!({ "sim_vq": true }),
        serde_json::json!({ "sinkhorn": { "levels": [1] } }),
        serde_json::json!({ "input_norm": "batch" }),
        serde_json::json!({ "precision": "bf16" }),
        serde_json::json!({ "input_norm": "layer", "reduction": "sum" }),
    ] {
        let config = config(settings.clone()).unwrap();
        let tokenizer = ItemTokenizer::train(&config, &rows(), 3, &NoProgress).unwrap();
        let lost = lost_share(&tokenizer);
        // Gumbel's noise is as large as these distances: it takes far longer.
        let most = if settings["estimator"].is_object() { 0.55 } else { 0.25 };
        assert!(lost < most, "{settings}: {lost} of the variance is lost");
    }
}

#[test]
fn a_net_in_bf16_is_not_that_in_f32_and_encodes_rows_alone_as_among_others() {
    let train = |precision: &str| {
        let config = config(serde_json::json!({ "precision": precision })).unwrap();
        ItemTokenizer::train(&config, &rows(), 3, &NoProgress).unwrap()
    };
    let (tokenizer, exact) = (train("bf16"), train("f32"));
    let dir = tempfile::tempdir().unwrap();
    tokenizer.save(dir.path()).unwrap();
    let tokenizer = ItemTokenizer::load(dir.path()).unwrap();
    let all = tokenizer.encode(&rows()).unwrap();
    for row in [0, 1, 130, 239] {
        let one = Embeddings::new(1, 10, rows().row(row).to_vec()).unwrap();
        assert_eq!(tokenizer.encode(&one).unwrap().row(0), all.row(row), "row {row}");
    }
    let latents = |tokenizer: &ItemTokenizer| {
        let prepared = tokenizer.prepare(&rows()).unwrap();
        tokenizer.quantizer().unwrap().latents(&prepared).unwrap().values().to_vec()
    };
    assert_ne!(latents(&tokenizer), latents(&exact));
}

#[test]
fn impossible_options_name_their_key() {
    for (settings, word) in [
        (serde_json::json!({ "estimator": { "gumbel": { "temperature": 0.0 } } }), "estimator.gumbel.temperature"),
        (serde_json::json!({ "estimator": "rotations" }), "rotations"),
        (serde_json::json!({ "codebook_update": { "ema": { "decay": 1.0 } } }), "codebook_update.ema.decay"),
        (serde_json::json!({ "codebook_update": { "ema": { "smoothing": -1.0 } } }), "codebook_update.ema.smoothing"),
        (serde_json::json!({ "codebook_update": { "ema": {} }, "sim_vq": true }), "rq-vae.codebook_update"),
        (
            serde_json::json!({ "codebook_update": { "ema": {} }, "estimator": { "gumbel": {} } }),
            "rq-vae.codebook_update",
        ),
        (serde_json::json!({ "sinkhorn": { "levels": [2] } }), "no level 2"),
        (serde_json::json!({ "sinkhorn": { "levels": [1], "epsilon": 0.0 } }), "sinkhorn.epsilon"),
        (serde_json::json!({ "sinkhorn": { "levels": [1], "iterations": 0 } }), "sinkhorn.iterations"),
        (serde_json::json!({ "sinkhorn": { "level": [1] } }), "level"),
        (serde_json::json!({ "input_norm": "group" }), "group"),
        (serde_json::json!({ "precision": "int8" }), "rq-vae.precision"),
        (serde_json::json!({ "precision": "half" }), "half"),
    ] {
        let error = config(settings.clone()).unwrap_err();
        assert!(error.contains(word), "{settings}: {error}");
    }
}
