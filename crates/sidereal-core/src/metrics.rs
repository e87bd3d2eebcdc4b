//! Metrics of rankings.
