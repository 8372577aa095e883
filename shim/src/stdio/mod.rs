//! The container's streams: what its process gets, and the ends that the shim keeps.

use std::os::fd::OwnedFd;

use criquet_proto::shim::Plan;
use criquet_sys::pipe;

use crate::child::{Failure, Stdio};

pub mod input;
pub mod output;
pub mod sink;

/// Which of the two output streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Descriptor 1, and all that a terminal shows.
    Stdout,
    /// Descriptor 2.
    Stderr,
}

impl Stream {
    /// Both, in the order of [`Stream::index`].
    pub const ALL: [Self; 2] = [Self::Stdout, Self::Stderr];

    /// 0 or 1.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self == Self::Stderr)
    }

    /// As the log names it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// The shim's ends. With a terminal all is empty until [`Ends::of_terminal`].
#[derive(Debug, Default)]
pub struct Ends {
    /// Takes the container's input.
    pub stdin: Option<OwnedFd>,
    /// Gives its output, by [`Stream::index`].
    pub outputs: [Option<OwnedFd>; 2],
}

/// Makes the streams of a container.
///
/// # Errors
/// When the kernel is out of descriptors or memory.
pub fn of_container(plan: &Plan) -> Result<(Stdio, Ends), Failure> {
    let process = plan.process.clone().unwrap_or_default();
    if process.terminal {
        return Ok((null()?, Ends::default()));
    }
    let (uid, gid) = host_ids(plan, process.uid, process.gid);
    let mut ends = Ends::default();
    let stdin = if plan.stdin {
        let pipe = pipe::pipe()?;
        pipe::chown(&pipe.read, uid, gid)?;
        pipe::set_nonblocking(&pipe.write)?;
        ends.stdin = Some(pipe.write);
        pipe.read
    } else {
        pipe::null()?
    };
    let mut output = |stream: Stream| -> Result<OwnedFd, Failure> {
        let pipe = pipe::pipe()?;
        // /dev/stdout is reopened by its link in /proc, which asks for the pipe's own mode.
        pipe::chown(&pipe.write, uid, gid)?;
        pipe::set_nonblocking(&pipe.read)?;
        ends.outputs[stream.index()] = Some(pipe.read);
        Ok(pipe.write)
    };
    let (stdout, stderr) = (output(Stream::Stdout)?, output(Stream::Stderr)?);
    Ok((Stdio { stdin, stdout, stderr }, ends))
}

/// No streams at all.
///
/// # Errors
/// When the host has no /dev/null.
pub fn null() -> Result<Stdio, Failure> {
    Ok(Stdio { stdin: pipe::null()?, stdout: pipe::null()?, stderr: pipe::null()? })
}

impl Ends {
    /// The ends when there is a terminal: all three are its master.
    ///
    /// # Errors
    /// When the kernel is out of descriptors.
    pub fn of_terminal(master: OwnedFd, stdin: bool) -> Result<Self, Failure> {
        pipe::set_nonblocking(&master)?;
        let copy = |fd: &OwnedFd| {
            fd.try_clone().map_err(|e| Failure::from(criquet_sys::Error::new("dup", "terminal", e)))
        };
        let stdin = if stdin { Some(copy(&master)?) } else { None };
        Ok(Self { stdin, outputs: [Some(master), None] })
    }
}

/// Ids of the container as the host sees them.
fn host_ids(plan: &Plan, uid: u32, gid: u32) -> (u32, u32) {
    let Some(namespaces) = &plan.namespaces else { return (uid, gid) };
    let map = |maps: &[criquet_proto::shim::IdMap], id: u32| {
        let inside = |m: &&criquet_proto::shim::IdMap| id.checked_sub(m.container_id).is_some_and(|n| n < m.length);
        maps.iter().find(inside).map_or(id, |m| m.host_id.saturating_add(id - m.container_id))
    };
    (map(&namespaces.uid_maps, uid), map(&namespaces.gid_maps, gid))
}

#[cfg(test)]
mod tests {
    use super::*;
    use criquet_proto::shim::{IdMap, Namespaces};

    #[test]
    fn ids_are_mapped_to_the_host() {
        let map = |c, h, l| IdMap { container_id: c, host_id: h, length: l };
        let uid_maps = vec![map(0, 100_000, 1000), map(2000, 300_000, 1)];
        let namespaces = Namespaces { uid_maps, ..Default::default() };
        let plan = Plan { namespaces: Some(namespaces), ..Default::default() };
        assert_eq!(host_ids(&plan, 0, 7), (100_000, 7));
        assert_eq!(host_ids(&plan, 999, 0), (100_999, 0));
        assert_eq!(host_ids(&plan, 2000, 0), (300_000, 0));
    }
}
