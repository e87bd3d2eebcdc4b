//! One learnt number at some places of a matrix.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp2, Layout, Shape, Tensor};

use super::{check, composed, cpu};
use crate::error::Result;

/// Some columns of every row: for logits over items, the items that a history has already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marked {
    /// Where each row's columns begin: `[R + 1]`.
    starts: Arc<[usize]>,
    columns: Arc<[u32]>,
}

impl Marked {
    /// The columns of each row, each once.
    pub fn new<'a>(rows: impl IntoIterator<Item = &'a [u32]>) -> Self {
        let (mut starts, mut columns) = (vec![0], Vec::new());
        for row in rows {
            let first = columns.len();
            columns.extend_from_slice(row);
            columns[first..].sort_unstable();
            let mut kept = first;
            for at in first..columns.len() {
                if at == first || columns[at] != columns[at - 1] {
                    columns[kept] = columns[at];
                    kept += 1;
                }
            }
            columns.truncate(kept);
            starts.push(kept);
        }
        Self { starts: starts.into(), columns: columns.into() }
    }

    /// R.
    pub fn rows(&self) -> usize {
        self.starts.len() - 1
    }

    /// The columns of a row, ascending.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, row: usize) -> &[u32] {
        &self.columns[self.starts[row]..self.starts[row + 1]]
    }

    /// Refuses marks that are not in a matrix of this size, and a bonus that is not one number.
    pub(super) fn check(&self, op: &str, rows: usize, columns: usize, bonus: &Tensor) -> Result<()> {
        check::shape(op, "bonus", bonus, &[1])?;
        if self.rows() != rows {
            let problem = format!("{} rows are marked, but there are {rows}", self.rows());
            return check::refuse(op, problem, "mark every row, with no column where nothing is to be marked");
        }
        match self.columns.iter().find(|&&column| column as usize >= columns) {
            None => Ok(()),
            Some(column) => {
                let problem = format!("column {column} is marked, but there are {columns}");
                check::refuse(op, problem, "mark columns of this matrix")
            }
        }
    }
}

/// Adds `bonus` at the marked places.
///
/// # Shapes
/// x `[R, C]`, bonus `[1]` -> `[R, C]`
///
/// # Errors
/// Shapes that do not fit; a marked column that is not there.
pub fn add_marked(x: &Tensor, bonus: &Tensor, marked: &Marked) -> Result<Tensor> {
    const OP: &str = "add_marked";
    let (rows, columns) = check::matrix(OP, "x", x)?;
    marked.check(OP, rows, columns, bonus)?;
    if !cpu::is_fused(&[x, bonus]) {
        return composed::add_marked(x, bonus, marked);
    }
    Ok(x.contiguous()?.apply_op2(&bonus.contiguous()?, Fused { marked: marked.clone() })?)
}

struct Fused {
    marked: Marked,
}

impl CustomOp2 for Fused {
    fn name(&self) -> &'static str {
        "add_marked"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        bonus: &CpuStorage,
        bonus_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (_, columns) = x_layout.shape().dims2()?;
        let mut y = cpu::slice(x, x_layout)?.to_vec();
        let bonus = cpu::slice(bonus, bonus_layout)?[0];
        for (row, y) in y.chunks_exact_mut(columns.max(1)).enumerate() {
            self.marked.row(row).iter().for_each(|&column| y[column as usize] += bonus);
        }
        Ok((CpuStorage::F32(y), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        bonus: &Tensor,
        _y: &Tensor,
        g: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let g = g.contiguous()?;
        let (storage, layout) = g.storage_and_layout();
        let values = cpu::values(&storage, layout)?;
        let columns = x.dims2()?.1;
        let of_row = |row: usize| -> f64 {
            self.marked.row(row).iter().map(|&column| f64::from(values[row * columns + column as usize])).sum()
        };
        let sum: f64 = (0..self.marked.rows()).map(of_row).sum();
        let dbonus = Tensor::from_vec(vec![sum as f32], bonus.shape(), bonus.device())?;
        drop(storage);
        Ok((Some(g), Some(dbonus)))
    }
}
