//! Item content -> vectors: made by a model, or ready ones that another program made.
//!
//! A model is a folder on disk or in the [`hub`], read as a [`ModelFolder`]. [`template`] writes an item's text,
//! [`pictures`] finds and reads its picture, [`encoders`] are the families of models behind one list, [`encode`] takes
//! all items through one of them and [`cache`] keeps the vectors by content.
//!
//! [`formats`] opens a file of ready vectors of any listed format, on disk or in an object store ([`objects`]), as a
//! [`VectorFile`], which is read in batches of rows; [`vectors`] reads one whole, or the rows that belong to a run's
//! items; [`parts`] puts vectors of several sources side by side; [`stage`] puts them on disk in the [`precision`] they
//! came in and reads them back.
//!
//! Absent on purpose: training of encoders; object arrays and pickles, which are programs and not data.

pub mod precision;

pub mod template;

pub mod pictures;

pub mod hub;

pub mod encoders;

pub mod cache;

pub mod encode;

pub mod objects;

pub mod formats;

pub mod parts;
pub mod vectors;

pub mod stage;

pub use cache::VectorCache;
pub use encode::{BATCH_TOKENS, Contents, EncodeFacts, EncodeWork, cache_name, encode_items};
pub use encoders::{ComputeType, ENCODERS, Embedder, EncoderFacts, EncoderOptions, Modality};
pub use formats::{Batch, FORMATS, FileIdentity, IdBatches, Reading, VectorFile};
pub use hub::Hub;
pub use objects::StoreOptions;
pub use parts::{one_below_the_other, side_by_side};
pub use precision::Precision;
pub use sidereal_nn::pretrained::ModelFolder;
pub use stage::load;
pub use template::Template;
pub use vectors::{VectorFacts, Vectors, read_vectors, vectors_for_items};

#[cfg(test)]
mod written;
