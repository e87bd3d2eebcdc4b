//! A tokenizer from files of vectors alone: no items table, no interactions.
//!
//! The folder that comes out has a tokenizer stage and nothing else; `tokenizer encode` takes it as it takes a run.

use std::collections::BTreeMap;

use serde_json::json;
use sidereal_core::artifact::Manifest;
use sidereal_core::{Embeddings, Error, Progress};
use sidereal_embed::StoreOptions;
use sidereal_nn::rng::Rng;
use sidereal_tokenizer::{ItemTokenizer, TokenizerConfig, Training, TrainingItems};

use crate::Result;
use crate::run::{Outcome, Run, Stage};
use crate::stages::{numbered, resolved};
use crate::vectors::{Input, OnInvalid, Source, faults, refusal};

/// What a training on files is to do.
#[derive(Clone, Copy)]
pub struct Wish<'a> {
    /// Method and settings.
    pub config: &'a TokenizerConfig,
    /// Files of vectors of the same items in the same order; their vectors are put together row by row.
    pub inputs: &'a [Input],
    /// Train on a seeded sample of at most this many rows.
    pub sample: usize,
    /// What becomes of rows that no tokenizer takes, in the sample or not.
    pub on_invalid: OnInvalid,
    /// How object stores are reached.
    pub stores: &'a StoreOptions,
    /// The one seed.
    pub seed: u64,
}

impl Wish<'_> {
    fn check(&self) -> Result<()> {
        self.config.check()?;
        let (key, problem, mend) = if self.sample == 0 {
            ("--sample", "a sample of no rows teaches nothing", "give 1 or more")
        } else if self.on_invalid == OnInvalid::Null {
            ("--on-invalid", "a training has no rows to leave without codes", "use error or skip")
        } else {
            return Ok(());
        };
        Err(Error::config(key, problem, mend).into())
    }
}

/// Trains the tokenizer of `run` on files of vectors, of which a sample is held in memory.
///
/// # Errors
/// A file that cannot be read; files of other items or another order, or with an id that appears twice; rows without a
/// vector, with NaN, infinity or numbers beyond 1e30, under [`OnInvalid::Error`], or nothing but such rows; whatever the
/// method can meet.
pub fn train(run: &Run, wish: Wish<'_>, training: &Training<'_>) -> Result<Outcome> {
    wish.check()?;
    let source = Source::open(wish.inputs, wish.stores)?;
    let names: Vec<Option<&str>> = wish.inputs.iter().map(|input| input.name.as_deref()).collect();
    let config = json!({
        "tokenizer": resolved(wish.config), "sample": wish.sample, "names": names, "on_invalid": wish.on_invalid
    });
    let digests = source.digests()?;
    let inputs: BTreeMap<_, _> =
        digests.into_iter().enumerate().map(|(at, digest)| (numbered("vectors", at), digest)).collect();
    let wanted = Manifest::new(Stage::Tokenizer.name(), Some(wish.seed), config, inputs);
    let work_dir = run.work_dir(Stage::Tokenizer);
    let outcome = run.stage(Stage::Tokenizer, wanted, |out| {
        source.check_ids(training.progress)?;
        let (sample, left_out) = sample(&source, wish, training.progress)?;
        std::fs::create_dir_all(&work_dir).map_err(|e| Error::io("create", &work_dir, e))?;
        let training = Training { work: Some(&work_dir), device: training.device.clone(), ..*training };
        let tokenizer = ItemTokenizer::train_with(wish.config, &TrainingItems::new(&sample), &training)?;
        tokenizer.save(out.dir())?;
        let (items, width) = (source.rows(), sample.width());
        Ok(json!({ "items": items, "invalid_items": left_out, "sampled_items": sample.rows(), "width": width }))
    })?;
    if work_dir.exists() {
        std::fs::remove_dir_all(&work_dir).map_err(|e| Error::io("remove", &work_dir, e))?;
    }
    Ok(outcome)
}

