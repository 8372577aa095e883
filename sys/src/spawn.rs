//! A program started from a memfd by a process with many threads.

use std::ffi::{c_char, c_int, c_void};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd};

use crate::process::Strings;
use crate::{Error, Result};

/// Bytes of stack for the child between clone and execve: it calls a handful of system calls.
const STACK_BYTES: usize = 64 * 1024;
/// Descriptor numbers of the child's arrangement are below this; the originals are moved above it first.
const TARGET_MAX: i32 = 64;

/// A started program.
#[derive(Debug)]
pub struct Spawned {
    /// As the caller's pid namespace numbers it.
    pub pid: i32,
    /// Names it for good; readable when it has ended.
    pub pidfd: OwnedFd,
}

struct Job {
    program: c_int,
    arguments: *const *const c_char,
    environment: *const *const c_char,
    /// (original, wanted number)
    fds: *const (c_int, c_int),
    fds_len: usize,
    error: c_int,
}

/// Runs the program in `memfd` with `arguments` (the first one is its name), an empty environment, in a session of
/// its own, with the signals' defaults. It has the descriptors `fds` at the given numbers (below 64) and no
/// others; 0, 1 and 2 are /dev/null unless given. The cgroup is the caller's. Blocks the calling thread until
/// execve has succeeded or failed; vfork(2) underneath, so that the caller's size does not matter.
///
/// # Errors
/// The kernel's, of the first call that failed in the child.
pub fn spawn_from_memfd(
    memfd: BorrowedFd<'_>,
    arguments: &[&str],
    fds: &[(BorrowedFd<'_>, i32)],
) -> Result<Spawned> {
    if fds.iter().any(|(_, number)| !(0..TARGET_MAX).contains(number)) {
        return Err(Error::new(
            "clone",
            "a descriptor number above 63",
            rustix::io::Errno::INVAL,
        ));
    }
    let null = std::fs::File::options().read(true).write(true).open("/dev/null");
    let null = OwnedFd::from(null.map_err(|e| Error::new("open", "/dev/null", e))?);
    let (strings, none) = (
        Strings::new(arguments.iter().map(|s| s.as_bytes().to_vec()))?,
        Strings::new::<Vec<u8>>([])?,
    );
    let (arguments, environment) = (strings.pointers(), none.pointers());
    let mut pairs: Vec<_> = fds.iter().map(|(fd, number)| (fd.as_raw_fd(), *number)).collect();
    pairs.extend(
        (0..3)
            .filter(|n| !fds.iter().any(|(_, number)| number == n))
            .map(|n| (null.as_raw_fd(), n)),
    );
    let mut job = Job {
        program: memfd.as_raw_fd(),
        arguments: arguments.as_ptr(),
        environment: environment.as_ptr(),
        fds: pairs.as_mut_ptr(),
        fds_len: pairs.len(),
        error: 0,
    };
    let (pid, pidfd) = vfork(&mut job)?;
    if job.error == 0 {
        return Ok(Spawned { pid, pidfd });
    }
    drop(crate::process::reap(&pidfd));
    Err(Error::new(
        "execveat",
        "memfd",
        std::io::Error::from_raw_os_error(job.error),
    ))
}

fn vfork(job: &mut Job) -> Result<(i32, OwnedFd)> {
    let mut stack = vec![0_u128; STACK_BYTES / size_of::<u128>()];
    let mut pidfd: c_int = -1;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
    let mut old = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    let mut all = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the sets are initialised by the calls before they are used. The child runs `child` on a stack of its
    // own while this thread is suspended (CLONE_VFORK), with every signal blocked so that no handler of ours runs
    // in the shared memory; stack, job and pidfd outlive it. It makes system calls only.
    let pid = unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), old.as_mut_ptr());
        let top = stack.as_mut_ptr().add(stack.len()).cast::<c_void>();
        let pid = libc::clone(child, top, flags, std::ptr::from_mut(job).cast(), &raw mut pidfd);
        let error = Error::last("clone", "shim");
        libc::pthread_sigmask(libc::SIG_SETMASK, old.as_ptr(), std::ptr::null_mut());
        if pid < 0 {
            return Err(error);
        }
        pid
    };
    // SAFETY: the kernel put a new descriptor there.
    Ok((pid, unsafe { OwnedFd::from_raw_fd(pidfd) }))
}

