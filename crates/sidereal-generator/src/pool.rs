//! Buffers that are used again: fresh memory from the system costs a page fault for every 4 KiB.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

/// Buffers that nobody uses at the moment.
#[derive(Debug)]
pub(crate) struct Pool<T> {
    free: Arc<Mutex<Vec<Vec<T>>>>,
}

/// Most buffers that wait for use; more are given back to the system.
const MOST_FREE: usize = 256;

impl<T> Default for Pool<T> {
    fn default() -> Self {
        Self { free: Arc::new(Mutex::new(Vec::with_capacity(MOST_FREE))) }
    }
}

impl<T> Clone for Pool<T> {
    fn clone(&self) -> Self {
        Self { free: Arc::clone(&self.free) }
    }
}

impl<T: Copy + Default> Pool<T> {
    /// A buffer of `len` elements of any value.
    pub(crate) fn take(&self, len: usize) -> Buffer<T> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        // The smallest that is large enough keeps large buffers for large uses.
        let fit = free.iter().enumerate().filter(|(_, b)| b.len() >= len).min_by_key(|(_, b)| b.len());
        let at = fit.map(|(at, _)| at);
        let mut values = at.map(|at| free.swap_remove(at)).unwrap_or_default();
        drop(free);
        // A buffer keeps all its elements, so that taking it again writes none.
        if values.len() < len {
            values.resize(len, T::default());
        }
        Buffer { values, len, pool: Some(self.clone()) }
    }
}

/// A buffer on loan; it returns to its pool when dropped.
#[derive(Debug)]
pub(crate) struct Buffer<T> {
    values: Vec<T>,
    len: usize,
    pool: Option<Pool<T>>,
}

/// A buffer of no pool.
impl<T> From<Vec<T>> for Buffer<T> {
    fn from(values: Vec<T>) -> Self {
        Self { len: values.len(), values, pool: None }
    }
}

/// The copy is of no pool.
impl<T: Clone> Clone for Buffer<T> {
    fn clone(&self) -> Self {
        self.to_vec().into()
    }
}

impl<T: PartialEq> PartialEq for Buffer<T> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T> Drop for Buffer<T> {
    fn drop(&mut self) {
        let Some(pool) = &self.pool else { return };
        let mut free = pool.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < MOST_FREE {
            free.push(std::mem::take(&mut self.values));
        }
    }
}

impl<T> Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.values[..self.len]
    }
}

impl<T> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.values[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_buffer_is_taken_again() {
        let pool = Pool::<f32>::default();
        let first = pool.take(1000);
        let address = first.as_ptr();
        drop(first);
        let copy = pool.take(500).clone();
        assert_eq!(pool.take(500).as_ptr(), address);
        assert_ne!(copy.as_ptr(), address);
        assert_eq!(pool.take(2000).len(), 2000);
    }
}
