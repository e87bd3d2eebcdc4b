//! The command line, as `sidereal --help` tells it. Other tools call it: names and meanings are a contract.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use sidereal::core::CollisionPolicy;
use sidereal::embed::{BATCH_TOKENS, ComputeType, Template};
use sidereal::features::Kind;
use sidereal::generator::Widths;
use sidereal::nn::device::DeviceChoice;
use sidereal::nn::kernels::Precision;
use sidereal::run::Stage;
use sidereal::tokenizer::life::collisions::Leftovers;
use sidereal::vectors::{Input, OnInvalid};

mod bench;
mod generator;
mod recommend;

pub(crate) use bench::Bench;
pub(crate) use generator::Generator;
pub(crate) use recommend::Recommend;

/// Generative recommendation with semantic IDs: embeddings in, catalog items out.
#[derive(Debug, Parser)]
#[command(name = "sidereal", version, propagate_version = true, max_term_width = 110)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) global: Global,
}

/// Flags of every command.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// Where tensors live: cpu, cuda, cuda:N or metal. A missing device is an error, never a silent CPU run.
    #[arg(long, global = true, default_value = "cpu")]
    pub(crate) device: DeviceChoice,
    /// Threads to use; by default all.
    #[arg(long, global = true, value_parser = thread_count)]
    pub(crate) threads: Option<usize>,
    /// Print answers as JSON.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// No progress on standard error.
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// The whole way on the built-in demo catalog: IDs, a short training, metrics, recommendations, report.
    Demo {
        /// Where the run is kept.
        #[arg(long, default_value = "sidereal-demo")]
        out: PathBuf,
    },
    /// A recipe from data to report; finished stages are kept, a killed one resumes.
    Run {
        /// The recipe (TOML).
        recipe: PathBuf,
        /// Folder with items.parquet, interactions.parquet and embeddings.safetensors; or several, each a domain with a
        /// name of its own: --data games=DIR --data books=DIR.
        #[arg(long, value_name = "[NAME=]DIR")]
        data: Vec<PathBuf>,
        /// The run folder.
        #[arg(long)]
        out: PathBuf,
        /// Stop after this stage.
        #[arg(long, value_parser = clap::value_parser!(Stage))]
        until: Option<Stage>,
        /// Instead of the recipe's seed.
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Recipes trained with several seeds and judged alike, beside baselines that need no training: an accuracy table in
    /// one command. Finished trainings are kept, stages that rows share are computed once.
    Compare {
        /// Suites (TOML with [[row]] tables) and recipes (a row each).
        #[arg(required = true)]
        rows: Vec<PathBuf>,
        /// Folder with items.parquet, interactions.parquet and embeddings.safetensors; or several, as `run` takes them.
        #[arg(long, value_name = "[NAME=]DIR", required = true)]
        data: Vec<PathBuf>,
        /// The folder to write: accuracy.json, accuracy.html, and a run for each row and seed.
        #[arg(long)]
        out: PathBuf,
        /// Trainings of each row, with seeds counted up from its own; by default the suite's number, or 1.
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1000))]
        seeds: Option<u64>,
    },
    /// Items and interactions into a run.
    #[command(subcommand)]
    Data(Data),
    /// Vectors into a run: ready ones, or items through a model.
    Embed(Embed),
    /// Vectors learnt from what users did, of items or of users, as a file.
    #[command(subcommand)]
    Vectors(Vectors),
    /// Codebooks: train, encode, report, compare, drift, upgrade.
    #[command(subcommand)]
    Tokenizer(Tokenizer),
    /// Items and semantic IDs: build, change, compare, import, export.
    #[command(subcommand)]
    Catalog(CatalogCommand),
    /// The model that writes the next item's semantic ID.
    #[command(subcommand)]
    Generator(Generator),
    /// Item-level metrics of a run's generator beside baselines that need no training.
    Evaluate {
        /// The run folder.
        run: PathBuf,
        /// Another run over the same data and split, whose trained model is a further row; may be given several times.
        #[arg(long, value_name = "RUN", conflicts_with = "baselines_only")]
        with: Vec<PathBuf>,
        /// Which targets.
        #[arg(long, value_enum, default_value_t = SplitName::Test)]
        split: SplitName,
        /// Beam width, or one a level as 200,100,50; at least the largest K of the metrics (50).
        #[arg(long, default_value = "50")]
        beam: Widths,
        /// Judge a seeded sample of this many users.
        #[arg(long)]
        users: Option<usize>,
        /// Score all items besides for a seeded draw of this many users, and tell the share of the first ten items that the
        /// generator's decoding (beam, graph, trie) has in common with these exact scores.
        #[arg(long, value_name = "USERS")]
        exact_users: Option<usize>,
        /// A further row: the mean of what the generators of all these runs say of every item, as trainings of one recipe
        /// with several seeds.
        #[arg(long, requires = "with")]
        mean_scores: bool,
        /// What the generator multiplies: f32, bf16 or int8; several, the first compared with the others.
        #[arg(long, value_delimiter = ',', default_value = "f32")]
        precision: Vec<Precision>,
        /// Without the generator.
        #[arg(long)]
        baselines_only: bool,
        /// Seed of the sample and the intervals.
        #[arg(long, default_value_t = 42)]
        seed: u64,
    },
    /// Fits how likely recommended items are on the validation targets, and judges that on users left out of the fit;
    /// `recommend` then says it of each item.
    Calibrate {
        /// The run folder.
        run: PathBuf,
        /// Items of each answer that are looked at.
        #[arg(long, default_value_t = 20)]
        items: usize,
        /// Beam width, or one a level as 200,100,50.
        #[arg(long, default_value = "50")]
        beam: Widths,
        /// Seed of the halves that users are cut into.
        #[arg(long, default_value_t = 42)]
        seed: u64,
    },
    /// The next items for a history, or for many users.
    Recommend(Recommend),
    /// This machine's figures for the project's own work.
    #[command(subcommand)]
    Bench(Bench),
    /// What a file or folder is.
    Inspect {
        /// A run, a stage folder, a weights folder or a file.
        path: PathBuf,
        /// Check all hashes, and read a catalog whole.
        #[arg(long)]
        verify: bool,
    },
    /// The methods there are.
    Methods,
    /// Completions for a shell, on standard output.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// Files come first, then what generators learnt, then models; several stand side by side.
