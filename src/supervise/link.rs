//! One connection to a shim: a message a packet, descriptors beside it, and a deadline on everything.

use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use criquet_proto::shim::{self, FDS_MAX, MESSAGE_BYTES_MAX, Reply, Request, failed, reply, request};
use criquet_sys::socket::{self, Packet};
use prost::Message;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::fault::{Fault, Kind, OrFault, Result};

/// A shim answers what needs no waiting within this, or counts as stuck: it does one thing at a time, and
/// none of these takes it a millisecond.
pub const CALL_DEADLINE: Duration = Duration::from_secs(10);

/// A connection. Dropping it ends no process.
#[derive(Debug)]
pub struct Link {
    socket: AsyncFd<OwnedFd>,
}

/// A reply and the descriptors that came with it.
pub type Answer = (reply::Kind, Vec<OwnedFd>);

impl Link {
    /// Takes a connected socket, as the daemon's end.
    ///
    /// # Errors
    /// The socket cannot be watched.
    pub fn new(socket: OwnedFd) -> Result<Self> {
        criquet_sys::pipe::set_nonblocking(&socket).or_internal(|| "preparing a shim's socket".into())?;
        let socket = watched(socket)?;
        Ok(Self { socket })
    }

    /// Connects to the shim of the container whose state is in `dir`, and greets it.
    ///
    /// # Errors
    /// `NotFound`: no shim listens there, it is gone for good. `DeadlineExceeded`: it does not answer in time.
    /// `Unavailable`: it closed the connection. None of these waits for a shim that is stuck.
    pub async fn connect(dir: &Path) -> Result<Self> {
        let path = dir.join(shim::SOCKET_NAME);
        let socket = socket::connect_at_once(&path).map_err(|error| {
            let kind = match error.source.kind() {
                ErrorKind::NotFound | ErrorKind::ConnectionRefused => Kind::NotFound,
                // As many as may wait there do so already.
                ErrorKind::WouldBlock => Kind::DeadlineExceeded,
                _ => Kind::Unavailable,
            };
            Fault::new(kind, format!("connecting to the shim at {path:?}: {error}"))
        })?;
        let link = Self::new(socket)?;
        link.greet().await?;
        Ok(link)
    }

    /// Says Hello.
    ///
    /// # Errors
    /// The shim is gone, or does not answer in time.
    pub async fn greet(&self) -> Result<()> {
        let hello = request::Kind::Hello(shim::Hello {
            version: shim::VERSION,
        });
        match self.call(hello, &[], CALL_DEADLINE).await? {
            (reply::Kind::Welcome(_), _) => Ok(()),
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// Sends a request.
    ///
    /// # Errors
    /// `Unavailable`: the shim is gone.
    pub async fn send(&self, request: request::Kind, fds: &[BorrowedFd<'_>]) -> Result<()> {
        self.send_bytes(&Request { kind: Some(request) }.encode_to_vec(), fds)
            .await
    }

    /// Sends an encoded message.
    ///
    /// # Errors
    /// `Unavailable`: the shim is gone.
    pub async fn send_bytes(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
        self.socket
            .async_io(Interest::WRITABLE, |socket| {
                match socket::send(socket.as_fd(), bytes, fds) {
                    Ok(true) => Ok(()),
                    Ok(false) => Err(ErrorKind::WouldBlock.into()),
                    Err(error) => Err(error.source),
                }
            })
            .await
            .or_fault(Kind::Unavailable, || "sending to a shim".into())
    }

    /// The next reply; `None` when the shim has closed the connection. A refusal is an `Ok` here.
    ///
    /// # Errors
    /// `Unavailable`: the connection broke. `Internal`: a message that cannot be decoded.
    pub async fn receive(&self) -> Result<Option<Answer>> {
        let packet = self
            .socket
            .async_io(Interest::READABLE, |socket| {
                let mut buffer = vec![0; MESSAGE_BYTES_MAX];
                match socket::receive(socket.as_fd(), &mut buffer, FDS_MAX) {
                    Ok(Packet::Data(length, fds)) => {
                        buffer.truncate(length);
                        Ok(Some((buffer, fds)))
                    }
                    Ok(Packet::Blocked) => Err(ErrorKind::WouldBlock.into()),
                    Ok(Packet::Closed) => Ok(None),
                    Err(error) => Err(error.source),
                }
            })
            .await
            .or_fault(Kind::Unavailable, || "receiving from a shim".into())?;
        let Some((bytes, fds)) = packet else {
            return Ok(None);
        };
        let reply = Reply::decode(bytes.as_slice()).or_internal(|| "decoding a shim's message".into())?;
        let kind = reply
            .kind
            .ok_or_else(|| Fault::internal("a shim sent an empty message"))?;
        Ok(Some((kind, fds)))
    }

    /// Sends a request and waits for its reply; a refusal is an error here.
    ///
    /// # Errors
    /// What the shim refused, with the kind that it gave; `Unavailable` when it is gone;
    /// `DeadlineExceeded` when it does not answer in time.
    pub async fn call(
        &self,
        request: request::Kind,
        fds: &[BorrowedFd<'_>],
        deadline: Duration,
    ) -> Result<Answer> {
        let exchange = async {
            self.send(request, fds).await?;
            self.receive().await
        };
        match tokio::time::timeout(deadline, exchange).await {
            Err(_) => Err(Fault::deadline_exceeded(format!(
                "a shim did not answer within {} s",
                deadline.as_secs()
            ))),
            Ok(Err(fault)) => Err(fault),
            Ok(Ok(None)) => Err(Fault::unavailable("a shim ended before it answered")),
            Ok(Ok(Some((reply::Kind::Failed(failed), _)))) => Err(refused(failed)),
            Ok(Ok(Some(answer))) => Ok(answer),
        }
    }

    /// [`Link::call`] for requests that are answered by Done.
    ///
    /// # Errors
    /// As [`Link::call`].
    pub async fn done(&self, request: request::Kind, fds: &[BorrowedFd<'_>]) -> Result<()> {
        match self.call(request, fds, CALL_DEADLINE).await? {
            (reply::Kind::Done(_), _) => Ok(()),
            (other, _) => Err(unexpected(&other)),
        }
    }
}

/// A descriptor in the event loop.
///
/// # Errors
/// It is of a kind that cannot be watched, or too many are.
#[expect(
    deprecated,
    reason = "what replaces it is unsafe for types that may change their descriptor; an OwnedFd does not"
)]
pub fn watched(fd: OwnedFd) -> Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(fd).or_internal(|| "watching a descriptor".into())
}

/// What a shim refused, as a fault.
#[must_use]
pub fn refused(failed: shim::Failed) -> Fault {
    let kind = match failed.kind() {
        failed::Kind::NotFound => Kind::NotFound,
        failed::Kind::Permission | failed::Kind::SafetyViolation => Kind::PermissionDenied,
        failed::Kind::State => Kind::FailedPrecondition,
        failed::Kind::Invalid => Kind::Invalid,
        failed::Kind::Internal => Kind::Internal,
    };
    Fault::new(kind, failed.message)
}

/// The shim said something that is no answer to the question.
#[must_use]
pub fn unexpected(reply: &reply::Kind) -> Fault {
    Fault::internal(format!("a shim gave an answer that does not fit: {reply:?}"))
}
