//! Codes of edges, as narrow as their level allows.

use crate::array_file::{Array, ArrayFile, Column};
use crate::error::Result;

/// The codes on consecutive edges, ascending below one node. A byte each where the level has at most 256 codes.
#[derive(Debug, Clone, Copy)]
pub enum Codes<'a> {
    /// K <= 256.
    Bytes(&'a [u8]),
    /// K > 256.
    Words(&'a [u16]),
}

impl<'a> Codes<'a> {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Bytes(codes) => codes.len(),
            Self::Words(codes) => codes.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The code at a place.
    #[inline]
    pub fn get(&self, at: usize) -> Option<u16> {
        match self {
            Self::Bytes(codes) => codes.get(at).copied().map(u16::from),
            Self::Words(codes) => codes.get(at).copied(),
        }
    }

    /// Where a code is. A node with all its children is a table of them already, so that place is looked at first.
    pub fn position(&self, code: u16) -> Option<usize> {
        if self.get(usize::from(code)) == Some(code) {
            return Some(usize::from(code));
        }
        match self {
            Self::Bytes(codes) => codes.binary_search(&u8::try_from(code).ok()?).ok(),
            Self::Words(codes) => codes.binary_search(&code).ok(),
        }
    }

    /// The codes in order.
    #[inline]
    pub fn iter(self) -> CodesIter<'a> {
        match self {
            Self::Bytes(codes) => CodesIter::Bytes(codes.iter()),
            Self::Words(codes) => CodesIter::Words(codes.iter()),
        }
    }
}

impl<'a> IntoIterator for Codes<'a> {
    type Item = u16;
    type IntoIter = CodesIter<'a>;

    #[inline]
    fn into_iter(self) -> CodesIter<'a> {
        self.iter()
    }
}

/// Iterator of [`Codes`].
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub enum CodesIter<'a> {
    Bytes(std::slice::Iter<'a, u8>),
    Words(std::slice::Iter<'a, u16>),
}

impl CodesIter<'_> {
    /// No codes.
    pub(crate) fn none() -> Self {
        Self::Bytes([].iter())
    }
}

impl Iterator for CodesIter<'_> {
    type Item = u16;

    #[inline]
    fn next(&mut self) -> Option<u16> {
        match self {
            Self::Bytes(codes) => codes.next().copied().map(u16::from),
            Self::Words(codes) => codes.next().copied(),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        match self {
            Self::Bytes(codes) => codes.size_hint(),
            Self::Words(codes) => codes.size_hint(),
        }
    }
}

impl ExactSizeIterator for CodesIter<'_> {}

/// The codes of all edges of one depth.
#[derive(Debug, Clone)]
pub(super) enum CodeColumn {
    Bytes(Column<u8>),
    Words(Column<u16>),
}

impl CodeColumn {
    /// Opens a column whose element type follows from K.
    pub(super) fn open(file: &ArrayFile, name: &str, codes: u32) -> Result<Self> {
        Ok(if fits_a_byte(codes) { Self::Bytes(file.column(name)?) } else { Self::Words(file.column(name)?) })
    }

    pub(super) fn array(&self) -> Array<'_> {
        match self {
            Self::Bytes(codes) => Array::U8(codes),
            Self::Words(codes) => Array::U16(codes),
        }
    }

    #[inline]
    pub(super) fn all(&self) -> Codes<'_> {
        match self {
            Self::Bytes(codes) => Codes::Bytes(codes),
            Self::Words(codes) => Codes::Words(codes),
        }
    }

    /// The codes from `start` to `end`, which must not lie behind the last.
    #[inline]
    pub(super) fn slice(&self, start: usize, end: usize) -> Codes<'_> {
        match self {
            Self::Bytes(codes) => Codes::Bytes(&codes[start..end]),
            Self::Words(codes) => Codes::Words(&codes[start..end]),
        }
    }
}

/// Whether codes below `codes` are kept as bytes.
pub(super) fn fits_a_byte(codes: u32) -> bool {
    codes <= 256
}
