//! Codes of a whole catalog, shared out evenly: at every level each code goes to floor(N / K) items, one more or less.
//!
//! The nearest codeword leaves some codes crowded and others empty. Here items are assigned level by level at the least
//! total distance under those bounds (MiniOneRec, arXiv 2510.24431; OneRec, arXiv 2502.18965), so an item's codes depend on
//! the catalog that it is assigned with. That is for a catalog as a whole: items that come later are encoded by
//! [`ItemTokenizer::encode`], one by one. Catalogs beyond 20,480 items are assigned in parts, each evenly.

use rayon::prelude::*;

use sidereal_core::{Embeddings, Error, SemanticIds};

use crate::Result;
use crate::clustering::capacity::{Balancing, MOST_CODES};
use crate::clustering::kmeans::normalise;
use crate::codebooks::product_codebooks::columns;
use crate::quantizers::LevelsSee;
use crate::tokenizer::ItemTokenizer;

/// Semantic IDs of a catalog, every code shared by about as many items.
///
/// # Errors
/// A method whose levels have no codewords to assign items to; a level of more than 2,048 codes; what
/// [`ItemTokenizer::encode`] refuses.
///
/// # Shapes
/// [N, D] to [N, L]
pub fn assign_balanced(tokenizer: &ItemTokenizer, embeddings: &Embeddings) -> Result<SemanticIds> {
    let quantizer = tokenizer.quantizer()?;
    let sees = quantizer.levels_see();
    if sees == LevelsSee::SomethingElse {
        let problem =
            format!("{} has no codewords that items could be shared out to", tokenizer.description().config.name());
        let mend = "use a method of residual or product codebooks (rq-kmeans), or another policy for collisions";
        return Err(Error::mismatch(problem, mend).into());
    }
    if let Some(codes) = tokenizer.codes_per_level().iter().find(|&&k| k > MOST_CODES) {
        let problem = format!("a level has {codes} codes; at most {MOST_CODES} can be shared out");
        return Err(Error::mismatch(problem, "use another policy for collisions, or more levels of fewer codes").into());
    }
    let latents = quantizer.latents(&tokenizer.prepare(embeddings)?)?;
    let (count, width, levels) = (latents.rows(), latents.width(), quantizer.levels());
    let mut codes = vec![0u16; count * levels];
    let mut left = latents.into_values(); // [N, d]
    let (mut part, mut first) = (Vec::new(), 0);
    for (level, &k) in tokenizer.codes_per_level().iter().enumerate() {
        let codebook = quantizer.codebook(level);
        let used = vec![true; k as usize];
        let assigned = match sees {
            LevelsSee::SubVectors => {
                let last = first + codebook.len() / k as usize;
                columns(&left, width, first, last, &mut part);
                let assigned = Balancing::default().assign(&part, last - first, codebook, &used);
                first = last;
                assigned
            }
            LevelsSee::Residuals { normalised } => {
                if normalised {
                    left.par_chunks_mut(width).for_each(|row| {
                        normalise(row);
                    });
                }
                let assigned = Balancing::default().assign(&left, width, codebook, &used);
                left.par_chunks_mut(width).zip(&assigned).for_each(|(row, &code)| {
                    let codeword = &codebook[code as usize * width..][..width];
                    row.iter_mut().zip(codeword).for_each(|(v, c)| *v -= c);
                });
                assigned
            }
            LevelsSee::SomethingElse => continue,
        };
        assigned.iter().enumerate().for_each(|(row, &code)| codes[row * levels + level] = code as u16);
    }
    Ok(SemanticIds::new(levels, codes)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::TokenizerConfig;
    use sidereal_core::NoProgress;
    use sidereal_nn::rng::Rng;

    #[test]
    fn every_code_gets_its_share_of_a_catalog_at_every_level() {
        let mut rng = Rng::new(9, "catalog");
        let values = (0..500 * 6).map(|at| (rng.normal() * if at < 2400 { 0.1 } else { 2.0 }) as f32).collect();
        let catalog = Embeddings::new(500, 6, values).unwrap();
        for name in ["rq-kmeans", "pq", "opq"] {
            let config = TokenizerConfig::with_defaults(name, vec![16, 7, 16]).unwrap();
            let tokenizer = ItemTokenizer::train(&config, &catalog, 1, &NoProgress).unwrap();
            let ids = assign_balanced(&tokenizer, &catalog).unwrap();
            for (level, &k) in [16usize, 7, 16].iter().enumerate() {
                for code in 0..k {
                    let share = ids.codes().chunks(3).filter(|c| usize::from(c[level]) == code).count();
                    assert!((500 / k - 1..=500 / k + 1).contains(&share), "{name} {level} {code}: {share}");
                }
            }
            assert_eq!(ids, assign_balanced(&tokenizer, &catalog).unwrap());
        }
    }

    #[test]
    fn a_catalog_that_fits_its_codebooks_evenly_keeps_the_nearest_codes() {
        // Two equal heaps: nearest is even already.
        let values = (0..40).flat_map(|i| [if i % 2 == 0 { -5.0 } else { 5.0 }, i as f32 * 0.001]).collect();
        let catalog = Embeddings::new(40, 2, values).unwrap();
        let config = TokenizerConfig::with_defaults("vq", vec![2]).unwrap();
        let tokenizer = ItemTokenizer::train(&config, &catalog, 1, &NoProgress).unwrap();
        assert_eq!(assign_balanced(&tokenizer, &catalog).unwrap(), tokenizer.encode(&catalog).unwrap());
    }
}
