//! One daemon, or one of its tasks, at the other end of a socket.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use criquet_proto::shim::{Failed, Reply, reply};
use criquet_sys::socket;
use prost::Message;

use crate::child::Failure;
use crate::limits::REPLIES_QUEUED_MAX;

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pending {
    /// Nothing: it may ask.
    Nothing,
    /// The container's exit.
    Wait,
    /// The exit of this process.
    Exec(i32),
    /// Nothing more: its exec has ended. A late signal for that must not reach anything else.
    Ended,
    /// The container's exit, with its output.
    Attach,
}

/// A connection and the replies that it has not taken yet.
#[derive(Debug)]
pub(super) struct Connection {
    fd: OwnedFd,
    /// Hello was said.
    pub(super) greeted: bool,
    /// The request under way.
    pub(super) pending: Pending,
    /// Whether epoll wakes when replies can be sent.
    pub(super) watched_for_write: bool,
    queue: VecDeque<(Vec<u8>, Option<OwnedFd>)>,
}

/// The peer is gone, or does not read.
#[derive(Debug)]
pub(super) struct Lost;

impl Connection {
    /// `fd` does not block.
    #[must_use]
    pub(super) fn new(fd: OwnedFd) -> Self {
        let queue = VecDeque::new();
        Self {
            fd,
            greeted: false,
            pending: Pending::Nothing,
            watched_for_write: false,
            queue,
        }
    }

    /// Whether replies wait.
    #[must_use]
    pub(super) fn is_behind(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Sends a reply, now or when the peer has room.
    ///
    /// # Errors
    /// [`Lost`].
    pub(super) fn reply(&mut self, kind: reply::Kind, fd: Option<OwnedFd>) -> Result<(), Lost> {
        if self.queue.len() >= REPLIES_QUEUED_MAX {
            return Err(Lost);
        }
        self.queue
            .push_back((Reply { kind: Some(kind) }.encode_to_vec(), fd));
        self.advance()
    }

    /// Sends what waits.
    ///
    /// # Errors
    /// [`Lost`].
    pub(super) fn advance(&mut self) -> Result<(), Lost> {
        while let Some((bytes, fd)) = self.queue.front() {
            let fds: Vec<_> = fd.iter().map(AsFd::as_fd).collect();
            match socket::send(&self.fd, bytes, &fds) {
                Ok(true) => {
                    self.queue.pop_front();
                }
                Ok(false) => return Ok(()),
                Err(_) => return Err(Lost),
            }
        }
        Ok(())
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A failure as a reply. Its text is cut to what a person reads.
#[must_use]
pub(crate) fn failed(failure: &Failure) -> reply::Kind {
    const MESSAGE_BYTES_MAX: usize = 4096;
    let mut end = failure.message.len().min(MESSAGE_BYTES_MAX);
    while !failure.message.is_char_boundary(end) {
        end -= 1;
    }
    reply::Kind::Failed(Failed {
        kind: failure.kind.into(),
        message: failure.message[..end].to_owned(),
    })
}
