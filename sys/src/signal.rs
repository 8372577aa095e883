//! Signals as data: masks, signalfd(2), sigwaitinfo(2), kill(2).

use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

use crate::{Error, Result};

pub use libc::{
    SIGCHLD, SIGCONT, SIGHUP, SIGINT, SIGKILL, SIGPIPE, SIGQUIT, SIGSTOP, SIGTERM, SIGTTIN, SIGTTOU, SIGUSR1,
    SIGUSR2, SIGWINCH,
};

/// The highest signal number (real-time signals included).
pub const MAX: i32 = 64;

fn set_of(signals: &[i32]) -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the whole set; sigaddset only fails (harmlessly) for numbers out of range.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), *signal);
        }
        set.assume_init()
    }
}

fn mask(how: i32, set: &libc::sigset_t) -> Result<()> {
    // SAFETY: `set` is initialised; the old mask is not asked for.
    match unsafe { libc::pthread_sigmask(how, set, ptr::null_mut()) } {
        0 => Ok(()),
        errno => Err(Error::new(
            "sigprocmask",
            "",
            std::io::Error::from_raw_os_error(errno),
        )),
    }
}

/// Blocks every signal on this thread. A blocked signal ends nothing and interrupts nothing (kill and stop excepted).
///
/// # Errors
/// Never in practice.
pub fn block_all() -> Result<()> {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigfillset initialises the whole set.
    let set = unsafe {
        libc::sigfillset(set.as_mut_ptr());
        set.assume_init()
    };
    mask(libc::SIG_SETMASK, &set)
}

/// Unblocks every signal on this thread.
///
/// # Errors
/// Never in practice.
pub fn unblock_all() -> Result<()> {
    mask(libc::SIG_SETMASK, &set_of(&[]))
}

/// Blocks `signals` on this thread, in addition to those that are.
///
/// # Errors
/// Never in practice.
pub fn block(signals: &[i32]) -> Result<()> {
    mask(libc::SIG_BLOCK, &set_of(signals))
}

/// Gives every signal its default action again: an ignored one stays ignored over execve(2), and Rust's
/// runtime ignores SIGPIPE.
pub fn reset_all() {
    // The kernel's own structure, all zero: SIG_DFL, no flags, an empty mask. The C library's call refuses the two
    // signals that it keeps for itself, although they may have been inherited as ignored.
    let default = [0_u64; 4];
    for signal in 1..=MAX {
        // SAFETY: the structure is not larger than that on any platform; no code of ours is installed. SIGKILL and
        // SIGSTOP are refused.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                ptr::null::<u64>(),
                8,
            )
        };
    }
}

/// A descriptor that is readable while one of its signals is pending.
#[derive(Debug)]
pub struct SignalFd(OwnedFd);

impl SignalFd {
    /// For `signals`, which the caller has blocked. Non-blocking, close-on-exec.
    ///
    /// # Errors
    /// When the kernel is out of descriptors or memory.
    pub fn new(signals: &[i32]) -> Result<Self> {
        let set = set_of(signals);
        // SAFETY: `set` is initialised, -1 asks for a new descriptor.
        let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(Error::last("signalfd", ""));
        }
        // SAFETY: a fresh descriptor that nobody else owns.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Takes one pending signal's number, if there is one.
    #[must_use]
    pub fn take(&self) -> Option<i32> {
        let mut info = MaybeUninit::<libc::signalfd_siginfo>::uninit();
        let size = size_of::<libc::signalfd_siginfo>();
        // SAFETY: the buffer has the given size; it is read only when the kernel filled it whole.
        let got = unsafe { libc::read(self.0.as_raw_fd(), info.as_mut_ptr().cast(), size) };
        if usize::try_from(got) != Ok(size) {
            return None;
        }
        // SAFETY: filled, see above.
        i32::try_from(unsafe { info.assume_init() }.ssi_signo).ok()
    }
}

impl std::os::fd::AsFd for SignalFd {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Waits for one of `signals`, which are blocked, and takes it. Works for the pid 1 of a namespace too.
///
/// # Errors
/// `EINTR` when a handler ran in between.
pub fn wait(signals: &[i32]) -> Result<i32> {
    let set = set_of(signals);
    // SAFETY: `set` is initialised; no details are asked for.
    let signal = unsafe { libc::sigwaitinfo(&raw const set, ptr::null_mut()) };
    if signal < 0 {
        Err(Error::last("sigwaitinfo", ""))
    } else {
        Ok(signal)
    }
}

/// Sends `signal` to the process `pid`. Only for processes that cannot have been reaped: prefer a pidfd.
///
/// # Errors
/// `ESRCH` when there is none.
pub fn kill(pid: i32, signal: i32) -> Result<()> {
    if pid <= 0 {
        return Err(Error::new(
            "kill",
            pid.to_string(),
            std::io::Error::from_raw_os_error(libc::ESRCH),
        ));
    }
    // SAFETY: no memory is involved.
    if unsafe { libc::kill(pid, signal) } < 0 {
        Err(Error::last("kill", pid.to_string()))
    } else {
        Ok(())
    }
}

/// Sends `signal` to every process of the group `pgid`.
///
/// # Errors
/// `ESRCH` when the group is empty.
pub fn kill_group(pgid: i32, signal: i32) -> Result<()> {
    // 0 and 1 would mean our own group and every process of the machine.
    if pgid <= 1 {
        return Err(Error::new(
            "kill",
            format!("-{pgid}"),
            std::io::Error::from_raw_os_error(libc::ESRCH),
        ));
    }
    // SAFETY: no memory is involved.
    if unsafe { libc::kill(-pgid, signal) } < 0 {
        return Err(Error::last("kill", format!("-{pgid}")));
    }
    Ok(())
}

/// The session of process `pid`.
#[must_use]
pub fn session_of(pid: i32) -> Option<i32> {
    // SAFETY: no memory is involved.
    let sid = unsafe { libc::getsid(pid) };
    (sid >= 0).then_some(sid)
}
