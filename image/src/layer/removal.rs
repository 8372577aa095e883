//! Removal of trees by descriptors: no link is followed and no mount entered (CVE-2022-21658).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::{Errno, Result};

/// Levels of a tree that is removed; two descriptors each.
const DEPTH_MAX: usize = 512;

/// Opens the directory `name`, one component, in `parent`.
pub(crate) fn open_directory(parent: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat2(parent, name, flags, Mode::empty(), beneath())
}

/// No way out, no links, no other file system.
pub(crate) fn beneath() -> ResolveFlags {
    ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV
}

/// Removes `name` in `parent`, whatever it is, and tells `gone` of each inode before it goes. Nothing there is
/// success.
///
/// # Errors
/// The kernel's; `XDEV` at a mount point.
pub(crate) fn remove(parent: BorrowedFd<'_>, name: &[u8], gone: &mut dyn FnMut(&Stat)) -> Result<()> {
    remove_at(parent, name, gone, DEPTH_MAX)
}

fn remove_at(parent: BorrowedFd<'_>, name: &[u8], gone: &mut dyn FnMut(&Stat), depth: usize) -> Result<()> {
    let stat = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(()),
        other => other?,
    };
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        rustix::fs::unlinkat(parent, name, AtFlags::empty())?;
        gone(&stat);
        return Ok(());
    }
    if depth == 0 {
        return Err(Errno::LOOP);
    }
    let directory = open_directory(parent, name)?;
    // A directory that changes while it is read may show less than all.
    for _ in 0..3 {
        empty(directory.as_fd(), gone, depth - 1)?;
        match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY) => {}
            Ok(()) => {
                gone(&stat);
                return Ok(());
            }
            other => return other,
        }
    }
    Err(Errno::NOTEMPTY)
}

/// Removes all that is in `directory`.
fn empty(directory: BorrowedFd<'_>, gone: &mut dyn FnMut(&Stat), depth: usize) -> Result<()> {
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            remove_at(directory, name, gone, depth)?;
        }
    }
    Ok(())
}

/// The names in `directory`.
pub(crate) fn names(directory: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    Ok(names)
}
