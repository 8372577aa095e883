//! From clone to execve: a container's first process, in the order in which the kernel wants things.
//!
//! [`BIRTH`] makes the container around the process, [`BECOME`] turns the process into the user's program and is
//! also what an exec ends with. Read the two lists; each step is one function in a file of its own subject.

mod capability;
mod dev;
mod directory;
mod enter;
mod identity;
mod label;
mod mask;
mod mounts;
mod program;
pub(crate) mod report;
mod rootfs;
mod seccomp;
mod terminal;

use std::mem::ManuallyDrop;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use criquet_proto::shim::{Plan, Process, failed::Kind};
use criquet_sys::path::Root;
use criquet_sys::process;

use crate::child::{About as _, Failure, Place, Stdio, internal};
use crate::prepare::{Prepared, spaces::Spaces};
pub(crate) use enter::{guard, keyring, let_go};
pub(crate) use label::Label;
pub(crate) use terminal::announce;

/// What errors call it, and what it does.
type Step<T> = (&'static str, fn(&mut T) -> Result<(), Failure>);
type BirthStep = (&'static str, fn(&mut Init<'_>) -> Result<(), Failure>);
type BecomeStep = (&'static str, fn(&mut Candidate<'_>) -> Result<(), Failure>);

/// The container is made around its first process.
const BIRTH: &[BirthStep] = &[
    // As the host's root.
    ("inherited descriptors", enter::descriptors),
    ("cgroup", enter::cgroup),
    ("namespaces", enter::join),
    ("user namespace", enter::user),
    // As the container's root, which is the same without a user namespace.
    ("session", enter::session),
    ("new namespaces", enter::unshare),
    ("label", label::open),
    ("root", rootfs::attach),
    ("/dev", dev::attach),
    ("mounts", mounts::attach),
    ("/dev of the host", dev::complete_foreign),
    ("terminal", terminal::open),
    ("masked paths", mask::cover),
    ("read-only paths", mask::protect),
    ("working directory", directory::make),
    // From here on the host cannot be named any more.
    ("pivot", rootfs::pivot),
    ("root", rootfs::finish),
];

/// The process becomes the user's program.
const BECOME: &[BecomeStep] = &[
    ("stdio", terminal::streams),
    ("working directory", directory::enter),
    // Written before no_new_privs, which would forbid some transitions.
    ("label", label::apply),
    // Each takes away what the one before needed.
    ("bounding capabilities", capability::bound),
    ("identity", identity::take),
    ("capabilities", capability::apply),
    ("no_new_privs", seccomp::no_new_privs),
    ("umask", identity::umask),
    ("descriptors", program::descriptors),
    // The container is created; what follows is its start.
    ("release", program::wait),
    ("exec", program::find),
    ("signals", program::signals),
    // Last: nothing but capset and execve has to pass the filter.
    ("seccomp", seccomp::load),
    ("exec", program::execute),
];

/// What the shim hands over by fork.
#[derive(Debug)]
pub(crate) struct Birth<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) program: &'a Process,
    pub(crate) spaces: &'a Spaces<'a>,
    pub(crate) prepared: &'a Prepared,
    pub(crate) stdio: &'a Stdio,
    pub(crate) place: &'a Place,
    pub(crate) control: &'a OwnedFd,
}

/// A container's first process while the container is made.
struct Init<'a> {
    birth: Birth<'a>,
    /// What will be `/`.
    root: Root,
    /// The container's own devpts.
    devpts: Option<OwnedFd>,
    candidate: Candidate<'a>,
}

/// A process that will execute a user's program.
pub(crate) struct Candidate<'a> {
    pub(crate) program: &'a Process,
    pub(crate) stdio: &'a Stdio,
    pub(crate) control: &'a OwnedFd,
    pub(crate) terminal: Option<OwnedFd>,
    pub(crate) label: Option<Label>,
    /// CAP_SYS_ADMIN is kept until the filter is loaded.
    pub(crate) holds_admin: bool,
    /// What execve gets.
    pub(crate) path: Option<std::ffi::CString>,
}

impl<'a> Candidate<'a> {
    pub(crate) fn new(program: &'a Process, stdio: &'a Stdio, control: &'a OwnedFd) -> Self {
        Self {
            program,
            stdio,
            control,
            terminal: None,
            label: None,
            holds_admin: false,
            path: None,
        }
    }

    /// Goes through [`BECOME`]; returns only with a failure.
    pub(crate) fn become_program(&mut self) -> Result<(), Failure> {
        walk(BECOME, self)
    }
}

fn walk<T>(steps: &[Step<T>], state: &mut T) -> Result<(), Failure> {
    steps
        .iter()
        .try_for_each(|(name, step)| step(state).about(|| (*name).into()))
}

/// In the child: makes the container and executes its program.
pub(crate) fn run(birth: Birth<'_>) -> ! {
    let control = birth.control;
    conclude(control, || {
        let root = birth
            .prepared
            .rootfs
            .try_clone()
            .map_err(|e| internal(format!("root: {e}")))?;
        let candidate = Candidate::new(birth.program, birth.stdio, control);
        // Its descriptors are closed by number.
        let mut init = ManuallyDrop::new(Init {
            birth,
            root: root.into(),
            devpts: None,
            candidate,
        });
        walk(BIRTH, &mut *init)?;
        init.candidate.become_program()
    })
}

/// Ends the child by what `work` says, without returning into the shim's code of which it is a copy.
pub(crate) fn conclude(control: &OwnedFd, work: impl FnOnce() -> Result<(), Failure>) -> ! {
    // What shells say: 127 for a program that is not there, 126 for one that cannot be executed.
    const NOT_FOUND: i32 = 127;
    const NOT_EXECUTED: i32 = 126;
    let failure = match catch_unwind(AssertUnwindSafe(work)) {
        // Given up before release.
        Ok(Ok(())) => process::exit(0),
        Ok(Err(failure)) => failure,
        Err(_) => internal("init panicked"),
    };
    // The shim may be gone; there is nobody else to tell.
    drop(report::failed(control, &failure));
    process::exit(if failure.kind == Kind::NotFound {
        NOT_FOUND
    } else {
        NOT_EXECUTED
    })
}

impl Birth<'_> {
    /// All that the child goes on to use.
    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        let mut fds = self.prepared.fds();
        fds.extend(self.stdio.fds());
        fds.extend(self.place.fds());
        fds.push(self.control.as_fd());
        let spaces = self.spaces;
        fds.extend(
            [
                spaces.net.joined(),
                spaces.ipc.joined(),
                spaces.uts.joined(),
                spaces.user,
            ]
            .into_iter()
            .flatten(),
        );
        fds
    }
}
