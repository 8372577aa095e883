//! One client that has joined the container's stdio.

use std::os::fd::OwnedFd;
use std::time::Instant;

use crate::stdio::Stream;
use crate::stdio::sink::{Gone, Sink};

/// What the client gave: the read end of its input, the write ends for output. It joins at the current point:
/// nothing is replayed.
#[derive(Debug, Default)]
pub struct Attacher {
    /// Input for the container, until its end.
    pub stdin: Option<OwnedFd>,
    /// Whether epoll wakes for it.
    pub stdin_watched: bool,
    /// By [`Stream::index`].
    pub sinks: [Option<Sink>; 2],
}

impl Attacher {
    /// Hands output over; a reader that is gone gives its sink back, for epoll to forget.
    pub fn push(&mut self, stream: Stream, bytes: &[u8]) -> Option<Sink> {
        let place = &mut self.sinks[stream.index()];
        match place.as_mut()?.push(bytes) {
            Ok(()) => None,
            Err(Gone) => place.take(),
        }
    }

    /// Whether some of that stream waits for the reader.
    #[must_use]
    pub fn is_behind(&self, stream: Stream) -> bool {
        self.sinks[stream.index()].as_ref().is_some_and(Sink::is_behind)
    }

    /// When the first of its readers is given up.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.sinks.iter().flatten().filter_map(Sink::deadline).min()
    }
}
