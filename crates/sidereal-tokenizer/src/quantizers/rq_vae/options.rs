//! Choices inside RQ-VAE, each with the paper that it comes from.

use serde::{Deserialize, Serialize};
use sidereal_core::Error;
use sidereal_nn::kernels::Precision;

use crate::Result;

/// How squared differences become one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reduction {
    /// Means over batch, dimensions and levels (LC-Rec, LETTER).
    #[default]
    Mean,
    /// Sums over dimensions and levels, mean over the batch (TIGER-like).
    Sum,
}

/// How gradients pass the choice of codewords, which has none.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Estimator {
    /// The gradient of the sum of codewords goes to the latent as it is (van den Oord et al., arXiv 1711.00937).
    #[default]
    StraightThrough,
    /// The gradient is turned and scaled as the latent must be to become the sum of codewords (Fifty et al., arXiv
    /// 2410.06424, section 4.2).
    Rotation,
    /// Training mixes codewords by a softmax over negative distances with Gumbel noise (Jang et al., arXiv 1611.01144);
    /// encoding takes the nearest as ever.
    Gumbel(Gumbel),
}

/// Settings of [`Estimator::Gumbel`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gumbel {
    /// Divides negative squared distances plus noise. Default: 0.2 (RQ-VAE-Recommender).
    pub temperature: f64,
}

impl Default for Gumbel {
    fn default() -> Self {
        Self { temperature: 0.2 }
    }
}

/// What moves codewords.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CodebookUpdate {
    /// The optimizer, by the codebook loss (LC-Rec, TIGER).
    #[default]
    Gradient,
    /// Running means of the residuals that chose them, without a codebook loss (van den Oord et al., arXiv 1711.00937,
    /// appendix A.1).
    Ema(Ema),
}

/// Settings of [`CodebookUpdate::Ema`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ema {
    /// Share of the old mean that a step keeps. Default: 0.99 (van den Oord et al.).
    pub decay: f64,
    /// Laplace smoothing: added to every code's count. Default: 1e-5 (van den Oord et al.'s code).
    pub smoothing: f64,
}

impl Default for Ema {
    fn default() -> Self {
        Self { decay: 0.99, smoothing: 1e-5 }
    }
}

/// Levels whose codes are spread evenly over each training batch. Encoding always takes the nearest codeword.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sinkhorn {
    /// Levels, from 0; none by default. LC-Rec: the last.
    pub levels: Vec<usize>,
    /// Smaller keeps nearer to the nearest codewords. Default: 0.003 (LC-Rec).
    pub epsilon: f64,
    /// Default: 50 (LC-Rec).
    pub iterations: usize,
}

impl Default for Sinkhorn {
    fn default() -> Self {
        Self { levels: Vec::new(), epsilon: 0.003, iterations: 50 }
    }
}

/// What is done to the encoder's inputs; the decoder still gives back what came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InputNorm {
    /// Nothing.
    #[default]
    None,
    /// Batch norm (Ioffe and Szegedy, arXiv 1502.03167), as GRID has it; for encoding, running statistics are part of
    /// the first layer's weights.
    Batch,
    /// Layer norm (Ba et al., arXiv 1607.06450).
    Layer,
}

/// Checks choices that depend on each other; `method` is the table that they stand in.
pub(super) fn check(config: &super::RqVaeConfig, method: &str) -> Result<()> {
    let refuse = |key: &str, problem: String, mend: &str| -> Result<()> {
        Err(Error::config(format!("{method}.{key}"), problem, mend).into())
    };
    let positive = |value: f64| value.is_finite() && value > 0.0;
    let mut gumbel = false;
    if let Estimator::Gumbel(Gumbel { temperature }) = config.estimator {
        gumbel = true;
        if !positive(temperature) {
            let problem = format!("{temperature} is not a positive number");
            return refuse("estimator.gumbel.temperature", problem, "0.2 is usual");
        }
    }
    if let CodebookUpdate::Ema(Ema { decay, smoothing }) = config.codebook_update {
        if !(0.0..1.0).contains(&decay) {
            return refuse("codebook_update.ema.decay", format!("{decay} is not below 1"), "0.99 is usual");
        }
        if !positive(smoothing) {
            let problem = format!("{smoothing} is not a positive number");
            return refuse("codebook_update.ema.smoothing", problem, "0.00001 is usual");
        }
        if gumbel {
            let problem = "running means know whole codewords, and Gumbel's softmax mixes them".to_owned();
            return refuse("codebook_update", problem, "use codebook_update = \"gradient\" with estimator = gumbel");
        }
        if config.sim_vq {
            let problem = "SimVQ learns a map by gradients, running means have none".to_owned();
            return refuse("codebook_update", problem, "use codebook_update = \"gradient\" with sim_vq = true");
        }
    }
    let Sinkhorn { levels, epsilon, iterations } = &config.sinkhorn;
    if let Some(level) = levels.iter().find(|&&level| level >= config.codes.len()) {
        let problem =
            format!("there is no level {level}: levels go from 0 to {}", config.codes.len().saturating_sub(1));
        return refuse("sinkhorn.levels", problem, "name levels that codes has");
    }
    if !levels.is_empty() && gumbel {
        let problem = "Gumbel's softmax mixes codewords, so that there is nothing to spread".to_owned();
        return refuse("sinkhorn.levels", problem, "leave it out with estimator = gumbel");
    }
    if !positive(*epsilon) {
        return refuse("sinkhorn.epsilon", format!("{epsilon} is not a positive number"), "0.003 is usual");
    }
    if !(1..=100_000).contains(iterations) {
        return refuse("sinkhorn.iterations", format!("{iterations} iterations"), "give 1 to 100000; 50 is usual");
    }
    if config.precision == Precision::Int8 {
        let problem = "bytes are too coarse for gradients".to_owned();
        return refuse("precision", problem, "use f32 or bf16");
    }
    Ok(())
}
