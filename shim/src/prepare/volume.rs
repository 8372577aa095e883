//! Volumes: folders, files and image contents of the host.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use criquet_proto::shim::{Mount, mount::Propagation};
use criquet_sys::mount::{self, Attributes};
use criquet_sys::path::Root;

use super::overlay;
use super::spaces::Spaces;
use crate::child::{About as _, Failure};

/// A bind mount with all that is mounted below its source.
pub(crate) fn bind(mount: &Mount, spaces: &Spaces<'_>) -> Result<OwnedFd, Failure> {
    let tree = mount::clone_path(Path::new(&mount.source), true)?;
    if maps_ids(mount) {
        let mapping = spaces.mapping(&mount.uid_maps, &mount.gid_maps)?;
        mount::map_ids(&tree, mapping, false)
            .about(|| format!("show {} with mapped owners", mount.source))?;
    }
    finish(tree, mount)
}

/// The content of an image, or a part of it.
pub(crate) fn image(mount: &Mount, spaces: &Spaces<'_>, scratch: &Path) -> Result<OwnedFd, Failure> {
    let mapping = maps_ids(mount)
        .then(|| spaces.mapping(&mount.uid_maps, &mount.gid_maps))
        .transpose()?;
    let mapping = mapping.as_ref().map(|fd| fd.as_fd());
    if mount.sub_path.is_empty() {
        return finish(overlay::read_only(&mount.lower, mapping, scratch)?, mount);
    }
    // Only what is attached can be copied in part (before Linux 6.15), so that is done where nobody sees it.
    let part = overlay::in_private_mounts(|| {
        // This may use `scratch` as well, below.
        let whole = overlay::read_only(&mount.lower, mapping, scratch)?;
        mount::attach_path(&whole, scratch)?;
        let part = Root::open(scratch)?.resolve(Path::new(&mount.sub_path))?;
        Ok(mount::clone_fd(part, false)?)
    })?;
    finish(part, mount)
}

/// The host's /sys, for a container that cannot mount its own.
pub(crate) fn host_sysfs(writable: bool) -> Result<OwnedFd, Failure> {
    let tree = mount::clone_path(Path::new("/sys"), true)?;
    mount::forbid(
        &tree,
        Attributes {
            readonly: !writable,
            ..Attributes::DATA
        },
        true,
    )?;
    mount::set_propagation(&tree, mount::Propagation::Private, true)?;
    Ok(tree)
}

fn maps_ids(mount: &Mount) -> bool {
    !mount.uid_maps.is_empty() || !mount.gid_maps.is_empty()
}

fn finish(tree: OwnedFd, mount: &Mount) -> Result<OwnedFd, Failure> {
    mount::forbid(&tree, attributes(mount), false)?;
    if mount.recursive_readonly {
        mount::forbid(
            &tree,
            Attributes {
                readonly: true,
                ..Attributes::default()
            },
            true,
        )?;
    }
    mount::set_propagation(&tree, propagation(mount.propagation()), true)?;
    Ok(tree)
}

pub(crate) fn attributes(mount: &Mount) -> Attributes {
    Attributes {
        readonly: mount.readonly || mount.recursive_readonly,
        nosuid: mount.nosuid,
        nodev: mount.nodev,
        noexec: mount.noexec,
    }
}

pub(crate) fn propagation(propagation: Propagation) -> mount::Propagation {
    match propagation {
        Propagation::Private => mount::Propagation::Private,
        Propagation::Slave => mount::Propagation::Slave,
        Propagation::Shared => mount::Propagation::Shared,
    }
}
