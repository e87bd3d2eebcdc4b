//! A checkpoint: everything that a training needs to go on bit for bit, in one file that is whole or absent.
//!
//! The file is safetensors, written under a temporary name, synced and renamed. Names: `params/NAME`,
//! `optimizer.mean/NAME`, `optimizer.square/NAME`, and `average/NAME` where weights are averaged; step, generators and the caller's own JSON are text metadata. Sizes
//! are capped before anything is parsed (header 1 MiB, 4,096 arrays, no name twice).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sidereal_core::Error as CoreError;
use sidereal_core::array_file::{ArrayFile, Entry, write_arrays};

use crate::error::Result;
use crate::optimizer::AdamWState;
use crate::params::{Array32, Snapshot};
use crate::rng::RngState;

/// The file's name in its folder.
pub const FILE: &str = "checkpoint.safetensors";

const FORMAT: &str = "1";
const PARAMS: &str = "params/";
const MEAN: &str = "optimizer.mean/";
const SQUARE: &str = "optimizer.square/";
const AVERAGE: &str = "average/";

/// The state of a training between two steps.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// Values of all parameters, from [`crate::params::Params::snapshot`].
    pub params: Snapshot,
    /// From [`crate::optimizer::AdamW::state`].
    pub optimizer: AdamWState,
    /// The mean of the weights over the steps, where the training keeps one.
    pub average: Option<Snapshot>,
    /// Steps done.
    pub step: u64,
    /// Where every named generator stands.
    pub rng: BTreeMap<String, RngState>,
    /// The caller's own state: epoch, position in it, best value so far, digest of the configuration.
    pub extra: serde_json::Value,
}

/// The path of the checkpoint in a folder.
pub fn path(dir: &Path) -> PathBuf {
    dir.join(FILE)
}

/// Writes a checkpoint into a folder, replacing the one before it in one rename.
///
/// # Errors
/// Whatever the file system says; then the old checkpoint is still there.
pub fn save(dir: &Path, checkpoint: &Checkpoint) -> Result<()> {
    let mut groups = vec![
        (PARAMS, &checkpoint.params.arrays),
        (MEAN, &checkpoint.optimizer.mean),
        (SQUARE, &checkpoint.optimizer.square),
    ];
    groups.extend(checkpoint.average.iter().map(|average| (AVERAGE, &average.arrays)));
    let entries: Vec<Entry<'_>> =
        groups.iter().flat_map(|(prefix, arrays)| arrays.iter().map(|a| a.entry(prefix))).collect();
    let json = |value: serde_json::Result<String>| {
        value.map_err(|e| CoreError::artifact(path(dir), e.to_string(), "this is a defect: report it"))
    };
    let names: Vec<&str> = checkpoint.params.arrays.iter().map(|a| a.name.as_str()).collect();
    let metadata = BTreeMap::from([
        ("format".to_owned(), FORMAT.to_owned()),
        ("step".to_owned(), checkpoint.step.to_string()),
        ("optimizer-steps".to_owned(), checkpoint.optimizer.steps.to_string()),
        ("order".to_owned(), json(serde_json::to_string(&names))?),
        ("rng".to_owned(), json(serde_json::to_string(&checkpoint.rng))?),
        ("extra".to_owned(), json(serde_json::to_string(&checkpoint.extra))?),
    ]);
    Ok(write_arrays(&path(dir), &entries, &metadata)?)
}

