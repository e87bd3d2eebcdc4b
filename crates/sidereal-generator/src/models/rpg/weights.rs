//! RPG's parameters: what there is and how it begins.

use candle_core::Tensor;
use sidereal_nn::params::{Init, Params};
use sidereal_nn::rng::Rng;

use super::{Pooling, RpgConfig};
use crate::Result;

/// The name of the learnt items, whose number a file says.
pub(super) const ITEMS: &str = "items";

/// Deviation of a weight at the beginning, as in GPT-2.
const DEVIATION: f64 = 0.02;
/// Deviation of an item's vector at the beginning.
const ITEM_DEVIATION: f64 = 0.06;
/// Deviation of a position's: it is heard, but does not drown the item.
const POSITION_DEVIATION: f64 = 0.01;
/// What a block adds at the beginning, against GPT-2's.
const LITTLE: f64 = 0.1;

/// The sizes that shapes follow from.
#[derive(Debug, Clone)]
pub(super) struct Sizes {
    /// D.
    pub(super) width: usize,
    d_ff: usize,
    layers: usize,
    /// Positions, the most recent items that are seen.
    positions: usize,
    /// K of each level.
    pub(super) codes: Vec<usize>,
    /// Deviation of the codes' embeddings at the beginning.
    code_deviation: f64,
    /// Width of the item vectors, where they are looked at.
    vectors: Option<usize>,
    /// Learnt items, where there are.
    items: Option<usize>,
}

impl Sizes {
    /// Of a recipe, over these codes, vectors of this width, and items.
    pub(super) fn new(config: &RpgConfig, codes_per_level: &[u32], vector_width: usize, items: usize) -> Self {
        Self {
            width: config.d_model,
            d_ff: config.d_ff,
            layers: config.layers,
            positions: config.max_history,
            codes: codes_per_level.iter().map(|&codes| codes as usize).collect(),
            code_deviation: match (config.pooling, (codes_per_level.len() as f64).sqrt()) {
                (Pooling::Mean, root) => ITEM_DEVIATION * root,
                (Pooling::Sum, root) => ITEM_DEVIATION / root,
            },
            vectors: config.item_vectors.then_some(vector_width),
            items: config.item_embedding.then_some(items),
        }
    }

    /// V.
    pub(super) fn vocab(&self) -> usize {
        self.codes.iter().sum()
    }

    /// How many numbers are learnt.
    pub(super) fn parameters(&self) -> f64 {
        let (d, ff) = (self.width as f64, self.d_ff as f64);
        let block = 4.0 * d * d + 2.0 * d * ff + 9.0 * d + ff;
        let rows = self.vocab() + self.positions + self.vectors.unwrap_or(0) + self.items.unwrap_or(0) + 2;
        self.layers as f64 * block + rows as f64 * d + self.codes.len() as f64 * (d + 1.0) * d
    }
}

/// A layer norm's two.
#[derive(Debug, Clone)]
pub(super) struct Norm {
    pub(super) weight: Tensor, // [D]
    pub(super) bias: Tensor,   // [D]
}

/// A product's two.
#[derive(Debug, Clone)]
pub(super) struct Linear {
    pub(super) weight: Tensor, // [I, O]
    pub(super) bias: Tensor,   // [O]
}

/// One block of the transformer.
#[derive(Debug, Clone)]
pub(super) struct Block {
    pub(super) norm: Norm,
    pub(super) q: Linear,  // [D, D]
    pub(super) kv: Linear, // [D, 2 * D]
    pub(super) o: Linear,  // [D, D]
    pub(super) ff_norm: Norm,
    pub(super) up: Linear,   // [D, F]
    pub(super) down: Linear, // [F, D]
}

/// All parameters by use.
#[derive(Debug, Clone)]
pub(super) struct Weights {
    pub(super) codes: Tensor,           // [V, D]
    pub(super) positions: Tensor,       // [H, D]
    pub(super) vectors: Option<Tensor>, // [Dv, D]
    pub(super) items: Option<Tensor>,   // [N, D]
    pub(super) blocks: Vec<Block>,
    pub(super) norm: Norm,
    pub(super) heads: Tensor, // [L, D + 1, D]
}

/// Gives the tensor of a name and shape.
type Source<'a> = dyn FnMut(&str, &[usize], Init) -> Result<Tensor> + 'a;

impl Weights {
    /// New parameters, in their order.
    pub(super) fn make(sizes: &Sizes, params: &mut Params, seed: u64) -> Result<Self> {
        let mut rng = Rng::new(seed, "rpg");
        Self::from_source(sizes, &mut |name, shape, init| params.var(name, shape, init, &mut rng))
    }

    /// A copy of the parameters as they are now, which nothing is learnt through.
    pub(super) fn frozen(sizes: &Sizes, params: &Params) -> Result<Self> {
        Self::from_source(sizes, &mut |name, _, _| match params.get(name) {
            Some(var) => Ok(var.as_tensor().copy()?.detach()),
            None => {
                let problem = format!("parameter {name:?} is missing");
                Err(sidereal_core::Error::input("model", problem, "this is a defect: report it").into())
            }
        })
    }

    fn from_source(sizes: &Sizes, source: &mut Source<'_>) -> Result<Self> {
        let width = sizes.width;
        let normal = Init::Normal(DEVIATION);
        // At the beginning the stream is the item, nearly: a block adds little, a head nothing, and the codes that score
        // best are those of the last item. Learning starts from items like the last one, not from noise.
        let little = Init::Normal(LITTLE * DEVIATION / (2.0 * sizes.layers as f64).sqrt());
        let codes = source("codes", &[sizes.vocab(), width], Init::Normal(sizes.code_deviation))?;
        let positions = source("positions", &[sizes.positions, width], Init::Normal(POSITION_DEVIATION))?;
        let vectors = sizes.vectors.map(|from| source("vectors", &[from, width], normal)).transpose()?;
        let items = sizes.items.map(|items| source(ITEMS, &[items, width], normal)).transpose()?;
        let mut blocks = Vec::with_capacity(sizes.layers);
        for number in 0..sizes.layers {
            let name = |part: &str| format!("blocks.{number}.{part}");
            blocks.push(Block {
                norm: norm(source, &name("norm"), width)?,
                q: linear(source, &name("q"), [width, width], normal)?,
                kv: linear(source, &name("kv"), [width, 2 * width], normal)?,
                o: linear(source, &name("o"), [width, width], little)?,
                ff_norm: norm(source, &name("ff_norm"), width)?,
                up: linear(source, &name("up"), [width, sizes.d_ff], normal)?,
                down: linear(source, &name("down"), [sizes.d_ff, width], little)?,
            });
        }
        let norm = norm(source, "norm", width)?;
        // A head begins as the identity: its block adds silu(0) = 0.
        let heads = source("heads", &[sizes.codes.len(), width + 1, width], Init::Zeros)?;
        Ok(Self { codes, positions, vectors, items, blocks, norm, heads })
    }
}

fn norm(source: &mut Source<'_>, name: &str, width: usize) -> Result<Norm> {
    let weight = source(&format!("{name}.weight"), &[width], Init::Ones)?;
    Ok(Norm { weight, bias: source(&format!("{name}.bias"), &[width], Init::Zeros)? })
}

fn linear(source: &mut Source<'_>, name: &str, shape: [usize; 2], init: Init) -> Result<Linear> {
    let weight = source(&format!("{name}.weight"), &shape, init)?;
    Ok(Linear { weight, bias: source(&format!("{name}.bias"), &shape[1..], Init::Zeros)? })
}
