//! Sinkhorn's uniform mapping: rows spread evenly over codes, each going as near as that allows.
//!
//! *Paper*: LC-Rec (Zheng et al., arXiv 2311.09049, section 3.2.2) poses the assignment of a batch as optimal transport with
//! equal shares for all codes, solved by Sinkhorn's scaling (Cuturi, arXiv 1306.0895).
//! *Differs from the paper*: nothing in the result. Distances are centred and scaled as there, d' = (d - mid) / amp with
//! mid = (max + min) / 2 and amp = max - mid + 1e-5, and Q = exp(-d'/epsilon); but exp(1/0.003) = e^333 leaves f32, and
//! smaller epsilons leave f64, so scalings are kept as logarithms u, v: ln Q = -d'/epsilon + u + v. The first iteration
//! sums in the log domain. After it every row and column sum of Q is at least 1 / (B K), so the following ones run
//! on exp(ln Q) with plain factors, which move into u and v before they grow large (Schmitzer, arXiv 1610.06519).
//! *Checked against*: the naive loop in f64, in this file's tests.
//!
//! # Shapes
//! Distances [B, K] to codes `[B]`.

/// The factor, as a logarithm, at which factors move into the potentials. Entries that underflow to 0 meanwhile are
/// below e^-700 of the sums around them.
const LARGEST_LOG_FACTOR: f64 = 40.0;

/// The code of every row under the plan: the one that takes most of it; equal shares go to the smaller code.
///
/// All rows of a call compete with each other: the answer for a row depends on the others. Equal rows get equal codes.
///
/// # Shapes
/// `distances`: squared distances, finite, [B, K] with K = `codes`; the answer: `[B]`
pub(crate) fn assign(distances: &[f32], codes: usize, epsilon: f64, iterations: usize) -> Vec<u16> {
    let scaled = Scaled::new(distances, codes, epsilon, iterations);
    let best = |(row, log_kernel): (usize, &[f64])| {
        let mut best = (f64::NEG_INFINITY, 0);
        for (code, (kernel, v)) in log_kernel.iter().zip(&scaled.v).enumerate() {
            let value = kernel + scaled.u[row] + v;
            if value > best.0 {
                best = (value, code);
            }
        }
        best.1 as u16
    };
    scaled.log_kernel.chunks_exact(codes.max(1)).enumerate().map(best).collect()
}

/// The transport plan times B: each row sums to about 1, each column to B / K.
///
/// # Shapes
/// [B, K] to [B, K]
#[cfg(test)]
pub(crate) fn plan(distances: &[f32], codes: usize, epsilon: f64, iterations: usize) -> Vec<f64> {
    let scaled = Scaled::new(distances, codes, epsilon, iterations);
    let rows = scaled.u.len() as f64;
    scaled.kernel().into_iter().map(|q| q * rows).collect()
}

/// ln Q = `log_kernel` + u + v.
struct Scaled {
    codes: usize,
    /// -d'/epsilon, [B, K]
    log_kernel: Vec<f64>,
    /// `[B]`
    u: Vec<f64>,
    /// `[K]`
    v: Vec<f64>,
}

