//! `sidereal recommend` on the command line.

use std::path::PathBuf;

use clap::Args;
use sidereal::generator::Widths;
use sidereal::nn::kernels::Precision;

#[derive(Debug, Args)]
pub(crate) struct Recommend {
    /// The run folder.
    pub(crate) run: PathBuf,
    /// Item ids, oldest first, separated by commas.
    #[arg(long, required_unless_present = "users", conflicts_with = "users")]
    pub(crate) history: Option<String>,
    /// `all`, or a file with one user id a line: a row a user and rank into --out.
    #[arg(long)]
    pub(crate) users: Option<String>,
    /// The Parquet file to write for --users.
    #[arg(long, requires = "users")]
    pub(crate) out: Option<PathBuf>,
    /// How many items.
    #[arg(long, default_value_t = 10)]
    pub(crate) k: usize,
    /// Beam width, or one a level as 200,100,50, never less than k; by default the larger of 50 and k, and of 50 and 3k with
    /// --quota or --mmr.
    #[arg(long)]
    pub(crate) beam: Option<Widths>,
    /// What the generator multiplies: f32, bf16 or int8.
    #[arg(long, default_value = "f32")]
    pub(crate) precision: Precision,
    /// Items of the history may be answered too.
    #[arg(long)]
    pub(crate) include_seen: bool,
    /// Only items that match: 'category = "shoes" and price < 20 and not region in ("eu", "us")'.
    #[arg(long, value_name = "CONDITION")]
    pub(crate) filter: Option<String>,
    /// Only items of this file, one id a line.
    #[arg(long, value_name = "FILE")]
    pub(crate) allow: Option<PathBuf>,
    /// No items of this file, one id a line.
    #[arg(long, value_name = "FILE")]
    pub(crate) deny: Option<PathBuf>,
    /// No items of this file, one id a line, because they were shown before; --mmr keeps away from them, too.
    #[arg(long, value_name = "FILE", conflicts_with = "users")]
    pub(crate) shown: Option<PathBuf>,
    /// Which page of k items, none of which is on a page before.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) page: usize,
    /// At most so many items with the same first code.
    #[arg(long, value_name = "ITEMS")]
    pub(crate) quota: Option<usize>,
    /// Unlike items beside each other (maximal marginal relevance): 1 goes by scores alone, 0 by unlikeness.
    #[arg(long, value_name = "LAMBDA")]
    pub(crate) mmr: Option<f64>,
    /// No items less likely than this, 0 to 1, in a run that `sidereal calibrate` has seen; there may be fewer than k.
    #[arg(long, value_name = "P")]
    pub(crate) min_confidence: Option<f64>,
    /// Use a generator that was trained on another catalog.
    #[arg(long)]
    pub(crate) allow_other_catalog: bool,
}
