//! The controlling terminal and the three streams.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use criquet_proto::shim::Process;
use criquet_sys::path::Root;
use criquet_sys::pty::{self, Pty};
use criquet_sys::{mount, pipe, process};

use super::{Candidate, Init, report};
use crate::child::Failure;

const CONSOLE: &str = "/dev/console";
const PTMX: &str = "/dev/pts/ptmx";
/// fchown(2): leave it as it is.
const SAME_GROUP: u32 = u32::MAX;

pub(super) fn open(init: &mut Init<'_>) -> Result<(), Failure> {
    if !init.birth.program.terminal {
        return Ok(());
    }
    let pty = match &init.devpts {
        Some(devpts) => pty::open(devpts.as_fd())?,
        None => pty::from_ptmx(init.root.open_exact(Path::new(PTMX))?)?,
    };
    if init.birth.prepared.dev.is_some() {
        mount::attach(
            mount::clone_fd(&pty.peer, false)?,
            init.root.resolve_exact(Path::new(CONSOLE))?,
        )?;
    }
    init.candidate.terminal = Some(hand_over(pty, init.birth.program, init.birth.control)?);
    Ok(())
}

/// For an exec: a terminal of the container's own devpts.
pub(crate) fn announce(candidate: &mut Candidate<'_>, root: &Root) -> Result<(), Failure> {
    if candidate.program.terminal {
        let pty = pty::from_ptmx(root.open_exact(Path::new(PTMX))?)?;
        candidate.terminal = Some(hand_over(pty, candidate.program, candidate.control)?);
    }
    Ok(())
}

fn hand_over(pty: Pty, program: &Process, control: &OwnedFd) -> Result<OwnedFd, Failure> {
    if program.width > 0 && program.height > 0 {
        pty::resize(&pty.master, program.width, program.height)?;
    }
    pipe::chown(&pty.peer, program.uid, SAME_GROUP)?;
    report::terminal(control, &pty.master)?;
    Ok(pty.peer)
}

pub(super) fn streams(candidate: &mut Candidate<'_>) -> Result<(), Failure> {
    match candidate.terminal.take() {
        Some(terminal) => {
            pty::take_control(&terminal)?;
            process::set_stdio([terminal.as_fd(); 3])?;
        }
        None => process::set_stdio(candidate.stdio.fds())?,
    }
    Ok(())
}
