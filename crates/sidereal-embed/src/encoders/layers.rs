//! What the encoders are made of, for inference: projections with weights ready for the product, norms, activations.

use candle_core::Tensor;
use sidereal_core::Error;
use sidereal_nn::pretrained::WeightFiles;
use sidereal_nn::{Result, ops};

/// An activation by its name in a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Activation {
    Gelu,
    GeluTanh,
    Relu,
    Silu,
    Tanh,
    Identity,
}

impl Activation {
    /// Reads the name; `place` is the file it stands in.
    pub(crate) fn parse(place: &str, name: &str) -> Result<Self> {
        // Modules name a Python class, configurations a word.
        match name.rsplit('.').next().unwrap_or(name) {
            "gelu" | "gelu_python" | "GELU" => Ok(Self::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Ok(Self::GeluTanh),
            "relu" | "ReLU" => Ok(Self::Relu),
            "silu" | "swish" | "SiLU" => Ok(Self::Silu),
            "tanh" | "Tanh" => Ok(Self::Tanh),
            "Identity" | "linear" => Ok(Self::Identity),
            _ => {
                let known = "gelu, gelu_new, gelu_pytorch_tanh, relu, silu, tanh, Identity";
                let problem = format!("the activation {name:?} is not known");
                Err(Error::input(place, problem, format!("use a model with one of: {known}")).into())
            }
        }
    }

    pub(crate) fn apply(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Gelu => ops::gelu(x),
            Self::GeluTanh => ops::gelu_tanh(x),
            Self::Relu => ops::relu(x),
            Self::Silu => ops::silu(x),
            Self::Tanh => Ok(x.tanh()?),
            Self::Identity => Ok(x.clone()),
        }
    }
}

/// `x * W + b`.
///
/// # Shapes
/// weight [I, O], bias `[O]`: `[.., I]` -> `[.., O]`
pub(crate) struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    /// Several projections of one input side by side: their outputs stand behind one another.
    pub(crate) fn joined(
        weights: &WeightFiles,
        names: &[String],
        [inputs, outputs]: [usize; 2],
        bias: bool,
    ) -> Result<Self> {
        let all = |ending: &str, shape: &[usize]| -> Result<Tensor> {
            let parts = names.iter().map(|name| weights.get(&format!("{name}.{ending}"), shape));
            Ok(Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 0)?)
        };
        // Stored as [O, I]: laid out once as [I, O], see `sidereal_nn::ops`.
        let weight = all("weight", &[outputs, inputs])?.t()?.contiguous()?; // [I, O]
        let bias = if bias { Some(all("bias", &[outputs])?) } else { None };
        Ok(Self { weight, bias })
    }

    pub(crate) fn load(weights: &WeightFiles, name: &str, sizes: [usize; 2], bias: bool) -> Result<Self> {
        Self::joined(weights, &[name.to_owned()], sizes, bias)
    }

    pub(crate) fn apply(&self, x: &Tensor) -> Result<Tensor> {
        match &self.bias {
            Some(bias) => ops::linear_bias(x, &self.weight, bias),
            None => ops::linear(x, &self.weight),
        }
    }
}

/// Layer normalisation with shift (Ba et al., arXiv:1607.06450).
pub(crate) struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    pub(crate) fn load(weights: &WeightFiles, name: &str, width: usize, eps: f64) -> Result<Self> {
        let part = |ending: &str| weights.get(&format!("{name}.{ending}"), &[width]);
        Ok(Self { weight: part("weight")?, bias: part("bias")?, eps })
    }

    /// `[.., D]` -> `[.., D]`
    pub(crate) fn apply(&self, x: &Tensor) -> Result<Tensor> {
        ops::layer_norm(x, &self.weight, &self.bias, self.eps)
    }
}

/// RMS normalisation.
pub(crate) struct RmsNorm {
    weight: Tensor,
    eps: f64,
}

impl RmsNorm {
    pub(crate) fn load(weights: &WeightFiles, name: &str, width: usize, eps: f64) -> Result<Self> {
        Ok(Self { weight: weights.get(&format!("{name}.weight"), &[width])?, eps })
    }

    /// `[.., D]` -> `[.., D]`
    pub(crate) fn apply(&self, x: &Tensor) -> Result<Tensor> {
        ops::rms_norm(x, &self.weight, self.eps)
    }
}

/// Refuses sizes of a foreign configuration that no model has, before anything is allocated by them.
pub(crate) fn check_sizes(place: &str, sizes: &[(&str, usize, usize)]) -> Result<()> {
    for &(name, value, most) in sizes {
        if value == 0 || value > most {
            let problem = format!("{name} is {value}, not between 1 and {most}");
            return Err(Error::input(place, problem, "download the model again: its config.json is damaged").into());
        }
    }
    Ok(())
}

/// Refuses a number of heads that does not divide the width.
pub(crate) fn check_heads(place: &str, width: usize, heads: usize) -> Result<()> {
    if heads > 0 && width.is_multiple_of(heads) {
        return Ok(());
    }
    let problem = format!("{width} features cannot be cut into {heads} heads");
    Err(Error::input(place, problem, "download the model again: its config.json is damaged").into())
}
