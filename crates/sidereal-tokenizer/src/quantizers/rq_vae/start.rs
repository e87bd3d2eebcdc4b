//! Where codewords begin, and where unused ones begin again: at residuals of items.

use sidereal_nn::rng::Rng;

use super::training::Steps;
use crate::Result;
use crate::algebra::product::squared_norm;
use crate::clustering::kmeans::{Iterations, KMeansOptions, fit_by, sample_rows};

/// Noise on a codeword that begins at a residual.
const NOISE: f64 = 1e-4;

impl Steps<'_> {
    /// Puts the codebooks where the latents are: k-means of each level on what the levels before left over. Codewords
    /// that k-means has no rows for go beside random residuals.
    pub(crate) fn start(&mut self) -> Result<()> {
        let plan = self.plan;
        let mut rng = Rng::new(self.training.seed, &format!("{} start", plan.method));
        let rows = self.sample(plan.start_rows, &mut rng);
        self.model.start_input_norm(&rows)?;
        let mut residuals = self.model.to_encoder()?.forward_all(&rows);
        let width = plan.config.latent;
        for (level, &codes) in plan.config.codes.iter().enumerate() {
            let options = KMeansOptions {
                codes: codes as usize,
                max_iterations: plan.start_iterations,
                tolerance: 1e-4,
                spherical: false,
                seeding_rows: (16 * codes as usize).max(16_384),
            };
            let way = if plan.start_balanced { Iterations::Balanced } else { Iterations::Lloyd };
            let mut fitted = fit_by(way, &residuals, width, &options, &mut rng, &mut |_, _| {});
            let count = residuals.len() / width;
            let deviation = (squared_norm(&residuals) / residuals.len() as f64).sqrt();
            for codeword in fitted.codewords.chunks_exact_mut(width).skip(fitted.used) {
                let residual = &residuals[rng.below(count) * width..][..width];
                codeword.iter_mut().zip(residual).for_each(|(c, r)| *c = r + (NOISE * deviation * rng.normal()) as f32);
            }
            subtract_nearest(&fitted.codewords, width, &mut residuals);
            self.model.codebooks.set(level, fitted.codewords)?;
        }
        Ok(())
    }

    /// Moves unused codewords to residuals of random items, with a little noise, and forgets their moments; answers how
    /// many.
    pub(super) fn restart_dead_codes(&mut self, epoch: usize, used: &[Vec<bool>]) -> Result<usize> {
        if used.iter().flatten().all(|&used| used) {
            return Ok(0);
        }
        let plan = self.plan;
        let width = plan.config.latent;
        let mut rng = Rng::new(self.training.seed, &format!("{} restart {epoch}", plan.method));
        let most = used.iter().map(|level| level.iter().filter(|&&used| !used).count()).max().unwrap_or(0);
        let rows = self.sample(most.max(plan.config.batch), &mut rng);
        let mut residuals = self.model.to_encoder()?.forward_all(&rows);
        let mut restarted = 0;
        for (level, (used, before)) in used.iter().zip(self.model.codebooks.values()?).enumerate() {
            let dead = (0..used.len()).filter(|&code| !used[code]);
            let mut sources: Vec<usize> = (0..residuals.len() / width).collect();
            rng.shuffle(&mut sources);
            let mut moved = Vec::new();
            for (code, source) in dead.zip(sources) {
                let residual = &residuals[source * width..][..width];
                let codeword = residual.iter().map(|r| r + NOISE as f32 * rng.normal() as f32).collect();
                moved.push((code, codeword));
            }
            restarted += moved.len();
            if !moved.is_empty() {
                for (name, rows) in self.model.codebooks.replace(level, &moved)? {
                    self.optimizer.forget_rows(&name, &rows)?;
                }
            }
            subtract_nearest(&before, width, &mut residuals);
        }
        Ok(restarted)
    }

    /// The vectors of `wanted` random items, or of all.
    fn sample(&self, wanted: usize, rng: &mut Rng) -> Vec<f32> {
        let count = self.rows.rows();
        if wanted >= count {
            return self.rows.values().to_vec();
        }
        self.gather(&sample_rows(count, wanted, rng))
    }
}

/// Subtracts from every row its nearest codeword.
fn subtract_nearest(codewords: &[f32], width: usize, rows: &mut [f32]) {
    let mut level = crate::codebooks::residual::ResidualCodebooks::new(width);
    level.push(codewords.to_vec(), None);
    level.subtract_level(0, rows);
}
