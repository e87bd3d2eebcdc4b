//! Tiles with the instructions of x86-64.

use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use super::{Columns, Job, LANES, Precision, Write};
use crate::kernels::instructions::Instructions;

/// The product with these instructions; false where there is no kernel.
///
/// The lengths were checked by [`Job::run`], the only caller.
pub(super) fn run(job: &mut Job<'_>, instructions: Instructions) -> bool {
    use Instructions::{Avx2, Avx512, Avx512Bf16, Avx512Vnni, Portable};
    // A caller may hold a value that was never detected.
    if instructions > Instructions::of_processor() || instructions == Portable {
        return false;
    }
    // SAFETY: the processor has `instructions` and all before it, as just checked, and each kernel is compiled for the
    // sets of its arm.
    unsafe {
        match (job.precision, instructions) {
            (_, Portable) => return false,
            (Precision::F32, Avx2) => f32_avx2(job),
            (Precision::Bf16, Avx2) => bf16_avx2(job),
            (Precision::Int8, Avx2) => bytes_avx2(job),
            (Precision::F32, Avx512 | Avx512Vnni | Avx512Bf16) => f32_avx512(job),
            (Precision::Bf16, Avx512 | Avx512Vnni) => bf16_avx512(job),
            (Precision::Bf16, Avx512Bf16) => bf16_dot(job),
            (Precision::Int8, Avx512) => bytes_avx512(job),
            (Precision::Int8, Avx512Vnni | Avx512Bf16) => bytes_dot(job),
        }
    }
    true
}

/// The most rows of any tile, and the widest.
const MOST_ROWS: usize = 12;
const WIDEST: usize = 2 * LANES;

