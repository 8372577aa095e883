//! The working directory.

use std::path::Path;

use criquet_sys::path::Root;
use criquet_sys::process;

use super::{Candidate, Init};
use crate::child::Failure;

fn path(cwd: &str) -> &Path {
    Path::new(if cwd.is_empty() { "/" } else { cwd })
}

/// An image's WORKDIR that does not exist is made, as every runtime does.
pub(super) fn make(init: &mut Init<'_>) -> Result<(), Failure> {
    init.root.directory(path(&init.birth.program.cwd))?;
    Ok(())
}

/// Walked inside the root without magic links, and proven to be inside (CVE-2024-21626).
pub(super) fn enter(candidate: &mut Candidate<'_>) -> Result<(), Failure> {
    let root = Root::open(Path::new("/"))?;
    process::set_directory(root.resolve(path(&candidate.program.cwd))?)?;
    if process::directory_is_reachable()? {
        Ok(())
    } else {
        Err(Failure::safety(format!(
            "{} is outside of the root",
            candidate.program.cwd
        )))
    }
}
