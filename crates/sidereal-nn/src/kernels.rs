//! Products, attention and loops of inference on the CPU, over plain slices and weights that are packed once.
//!
//! # What stands where?
//! [`instructions`] says what the processor can do, once, and compiles loops for several kinds of it; [`Precision`] is
//! how numbers are held in a product. [`Weights`] are packed for the kernels of `tile`, which are the only code with
//! instructions of one processor; [`Operand`] is the other side of a product. [`attention`] is softmax(q k) v of one head.
//! `row` and [`loops`] are what is neither.
//!
//! Kernels read what they multiply as words of 32 bits: one f32, two bf16, or four bytes. A word is what one step of a
//! kernel takes of a row, and its elements stand in memory in their order.

pub mod attention;
pub mod bf16;
pub mod instructions;
pub mod loops;
mod operand;
mod pairs;
mod precision;
pub(crate) mod row;
mod tile;
mod weights;

pub use instructions::Instructions;
pub use operand::{Operand, Rows, operand_words, prepare, prepare_columns};
pub use precision::Precision;
pub use tile::{Line, Write};
pub use weights::Weights;
