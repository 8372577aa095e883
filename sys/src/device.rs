//! Device nodes.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::{Error, Result, path};

/// A device node to make.
#[derive(Clone, Copy, Debug)]
pub struct Node {
    /// Block device instead of character device.
    pub block: bool,
    /// Major number
    pub major: u32,
    /// Minor number
    pub minor: u32,
    /// Permissions, exactly so
    pub mode: u32,
    /// uid and gid
    pub owner: (u32, u32),
}

/// Makes a device node in a folder that is the caller's own.
///
/// # Errors
/// EPERM: no CAP_MKNOD, or in a user namespace.
pub fn make(folder: impl AsFd, name: &str, node: &Node) -> Result<()> {
    let kind = if node.block {
        FileType::BlockDevice
    } else {
        FileType::CharacterDevice
    };
    let number = rustix::fs::makedev(node.major, node.minor);
    let mode = Mode::from_raw_mode(node.mode & 0o7777);
    let failed = |call| move |e| Error::new(call, name, e);
    rustix::fs::mknodat(&folder, name, kind, mode, number).map_err(failed("mknodat"))?;
    path::set_owner(&folder, name, node.owner)?;
    // After the change of owner, and whatever the umask is.
    rustix::fs::chmodat(&folder, name, mode, AtFlags::empty()).map_err(failed("fchmodat"))
}

/// The host's /dev/null, proven to be it (CVE-2025-31133): the cover of masked files.
///
/// # Errors
/// EXDEV: it is something else.
pub fn host_null() -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let null = rustix::fs::openat(CWD, "/dev/null", flags, Mode::empty())
        .map_err(|e| Error::new("openat", "/dev/null", e))?;
    if is_null(&null)? {
        Ok(null)
    } else {
        Err(Error::new("openat", "/dev/null: another device", Errno::XDEV))
    }
}

/// Whether `fd` names the null device, character 1:3.
///
/// # Errors
/// The kernel's.
pub fn is_null(fd: impl AsFd) -> Result<bool> {
    let stat = rustix::fs::fstat(fd).map_err(|e| Error::new("fstat", "descriptor", e))?;
    let character = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
    Ok(character && stat.st_rdev == rustix::fs::makedev(1, 3))
}

/// Whether `fd` is a pipe or a socket, whose owner decides who may open /dev/stdout again.
///
/// # Errors
/// The kernel's.
pub fn is_stream(fd: impl AsFd) -> Result<bool> {
    let stat = rustix::fs::fstat(fd).map_err(|e| Error::new("fstat", "descriptor", e))?;
    Ok(matches!(
        FileType::from_raw_mode(stat.st_mode),
        FileType::Fifo | FileType::Socket
    ))
}
