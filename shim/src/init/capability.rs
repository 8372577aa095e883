//! Capabilities: the bounding set first, then what the program gets.

use criquet_sys::capability;

use super::Candidate;
use crate::child::Failure;

/// CAP_SYS_ADMIN (linux/capability.h).
const SYS_ADMIN: u64 = 1 << 21;

/// Taken away while the right to take away is still there.
pub(super) fn bound(candidate: &mut Candidate<'_>) -> Result<(), Failure> {
    capability::drop_bounding(candidate.program.bounding)?;
    // The change of the user would empty the permitted set.
    Ok(capability::keep_over_setuid()?)
}

pub(super) fn apply(candidate: &mut Candidate<'_>) -> Result<(), Failure> {
    let program = candidate.program;
    // Without no_new_privs the kernel takes a filter only from an administrator.
    candidate.holds_admin =
        !program.seccomp.is_empty() && !program.no_new_privs && program.permitted & SYS_ADMIN == 0;
    set(candidate, if candidate.holds_admin { SYS_ADMIN } else { 0 })
}

/// Gives up what was held for the filter.
pub(super) fn release_admin(candidate: &Candidate<'_>) -> Result<(), Failure> {
    if candidate.holds_admin {
        set(candidate, 0)
    } else {
        Ok(())
    }
}

fn set(candidate: &Candidate<'_>, more: u64) -> Result<(), Failure> {
    let program = candidate.program;
    // A host that lacks a capability cannot give it, not even to a privileged container.
    let permitted = (program.permitted | more) & capability::permitted()?;
    let effective = (program.effective | more) & permitted;
    Ok(capability::set(
        effective,
        permitted,
        program.ambient & program.permitted & permitted,
    )?)
}