/// At most as many rows as are wished, each with the same chance, in the files' order, and how many rows of the files no
/// tokenizer takes; the sample has none of them. The files are read once.
fn sample(source: &Source, wish: Wish<'_>, progress: &dyn Progress) -> Result<(Embeddings, u64)> {
    let (rows, width) = (source.rows() as usize, source.width());
    let mut rng = Rng::new(wish.seed, "sample of vectors");
    let mut left = wish.sample.min(rows);
    let mut left_out = 0;
    let mut values = Vec::with_capacity(left * width);
    progress.start("read vectors", Some(rows as u64), "items");
    for chunk in source.chunks(0..rows as u64, rows as u64)? {
        let chunk = chunk?;
        let faults = faults(&chunk);
        if !faults.is_empty() && wish.on_invalid == OnInvalid::Error {
            let mend = "`--on-invalid skip` (they are left out)";
            return Err(refusal(&source.place(), &chunk, &faults, Some(mend)).into());
        }
        left_out += faults.len() as u64;
        let mut faulty = faults.iter().map(|&(row, _)| row).peekable();
        for (at, vector) in chunk.values.chunks_exact(width).enumerate() {
            let sound = faulty.next_if_eq(&at).is_none();
            // Selection sampling (Knuth, The Art of Computer Programming 2, 3.4.2, algorithm S) over all rows: what is
            // left out afterwards changes nobody's chance.
            if left > 0 && rng.below(rows - chunk.first_row as usize - at) < left {
                left -= 1;
                if sound {
                    values.extend_from_slice(vector);
                }
            }
        }
        progress.advance(chunk.rows as u64);
    }
    progress.finish();
    if values.is_empty() {
        let problem = "no tokenizer takes any row of the sample: their vectors are missing, not finite or too large";
        return Err(Error::input(source.place(), problem, "encode the items again, or take a larger sample").into());
    }
    Ok((Embeddings::new(values.len() / width, width, values)?, left_out))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use sidereal_core::NoProgress;
    use std::path::Path;

    /// Two numbers a row, counted up; `spoilt` rows are not finite.
    fn npy(dir: &Path, name: &str, rows: usize, spoilt: &[usize]) -> Input {
        use npyz::WriterBuilder;
        let path = dir.join(name);
        let file = std::fs::File::create(&path).unwrap();
        let mut writer = npyz::WriteOptions::new()
            .default_dtype()
            .shape(&[rows as u64, 2])
            .writer(std::io::BufWriter::new(file))
            .begin_nd()
            .unwrap();
        let value = |at: usize| if spoilt.contains(&(at / 2)) { f32::NAN } else { at as f32 };
        writer.extend((0..rows * 2).map(value)).unwrap();
        writer.finish().unwrap();
        Input::from(path.as_path())
    }

    fn wish<'a>(config: &'a TokenizerConfig, inputs: &'a [Input], stores: &'a StoreOptions) -> Wish<'a> {
        Wish { config, inputs, sample: 30, on_invalid: OnInvalid::Error, stores, seed: 7 }
    }

    #[test]
    fn a_sample_has_the_wanted_rows_in_order_and_all_of_a_small_file() {
        let dir = tempfile::tempdir().unwrap();
        let inputs = [npy(dir.path(), "v.npy", 100, &[])];
        let (config, stores) = (TokenizerConfig::with_defaults("vq", vec![4]).unwrap(), StoreOptions::default());
        let source = Source::open(&inputs, &stores).unwrap();
        let wish = wish(&config, &inputs, &stores);
        let (some, left_out) = sample(&source, wish, &NoProgress).unwrap();
        assert_eq!((some.rows(), left_out), (30, 0));
        assert!(some.values().windows(3).all(|w| w[2] > w[0]));
        assert_eq!(sample(&source, wish, &NoProgress).unwrap().0, some);
        assert_ne!(sample(&source, Wish { seed: 8, ..wish }, &NoProgress).unwrap().0, some);
        assert_eq!(sample(&source, Wish { sample: 1000, ..wish }, &NoProgress).unwrap().0.rows(), 100);
    }

    #[test]
    fn rows_that_no_tokenizer_takes_are_named_as_the_file_counts_them_or_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let inputs = [npy(dir.path(), "v.npy", 100, &[71, 90])];
        let (config, stores) = (TokenizerConfig::with_defaults("vq", vec![4]).unwrap(), StoreOptions::default());
        let source = Source::open(&inputs, &stores).unwrap();
        let wish = wish(&config, &inputs, &stores);
        let error = sample(&source, wish, &NoProgress).unwrap_err().to_string();
        assert!(error.contains("v.npy") && error.contains("row 71: NaN") && error.contains("row 90"), "{error}");
        let skip = Wish { on_invalid: OnInvalid::Skip, sample: 100, ..wish };
        let (rest, left_out) = sample(&source, skip, &NoProgress).unwrap();
        assert_eq!((rest.rows(), left_out), (98, 2));
        assert!(rest.values().iter().all(|v| v.is_finite()));
        let nothing = [npy(dir.path(), "nothing.npy", 2, &[0, 1])];
        let source = Source::open(&nothing, &stores).unwrap();
        let error = sample(&source, Wish { inputs: &nothing, ..skip }, &NoProgress).unwrap_err().to_string();
        assert!(error.contains("nothing.npy") && error.contains("any row of the sample"), "{error}");
        let run = Run::create(&dir.path().join("run")).unwrap();
        let null = Wish { on_invalid: OnInvalid::Null, ..wish };
        let error = train(&run, null, &Training::new(1, &NoProgress)).unwrap_err().to_string();
        assert!(error.contains("use error or skip"), "{error}");
    }

    #[test]
    fn files_alone_give_a_tokenizer_that_is_kept_when_asked_again() {
        let dir = tempfile::tempdir().unwrap();
        let inputs = [npy(dir.path(), "text.npy", 50, &[]), npy(dir.path(), "image.npy", 50, &[3])];
        let run = Run::create(&dir.path().join("run")).unwrap();
        let config = TokenizerConfig::with_defaults("rq-kmeans", vec![4, 4]).unwrap();
        let stores = StoreOptions::default();
        let one = Wish { sample: 40, ..wish(&config, &inputs[..1], &stores) };
        let training = Training::new(1, &NoProgress);
        assert_eq!(train(&run, one, &training).unwrap(), Outcome::Made);
        assert_eq!(train(&run, one, &training).unwrap(), Outcome::Kept);
        assert_eq!(run.tokenizer().unwrap().description().items, 40);
        assert_eq!(train(&run, Wish { sample: 50, ..one }, &training).unwrap(), Outcome::Made);
        let two = Wish { inputs: &inputs, sample: 50, on_invalid: OnInvalid::Skip, ..one };
        assert_eq!(train(&run, two, &training).unwrap(), Outcome::Made);
        let about = run.tokenizer().unwrap().description().clone();
        assert_eq!((about.items, about.width), (49, 4));
        assert_eq!(run.manifest(Stage::Tokenizer).unwrap().facts["invalid_items"], 1);
    }
}
