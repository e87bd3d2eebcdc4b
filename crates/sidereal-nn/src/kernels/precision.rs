//! How numbers are held in a product.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What a product multiplies. It adds up in f32 (in whole numbers where it multiplies bytes), whatever this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    /// f32: the reference.
    #[default]
    F32,
    /// Weights and rows rounded to bf16.
    Bf16,
    /// Weights in signed bytes with a scale a column, rows in bytes with a scale and a zero point each, found as they
    /// come; attention in bf16.
    Int8,
}

impl Precision {
    /// All of them, the reference first.
    pub const ALL: [Self; 3] = [Self::F32, Self::Bf16, Self::Int8];

    /// The name on the command line and in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        }
    }

    /// Whether it is the reference.
    pub fn is_f32(&self) -> bool {
        *self == Self::F32
    }

    /// What is multiplied where bytes are too coarse: keys and values, which come anew with every request, and what makes
    /// the scores themselves.
    pub fn at_least_bf16(self) -> Self {
        match self {
            Self::F32 => Self::F32,
            Self::Bf16 | Self::Int8 => Self::Bf16,
        }
    }

    /// Elements of one word.
    pub(crate) fn elements(self) -> usize {
        match self {
            Self::F32 => 1,
            Self::Bf16 => 2,
            Self::Int8 => 4,
        }
    }

    /// Words that `width` elements take.
    pub(crate) fn words(self, width: usize) -> usize {
        width.div_ceil(self.elements())
    }
}

impl FromStr for Precision {
    type Err = sidereal_core::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|one| one.name() == text).ok_or_else(|| {
            sidereal_core::Error::config("precision", format!("none is called {text:?}"), "use f32, bf16 or int8")
        })
    }
}
