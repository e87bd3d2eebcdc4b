//! Rows of a table by id.

use candle_core::{CpuStorage, CustomOp2, Layout, Shape, Storage, Tensor};

use super::{check, composed, cpu};
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
    if !cpu::is_fused(&[table]) || !ids.device().is_cpu() {
        return composed::embedding(ids, table);
    }
    let ids = ids.contiguous()?;
    check_ids("embedding", &ids, table)?;
    Ok(table.contiguous()?.apply_op2(&ids, Embedding)?)
}

/// Refuses contiguous ids outside the table.
pub(super) fn check_ids(op: &str, ids: &Tensor, table: &Tensor) -> Result<()> {
    let rows = table.dims()[0];
    let (storage, layout) = ids.storage_and_layout();
    match id_values(&storage, layout)?.iter().enumerate().find(|(_, id)| **id as usize >= rows) {
        None => Ok(()),
        Some((at, id)) => {
            let problem = format!("id {id} at position {at} is outside the table of {rows} rows");
            check::refuse(op, problem, "use ids of this vocabulary, or make the table larger")
        }
    }
}

/// The ids of a contiguous storage.
pub(super) fn id_slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<&'a [u32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<u32>()?[start..end]),
        None => candle_core::bail!("an op was given ids that are not contiguous"),
    }
}

/// The ids of a contiguous tensor, from what [`Tensor::storage_and_layout`] gives.
pub(super) fn id_values<'a>(storage: &'a Storage, layout: &Layout) -> candle_core::Result<&'a [u32]> {
    match storage {
        Storage::Cpu(storage) => id_slice(storage, layout),
        _ => candle_core::bail!("a fused op was given ids on another device"),
    }
}

struct Embedding;

impl CustomOp2 for Embedding {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn cpu_fwd(
        &self,
        table: &CpuStorage,
        table_layout: &Layout,
        ids: &CpuStorage,
        ids_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let width = table_layout.shape().dims2()?.1;
        let table = cpu::slice(table, table_layout)?;
        let ids = id_slice(ids, ids_layout)?;
        let mut y = Vec::with_capacity(ids.len() * width);
        for &id in ids {
            y.extend_from_slice(&table[id as usize * width..][..width]);
        }
        let mut dims = ids_layout.dims().to_vec();
        dims.push(width);
        Ok((CpuStorage::F32(y), dims.into()))
    }

    fn bwd(
        &self,
        table: &Tensor,
        ids: &Tensor,
        _y: &Tensor,
        g: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let width = table.dims2()?.1;
        let g = g.contiguous()?;
        let (g_storage, g_layout) = g.storage_and_layout();
        let (id_storage, id_layout) = ids.storage_and_layout();
        let mut dt = vec![0.0; table.elem_count()];
        // One thread, so that rows that meet are added in the order of their positions.
        add_rows(&mut dt, width, id_values(&id_storage, id_layout)?, cpu::values(&g_storage, g_layout)?);
        Ok((Some(cpu::tensor(dt, table.shape())?), None))
    }
}

cpu::vectorised! {
    fn add_rows(table: &mut [f32], width: usize, ids: &[u32], rows: &[f32]) {
        for (&id, row) in ids.iter().zip(rows.chunks_exact(width.max(1))) {
            for (t, r) in table[id as usize * width..][..width].iter_mut().zip(row) {
                *t += r;
            }
        }
    }
}