/// A function that computes a [`Job`] in tiles of two registers.
///
/// `load` takes a pointer to a register's columns, `broadcast` a word of a row; `step` adds their product to a sum,
/// `columns` looks up what a register's columns need to become f32, and `finish` makes f32 of a sum with that and with
/// what stands behind the row's words; `registers` writes.
macro_rules! kernel {
    ($(#[$meta:meta])* $name:ident($features:literal, $lanes:literal, [$($rows:literal)+]) {
        $zero:expr, $load:expr, $broadcast:expr, $step:expr, $columns:expr, $finish:expr, $registers:ident
    }) => {
        $(#[$meta])*
        #[target_feature(enable = $features)]
        fn $name(job: &mut Job<'_>) {
            /// R rows by N registers.
            #[inline]
            #[target_feature(enable = $features)]
            fn tile<const R: usize, const N: usize>(job: &mut Job<'_>, row: usize, column: usize) {
                let (depth, step) = (job.depth, job.step);
                let rows = &job.rows[row * step..][..(R - 1) * step + job.row_words()];
                let blocks = (N * $lanes).div_ceil(LANES);
                let lines = &job.lines[column / LANES * depth..][..blocks * depth];
                let (at, from) = (rows.as_ptr(), lines.as_ptr().cast::<u32>());
                // Where the second register's columns are: in the next block, or in the second half of this one.
                let second = if $lanes == LANES { depth * LANES } else { $lanes };
                let mut sums = [[$zero; 2]; R];
                for p in 0..depth {
                    // SAFETY: p is below `depth`, the lines of each of the tile's blocks; a register at `p * 16` of the
                    // first block is inside its line, and so is the second one, which is there if N is 2.
                    let (left, right) = unsafe {
                        let line = from.add(p * LANES);
                        let left = ($load)(line);
                        (left, if N == 2 { ($load)(line.add(second)) } else { left })
                    };
                    for (r, sums) in sums.iter_mut().enumerate() {
                        // SAFETY: row r < R has at least `depth` words from `r * step` on inside `rows`.
                        let x = ($broadcast)(unsafe { *at.add(r * step + p) });
                        sums[0] = ($step)(sums[0], x, left);
                        if N == 2 {
                            sums[1] = ($step)(sums[1], x, right);
                        }
                    }
                }
                let first = ($columns)(job.bytes, column);
                let other = if N == 2 { ($columns)(job.bytes, column + $lanes) } else { first };
                let valid = (job.columns - column).min(N * $lanes);
                // Registers that are not full go through a place of their own.
                let mut spare = [const { MaybeUninit::<f32>::uninit() }; MOST_ROWS * WIDEST];
                let (to, out_step, write) = if valid == N * $lanes {
                    let out = &mut job.out[row * job.out_step + column..][..(R - 1) * job.out_step + valid];
                    (out.as_mut_ptr(), job.out_step, job.write)
                } else {
                    (spare.as_mut_ptr().cast::<f32>(), WIDEST, Write::Set)
                };
                for (r, sums) in sums.iter().enumerate() {
                    // SAFETY: row r < R has `row_words` words from `r * step` on inside `rows`, and N registers from
                    // `r * out_step` on where it writes, which has R of them; neither needs alignment.
                    unsafe {
                        let (facts, to) = (at.add(r * step + depth), to.add(r * out_step));
                        $registers::write(to, ($finish)(sums[0], facts, first), write);
                        if N == 2 {
                            $registers::write(to.add($lanes), ($finish)(sums[1], facts, other), write);
                        }
                    }
                }
                for (r, spare) in spare.chunks_exact(WIDEST).enumerate().take(if valid < N * $lanes { R } else { 0 }) {
                    let out = &mut job.out[(row + r) * job.out_step + column..][..valid];
                    for (out, value) in out.iter_mut().zip(spare) {
                        // SAFETY: `valid` is below N registers, which were written for each of R rows.
                        job.write.apply(out, unsafe { value.assume_init() });
                    }
                }
            }

            const MOST: usize = { let all = [$($rows),+]; all[all.len() - 1] };
            const { assert!(MOST <= MOST_ROWS) };
            let mut column = 0;
            while column < job.columns {
                // A block alone is one register of 16 lanes, or two of 8.
                let wide = $lanes < LANES || job.columns - column > LANES;
                let mut row = 0;
                while row < job.count {
                    // Rows are cut evenly, so that no tile is left with few.
                    let left = job.count - row;
                    let count = left.div_ceil(left.div_ceil(MOST));
                    match (count, wide) {
                        $(($rows, true) => tile::<$rows, 2>(job, row, column),)+
                        $(($rows, false) => tile::<$rows, 1>(job, row, column),)+
                        _ => unreachable!("tiles have 1 to {MOST} rows"),
                    }
                    row += count;
                }
                column += if wide { 2 * $lanes } else { $lanes };
            }
        }
    };
}

mod registers_512 {
    use super::*;

    /// Writes 16 numbers.
    ///
    /// # Safety
    /// `to` has 16 elements that may be read and written.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn write(to: *mut f32, value: __m512, write: Write) {
        // SAFETY: the caller's.
        unsafe {
            match write {
                Write::Set => _mm512_storeu_ps(to, value),
                Write::Add => _mm512_storeu_ps(to, _mm512_add_ps(_mm512_loadu_ps(to), value)),
                // The second operand where one is NaN.
                Write::Relu => _mm512_storeu_ps(to, _mm512_max_ps(_mm512_setzero_ps(), value)),
            }
        }
    }
}

mod registers_256 {
    use super::*;

    /// Writes 8 numbers.
    ///
    /// # Safety
    /// `to` has 8 elements that may be read and written.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn write(to: *mut f32, value: __m256, write: Write) {
        // SAFETY: the caller's.
        unsafe {
            match write {
                Write::Set => _mm256_storeu_ps(to, value),
                Write::Add => _mm256_storeu_ps(to, _mm256_add_ps(_mm256_loadu_ps(to), value)),
                // The second operand where one is NaN.
                Write::Relu => _mm256_storeu_ps(to, _mm256_max_ps(_mm256_setzero_ps(), value)),
            }
        }
    }
}

/// A register of a line.
///
/// # Safety
/// `at` is the begin of a line.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn line(at: *const u32) -> __m512i {
    // SAFETY: a line is 64 bytes, aligned to as many by its type.
    unsafe { _mm512_load_si512(at.cast()) }
}