impl Scaled {
    fn new(distances: &[f32], codes: usize, epsilon: f64, iterations: usize) -> Self {
        let rows = distances.len().checked_div(codes).unwrap_or(0);
        let bounds = distances.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), &d| {
            let d = f64::from(d);
            (low.min(d), high.max(d))
        });
        let middle = f64::midpoint(bounds.0, bounds.1);
        let amplitude = bounds.1 - middle + 1e-5;
        let log_kernel = distances.iter().map(|&d| -(f64::from(d) - middle) / amplitude / epsilon).collect();
        let mut scaled = Self { codes, log_kernel, u: vec![0.0; rows], v: vec![0.0; codes] };
        if rows > 0 && iterations > 0 {
            scaled.iterate_in_logarithms();
            scaled.iterate(iterations - 1);
        }
        scaled
    }

    /// Row sums become 1 / B, then column sums 1 / K.
    fn iterate_in_logarithms(&mut self) {
        let (rows, codes) = (self.u.len(), self.codes);
        for (u, kernel) in self.u.iter_mut().zip(self.log_kernel.chunks_exact(codes)) {
            let values = kernel.iter().zip(&self.v).map(|(k, v)| k + v);
            *u = -log_sum_exp(values) - (rows as f64).ln();
        }
        let mut most = vec![f64::NEG_INFINITY; codes];
        for (u, kernel) in self.u.iter().zip(self.log_kernel.chunks_exact(codes)) {
            most.iter_mut().zip(kernel).for_each(|(most, k)| *most = most.max(k + u));
        }
        let mut sums = vec![0.0; codes];
        for (u, kernel) in self.u.iter().zip(self.log_kernel.chunks_exact(codes)) {
            for ((sum, k), most) in sums.iter_mut().zip(kernel).zip(&most) {
                *sum += (k + u - most).exp();
            }
        }
        for ((v, sum), most) in self.v.iter_mut().zip(&sums).zip(&most) {
            *v = -(sum.ln() + most) - (codes as f64).ln();
        }
    }

    /// The same with factors x and y on Q as it stands, one pass over memory an iteration.
    fn iterate(&mut self, iterations: usize) {
        let (rows, codes) = (self.u.len(), self.codes);
        let mut kernel = self.kernel();
        let (mut x, mut y) = (vec![1.0; rows], vec![1.0; codes]);
        let mut column_sums = vec![0.0; codes];
        for _ in 0..iterations {
            column_sums.fill(0.0);
            for (x, kernel) in x.iter_mut().zip(kernel.chunks_exact(codes)) {
                *x = 1.0 / (ordered_dot(kernel, &y) * rows as f64);
                column_sums.iter_mut().zip(kernel).for_each(|(sum, k)| *sum += k * *x);
            }
            y.iter_mut().zip(&column_sums).for_each(|(y, sum)| *y = 1.0 / (sum * codes as f64));
            let large = |factor: &f64| factor.ln().abs() > LARGEST_LOG_FACTOR;
            if x.iter().any(large) || y.iter().any(large) {
                self.absorb(&mut x, &mut y);
                kernel = self.kernel();
            }
        }
        self.absorb(&mut x, &mut y);
    }

    /// Moves factors into the potentials; the factors become 1.
    fn absorb(&mut self, x: &mut [f64], y: &mut [f64]) {
        let pairs = self.u.iter_mut().zip(x).chain(self.v.iter_mut().zip(y));
        for (potential, factor) in pairs {
            *potential += factor.ln();
            *factor = 1.0;
        }
    }

    /// Q, [B, K].
    fn kernel(&self) -> Vec<f64> {
        let row = |(kernel, u): (&[f64], &f64)| -> Vec<f64> {
            kernel.iter().zip(&self.v).map(|(k, v)| (k + u + v).exp()).collect()
        };
        self.log_kernel.chunks_exact(self.codes.max(1)).zip(&self.u).flat_map(row).collect()
    }
}

fn log_sum_exp(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let most = values.clone().fold(f64::NEG_INFINITY, f64::max);
    most + values.map(|v| (v - most).exp()).sum::<f64>().ln()
}

const LANES: usize = 8;

