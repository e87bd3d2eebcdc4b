//! What one core of this machine can do, so that every figure can be stated as a share of a limit.

use std::time::Instant;

use serde::Serialize;

/// Rows, inner width and columns of the product: a block of items against a codebook.
const SHAPE: [usize; 3] = [512, 768, 256];
/// Bytes of the buffer that is copied: far beyond the caches.
const COPIED: usize = 256 << 20;
const ROUNDS: usize = 5;

/// The rates of one core.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Machine {
    /// f32 products by `gemm`, 10^9 operations a second.
    pub gemm_gflop_per_s: f64,
    /// Copying of memory, 10^9 bytes a second, read and written bytes counted.
    pub copy_gb_per_s: f64,
}

impl Machine {
    /// Measures both on the calling thread: the best of a few rounds, well under a second.
    pub fn measure() -> Self {
        Self { gemm_gflop_per_s: gemm_rate(), copy_gb_per_s: copy_rate() }
    }
}

fn gemm_rate() -> f64 {
    let [m, k, n] = SHAPE;
    let (a, b, mut c) = (vec![0.5f32; m * k], vec![0.25f32; k * n], vec![0f32; m * n]);
    let repeats = 20;
    let best = best_of(|| {
        for _ in 0..repeats {
            // SAFETY: the three buffers have exactly the lengths that the strides reach.
            unsafe {
                gemm::gemm(
                    m,
                    n,
                    k,
                    c.as_mut_ptr(),
                    1,
                    n as isize,
                    false,
                    a.as_ptr(),
                    1,
                    k as isize,
                    b.as_ptr(),
                    1,
                    n as isize,
                    0.0,
                    1.0,
                    false,
                    false,
                    false,
                    gemm::Parallelism::None,
                );
            }
        }
        std::hint::black_box(&c);
    });
    (2 * m * k * n * repeats) as f64 / best / 1e9
}

fn copy_rate() -> f64 {
    let (from, mut to) = (vec![1u8; COPIED], vec![2u8; COPIED]);
    let best = best_of(|| {
        to.copy_from_slice(&from);
        std::hint::black_box(&to);
    });
    (2 * COPIED) as f64 / best / 1e9
}

/// Seconds of the quickest round.
fn best_of(mut work: impl FnMut()) -> f64 {
    (0..ROUNDS)
        .map(|_| {
            let began = Instant::now();
            work();
            began.elapsed().as_secs_f64()
        })
        .fold(f64::INFINITY, f64::min)
}
