//! Pseudo-terminals: pty(7), devpts.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use crate::{Error, Result};

/// A terminal: the side of whoever watches, and the side of the processes.
#[derive(Debug)]
pub struct Pty {
    /// Reads what is shown, takes what is typed.
    pub master: OwnedFd,
    /// The terminal itself.
    pub peer: OwnedFd,
}

const DEVPTS_MAGIC: i64 = 0x1cd1;
const PTMX_INODE: u64 = 2;
const PTS_MAJOR: u32 = 136;

/// Opens a new terminal of the devpts instance whose root is `devpts`. Proves that `ptmx` and the terminal are
/// what they should be, and gets the second from the first and not by a path (CVE-2025-52565).
///
/// # Errors
/// `EXDEV` when `ptmx` is not devpts's own; `ENOSPC` when the instance is full.
pub fn open(devpts: BorrowedFd<'_>) -> Result<Pty> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let ptmx = rustix::fs::openat(devpts, "ptmx", flags, Mode::empty())
        .map_err(|e| Error::new("openat", "ptmx", e))?;
    from_ptmx(ptmx)
}

/// As [`open`], from an already opened `ptmx`.
///
/// # Errors
/// As [`open`].
pub fn from_ptmx(ptmx: OwnedFd) -> Result<Pty> {
    let failed = |call| move |e: rustix::io::Errno| Error::new(call, "ptmx", e);
    let odd = |what| Error::new("open", what, std::io::Error::from_raw_os_error(libc::EXDEV));
    let stat = rustix::fs::fstat(&ptmx).map_err(failed("fstat"))?;
    let kind = rustix::fs::fstatfs(&ptmx).map_err(failed("fstatfs"))?.f_type;
    #[allow(clippy::useless_conversion)] // The field's type differs between platforms.
    if i64::try_from(kind) != Ok(DEVPTS_MAGIC)
        || stat.st_ino != PTMX_INODE
        || stat.st_rdev != rustix::fs::makedev(5, 2)
    {
        return Err(odd("ptmx"));
    }
    rustix::pty::unlockpt(&ptmx).map_err(failed("ioctl(TIOCSPTLCK)"))?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let peer = rustix::pty::ioctl_tiocgptpeer(&ptmx, flags).map_err(failed("ioctl(TIOCGPTPEER)"))?;
    let stat = rustix::fs::fstat(&peer).map_err(failed("fstat"))?;
    if rustix::fs::major(stat.st_rdev) != PTS_MAJOR {
        return Err(odd("pts"));
    }
    Ok(Pty { master: ptmx, peer })
}

/// Tells the terminal its size in characters; its foreground processes get SIGWINCH.
///
/// # Errors
/// `ENOTTY` when it is none.
pub fn resize(terminal: impl AsFd, width: u32, height: u32) -> Result<()> {
    let clamp = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
    let size = Winsize {
        ws_row: clamp(height),
        ws_col: clamp(width),
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(terminal, size)
        .map_err(|e| Error::new("ioctl(TIOCSWINSZ)", format!("{width}x{height}"), e))
}

/// Makes `terminal` the controlling one of this session, whose leader the caller is (setsid(2)).
///
/// # Errors
/// `EPERM` when the session has one already or the caller is not its leader.
pub fn take_control(terminal: impl AsFd) -> Result<()> {
    rustix::process::ioctl_tiocsctty(terminal).map_err(|e| Error::new("ioctl(TIOCSCTTY)", "", e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_and_resizes_and_refuses_other_files() {
        let devpts = std::fs::File::open("/dev/pts").unwrap();
        let pty = open(devpts.as_fd()).unwrap();
        resize(&pty.master, 80, 24).unwrap();
        let size = rustix::termios::tcgetwinsize(&pty.peer).unwrap();
        assert_eq!((size.ws_col, size.ws_row), (80, 24));
        let other = std::fs::File::open("/dev/null").unwrap();
        assert!(from_ptmx(other.into()).unwrap_err().is(libc::EXDEV));
    }
}
