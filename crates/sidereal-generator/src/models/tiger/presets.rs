//! TIGER with the constants of papers and of the repositories that reproduce it.
//!
//! Constants that a source does not state are the defaults. Every optimiser is AdamW here, and collisions and the beam
//! search are ours, so a preset is the source's recipe and not its program.

use super::{Output, TigerConfig};
use crate::models::{GeneratorConfig, Preset};
use crate::training::{ScheduleKind, TrainingConfig};

pub(super) const PRESETS: &[Preset] = &[
    Preset {
        name: "tiger-paper",
        paper: "Rajput et al., Recommender Systems with Generative Retrieval, arXiv 2305.05065, section 4",
        config: paper,
    },
    Preset {
        name: "tiger-paischer",
        paper: "TIGER (arXiv 2305.05065) with the hyper-parameters named after Paischer in the Cornac library",
        config: paischer,
    },
    Preset {
        name: "tiger-letter",
        paper: "Wang et al., Learnable Item Tokenization for Generative Recommendation, arXiv 2405.07314, repository",
        config: letter,
    },
    Preset {
        name: "tiger-grid",
        paper: "Ju et al., Generative Recommendation with Semantic IDs: A Practitioner's Handbook, arXiv 2507.22224, repository",
        config: grid,
    },
    Preset {
        name: "discrec",
        paper: "Liu et al., DiscRec: Disentangled Semantic-Collaborative Modeling, arXiv 2506.15576, repository",
        config: discrec,
    },
];

/// Batch 256, rate .01 for 10,000 steps and then with the inverse root, 200,000 steps (Beauty and Sports; 100,000 on
/// Toys), 2000 user tokens. The paper holds the rate from the first step on; AdamW does not survive that, so it rises
/// over those steps instead.
fn paper() -> GeneratorConfig {
    GeneratorConfig::Tiger(TigerConfig {
        user_tokens: 2000,
        training: TrainingConfig {
            batch_size: 256,
            max_epochs: 1 << 20,
            max_steps: Some(200_000),
            learning_rate: 1e-2,
            schedule: ScheduleKind::InverseSqrt,
            warmup_steps: 10_000,
            weight_decay: 0.0,
            patience: 0,
            ..TrainingConfig::default()
        },
        ..TigerConfig::default()
    })
}

/// 6 + 6 blocks, dropout .2, batch 64, 100 epochs at 3e-4 with a cosine after 10,000 steps of warm-up, decay .035, the
/// best by NDCG@10 kept, beam 30.
fn paischer() -> GeneratorConfig {
    GeneratorConfig::Tiger(TigerConfig {
        layers: 6,
        dropout: 0.2,
        training: TrainingConfig {
            batch_size: 64,
            max_epochs: 100,
            learning_rate: 3e-4,
            schedule: ScheduleKind::Cosine,
            warmup_steps: 10_000,
            weight_decay: 0.035,
            validate_beam: 30,
            patience: 0,
            ..TrainingConfig::default()
        },
        ..TigerConfig::default()
    })
}

/// Batch 256 on each of two devices, 5e-4 with a cosine, at most 200 epochs, 20 without gain, decay .01, beam 20. The
/// repository's temperature is 1, and its warm-up 1 % of the steps: about these on Beauty.
fn letter() -> GeneratorConfig {
    GeneratorConfig::Tiger(TigerConfig {
        training: TrainingConfig {
            batch_size: 512,
            max_epochs: 200,
            learning_rate: 5e-4,
            schedule: ScheduleKind::Cosine,
            warmup_steps: 500,
            weight_decay: 0.01,
            validate_beam: 20,
            patience: 20,
            ..TrainingConfig::default()
        },
        ..TigerConfig::default()
    })
}

/// Dropout .15, a separator, heads of levels, 120 tokens (30 items of three codes and a separator), batch 32 gathered 16
/// times, 1e-3, decay 1e-4, at most 320,000 steps, a validation each 1600, 10 without gain.
fn grid() -> GeneratorConfig {
    GeneratorConfig::Tiger(TigerConfig {
        dropout: 0.15,
        max_history: 30,
        separator: true,
        output: Output::PerLevel,
        training: TrainingConfig {
            batch_size: 512,
            max_epochs: 1 << 20,
            max_steps: Some(320_000),
            learning_rate: 1e-3,
            schedule: ScheduleKind::Constant,
            weight_decay: 1e-4,
            validate_every: 1600,
            patience: 10,
            ..TrainingConfig::default()
        },
        ..TigerConfig::default()
    })
}

/// Positions and the dual branch, batch 256, 5e-4 with a cosine, at most 200 epochs, 20 without gain (of NDCG@10 here,
/// of the loss there), decay .01, beam 20.
fn discrec() -> GeneratorConfig {
    GeneratorConfig::Tiger(TigerConfig {
        in_item_positions: true,
        dual_branch: true,
        training: TrainingConfig {
            batch_size: 256,
            max_epochs: 200,
            learning_rate: 5e-4,
            schedule: ScheduleKind::Cosine,
            warmup_steps: 1000,
            weight_decay: 0.01,
            validate_beam: 20,
            patience: 20,
            ..TrainingConfig::default()
        },
        ..TigerConfig::default()
    })
}
