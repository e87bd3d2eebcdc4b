//! LETTER's diversity loss: codewords of one group come nearer, and so the groups spread.
//!
//! Before every epoch the codewords of each level are clustered into groups of even size. For the code of every item a
//! positive is drawn from the others of its group; the loss is the cross-entropy of the products of its codeword with
//! all codewords but itself. Levels count alike.
//!
//! *Paper*: Wang et al., *Learnable Item Tokenization for Generative Recommendation*, arXiv 2405.07314, section 3.2
//! (weight 0.0001, 10 groups in its scripts).
//! *Differs from the paper*: groups come from k-means centres filled to an even capacity, nearest pairs first, and not
//! from a minimum-cost flow.
//!
//! # Shapes
//! Codebooks [K, d], codes `[B]`.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use sidereal_core::Error;
use sidereal_nn::ops;
use sidereal_nn::rng::Rng;

use super::contrast::{BARRED, NOBODY, masked_cross_entropy, sum};
use super::{AlignedBatch, check_weight};
use crate::Result;
use crate::algebra::product::squared_distance;
use crate::clustering::kmeans::{KMeansOptions, fit};

const ITERATIONS: usize = 25;

/// Settings of LETTER's diversity loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DiversityConfig {
    /// Weight in the training's loss. Default: 0.0001, LETTER's gamma.
    pub weight: f64,
    /// Groups of a level; at most half as many as it has codes are made. Default: LETTER's 10.
    pub groups: usize,
}

impl Default for DiversityConfig {
    fn default() -> Self {
        Self { weight: 1e-4, groups: 10 }
    }
}

impl DiversityConfig {
    pub(super) fn check(&self, key: &str) -> Result<()> {
        if self.groups == 0 {
            let mend = "give 1 or more; 10 is usual";
            return Err(Error::config(format!("{key}.groups"), "there are no groups", mend).into());
        }
        check_weight(key, self.weight)
    }
}

pub(super) struct Diversity {
    weight: f64,
    groups: usize,
    latent: usize,
    /// The members of each code's group, by level.
    levels: Vec<Groups>,
}

#[derive(Debug, PartialEq)]
struct Groups {
    group_of: Vec<u32>,
    members: Vec<Vec<u32>>,
}

impl Diversity {
    pub(super) fn new(config: &DiversityConfig, latent: usize) -> Self {
        Self { weight: config.weight, groups: config.groups, latent, levels: Vec::new() }
    }

    /// Groups the codewords as they are, each [K, d].
    pub(super) fn group(&mut self, codebooks: &[Vec<f32>], rng: &mut Rng) {
        self.levels = codebooks.iter().map(|codebook| even_groups(codebook, self.latent, self.groups, rng)).collect();
    }

    pub(super) fn loss(&self, batch: &AlignedBatch<'_>, rng: &mut Rng) -> Result<Tensor> {
        let mut losses = Vec::new();
        for ((codes, codebook), groups) in batch.codes.iter().zip(batch.codebooks).zip(&self.levels) {
            let own = codes.to_vec1::<u32>()?;
            let k = codebook.dim(0)?;
            let mut bars = vec![0f32; own.len() * k];
            bars.chunks_exact_mut(k).zip(&own).for_each(|(row, &code)| row[code as usize] = BARRED);
            let positives = own.iter().map(|&code| groups.other(code, rng).unwrap_or(NOBODY)).collect();
            let codewords = ops::embedding(codes, codebook)?; // [B, d]
            let logits = ops::tied_head(&codewords, codebook)?; // [B, K]
            losses.push(masked_cross_entropy(&logits, bars, positives, 1.0)?);
        }
        let levels = losses.len().max(1) as f64;
        Ok((sum(losses, batch.quantized)? * (self.weight / levels))?)
    }
}

impl Groups {
    /// Another code of the same group.
    fn other(&self, code: u32, rng: &mut Rng) -> Option<u32> {
        let members = &self.members[self.group_of[code as usize] as usize];
        let others = members.len().checked_sub(1).filter(|&others| others > 0)?;
        let at = rng.below(others);
        // Members ascend, so this leaves the code itself out.
        Some(if members[at] >= code { members[at + 1] } else { members[at] })
    }
}

/// Clusters codewords into groups of at most ceil(K / groups).
fn even_groups(codebook: &[f32], width: usize, groups: usize, rng: &mut Rng) -> Groups {
    let codes = codebook.len() / width;
    let groups = groups.min(codes / 2).max(1);
    let options = KMeansOptions {
        codes: groups,
        max_iterations: ITERATIONS,
        tolerance: 1e-4,
        spherical: false,
        seeding_rows: codes,
    };
    let centres = fit(codebook, width, &options, rng, &mut |_, _| {}).codewords;
    let mut near: Vec<(f64, u32, u32)> = Vec::with_capacity(codes * groups);
    for (code, codeword) in codebook.chunks_exact(width).enumerate() {
        for (group, centre) in centres.chunks_exact(width).enumerate() {
            near.push((squared_distance(codeword, centre), code as u32, group as u32));
        }
    }
    near.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    let room = codes.div_ceil(groups);
    let mut found = Groups { group_of: vec![u32::MAX; codes], members: vec![Vec::new(); groups] };
    for (_, code, group) in near {
        let members = &mut found.members[group as usize];
        if found.group_of[code as usize] == u32::MAX && members.len() < room {
            found.group_of[code as usize] = group;
            members.push(code);
        }
    }
    found.members.iter_mut().for_each(|members| members.sort_unstable());
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn groups_are_even_near_and_give_every_code_another() {
        let mut rng = Rng::new(3, "codewords");
        let codebook: Vec<f32> = (0..40 * 3).map(|at| (at / 3 % 4) as f32 * 10.0 + rng.normal() as f32).collect();
        let groups = even_groups(&codebook, 3, 4, &mut rng);
        for members in &groups.members {
            assert_eq!(members.len(), 10);
            assert!(members.iter().all(|code| code % 4 == members[0] % 4), "{members:?}");
        }
        for code in 0..40 {
            for _ in 0..20 {
                let other = groups.other(code, &mut rng).unwrap();
                assert!(other != code && other % 4 == code % 4);
            }
        }
        let lonely = even_groups(&codebook[..3], 3, 10, &mut rng);
        assert_eq!(lonely.other(0, &mut rng), None);
        let three = even_groups(&codebook[..9], 3, 10, &mut rng);
        assert_eq!(three.members[0], [0, 1, 2]);
    }
}
