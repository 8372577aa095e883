//! A container's process as its shim sees it: made, ready before execve, released.

use std::fmt::Display;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use criquet_proto::shim::{Cgroup, Plan, Process, failed::Kind};
use criquet_sys::process::{Fork, Forked};
use criquet_sys::{cgroup, device, errno, limit, namespace, pidfd, pipe, process, socket};

use crate::cgroup::UNIFIED;
use crate::init::{self, report::Report};
use crate::prepare::{
    self,
    spaces::{Ids, Spaces},
};
use crate::{complain, join};

/// From clone to the last step before execve. A healthy host needs milliseconds; a mount that hangs is given up
/// well before kubelet gives up the request (two minutes).
const READY_DEADLINE: Duration = Duration::from_secs(60);
/// From release to the end of execve, which reads the program, perhaps over a network.
const EXECVE_DEADLINE: Duration = Duration::from_secs(30);

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
        let kind = match error.errno() {
            Some(errno::ENOENT) => Kind::NotFound,
            Some(errno::EACCES | errno::EPERM) => Kind::Permission,
            // What openat2 says about a path that leads out of its root.
            Some(errno::ELOOP | errno::EXDEV) => Kind::SafetyViolation,
            // The process whose namespaces were to be joined has ended.
            Some(errno::ESRCH) => Kind::State,
            _ => Kind::Internal,
        };
        Self {
            kind,
            message: error.to_string(),
        }
    }
}

/// Says what a failed call was for.
pub(crate) trait About<T> {
    /// Puts `what` before the message.
    fn about(self, what: impl FnOnce() -> String) -> Result<T, Failure>;
}

impl<T, E: Into<Failure>> About<T> for Result<T, E> {
    fn about(self, what: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|error| {
            let Failure { kind, message } = error.into();
            Failure {
                kind,
                message: format!("{}: {message}", what()),
            }
        })
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

impl Stdio {
    pub(crate) fn fds(&self) -> [BorrowedFd<'_>; 3] {
        [self.stdin.as_fd(), self.stdout.as_fd(), self.stderr.as_fd()]
    }

    /// Gives pipes and sockets to the program's user, who could not open /dev/stdout otherwise.
    fn give_to(&self, uid: u32, gid: u32) -> Result<(), Failure> {
        for fd in self.fds() {
            if device::is_stream(fd)? {
                pipe::chown(fd, uid, gid)?;
            }
        }
        Ok(())
    }
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
    /// Carries the release there and the outcome back; its end is execve's success.
    control: OwnedFd,
}

impl Child {
    /// Lets the process execve. Returns when execve succeeded, or with the failure that it reported. To be called
    /// once.
    ///
    /// # Errors
    /// NotFound and Permission concern the user's program. The process ends after every error.
    pub fn release(&mut self) -> Result<(), Failure> {
        let sent = socket::send(&self.control, init::report::RELEASE, &[]).map_err(Failure::from);
        match sent.and_then(|_| Report::receive(&self.control, Instant::now() + EXECVE_DEADLINE)) {
            Ok(Report::Ended) => Ok(()),
            // It exits by itself, with a code that says why.
            Ok(Report::Failed(failure)) => Err(failure),
            Ok(other) => {
                kill(&self.pidfd);
                Err(internal(format!(
                    "init said {other:?} when it was to execute its program"
                )))
            }
            Err(failure) => {
                kill(&self.pidfd);
                Err(failure)
            }
        }
    }
}

/// Makes the container's init by the plan; `fds` are those of Create, which the plan names by index. The
/// cgroups of the plan exist already; the process is placed there. Returns when it waits for release. After
/// a failure nothing is left.
///
/// # Errors
/// As [`Failure`] says; SafetyViolation when something in the image or a volume led out of the container.
pub fn create(plan: &Plan, fds: &[OwnedFd], stdio: Stdio) -> Result<Child, Failure> {
    let program = plan
        .process
        .as_ref()
        .ok_or_else(|| Failure::invalid("a plan without a process"))?;
    let spaces = Spaces::of(plan, fds)?;
    let prepared = prepare::prepare(plan, &spaces)?;
    let (uid, gid) = spaces.ids.host_owner(program.uid, program.gid);
    stdio.give_to(uid, gid)?;
    let place = Place::of(plan.cgroup.as_ref())?;
    let (control, theirs) = socket::pair()?;
    // A pid namespace that belongs to a user namespace is made from inside of that one.
    let new_pid = spaces.pid.is_new() && spaces.user.is_none();
    limit_self(program)?;
    let how = Fork {
        namespaces: if new_pid { &[namespace::Kind::Pid] } else { &[] },
        cgroup: place.birth(),
        sibling: false,
    };
    let forked = match spaces.pid.joined() {
        None => process::fork(&how)?,
        Some(pid) => fork_into(&how, || namespace::join(pid, namespace::Kind::Pid))?,
    };
    match forked {
        Forked::Child => init::run(init::Birth {
            plan,
            program,
            spaces: &spaces,
            prepared: &prepared,
            stdio: &stdio,
            place: &place,
            control: &theirs,
        }),
        Forked::Parent { pid, pidfd } => {
            drop((theirs, stdio));
            supervise(control, pid, pidfd, program)
        }
    }
}

/// Makes one more process in the container whose init is `init` (a pidfd) / `init_pid`. Returns when it
/// waits for release. After a failure nothing is left.
///
/// # Errors
/// As [`Failure`] says.
pub fn exec(
    program: &Process,
    init: BorrowedFd<'_>,
    init_pid: i32,
    plan: &Plan,
    stdio: Stdio,
) -> Result<Child, Failure> {
    let (uid, gid) = Ids::of(plan)?.host_owner(program.uid, program.gid);
    stdio.give_to(uid, gid)?;
    let place = Place::of(plan.cgroup.as_ref())?;
    let (control, theirs) = socket::pair()?;
    let how = Fork {
        cgroup: place.birth(),
        ..Fork::default()
    };
    let forked = fork_into(&how, || namespace::join_process(init, &[namespace::Kind::Pid]));
    match forked.about(|| format!("join the container of process {init_pid}"))? {
        Forked::Child => join::run(join::Guest {
            plan,
            program,
            init,
            stdio: &stdio,
            place: &place,
            control: &theirs,
        }),
        Forked::Parent { pid, pidfd } => {
            drop((theirs, stdio));
            supervise(control, pid, pidfd, program)
        }
    }
}

/// Forks a child into another pid namespace. The caller itself never changes its own, only that of its children.
fn fork_into(how: &Fork<'_>, join: impl FnOnce() -> criquet_sys::Result<()>) -> Result<Forked, Failure> {
    let home = namespace::current(namespace::Kind::Pid)?;
    join()?;
    let forked = process::fork(how);
    if !matches!(forked, Ok(Forked::Child)) {
        namespace::join(&home, namespace::Kind::Pid)?;
    }
    Ok(forked?)
}

/// Where the process belongs. It is born in the one cgroup of the v2 hierarchy, and goes into those of v1.
#[derive(Debug)]
pub(crate) struct Place {
    v2: Option<OwnedFd>,
    v1: Vec<OwnedFd>,
}

impl Place {
    fn of(cgroup: Option<&Cgroup>) -> Result<Self, Failure> {
        let mut place = Self {
            v2: None,
            v1: Vec::new(),
        };
        let Some(cgroup) = cgroup else { return Ok(place) };
        for dir in &cgroup.dirs {
            let fd = cgroup::open(Path::new(&dir.path)).about(|| "cgroup".into())?;
            if cgroup.v2 || dir.controllers == UNIFIED {
                place.v2 = Some(fd)
            } else {
                place.v1.push(fd)
            }
        }
        Ok(place)
    }

