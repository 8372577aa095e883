//! Processes: forked with clone3(2), spawned from a memfd, executed, described.

use std::ffi::{CStr, CString, c_char};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd};
use std::path::Path;

use rustix::io::Errno;

use crate::namespace::Kind;
use crate::{Error, Result, procfs};

pub use crate::pidfd::{Ended, open as pidfd_open, signal as pidfd_signal};
pub use crate::spawn::{Spawned, spawn_from_memfd};

/// `CLONE_INTO_CGROUP`, Linux 5.7.
const INTO_CGROUP: u64 = 0x2_0000_0000;
/// /proc/PID/stat is a few hundred bytes.
const STAT_BYTES_MAX: usize = 4096;

/// How [`fork`] makes the child.
#[derive(Debug, Default)]
pub struct Fork<'a> {
    /// New namespaces. Together with `User` the others belong to it.
    pub namespaces: &'a [Kind],
    /// The child becomes a child of the caller's parent, with the caller's exit signal.
    pub sibling: bool,
    /// A cgroup v2 directory in which the child is born.
    pub cgroup: Option<BorrowedFd<'a>>,
}

/// The two sides of a [`fork`].
#[derive(Debug)]
pub enum Forked {
    /// In the caller: the child.
    Parent {
        /// As the caller's pid namespace numbers it.
        pid: i32,
        /// Names it for good.
        pidfd: OwnedFd,
    },
    /// In the child: its memory is a copy.
    Child,
}

/// `struct clone_args` of clone3(2).
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Forks with clone3(2). For processes of one thread: in the child of a process with more, locks that another
/// thread held (the allocator's among them) stay locked, and it may only make system calls.
///
/// # Errors
/// EAGAIN: pids limit; ENOSPC: namespace limit; EBUSY, EOPNOTSUPP: the cgroup cannot hold processes.
pub fn fork(how: &Fork<'_>) -> Result<Forked> {
    let mut pidfd: i32 = -1;
    let bits = how.namespaces.iter().fold(0, |bits, kind| bits | kind.flag());
    let mut args = CloneArgs {
        // CLONE_NEWTIME's bit would be the sign; none of ours is.
        flags: u64::from(bits.unsigned_abs()) | u64::from(libc::CLONE_PIDFD.unsigned_abs()),
        pidfd: std::ptr::from_mut(&mut pidfd) as u64,
        exit_signal: u64::from(libc::SIGCHLD.unsigned_abs()),
        ..CloneArgs::default()
    };
    if how.sibling {
        args.flags |= u64::from(libc::CLONE_PARENT.unsigned_abs());
        args.exit_signal = 0;
    }
    if let Some(cgroup) = how.cgroup {
        args.flags |= INTO_CGROUP;
        args.cgroup = u64::from(cgroup.as_raw_fd().unsigned_abs());
    }
    // SAFETY: without CLONE_VM the child goes on with a copy of the whole memory, as after fork(2); the structure
    // and the place for the descriptor live through the call.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            std::ptr::from_mut(&mut args),
            size_of::<CloneArgs>(),
        )
    };
    match i32::try_from(pid) {
        Ok(0) => Ok(Forked::Child),
        Ok(pid) if pid > 0 => {
            // SAFETY: the kernel put a new descriptor there.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Forked::Parent { pid, pidfd })
        }
        _ => Err(Error::last("clone3", format!("flags {:#x}", args.flags))),
    }
}

/// A child that holds a new user namespace, and does nothing but what [`Holder::go_on`] lets it.
#[derive(Debug)]
pub(crate) struct Holder {
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
    control: OwnedFd,
}

impl Holder {
    /// Lets the child make its other namespaces, once the maps are written.
    pub(crate) fn go_on(&self) -> Result<()> {
        let failed = |e| Error::new("unshare", "namespaces of a user namespace", e);
        rustix::io::write(&self.control, &[0]).map_err(failed)?;
        let mut errno = [0; 4];
        match rustix::io::retry_on_intr(|| rustix::io::read(&self.control, &mut errno)).map_err(failed)? {
            4 if errno == [0; 4] => Ok(()),
            4 => Err(Error::new(
                "unshare",
                "namespaces of a user namespace",
                std::io::Error::from_raw_os_error(i32::from_ne_bytes(errno)),
            )),
            _ => Err(failed(Errno::PIPE)),
        }
    }
}

/// Forks a [`Holder`] that will unshare `flags`. Callable from a process with many threads: the child makes
/// system calls only, and ends when the caller's end of the control socket is closed.
pub(crate) fn hold_user_namespace(flags: i32) -> Result<Holder> {
    let (control, child) = crate::socket::pair()?;
    match fork(&Fork {
        namespaces: &[Kind::User],
        ..Fork::default()
    })? {
        Forked::Parent { pid, pidfd } => Ok(Holder { pid, pidfd, control }),
        Forked::Child => hold(child.as_raw_fd(), control.as_raw_fd(), flags),
    }
}

