//! Paths that are hidden or read-only.

use std::os::fd::OwnedFd;
use std::path::Path;

use criquet_sys::mount::{self, Attributes};
use criquet_sys::path::{self, FileKind};
use criquet_sys::{device, errno};

use super::Init;
use crate::child::{About as _, Failure};

const READONLY: Attributes = Attributes {
    readonly: true,
    nosuid: false,
    nodev: false,
    noexec: false,
};
const EMPTY: Attributes = Attributes {
    readonly: true,
    ..Attributes::DATA
};
/// Room for nothing.
const EMPTY_OPTIONS: [(&str, Option<&str>); 3] = [
    ("mode", Some("755")),
    ("nr_blocks", Some("1")),
    ("nr_inodes", Some("1")),
];

/// Covers files with the host's null device and folders with one empty file system.
pub(super) fn cover(init: &mut Init<'_>) -> Result<(), Failure> {
    let null = device::host_null()?;
    let mut empty: Option<OwnedFd> = None;
    for path in &init.birth.plan.masked_paths {
        let Some(target) = find(init, path)? else { continue };
        let cover = || match (path::kind(&target)?, &empty) {
            (FileKind::Directory, Some(empty)) => mount::clone_fd(empty, false),
            (FileKind::Directory, None) => mount::new("tmpfs", &EMPTY_OPTIONS, EMPTY),
            _ => mount::clone_fd(&null, false),
        };
        let cover = cover().about(|| path.clone())?;
        mount::attach(&cover, &target).about(|| path.clone())?;
        if path::kind(&cover)? == FileKind::Directory {
            empty.get_or_insert(cover);
        }
    }
    Ok(())
}

/// Covers paths with a read-only view of themselves.
pub(super) fn protect(init: &mut Init<'_>) -> Result<(), Failure> {
    for path in &init.birth.plan.readonly_paths {
        let Some(target) = find(init, path)? else { continue };
        let view = || {
            let view = mount::clone_fd(&target, true)?;
            mount::forbid(&view, READONLY, false)?;
            mount::attach(&view, &target)
        };
        view().about(|| path.clone())?;
    }
    Ok(())
}

/// Only a path that is not there is left alone; any other doubt is a failure (CVE-2025-31133).
fn find(init: &Init<'_>, path: &str) -> Result<Option<OwnedFd>, Failure> {
    match init.root.resolve(Path::new(path)) {
        Err(error) if error.is(errno::ENOENT) => Ok(None),
        done => Ok(Some(done?)),
    }
}
