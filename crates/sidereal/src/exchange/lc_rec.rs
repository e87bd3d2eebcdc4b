//! LC-Rec's index file; [`sidereal_core::lc_rec`] has its forms, and writes them.

use std::path::Path;

use sidereal_core::lc_rec::read_index;

use super::Foreign;
use crate::Result;

pub(super) fn read(file: &Path) -> Result<Foreign> {
    let index = read_index(file)?;
    Ok(Foreign { ids: Some(index.ids), sids: index.sids, codes_per_level: None })
}
