//! Products of matrices that were rounded to bf16, for processors with its dot product: twice the rate of f32.
//!
//! bf16 is the upper half of an f32: 8 bits of significand, so rounding to the nearest changes a value by at most 2^-8 of
//! it, and by 2^-9.3 in the root mean square. What rounding changed is measured, because whoever screens with these
//! products needs a bound on their error.
//!
//! The product adds in f32. Its instruction takes two neighbouring elements at a time, treats subnormal numbers as zero
//! and rounds to nearest, so a sum of D products is off by at most (D + 2) 2^-24 of the sum of their magnitudes, plus one
//! smallest normal number for each that underflows.

use crate::algebra::vectorised::{sum_of_lanes, vectorised};

/// Columns of one panel: two registers of 16 f32.
pub(crate) const PANEL: usize = 32;
/// Rows that the kernel works on at a time.
const TILE: usize = 8;
/// Elements that are rounded at a time; rows are filled up with zeros to a multiple.
const STEP: usize = 32;

/// One step of a panel: two neighbouring elements (the earlier in the lower half) of each of its 32 columns.
#[repr(C, align(64))]
#[derive(Debug, Clone, Copy)]
struct Lines([u32; PANEL]);

/// A matrix of columns, packed for the kernel: panels of 32 columns, one after the other, each `width / 2` lines long.
#[derive(Debug, Clone)]
pub(crate) struct Bf16Columns {
    /// Elements of a column, with the zeros at its end.
    width: usize,
    panels: Vec<Lines>,
}

/// Rows, rounded: [M', width], both filled up with zeros.
#[derive(Debug, Default)]
pub(crate) struct Bf16Rows {
    values: Vec<u16>,
}

/// Squared lengths of a row and of what rounding changed in it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Rounded {
    pub(crate) squared_length: f32,
    pub(crate) squared_change: f32,
}

/// Whether this processor has the kernel.
pub(crate) fn is_available() -> bool {
    #[cfg(target_arch = "x86_64")]
    let has = crate::algebra::vectorised::has_avx512() && std::arch::is_x86_feature_detected!("avx512bf16");
    #[cfg(not(target_arch = "x86_64"))]
    let has = false;
    has
}

