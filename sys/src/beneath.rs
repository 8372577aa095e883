//! Files below a folder that others may write to: openat2(2) with RESOLVE_BENEATH, and no links.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::{Error, Result};

/// Opens `path`, relative to `dir`, for appending; missing folders (0755) and the file (0640) are made.
///
/// # Errors
/// `EXDEV` or `ELOOP` when the path leads out or over a link, `EINVAL` when it is empty or the file is not a
/// regular one.
pub fn append(dir: &Path, path: &Path) -> Result<File> {
    let object = || format!("{} in {}", path.display(), dir.display());
    let failed =
        |call| move |e: Errno| Error::new(call, format!("{} in {}", path.display(), dir.display()), e);
    let invalid = || {
        Error::new(
            "openat2",
            object(),
            std::io::Error::from_raw_os_error(libc::EINVAL),
        )
    };
    let top = File::options()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
        .open(dir)
        .map_err(|e| Error::new("open", dir.display().to_string(), e))?;
    let mut folder = OwnedFd::from(top);
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name),
            Component::CurDir => {}
            _ => {
                return Err(Error::new(
                    "openat2",
                    object(),
                    std::io::Error::from_raw_os_error(libc::EXDEV),
                ));
            }
        }
    }
    let (file, folders) = names.split_last().ok_or_else(invalid)?;
    for name in folders {
        match rustix::fs::mkdirat(&folder, *name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(failed("mkdirat")(e)),
        }
        folder = open(&folder, name, OFlags::PATH | OFlags::DIRECTORY).map_err(failed("openat2"))?;
    }
    // Non-blocking: a FIFO in its place must not hang us.
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = open(&folder, file, flags).map_err(failed("openat2"))?;
    let stat = rustix::fs::fstat(&file).map_err(failed("fstat"))?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::RegularFile {
        return Err(invalid());
    }
    Ok(file.into())
}

fn open(folder: impl AsFd, name: &OsStr, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let mode = if flags.contains(OFlags::CREATE) {
        Mode::from_raw_mode(0o640)
    } else {
        Mode::empty()
    };
    rustix::io::retry_on_intr(|| rustix::fs::openat2(&folder, name, flags | OFlags::CLOEXEC, mode, resolve))
}
