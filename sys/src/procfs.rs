//! /proc, proven: what is opened here is on procfs and nowhere else (CVE-2019-16884, CVE-2025-52881).

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{CWD, FsWord, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::{Error, Result};

/// `PROC_SUPER_MAGIC` (linux/magic.h).
const MAGIC: FsWord = 0x9fa0;
/// The inode of procfs' root directory (`PROC_ROOT_INO`): a bind mount of a folder of it has another.
const ROOT_INODE: u64 = 1;

fn root() -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let proc = rustix::fs::openat(CWD, "/proc", flags, Mode::empty())
        .map_err(|e| Error::new("openat", "/proc", e))?;
    let stat = rustix::fs::fstat(&proc).map_err(|e| Error::new("fstat", "/proc", e))?;
    if !is_procfs(&proc)? || stat.st_ino != ROOT_INODE {
        return Err(Error::new("openat", "/proc: not procfs", Errno::XDEV));
    }
    Ok(proc)
}

/// Whether `fd` is on procfs.
///
/// # Errors
/// The kernel's.
pub fn is_procfs(fd: impl AsFd) -> Result<bool> {
    Ok(rustix::fs::fstatfs(fd)
        .map_err(|e| Error::new("fstatfs", "descriptor", e))?
        .f_type
        == MAGIC)
}

/// Opens a file below /proc, e.g. `thread-self/attr/exec` or `sys/net/ipv4/ip_forward`; nothing mounted over it,
/// no magic link and no way out of procfs is taken.
///
/// # Errors
/// EXDEV, ELOOP: something else is there.
pub fn open(path: &str, writable: bool) -> Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    let access = if writable { OFlags::WRONLY } else { OFlags::RDONLY };
    rustix::fs::openat2(root()?, path, access | OFlags::CLOEXEC, Mode::empty(), resolve)
        .map_err(|e| Error::new("openat2", format!("/proc/{path}"), e))
}

/// Writes to a file below /proc in one write(2). `sys/…` is that of the calling thread's namespaces.
///
/// # Errors
/// The kernel's.
pub fn write(path: &str, value: &[u8]) -> Result<()> {
    put(open(path, true)?, path, value)
}

/// Writes to a file that [`open`] gave.
///
/// # Errors
/// The kernel's.
pub fn put(file: impl AsFd, path: &str, value: &[u8]) -> Result<()> {
    let failed = |e| Error::new("write", format!("/proc/{path}"), e);
    match rustix::io::retry_on_intr(|| rustix::io::write(&file, value)).map_err(failed)? {
        n if n == value.len() => Ok(()),
        _ => Err(failed(Errno::IO)),
    }
}

/// Reads a file below /proc, at most `max` bytes.
///
/// # Errors
/// EFBIG: it is longer than `max`.
pub fn read(path: &str, max: usize) -> Result<String> {
    use std::io::Read as _;
    let failed = |e| Error::new("read", format!("/proc/{path}"), e);
    let mut text = String::new();
    let limit = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
    std::fs::File::from(open(path, false)?)
        .take(limit)
        .read_to_string(&mut text)
        .map_err(failed)?;
    if text.len() > max {
        Err(failed(Errno::FBIG.into()))
    } else {
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_refuses() {
        assert!(read("self/status", 1 << 16).unwrap().contains("Pid:"));
        assert!(read("self/status", 3).unwrap_err().is(libc::EFBIG));
        assert!(open("self/root/etc/passwd", false).unwrap_err().is(libc::ELOOP));
        assert!(open("../etc/passwd", false).unwrap_err().is(libc::EXDEV));
    }
}
