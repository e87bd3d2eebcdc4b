//! Measurements of earlier calls: used again for as long as the binary is the same one.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde_json::{Value, json};

use crate::bench_peers::write;
use crate::step::Result;

/// Figures by what was asked for.
pub(crate) struct Kept {
    file: PathBuf,
    binary: Value,
    figures: Value,
}

impl Kept {
    /// What the file has of this binary: nothing where it is of another, is damaged, or is not there.
    ///
    /// # Errors
    /// The binary cannot be looked at.
    pub(crate) fn open(file: PathBuf, binary: &Path) -> Result<Self> {
        let about = fs::metadata(binary).and_then(|about| Ok((about.len(), about.modified()?)));
        let (bytes, modified) = about.map_err(|cause| format!("{}: {cause}", binary.display()))?;
        // Cargo leaves a binary alone that would become the same again.
        let written_ns = modified.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        let binary = json!({ "bytes": bytes, "written_ns": written_ns.to_string() });
        let earlier = fs::read_to_string(&file).ok().and_then(|text| serde_json::from_str::<Value>(&text).ok());
        let earlier = earlier.filter(|earlier| earlier["binary"] == binary && earlier["figures"].is_object());
        let figures = earlier.map_or_else(|| json!({}), |mut earlier| earlier["figures"].take());
        Ok(Self { file, binary, figures })
    }

    /// What was measured.
    pub(crate) fn get(&self, asked: &str) -> Option<&Value> {
        self.figures.get(asked)
    }

    /// All whose question begins so.
    pub(crate) fn all<'a>(&'a self, beginning: &'a str) -> impl Iterator<Item = &'a Value> {
        let figures = self.figures.as_object().into_iter().flatten();
        figures.filter(move |(asked, _)| asked.starts_with(beginning)).map(|(_, found)| found)
    }

    /// Keeps a measurement, on disk at once: a chore that is killed goes on behind it.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn put(&mut self, asked: &str, found: Value) -> Result<()> {
        self.figures[asked] = found;
        write(&self.file, &format!("{:#}\n", json!({ "binary": self.binary, "figures": self.figures })))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn figures_are_used_again_until_the_binary_changes() {
        let folder = std::env::temp_dir().join(format!("sidereal-kept-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (file, binary) = (folder.join("kept.json"), folder.join("binary"));
        fs::write(&binary, "one").unwrap();
        let mut kept = Kept::open(file.clone(), &binary).unwrap();
        assert_eq!(kept.get("job 10"), None);
        kept.put("job 10", json!([1.5])).unwrap();
        let again = Kept::open(file.clone(), &binary).unwrap();
        assert_eq!((again.get("job 10"), again.get("job 11")), (Some(&json!([1.5])), None));
        assert_eq!((again.all("job ").count(), again.all("jobs").count()), (1, 0));
        fs::write(&binary, "another").unwrap();
        assert_eq!(Kept::open(file.clone(), &binary).unwrap().get("job 10"), None);
        fs::write(&file, "{").unwrap();
        assert_eq!(Kept::open(file, &binary).unwrap().get("job 10"), None);
        assert!(Kept::open(folder.join("x"), &folder.join("none")).is_err());
        fs::remove_dir_all(folder).unwrap();
    }
}
