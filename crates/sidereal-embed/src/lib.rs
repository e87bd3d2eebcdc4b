//! Item content -> vectors. So far: ready vectors, as another program encoded them.
//!
//! [`formats`] opens a file of vectors of any listed format, on disk or in an object store ([`objects`]), as a
//! [`VectorFile`], which is read in
//! batches of rows; [`vectors`] reads one whole, or the rows that belong to a run's items; [`stage`] puts them on disk
//! in the [`precision`] they came in and reads them back.
//!
//! Absent on purpose: tensors and encoders; object arrays and pickles, which are programs and not data.

pub mod precision;

pub mod objects;

pub mod formats;

pub mod vectors;

pub mod stage;

pub use formats::{Batch, FORMATS, FileIdentity, Reading, VectorFile};
pub use objects::StoreOptions;
pub use precision::Precision;
pub use stage::load;
pub use vectors::{VectorFacts, Vectors, read_vectors, vectors_for_items};

#[cfg(test)]
mod written;