/// The nearest bf16, ties to even; subnormal numbers become zero.
#[inline(always)]
pub(crate) fn rounded(value: f32) -> u16 {
    let bits = value.to_bits();
    let nearest = (bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16;
    if bits & 0x7f80_0000 == 0 { 0 } else { nearest }
}

/// The f32 that a bf16 stands for.
#[inline(always)]
pub(crate) fn widened(value: u16) -> f32 {
    f32::from_bits(u32::from(value) << 16)
}

impl Bf16Columns {
    /// Packs columns that are given as rows, [O, I]; O is filled up with zeros to a multiple of [`PANEL`].
    pub(crate) fn pack(columns: &[f32], width: usize) -> Self {
        let padded = width.next_multiple_of(STEP);
        let steps = padded / 2;
        let count = columns.len() / width;
        let mut panels = vec![Lines([0; PANEL]); count.div_ceil(PANEL) * steps];
        for (panel, columns) in panels.chunks_exact_mut(steps).zip(columns.chunks(PANEL * width)) {
            for (lane, column) in columns.chunks_exact(width).enumerate() {
                for (line, pair) in panel.iter_mut().zip(column.chunks(2)) {
                    let later = pair.get(1).map_or(0, |&v| u32::from(rounded(v)));
                    line.0[lane] = u32::from(rounded(pair[0])) | later << 16;
                }
            }
        }
        Self { width: padded, panels }
    }

    /// Columns, with those that were filled up.
    pub(crate) fn columns(&self) -> usize {
        self.panels.len() / (self.width / 2) * PANEL
    }

    /// The product of `count` rows with all columns.
    ///
    /// # Shapes
    /// `out`: [count, columns]
    ///
    /// # Panics
    /// If the lengths do not fit, or the processor has no kernel ([`is_available`]).
    pub(crate) fn product(&self, rows: &Bf16Rows, count: usize, out: &mut [f32]) {
        let columns = self.columns();
        assert!(rows.values.len() >= count.next_multiple_of(TILE) * self.width && out.len() == count * columns);
        assert!(is_available());
        #[cfg(target_arch = "x86_64")]
        {
            let steps = self.width / 2;
            for (p, panel) in self.panels.chunks_exact(steps).enumerate() {
                for (t, tile) in rows.values.chunks_exact(TILE * self.width).take(count.div_ceil(TILE)).enumerate() {
                    // SAFETY: the processor has the sets that the kernel is compiled for, checked above.
                    let sums = unsafe { kernel(tile, panel) };
                    let out = out[t * TILE * columns..].chunks_mut(columns);
                    for (out, sums) in out.zip(&sums) {
                        out[p * PANEL..(p + 1) * PANEL].copy_from_slice(sums);
                    }
                }
            }
        }
    }
}

/// The product of [`TILE`] rows with one panel.
///
/// # Panics
/// If `tile` is not [`TILE`] rows of twice as many elements as `panel` has lines.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn kernel(tile: &[u16], panel: &[Lines]) -> [[f32; PANEL]; TILE] {
    use std::arch::x86_64::{
        __m512bh, __m512i, _mm512_dpbf16_ps, _mm512_load_si512, _mm512_set1_epi32, _mm512_setzero_ps, _mm512_storeu_ps,
    };
    let bf16 = |v: __m512i| -> __m512bh {
        // SAFETY: both are 512 bits without invalid patterns.
        unsafe { std::mem::transmute(v) }
    };
    let steps = panel.len();
    assert!(tile.len() == TILE * 2 * steps);
    let mut sums = [[_mm512_setzero_ps(); 2]; TILE];
    for (step, lines) in panel.iter().enumerate() {
        let at: *const u32 = lines.0.as_ptr();
        // SAFETY: a line is 32 u32, two aligned registers, aligned to 64 bytes by its type.
        let (left, right) = unsafe { (_mm512_load_si512(at.cast()), _mm512_load_si512(at.add(16).cast())) };
        for (r, sums) in sums.iter_mut().enumerate() {
            // SAFETY: row r has 2 * steps elements, so the pair at 2 * step is inside; reading it needs no alignment.
            let pair = unsafe { tile.as_ptr().add(2 * (r * steps + step)).cast::<i32>().read_unaligned() };
            let pair = bf16(_mm512_set1_epi32(pair));
            sums[0] = _mm512_dpbf16_ps(sums[0], pair, bf16(left));
            sums[1] = _mm512_dpbf16_ps(sums[1], pair, bf16(right));
        }
    }
    let mut out = [[0f32; PANEL]; TILE];
    for (out, sums) in out.iter_mut().zip(sums) {
        // SAFETY: a row of `out` is 32 f32, two registers.
        unsafe {
            _mm512_storeu_ps(out.as_mut_ptr(), sums[0]);
            _mm512_storeu_ps(out.as_mut_ptr().add(16), sums[1]);
        }
    }
    out
}

impl Bf16Rows {
    /// Rounds rows less `centre`; hands the lengths of each to `measured`.
    ///
    /// # Shapes
    /// `rows`: [M, D]; `centre`: `[D]`
    pub(crate) fn round(&mut self, rows: &[f32], centre: &[f32], mut measured: impl FnMut(Rounded)) {
        let width = centre.len();
        let padded = width.next_multiple_of(STEP);
        self.values.resize((rows.len() / width).next_multiple_of(TILE) * padded, 0);
        for (row, out) in rows.chunks_exact(width).zip(self.values.chunks_exact_mut(padded)) {
            measured(round_row(row, centre, out));
        }
    }
}

