//! Every system call and every `unsafe` block of criquet.
//!
//! One function per call or per indivisible sequence of calls, safe defaults inside (close-on-exec,
//! no following of links), descriptors in and descriptors out. An error names the call and its object.
#![deny(unsafe_op_in_unsafe_fn)]
#![warn(missing_docs)]
// Here, and nowhere else.
#![allow(unsafe_code)]

mod error;
/// Error numbers for [`Error::is`], as errno(3) names them.
pub mod errno {
    pub use libc::{
        EACCES, EEXIST, EINVAL, EISDIR, ELOOP, ENOENT, ENOEXEC, ENOSYS, ENOTDIR, EPERM, ESRCH, EXDEV,
    };
}
pub use error::{Error, Result};
pub mod beneath;
pub mod capability;
pub mod cgroup;
pub mod device;
pub mod epoll;
pub mod fs;
pub mod heap;
pub mod host;
pub mod identity;
pub mod limit;
pub mod memfd;
pub mod mount;
pub mod namespace;
pub mod path;
pub mod pidfd;
pub mod pipe;
pub mod process;
pub mod procfs;
pub mod pty;
pub mod seccomp;
pub mod session;
pub mod signal;
pub mod socket;
mod spawn;
pub mod step;