/// Half a line.
///
/// # Safety
/// `at` is the begin or the middle of a line.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn half_line(at: *const u32) -> __m256i {
    // SAFETY: half a line is 32 bytes, aligned to as many.
    unsafe { _mm256_load_si256(at.cast()) }
}

kernel! {
    f32_avx512("avx512f", 16, [1 2 3 4 5 6 7 8 9 10 11 12]) {
        _mm512_setzero_ps(),
        |at| _mm512_castsi512_ps(line(at)),
        |word: u32| _mm512_set1_ps(f32::from_bits(word)),
        |sum, x, w| _mm512_fmadd_ps(x, w, sum),
        |_, _| (),
        |sum, _, _| sum,
        registers_512
    }
}

kernel! {
    f32_avx2("avx2,fma", 8, [1 2 3 4 5 6]) {
        _mm256_setzero_ps(),
        |at| _mm256_castsi256_ps(half_line(at)),
        |word: u32| _mm256_set1_ps(f32::from_bits(word)),
        |sum, x, w| _mm256_fmadd_ps(x, w, sum),
        |_, _| (),
        |sum, _, _| sum,
        registers_256
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn as_bf16(v: __m512i) -> __m512bh {
    // SAFETY: both are 512 bits without invalid patterns.
    unsafe { std::mem::transmute(v) }
}

kernel! {
    bf16_dot("avx512f,avx512bw,avx512bf16", 16, [1 2 3 4 5 6 7 8 9 10 11 12]) {
        _mm512_setzero_ps(),
        |at| as_bf16(line(at)),
        |word: u32| as_bf16(_mm512_set1_epi32(word as i32)),
        |sum, x, w| _mm512_dpbf16_ps(sum, x, w),
        |_, _| (),
        |sum, _, _| sum,
        registers_512
    }
}

kernel! {
    // Both halves of a word become f32 by a shift or a mask.
    bf16_avx512("avx512f", 16, [1 2 3 4 5 6 7 8]) {
        _mm512_setzero_ps(),
        |at| {
            let pairs = line(at);
            let later = _mm512_and_si512(pairs, _mm512_set1_epi32(0xffff_0000_u32 as i32));
            (_mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs)), _mm512_castsi512_ps(later))
        },
        |word: u32| (_mm512_set1_ps(f32::from_bits(word << 16)), _mm512_set1_ps(f32::from_bits(word & 0xffff_0000))),
        |sum, x: (__m512, __m512), w: (__m512, __m512)| {
            _mm512_fmadd_ps(x.1, w.1, _mm512_fmadd_ps(x.0, w.0, sum))
        },
        |_, _| (),
        |sum, _, _| sum,
        registers_512
    }
}

kernel! {
    bf16_avx2("avx2,fma", 8, [1 2 3 4]) {
        _mm256_setzero_ps(),
        |at| {
            let pairs = half_line(at);
            let later = _mm256_and_si256(pairs, _mm256_set1_epi32(0xffff_0000_u32 as i32));
            (_mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs)), _mm256_castsi256_ps(later))
        },
        |word: u32| (_mm256_set1_ps(f32::from_bits(word << 16)), _mm256_set1_ps(f32::from_bits(word & 0xffff_0000))),
        |sum, x: (__m256, __m256), w: (__m256, __m256)| {
            _mm256_fmadd_ps(x.1, w.1, _mm256_fmadd_ps(x.0, w.0, sum))
        },
        |_, _| (),
        |sum, _, _| sum,
        registers_256
    }
}

/// Scales and sums of 16 columns of bytes.
#[inline]
#[target_feature(enable = "avx512f")]
fn columns_512(columns: Option<Columns<'_>>, column: usize) -> (__m512, __m512i) {
    let Some(columns) = columns else { return (_mm512_set1_ps(f32::NAN), _mm512_setzero_si512()) };
    let (scales, sums) = (&columns.scales[column..column + 16], &columns.sums[column..column + 16]);
    // SAFETY: both slices have 16 elements, and reading them needs no alignment.
    unsafe { (_mm512_loadu_ps(scales.as_ptr()), _mm512_loadu_si512(sums.as_ptr().cast())) }
}