    fn birth(&self) -> Option<BorrowedFd<'_>> {
        self.v2.as_ref().map(AsFd::as_fd)
    }

    /// Moves the calling process where it could not be born.
    pub(crate) fn enter(&self) -> Result<(), Failure> {
        Ok(self.v1.iter().try_for_each(cgroup::join_v1)?)
    }

    pub(crate) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.v1.iter().map(AsFd::as_fd)
    }
}

/// Follows the child until it is ready, and does for it what needs the host's rights.
fn supervise(control: OwnedFd, pid: i32, pidfd: OwnedFd, program: &Process) -> Result<Child, Failure> {
    let mut child = Child {
        pid,
        pidfd,
        terminal: None,
        control,
    };
    let done = follow(&mut child).and_then(|()| adjust_oom_score(child.pid, program));
    match done {
        Ok(()) => Ok(child),
        Err(failure) => {
            kill(&child.pidfd);
            drop(process::reap(&child.pidfd));
            Err(failure)
        }
    }
}

fn follow(child: &mut Child) -> Result<(), Failure> {
    let deadline = Instant::now() + READY_DEADLINE;
    loop {
        match Report::receive(&child.control, deadline)? {
            Report::Ready => return Ok(()),
            Report::Terminal(master) => child.terminal = Some(master),
            // The one that we forked made init, as our child too, and is done.
            Report::Heir(pid) => {
                let first = std::mem::replace(&mut child.pidfd, pidfd::open(pid)?);
                child.pid = pid;
                drop(process::reap(first));
            }
            Report::Failed(failure) => return Err(failure),
            Report::Ended => return Err(internal("init ended before it was ready")),
        }
    }
}

/// The shim takes the container's limits, once: all that it forks, execs too, inherits them. A child may have no right to
/// set them in its user namespace, and the shim none to set another user's without CAP_SYS_RESOURCE (prlimit(2)).
fn limit_self(program: &Process) -> Result<(), Failure> {
    for wanted in &program.rlimits {
        limit::set(wanted.resource, wanted.soft, wanted.hard)?;
    }
    Ok(())
}

/// In a user namespace the child has no right to lower it.
fn adjust_oom_score(pid: i32, program: &Process) -> Result<(), Failure> {
    if program.has_oom_score_adj && !process::set_oom_score(pid, program.oom_score_adj)? {
        complain(&format!(
            "oom_score_adj {} is not allowed on this host and stays as it is",
            program.oom_score_adj
        ));
    }
    Ok(())
}

fn kill(pidfd: &OwnedFd) {
    // It may be gone already.
    drop(pidfd::signal(pidfd, SIGKILL));
}

const SIGKILL: i32 = 9;

pub(crate) fn internal(message: impl Display) -> Failure {
    Failure {
        kind: Kind::Internal,
        message: message.to_string(),
    }
}
