//! Control groups: their directories, who is in them, device programs.

use std::os::fd::{AsFd, AsRawFd, FromRawFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, FsWord, Mode, OFlags};
use rustix::io::Errno;

use crate::{Error, Result};

/// `CGROUP_SUPER_MAGIC`, `CGROUP2_SUPER_MAGIC` (linux/magic.h).
const MAGICS: [FsWord; 2] = [0x0027_e0eb, 0x6367_7270];
/// Device programs that the daemon makes have about 7 instructions a rule.
const INSTRUCTIONS_MAX: usize = 4096;
/// The verifier's explanation of a refused program.
const LOG_BYTES_MAX: usize = 4096;

const PROG_LOAD: libc::c_long = 5;
const PROG_ATTACH: libc::c_long = 8;
const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const CGROUP_DEVICE: u32 = 6;
const ALLOW_MULTI: u32 = 2;

/// The directory of a cgroup, proven to be on a cgroup file system.
///
/// # Errors
/// EXDEV: it is not.
pub fn open(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let failed = |call| move |e| Error::new(call, path.display().to_string(), e);
    let dir = rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(failed("openat"))?;
    let magic = rustix::fs::fstatfs(&dir).map_err(failed("fstatfs"))?.f_type;
    if MAGICS.contains(&magic) {
        Ok(dir)
    } else {
        Err(failed("openat")(Errno::XDEV))
    }
}

/// Moves the calling process, which has one thread, into a v1 cgroup. By `tasks`: for a thread that moves itself the
/// kernel needs not stop every fork of the machine, which by `cgroup.procs` takes ten milliseconds and more.
///
/// # Errors
/// ENOSPC: a cpuset without cpus.
pub fn join_v1(dir: impl AsFd) -> Result<()> {
    write(dir, "tasks", b"0")
}

/// Writes to a file of the cgroup in one write(2).
///
/// # Errors
/// The kernel's.
pub fn write(dir: impl AsFd, name: &str, value: &[u8]) -> Result<()> {
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file =
        rustix::fs::openat(dir, name, flags, Mode::empty()).map_err(|e| Error::new("openat", name, e))?;
    match rustix::io::retry_on_intr(|| rustix::io::write(&file, value)) {
        Ok(n) if n == value.len() => Ok(()),
        Ok(_) => Err(Error::new("write", name, Errno::IO)),
        Err(e) => Err(Error::new(
            "write",
            format!("{name} {}", String::from_utf8_lossy(value)),
            e,
        )),
    }
}

/// `union bpf_attr` of BPF_PROG_LOAD, as far as it is used (bpf(2)).
#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
}

/// `union bpf_attr` of BPF_PROG_ATTACH.
#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

/// Lets a program decide which devices the processes of a v2 cgroup may use: `struct bpf_insn[]` of type
/// BPF_PROG_TYPE_CGROUP_DEVICE in native byte order. It lives as long as the cgroup; several must all agree.
///
/// # Errors
/// EACCES or EINVAL: the verifier refused it, and says why; EPERM: no CAP_BPF.
pub fn attach_device_program(dir: impl AsFd, instructions: &[u8]) -> Result<()> {
    let count = instructions.len() / 8;
    if instructions.is_empty() || !instructions.len().is_multiple_of(8) || count > INSTRUCTIONS_MAX {
        return Err(Error::new(
            "bpf",
            format!("device program of {} bytes", instructions.len()),
            Errno::INVAL,
        ));
    }
    let program = load(instructions, count)?;
    let attach = Attach {
        target: dir.as_fd().as_raw_fd().unsigned_abs(),
        program: program.as_raw_fd().unsigned_abs(),
        kind: CGROUP_DEVICE,
        flags: ALLOW_MULTI,
    };
    // SAFETY: the structure lives through the call.
    let done = unsafe { libc::syscall(libc::SYS_bpf, PROG_ATTACH, &raw const attach, size_of::<Attach>()) };
    if done == 0 {
        Ok(())
    } else {
        Err(Error::last("bpf", "attach of a device program"))
    }
}

fn load(instructions: &[u8], count: usize) -> Result<OwnedFd> {
    let mut log = vec![0_u8; LOG_BYTES_MAX];
    // The kernel reads instructions as 64-bit words.
    let words: Vec<u64> = instructions
        .as_chunks::<8>()
        .0
        .iter()
        .map(|w| u64::from_ne_bytes(*w))
        .collect();
    let mut args = Load {
        kind: PROG_TYPE_CGROUP_DEVICE,
        count: u32::try_from(count).unwrap_or(u32::MAX),
        instructions: words.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        ..Load::default()
    };
    for level in [0, 1] {
        if level == 1 {
            // Only a failed load pays for the explanation.
            (args.log_level, args.log_size, args.log) = (1, 4096, log.as_mut_ptr() as u64);
        }
        // SAFETY: the structure and all it points to live through the call.
        let fd = unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw const args, size_of::<Load>()) };
        if let Ok(fd @ 0..) = i32::try_from(fd) {
            // SAFETY: a new descriptor.
            return Ok(unsafe { OwnedFd::from_raw_fd(fd) });
        }
    }
    let error = std::io::Error::last_os_error();
    let text = String::from_utf8_lossy(&log);
    Err(Error::new(
        "bpf",
        format!("device program: {}", text.trim_end_matches('\0').trim()),
        error,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_program_is_verified() {
        // mov r0, 1; exit
        let good = [0xb7_u8, 0, 0, 0, 1, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];
        load(&good, 2).unwrap();
        let error = load(&good[..8], 1).unwrap_err();
        assert!(error.is(libc::EINVAL), "{error}");
    }

    #[test]
    fn other_folders_are_no_cgroups() {
        assert!(open(Path::new("/tmp")).unwrap_err().is(libc::EXDEV));
    }
}
