//! How far a method is: what a user may expect of it.

use std::fmt;

use serde::Serialize;

/// The state of a method in a list of methods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// Works, checked against a reference, and measured.
    Stable,
    /// Works and is tested; its figures are not yet held against the paper's.
    Experimental,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Stable => "stable",
            Self::Experimental => "experimental",
        })
    }
}