vectorised! {
    fn round_row(row: &[f32], centre: &[f32], out: &mut [u16]) -> Rounded {
        let (mut length, mut change) = ([0f32; STEP], [0f32; STEP]);
        let whole = row.len() / STEP * STEP;
        let (head, tail) = out.split_at_mut(whole);
        let steps = row[..whole].chunks_exact(STEP).zip(centre[..whole].chunks_exact(STEP));
        for ((row, centre), out) in steps.zip(head.chunks_exact_mut(STEP)) {
            for i in 0..STEP {
                let value = row[i] - centre[i];
                out[i] = rounded(value);
                let lost = value - widened(out[i]);
                length[i] += value * value;
                change[i] += lost * lost;
            }
        }
        tail.fill(0);
        for (i, (row, centre)) in row[whole..].iter().zip(&centre[whole..]).enumerate() {
            let value = row - centre;
            tail[i] = rounded(value);
            let lost = value - widened(tail[i]);
            length[i] += value * value;
            change[i] += lost * lost;
        }
        Rounded { squared_length: sum_of_lanes(length), squared_change: sum_of_lanes(change) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rounding_takes_the_nearest_and_ties_to_even() {
        for (value, want) in [
            (1.0, 1.0),
            (1.0 + 1.0 / 256.0, 1.0),
            (1.0 + 3.0 / 256.0, 1.0 + 4.0 / 256.0),
            (1.0 + 1.01 / 256.0, 1.0 + 2.0 / 256.0),
            (-3.0e-39, 0.0),
            (0.0, 0.0),
            (3.4e38, f32::INFINITY),
        ] {
            assert_eq!(widened(rounded(value)), want, "{value}");
        }
    }

    proptest! {
        #[test]
        fn the_kernel_is_the_product_of_rounded_values(
            width in 1usize..100,
            columns in 1usize..80,
            count in 1usize..20,
            raw in prop::collection::vec(-1f32..1.0, 100 * 100),
        ) {
            if !is_available() {
                return Ok(());
            }
            let (rows, rest) = raw.split_at(count * width);
            let (centre, weights) = (&rest[..width], &rest[width..][..columns * width]);
            let packed = Bf16Columns::pack(weights, width);
            prop_assert_eq!(packed.columns(), columns.next_multiple_of(PANEL));
            let mut out = vec![f32::NAN; count * packed.columns()];
            let (mut rounded_rows, mut lengths) = (Bf16Rows::default(), Vec::new());
            rounded_rows.round(rows, centre, |measured| lengths.push(measured));
            packed.product(&rounded_rows, count, &mut out);
            for (r, row) in rows.chunks(width).enumerate() {
                let values: Vec<f32> = row.iter().zip(centre).map(|(x, m)| x - m).collect();
                let half: Vec<f32> = values.iter().map(|&v| widened(rounded(v))).collect();
                let length: f32 = values.iter().map(|v| v * v).sum();
                let change: f32 = values.iter().zip(&half).map(|(v, h)| (v - h) * (v - h)).sum();
                prop_assert!((lengths[r].squared_length - length).abs() <= 1e-5 * length);
                prop_assert!((lengths[r].squared_change - change).abs() <= 1e-5 * change);
                prop_assert!(change <= length * (1.0 / 65536.0));
                for (c, column) in weights.chunks(width).enumerate() {
                    let terms = half.iter().zip(column).map(|(h, &w)| f64::from(*h) * f64::from(widened(rounded(w))));
                    let (want, reach) = terms.fold((0.0, 0.0), |(s, m), t| (s + t, m + t.abs()));
                    let bound = (width + 2) as f64 * 2f64.powi(-24) * reach;
                    let found = f64::from(out[r * packed.columns() + c]);
                    prop_assert!((found - want).abs() <= bound, "{found} {want}");
                }
                let filled = &out[r * packed.columns() + columns..(r + 1) * packed.columns()];
                prop_assert!(filled.iter().all(|&v| v == 0.0));
            }
        }
    }
}
