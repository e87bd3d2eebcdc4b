//! What happens to semantic IDs after they were made: collisions are repaired, items join, drift shows, models change.

pub mod balanced;
pub mod collisions;
pub mod repair;

pub mod growth;

pub mod drift;

pub mod upgrade;
