//! What a child says to its shim on the way to execve: one packet a report.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use criquet_proto::shim::failed::Kind;
use criquet_sys::process;
use criquet_sys::socket::{self, Packet};

use crate::child::{Failure, internal};

/// The one word that a shim says: go on.
pub(crate) const RELEASE: &[u8] = b"go";
/// A longer message is cut.
const MESSAGE_BYTES_MAX: usize = 4096;

const READY: u8 = b'R';
const TERMINAL: u8 = b'T';
const HEIR: u8 = b'H';
const FAILED: u8 = b'F';

/// A report, as it arrives.
#[derive(Debug)]
pub(crate) enum Report {
    /// Everything before execve is done.
    Ready,
    /// The terminal's master.
    Terminal(OwnedFd),
    /// The sender forked init, which has this pid, and ends.
    Heir(i32),
    /// It ends.
    Failed(Failure),
    /// Nobody is left who could report: execve closed the socket, or the process died.
    Ended,
}

impl Report {
    /// Waits for the next one.
    pub(crate) fn receive(control: &OwnedFd, deadline: Instant) -> Result<Self, Failure> {
        if !process::wait_readable(control, deadline.saturating_duration_since(Instant::now()))? {
            return Err(internal(
                "deadline exceeded while the container's process was made",
            ));
        }
        let mut buffer = [0; MESSAGE_BYTES_MAX + 5];
        match socket::receive(control, &mut buffer, 1)? {
            Packet::Data(length, fds) => Self::parse(buffer.get(..length).unwrap_or_default(), fds),
            _ => Ok(Self::Ended),
        }
    }

    fn parse(bytes: &[u8], mut fds: Vec<OwnedFd>) -> Result<Self, Failure> {
        let odd = || internal("an unknown report of init");
        let (tag, rest) = bytes.split_first().ok_or_else(odd)?;
        let number = rest.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes));
        match (*tag, number) {
            (READY, _) => Ok(Self::Ready),
            (TERMINAL, _) => fds.pop().map(Self::Terminal).ok_or_else(odd),
            (HEIR, Some(pid)) => Ok(Self::Heir(pid)),
            (FAILED, Some(kind)) => {
                let message = String::from_utf8_lossy(rest.get(4..).unwrap_or_default()).into_owned();
                Ok(Self::Failed(Failure {
                    kind: Kind::try_from(kind).unwrap_or(Kind::Internal),
                    message,
                }))
            }
            _ => Err(odd()),
        }
    }
}

pub(crate) fn ready(control: &OwnedFd) -> Result<(), Failure> {
    send(control, &[READY], &[])
}

pub(crate) fn terminal(control: &OwnedFd, master: &OwnedFd) -> Result<(), Failure> {
    send(control, &[TERMINAL], &[master.as_fd()])
}

pub(crate) fn heir(control: &OwnedFd, pid: i32) -> Result<(), Failure> {
    let [a, b, c, d] = pid.to_ne_bytes();
    send(control, &[HEIR, a, b, c, d], &[])
}

pub(crate) fn failed(control: &OwnedFd, failure: &Failure) -> Result<(), Failure> {
    let mut bytes = vec![FAILED];
    bytes.extend(i32::from(failure.kind).to_ne_bytes());
    bytes.extend(failure.message.bytes().take(MESSAGE_BYTES_MAX));
    send(control, &bytes, &[])
}

fn send(control: &OwnedFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Failure> {
    socket::send(control, bytes, fds)?;
    Ok(())
}

/// Waits for the shim's word. False: the shim is gone or gave the process up.
pub(crate) fn wait_for_release(control: &OwnedFd) -> Result<bool, Failure> {
    let mut buffer = [0; 8];
    match socket::receive(control, &mut buffer, 0)? {
        Packet::Data(length, _) => Ok(buffer.get(..length) == Some(RELEASE)),
        _ => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn reports_arrive_as_they_were_sent() {
        let (shim, child) = socket::pair().unwrap();
        let soon = || Instant::now() + Duration::from_secs(5);
        heir(&child, 42).unwrap();
        terminal(&child, &child).unwrap();
        ready(&child).unwrap();
        failed(
            &child,
            &Failure {
                kind: Kind::NotFound,
                message: "x".repeat(9000),
            },
        )
        .unwrap();
        assert!(matches!(Report::receive(&shim, soon()), Ok(Report::Heir(42))));
        assert!(matches!(Report::receive(&shim, soon()), Ok(Report::Terminal(_))));
        assert!(matches!(Report::receive(&shim, soon()), Ok(Report::Ready)));
        let Ok(Report::Failed(failure)) = Report::receive(&shim, soon()) else {
            panic!("no failure")
        };
        assert_eq!(
            (failure.kind, failure.message.len()),
            (Kind::NotFound, MESSAGE_BYTES_MAX)
        );
        assert!(Report::receive(&shim, Instant::now()).is_err());
        socket::send(&shim, RELEASE, &[]).unwrap();
        assert!(wait_for_release(&child).unwrap());
        drop(shim);
        assert!(!wait_for_release(&child).unwrap());
    }
}
