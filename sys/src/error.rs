//! The one error of this crate: which call, on what, and the kernel's answer.

use std::io;

/// What a system call was doing when the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("{call} {object}: {source}")]
pub struct Error {
    /// The call, e.g. `openat2`.
    pub call: &'static str,
    /// What it was called on, e.g. a quoted path.
    pub object: String,
    /// The kernel's answer.
    #[source]
    pub source: io::Error,
}

/// The result of a call in this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of `call` on `object`.
    pub fn new(call: &'static str, object: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self {
            call,
            object: object.into(),
            source: source.into(),
        }
    }

    /// The last error of the C library on this thread.
    pub fn last(call: &'static str, object: impl Into<String>) -> Self {
        Self::new(call, object, io::Error::last_os_error())
    }

    /// The kernel's error number, where it has one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }

    /// Whether the kernel said `errno` (`libc::ENOENT`, …).
    #[must_use]
    pub fn is(&self, errno: i32) -> bool {
        self.errno() == Some(errno)
    }
}
