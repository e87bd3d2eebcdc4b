//! A small world for the tests of the command line: series of items that users take in order, and its recipe.
#![allow(dead_code, clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use tempfile::TempDir;

pub(crate) const SERIES: usize = 8;
pub(crate) const LENGTH: usize = 5;
pub(crate) const USERS: usize = 60;
pub(crate) const WIDTH: usize = 12;

/// A temporary folder with `data/` in it.
pub(crate) struct World {
    folder: TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        let world = Self { folder: tempfile::tempdir().unwrap() };
        fs::create_dir(world.path("data")).unwrap();
        fs::write(world.path("data/items.csv"), items_csv()).unwrap();
        fs::write(world.path("data/interactions.csv"), interactions_csv()).unwrap();
        fs::write(world.path("data/embeddings.safetensors"), safetensors(SERIES * LENGTH, WIDTH, &vectors())).unwrap();
        fs::write(world.path("recipe.toml"), RECIPE).unwrap();
        world
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs the binary in the world's folder.
    pub(crate) fn sidereal(&self, arguments: &[&str]) -> Output {
        assert_cmd::Command::cargo_bin("sidereal")
            .unwrap()
            .current_dir(self.folder.path())
            .args(arguments)
            .output()
            .unwrap()
    }

    /// Runs the binary and expects it to answer.
    pub(crate) fn answer(&self, arguments: &[&str]) -> String {
        let output = self.sidereal(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs the binary and parses its JSON.
    pub(crate) fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let text = self.answer(arguments);
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{arguments:?} printed no JSON ({e}): {text}"))
    }

    /// Runs the binary and expects exit status 2 and one paragraph on standard error, which is returned.
    pub(crate) fn refusal(&self, arguments: &[&str]) -> String {
        let output = self.sidereal(arguments);
        let told = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {told}");
        assert!(
            output.stdout.is_empty(),
            "{arguments:?} printed an answer: {:?}",
            String::from_utf8_lossy(&output.stdout)
        );
        let error = told.lines().filter(|line| line.starts_with("error: ")).collect::<Vec<_>>();
        assert_eq!(error.len(), 1, "{arguments:?}: {told}");
        assert!(!told.contains("panicked"), "{told}");
        error[0].to_owned()
    }

    /// The world's recipe up to a stage, into `run`.
    pub(crate) fn run_until(&self, stage: &str) {
        self.answer(&["run", "recipe.toml", "--data", "data", "--out", "run", "--until", stage, "--quiet"]);
    }
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub(crate) const RECIPE: &str = r#"
description = "A small world"
seed = 7
split = "leave-one-out"

[tokenizer.rq-kmeans]
codes = [8, 8]

[generator.tiger]
d_model = 32
d_ff = 64
heads = 2
d_kv = 16
layers = 1
dropout = 0.0
max_history = 4

[generator.tiger.training]
batch_size = 16
max_epochs = 2
learning_rate = 3e-3
warmup_steps = 4
validate_users = 20
validate_beam = 10
checkpoint_every = 3
log_every = 1

[evaluate]
beam = 50
stories = 2
"#;

fn item_id(series: usize, volume: usize) -> String {
    format!("S{series}V{volume}")
}

fn items_csv() -> String {
    let mut text = "item_id,title,brand,price\n".to_owned();
    for series in 0..SERIES {
        for volume in 0..LENGTH {
            text += &format!(
                "{},\"Series {series}, volume {volume}\",brand{},{}\n",
                item_id(series, volume),
                series % 3,
                volume + 1
            );
        }
    }
    text
}

/// Users read one series in order, and begin another.
fn interactions_csv() -> String {
    let mut text = "user_id,item_id,timestamp\n".to_owned();
    for user in 0..USERS {
        let (first, second) = (user % SERIES, (user * 3 + 1) % SERIES);
        let second = if first == second { (second + 1) % SERIES } else { second };
        let read = (0..LENGTH).map(|v| item_id(first, v)).chain((0..2).map(|v| item_id(second, v)));
        for (time, item) in read.enumerate() {
            text += &format!("u{user},{item},{}\n", 1000 + time);
        }
    }
    text
}

/// Items of a series are near each other; no two are the same.
pub(crate) fn vectors() -> Vec<f32> {
    let mut values = Vec::new();
    for series in 0..SERIES {
        for volume in 0..LENGTH {
            let at = |d: usize| if d == series { 1.0 } else { 0.0 };
            let step = |d: usize| if d == SERIES + volume % 4 { 0.3 + volume as f32 / 50.0 } else { 0.0 };
            values.extend((0..WIDTH).map(|d| at(d) + step(d)));
        }
    }
    values
}

/// A safetensors file with one f32 matrix called `embeddings`.
pub(crate) fn safetensors(rows: usize, width: usize, values: &[f32]) -> Vec<u8> {
    let bytes = values.len() * 4;
    let header = format!(r#"{{"embeddings":{{"dtype":"F32","shape":[{rows},{width}],"data_offsets":[0,{bytes}]}}}}"#);
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    file
}

/// All files below a folder with their bytes.
pub(crate) fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    collect(folder, folder, &mut found);
    found.sort();
    found
}

fn collect(root: &Path, folder: &Path, found: &mut Vec<(String, Vec<u8>)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(root, &path, found);
        } else {
            found.push((path.strip_prefix(root).unwrap().display().to_string(), fs::read(&path).unwrap()));
        }
    }
}
