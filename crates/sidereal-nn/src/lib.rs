//! Tensor parts that the trainers share and candle lacks.
//!
//! In the order of a training step: [`device`] says where, [`rng`] gives every consumer its own seeded stream,
//! [`params`] holds the named weights, [`ops`] computes with them (fused on the CPU, with their own backward),
//! [`kernels`] computes with weights that no longer change; [`clip`] and [`schedule`] shape the step, [`optimizer`] takes it, [`checkpoint`] makes it survive a kill.
//! [`tolerance`] is the one table that says how far two devices may differ. [`pretrained`] reads models that others trained,
//! and [`decoder`] is the one network that two crates above have in common.
//!
//! Absent on purpose: all other models, losses of one method, data. Nothing here prints, and nothing here draws a random number
//! that was not seeded by the caller. The same input gives the same bytes whatever the number of threads.

pub mod error;

pub mod device;
pub mod rng;

pub mod params;

pub mod kernels;
pub mod ops;

pub mod pretrained;

pub mod decoder;

pub mod clip;
pub mod optimizer;
pub mod schedule;

pub mod checkpoint;

pub mod tolerance;

pub use clip::clip_grad_norm;
pub use error::{Error, Result};
