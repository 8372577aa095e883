//! /dev is attached in one piece, then what is mounted in it.

use std::os::fd::OwnedFd;
use std::path::Path;

use criquet_proto::shim::mount::Propagation;
use criquet_sys::errno;
use criquet_sys::mount::{self, Attributes};
use criquet_sys::path::Root;

use super::Init;
use crate::child::{About as _, Failure, internal};
use crate::prepare::{DEV, SHM, spaces::Space};

const PTS: &str = "/dev/pts";
const MQUEUE: &str = "/dev/mqueue";
/// Group `tty` of every distribution; terminals are writable to it.
const TTY_GROUP: u32 = 5;
/// A container's own /dev/shm, as large as every runtime makes it.
const SHM_OPTIONS: [(&str, Option<&str>); 2] = [("mode", Some("1777")), ("size", Some("64m"))];

pub(super) fn attach(init: &mut Init<'_>) -> Result<(), Failure> {
    let Some(dev) = &init.birth.prepared.dev else {
        return Ok(());
    };
    // A link or a file that an image put there is not followed (CVE-2026-41579).
    mount::attach(&dev.tree, init.root.directory_exact(Path::new(DEV))?)?;
    if !dev.bound.is_empty() {
        let root = Root::from(dev.tree.try_clone().map_err(internal)?);
        for (name, node) in &dev.bound {
            mount::attach(node, root.resolve_exact(Path::new(name))?).about(|| name.clone())?;
        }
    }
    complete(init)
}

/// The plan brought another /dev, usually the host's. It gets the container's own terminals and memory, unless
/// these mounts would appear on the host.
pub(super) fn complete_foreign(init: &mut Init<'_>) -> Result<(), Failure> {
    let foreign = init.birth.plan.mounts.iter().find(|m| m.target == DEV);
    if foreign.is_some_and(|dev| dev.propagation() != Propagation::Shared) {
        complete(init)
    } else {
        Ok(())
    }
}

fn complete(init: &mut Init<'_>) -> Result<(), Failure> {
    let no_exec = Attributes {
        nosuid: true,
        noexec: true,
        ..Attributes::default()
    };
    let group = TTY_GROUP.to_string();
    let mut options = vec![
        ("newinstance", None),
        ("ptmxmode", Some("0666")),
        ("mode", Some("0620")),
    ];
    if init.birth.spaces.ids.has_gid(TTY_GROUP) {
        options.push(("gid", Some(group.as_str())));
    }
    init.devpts = put(init, PTS, || mount::new("devpts", &options, no_exec))?;
    let shm = &init.birth.prepared.shm;
    put(init, SHM, || match shm {
        Some(shm) => shm
            .try_clone()
            .map_err(|e| criquet_sys::Error::new("fcntl", SHM, e)),
        None => mount::new("tmpfs", &SHM_OPTIONS, Attributes::DATA),
    })?;
    // The host's queues cannot be mounted with a user namespace's rights.
    if init.birth.spaces.user.is_none() || !matches!(init.birth.spaces.ipc, Space::Host) {
        put(init, MQUEUE, || mount::new("mqueue", &[], Attributes::DATA))?;
    }
    Ok(())
}

/// Mounts at `target`, unless the plan does.
fn put(
    init: &Init<'_>,
    target: &str,
    make: impl FnOnce() -> criquet_sys::Result<OwnedFd>,
) -> Result<Option<OwnedFd>, Failure> {
    if init.birth.plan.mounts.iter().any(|m| m.target == target) {
        return Ok(None);
    }
    let folder = match init.root.resolve_exact(Path::new(target)) {
        // A foreign /dev without the folder.
        Err(error) if error.is(errno::ENOENT) => return Ok(None),
        done => done?,
    };
    let mount = make().about(|| target.into())?;
    mount::attach(&mount, folder).about(|| target.into())?;
    Ok(Some(mount))
}
