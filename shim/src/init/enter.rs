//! Away from the shim, into the cgroup and the namespaces.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

use criquet_sys::namespace::{self, Kind};
use criquet_sys::process::{self, Fork, Forked};
use criquet_sys::{identity, pipe};

use super::{Init, report};
use crate::child::Failure;

/// Lets go of what a child inherited, and lets nobody look into it (CVE-2016-9962, CVE-2024-21626).
pub(crate) fn let_go(kept: &[BorrowedFd<'_>]) -> Result<(), Failure> {
    process::close_all_but(kept)?;
    // Modes of what is made here are meant exactly.
    process::set_umask(0);
    guard()
}

/// A change of ids undoes both.
pub(crate) fn guard() -> Result<(), Failure> {
    process::forbid_tracing()?;
    Ok(process::die_with_parent()?)
}

pub(super) fn descriptors(init: &mut Init<'_>) -> Result<(), Failure> {
    let mut kept = init.birth.fds();
    kept.push(init.root.as_fd());
    let_go(&kept)
}

pub(super) fn cgroup(init: &mut Init<'_>) -> Result<(), Failure> {
    init.birth.place.enter()
}

/// Namespaces of the pod. As the host's root, whoever owns them.
pub(super) fn join(init: &mut Init<'_>) -> Result<(), Failure> {
    let spaces = init.birth.spaces;
    for (space, kind) in [
        (spaces.net, Kind::Net),
        (spaces.ipc, Kind::Ipc),
        (spaces.uts, Kind::Uts),
    ] {
        if let Some(fd) = space.joined() {
            namespace::join(fd, kind)?;
        }
    }
    // The root will be attached here: the working directory is found again in the new mount namespace, where this
    // folder's name could not be looked up with the container's rights.
    Ok(process::change_directory(Path::new(&init.birth.plan.state_dir))?)
}

/// Becomes root of the pod's user namespace. What is made from here on, belongs to it: also a pid namespace,
/// which only a fork can enter.
pub(super) fn user(init: &mut Init<'_>) -> Result<(), Failure> {
    let Some(user) = init.birth.spaces.user else {
        return Ok(());
    };
    namespace::join(user, Kind::User)?;
    identity::take(0, 0, &[])?;
    guard()?;
    if !init.birth.spaces.pid.is_new() {
        return Ok(());
    }
    let order = pipe::pipe()?;
    match process::fork(&Fork {
        namespaces: &[Kind::Pid],
        sibling: true,
        cgroup: None,
    })? {
        Forked::Parent { pid, .. } => {
            report::heir(init.birth.control, pid)?;
            process::exit(0)
        }
        Forked::Child => {
            guard()?;
            // The shim hears of this process before it hears from it: the other end closes when the parent has exited.
            drop(order.write);
            pipe::read(&order.read, &mut [0])?;
            Ok(())
        }
    }
}

/// A session without a terminal, and a keyring that is not the host's.
pub(super) fn session(init: &mut Init<'_>) -> Result<(), Failure> {
    process::setsid()?;
    Ok(process::join_session_keyring(&keyring(
        &init.birth.plan.container_id,
    ))?)
}

pub(crate) fn keyring(container: &str) -> String {
    format!("criquet-{container}")
}

/// The container's own namespaces. A cgroup namespace's root is the cgroup in which the process is at this moment.
pub(super) fn unshare(init: &mut Init<'_>) -> Result<(), Failure> {
    let spaces = init.birth.spaces;
    let mut kinds = vec![Kind::Mount];
    for (space, kind) in [
        (spaces.cgroup, Kind::Cgroup),
        (spaces.net, Kind::Net),
        (spaces.ipc, Kind::Ipc),
        (spaces.uts, Kind::Uts),
    ] {
        if space.is_new() {
            kinds.push(kind);
        }
    }
    Ok(namespace::unshare(&kinds)?)
}
