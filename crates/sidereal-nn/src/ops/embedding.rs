//! Rows of a table by id.

use candle_core::Tensor;

use super::{check, composed};
use crate::error::Result;

/// The rows of `table` that `ids` name.
///
/// # Shapes
/// ids `[..]` (u32), table `[V, D]` -> `[.., D]`
///
/// # Errors
/// Ids of another type or outside the table.
pub fn embedding(ids: &Tensor, table: &Tensor) -> Result<Tensor> {
    check::ids("embedding", "ids", ids)?;
    check::matrix("embedding", "table", table)?;
    composed::embedding(ids, table)
}
