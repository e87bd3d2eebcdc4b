//! In which precision the products of a training multiply.
//!
//! Which operations round is a matter of the whole step and not of a model, so it is said around the forward pass and not
//! to every operation: `linear`, `linear_bias`, `tied_head`, `feed_forward_relu` and `perceptron` ask when they are built,
//! and their backward does as their forward did. Parameters, sums, norms, softmax, attention within a head and losses stay
//! f32 (Micikevicius et al., arXiv 1710.03740, section 3; bf16 needs no scaling of the loss: Kalamkar et al., arXiv
//! 1905.12322).

use std::cell::Cell;

use crate::kernels::Precision;

thread_local! {
    static CURRENT: Cell<Precision> = const { Cell::new(Precision::F32) };
}

/// Runs a forward pass whose products multiply in `precision`; bytes are too coarse for gradients and taken as bf16.
///
/// It holds for operations that this thread builds meanwhile. A thread that takes other work while it waits sees what that
/// work says of itself.
pub fn in_precision<T>(precision: Precision, forward: impl FnOnce() -> T) -> T {
    struct Restore(Precision);
    impl Drop for Restore {
        fn drop(&mut self) {
            CURRENT.set(self.0);
        }
    }
    let _restore = Restore(CURRENT.replace(precision.at_least_bf16()));
    forward()
}

/// What an operation that is built now multiplies in: f32 or bf16.
pub(crate) fn current() -> Precision {
    CURRENT.get()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_precision_ends_with_its_pass_also_where_that_panics() {
        in_precision(Precision::Bf16, || {
            assert_eq!(current(), Precision::Bf16);
            in_precision(Precision::F32, || assert_eq!(current(), Precision::F32));
            assert_eq!(current(), Precision::Bf16);
        });
        let broken =
            std::panic::catch_unwind(|| in_precision(Precision::Int8, || assert_eq!(current(), Precision::F32)));
        assert!(broken.is_err());
        assert_eq!(current(), Precision::F32);
    }
}
