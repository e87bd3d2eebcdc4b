//! What users do with items they know: one learnt number, added to the scores of items that the history has.
//!
//! People buy toothpaste again and a novel once. A model whose scores follow similarity puts what was bought last on
//! top in both cases; whether that is right is a property of the data, which the training parts show: where nobody
//! repeats an item the number becomes very negative, and a search without a filter then leaves known items out by itself.
//! The idea of a separate word for repeats: Ren et al., "RepeatNet", AAAI 2019, arXiv 1812.02646, section 3.3, which
//! learns a whole decoder for it.

use candle_core::Tensor;
use sidereal_core::ItemIndex;
use sidereal_nn::ops::Marked;
use sidereal_nn::params::{Init, Params};
use sidereal_nn::rng::Rng;

use crate::Result;

/// Nats of a unit of the parameter: an optimizer moves every parameter by about its rate a step, and this one has
/// further to go than a weight.
const UNIT: f64 = 10.0;

/// The number as it is trained.
#[derive(Debug, Clone)]
pub(super) struct Repeats {
    units: Tensor, // [1]
}

impl Repeats {
    /// 0 at the beginning.
    pub(super) fn new(params: &mut Params, rng: &mut Rng) -> Result<Self> {
        Ok(Self { units: params.var("repeats", &[1], Init::Zeros, rng)? })
    }

    /// Without a record of gradients.
    pub(super) fn detached(&self) -> Self {
        Self { units: self.units.detach() }
    }

    /// The number as a tensor, `[1]`.
    pub(super) fn bonus(&self) -> Result<Tensor> {
        Ok((&self.units * UNIT)?)
    }

    /// The number to answer with.
    pub(super) fn value(&self) -> Result<f32> {
        Ok(self.bonus()?.flatten_all()?.to_vec1::<f32>()?.first().copied().unwrap_or_default())
    }
}

/// Adds a number to the scores of a history's items, each once.
///
/// # Shapes
/// scores `[N]`
pub(super) fn add_to_scores(bonus: f32, history: &[ItemIndex], scores: &mut [f32]) {
    let marked = Marked::new([history]);
    marked.row(0).iter().for_each(|&item| scores[item as usize] += bonus);
}
