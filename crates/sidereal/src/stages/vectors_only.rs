//! A tokenizer from a file of vectors alone: no items table, no interactions.
//!
//! The folder that comes out has a tokenizer stage and nothing else; `tokenizer encode` takes it as it takes a run.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;
use sidereal_core::artifact::{Manifest, sha256_file};
use sidereal_core::{Embeddings, Error, Progress};
use sidereal_embed::VectorFile;
use sidereal_nn::rng::Rng;
use sidereal_tokenizer::{ItemTokenizer, TokenizerConfig, Training, TrainingItems};

use crate::Result;
use crate::run::{Outcome, Run, Stage};
use crate::stages::resolved;

/// What a training on a file is to do.
#[derive(Clone, Copy)]
pub struct Wish<'a> {
    /// Method and settings.
    pub config: &'a TokenizerConfig,
    /// Train on a seeded sample of at most this many rows.
    pub sample: usize,
    /// The one seed.
    pub seed: u64,
}

/// Trains the tokenizer of `run` on a file of vectors, of which a sample is held in memory.
///
/// # Errors
/// A file that cannot be read; rows of the sample that hold NaN or infinity; whatever the method can meet.
pub fn train(run: &Run, file: &Path, wish: Wish<'_>, training: &Training<'_>) -> Result<Outcome> {
    wish.config.check()?;
    if wish.sample == 0 {
        return Err(Error::config("--sample", "a sample of no rows teaches nothing", "give 1 or more").into());
    }
    let config = json!({ "tokenizer": resolved(wish.config), "sample": wish.sample });
    let inputs = BTreeMap::from([("vectors".to_owned(), sha256_file(file)?)]);
    let wanted = Manifest::new(Stage::Tokenizer.name(), Some(wish.seed), config, inputs);
    let work_dir = run.work_dir(Stage::Tokenizer);
    let outcome = run.stage(Stage::Tokenizer, wanted, |out| {
        let vectors = VectorFile::open(file, None)?;
        let sample = sample(&vectors, wish.sample, wish.seed, training.progress)?;
        std::fs::create_dir_all(&work_dir).map_err(|e| Error::io("create", &work_dir, e))?;
        let training = Training { work: Some(&work_dir), device: training.device.clone(), ..*training };
        let tokenizer = ItemTokenizer::train_with(wish.config, &TrainingItems::new(&sample), &training)?;
        tokenizer.save(out.dir())?;
        Ok(json!({ "items": vectors.rows(), "sampled_items": sample.rows(), "width": sample.width() }))
    })?;
    if work_dir.exists() {
        std::fs::remove_dir_all(&work_dir).map_err(|e| Error::io("remove", &work_dir, e))?;
    }
    Ok(outcome)
}

/// At most `wanted` rows, each with the same chance, in the file's order; the file is read once.
fn sample(file: &VectorFile, wanted: usize, seed: u64, progress: &dyn Progress) -> Result<Embeddings> {
    let (rows, width) = (file.rows(), file.width());
    let mut rng = Rng::new(seed, "sample of vectors");
    let mut left = wanted.min(rows);
    let mut values = Vec::with_capacity(left * width);
    progress.start("read vectors", Some(rows as u64), "items");
    for batch in file.batches(0)? {
        let batch = batch?;
        for (row, vector) in (batch.first_row..).zip(batch.values.chunks_exact(width)) {
            // Selection sampling (Knuth, The Art of Computer Programming 2, 3.4.2, algorithm S).
            if left > 0 && rng.below(rows - row) < left {
                values.extend_from_slice(vector);
                left -= 1;
            }
        }
        progress.advance((batch.values.len() / width) as u64);
    }
    progress.finish();
    Ok(Embeddings::new(values.len() / width, width, values)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use sidereal_core::NoProgress;

    fn npy(dir: &Path, rows: usize) -> std::path::PathBuf {
        use npyz::WriterBuilder;
        let path = dir.join("vectors.npy");
        let file = std::fs::File::create(&path).unwrap();
        let mut writer = npyz::WriteOptions::new()
            .default_dtype()
            .shape(&[rows as u64, 2])
            .writer(std::io::BufWriter::new(file))
            .begin_nd()
            .unwrap();
        writer.extend((0..rows * 2).map(|v| v as f32)).unwrap();
        writer.finish().unwrap();
        path
    }

    #[test]
    fn a_sample_has_the_wanted_rows_in_order_and_all_of_a_small_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = VectorFile::open(&npy(dir.path(), 100), None).unwrap();
        let some = sample(&file, 30, 7, &NoProgress).unwrap();
        assert_eq!(some.rows(), 30);
        assert!(some.values().windows(3).all(|w| w[2] > w[0]));
        assert_eq!(sample(&file, 30, 7, &NoProgress).unwrap(), some);
        assert_ne!(sample(&file, 30, 8, &NoProgress).unwrap(), some);
        assert_eq!(sample(&file, 1000, 7, &NoProgress).unwrap().rows(), 100);
    }

    #[test]
    fn a_file_alone_gives_a_tokenizer_that_is_kept_when_asked_again() {
        let dir = tempfile::tempdir().unwrap();
        let file = npy(dir.path(), 50);
        let run = Run::create(&dir.path().join("run")).unwrap();
        let config = TokenizerConfig::with_defaults("rq-kmeans", vec![4, 4]).unwrap();
        let wish = Wish { config: &config, sample: 40, seed: 1 };
        let training = Training::new(1, &NoProgress);
        assert_eq!(train(&run, &file, wish, &training).unwrap(), Outcome::Made);
        assert_eq!(train(&run, &file, wish, &training).unwrap(), Outcome::Kept);
        assert_eq!(run.tokenizer().unwrap().description().items, 40);
        assert_eq!(train(&run, &file, Wish { sample: 50, ..wish }, &training).unwrap(), Outcome::Made);
    }
}
