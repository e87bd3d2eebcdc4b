//! The rows of `cargo xtask bench-peers`: what is measured, on which input, and which figures are compared.

/// One comparison: the same work done by a peer's script and by `sidereal bench`.
pub(crate) struct Comparison {
    /// The word for `--only`.
    pub(crate) name: &'static str,
    /// What is compared, for people; one for each figure.
    pub(crate) figures: &'static [&'static str],
    /// The peer's script in `benches/peers` and its arguments.
    pub(crate) peer: &'static str,
    /// The peer's JSON keys, in the order of `figures`; a leading minus: less is better.
    pub(crate) peer_keys: &'static str,
    /// Arguments of `sidereal bench`.
    pub(crate) project: &'static str,
    /// The project's JSON keys.
    pub(crate) project_keys: &'static str,
    /// Both write their answers, and these are compared.
    pub(crate) same_answers: bool,
}

/// `{in}` stands for the folder of inputs.
pub(crate) const COMPARISONS: &[Comparison] = &[
    Comparison {
        name: "train",
        figures: &[
            "T5 training step, batch 64: samples per second",
            "the same, per CPU-second",
            "its memory beyond the idle process, MiB",
        ],
        peer: "p2_t5_train.py --batch 64 --enc-len 80 --dec-len 4 --vocab 1026 --dropout 0.1 --steps 3 --runs 3",
        peer_keys: "samples_per_s,samples_per_cpu_s,-memory_beyond_idle_mib",
        project: "train --batch 64 --encoder-tokens 80 --decoder-tokens 4 --vocab 1026 --dropout 0.1 --steps 3 --runs 3",
        project_keys: "samples_per_s,samples_per_cpu_s,-memory_beyond_idle_mib",
        same_answers: false,
    },
    Comparison {
        name: "train",
        figures: &["T5 training step, batch 256: samples per CPU-second", "its memory beyond the idle process, MiB"],
        peer: "p2_t5_train.py --batch 256 --enc-len 80 --dec-len 4 --vocab 1026 --dropout 0.1 --steps 1 --runs 3",
        peer_keys: "samples_per_cpu_s,-memory_beyond_idle_mib",
        project: "train --batch 256 --encoder-tokens 80 --decoder-tokens 4 --vocab 1026 --dropout 0.1 --steps 1 --runs 3",
        project_keys: "samples_per_cpu_s,-memory_beyond_idle_mib",
        same_answers: false,
    },
    Comparison {
        name: "train",
        figures: &["T5 training step in bf16 beside the peer in f32, batch 64: samples per CPU-second"],
        peer: "p2_t5_train.py --batch 64 --enc-len 80 --dec-len 4 --vocab 1026 --dropout 0.1 --steps 3 --runs 3",
        peer_keys: "samples_per_cpu_s",
        project: "train --precision bf16 --batch 64 --encoder-tokens 80 --decoder-tokens 4 --vocab 1026 --dropout 0.1 \
                  --steps 3 --runs 3",
        project_keys: "samples_per_cpu_s",
        same_answers: false,
    },
    Comparison {
        name: "train",
        figures: &["T5 training step, both in bf16, batch 64: samples per CPU-second"],
        peer: "p2_t5_train.py --dtype bf16 --batch 64 --enc-len 80 --dec-len 4 --vocab 1026 --dropout 0.1 --steps 3 \
               --runs 3",
        peer_keys: "samples_per_cpu_s",
        project: "train --precision bf16 --batch 64 --encoder-tokens 80 --decoder-tokens 4 --vocab 1026 --dropout 0.1 \
                  --steps 3 --runs 3",
        project_keys: "samples_per_cpu_s",
        same_answers: false,
    },
    Comparison {
        name: "beam",
        figures: &["constrained beam 50, batch 1, 100k items: users per CPU-second", "the same, per second"],
        peer: "p3_constrained.py --mode torch-csr --model-dir {in}/model --input {in}/catalog_100k.npy \
               --histories {in}/histories.npy --users 64 --k 50 --batch 1 --runs 3",
        peer_keys: "users_per_cpu_s,users_per_s",
        project: "beam --model {in}/model --catalog {in}/catalog_100k.npy --histories {in}/histories.npy \
                  --k 50 --batch 1 --runs 3",
        project_keys: "users_per_cpu_s,users_per_s",
        same_answers: true,
    },
    Comparison {
        name: "beam",
        figures: &["constrained beam 50, batch 8, 100k items: users per CPU-second", "the same, per second"],
        peer: "p3_constrained.py --mode torch-csr --model-dir {in}/model --input {in}/catalog_100k.npy \
               --histories {in}/histories.npy --users 64 --k 50 --batch 8 --runs 3",
        peer_keys: "users_per_cpu_s,users_per_s",
        project: "beam --model {in}/model --catalog {in}/catalog_100k.npy --histories {in}/histories.npy \
                  --k 50 --batch 8 --runs 3",
        project_keys: "users_per_cpu_s,users_per_s",
        same_answers: true,
    },
    Comparison {
        name: "trie",
        figures: &["trie of 1M sorted semantic IDs: CPU-seconds"],
        peer: "p4_trie_build.py --impl csr --input {in}/catalog_1m.npy --unsorted 0 --runs 3",
        peer_keys: "-build.cpu_median_s",
        project: "trie --input {in}/catalog_1m.npy --runs 3",
        project_keys: "-build_cpu_s",
        same_answers: false,
    },
    Comparison {
        name: "encode",
        figures: &[
            "residual k-means 3x256, 100k x 768: training, CPU-seconds",
            "its reconstruction error",
            "encoding: items per CPU-second",
        ],
        peer: "p1c_rkmeans.py --impl faiss --input {in}/embeddings.npy --levels 3 --k 256 --iters 20 --runs 3",
        peer_keys: "-train_cpu_s,-recon_mse,encode_items_per_cpu_s",
        // As many iterations as faiss makes: none ends early.
        project: "encode --input {in}/embeddings.npy --levels 3 --codes 256 --set max_iterations=20 --set tolerance=0 \
                  --runs 3",
        project_keys: "-train_cpu_s,-recon_mse,items_per_cpu_s",
        same_answers: false,
    },
    Comparison {
        name: "beam-encode",
        figures: &[
            "residual quantizer 3x256 with beam 5, 100k x 768: reconstruction error",
            "encoding: items per CPU-second",
        ],
        peer: "p1a_faiss_rq.py --input {in}/embeddings.npy --levels 3 --beam 5 --progressive 0 --runs 1",
        peer_keys: "-recon_mse,encode_items_per_cpu_s",
        project: "encode --input {in}/embeddings.npy --levels 3 --codes 256 --set beam=5 --runs 1",
        project_keys: "-recon_mse,items_per_cpu_s",
        same_answers: false,
    },
    Comparison {
        name: "rq-vae",
        figures: &["RQ-VAE 768-512-256-128-32, 3x256: encoding, items per CPU-second"],
        peer: "p1b_rqvae.py --mode infer --input {in}/embeddings.npy --runs 3",
        peer_keys: "items_per_cpu_s",
        project: "rq-vae --input {in}/embeddings.npy --runs 3",
        project_keys: "encode_items_per_cpu_s",
        same_answers: false,
    },
    Comparison {
        name: "rq-vae",
        figures: &["RQ-VAE training, batch 1024: samples per second", "the same, per CPU-second"],
        peer: "p1b_rqvae.py --mode train --input {in}/embeddings.npy --steps 40 --runs 3",
        peer_keys: "samples_per_s,samples_per_cpu_s",
        project: "rq-vae --input {in}/embeddings.npy --runs 3",
        project_keys: "train_samples_per_s,train_samples_per_cpu_s",
        same_answers: false,
    },
    Comparison {
        name: "rq-vae",
        figures: &["RQ-VAE in bf16 beside the peer in f32: encoding, items per CPU-second"],
        peer: "p1b_rqvae.py --mode infer --input {in}/embeddings.npy --runs 3",
        peer_keys: "items_per_cpu_s",
        project: "rq-vae --precision bf16 --input {in}/embeddings.npy --runs 3",
        project_keys: "encode_items_per_cpu_s",
        same_answers: false,
    },
    Comparison {
        name: "rq-vae",
        figures: &["RQ-VAE in bf16 beside the peer in f32: training samples per CPU-second"],
        peer: "p1b_rqvae.py --mode train --input {in}/embeddings.npy --steps 40 --runs 3",
        peer_keys: "samples_per_cpu_s",
        project: "rq-vae --precision bf16 --input {in}/embeddings.npy --runs 3",
        project_keys: "train_samples_per_cpu_s",
        same_answers: false,
    },
    Comparison {
        name: "rq-vae",
        figures: &["RQ-VAE, both in bf16: encoding, items per CPU-second"],
        peer: "p1b_rqvae.py --mode infer --dtype bf16 --input {in}/embeddings.npy --runs 3",
        peer_keys: "items_per_cpu_s",
        project: "rq-vae --precision bf16 --input {in}/embeddings.npy --runs 3",
        project_keys: "encode_items_per_cpu_s",
        same_answers: false,
    },
    Comparison {
        name: "rq-vae",
        figures: &["RQ-VAE, both in bf16: training samples per CPU-second"],
        peer: "p1b_rqvae.py --mode train --dtype bf16 --input {in}/embeddings.npy --steps 40 --runs 3",
        peer_keys: "samples_per_cpu_s",
        project: "rq-vae --precision bf16 --input {in}/embeddings.npy --runs 3",
        project_keys: "train_samples_per_cpu_s",
        same_answers: false,
    },
];
