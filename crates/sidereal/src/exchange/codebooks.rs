//! Codebooks of residual and product quantizers as faiss users keep them: a `.npy` of f32 [L, K, d].
//!
//! A residual quantizer's codewords are as wide as the vectors; a product quantizer's are parts of them, one level after
//! the other. Import makes an `rq-kmeans` tokenizer.

use std::path::Path;

use sidereal_core::Error;
use sidereal_tokenizer::quantizers::rq_kmeans::{RqKmeans, RqKmeansConfig};
use sidereal_tokenizer::{ItemTokenizer, TokenizerConfig};

use super::npy;
use crate::Result;

/// Methods whose codebooks are the whole tokenizer.
const PLAIN: [&str; 3] = ["rq-kmeans", "vq", "pq"];

pub(super) fn read(file: &Path) -> Result<ItemTokenizer> {
    let (shape, values) = npy::read_f32(file)?;
    let [levels, codes, width] = *shape.as_slice() else {
        let problem = format!("it has the shape {shape:?}, not [levels, codes, width]");
        return Err(Error::artifact(file, problem, "stack the levels' codewords into one array").into());
    };
    let wide = u32::try_from(codes).ok().filter(|_| levels * codes * width > 0);
    let Some(codes) = wide else {
        let problem = format!("the shape {shape:?} holds no codewords");
        return Err(Error::artifact(file, problem, "export the codebooks again").into());
    };
    let books = values.chunks_exact(codes as usize * width).map(<[f32]>::to_vec).collect();
    let config = RqKmeansConfig { codes: vec![codes; levels], ..RqKmeansConfig::default() };
    let quantizer = RqKmeans::from_codebooks(width, books)?;
    ItemTokenizer::from_quantizer(TokenizerConfig::RqKmeans(config), Box::new(quantizer))
}

pub(super) fn write(tokenizer: &ItemTokenizer, out: &Path) -> Result<()> {
    let config = &tokenizer.description().config;
    let more = match config {
        _ if !config.pre_steps().is_empty() => Some("pre-steps"),
        _ if !PLAIN.contains(&config.name()) => Some("more than codebooks"),
        TokenizerConfig::RqKmeans(settings) if settings.normalize_residuals => Some("lengths of residuals"),
        _ => None,
    };
    if let Some(more) = more {
        let problem = format!("this tokenizer of {} has {more}, which the format cannot hold", config.name());
        return Err(Error::input("tokenizer", problem, "copy its folder instead: it is the whole tokenizer").into());
    }
    let (quantizer, codes) = (tokenizer.quantizer()?, tokenizer.codes_per_level());
    let books: Vec<&[f32]> = (0..codes.len()).map(|level| quantizer.codebook(level)).collect();
    let first = books.first().map_or(0, |book| book.len());
    if codes.windows(2).any(|pair| pair[0] != pair[1]) || books.iter().any(|book| book.len() != first) {
        let problem = format!("levels of {codes:?} codes do not make one array");
        return Err(Error::input("tokenizer", problem, "copy its folder instead: it is the whole tokenizer").into());
    }
    let width = first / codes.first().map_or(1, |&codes| codes as usize);
    let shape = [codes.len(), codes.first().map_or(0, |&codes| codes as usize), width];
    let bytes: Vec<u8> = books.into_iter().flatten().flat_map(|value| value.to_le_bytes()).collect();
    npy::write(out, "<f4", &shape, &bytes)
}
