//! `sidereal generator`.

use std::path::PathBuf;

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum Generator {
    /// Trains a generator on a run; a killed training resumes.
    Train {
        /// The run folder.
        run: PathBuf,
        /// A method or a preset (`sidereal methods` lists both), or a recipe file, for its [generator] table.
        #[arg(long, default_value = "tiger")]
        recipe: String,
        /// The seed.
        #[arg(long, default_value_t = 42)]
        seed: u64,
    },
    /// A language model that was trained elsewhere (Llama, Mistral, Qwen2, Qwen3 in Hugging Face's layout, as LC-Rec,
    /// MiniOneRec and OpenOneRec have it) as the run's generator. Its codes are looked up in its text tokenizer.
    Import {
        /// The run folder; its catalog is the one that the model was trained with (`sidereal catalog import`).
        run: PathBuf,
        /// The model: a folder, or a repository of the hub as org/name[@revision].
        #[arg(long)]
        model: String,
        /// What it goes on from: a TOML file with template, separator, code, item_begin, item_end, special_tokens; without
        /// one, the codes of the history with commas between items, written as <a_12><b_7>.
        #[arg(long)]
        prompt: Option<PathBuf>,
        /// Most recent items that it reads.
        #[arg(long, default_value_t = 20)]
        max_history: usize,
    },
    /// A trained generator of several domains trained on for one of them, as a new run with the same catalog: begins with
    /// the parent's weights, reads that domain's events alone, and keeps what ranks best among its items.
    Tune {
        /// The parent's run folder.
        run: PathBuf,
        /// The domain, as the items' column `domain` names it.
        #[arg(long)]
        domain: String,
        /// The new run folder.
        #[arg(long)]
        out: PathBuf,
        /// A recipe file, for its [generator] table, of the parent's method and sizes; by default the parent's own, with a
        /// tenth of its learning rate.
        #[arg(long, conflicts_with_all = ["epochs", "learning_rate"])]
        recipe: Option<PathBuf>,
        /// Times through the domain's samples at most; by default the parent's number.
        #[arg(long)]
        epochs: Option<u64>,
        /// The highest learning rate.
        #[arg(long)]
        learning_rate: Option<f64>,
        /// The seed.
        #[arg(long, default_value_t = 42)]
        seed: u64,
    },
    /// Fits one score of the trained generator and plain counts on the validation targets; the run then answers by it.
    Fuse {
        /// The run folder.
        run: PathBuf,
        /// A recipe file, for its [fusion] table instead of the defaults.
        #[arg(long)]
        recipe: Option<PathBuf>,
        /// The seed.
        #[arg(long, default_value_t = 42)]
        seed: u64,
    },
}
