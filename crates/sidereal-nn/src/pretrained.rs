//! Models that others trained, as transformers writes them: a folder of small JSON files and safetensors.

mod folder;
mod weights;

pub use folder::{ModelFolder, SentenceModule};
pub use weights::{WeightFiles, write_weights};
