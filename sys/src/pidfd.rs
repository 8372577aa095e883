//! Processes by descriptor, and the reaping of children: pidfd_open(2), waitid(2).

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::process::{self, Pid, PidfdFlags};

use crate::{Error, Result};

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It called exit(2) with this code, 0-255.
    Exited(i32),
    /// It died by this signal.
    Killed(i32),
}

/// Opens the process `pid`, close-on-exec.
///
/// # Errors
/// `ESRCH` when there is none.
pub fn open(pid: i32) -> Result<OwnedFd> {
    let none = || {
        Error::new(
            "pidfd_open",
            pid.to_string(),
            std::io::Error::from_raw_os_error(libc::ESRCH),
        )
    };
    let id = Pid::from_raw(pid).filter(|_| pid > 0).ok_or_else(none)?;
    process::pidfd_open(id, PidfdFlags::empty()).map_err(|e| Error::new("pidfd_open", pid.to_string(), e))
}

/// Sends `signal` (0: only asks whether that would be possible).
///
/// # Errors
/// `ESRCH` when the process has been reaped, `EINVAL` for a number out of range.
pub fn signal(pidfd: impl AsFd, signal: i32) -> Result<()> {
    let fd = pidfd.as_fd().as_raw_fd();
    // SAFETY: no siginfo is passed; the descriptor is borrowed for the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            fd,
            signal,
            std::ptr::null::<libc::c_void>(),
            0,
        )
    };
    if done < 0 {
        Err(Error::last("pidfd_send_signal", signal.to_string()))
    } else {
        Ok(())
    }
}

fn wait(kind: libc::idtype_t, id: libc::id_t, flags: i32, what: &str) -> Result<Option<(i32, Ended)>> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    loop {
        // SAFETY: `info` is writable and of the right type; zeroed so that "nobody" reads as pid 0.
        if unsafe { libc::waitid(kind, id, info.as_mut_ptr(), libc::WEXITED | flags) } == 0 {
            break;
        }
        let error = Error::last("waitid", what);
        if !error.is(libc::EINTR) {
            return Err(error);
        }
    }
    // SAFETY: waitid succeeded, or left the zeroes; the accessed fields are the SIGCHLD ones.
    let (pid, code, status) = unsafe {
        let info = info.assume_init();
        (info.si_pid(), info.si_code, info.si_status())
    };
    let ended = if code == libc::CLD_EXITED {
        Ended::Exited(status)
    } else {
        Ended::Killed(status)
    };
    Ok((pid != 0).then_some((pid, ended)))
}

/// Reaps one child that has ended, if there is one.
///
/// # Errors
/// Never for "no children": that is `None`.
pub fn reap_any() -> Result<Option<(i32, Ended)>> {
    match wait(libc::P_ALL, 0, libc::WNOHANG, "any child") {
        Err(error) if error.is(libc::ECHILD) => Ok(None),
        other => other,
    }
}

/// Waits for the child `pid` to end and reaps it.
///
/// # Errors
/// `ECHILD` when it is not ours or was reaped before.
pub fn reap(pid: i32) -> Result<Ended> {
    let id = libc::id_t::try_from(pid).unwrap_or(0);
    let gone = || {
        Error::new(
            "waitid",
            pid.to_string(),
            std::io::Error::from_raw_os_error(libc::ECHILD),
        )
    };
    wait(libc::P_PID, id, 0, &pid.to_string())?
        .map(|(_, ended)| ended)
        .ok_or_else(gone)
}
