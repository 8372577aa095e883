//! The process that owns one container: its parent, its stdio and log, its exit status.
#![forbid(unsafe_code)]

use std::io::Write;
use std::process::ExitCode;

pub mod attach;
pub mod cgroup;
pub mod child;
pub mod exit;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod init;
mod join;
pub mod limits;
pub mod log;
pub mod oom;
pub mod pod;
mod prepare;
pub mod reap;
pub mod serve;
pub mod state;
pub mod stdio;

/// The shim as a program. `criquet-shim [NAME]` serves one container (NAME is for the reader of `ps`),
/// `criquet-shim pod` makes the first process of a shared pid namespace.
#[must_use]
pub fn run(mut arguments: impl Iterator<Item = String>) -> ExitCode {
    let role = arguments.nth(1).unwrap_or_default();
    let done = if role == "pod" { pod::run() } else { serve::run() };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            complain(&failure.message);
            ExitCode::FAILURE
        }
    }
}

/// Says something to whoever reads the daemon's journal. Nobody listening is fine.
pub(crate) fn complain(message: &str) {
    let line = format!("criquet-shim[{}]: {message}\n", std::process::id());
    if std::io::stderr().write_all(line.as_bytes()).is_err() {
        // There is no other place to say it.
    }
}