fn hold(fd: i32, others_end: i32, flags: i32) -> ! {
    let mut byte = 0_u8;
    // SAFETY: system calls on memory of this function; the process ends here.
    unsafe {
        // Else the end of file never comes.
        libc::close(others_end);
        if libc::read(fd, (&raw mut byte).cast(), 1) == 1 {
            let errno = if libc::unshare(flags) == 0 {
                0
            } else {
                *libc::__errno_location()
            };
            libc::write(fd, (&raw const errno).cast(), 4);
            libc::read(fd, (&raw mut byte).cast(), 1);
        }
        libc::_exit(0)
    }
}

/// Ends the calling process without running anything of the C library.
pub fn exit(code: i32) -> ! {
    // SAFETY: no memory is involved.
    unsafe { libc::_exit(code) }
}

/// The start of a process in clock ticks since boot: with the pid it names a process for good on this boot.
/// None when there is no such process.
#[must_use]
pub fn start_time(pid: i32) -> Option<u64> {
    let stat = procfs::read(&format!("{pid}/stat"), STAT_BYTES_MAX).ok()?;
    // The name may hold anything; the last parenthesis ends it. Field 22, proc_pid_stat(5).
    stat.rsplit_once(')')?
        .1
        .split_ascii_whitespace()
        .nth(19)?
        .parse()
        .ok()
}

/// Waits for the end of a child and takes it off the process table.
///
/// # Errors
/// ECHILD: not a child of the caller, or reaped already.
pub fn reap(pidfd: impl AsFd) -> Result<Ended> {
    let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
    let fd = pidfd.as_fd().as_raw_fd().unsigned_abs();
    loop {
        // SAFETY: the structure lives through the call.
        if unsafe { libc::waitid(libc::P_PIDFD, fd, info.as_mut_ptr(), libc::WEXITED) } == 0 {
            break;
        }
        let error = Error::last("waitid", "pidfd");
        if !error.is(libc::EINTR) {
            return Err(error);
        }
    }
    // SAFETY: zero-initialised, and filled by the kernel.
    let info = unsafe { info.assume_init() };
    // SAFETY: a SIGCHLD siginfo carries a status.
    let status = unsafe { info.si_status() };
    Ok(if info.si_code == libc::CLD_EXITED {
        Ended::Exited(status)
    } else {
        Ended::Killed(status)
    })
}

/// Becomes the leader of a session and process group of its own, without a terminal.
///
/// # Errors
/// EPERM: it is one already.
pub fn setsid() -> Result<()> {
    rustix::process::setsid()
        .map(drop)
        .map_err(|e| Error::new("setsid", "", e))
}

/// Dies with SIGKILL when the parent does. A change of ids takes this away (PR_SET_PDEATHSIG(2const)).
///
/// # Errors
/// None that is known.
pub fn die_with_parent() -> Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .map_err(|e| Error::new("prctl", "PR_SET_PDEATHSIG", e))
}

/// Forbids other processes to trace this one or to look into its /proc entries, until it executes something
/// (CVE-2016-9962, CVE-2019-5736).
///
/// # Errors
/// None that is known.
pub fn forbid_tracing() -> Result<()> {
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .map_err(|e| Error::new("prctl", "PR_SET_DUMPABLE", e))
}

/// Gives the process a session keyring of its own, named: it would share the host's otherwise (keyrings(7)).
/// A kernel without keyrings is fine.
///
/// # Errors
/// EDQUOT: too many keys.
pub fn join_session_keyring(name: &str) -> Result<()> {
    const JOIN_SESSION_KEYRING: libc::c_long = 1;
    let name = CString::new(name).map_err(|_| Error::new("keyctl", "name with a zero byte", Errno::INVAL))?;
    // SAFETY: the name lives through the call.
    let serial = unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, name.as_ptr()) };
    if serial >= 0 || std::io::Error::last_os_error().raw_os_error() == Some(libc::ENOSYS) {
        Ok(())
    } else {
        Err(Error::last("keyctl", "JOIN_SESSION_KEYRING"))
    }
}

