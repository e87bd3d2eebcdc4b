//! The causal decoder of Llama, Qwen2, Qwen3 and Mistral, of this crate's ops: what encoders of texts and generators share.
//!
//! RMSNorm before every sub-layer, rotated positions, few heads of keys and values for many of queries, a gated SiLU
//! feed-forward; Qwen2 adds biases, Qwen3 norms of queries and keys.
//!
//! *Paper*: Touvron et al., "LLaMA", 2302.13971, section 2.2; Su et al., "RoFormer", 2104.09864; Ainslie et al., "GQA",
//! 2305.13245; Qwen team, "Qwen3", 2505.09388, section 2.
//! *Differs from the papers*: no sliding windows; no dropout, as the checkpoints have none.
//! *Checked against*: Hugging Face's LlamaForCausalLM, Qwen2ForCausalLM and Qwen3ForCausalLM by the crates that use it.
//!
//! # Shapes
//! embedded tokens `[B, T, D]` -> states `[B, T, D]`; H heads of queries, Hk of keys and values, each dk wide

mod config;
mod forward;
mod weights;

pub use config::{DecoderConfig, RopeScaling};
pub use forward::{Decoder, Heads, Rotation, spread};
pub use weights::{DecoderWeights, LayerWeights, Projection, Slot};
