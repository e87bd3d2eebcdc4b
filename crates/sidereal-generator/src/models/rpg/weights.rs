//! RPG's parameters: what there is and how it begins.

use candle_core::Tensor;
use sidereal_core::Embeddings;
use sidereal_nn::params::{Init, Params};
use sidereal_nn::rng::Rng;

use super::{Pooling, RpgConfig};
use crate::Result;
use crate::models::causal::{CausalSizes, CausalStart, CausalTransformer};
use crate::models::codewords::{centred_rows, mean_square};
use crate::models::repeats::Repeats;

/// The name of the learnt items, whose number a file says.
pub(super) const ITEMS: &str = "items";
/// The name of the codes' embeddings.
pub(super) const CODES: &str = "codes";

/// Deviation of an item's vector at the beginning.
const ITEM_DEVIATION: f64 = 0.06;

/// At the beginning the stream is the item, nearly: positions are heard but do not drown it, a block adds little, a head
/// nothing, and the codes that score best are those of the last item.
const START: CausalStart = CausalStart { positions: 0.01, added: 0.03 };

/// The sizes that shapes follow from.
#[derive(Debug, Clone)]
pub(super) struct Sizes {
    pub(super) body: CausalSizes,
    /// K of each level.
    pub(super) codes: Vec<usize>,
    /// Deviation of the codes' embeddings at the beginning.
    code_deviation: f64,
    /// Width of the item vectors, where they are looked at.
    vectors: Option<usize>,
    /// Learnt items, where there are.
    items: Option<usize>,
    /// Whether repeats have a number.
    repeats: bool,
}

impl Sizes {
    /// Of a recipe, over these codes, vectors of this width, and items.
    pub(super) fn new(config: &RpgConfig, codes_per_level: &[u32], vector_width: usize, items: usize) -> Self {
        Self {
            body: config.body(),
            codes: codes_per_level.iter().map(|&codes| codes as usize).collect(),
            code_deviation: match (config.pooling, (codes_per_level.len() as f64).sqrt()) {
                (Pooling::Mean, root) => ITEM_DEVIATION * root,
                (Pooling::Sum, root) => ITEM_DEVIATION / root,
            },
            vectors: config.item_vectors.then_some(vector_width),
            items: config.item_embedding.then_some(items),
            repeats: config.repeats,
        }
    }

    /// D.
    pub(super) fn width(&self) -> usize {
        self.body.d_model
    }

    /// V.
    pub(super) fn vocab(&self) -> usize {
        self.codes.iter().sum()
    }

    /// The tokenizer's codewords as code embeddings, `[V, D]`: all of one scale, the one at which an item's vector has its
    /// usual deviation. Levels without a codebook keep what `random` has for them.
    pub(super) fn codewords(&self, codebooks: &[Embeddings], mut random: Vec<f32>, seed: u64) -> Vec<f32> {
        let rows: Vec<Vec<f64>> = codebooks.iter().map(|book| centred_rows(book, self.width(), seed)).collect();
        // Codes of different levels are added, so the squares of their deviations are.
        let square = rows.iter().map(|rows| mean_square(rows)).sum::<f64>() / rows.len().max(1) as f64;
        let scale = if square > 0.0 { self.code_deviation / square.sqrt() } else { 0.0 };
        let mut start = 0;
        for rows in &rows {
            for (value, row) in random[start..].iter_mut().zip(rows) {
                *value = (row * scale) as f32;
            }
            start += rows.len();
        }
        random
    }

    /// How many numbers are learnt.
    pub(super) fn parameters(&self) -> f64 {
        let d = self.width() as f64;
        let rows = self.vocab() + self.body.places + self.vectors.unwrap_or(0) + self.items.unwrap_or(0) + 2;
        self.body.parameters() + rows as f64 * d + self.codes.len() as f64 * (d + 1.0) * d
    }
}

/// All parameters by use.
#[derive(Debug)]
pub(super) struct Weights {
    pub(super) codes: Tensor,           // [V, D]
    pub(super) vectors: Option<Tensor>, // [Dv, D]
    pub(super) items: Option<Tensor>,   // [N, D]
    pub(super) body: CausalTransformer,
    pub(super) heads: Tensor, // [L, D + 1, D]
    pub(super) repeats: Option<Repeats>,
}

impl Weights {
    /// New parameters, in their order.
    pub(super) fn make(sizes: &Sizes, params: &mut Params, seed: u64) -> Result<Self> {
        let mut rng = Rng::new(seed, "rpg");
        let (width, rng) = (sizes.width(), &mut rng);
        // Item vectors have length one, so that what is projected of them has an item's deviation.
        let like_items = Init::Normal(ITEM_DEVIATION);
        let codes = params.var(CODES, &[sizes.vocab(), width], Init::Normal(sizes.code_deviation), rng)?;
        let vectors = match sizes.vectors {
            Some(from) => Some(params.var("vectors", &[from, width], like_items, rng)?),
            None => None,
        };
        let items = match sizes.items {
            Some(items) => Some(params.var(ITEMS, &[items, width], Init::Normal(0.02), rng)?),
            None => None,
        };
        let body = CausalTransformer::new(sizes.body, START, params, rng)?;
        // A head begins as the identity: its block adds silu(0) = 0.
        let heads = params.var("heads", &[sizes.codes.len(), width + 1, width], Init::Zeros, rng)?;
        let repeats = if sizes.repeats { Some(Repeats::new(params, rng)?) } else { None };
        Ok(Self { codes, vectors, items, body, heads, repeats })
    }

    /// The same weights without a record of gradients, for answering. Memory is shared with the variables.
    pub(super) fn detached(&self) -> Self {
        Self {
            codes: self.codes.detach(),
            vectors: self.vectors.as_ref().map(Tensor::detach),
            items: self.items.as_ref().map(Tensor::detach),
            body: self.body.detached(),
            heads: self.heads.detach(),
            repeats: self.repeats.as_ref().map(Repeats::detached),
        }
    }
}
