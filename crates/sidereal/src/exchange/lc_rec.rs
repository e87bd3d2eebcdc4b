//! LC-Rec's index file; [`sidereal_core::lc_rec`] has its form.

use std::path::Path;

use sidereal_core::Catalog;
use sidereal_core::lc_rec::{read_index, write_index};

use super::Foreign;
use crate::Result;

pub(super) fn read(file: &Path) -> Result<Foreign> {
    let index = read_index(file)?;
    Ok(Foreign { ids: Some(index.ids), sids: index.sids, codes_per_level: None })
}

pub(super) fn write(catalog: &Catalog, file: &Path) -> Result<()> {
    Ok(write_index(catalog, file)?)
}
