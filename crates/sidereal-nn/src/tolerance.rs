//! The one table of how far two computations of the same thing may differ.
//!
//! The CPU in f32 is the reference. Every parity test, on every device, takes its bounds from here; a bound is widened
//! here or nowhere.

use candle_core::{DType, Tensor};

use crate::error::Result;

/// Two numbers agree when `|a - b| <= absolute + relative * |b|`, with `b` the reference.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tolerance {
    /// Part that does not grow with the value.
    pub absolute: f64,
    /// Part that grows with the value.
    pub relative: f64,
}

/// A fused op against its composed fallback in the same type: only the order of sums differs.
pub const FUSED_AGAINST_COMPOSED: Tolerance = Tolerance { absolute: 2e-5, relative: 2e-5 };
/// f32 of one device against f32 of the CPU.
pub const DEVICE_F32: Tolerance = Tolerance { absolute: 1e-4, relative: 1e-4 };
/// bf16 against f32: 8 bits of mantissa.
pub const BF16: Tolerance = Tolerance { absolute: 2e-2, relative: 2e-2 };
/// Log-probabilities of a whole model in bf16 against f32, means of many.
pub const BF16_SCORES: Tolerance = Tolerance { absolute: 0.0, relative: 3e-2 };
/// The same on a device, whose products round what they give to bf16 too.
pub const BF16_DEVICE_SCORES: Tolerance = Tolerance { absolute: 0.0, relative: 6e-2 };
/// The same in int8.
pub const INT8_SCORES: Tolerance = Tolerance { absolute: 0.0, relative: 1e-1 };
/// f16 against f32: 11 bits of mantissa.
pub const F16: Tolerance = Tolerance { absolute: 4e-3, relative: 4e-3 };
/// Logits and losses of a whole model against another engine (Hugging Face).
pub const LOGITS: Tolerance = Tolerance { absolute: 1e-4, relative: 1e-4 };
/// Gradients of a whole model against another engine.
pub const GRADIENTS: Tolerance = Tolerance { absolute: 1e-4, relative: 1e-3 };
/// An analytic gradient in f32 against central differences of f32.
pub const FINITE_DIFFERENCES: Tolerance = Tolerance { absolute: 2e-3, relative: 2e-2 };

impl Tolerance {
    /// Whether `value` agrees with `reference`. Two NaN do not agree; two equal infinities do.
    pub fn holds(&self, value: f64, reference: f64) -> bool {
        value == reference || (value - reference).abs() <= self.absolute + self.relative * reference.abs()
    }

    /// The first place where two tensors of one shape disagree, as (flat index, value, reference).
    ///
    /// # Errors
    /// Different shapes, or a tensor that cannot be read.
    pub fn first_breach(&self, value: &Tensor, reference: &Tensor) -> Result<Option<(usize, f64, f64)>> {
        if value.dims() != reference.dims() {
            let problem = format!("shapes {:?} and {:?} differ", value.dims(), reference.dims());
            return Err(sidereal_core::Error::mismatch(problem, "compare tensors of one shape").into());
        }
        let read = |t: &Tensor| t.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>();
        let (value, reference) = (read(value)?, read(reference)?);
        let breach = value.iter().zip(&reference).position(|(a, b)| !self.holds(*a, *b));
        Ok(breach.map(|i| (i, value[i], reference[i])))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn nan_never_agrees_and_equal_infinities_do() {
        assert!(!DEVICE_F32.holds(f64::NAN, f64::NAN));
        assert!(!DEVICE_F32.holds(f64::NAN, 1.0) && !DEVICE_F32.holds(1.0, f64::NAN));
        assert!(DEVICE_F32.holds(f64::NEG_INFINITY, f64::NEG_INFINITY));
        assert!(DEVICE_F32.holds(1000.05, 1000.0) && !DEVICE_F32.holds(1000.2, 1000.0));
    }

    #[test]
    fn a_breach_is_located() {
        let device = candle_core::Device::Cpu;
        let a = Tensor::new(&[1f32, 2.0, 3.0], &device).unwrap();
        let b = Tensor::new(&[1f32, 2.5, 3.0], &device).unwrap();
        assert_eq!(DEVICE_F32.first_breach(&a, &b).unwrap(), Some((1, 2.0, 2.5)));
        assert_eq!(DEVICE_F32.first_breach(&a, &a).unwrap(), None);
        assert!(DEVICE_F32.first_breach(&a, &b.reshape((3, 1)).unwrap()).is_err());
    }
}
