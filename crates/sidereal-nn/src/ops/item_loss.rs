//! Cross-entropy over items whose scores are sums of the scores of their codes.

use std::sync::{Arc, OnceLock};

use candle_core::{CpuStorage, CustomOp3, Layout, Shape, Tensor};

use super::embedding::id_slice;
use super::loss::kept_gradient;
use super::marked::Marked;
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

/// How items score.
#[derive(Debug, Clone, Copy)]
pub struct ItemScores<'a> {
    /// The items.
    pub items: &'a ItemCodes,
    /// Times the sum over an item's codes.
    pub scale: f32,
    /// A learnt number `[1]` that is added at some items of every row.
    pub bonus: Option<(&'a Tensor, &'a Marked)>,
}

/// Mean negative log-likelihood of the targets in a softmax over items.
///
/// # Shapes
/// logits `[R, V]`, targets `[R]` (u32, places in `items`), items `[L, C]` -> `[]`
///
/// # Errors
/// Shapes that do not fit; a code outside the logits; a target that is no item.
pub fn item_cross_entropy(logits: &Tensor, targets: &Tensor, args: &ItemScores<'_>) -> Result<Tensor> {
    const OP: &str = "item_cross_entropy";
    let items = args.items;
    let (rows, vocab) = check::matrix(OP, "logits", logits)?;
    check::shape(OP, "targets", targets, &[rows])?;
    check::ids(OP, "targets", targets)?;
    if let Some(place) = items.places.iter().find(|place| **place as usize >= vocab) {
        let problem = format!("a code's place is {place}, but there are {vocab} logits a row");
        return check::refuse(OP, problem, "give the items of these logits");
    }
    if !(args.scale.is_finite() && args.scale != 0.0) {
        return check::refuse(OP, format!("the scale is {}", args.scale), "choose a number other than 0");
    }
    if let Some((bonus, marked)) = args.bonus {
        marked.check(OP, rows, items.len(), bonus)?;
    }
    let bonus_fused = args.bonus.is_none_or(|(bonus, _)| cpu::is_fused(&[bonus]));
    if !cpu::is_fused(&[logits]) || !bonus_fused || !targets.device().is_cpu() {
        return composed::item_cross_entropy(logits, targets, args);
    }
    let targets = targets.contiguous()?;
    if let Some(target) = targets.to_vec1::<u32>()?.iter().find(|target| **target as usize >= items.len()) {
        let problem = format!("target {target} is none of {} items", items.len());
        return check::refuse(OP, problem, "give places in the items");
    }
    let (bonus, marked) = match args.bonus {
        Some((bonus, marked)) => (bonus.contiguous()?, Some(marked.clone())),
        None => (Tensor::zeros(1, logits.dtype(), logits.device())?, None),
    };
    let op = Fused {
        items: items.clone(),
        scale: args.scale,
        marked,
        track: logits.track_op() || bonus.track_op(),
        by_logits: OnceLock::new(),
        by_bonus: OnceLock::new(),
    };
    Ok(logits.contiguous()?.apply_op3(&targets, &bonus, op)?)
}

struct Fused {
    items: ItemCodes,
    scale: f32,
    marked: Option<Marked>,
    track: bool,
    /// The loss's gradients, from the forward.
    by_logits: OnceLock<Vec<f32>>,
    by_bonus: OnceLock<f32>,
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

impl CustomOp3 for Fused {
    fn name(&self) -> &'static str {
        "item_cross_entropy"
    }

    fn cpu_fwd(
        &self,
        logits: &CpuStorage,
        logits_layout: &Layout,
        targets: &CpuStorage,
        targets_layout: &Layout,
        bonus: &CpuStorage,
        bonus_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (rows, vocab) = logits_layout.shape().dims2()?;
        let x = cpu::slice(logits, logits_layout)?;
        let targets = id_slice(targets, targets_layout)?;
        // Sums are scaled later, and the bonus with them.
        let bonus = cpu::slice(bonus, bonus_layout)?[0] / self.scale;
        let share = 1.0 / rows.max(1) as f32;
        let mut by_logits = vec![0.0; if self.track { x.len() } else { 0 }];
        let mut by_bonus = 0f64;
        let mut sums = vec![0.0; self.items.len()];
        let mut loss = 0.0;
        for (row, &target) in targets.iter().enumerate() {
            let marked = self.marked.as_ref().map_or(&[][..], |marked| marked.row(row));
            self.items.sums(&x[row * vocab..][..vocab], &mut sums);
            marked.iter().for_each(|&item| sums[item as usize] += bonus);
            loss += row_loss(&mut sums, target as usize, self.scale, share);
            if self.track {
                by_bonus += marked.iter().map(|&item| f64::from(sums[item as usize])).sum::<f64>();
                self.items.spread(&sums, &mut by_logits[row * vocab..][..vocab]);
            }
        }
        if self.track {
            self.by_logits.get_or_init(|| by_logits);
            self.by_bonus.get_or_init(|| (by_bonus / f64::from(self.scale)) as f32);
        }
        Ok((CpuStorage::F32(vec![(loss / rows.max(1) as f64) as f32]), Shape::from(())))
    }

    fn bwd(
        &self,
        logits: &Tensor,
        _targets: &Tensor,
        bonus: &Tensor,
        _loss: &Tensor,
        g: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let by_logits = kept_gradient(self.name(), &self.by_logits, logits, g)?;
        let by_bonus = self.by_bonus.get().copied().unwrap_or_default() * g.to_scalar::<f32>()?;
        Ok((Some(by_logits), None, Some(Tensor::from_vec(vec![by_bonus], bonus.shape(), bonus.device())?)))
    }
}
