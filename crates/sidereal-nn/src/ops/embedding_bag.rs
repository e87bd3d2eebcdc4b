//! Sums of rows of a table: an embedding of what has several ids, without its rows ever being laid out.

use candle_core::{CpuStorage, CustomOp2, Layout, Shape, Tensor};

use super::embedding::{check_ids, id_slice, id_values};
use super::{check, composed, cpu};
use crate::error::Result;

/// `scale` times the sum of the rows of `table` that each row of `ids` names. An id may stand in a row twice.
///
/// # Shapes
/// ids `[R, L]` (u32), table `[V, D]` -> `[R, D]`
///
/// # Errors
/// Ids of another type or outside the table.
pub fn embedding_bag(ids: &Tensor, table: &Tensor, scale: f32) -> Result<Tensor> {
    check::ids("embedding_bag", "ids", ids)?;
    check::matrix("embedding_bag", "ids", ids)?;
    check::matrix("embedding_bag", "table", table)?;
    if !cpu::is_fused(&[table]) || !ids.device().is_cpu() {
        return composed::embedding_bag(ids, table, scale);
    }
    let ids = ids.contiguous()?;
    check_ids("embedding_bag", &ids, table)?;
    Ok(table.contiguous()?.apply_op2(&ids, EmbeddingBag { scale })?)
}

struct EmbeddingBag {
    scale: f32,
}

impl CustomOp2 for EmbeddingBag {
    fn name(&self) -> &'static str {
        "embedding_bag"
    }

    fn cpu_fwd(
        &self,
        table: &CpuStorage,
        table_layout: &Layout,
        ids: &CpuStorage,
        ids_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let width = table_layout.shape().dims2()?.1;
        let (rows, count) = ids_layout.shape().dims2()?;
        let mut y = vec![0.0; rows * width];
        sum_rows(&mut y, width, count, id_slice(ids, ids_layout)?, cpu::slice(table, table_layout)?, self.scale);
        Ok((CpuStorage::F32(y), (rows, width).into()))
    }

    fn bwd(
        &self,
        table: &Tensor,
        ids: &Tensor,
        _y: &Tensor,
        g: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let width = table.dims2()?.1;
        let count = ids.dims2()?.1;
        let g = g.contiguous()?;
        let (g_storage, g_layout) = g.storage_and_layout();
        let (id_storage, id_layout) = ids.storage_and_layout();
        let mut dt = vec![0.0; table.elem_count()];
        // One thread, so that rows that meet are added in the order of their positions.
        let (ids, g) = (id_values(&id_storage, id_layout)?, cpu::values(&g_storage, g_layout)?);
        spread_rows(&mut dt, width, count, ids, g, self.scale);
        Ok((Some(cpu::tensor(dt, table.shape())?), None))
    }
}

cpu::vectorised! {
    fn sum_rows(y: &mut [f32], width: usize, count: usize, ids: &[u32], table: &[f32], scale: f32) {
        if width == 0 || count == 0 {
            return;
        }
        for (y, ids) in y.chunks_exact_mut(width).zip(ids.chunks_exact(count)) {
            for &id in ids {
                for (y, t) in y.iter_mut().zip(&table[id as usize * width..][..width]) {
                    *y += t;
                }
            }
            for y in y.iter_mut() {
                *y *= scale;
            }
        }
    }
}

cpu::vectorised! {
    fn spread_rows(dt: &mut [f32], width: usize, count: usize, ids: &[u32], g: &[f32], scale: f32) {
        if width == 0 || count == 0 {
            return;
        }
        for (g, ids) in g.chunks_exact(width).zip(ids.chunks_exact(count)) {
            for &id in ids {
                for (d, g) in dt[id as usize * width..][..width].iter_mut().zip(g) {
                    *d += g * scale;
                }
            }
        }
    }
}