/// A product summed in an order that is fixed and that vector units like.
fn ordered_dot(a: &[f64], b: &[f64]) -> f64 {
    let mut lanes = [0f64; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let tail: f64 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a_chunks.zip(b_chunks) {
        for lane in 0..LANES {
            lanes[lane] += x[lane] * y[lane];
        }
    }
    lanes.iter().sum::<f64>() + tail
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use sidereal_nn::rng::Rng;

    fn distances(rows: usize, codes: usize, seed: u64) -> Vec<f32> {
        let mut rng = Rng::new(seed, "distances");
        let mut draw = |count: usize| -> Vec<f64> { (0..count * 3).map(|_| rng.normal()).collect() };
        let (points, codewords) = (draw(rows), draw(codes));
        let distance = |p: &[f64], c: &[f64]| p.iter().zip(c).map(|(a, b)| (a - b).powi(2)).sum::<f64>() as f32;
        points.chunks(3).flat_map(|p| codewords.chunks(3).map(move |c| distance(p, c))).collect()
    }

    /// The loop as it is written down, in f64, after adding `shift` to every exponent: Q is divided by its total, so
    /// a shift changes nothing but the range.
    fn naive(distances: &[f32], codes: usize, epsilon: f64, iterations: usize, shift: f64) -> Vec<f64> {
        let rows = distances.len() / codes;
        let most = distances.iter().fold(f64::NEG_INFINITY, |a, &b| a.max(b.into()));
        let least = distances.iter().fold(f64::INFINITY, |a, &b| a.min(b.into()));
        let middle = (most + least) / 2.0;
        let amplitude = most - middle + 1e-5;
        let mut q: Vec<f64> =
            distances.iter().map(|&d| (-(f64::from(d) - middle) / amplitude / epsilon + shift).exp()).collect();
        let total: f64 = q.iter().sum();
        q.iter_mut().for_each(|q| *q /= total);
        for _ in 0..iterations {
            for row in q.chunks_mut(codes) {
                let sum: f64 = row.iter().sum();
                row.iter_mut().for_each(|q| *q /= sum * rows as f64);
            }
            for code in 0..codes {
                let sum: f64 = q.iter().skip(code).step_by(codes).sum();
                q.iter_mut().skip(code).step_by(codes).for_each(|q| *q /= sum * codes as f64);
            }
        }
        q.iter().map(|q| q * rows as f64).collect()
    }

    #[test]
    fn the_plan_equals_the_naive_loop_in_f64() {
        let d = distances(64, 16, 1);
        for (epsilon, shift) in [(1.0, 0.0), (0.05, 0.0), (0.01, 0.0), (0.003, -300.0)] {
            let (found, want) = (plan(&d, 16, epsilon, 50), naive(&d, 16, epsilon, 50, shift));
            for (i, (a, b)) in found.iter().zip(&want).enumerate() {
                assert!((a - b).abs() < 1e-5, "epsilon {epsilon}, entry {i}: {a} and {b}");
            }
            let argmax = |row: &[f64]| (0..16).fold(0, |best, k| if row[k] > row[best] { k } else { best }) as u16;
            let codes: Vec<u16> = want.chunks(16).map(argmax).collect();
            assert_eq!(assign(&d, 16, epsilon, 50), codes, "epsilon {epsilon}");
        }
    }

    #[test]
    fn tiny_epsilons_stay_finite_and_spread_rows_evenly() {
        let d = distances(64, 16, 2);
        for epsilon in [3e-3, 1e-4, 1e-6] {
            let plan = plan(&d, 16, epsilon, 200);
            assert!(plan.iter().all(|q| q.is_finite()), "epsilon {epsilon}");
            for code in 0..16 {
                let share: f64 = plan.iter().skip(code).step_by(16).sum();
                assert!((share - 4.0).abs() < 1e-6, "epsilon {epsilon}, code {code}: {share}");
            }
        }
        let mut counts = [0; 16];
        assign(&d, 16, 3e-3, 200).iter().for_each(|&code| counts[usize::from(code)] += 1);
        assert!(counts.iter().all(|&n| (2..=6).contains(&n)), "{counts:?}");
    }

    #[test]
    fn items_of_a_collision_part_when_their_distances_differ() {
        // Both are nearest to code 0; the one that loses less goes to code 1.
        assert_eq!(assign(&[0.0, 1.0, 0.1, 0.2], 2, 0.003, 50), [0, 1]);
        assert_eq!(assign(&[0.1, 0.2, 0.0, 1.0], 2, 0.003, 50), [1, 0]);
    }

    #[test]
    fn degenerate_sizes_have_answers() {
        assert!(assign(&[], 4, 0.003, 50).is_empty());
        assert_eq!(assign(&[2.0, 1.0, 3.0], 3, 0.003, 50).len(), 1);
        assert_eq!(assign(&[5.0; 6], 2, 0.003, 50), [0, 0, 0]);
        assert_eq!(assign(&[2.0, 1.0, 3.0], 3, 0.003, 0), [1]);
        assert_eq!(assign(&[7.0, 1.0], 1, 0.003, 50), [0, 0]);
    }
}
