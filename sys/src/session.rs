//! What a process is to the rest of the machine: its session, its name, the descriptors it was given.

use crate::{Error, Result};

/// Leaves the terminal and the process group of whoever started us: setsid(2). Nothing happens when this process
/// leads its group already.
pub fn lead() {
    // Fails with EPERM for a group leader, whose group nobody else can have signalled by accident either.
    rustix::process::setsid().ok();
}

/// The name in `ps` and /proc/self/comm, at most 15 bytes.
///
/// # Errors
/// Never in practice.
pub fn set_name(name: &std::ffi::CStr) -> Result<()> {
    rustix::thread::set_name(name).map_err(|e| Error::new("prctl(PR_SET_NAME)", name.to_string_lossy(), e))
}

/// Closes every descriptor from `first` on: whatever leaked into this process. To be called before any of those
/// has an owner here.
///
/// # Errors
/// `ENOSYS` before Linux 5.9.
pub fn close_from(first: u32) -> Result<()> {
    // SAFETY: by the contract of this function, nobody owns one of them.
    if unsafe { libc::close_range(first, u32::MAX, 0) } < 0 {
        return Err(Error::last("close_range", format!("{first}-")));
    }
    Ok(())
}
