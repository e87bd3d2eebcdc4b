//! Stages that several runs have in common, computed once.

use std::fs;
use std::path::Path;

use sidereal_core::Error;
use sidereal_core::artifact;

use crate::Result;
use crate::run::{Run, Stage};

/// Gives a run a stage of another, unless it has the same. Files are hard links where the file system has them: an
/// artefact's files are replaced as a whole and never changed in place, so no run sees what another does later.
///
/// Whether the run may keep the stage is decided as always, when its turn comes: by inputs, configuration and seed.
pub(crate) fn lend(from: &Run, to: &Run, stage: Stage) -> Result<()> {
    let digest = from.digest(stage)?;
    let target = to.dir(stage);
    artifact::recover(&target)?;
    if to.has(stage) {
        // What cannot be read is replaced.
        if to.digest(stage).is_ok_and(|has| has == digest) {
            return Ok(());
        }
        fs::remove_dir_all(&target).map_err(|e| Error::io("remove", &target, e))?;
    }
    let partial = target.with_file_name(format!(".{}.lent", stage.name()));
    if partial.exists() {
        fs::remove_dir_all(&partial).map_err(|e| Error::io("remove", &partial, e))?;
    }
    linked(&from.dir(stage), &partial)?;
    Ok(fs::rename(&partial, &target).map_err(|e| Error::io("rename", &partial, e))?)
}

fn linked(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).map_err(|e| Error::io("create", to, e))?;
    for entry in fs::read_dir(from).map_err(|e| Error::io("read", from, e))? {
        let path = entry.map_err(|e| Error::io("read", from, e))?.path();
        let Some(name) = path.file_name() else { continue };
        let copy = to.join(name);
        if path.is_dir() {
            linked(&path, &copy)?;
        } else if fs::hard_link(&path, &copy).is_err() {
            fs::copy(&path, &copy).map_err(|e| Error::io("copy", &path, e))?;
        }
    }
    Ok(())
}
