//! A model that writes codes, on the CPU by its own kernels or elsewhere by tensors: which of both is decided once.

use sidereal_core::Error as CoreError;

use crate::Result;
use crate::scoring::{CodeScores, DeviceCodes, ScoreNorm};

/// One of a model's two ways to write codes; see [`crate::scoring::NextCodeModel`].
pub(super) trait CodeEngine {
    /// A group of requests after some codes.
    type State;

    /// Reads what comes before, and scores the codes of level 0.
    fn begin(&self, histories: &[&[u32]], norm: ScoreNorm) -> Result<(Self::State, CodeScores)>;

    /// Scores the codes of the next level.
    fn step(
        &self,
        state: &Self::State,
        parents: &[u32],
        codes: &[u16],
        norm: ScoreNorm,
    ) -> Result<(Self::State, CodeScores)>;
}

/// Either of both.
#[derive(Debug)]
pub(super) enum Placed<C, D> {
    Cpu(Box<C>),
    Device(Box<D>),
}

/// A state of either.
#[derive(Debug)]
pub(super) enum PlacedState<C, D> {
    Cpu(C),
    Device(D),
}

/// What either makes of a call.
type Written<C, D> = (PlacedState<<C as CodeEngine>::State, <D as CodeEngine>::State>, CodeScores);

impl<C: CodeEngine, D: CodeEngine + DeviceCodes> Placed<C, D> {
    pub(super) fn begin(&self, histories: &[&[u32]], norm: ScoreNorm) -> Result<Written<C, D>> {
        Ok(match self {
            Self::Cpu(model) => {
                let (state, scores) = model.begin(histories, norm)?;
                (PlacedState::Cpu(state), scores)
            }
            Self::Device(model) => {
                let (state, scores) = model.begin(histories, norm)?;
                (PlacedState::Device(state), scores)
            }
        })
    }

    pub(super) fn step(
        &self,
        state: &PlacedState<C::State, D::State>,
        parents: &[u32],
        codes: &[u16],
        norm: ScoreNorm,
    ) -> Result<Written<C, D>> {
        Ok(match (self, state) {
            (Self::Cpu(model), PlacedState::Cpu(state)) => {
                let (state, scores) = model.step(state, parents, codes, norm)?;
                (PlacedState::Cpu(state), scores)
            }
            (Self::Device(model), PlacedState::Device(state)) => {
                let (state, scores) = model.step(state, parents, codes, norm)?;
                (PlacedState::Device(state), scores)
            }
            _ => return Err(CoreError::input("beam", "a state of another model", "this is a defect: report it").into()),
        })
    }

    pub(super) fn on_device(&self) -> Option<&dyn DeviceCodes> {
        match self {
            Self::Cpu(_) => None,
            Self::Device(model) => Some(model.as_ref()),
        }
    }
}