#[derive(Debug, Args)]
pub(crate) struct Embed {
    /// The run folder.
    pub(crate) run: PathBuf,
    /// Vectors, one row an item of the items file, in its order (.npy, .safetensors, .parquet, .jsonl).
    #[arg(long, required_unless_present_any = ["model", "learnt_by"])]
    pub(crate) from: Vec<PathBuf>,
    /// Name of the tensor or column, where a file holds several.
    #[arg(long, requires = "from")]
    pub(crate) name: Option<String>,
    /// A model: a folder, or a repository of the hub as org/name[@revision]; BERT, T5, Qwen3-Embedding, SigLIP.
    #[arg(long)]
    pub(crate) model: Vec<String>,
    /// A run whose generator has learnt vectors of the same items (sasrec).
    #[arg(long, value_name = "RUN")]
    pub(crate) learnt_by: Vec<PathBuf>,
    /// An item's text: `default`, `tiger`, `lc-rec`, or columns in braces, as "{title}. Price: {price}. {description?}".
    #[arg(long, requires = "model", default_value = "default")]
    pub(crate) template: Template,
    /// An item's picture, for image models: a column with paths, or a folder with ITEM_ID.jpg, .png or .webp.
    #[arg(long, requires = "model")]
    pub(crate) images: Option<String>,
    /// Padded tokens of a batch.
    #[arg(long, requires = "model", default_value_t = BATCH_TOKENS)]
    pub(crate) batch_tokens: usize,
    /// Texts are cut to this many tokens; by default to the model's own limit.
    #[arg(long, requires = "model")]
    pub(crate) max_tokens: Option<usize>,
    /// The type the model computes in: f32, or bf16 for GPUs.
    #[arg(long, requires = "model", default_value_t)]
    pub(crate) dtype: ComputeType,
    /// The task, for models that take one (Qwen3-Embedding); items are documents and need none.
    #[arg(long, requires = "model")]
    pub(crate) instruction: Option<String>,
    /// Where vectors are kept by content, so that only changed items are encoded again; by default in the run.
    #[arg(long, requires = "model", value_name = "DIR")]
    pub(crate) cache: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SplitName {
    Validation,
    Test,
}

/// Files of vectors that a command reads.
#[derive(Debug, Args)]
pub(crate) struct VectorFiles {
    /// Vectors (.parquet, .npy, .safetensors, .jsonl): a path, or a URL (s3://, gs://, az://, https://). Given several times:
    /// vectors of the same items in the same order, put together row by row.
    #[arg(long)]
    embeddings: Vec<PathBuf>,
    /// Name of the tensor or column, where it is not the usual one; once for each --embeddings.
    #[arg(long, requires = "embeddings")]
    name: Vec<String>,
}

impl VectorFiles {
    pub(crate) fn inputs(self) -> sidereal::Result<Vec<Input>> {
        Input::several(self.embeddings, self.name)
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Data {
    /// Reads items and interactions into a run; keeps every item and user unless --k-core is given.
    Prepare {
        /// Items: Parquet, CSV, TSV, JSONL, RecBole .item, LC-Rec .item.json.
        #[arg(long)]
        items: Option<PathBuf>,
        /// Interactions: Parquet, CSV, TSV, JSONL, RecBole .inter, sequential_data.txt, LC-Rec .inter.json.
        #[arg(long)]
        interactions: PathBuf,
        /// The run folder.
        #[arg(long)]
        out: PathBuf,
        /// Keep only users and items with this many events, to a fixpoint.
        #[arg(long)]
        k_core: Option<u32>,
        /// Column names, as `item=asin`, `user=reviewer`, `title=name`, `time=unix`, `position=pos`, `weight=stars`.
        #[arg(long = "column", value_name = "ROLE=NAME")]
        columns: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Vectors {
    /// Of a run's items: item2vec on the training histories; `embed --from` makes IDs of behaviour alone of them.
    Items {
        /// The run folder.
        run: PathBuf,
        /// Width of a vector.
        #[arg(long, default_value_t = 64)]
        width: usize,
        /// Items count as near when they are at most this many steps apart.
        #[arg(long, default_value_t = 5)]
        window: usize,
        /// The seed.
        #[arg(long, default_value_t = 42)]
        seed: u64,
        /// The Parquet file to write: item_id, embedding.
        #[arg(long)]
        out: PathBuf,
    },
    /// Of a run's users: means of their items' embeddings, recent ones weighing more; users are tokenized like items.
    Users {
        /// The run folder.
        run: PathBuf,
        /// Events after which an event weighs half.
        #[arg(long, default_value_t = 20.0)]
        half_life: f64,
        /// The Parquet file to write: item_id (the user's), embedding.
        #[arg(long)]
        out: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Tokenizer {
    /// Trains codebooks on a run's embeddings, or on --embeddings alone.
    Train {
        /// The run folder; with --embeddings a folder to be made.
        run: PathBuf,
        #[command(flatten)]
        vectors: VectorFiles,
        /// Of --embeddings, train on a seeded sample of at most this many rows.
        #[arg(long, requires = "embeddings", default_value_t = 1_000_000)]
        sample: usize,
        /// Of --embeddings, rows without a vector, with NaN, infinity or numbers beyond 1e30: error (stop and name them) or
        /// skip (leave them out).
        #[arg(long, requires = "embeddings", default_value = "error", value_parser = clap::value_parser!(OnInvalid))]
        on_invalid: OnInvalid,
        /// The method (`sidereal methods` lists them), with its defaults.
        #[arg(long, default_value = "rq-kmeans", conflicts_with = "recipe")]
        method: String,
        /// A recipe file: its [tokenizer] and [collaborative] tables instead of --method and its sizes.
        #[arg(long, conflicts_with_all = ["levels", "codes"])]
        recipe: Option<PathBuf>,
        /// Levels L.
        #[arg(long)]
        levels: Option<usize>,
        /// Codes per level K: one number, or one per level as 256,256,128.
        #[arg(long, default_value = "256")]
        codes: String,
        /// The seed.
        #[arg(long, default_value_t = 42)]
        seed: u64,
    },
    /// Encodes vectors of any number with a trained tokenizer into a Parquet of codes; a killed job resumes.
    #[command(mut_arg("embeddings", |files| files.required(true)))]
    Encode {
        /// A run, or a tokenizer folder.
        tokenizer: PathBuf,
        #[command(flatten)]
        vectors: VectorFiles,
        /// The Parquet file to write: row, item_id where the vectors have ids, codes.
        #[arg(long)]
        out: PathBuf,
        /// Rows without a vector, with NaN, infinity or numbers beyond 1e30: error (stop and name them), null (no codes)
        /// or skip (no row).
        #[arg(long, default_value = "error", value_parser = clap::value_parser!(OnInvalid))]
        on_invalid: OnInvalid,
        /// Rows of a part, the most that a kill loses; by default 262144.
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
        part_rows: Option<u64>,
    },
    /// Whether new items still look like those that a run's tokenizer was trained on; exit status 1 beyond a limit.
    #[command(mut_arg("embeddings", |files| files.required(true)))]
    Drift {
        /// The run folder.
        run: PathBuf,
        #[command(flatten)]
        vectors: VectorFiles,
        /// Highest percentile of the training errors at which the new items' median error may stand, 0 to 100.
        #[arg(long)]
        max_error_percentile: Option<f64>,
        /// Largest Jensen-Shannon divergence of level-0 codes from the catalog's, 0 to 1.
        #[arg(long)]
        max_divergence: Option<f64>,
        /// Largest share of new items whose semantic ID is taken, 0 to 1.
        #[arg(long)]
        max_collision_share: Option<f64>,
    },
    /// A run carried over to vectors of another embedding model, as a new run.
    Upgrade {
        /// The run folder.
        run: PathBuf,
        /// The new model's vectors of the run's items, of any width; of added items too, where there are any (Parquet with
        /// item ids). Given several times: side by side, as `embed --from` puts them.
        #[arg(long, required = true)]
        new_embeddings: Vec<PathBuf>,
        /// Name of the tensor or column, where it is not the usual one; once for each --new-embeddings.
        #[arg(long)]
        name: Vec<String>,
        /// How.
        #[arg(long, value_enum)]
        how: UpgradeHow,
        /// The new run folder.
        #[arg(long)]
        out: PathBuf,
    },
    /// How good a run's semantic IDs are; also of an imported catalog.
    Report {
        /// The run folder.
        run: PathBuf,
        /// Runs, or tokenizer folders to be judged on this run's items, to set beside it.
        #[arg(long, num_args = 1..)]
        compare: Vec<PathBuf>,
        /// The HTML page to write.
        #[arg(long)]
        page: Option<PathBuf>,
        /// Also what the codes of the first level stand for: items, words, category. A page always has them.
        #[arg(long)]
        cards: bool,
    },
    /// Trains several tokenizers on a run's embeddings and judges them alike: the quality tables in one command.
    /// Finished ones are kept.
    Compare {
        /// The run folder.
        run: PathBuf,
        /// Method names separated by commas, or a TOML file of [[tokenizers]] tables.
        #[arg(long)]
        methods: String,
        /// Levels L of named methods.
        #[arg(long)]
        levels: Option<usize>,
        /// Codes per level K of named methods: one number, or one per level as 256,256,128.
        #[arg(long, default_value = "256")]
        codes: String,
        /// What named methods do about items that share a semantic ID: postings, suffix, nearest-free, sinkhorn or balanced.
        #[arg(long, default_value = "postings", value_parser = clap::value_parser!(CollisionPolicy))]
        collisions: CollisionPolicy,
        /// What named methods do about items that this leaves together: postings, suffix, nearest-free or error.
        #[arg(long, default_value = "postings", value_parser = clap::value_parser!(Leftovers))]
        leftovers: Leftovers,
        /// Seed of every training.
        #[arg(long, default_value_t = 42)]
        seed: u64,
        /// The folder to write: a tokenizer folder a label, and compare.json.
        #[arg(long)]
        out: PathBuf,
        /// Also compare.html, with plots and concept cards.
        #[arg(long)]
        page: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum UpgradeHow {
    /// A linear map into the old space: catalog and generator stay.
    Map,
    /// A new encoder before the published codebooks (rq-vae, rq-kmeans-plus): catalog and generator stay.
    Encoder,
    /// A tokenizer trained anew, its codes named after the old ones: the generator is trained again.
    Relabel,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CatalogCommand {
    /// Joins a run's items and semantic IDs.
    Build {
        /// The run folder.
        run: PathBuf,
        /// Items that share a semantic ID: postings (they share a leaf), suffix (an extra level tells them apart),
        /// nearest-free (they move to the nearest unused code of the last level), sinkhorn (LC-Rec's repair rounds) or
        /// balanced (every code goes to about as many items).
        #[arg(long, default_value = "postings", value_parser = clap::value_parser!(CollisionPolicy))]
        collisions: CollisionPolicy,
        /// Items that nearest-free, sinkhorn or balanced leave together: postings, suffix, nearest-free or error.
        #[arg(long, default_value = "postings", value_parser = clap::value_parser!(Leftovers))]
        leftovers: Leftovers,
    },
    /// New items into a run's catalog; published semantic IDs stay, and so does the generator. Any method: those that list
    /// items find places for new ones. Vectors without item ids need --items.
    #[command(mut_arg("embeddings", |files| files.required(true)))]
    Add {
        /// The run folder.
        run: PathBuf,
        #[command(flatten)]
        vectors: VectorFiles,
        /// A table of them: titles, categories (category-tree needs them), and ids where the vectors have none (then row by
        /// row).
        #[arg(long)]
        items: Option<PathBuf>,
    },
    /// Items out of a run's catalog: nothing recommends them from now on.
    #[command(group = clap::ArgGroup::new("which").required(true).args(["items", "items_file"]))]
    Remove {
        /// The run folder.
        run: PathBuf,
        /// Item ids, separated by commas.
        #[arg(long)]
        items: Option<String>,
        /// A file with one item id a line.
        #[arg(long)]
        items_file: Option<PathBuf>,
    },
    /// What differs between two catalogs: items added, removed and moved.
    Diff {
        /// A run or catalog folder.
        old: PathBuf,
        /// Another.
        new: PathBuf,
        /// Write every item with its old and new semantic ID (.parquet or .jsonl).
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// The catalogs that a run has had.
    Versions {
        /// The run folder.
        run: PathBuf,
    },
    /// Back to a catalog that a run has had; the one it has now is kept.
    Rollback {
        /// The run folder.
        run: PathBuf,
        /// The version (`sidereal catalog versions` lists them).
        #[arg(long)]
        to: String,
    },
    /// Semantic IDs made elsewhere into a run.
    Import {
        /// The file.
        file: PathBuf,
        /// Its format: lc-rec (in any of its forms), open-one-rec, grid, torch-easy-rec, nvidia, xllm, codebooks.
        #[arg(long, default_value = "lc-rec", value_parser = known_format)]
        format: String,
        /// Codes per level K: one number, or one per level as 256,256,128; by default the largest code and one.
        #[arg(long)]
        codes: Option<String>,
        /// A new run, or one with data: then every item of it must have an ID.
        #[arg(long)]
        out: PathBuf,
    },
    /// A run's semantic IDs for other tools.
    Export {
        /// The run folder.
        run: PathBuf,
        /// The format: those of import, static, and of lc-rec also lc-rec-numbers (12, not "<a_12>"), lc-rec-short (the suffix
        /// only for items that share their other codes) and lc-rec-short-numbers.
        #[arg(long, default_value = "lc-rec", value_parser = known_format)]
        format: String,
        /// The file or folder to write.
        #[arg(long)]
        out: PathBuf,
    },
    /// Semantic IDs as features of another ranker: a list of ids an item, and what the ids mean.
    Features {
        /// The run folder.
        run: PathBuf,
        /// prefix (an id a prefix), ngram (an id every n codes) or pieces (a SentencePiece-like vocabulary).
        #[arg(long, required_unless_present = "vocabulary", value_parser = clap::value_parser!(Kind))]
        kind: Option<Kind>,
        /// Ids: of pieces at most so many (8000), of prefixes and n-grams hashed into so many; by default each has its own.
        #[arg(long, conflicts_with = "vocabulary")]
        vocab: Option<u32>,
        /// Codes of an n-gram.
        #[arg(long, default_value_t = 2, conflicts_with = "vocabulary")]
        n: usize,
        /// The vocabulary of an earlier call, whose ids stay what they are: for a catalog that has got new items since.
        #[arg(long, value_name = "FILE")]
        vocabulary: Option<PathBuf>,
        /// The Parquet file to write: item_id and features. The vocabulary is written beside it.
        #[arg(long)]
        out: PathBuf,
    },
}

fn thread_count(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|threads| (1..=1024).contains(threads)).ok_or_else(|| "give 1 to 1024 threads".to_owned())
}

/// A name of the list of formats; the error lists them.
fn known_format(name: &str) -> Result<String, String> {
    sidereal::exchange::Format::of(name).map(|format| format.name.to_owned()).map_err(|e| e.to_string())
}
