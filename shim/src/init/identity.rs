//! Who the program is.

use criquet_sys::{identity, process};

use super::{Candidate, enter};
use crate::child::Failure;

/// When the plan names none: what login gives.
const DEFAULT_UMASK: u32 = 0o022;

pub(super) fn take(candidate: &mut Candidate<'_>) -> Result<(), Failure> {
    let program = candidate.program;
    identity::take(program.uid, program.gid, &program.groups)?;
    enter::guard()
}

pub(super) fn umask(candidate: &mut Candidate<'_>) -> Result<(), Failure> {
    process::set_umask(if candidate.program.umask == 0 {
        DEFAULT_UMASK
    } else {
        candidate.program.umask
    });
    Ok(())
}
