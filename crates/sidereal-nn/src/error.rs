//! One error for this crate and the trainers above it: our own message, or candle's.

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can fail where tensors are involved.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file, argument or artefact; says what to do.
    #[error(transparent)]
    Core(#[from] sidereal_core::Error),
    /// candle refused an operation.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}
