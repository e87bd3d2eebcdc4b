//! The nearest codeword of a row, exactly: [`CodeSearch`] with one level and nothing kept beside the best.

use std::sync::Arc;

use crate::codebooks::screen::Kernel;
use crate::codebooks::search::{CodeSearch, SearchScratch};

/// A codebook made ready for searching.
///
/// # Shapes
/// `codewords`: [K, d]
#[derive(Debug, Clone)]
pub(crate) struct NearestCodeword {
    width: usize,
    codewords: Arc<[f32]>,
    search: CodeSearch,
}

impl NearestCodeword {
    /// Prepares a codebook of at most 65,536 codewords.
    pub(crate) fn new(codewords: Vec<f32>, width: usize) -> Self {
        let used = vec![true; codewords.len() / width];
        Self::with_unused(codewords, width, &used)
    }

    /// Prepares a codebook some of whose codewords are never an answer.
    pub(crate) fn with_unused(codewords: Vec<f32>, width: usize, used: &[bool]) -> Self {
        Self::with_kernel(codewords, width, used, Kernel::for_width(width))
    }

    fn with_kernel(codewords: Vec<f32>, width: usize, used: &[bool], kernel: Kernel) -> Self {
        let codewords: Arc<[f32]> = codewords.into();
        let search = CodeSearch::with_kernel(vec![codewords.clone()], width, 1, used, kernel);
        Self { width, codewords, search }
    }

    /// K.
    pub(crate) fn codes(&self) -> usize {
        self.codewords.len() / self.width
    }

    /// The codeword of a code, [d].
    pub(crate) fn codeword(&self, code: u16) -> &[f32] {
        &self.codewords[usize::from(code) * self.width..][..self.width]
    }

    /// All codewords, [K, d].
    pub(crate) fn codewords(&self) -> &Arc<[f32]> {
        &self.codewords
    }

    /// Hands the code of every row to `found(row number, code)`, in row order.
    ///
    /// # Shapes
    /// `rows`: [M, d]
    pub(crate) fn search(&self, rows: &[f32], scratch: &mut SearchScratch, mut found: impl FnMut(usize, u16)) {
        self.search.search(rows, 1, scratch, |row, codes| found(row, codes[0]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codebooks::screen::kernels;

    fn codes_of(search: &NearestCodeword, rows: &[f32]) -> Vec<u16> {
        let mut codes = Vec::new();
        search.search(rows, &mut SearchScratch::default(), |row, code| {
            assert_eq!(row, codes.len());
            codes.push(code);
        });
        codes
    }

    #[test]
    fn unused_codewords_are_never_an_answer() {
        for kernel in kernels() {
            for (codewords, rows) in [([5.0, 0.0, 1.0], [0.0, 0.1, 4.0]), ([5e30, 0.0, 1e30], [0.0, 1e29, 4e30])] {
                let search = NearestCodeword::with_kernel(codewords.to_vec(), 1, &[true, false, true], kernel);
                assert_eq!(codes_of(&search, &rows), [2, 2, 0], "{kernel:?}");
            }
            let none = NearestCodeword::with_kernel(vec![1.0, 2.0], 1, &[false; 2], kernel);
            assert_eq!(codes_of(&none, &[2.0]), [0]);
        }
    }

    #[test]
    fn nearly_equal_codewords_are_told_apart() {
        // The two distances differ by less than f32 can see in |c|^2 - 2 x.c.
        let width = 64;
        let mut codewords = vec![1000.0f32; 2 * width];
        codewords[0] = 1000.0 + 2.0 * 6.2e-5;
        codewords[width] = 1000.0 + 6.2e-5;
        let row = vec![1000.0f32; width];
        for kernel in kernels() {
            let search = NearestCodeword::with_kernel(codewords.clone(), width, &[true; 2], kernel);
            assert_eq!(codes_of(&search, &row), [1], "{kernel:?}");
        }
    }
}
