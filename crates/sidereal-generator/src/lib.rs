//! Models that write the semantic ID of the next item, and how they are trained and asked.
//!
//! The modules, in the order of the data: [`history_layout`] says what the tokens of a history are, [`batches`] makes
//! training samples of histories, [`network`] is what
//! every one of the [`models`] gives, [`training`] fits one and leaves a [`generator`] in a folder. To ask it, [`beam`] search writes codes
//! along the catalog's trie through the traits of [`scoring`], as widely as a [`search`] says, a level at a time where somebody
//! wants to look between two ([`under_way`]), and answers with a [`ranking`],
//! of which [`diversity`] chooses and [`calibration`] says how sure it is; [`exact`] scores every
//! item and is the beam search's oracle. [`baselines`] need no training and are what any model has to beat.
//! [`bench`](mod@bench) measures both on inputs that other programs can be given.
//!
//! Absent on purpose: reading data (sidereal-data), making semantic IDs (sidereal-tokenizer), metrics over rankings
//! (sidereal-core), printing, and device kernels.

pub mod batches;

pub mod dropout;
pub mod history_layout;
pub mod network;

pub mod models;

pub mod training;

pub mod generator;

mod newton;
mod pool;
pub mod scoring;

pub mod beam;
pub mod exact;
pub mod ranker;
pub mod ranking;
pub mod search;
pub mod under_way;

pub mod calibration;
pub mod diversity;

pub mod baselines;

pub mod fusion;

pub mod bench;

pub use generator::Generator;
pub use models::{GENERATORS, GeneratorConfig, Method, Status};
pub use network::{Materials, Network, Row, SampleUnit};
pub use ranker::{Question, Ranker};
pub use ranking::{Ranking, ScoredItem, ScoredLeaf};
pub use scoring::{ItemScorer, NextCodeModel, ScoreNorm};
pub use search::{Quota, Search, Widths};
pub use sidereal_nn::{Error, Result};
pub use training::{TrainJob, TrainOutcome, TrainingConfig, train, tune};
pub use under_way::UnderWay;
