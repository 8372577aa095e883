//! What the program and its descendants can never do.

use criquet_sys::seccomp;

use super::{Candidate, capability};
use crate::child::Failure;

pub(super) fn no_new_privs(candidate: &mut Candidate<'_>) -> Result<(), Failure> {
    if candidate.program.no_new_privs {
        seccomp::set_no_new_privs()?;
    }
    Ok(())
}

pub(super) fn load(candidate: &mut Candidate<'_>) -> Result<(), Failure> {
    if !candidate.program.seccomp.is_empty() {
        seccomp::load(&candidate.program.seccomp)?;
    }
    capability::release_admin(candidate)
}
