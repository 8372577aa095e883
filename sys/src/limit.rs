//! Limits of what a process may use: prlimit(2).

use crate::{Error, Result};

/// Sets a resource limit of this process and what it forks. A hard limit that may not be raised stays where it is, and
/// the soft one below it: a host without CAP_SYS_RESOURCE still runs. Numbers are the kernel's (RLIMIT_*, RLIM_INFINITY).
///
/// # Errors
/// EINVAL: no such resource, or soft above hard.
pub fn set(resource: u32, soft: u64, hard: u64) -> Result<()> {
    let failed = || Error::last("prlimit", format!("resource {resource} to {soft}:{hard}"));
    let wanted = libc::rlimit64 {
        rlim_cur: soft,
        rlim_max: hard,
    };
    let mut now = libc::rlimit64 {
        rlim_cur: 0,
        rlim_max: 0,
    };
    let call = |new: *const libc::rlimit64, old: *mut libc::rlimit64| {
        // SAFETY: both point to a structure that lives through the call, or are null.
        unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, new, old) == 0 }
    };
    if call(&raw const wanted, std::ptr::null_mut()) {
        return Ok(());
    }
    if std::io::Error::last_os_error().raw_os_error() != Some(libc::EPERM)
        || !call(std::ptr::null(), &raw mut now)
    {
        return Err(failed());
    }
    let hard = hard.min(now.rlim_max);
    let clamped = libc::rlimit64 {
        rlim_cur: soft.min(hard),
        rlim_max: hard,
    };
    if call(&raw const clamped, std::ptr::null_mut()) {
        Ok(())
    } else {
        Err(failed())
    }
}

/// The resource number of the limit of open files, as [`set`] takes it.
pub const OPEN_FILES: u32 = libc::RLIMIT_NOFILE;

/// How many files this process may have open, soft and hard; `u64::MAX`: no limit.
#[must_use]
pub fn open_files() -> (u64, u64) {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    (
        limit.current.unwrap_or(u64::MAX),
        limit.maximum.unwrap_or(u64::MAX),
    )
}

/// Raises this process's soft limit of open files to the hard one.
///
/// # Errors
/// The hard limit is above the kernel's own (`fs.nr_open`).
pub fn raise_open_files() -> Result<()> {
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit)
        .map_err(|error| Error::new("setrlimit", "open files", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_clamped() {
        set(libc::RLIMIT_CORE, 0, u64::MAX).unwrap();
        assert!(set(99, 0, 0).unwrap_err().is(libc::EINVAL));
    }
}
