//! Buffers that are used again: fresh memory from the system costs a page fault for every 4 KiB.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

/// Buffers that nobody uses at the moment.
#[derive(Debug, Clone, Default)]
pub(super) struct Pool {
    free: Arc<Mutex<Vec<Vec<f32>>>>,
}

/// Most buffers that wait for use; more are given back to the system.
const MOST_FREE: usize = 256;

impl Pool {
    /// A buffer of `len` numbers of any value.
    pub(super) fn take(&self, len: usize) -> Buffer {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        // The smallest that is large enough keeps large buffers for large uses.
        let fit = free.iter().enumerate().filter(|(_, b)| b.capacity() >= len).min_by_key(|(_, b)| b.capacity());
        let at = fit.map(|(at, _)| at);
        let mut values = at.map(|at| free.swap_remove(at)).unwrap_or_default();
        drop(free);
        values.resize(len, 0.0);
        Buffer { values, pool: self.clone() }
    }
}

/// A buffer on loan; it returns to its pool when dropped.
#[derive(Debug)]
pub(super) struct Buffer {
    values: Vec<f32>,
    pool: Pool,
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut free = self.pool.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < MOST_FREE {
            free.push(std::mem::take(&mut self.values));
        }
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.values
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_buffer_is_taken_again() {
        let pool = Pool::default();
        let first = pool.take(1000);
        let address = first.as_ptr();
        drop(first);
        assert_eq!(pool.take(500).as_ptr(), address);
        assert_eq!(pool.take(2000).len(), 2000);
    }
}
