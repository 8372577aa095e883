//! One more process in a container that runs: exec.

use std::mem::ManuallyDrop;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use criquet_proto::shim::{Plan, Process};
use criquet_sys::namespace::{self, Kind};
use criquet_sys::path::Root;
use criquet_sys::{identity, process};

use crate::child::{About as _, Failure, Place, Stdio};
use crate::init::{self, Candidate, Label};
use crate::prepare::spaces::Ids;

/// What the shim hands over by fork.
#[derive(Debug)]
pub(crate) struct Guest<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) program: &'a Process,
    /// The container's init.
    pub(crate) init: BorrowedFd<'a>,
    pub(crate) stdio: &'a Stdio,
    pub(crate) place: &'a Place,
    pub(crate) control: &'a OwnedFd,
}

/// In the child, which is in the container's pid namespace already: goes into the others, and executes the program.
pub(crate) fn run(guest: Guest<'_>) -> ! {
    init::conclude(guest.control, || {
        // Its descriptors are closed by number.
        let mut candidate = ManuallyDrop::new(Candidate::new(guest.program, guest.stdio, guest.control));
        let mut kept = vec![guest.control.as_fd(), guest.init];
        kept.extend(guest.stdio.fds());
        kept.extend(guest.place.fds());
        // From here on processes of the container may see this one, but not into it.
        init::let_go(&kept)?;
        guest.place.enter().about(|| "cgroup".into())?;
        process::setsid()?;
        process::join_session_keyring(&init::keyring(&guest.plan.container_id))?;
        candidate.label = Label::open(guest.program).about(|| "label".into())?;
        let_go_of_the_host(&guest, &candidate)?;
        enter(&guest).about(|| "namespaces".into())?;
        init::announce(&mut candidate, &Root::open(Path::new("/"))?).about(|| "terminal".into())?;
        candidate.become_program()
    })
}

/// No folder of the host is open while processes of the container may look.
fn let_go_of_the_host(guest: &Guest<'_>, candidate: &Candidate<'_>) -> Result<(), Failure> {
    let mut kept = vec![guest.control.as_fd(), guest.init];
    kept.extend(guest.stdio.fds());
    kept.extend(candidate.label.iter().map(|label| label.file.as_fd()));
    Ok(process::close_all_but(&kept)?)
}

fn enter(guest: &Guest<'_>) -> Result<(), Failure> {
    let mut kinds = vec![Kind::Mount, Kind::Net, Kind::Ipc, Kind::Uts, Kind::Cgroup];
    let mapped = Ids::of(guest.plan)?.mapped;
    if mapped {
        kinds.push(Kind::User);
    }
    namespace::join_process(guest.init, &kinds)?;
    if mapped {
        identity::take(0, 0, &[])?;
        init::guard()?;
    }
    Ok(())
}
