//! The numbers 0, 1, 2, .. on a device.

use std::sync::{Mutex, PoisonError};

use candle_core::{Device, Tensor};

use crate::Result;

/// Kept, because a number that is copied to a device at every step makes the host wait at every step.
#[derive(Debug, Default)]
pub(crate) struct Places(Mutex<Option<Tensor>>);

impl Places {
    /// The first `n`: u32 `[n]`.
    pub(crate) fn first(&self, n: usize, device: &Device) -> Result<Tensor> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let longest = match kept.take().filter(|kept| kept.elem_count() >= n && kept.device().same_device(device)) {
            Some(longest) => longest,
            None => Tensor::arange(0u32, n.next_power_of_two().max(1024) as u32, device)?,
        };
        let first = longest.narrow(0, 0, n)?;
        *kept = Some(longest);
        Ok(first)
    }

    /// The first `n`, each times `step`: u32 `[n]`.
    pub(crate) fn multiples(&self, n: usize, step: usize, device: &Device) -> Result<Tensor> {
        Ok((self.first(n, device)? * Tensor::full(step as u32, n, device)?)?)
    }
}
