//! `sidereal bench`: this machine's figures for the project's own work.

use std::path::PathBuf;

use clap::Subcommand;
use sidereal::nn::kernels::{Instructions, Precision};

#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// Training steps of the TIGER shape.
    Train {
        /// Samples a step.
        #[arg(long, default_value_t = 64)]
        batch: usize,
        /// History tokens.
        #[arg(long, default_value_t = 80)]
        encoder_tokens: usize,
        /// Target tokens.
        #[arg(long, default_value_t = 4)]
        decoder_tokens: usize,
        /// Vocabulary.
        #[arg(long, default_value_t = 1026)]
        vocab: usize,
        /// Dropout.
        #[arg(long, default_value_t = 0.1)]
        dropout: f32,
        /// Steps a run.
        #[arg(long, default_value_t = 3)]
        steps: usize,
        /// Timed runs; one more before them warms up.
        #[arg(long, default_value_t = 3)]
        runs: usize,
        /// The seed.
        #[arg(long, default_value_t = 1234)]
        seed: u64,
        /// What products multiply in: f32 or bf16.
        #[arg(long, default_value = "f32")]
        precision: Precision,
    },
    /// Constrained beam search of the TIGER shape.
    Beam {
        /// A T5 checkpoint in Hugging Face layout; by default random weights of TIGER's size.
        #[arg(long)]
        model: Option<PathBuf>,
        /// Catalog codes [N, L] (.npy); by default random.
        #[arg(long)]
        catalog: Option<PathBuf>,
        /// History token ids [users, T] (.npy); by default random.
        #[arg(long)]
        histories: Option<PathBuf>,
        /// Items of the random catalog.
        #[arg(long, default_value_t = 100_000)]
        items: usize,
        /// Users of the random histories.
        #[arg(long, default_value_t = 64)]
        users: usize,
        /// Beam width and number of answers.
        #[arg(long, default_value_t = 50)]
        k: usize,
        /// Requests at a time.
        #[arg(long, default_value_t = 1)]
        batch: usize,
        /// Timed runs over all histories.
        #[arg(long, default_value_t = 3)]
        runs: usize,
        /// What the model multiplies: f32, bf16 or int8.
        #[arg(long, default_value = "f32")]
        precision: Precision,
        /// Use no more of the processor than portable, avx2, avx512, avx512vnni or avx512bf16.
        #[arg(long)]
        instructions: Option<Instructions>,
        /// Write sequences and scores as JSON, to be compared with another program's.
        #[arg(long)]
        save_output: Option<PathBuf>,
        /// The seed.
        #[arg(long, default_value_t = 1234)]
        seed: u64,
    },
    /// Building the trie, the catalog with it, and opening it.
    Trie {
        /// Catalog codes [N, L] (.npy); by default random.
        #[arg(long)]
        input: Option<PathBuf>,
        /// Semantic IDs of the random catalog.
        #[arg(long, default_value_t = 1_000_000)]
        ids: usize,
        /// Levels L.
        #[arg(long, default_value_t = 4)]
        levels: usize,
        /// Codes per level K.
        #[arg(long, default_value_t = 256)]
        codes: u32,
        /// Timed runs.
        #[arg(long, default_value_t = 3)]
        runs: usize,
    },
    /// The same search with the catalog's constraint and with every code allowed, in turn.
    Constraint {
        /// Semantic IDs of the random catalog.
        #[arg(long, default_value_t = 1_000_000)]
        ids: usize,
        /// Levels L.
        #[arg(long, default_value_t = 4)]
        levels: usize,
        /// Codes per level K.
        #[arg(long, default_value_t = 256)]
        codes: u32,
        /// Beam width.
        #[arg(long, default_value_t = 50)]
        beam: usize,
        /// Requests of a round.
        #[arg(long, default_value_t = 16)]
        users: usize,
        /// Requests at a time.
        #[arg(long, default_value_t = 1)]
        batch: usize,
        /// Rounds over all requests; one more before them warms up.
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// What the model multiplies: f32, bf16 or int8.
        #[arg(long, default_value = "f32")]
        precision: Precision,
        /// The seed.
        #[arg(long, default_value_t = 1234)]
        seed: u64,
    },
    /// A device (`--device cuda`) held against the CPU: agreement, the search alone and in batches, the constraint, training.
    Device {
        /// Items of the random catalog.
        #[arg(long, default_value_t = 100_000)]
        items: usize,
        /// Beam width.
        #[arg(long, default_value_t = 50)]
        beam: usize,
        /// Requests at a time, one measurement each.
        #[arg(long, value_delimiter = ',', default_value = "1,8,64,256")]
        batches: Vec<usize>,
        /// Users of the random histories.
        #[arg(long, default_value_t = 512)]
        users: usize,
        /// Timed runs; one more before them warms up.
        #[arg(long, default_value_t = 3)]
        runs: usize,
        /// What the model multiplies: f32, bf16.
        #[arg(long, value_delimiter = ',', default_value = "f32,bf16")]
        precisions: Vec<Precision>,
        /// Semantic IDs of the catalogs whose constraint is measured.
        #[arg(long, value_delimiter = ',', default_value = "1000000,20000000")]
        constraint_ids: Vec<usize>,
        /// Levels of these semantic IDs.
        #[arg(long, default_value_t = 4)]
        constraint_levels: usize,
        /// Samples of a training step, one measurement each.
        #[arg(long, value_delimiter = ',', default_value = "64,256,1024")]
        train_batches: Vec<usize>,
        /// Steps of a run of training.
        #[arg(long, default_value_t = 10)]
        steps: usize,
        /// The seed.
        #[arg(long, default_value_t = 1234)]
        seed: u64,
    },
    /// What filters and changes of the catalog cost a beam search of the TIGER shape.
    Filter {
        /// Items of the random catalog.
        #[arg(long, default_value_t = 1_000_000)]
        items: usize,
        /// Requests of a round.
        #[arg(long, default_value_t = 16)]
        users: usize,
        /// Beam width.
        #[arg(long, default_value_t = 50)]
        beam: usize,
        /// Items denied to each request.
        #[arg(long, default_value_t = 1000)]
        denied: usize,
        /// Percent of the items that the condition leaves.
        #[arg(long, default_value_t = 1)]
        percent_left: u32,
        /// Items that came, and as many that went, while the catalog serves.
        #[arg(long, default_value_t = 10_000)]
        changes: usize,
        /// Rounds over all ways; one more before them warms up.
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// The seed.
        #[arg(long, default_value_t = 1234)]
        seed: u64,
    },
    /// Latency of requests while items come and go, and while nothing changes, in turn.
    Changes {
        /// Items of the random catalog.
        #[arg(long, default_value_t = 1_000_000)]
        items: usize,
        /// Beam width.
        #[arg(long, default_value_t = 50)]
        beam: usize,
        /// Items that come or go in a second.
        #[arg(long, default_value_t = 10_000)]
        rate: usize,
        /// Milliseconds between versions.
        #[arg(long, default_value_t = 50)]
        every_ms: u64,
        /// Requests asked, as a share of what the workers can answer.
        #[arg(long, default_value_t = 0.4)]
        load: f64,
        /// Workers of one thread each.
        #[arg(long, default_value_t = 1)]
        workers: usize,
        /// Seconds of each half of a round.
        #[arg(long, default_value_t = 20.0)]
        seconds: f64,
        /// Rounds.
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        /// Changes after which the catalog is built anew in the background.
        #[arg(long, default_value_t = 50_000)]
        merge_after: usize,
        /// The seed.
        #[arg(long, default_value_t = 1234)]
        seed: u64,
    },
    /// Latency of short requests beside long ones, where they may overtake these and where not, in turn.
    Joining {
        /// Items of the random catalog.
        #[arg(long, default_value_t = 100_000)]
        items: usize,
        /// Items of a short request's history.
        #[arg(long, default_value_t = 5)]
        short_history: usize,
        /// Beam width of a short request.
        #[arg(long, default_value_t = 10)]
        short_beam: usize,
        /// Items of a long request's history.
        #[arg(long, default_value_t = 50)]
        long_history: usize,
        /// Beam width of a long request.
        #[arg(long, default_value_t = 200)]
        long_beam: usize,
        /// Share of long requests.
        #[arg(long, default_value_t = 0.1)]
        long_share: f64,
        /// Requests asked, as a share of what the workers can answer.
        #[arg(long, default_value_t = 0.6)]
        load: f64,
        /// Workers of one thread each.
        #[arg(long, default_value_t = 1)]
        workers: usize,
        /// Requests that a worker has at a time at most.
        #[arg(long, default_value_t = 8)]
        batch: usize,
        /// Seconds of each half of a round.
        #[arg(long, default_value_t = 20.0)]
        seconds: f64,
        /// Rounds.
        #[arg(long, default_value_t = 4)]
        rounds: usize,
        /// The seed.
        #[arg(long, default_value_t = 1234)]
        seed: u64,
    },
    /// RQ-VAE of TIGER's shape on random vectors: encoding, and steps of training.
    RqVae {
        /// Vectors; by default random.
        #[arg(long)]
        input: Option<PathBuf>,
        /// Items encoded, of random vectors.
        #[arg(long, default_value_t = 100_000)]
        items: usize,
        /// Steps of training.
        #[arg(long, default_value_t = 40)]
        steps: usize,
        /// Timed runs; one more before them warms up.
        #[arg(long, default_value_t = 3)]
        runs: usize,
        /// What the nets multiply in: f32 or bf16.
        #[arg(long, default_value = "f32")]
        precision: Precision,
    },
    /// Training a tokenizer on vectors alone and encoding items with it.
    Encode {
        /// The method (`sidereal methods` lists them).
        #[arg(long, default_value = "rq-kmeans")]
        method: String,
        /// A setting of the method as key=value (max_iterations=20, beam=5).
        #[arg(long = "set", value_name = "KEY=VALUE")]
        settings: Vec<String>,
        /// Vectors; by default random.
        #[arg(long)]
        input: Option<PathBuf>,
        /// Items.
        #[arg(long, default_value_t = 100_000)]
        items: usize,
        /// Width D.
        #[arg(long, default_value_t = 768)]
        width: usize,
        /// Levels L.
        #[arg(long, default_value_t = 3)]
        levels: usize,
        /// Codes per level K.
        #[arg(long, default_value_t = 256)]
        codes: u32,
        /// Timed runs.
        #[arg(long, default_value_t = 3)]
        runs: usize,
    },
    /// The encode job, from a Parquet of random vectors to a Parquet of codes, for several numbers of items.
    Job {
        /// Numbers of items.
        #[arg(long, value_delimiter = ',', default_value = "100000,1000000")]
        items: Vec<u64>,
        /// Width D.
        #[arg(long, default_value_t = 384)]
        width: usize,
        /// Levels L.
        #[arg(long, default_value_t = 3)]
        levels: usize,
        /// Codes per level K.
        #[arg(long, default_value_t = 256)]
        codes: u32,
        /// Folder for vectors (4 D bytes an item), which are kept and used again, and for codes.
        #[arg(long)]
        work: PathBuf,
    },
}
