//! How far a training is: what a checkpoint keeps besides parameters and moments, and whose it is.

use serde::{Deserialize, Serialize};
use sidereal_core::artifact::sha256_bytes;

use super::Plan;
use crate::align::AlignConfig;
use crate::training_items::TrainingItems;

/// What an evaluation says; smaller is better, collisions first.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Score {
    pub(super) epoch: usize,
    pub(super) collision_rate: f64,
    pub(super) reconstruction_error: f64,
}

impl Score {
    pub(super) fn beats(&self, other: &Self) -> bool {
        (self.collision_rate, self.reconstruction_error) < (other.collision_rate, other.reconstruction_error)
    }
}

/// What a checkpoint keeps besides parameters and moments.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Progressed {
    /// Whether the codebooks have had their k-means start: it must not happen twice.
    pub(super) initialised: bool,
    pub(super) epochs_done: usize,
    pub(super) finished: bool,
    pub(super) evaluations_without_gain: usize,
    pub(super) best: Option<Score>,
    pub(super) scores: Vec<Score>,
    pub(super) restarted_codes: usize,
}

/// Names what decides a training's bytes beside seed, device and vectors.
pub(super) fn asked(plan: &Plan, items: &TrainingItems<'_>) -> String {
    // Serialising plain settings cannot fail.
    let settings = serde_json::to_string(&plan.config).unwrap_or_default();
    let mut all = format!("{} {settings}", plan.method);
    if plan.config.align != AlignConfig::default() {
        let numbers = |values: &[u32]| sha256_bytes(bytemuck::cast_slice(values));
        if let Some(collaborative) = items.collaborative {
            all += &format!(" collaborative {}", sha256_bytes(bytemuck::cast_slice(collaborative.values())));
        }
        if let Some(domains) = items.domains {
            all += &format!(" domains {}", numbers(domains));
        }
        if let Some(histories) = items.histories {
            let users: Vec<String> = histories.iter().map(|history| format!("{history:?}")).collect();
            all += &format!(" histories {}", sha256_bytes(users.concat().as_bytes()));
        }
    }
    all
}
