//! A tokenizer that was trained anew, with its codes named after the published ones.
//!
//! *Paper*: codebook-matched relabelling of rebuilt semantic IDs (arXiv 2604.13273): each new codebook is matched with the
//! old one over the items that both know, and a generator that was warm-started goes on.
//! *Differs from the paper*: the rows of the codebooks are permuted, so that new items are encoded under the old names
//! too; matching is exact up to 1,024 codes and takes the largest counts first beyond.
//! *Checked against*: all permutations of small matrices, in the matching's tests.
//!
//! # Shapes
//! Items that both know `[M]`; semantic IDs [M, L]; a matching of K codes by level.

use std::collections::HashMap;
use std::path::Path;

use serde::Serialize;

use sidereal_core::{Embeddings, Error, SemanticIds};

use crate::Result;
use crate::arrays::{ArraySet, NamedArray};
use crate::life::upgrade::Agreement;
use crate::life::upgrade::matching::{EXACT, best_match};
use crate::quantizers::Quantizer;
use crate::tokenizer::ItemTokenizer;

/// A tokenizer under the old names.
#[derive(Debug)]
pub struct Relabelled {
    /// Ready to encode.
    pub tokenizer: ItemTokenizer,
    /// What was gained.
    pub record: RelabelRecord,
}

/// What a relabelling did.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RelabelRecord {
    /// Agreement with the published semantic IDs before.
    pub before: Agreement,
    /// And after.
    pub after: Agreement,
    /// `exact` or `greedy`, by level.
    pub matching: Vec<&'static str>,
}

/// Permutes the codes of a tokenizer so that as many items as possible keep their published code at each level.
///
/// # Errors
/// Other codes per level than the published semantic IDs have; a method without codebooks.
///
/// # Shapes
/// `vectors`: [M, D], in the space of the new tokenizer; `published`: [M, L]
pub fn relabel(tokenizer: ItemTokenizer, vectors: &Embeddings, published: &SemanticIds) -> Result<Relabelled> {
    let name = tokenizer.description().config.name();
    let codes = tokenizer.codes_per_level().to_vec();
    published.check_codes(&codes)?;
    let found = tokenizer.encode(vectors)?;
    let before = Agreement::of(&found, published)?;
    let labels: Vec<Vec<u16>> = codes
        .iter()
        .enumerate()
        .map(|(level, &codes)| {
            let mut counts = HashMap::new();
            let pairs = found.rows().zip(published.rows()).map(|(new, old)| (new[level], old[level]));
            pairs.for_each(|pair| *counts.entry(pair).or_insert(0) += 1);
            best_match(&counts, codes as usize)
        })
        .collect();

    let quantizer = tokenizer.quantizer()?;
    let mut arrays = quantizer.arrays();
    for (level, labels) in labels.iter().enumerate() {
        let codebook = arrays.iter_mut().find(|array| is_codebook(array, level, labels.len()));
        let Some(codebook) = codebook else {
            let mend = "train a method with codebooks (rq-kmeans, rq-vae), or map the new vectors into the old space";
            return Err(Error::mismatch(format!("the codes of {name} are no rows of a codebook"), mend).into());
        };
        let width = codebook.values.len() / labels.len();
        let rows = codebook.values.clone();
        for (row, &label) in rows.chunks_exact(width).zip(labels) {
            codebook.values[usize::from(label) * width..][..width].copy_from_slice(row);
        }
    }
    let mut arrays = ArraySet::of(Path::new("the relabelled tokenizer"), arrays);
    let renamed = tokenizer.description().load_quantizer(quantizer.width(), &mut arrays)?;
    arrays.finish()?;
    let wanted = found.rows().flat_map(|row| row.iter().zip(&labels).map(|(&code, labels)| labels[usize::from(code)]));
    let wanted = SemanticIds::new(found.levels(), wanted.collect())?;
    let record = RelabelRecord {
        before,
        after: Agreement::of(&wanted, published)?,
        matching: codes.iter().map(|&codes| if codes as usize > EXACT { "greedy" } else { "exact" }).collect(),
    };
    // Plain numbers and words: JSON can say that.
    let note = serde_json::to_value(&record).unwrap_or_default();
    let tokenizer = tokenizer.with_quantizer(renamed, ("relabelled", note));
    if tokenizer.encode(vectors)? != wanted {
        let problem = format!("the codes of {name} do not follow the rows of its codebooks");
        return Err(Error::mismatch(problem, "map the new vectors into the old space instead").into());
    }
    Ok(Relabelled { tokenizer, record })
}

/// Whether the codes of every level are rows of an array, which can be put in another order.
pub(crate) fn has_codebooks(quantizer: &dyn Quantizer) -> bool {
    let arrays = quantizer.arrays();
    let mut levels = quantizer.codes_per_level().iter().enumerate();
    levels.all(|(level, &codes)| arrays.iter().any(|array| is_codebook(array, level, codes as usize)))
}

fn is_codebook(array: &NamedArray, level: usize, codes: usize) -> bool {
    array.name == format!("codebooks.{level}") && array.shape.first() == Some(&codes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::quantizers::TokenizerConfig;
    use sidereal_core::NoProgress;
    use sidereal_nn::rng::Rng;

    fn items() -> Embeddings {
        let mut rng = Rng::new(4, "items");
        let centres: Vec<f32> = (0..40 * 5).map(|_| 4.0 * rng.normal() as f32).collect();
        let values = (0..500 * 5).map(|at| centres[at / 5 % 40 * 5 + at % 5] + 0.2 * rng.normal() as f32).collect();
        Embeddings::new(500, 5, values).unwrap()
    }

    fn trained(method: &str, seed: u64) -> ItemTokenizer {
        let config = TokenizerConfig::with_defaults(method, vec![8, 6, 4]).unwrap();
        ItemTokenizer::train(&config, &items(), seed, &NoProgress).unwrap()
    }

    #[test]
    fn a_tokenizer_whose_codes_were_shuffled_gets_every_name_back() {
        let published = trained("rq-kmeans", 1).encode(&items()).unwrap();
        let shift = |(level, &code): (usize, &u16)| (code + 1 + level as u16) % [8u16, 6, 4][level];
        let shuffled: Vec<u16> = published.rows().flat_map(|row| row.iter().enumerate().map(shift)).collect();
        let shuffled = SemanticIds::new(3, shuffled).unwrap();
        let done = relabel(trained("rq-kmeans", 1), &items(), &shuffled).unwrap();
        assert_eq!(done.record.after.whole, 1.0, "{:?}", done.record);
        assert_eq!(done.tokenizer.encode(&items()).unwrap(), shuffled);
        let dir = tempfile::tempdir().unwrap();
        done.tokenizer.save(dir.path()).unwrap();
        assert_eq!(ItemTokenizer::load(dir.path()).unwrap().encode(&items()).unwrap(), shuffled);
    }

    #[test]
    fn another_training_keeps_more_names_after_than_before() {
        let published = trained("rq-kmeans", 1).encode(&items()).unwrap();
        let done = relabel(trained("rq-kmeans", 2), &items(), &published).unwrap();
        let (before, after) = (&done.record.before, &done.record.after);
        assert!(before.levels.iter().zip(&after.levels).all(|(before, after)| after >= before), "{:?}", done.record);
        assert!(after.levels[0] > 0.5 && after.whole > before.whole, "{:?}", done.record);
        let other = SemanticIds::new(2, vec![0; 1000]).unwrap();
        assert!(relabel(trained("rq-kmeans", 2), &items(), &other).is_err());
    }
}
