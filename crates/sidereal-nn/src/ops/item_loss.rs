//! Cross-entropy over items whose scores are sums of the scores of their codes.

use std::sync::{Arc, OnceLock};

use candle_core::{CpuStorage, CustomOp2, Layout, Shape, Tensor};

use super::embedding::id_slice;
use super::loss::kept_gradient;
use super::{check, composed, cpu, vector};
use crate::error::Result;

/// Items that are summed at once: their sums stay in the first cache.
const BLOCK: usize = 2048;

/// Items by their codes, level by level, so that the scores of one level are looked up for many items in a row.
#[derive(Debug, Clone)]
pub struct ItemCodes {
    /// The places of codes among those of all levels: `[L, C]`.
    places: Arc<[u32]>,
    items: usize,
}

impl ItemCodes {
    /// Items of `levels` codes each, item by item: `[C, L]`, every code as its place among those of all levels.
    ///
    /// # Errors
    /// Codes that are not whole items.
    pub fn new(by_item: &[u32], levels: usize) -> Result<Self> {
        if levels == 0 || !by_item.len().is_multiple_of(levels) {
            let problem = format!("{} codes are not items of {levels}", by_item.len());
            return check::refuse("item_codes", problem, "give every item a code a level");
        }
        let items = by_item.len() / levels;
        let place = |i: usize| by_item[i % items.max(1) * levels + i / items.max(1)];
        Ok(Self { places: (0..by_item.len()).map(place).collect(), items })
    }

    /// C.
    pub fn len(&self) -> usize {
        self.items
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.items == 0
    }

    /// L.
    pub fn levels(&self) -> usize {
        self.places.len().checked_div(self.items).unwrap_or(0)
    }

    /// The places of codes, level by level: `[L, C]`.
    pub fn places(&self) -> &[u32] {
        &self.places
    }

    /// The sum over an item's codes, for every item.
    ///
    /// # Shapes
    /// values `[V]`, sums `[C]`
    ///
    /// # Panics
    /// If `sums` has another size, or a code is outside `values`.
    pub fn sums(&self, values: &[f32], sums: &mut [f32]) {
        assert_eq!(sums.len(), self.items, "sums must be [C]");
        for (start, sums) in (0..).step_by(BLOCK).zip(sums.chunks_mut(BLOCK)) {
            sums.fill(0.0);
            let (levels, count) = (self.levels(), sums.len());
            let level = |l: usize| &self.places[l * self.items + start..][..count];
            let mut l = 0;
            // Four levels at once: a sum is read and written once for four look-ups.
            while l + 4 <= levels {
                let (a, b, c, d) = (level(l), level(l + 1), level(l + 2), level(l + 3));
                for (i, sum) in sums.iter_mut().enumerate() {
                    let of = |places: &[u32]| values[places[i] as usize];
                    *sum += (of(a) + of(b)) + (of(c) + of(d));
                }
                l += 4;
            }
            while l < levels {
                for (sum, &place) in sums.iter_mut().zip(level(l)) {
                    *sum += values[place as usize];
                }
                l += 1;
            }
        }
    }

    /// Adds every item's number to each of its codes: the way back of [`ItemCodes::sums`].
    fn spread(&self, numbers: &[f32], values: &mut [f32]) {
        for places in self.places.chunks_exact(self.items.max(1)) {
            for (&place, number) in places.iter().zip(numbers) {
                values[place as usize] += number;
            }
        }
    }
}

/// Mean negative log-likelihood of the targets in a softmax over items, where an item scores `scale` times the sum over
/// its codes.
///
/// # Shapes
/// logits `[R, V]`, targets `[R]` (u32, places in `items`), items `[L, C]` -> `[]`
///
/// # Errors
/// Shapes that do not fit; a code outside the logits; a target that is no item.
pub fn item_cross_entropy(logits: &Tensor, targets: &Tensor, items: &ItemCodes, scale: f32) -> Result<Tensor> {
    const OP: &str = "item_cross_entropy";
    let (rows, vocab) = check::matrix(OP, "logits", logits)?;
    check::shape(OP, "targets", targets, &[rows])?;
    check::ids(OP, "targets", targets)?;
    if let Some(place) = items.places.iter().find(|place| **place as usize >= vocab) {
        let problem = format!("a code's place is {place}, but there are {vocab} logits a row");
        return check::refuse(OP, problem, "give the items of these logits");
    }
    if !cpu::is_fused(&[logits]) || !targets.device().is_cpu() {
        return composed::item_cross_entropy(logits, targets, items, scale);
    }
    let targets = targets.contiguous()?;
    if let Some(target) = targets.to_vec1::<u32>()?.iter().find(|target| **target as usize >= items.len()) {
        let problem = format!("target {target} is none of {} items", items.len());
        return check::refuse(OP, problem, "give places in the items");
    }
    let op = Fused { items: items.clone(), scale, track: logits.track_op(), gradient: OnceLock::new() };
    Ok(logits.contiguous()?.apply_op2(&targets, op)?)
}

struct Fused {
    items: ItemCodes,
    scale: f32,
    track: bool,
    /// The loss's gradient by the logits, from the forward.
    gradient: OnceLock<Vec<f32>>,
}

cpu::vectorised! {
    /// The loss of one row of sums, which become its gradient.
    fn row_loss(sums: &mut [f32], target: usize, scale: f32, share: f32) -> f64 {
        let top = vector::max(sums) * scale;
        let right = sums[target] * scale;
        for s in sums.iter_mut() {
            *s = vector::exp(*s * scale - top);
        }
        let sum = vector::sum(sums);
        let factor = share * scale;
        for s in sums.iter_mut() {
            *s *= factor / sum;
        }
        sums[target] -= factor;
        f64::from(sum.ln() + top - right)
    }
}

impl CustomOp2 for Fused {
    fn name(&self) -> &'static str {
        "item_cross_entropy"
    }

    fn cpu_fwd(
        &self,
        logits: &CpuStorage,
        logits_layout: &Layout,
        targets: &CpuStorage,
        targets_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (rows, vocab) = logits_layout.shape().dims2()?;
        let x = cpu::slice(logits, logits_layout)?;
        let targets = id_slice(targets, targets_layout)?;
        let share = 1.0 / rows.max(1) as f32;
        let mut gradient = vec![0.0; if self.track { x.len() } else { 0 }];
        let mut sums = vec![0.0; self.items.len()];
        let mut loss = 0.0;
        for (row, &target) in targets.iter().enumerate() {
            self.items.sums(&x[row * vocab..][..vocab], &mut sums);
            loss += row_loss(&mut sums, target as usize, self.scale, share);
            if self.track {
                self.items.spread(&sums, &mut gradient[row * vocab..][..vocab]);
            }
        }
        if self.track {
            self.gradient.get_or_init(|| gradient);
        }
        Ok((CpuStorage::F32(vec![(loss / rows.max(1) as f64) as f32]), Shape::from(())))
    }

    fn bwd(
        &self,
        logits: &Tensor,
        _targets: &Tensor,
        _loss: &Tensor,
        g: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((Some(kept_gradient(self.name(), &self.gradient, logits, g)?), None))
    }
}