/// In the child. `job` is in the parent's memory.
extern "C" fn child(job: *mut c_void) -> c_int {
    // SAFETY: the parent is suspended and its memory is ours until execve or _exit; system calls only.
    unsafe {
        let job = &mut *job.cast::<Job>();
        if !arrange(job) || !defaults() {
            job.error = *libc::__errno_location();
            return 127;
        }
        libc::syscall(
            libc::SYS_execveat,
            job.program,
            c"".as_ptr(),
            job.arguments,
            job.environment,
            libc::AT_EMPTY_PATH,
        );
        job.error = *libc::__errno_location();
        127
    }
}

/// # Safety
/// As [`child`].
unsafe fn arrange(job: &mut Job) -> bool {
    const CLOEXEC: c_int = 4;
    // SAFETY: as said above; the pairs are the parent's, which does not use them any more.
    unsafe {
        // The parent's table is not shared (no CLONE_FILES): what happens here stays here.
        let pairs = std::slice::from_raw_parts_mut(job.fds.cast_mut(), job.fds_len);
        job.program = libc::fcntl(job.program, libc::F_DUPFD_CLOEXEC, TARGET_MAX);
        if job.program < 0 {
            return false;
        }
        for (original, _) in pairs.iter_mut() {
            *original = libc::fcntl(*original, libc::F_DUPFD_CLOEXEC, TARGET_MAX);
            if *original < 0 {
                return false;
            }
        }
        if libc::syscall(libc::SYS_close_range, 0, c_int::MAX, CLOEXEC) != 0 {
            return false;
        }
        pairs
            .iter()
            .all(|(original, number)| libc::dup2(*original, *number) >= 0)
    }
}

/// # Safety
/// As [`child`].
unsafe fn defaults() -> bool {
    // SAFETY: as said above. Without CLONE_SIGHAND the dispositions are the child's own.
    unsafe {
        for signal in 1..=64 {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut none = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut()) == 0
            && libc::setsid() >= 0
            && libc::chdir(c"/".as_ptr()) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pidfd::Ended;
    use std::io::Read as _;
    use std::os::fd::AsFd as _;

    fn shell() -> OwnedFd {
        crate::memfd::sealed_executable("shell", &std::fs::read("/bin/sh").unwrap()).unwrap()
    }

    #[test]
    fn runs_with_exactly_its_descriptors() {
        let pipe = crate::pipe::pipe().unwrap();
        let script = "set; echo 1 >&5; ls -l /proc/self/fd | wc -l >&5; ps -o sid= $$ >/dev/null 2>&1; pwd >&5; exit 7";
        let spawned =
            spawn_from_memfd(shell().as_fd(), &["sh", "-c", script], &[(pipe.write.as_fd(), 5)]).unwrap();
        drop(pipe.write);
        let mut text = String::new();
        std::fs::File::from(pipe.read).read_to_string(&mut text).unwrap();
        // 0, 1, 2, 5, the one of ls itself, and the line "total".
        assert_eq!(text, "1\n6\n/\n");
        assert_eq!(crate::process::reap(&spawned.pidfd).unwrap(), Ended::Exited(7));
    }

    #[test]
    fn a_bad_program_is_an_error() {
        let memfd = crate::memfd::sealed_executable("bad", b"not a program").unwrap();
        assert!(
            spawn_from_memfd(memfd.as_fd(), &["bad"], &[])
                .unwrap_err()
                .is(libc::ENOEXEC)
        );
    }
}