/// Puts copies of `streams` at 0, 1 and 2.
///
/// # Errors
/// The kernel's.
pub fn set_stdio(streams: [BorrowedFd<'_>; 3]) -> Result<()> {
    // Copies above 2 first, so that none is overwritten before its turn.
    let mut copies = Vec::with_capacity(3);
    for stream in streams {
        copies
            .push(rustix::io::fcntl_dupfd_cloexec(stream, 3).map_err(|e| Error::new("fcntl", "F_DUPFD", e))?);
    }
    for (number, copy) in (0..).zip(&copies) {
        // SAFETY: both are open descriptor numbers or to be replaced; the standard streams have no owner in Rust.
        if unsafe { libc::dup2(copy.as_raw_fd(), number) } < 0 {
            return Err(Error::last("dup2", number.to_string()));
        }
    }
    Ok(())
}

/// Closes every descriptor above 2 but those in `kept`. For a fresh child that lets go of what it inherited;
/// every owner of a closed descriptor must be forgotten, not dropped (the child ends by execve or [`exit`]).
///
/// # Errors
/// The kernel's.
pub fn close_all_but(kept: &[BorrowedFd<'_>]) -> Result<()> {
    let mut kept: Vec<_> = kept
        .iter()
        .map(|fd| fd.as_raw_fd().unsigned_abs())
        .filter(|n| *n > 2)
        .collect();
    kept.sort_unstable();
    let mut first = 3;
    for last in kept.iter().copied().chain([u32::MAX]) {
        let end = if last == u32::MAX {
            last
        } else {
            last.saturating_sub(1)
        };
        if first <= end {
            // SAFETY: the caller gives up all owners.
            if unsafe { libc::syscall(libc::SYS_close_range, first, end, 0) } != 0 {
                return Err(Error::last("close_range", format!("{first} to {end}")));
            }
        }
        first = last.saturating_add(1);
    }
    Ok(())
}

/// Changes the working directory to what `fd` names.
///
/// # Errors
/// EACCES: no search permission.
pub fn set_directory(fd: impl AsFd) -> Result<()> {
    rustix::process::fchdir(fd).map_err(|e| Error::new("fchdir", "descriptor", e))
}

/// Changes the working directory.
///
/// # Errors
/// The kernel's.
pub fn change_directory(path: &Path) -> Result<()> {
    rustix::process::chdir(path).map_err(|e| Error::new("chdir", path.display().to_string(), e))
}

/// Whether the working directory is within the root directory; else getcwd(2) says "(unreachable)"
/// (CVE-2024-21626).
///
/// # Errors
/// ENOENT: it was deleted.
pub fn directory_is_reachable() -> Result<bool> {
    let path = rustix::process::getcwd(Vec::new()).map_err(|e| Error::new("getcwd", "", e))?;
    Ok(path.as_bytes().starts_with(b"/"))
}

/// Sets the file mode creation mask.
pub fn set_umask(mask: u32) {
    rustix::process::umask(rustix::fs::Mode::from_bits_truncate(mask));
}

/// Sets how soon the kernel ends a process when memory is short. Where lowering is refused (no
/// CAP_SYS_RESOURCE) the lowest allowed value is what it has, and it stays. Returns whether it was set.
///
/// # Errors
/// EINVAL: not within -1000 to 1000.
pub fn set_oom_score(pid: i32, score: i32) -> Result<bool> {
    match procfs::write(&format!("{pid}/oom_score_adj"), score.to_string().as_bytes()) {
        Ok(()) => Ok(true),
        Err(error) if error.is(libc::EACCES) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Argument or environment strings for execve(2).
#[derive(Debug)]
pub struct Strings {
    strings: Vec<CString>,
}

impl Strings {
    /// # Errors
    /// EINVAL: one holds a zero byte.
    pub fn new<S: Into<Vec<u8>>>(strings: impl IntoIterator<Item = S>) -> Result<Self> {
        let strings: std::result::Result<_, _> = strings.into_iter().map(CString::new).collect();
        strings
            .map(|strings| Self { strings })
            .map_err(|_| Error::new("execve", "string with a zero byte", Errno::INVAL))
    }

    /// The array that execve takes; valid as long as `self`.
    pub(crate) fn pointers(&self) -> Vec<*const c_char> {
        self.strings
            .iter()
            .map(|s| s.as_ptr())
            .chain([std::ptr::null()])
            .collect()
    }
}

/// Becomes another program. Returns only when it could not.
pub fn execute(program: &CStr, arguments: &Strings, environment: &Strings) -> Error {
    let (arguments, environment) = (arguments.pointers(), environment.pointers());
    // SAFETY: the arrays end with a null pointer, and they and the strings live through the call.
    unsafe { libc::execve(program.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    Error::last("execve", format!("{program:?}"))
}

/// Whether the calling user may execute `path`: a file, not a directory, with permission.
///
/// # Errors
/// ENOENT, EACCES and others.
pub fn check_executable(path: &CStr) -> Result<()> {
    use rustix::fs::{Access, AtFlags, CWD, FileType};
    let failed = |e| Error::new("stat", path.to_string_lossy(), e);
    let stat = rustix::fs::stat(path).map_err(failed)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(failed(Errno::ACCESS));
    }
    rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::empty()).map_err(failed)
}

/// Waits until `fd` is readable (or at its end), at most for `time`. False: the time is over.
///
/// # Errors
/// The kernel's.
pub fn wait_readable(fd: impl AsFd, time: std::time::Duration) -> Result<bool> {
    use rustix::event::{PollFd, PollFlags, Timespec};
    let end = std::time::Instant::now() + time;
    loop {
        let left = end.saturating_duration_since(std::time::Instant::now());
        let left = Timespec {
            tv_sec: left.as_secs().cast_signed(),
            tv_nsec: left.subsec_nanos().into(),
        };
        match rustix::event::poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&left)) {
            Err(Errno::INTR) => {}
            done => {
                return done
                    .map(|ready| ready > 0)
                    .map_err(|e| Error::new("poll", "descriptor", e));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_times_differ() {
        assert!(start_time(1).unwrap() < start_time(std::process::id().cast_signed()).unwrap());
        assert_eq!(start_time(i32::MAX), None);
    }
}
