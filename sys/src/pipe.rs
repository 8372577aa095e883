//! Pipes, and reads and writes that do not block: pipe2(2), fcntl(2), fchown(2).

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Gid, OFlags, Uid};
use rustix::io::Errno;

use crate::{Error, Result};

/// The two ends of a pipe.
#[derive(Debug)]
pub struct Pipe {
    /// What was written comes out here.
    pub read: OwnedFd,
    /// Takes data.
    pub write: OwnedFd,
}

/// A new pipe, both ends close-on-exec and blocking.
///
/// # Errors
/// When the kernel is out of descriptors or memory.
pub fn pipe() -> Result<Pipe> {
    let (read, write) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|e| Error::new("pipe2", "", e))?;
    Ok(Pipe { read, write })
}

/// Gives a pipe to a user, so that `/dev/stdout` (which reopens it) can be opened by him. An id of `u32::MAX` is
/// left as it is, as fchown(2) has it.
///
/// # Errors
/// `EPERM` without CAP_CHOWN.
pub fn chown(fd: impl AsFd, uid: u32, gid: u32) -> Result<()> {
    let user = (uid != u32::MAX).then(|| Uid::from_raw(uid));
    let group = (gid != u32::MAX).then(|| Gid::from_raw(gid));
    rustix::fs::fchown(fd, user, group).map_err(|e| Error::new("fchown", format!("pipe to {uid}:{gid}"), e))
}

/// Makes reads and writes of the open file behind `fd` return `EAGAIN` instead of waiting. Shared with every
/// copy of the descriptor, not with the other end.
///
/// # Errors
/// Never in practice.
pub fn set_nonblocking(fd: impl AsFd) -> Result<()> {
    let flags = rustix::fs::fcntl_getfl(&fd).map_err(|e| Error::new("fcntl(F_GETFL)", "", e))?;
    rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK).map_err(|e| Error::new("fcntl(F_SETFL)", "", e))
}

/// What a call that does not block came back with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// So many bytes were moved, at least one.
    Bytes(usize),
    /// Not now.
    Blocked,
    /// The end of file, or nobody at the other end any more.
    Closed,
}

/// Reads what is there. A terminal whose last user left (`EIO`) reads as closed.
///
/// # Errors
/// What the file's driver says.
pub fn read(fd: impl AsFd, buffer: &mut [u8]) -> Result<Progress> {
    match rustix::io::retry_on_intr(|| rustix::io::read(&fd, &mut *buffer)) {
        Ok(0) | Err(Errno::IO | Errno::CONNRESET) => Ok(Progress::Closed),
        Ok(n) => Ok(Progress::Bytes(n)),
        Err(Errno::AGAIN) => Ok(Progress::Blocked),
        Err(e) => Err(Error::new("read", "stream", e)),
    }
}

/// Writes what fits.
///
/// # Errors
/// What the file's driver says.
pub fn write(fd: impl AsFd, bytes: &[u8]) -> Result<Progress> {
    match rustix::io::retry_on_intr(|| rustix::io::write(&fd, bytes)) {
        Ok(0) | Err(Errno::AGAIN) => Ok(Progress::Blocked),
        Ok(n) => Ok(Progress::Bytes(n)),
        Err(Errno::PIPE | Errno::IO | Errno::CONNRESET) => Ok(Progress::Closed),
        Err(e) => Err(Error::new("write", "stream", e)),
    }
}

/// `/dev/null`, for reading and writing.
///
/// # Errors
/// When the host has none.
pub fn null() -> Result<OwnedFd> {
    File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map(OwnedFd::from)
        .map_err(|e| Error::new("open", "/dev/null", e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moves_blocks_and_closes() {
        let Pipe { read: r, write: w } = pipe().unwrap();
        set_nonblocking(&r).unwrap();
        let mut buffer = [0; 8];
        assert_eq!(read(&r, &mut buffer).unwrap(), Progress::Blocked);
        assert_eq!(write(&w, b"abc").unwrap(), Progress::Bytes(3));
        assert_eq!(read(&r, &mut buffer).unwrap(), Progress::Bytes(3));
        drop(w);
        assert_eq!(read(&r, &mut buffer).unwrap(), Progress::Closed);
    }
}