/// Reads the checkpoint of a folder; `None` when there is none.
///
/// # Errors
/// A file that is damaged, truncated, too large in its header, or not a checkpoint of this version.
pub fn load(dir: &Path) -> Result<Option<Checkpoint>> {
    let path = path(dir);
    if !path.exists() {
        return Ok(None);
    }
    let file = ArrayFile::open(&path)?;
    let damaged = |problem: String| {
        CoreError::artifact(&path, problem, "remove the file to start the training again from its beginning")
    };
    let text = |key: &str| file.metadata(key).ok_or_else(|| damaged(format!("it has no {key:?}: not a checkpoint")));
    let format = text("format")?;
    if format != FORMAT {
        return Err(damaged(format!("format {format}, but this program reads {FORMAT}")).into());
    }
    let number = |key: &str| {
        let value = text(key)?;
        value.parse::<u64>().map_err(|_| damaged(format!("its {key:?} is {value:?}, not a number")))
    };
    let names: Vec<String> =
        serde_json::from_str(text("order")?).map_err(|e| damaged(format!("its \"order\": {e}")))?;
    let group = |prefix: &str| -> Result<Vec<Array32>> {
        names.iter().map(|name| Array32::read(&file, &format!("{prefix}{name}"), name)).collect()
    };
    let optimizer = AdamWState { steps: number("optimizer-steps")?, mean: group(MEAN)?, square: group(SQUARE)? };
    let found = file.names().count();
    let average = match found == 4 * names.len() && found > 0 {
        true => Some(Snapshot { arrays: group(AVERAGE)? }),
        false => None,
    };
    if average.is_none() && found != 3 * names.len() {
        let problem = format!("it holds {found} arrays, not three or four for each of {} parameters", names.len());
        return Err(damaged(problem).into());
    }
    Ok(Some(Checkpoint {
        params: Snapshot { arrays: group(PARAMS)? },
        optimizer,
        average,
        step: number("step")?,
        rng: serde_json::from_str(text("rng")?).map_err(|e| damaged(format!("its \"rng\": {e}")))?,
        extra: serde_json::from_str(text("extra")?).map_err(|e| damaged(format!("its \"extra\": {e}")))?,
    }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::optimizer::{AdamW, AdamWConfig};
    use crate::params::{Init, Params};
    use crate::rng::Rng;
    use candle_core::Device;

    fn sample() -> (Params, Checkpoint) {
        let mut rng = Rng::new(5, "init");
        let mut params = Params::new(&Device::Cpu);
        let a = params.var("layer.0/a", &[3, 2], Init::Normal(1.0), &mut rng).unwrap();
        params.var("b", &[2], Init::Ones, &mut rng).unwrap();
        let mut optimizer = AdamW::new(params.vars().to_vec(), AdamWConfig::default()).unwrap();
        optimizer.step(&a.sqr().unwrap().sum_all().unwrap().backward().unwrap(), 0.1).unwrap();
        let checkpoint = Checkpoint {
            params: params.snapshot().unwrap(),
            optimizer: optimizer.state().unwrap(),
            average: None,
            step: 1,
            rng: BTreeMap::from([("dropout".to_owned(), rng.state())]),
            extra: serde_json::json!({"epoch": 2, "best": 0.25}),
        };
        (params, checkpoint)
    }

    #[test]
    fn a_checkpoint_comes_back_bit_for_bit() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(load(dir.path()).unwrap(), None);
        let (_, checkpoint) = sample();
        save(dir.path(), &checkpoint).unwrap();
        assert_eq!(load(dir.path()).unwrap().unwrap(), checkpoint);
        let first = std::fs::read(path(dir.path())).unwrap();
        save(dir.path(), &checkpoint).unwrap();
        assert_eq!(std::fs::read(path(dir.path())).unwrap(), first, "the same state gives the same bytes");
    }

    #[test]
    fn every_truncation_is_refused_and_no_mutation_panics() {
        let dir = tempfile::tempdir().unwrap();
        let (params, checkpoint) = sample();
        save(dir.path(), &checkpoint).unwrap();
        let bytes = std::fs::read(path(dir.path())).unwrap();
        for len in 0..bytes.len() {
            std::fs::write(path(dir.path()), &bytes[..len]).unwrap();
            assert!(load(dir.path()).is_err(), "truncated to {len} bytes");
        }
        for at in 0..bytes.len() {
            for flip in [1u8, 0x20, 0xff] {
                let mut bad = bytes.clone();
                bad[at] ^= flip;
                std::fs::write(path(dir.path()), &bad).unwrap();
                // A flipped value bit is a valid file; a flipped name must not find its parameter.
                if let Ok(Some(loaded)) = load(dir.path()) {
                    let _ = params.restore(&loaded.params);
                }
            }
        }
    }

    #[test]
    fn a_huge_header_is_refused_before_it_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let mut bytes = (1u64 << 40).to_le_bytes().to_vec();
        bytes.extend_from_slice(b"{}");
        std::fs::write(path(dir.path()), &bytes).unwrap();
        assert!(load(dir.path()).unwrap_err().to_string().contains("header"));
    }

    #[test]
    fn plain_weights_are_not_a_checkpoint() {
        let dir = tempfile::tempdir().unwrap();
        let (params, _) = sample();
        params.save(&path(dir.path())).unwrap();
        assert!(load(dir.path()).unwrap_err().to_string().contains("not a checkpoint"));
    }

    #[test]
    fn a_checkpoint_of_another_model_names_the_parameter() {
        let dir = tempfile::tempdir().unwrap();
        let (_, checkpoint) = sample();
        save(dir.path(), &checkpoint).unwrap();
        let mut other = Params::new(&Device::Cpu);
        other.var("layer.0/a", &[2, 3], Init::Zeros, &mut Rng::new(1, "x")).unwrap();
        let message = other.restore(&load(dir.path()).unwrap().unwrap().params).unwrap_err().to_string();
        assert!(message.contains("layer.0/a"), "{message}");
    }
}
