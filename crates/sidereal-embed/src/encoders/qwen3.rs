//! Qwen3-Embedding: a causal language model whose last token is the text's vector.
//!
//! *Paper*: Zhang et al., Qwen3 Embedding, arXiv:2506.05176; the model: Qwen team, arXiv:2505.09388.
//! *Differs from the paper*: inference only, padded on the right instead of the left: in a causal model what follows a
//! text's last token does not reach it, so the vectors are the same. Items are documents, which take no instruction;
//! with one, a text is written as the model card writes queries.
//! *Checked against*: transformers with padding on the left, `tests/fixtures/qwen3_tiny`, made by
//! `benches/peers/make_encoder_fixtures.py`.
//!
//! # Shapes
//! token ids [B, T] -> token vectors [B, T, D] -> the last token's [B, D]

use sidereal_core::Error;
use sidereal_nn::Result;
use sidereal_nn::decoder::{Decoder, DecoderConfig, DecoderWeights};
use sidereal_nn::pretrained::{ModelFolder, WeightFiles};

use super::head::{Head, Pooling, look_up};
use super::text::{TextEmbedder, TokenBatch, TokenRules};
use super::{Embedder, EncoderOptions, Family, Modality};

pub(crate) const FAMILY: Family = Family {
    name: "qwen3",
    about: "Qwen3-Embedding of any size",
    model_types: &["qwen3"],
    modality: Modality::Text,
    open,
};

/// Longest text; the model card's 32k.
const MAX_TOKENS: usize = 32_768;

fn open(folder: &ModelFolder, options: &EncoderOptions) -> Result<Box<dyn Embedder>> {
    let config = DecoderConfig::read(folder)?;
    let Some(&end) = config.ends.first().filter(|&&id| (id as usize) < config.vocab) else {
        let (problem, mend) =
            ("eos_token_id is no token of the model", "download the model again: its config.json is damaged");
        return Err(Error::input(folder.path("config.json").display().to_string(), problem, mend).into());
    };
    let files = WeightFiles::open(folder, &folder.weight_files()?, options.dtype.candle(), &options.device)?;
    let weights = DecoderWeights::read(&config, &files, false)?;
    let head = Head::load(folder, config.width, Pooling::LastToken, true, &options.device)?;
    let prefix = options.instruction.as_ref().map_or_else(String::new, |task| format!("Instruct: {task}\nQuery:"));
    let most_tokens = Some(config.max_positions.min(MAX_TOKENS));
    let rules = TokenRules { most_tokens, vocab: config.vocab, end: Some(end), prefix };
    // No mask: the padding lies behind the texts, and no query sees what lies behind it.
    let forward = move |batch: &TokenBatch| {
        Decoder::new(&config, &weights).forward(&look_up(&batch.ids, &weights.embedding)?) // [B, T, D]
    };
    Ok(Box::new(TextEmbedder::new(FAMILY.name, folder, options, rules, head, forward)?))
}
