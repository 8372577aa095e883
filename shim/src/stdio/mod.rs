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
    if plan.process.as_ref().is_some_and(|process| process.terminal) {
        return Ok((null()?, Ends::default()));
    }
    let mut ends = Ends::default();
    let stdin = if plan.stdin {
        let pipe = pipe::pipe()?;
        pipe::set_nonblocking(&pipe.write)?;
        ends.stdin = Some(pipe.write);
        pipe.read
    } else {
        pipe::null()?
    };
    let mut output = |stream: Stream| -> Result<OwnedFd, Failure> {
        let pipe = pipe::pipe()?;
        pipe::set_nonblocking(&pipe.read)?;
        ends.outputs[stream.index()] = Some(pipe.read);
        Ok(pipe.write)
    };
    let (stdout, stderr) = (output(Stream::Stdout)?, output(Stream::Stderr)?);
    Ok((
        Stdio {
            stdin,
            stdout,
            stderr,
        },
        ends,
    ))
}

/// No streams at all.
///
/// # Errors
/// When the host has no /dev/null.
pub fn null() -> Result<Stdio, Failure> {
    Ok(Stdio {
        stdin: pipe::null()?,
        stdout: pipe::null()?,
        stderr: pipe::null()?,
    })
}

impl Ends {
    /// The ends when there is a terminal: all three are its master.
    ///
    /// # Errors
    /// When the kernel is out of descriptors.
    pub fn of_terminal(master: OwnedFd, stdin: bool) -> Result<Self, Failure> {
        pipe::set_nonblocking(&master)?;
        let copy = |fd: &OwnedFd| {
            fd.try_clone()
                .map_err(|e| Failure::from(criquet_sys::Error::new("dup", "terminal", e)))
        };
        let stdin = if stdin { Some(copy(&master)?) } else { None };
        Ok(Self {
            stdin,
            outputs: [Some(master), None],
        })
    }
}
