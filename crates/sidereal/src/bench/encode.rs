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
/// codebooks, 2 D K L operations an item; for a net its layers come on top, so there it is left out.
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
    let share = |rate: f64| rate * operations / (limit * 1e9);
    let share = (wish.method == "rq-kmeans").then(|| rate(&cpu).map(share));
    Ok(json!({ "what": "encode", "method": wish.method, "settings": wish.settings, "items": embeddings.rows(),
        "width": embeddings.width(), "levels": wish.levels, "codes": wish.codes,
        "train_s": train_s, "train_cpu_s": train_cpu_s, "items_per_s": rate(&wall), "items_per_cpu_s": rate(&cpu),
        "recon_mse": squares.sum::<f64>() / embeddings.rows().max(1) as f64,
        "machine": machine, "kernel": screen.kernel, "kernel_gflop_per_s": limit, "share_of_kernel": share.flatten() }))
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
