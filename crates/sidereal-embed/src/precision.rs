//! How the numbers of a vector are stored.

use half::{bf16, f16};
use serde::{Deserialize, Serialize};

/// A float type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    /// IEEE half.
    F16,
    /// The upper half of an f32.
    Bf16,
    /// IEEE single.
    F32,
    /// IEEE double; read by rounding to f32.
    F64,
}

impl Precision {
    /// Size of a number.
    pub fn bytes(self) -> usize {
        match self {
            Self::F16 | Self::Bf16 => 2,
            Self::F32 => 4,
            Self::F64 => 8,
        }
    }

    /// The word of the safetensors format.
    pub(crate) fn safetensors_name(self) -> &'static str {
        match self {
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::F32 => "F32",
            Self::F64 => "F64",
        }
    }

    /// Appends the numbers in `bytes`; a rest that is no whole number is left out.
    pub(crate) fn decode(self, bytes: &[u8], big_endian: bool, out: &mut Vec<f32>) {
        macro_rules! numbers {
            ($t:ty, $to:expr) => {{
                let number = |chunk: &[u8]| {
                    let mut raw = [0; size_of::<$t>()];
                    raw.copy_from_slice(chunk);
                    $to(if big_endian { <$t>::from_be_bytes(raw) } else { <$t>::from_le_bytes(raw) })
                };
                out.extend(bytes.chunks_exact(size_of::<$t>()).map(number))
            }};
        }
        match self {
            Self::F16 => numbers!(f16, f16::to_f32),
            Self::Bf16 => numbers!(bf16, bf16::to_f32),
            Self::F32 => numbers!(f32, |x: f32| x),
            Self::F64 => numbers!(f64, |x: f64| x as f32),
        }
    }

    /// The numbers as little-endian bytes; what came in this precision comes out bit for bit.
    pub(crate) fn encode(self, values: &[f32]) -> Vec<u8> {
        match self {
            Self::F16 => values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect(),
            Self::Bf16 => values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect(),
            Self::F32 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Self::F64 => values.iter().flat_map(|&x| f64::from(x).to_le_bytes()).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_precision_holds_comes_back_bit_for_bit() {
        let values = [0.0, -1.5, 0.25, 65_504.0f32, 6.1e-5];
        for precision in [Precision::F16, Precision::Bf16, Precision::F32, Precision::F64] {
            let bytes = precision.encode(&values);
            assert_eq!(bytes.len(), values.len() * precision.bytes());
            let mut once = Vec::new();
            precision.decode(&bytes, false, &mut once);
            assert_eq!(precision.encode(&once), bytes);
            let swapped: Vec<u8> = bytes.chunks(precision.bytes()).flat_map(|c| c.iter().rev().copied()).collect();
            let mut big = Vec::new();
            precision.decode(&swapped, true, &mut big);
            assert_eq!(big, once);
        }
    }
}
