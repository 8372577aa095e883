//! Owners, modes, attributes, times; in an order in which none undoes another: chown clears set-id bits and
//! capabilities.

use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::{Errno, Result as OsResult};

use super::super::{os_error, removal};
use crate::Result;
use crate::layer::tar::Entry;

/// `st_blocks` counts in these, on every file system.
const BLOCK: u64 = 512;

/// overlayfs' mark of directories that hide what is below.
pub(super) const OPAQUE: &str = "trusted.overlay.opaque";

/// Linux' `XATTR_SIZE_MAX` and `XATTR_LIST_MAX`, in bytes.
const XATTR_SIZE_MAX: usize = 65536;

/// What directories have that no entry describes.
pub(super) fn default_directory(directory: BorrowedFd<'_>) -> OsResult<()> {
    rustix::fs::fchown(directory, Some(Uid::ROOT), Some(Gid::ROOT))?;
    rustix::fs::fchmod(directory, Mode::from_raw_mode(0o755))
}

/// All of a file.
pub(super) fn file(file: BorrowedFd<'_>, entry: &Entry) -> Result<()> {
    directory(file, entry)?;
    rustix::fs::futimens(file, &times(entry.mtime))
        .map_err(|e| os_error("setting the time of", &entry.name, e))
}

/// All of a directory but its time, which what is put into it would change.
pub(super) fn directory(directory: BorrowedFd<'_>, entry: &Entry) -> Result<()> {
    let owner = Some(Uid::from_raw(entry.uid));
    rustix::fs::fchown(directory, owner, Some(Gid::from_raw(entry.gid)))
        .map_err(|e| os_error("setting the owner of", &entry.name, e))?;
    for (name, value) in &entry.xattrs {
        if !is_kept(name) {
            continue;
        }
        match rustix::fs::fsetxattr(directory, name, value, XattrFlags::empty()) {
            // A file system without them, as others have it who unpack layers.
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(error) => return Err(os_error("setting an extended attribute of", &entry.name, error)),
        }
    }
    rustix::fs::fchmod(directory, mode(entry)).map_err(|e| os_error("setting the mode of", &entry.name, e))
}

/// Owner and time of a symbolic link; it has nothing else.
pub(super) fn link(parent: BorrowedFd<'_>, name: &[u8], entry: &Entry) -> Result<()> {
    let owner = Some(Uid::from_raw(entry.uid));
    let set = || {
        rustix::fs::chownat(
            parent,
            name,
            owner,
            Some(Gid::from_raw(entry.gid)),
            AtFlags::SYMLINK_NOFOLLOW,
        )?;
        rustix::fs::utimensat(parent, name, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)
    };
    set().map_err(|e| os_error("setting owner and time of", &entry.name, e))
}

/// All of a device or fifo, which is not opened: that would wait or act.
pub(super) fn special(parent: BorrowedFd<'_>, name: &[u8], entry: &Entry) -> Result<()> {
    let owner = Some(Uid::from_raw(entry.uid));
    let set = || {
        rustix::fs::chownat(
            parent,
            name,
            owner,
            Some(Gid::from_raw(entry.gid)),
            AtFlags::SYMLINK_NOFOLLOW,
        )?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle = rustix::fs::openat2(parent, name, flags, Mode::empty(), removal::beneath())?;
        // fchmod wants more than a handle, and fchmodat2 a kernel of 6.6; by procfs it is this very inode.
        let by_handle = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&handle));
        rustix::fs::chmodat(CWD, by_handle, mode(entry), AtFlags::empty())?;
        rustix::fs::utimensat(parent, name, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)
    };
    set().map_err(|e| os_error("setting owner and mode of", &entry.name, e))
}

pub(super) fn directory_time(directory: BorrowedFd<'_>, time: (i64, u32)) -> OsResult<()> {
    rustix::fs::futimens(directory, &times(time))
}

/// Bytes that an open file takes on disk.
pub(super) fn blocks(file: BorrowedFd<'_>) -> OsResult<u64> {
    Ok(stat_blocks(&rustix::fs::fstat(file)?))
}

pub(super) fn stat_blocks(stat: &Stat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or_default() * BLOCK
}

/// Attributes that belong to an image. Those of overlayfs would make whiteouts and redirects (trusted is the
/// host's); labels of LSMs and IMA are the host's as well.
fn is_kept(name: &[u8]) -> bool {
    match name {
        b"security.capability" | b"system.posix_acl_access" | b"system.posix_acl_default" => true,
        name => name.starts_with(b"user.") && !name.starts_with(b"user.overlay."),
    }
}

fn mode(entry: &Entry) -> Mode {
    Mode::from_raw_mode(entry.mode & 0o7777)
}

fn times((seconds, nanos): (i64, u32)) -> Timestamps {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: nanos.into(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

/// The extended attributes of `directory` that belong to the image.
pub(in crate::layer) fn kept_xattrs(directory: BorrowedFd<'_>) -> OsResult<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut names = vec![0_u8; XATTR_SIZE_MAX];
    let length = match rustix::fs::flistxattr(directory, names.as_mut_slice()) {
        Err(Errno::OPNOTSUPP) => 0,
        other => other?,
    };
    let mut xattrs = Vec::new();
    for name in names[..length].split(|b| *b == 0).filter(|name| is_kept(name)) {
        let mut value = vec![0_u8; XATTR_SIZE_MAX];
        let length = rustix::fs::fgetxattr(directory, name, value.as_mut_slice())?;
        value.truncate(length);
        xattrs.push((name.to_vec(), value));
    }
    xattrs.sort();
    Ok(xattrs)
}

/// Whether nothing of lower layers shows in `directory`.
pub(in crate::layer) fn is_opaque(directory: BorrowedFd<'_>) -> bool {
    let mut value = [0_u8; 1];
    rustix::fs::fgetxattr(directory, OPAQUE, &mut value).is_ok_and(|length| value[..length] == *b"y")
}