/// Scales and sums of 8 columns of bytes.
#[inline]
#[target_feature(enable = "avx2")]
fn columns_256(columns: Option<Columns<'_>>, column: usize) -> (__m256, __m256i) {
    let Some(columns) = columns else { return (_mm256_set1_ps(f32::NAN), _mm256_setzero_si256()) };
    let (scales, sums) = (&columns.scales[column..column + 8], &columns.sums[column..column + 8]);
    // SAFETY: both slices have 8 elements, and reading them needs no alignment.
    unsafe { (_mm256_loadu_ps(scales.as_ptr()), _mm256_loadu_si256(sums.as_ptr().cast())) }
}

/// Sums of bytes as numbers.
///
/// # Safety
/// `facts` are the scale and the zero point behind a row of bytes.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn number_512(sum: __m512i, facts: *const u32, (scales, sums): (__m512, __m512i)) -> __m512 {
    // SAFETY: the caller's.
    let (scale, zero) = unsafe { (f32::from_bits(*facts), *facts.add(1) as i32) };
    let whole = _mm512_sub_epi32(sum, _mm512_mullo_epi32(_mm512_set1_epi32(zero), sums));
    _mm512_mul_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(whole), scales), _mm512_set1_ps(scale))
}

/// Sums of bytes as numbers.
///
/// # Safety
/// `facts` are the scale and the zero point behind a row of bytes.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn number_256(sum: __m256i, facts: *const u32, (scales, sums): (__m256, __m256i)) -> __m256 {
    // SAFETY: the caller's.
    let (scale, zero) = unsafe { (f32::from_bits(*facts), *facts.add(1) as i32) };
    let whole = _mm256_sub_epi32(sum, _mm256_mullo_epi32(_mm256_set1_epi32(zero), sums));
    _mm256_mul_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(whole), scales), _mm256_set1_ps(scale))
}

kernel! {
    bytes_dot("avx512f,avx512bw,avx512vnni", 16, [1 2 3 4 5 6 7 8 9 10 11 12]) {
        _mm512_setzero_si512(),
        |at| line(at),
        |word: u32| _mm512_set1_epi32(word as i32),
        |sum, x, w| _mm512_dpbusd_epi32(sum, x, w),
        columns_512,
        number_512,
        registers_512
    }
}

kernel! {
    // Bytes at even and at odd places as whole numbers of 16 bits, whose products in pairs add up without a loss.
    bytes_avx512("avx512f,avx512bw", 16, [1 2 3 4 5 6 7 8]) {
        _mm512_setzero_si512(),
        |at| {
            let bytes = line(at);
            (_mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(bytes)), _mm512_srai_epi16::<8>(bytes))
        },
        |word: u32| (_mm512_set1_epi32((word & 0x00ff_00ff) as i32), _mm512_set1_epi32((word >> 8 & 0x00ff_00ff) as i32)),
        |sum, x: (__m512i, __m512i), w: (__m512i, __m512i)| {
            _mm512_add_epi32(sum, _mm512_add_epi32(_mm512_madd_epi16(x.0, w.0), _mm512_madd_epi16(x.1, w.1)))
        },
        columns_512,
        number_512,
        registers_512
    }
}

kernel! {
    bytes_avx2("avx2", 8, [1 2 3 4]) {
        _mm256_setzero_si256(),
        |at| {
            let bytes = half_line(at);
            (_mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(bytes)), _mm256_srai_epi16::<8>(bytes))
        },
        |word: u32| (_mm256_set1_epi32((word & 0x00ff_00ff) as i32), _mm256_set1_epi32((word >> 8 & 0x00ff_00ff) as i32)),
        |sum, x: (__m256i, __m256i), w: (__m256i, __m256i)| {
            _mm256_add_epi32(sum, _mm256_add_epi32(_mm256_madd_epi16(x.0, w.0), _mm256_madd_epi16(x.1, w.1)))
        },
        columns_256,
        number_256,
        registers_256
    }
}
