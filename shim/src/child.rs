//! A container's process as its shim sees it: made, ready before execve, released.

use std::os::fd::{BorrowedFd, OwnedFd};

use criquet_proto::shim::{Plan, Process, failed::Kind};

/// Why a process could not be made or started, in the words of the protocol.
#[derive(Debug)]
pub struct Failure {
    /// What sort of failure.
    pub kind: Kind,
    /// What was being done, on what, and the kernel's answer.
    pub message: String,
}

impl From<criquet_sys::Error> for Failure {
    fn from(error: criquet_sys::Error) -> Self {
        Self { kind: Kind::Internal, message: error.to_string() }
    }
}

/// The child's ends of its three streams; ignored with a terminal.
#[derive(Debug)]
pub struct Stdio {
    /// Descriptor 0 of the child.
    pub stdin: OwnedFd,
    /// Descriptor 1.
    pub stdout: OwnedFd,
    /// Descriptor 2.
    pub stderr: OwnedFd,
}

/// A process that has done every step before execve and waits. A child of the caller: it sends SIGCHLD, and
/// its owner reaps it by `pidfd`, also after [`Child::release`] failed (it exits 127 or 126 then). Dropping
/// a `Child` that was not released ends the process.
#[derive(Debug)]
pub struct Child {
    /// As the host sees it.
    pub pid: i32,
    /// Names the process for good.
    pub pidfd: OwnedFd,
    /// The terminal's master, with a terminal.
    pub terminal: Option<OwnedFd>,
}

impl Child {
    /// Lets the process execve. Returns when execve succeeded, or with the failure that it reported.
    pub fn release(&mut self) -> Result<(), Failure> {
        Ok(())
    }
}

/// Makes the container's init by the plan; `fds` are those of Create, which the plan names by index. The
/// cgroups of the plan exist already; the process is placed there. Returns when it waits for release. After
/// a failure nothing is left.
pub fn create(plan: &Plan, fds: &[OwnedFd], stdio: Stdio) -> Result<Child, Failure> {
    let _ = (plan, fds, stdio);
    Err(Failure { kind: Kind::Internal, message: "not built yet".into() })
}

/// Makes one more process in the container whose init is `init` (a pidfd) / `init_pid`. Returns when it
/// waits for release.
pub fn exec(process: &Process, init: BorrowedFd<'_>, init_pid: i32, plan: &Plan, stdio: Stdio) -> Result<Child, Failure> {
    let _ = (process, init, init_pid, plan, stdio);
    Err(Failure { kind: Kind::Internal, message: "not built yet".into() })
}
