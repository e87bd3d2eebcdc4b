//! Training a tokenizer and encoding items with it, with the error that its codes leave.

use std::path::PathBuf;
use std::time::Instant;

use serde_json::{Value, json};
use sidereal_core::{Embeddings, Error, Progress};
use sidereal_generator::bench::process_cpu_s;
use sidereal_nn::rng::Rng;
use sidereal_tokenizer::{ItemTokenizer, TokenizerConfig};

use super::machine::Machine;
use crate::Result;

/// Method, sizes and file of [`encode`].
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct EncodeWish {
    pub method: String,
    /// Settings of the method as `key=value`, values in TOML.
    pub settings: Vec<String>,
    pub input: Option<PathBuf>,
    pub items: usize,
    pub width: usize,
    pub levels: usize,
    pub codes: u32,
    pub runs: usize,
}

/// Trains a tokenizer once and encodes the same items, with the share of one core's limit that this reaches.
///
/// The limit is that of the kernel in use, bf16 products or `gemm`'s in f32. The share counts the products with all
/// codebooks, 2 D K L operations an item, and while codebooks are fitted 2 D K an item and iteration (seeding comes on
/// top, so it is no more than that); for a net its layers come on top, so there it is left out.
///
/// # Errors
/// A file that cannot be read; a setting that the method does not have; sizes that cannot be trained.
pub fn encode(wish: &EncodeWish, progress: &dyn Progress) -> Result<Value> {
    let embeddings = match &wish.input {
        Some(path) => sidereal_embed::read_vectors(path, None)?.embeddings,
        None => {
            let mut rng = Rng::new(0, "bench encode");
            let values = (0..wish.items * wish.width).map(|_| rng.normal() as f32).collect();
            Embeddings::new(wish.items, wish.width, values)?
        }
    };
    let config = with_settings(&wish.method, vec![wish.codes; wish.levels], &wish.settings)?;
    let (began, used) = (Instant::now(), process_cpu_s());
    let tokenizer = ItemTokenizer::train(&config, &embeddings, 0, progress)?;
    let train_s = began.elapsed().as_secs_f64();
    let train_cpu_s = process_cpu_s().zip(used).map(|(now, before)| now - before);
    let (mut wall, mut cpu) = (Vec::new(), Vec::new());
    let mut sids = tokenizer.encode(&embeddings)?;
    for _ in 0..wish.runs.max(1) {
        let (began, used) = (Instant::now(), process_cpu_s());
        sids = tokenizer.encode(&embeddings)?;
        wall.push(began.elapsed().as_secs_f64());
        cpu.extend(process_cpu_s().zip(used).map(|(now, before)| now - before));
    }
    wall.sort_by(f64::total_cmp);
    cpu.sort_by(f64::total_cmp);
    let rate = |v: &[f64]| v.get(v.len() / 2).map(|s| embeddings.rows() as f64 / s);
    let back = tokenizer.quantizer()?.reconstruct(&sids)?;
    let prepared = tokenizer.prepare(&embeddings)?;
    let squares = prepared.values().iter().zip(back.values()).map(|(x, y)| f64::from(x - y).powi(2));
    let machine = Machine::measure();
    let operations = 2.0 * prepared.width() as f64 * f64::from(wish.codes) * wish.levels as f64;
    let screen = sidereal_tokenizer::bench::screen_kernel(prepared.width());
    let limit = screen.gflop_per_s.unwrap_or(machine.gemm_gflop_per_s);
    let kmeans = wish.method == "rq-kmeans";
    let share = kmeans.then(|| rate(&cpu).map(|rate| rate * operations / (limit * 1e9))).flatten();
    let trained = kmeans.then(|| operations_of_training(&tokenizer, prepared.rows(), prepared.width()));
    let train_gflop = trained.zip(train_cpu_s).map(|(operations, seconds)| operations / seconds * 1e-9);
    Ok(json!({ "what": "encode", "method": wish.method, "settings": wish.settings, "items": embeddings.rows(),
        "width": embeddings.width(), "levels": wish.levels, "codes": wish.codes,
        "train_s": train_s, "train_cpu_s": train_cpu_s, "items_per_s": rate(&wall), "items_per_cpu_s": rate(&cpu),
        "recon_mse": squares.sum::<f64>() / embeddings.rows().max(1) as f64,
        "machine": machine, "kernel": screen.kernel, "kernel_gflop_per_s": limit, "share_of_kernel": share,
        "train_gflop_per_cpu_s": train_gflop, "train_share_of_kernel": train_gflop.map(|rate| rate / limit),
        "train_share_of_gemm": train_gflop.map(|rate| rate / machine.gemm_gflop_per_s) }))
}

/// Multiplications and additions of the products of all rows with the codebooks, over the iterations that each level took.
fn operations_of_training(tokenizer: &ItemTokenizer, rows: usize, width: usize) -> f64 {
    let levels = tokenizer.description().training["levels"].as_array();
    let number = |level: &Value, key: &str| level[key].as_f64().unwrap_or(0.0);
    let each = |level: &Value| number(level, "iterations") * number(level, "codes");
    2.0 * (rows * width) as f64 * levels.into_iter().flatten().map(each).sum::<f64>()
}

/// A method's defaults with some keys set.
fn with_settings(method: &str, codes: Vec<u32>, settings: &[String]) -> Result<TokenizerConfig> {
    let config = TokenizerConfig::with_defaults(method, codes)?;
    let mend = "write key=value with a key of the method (the README has them), for example beam=5";
    let bad = |problem: String| Error::config("--set", problem, mend);
    let mut value = serde_json::to_value(&config).map_err(|e| bad(e.to_string()))?;
    for setting in settings {
        let table: toml::Table = setting.parse().map_err(|e: toml::de::Error| bad(e.message().to_owned()))?;
        for (key, set) in table {
            value[method][key] = serde_json::to_value(set).map_err(|e| bad(e.to_string()))?;
        }
    }
    let config: TokenizerConfig = serde_json::from_value(value).map_err(|e| bad(e.to_string()))?;
    config.check()?;
    Ok(config)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use sidereal_core::NoProgress;

    #[test]
    fn encoding_and_training_are_stated_as_shares_of_a_measured_limit() {
        let wish = EncodeWish {
            method: "rq-kmeans".to_owned(),
            settings: vec!["max_iterations=3".to_owned(), "tolerance=0".to_owned()],
            input: None,
            items: 3000,
            width: 32,
            levels: 2,
            codes: 64,
            runs: 1,
        };
        let found = encode(&wish, &NoProgress).unwrap();
        let config = with_settings(&wish.method, vec![64; 2], &wish.settings).unwrap();
        let mut rng = Rng::new(0, "bench encode");
        let values = (0..3000 * 32).map(|_| rng.normal() as f32).collect();
        let rows = Embeddings::new(3000, 32, values).unwrap();
        let tokenizer = ItemTokenizer::train(&config, &rows, 0, &NoProgress).unwrap();
        assert_eq!(operations_of_training(&tokenizer, 3000, 32), 2.0 * 3000.0 * 32.0 * 64.0 * 2.0 * 3.0);
        // Where the system tells processor time, there is work and no more than a machine can do.
        if let Some(share) = found["train_share_of_kernel"].as_f64() {
            assert!(share > 0.0 && share < 1.5, "{found}");
        }
        let pq = encode(&EncodeWish { method: "pq".to_owned(), settings: Vec::new(), ..wish }, &NoProgress).unwrap();
        assert!(pq["train_share_of_gemm"].is_null() && pq["share_of_kernel"].is_null());
    }
}
