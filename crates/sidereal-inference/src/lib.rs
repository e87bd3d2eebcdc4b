//! Answers for many who ask at once, from a catalog that changes meanwhile.
//!
//! An [`Engine`] owns a [`Ranker`](sidereal_generator::Ranker) and a live catalog. A [`Request`] waits in a queue of
//! limited length until a worker is free; a worker takes as many that fit together as it may and searches for all of them
//! at once, level by level. Between two levels it drops whose deadline has passed and who was taken back, and lets requests
//! overtake that have less to compute than is left. Workers have one thread each: requests side by side use all cores, and no
//! core waits for another inside a request. Each search keeps the catalog that it began with, and its version stands in the
//! answers.
//!
//! Modules in the order of a request's way: [`request`], `queue`, [`engine`], `worker`; [`serving`] is what is served,
//! [`meter`] what was measured.
//!
//! Absent on purpose: network, item ids (who serves maps them), the models themselves.

pub mod engine;
pub mod meter;
pub mod request;
pub mod serving;

mod queue;
mod worker;

pub use engine::{Engine, EngineOptions};
pub use meter::Stats;
pub use request::{Answer, Refusal, Request, Shown, Ticket};
