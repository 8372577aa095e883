//! The container's root directory.

use criquet_proto::shim::mount::Propagation;
use criquet_sys::mount::{self, Attributes};

use super::Init;
use crate::child::Failure;

/// Nothing that is done here may reach the host, and the root becomes a mount of this namespace.
pub(super) fn attach(init: &mut Init<'_>) -> Result<(), Failure> {
    mount::set_namespace_propagation(mount::Propagation::Slave)?;
    Ok(mount::attach_here(&init.birth.prepared.rootfs)?)
}

/// The host's tree goes away.
pub(super) fn pivot(init: &mut Init<'_>) -> Result<(), Failure> {
    Ok(mount::pivot(&init.root)?)
}

/// What had to wait until everything was in place.
pub(super) fn finish(init: &mut Init<'_>) -> Result<(), Failure> {
    let Some(plan) = &init.birth.plan.rootfs else {
        return Ok(());
    };
    let propagation = match plan.propagation() {
        Propagation::Private => mount::Propagation::Private,
        Propagation::Slave => mount::Propagation::Slave,
        Propagation::Shared => mount::Propagation::Shared,
    };
    mount::set_propagation(&init.root, propagation, false)?;
    Ok(mount::forbid(
        &init.root,
        Attributes {
            readonly: plan.readonly,
            ..Attributes::default()
        },
        false,
    )?)
}
