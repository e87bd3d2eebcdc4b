//! Differentiable ops.
//!
//! Each op checks its shapes, then takes one of two ways: f32 on the CPU runs fused kernels of our own that carry their
//! own backward; every other type and device runs the fallback of plain candle ops in [`composed`], which candle
//! differentiates. Tests hold the two against each other. When no input is tracked nothing is kept for a backward.
//!
//! Products of a training multiply in f32 or, within [`in_precision()`], in bf16.
//!
//! Weights are `[I, O]`, ready for the product: a transposed view costs two to five times as much.

pub mod activation;
pub mod attention;
pub mod code_heads;
pub mod dropout;
pub mod embedding;
pub mod embedding_bag;
pub mod feed_forward;
pub mod item_loss;
pub mod linear;
pub mod loss;
pub mod marked;
pub mod norm;
pub mod perceptron;

pub mod composed;

mod attention_cpu;
mod check;
pub(crate) mod cpu;
mod in_precision;
mod product;
mod rounded_product;

use crate::kernels::row as vector;

pub use activation::{gelu, gelu_tanh, relu, silu};
pub use attention::{Attention, attention};
pub use code_heads::{CodeHeads, code_heads};
pub use dropout::{add_dropout, dropout};
pub use embedding::embedding;
pub use embedding_bag::embedding_bag;
pub use feed_forward::feed_forward_relu;
pub use in_precision::in_precision;
pub use item_loss::{ItemCodes, ItemScores, item_cross_entropy};
pub use linear::{linear, linear_bias, tied_head};
pub use loss::{CrossEntropy, cross_entropy};
pub use marked::{Marked, add_marked};
pub use norm::{layer_norm, rms_norm};
pub use perceptron::{LearntLayers, perceptron, perceptron_squared_error};
