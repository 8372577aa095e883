//! The open streams of one SPDY connection.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::header::Headers;
use crate::inbox::{self, Inbox};

/// A stream that the client opened.
#[derive(Debug)]
pub(crate) struct NewStream {
    pub(crate) id: u32,
    pub(crate) headers: Headers,
    /// Its bytes; ends at its end, or when it was reset.
    pub(crate) inbox: Inbox,
    /// Resolves with a value when the client reset the stream.
    pub(crate) reset: oneshot::Receiver<()>,
}

#[derive(Debug)]
struct Open {
    inbox: Option<mpsc::Sender<Bytes>>,
    reset: Option<oneshot::Sender<()>>,
    may_send: bool,
}

#[derive(Debug)]
struct Streams {
    open: HashMap<u32, Open>,
    max: usize,
    last: u32,
}

/// Shared by the reader and the senders of one connection.
#[derive(Debug, Clone)]
pub(crate) struct Table(Arc<Mutex<Streams>>);

impl Table {
    /// For at most `max` streams at once.
    pub(crate) fn new(max: usize) -> Self {
        Self(Arc::new(Mutex::new(Streams {
            open: HashMap::new(),
            max,
            last: 0,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Streams> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new stream; none when there are too many.
    pub(super) fn open(&self, stream: u32, headers: Headers) -> Option<NewStream> {
        let mut streams = self.lock();
        if streams.open.len() >= streams.max {
            return None;
        }
        let (inbox_in, inbox) = inbox::channel();
        let (reset_in, reset) = oneshot::channel();
        streams.last = stream;
        streams.open.insert(
            stream,
            Open {
                inbox: Some(inbox_in),
                reset: Some(reset_in),
                may_send: true,
            },
        );
        Some(NewStream {
            id: stream,
            headers,
            inbox,
            reset,
        })
    }

    /// Where the bytes of `stream` go; none when nobody wants them.
    pub(super) fn inbox(&self, stream: u32) -> Option<mpsc::Sender<Bytes>> {
        self.lock().open.get(&stream)?.inbox.clone()
    }

    pub(super) fn remote_finished(&self, stream: u32) {
        let mut streams = self.lock();
        if let Some(open) = streams.open.get_mut(&stream) {
            open.inbox = None;
            if !open.may_send {
                streams.open.remove(&stream);
            }
        }
    }

    pub(super) fn remote_reset(&self, stream: u32) {
        if let Some(reset) = self.lock().open.remove(&stream).and_then(|open| open.reset) {
            // Nobody waits for the reset of a stream whose user has left.
            let _gone = reset.send(());
        }
    }

    pub(crate) fn may_send(&self, stream: u32) -> bool {
        self.lock().open.get(&stream).is_some_and(|open| open.may_send)
    }

    /// Ends our direction; false when it was ended before.
    pub(crate) fn finish(&self, stream: u32) -> bool {
        let mut streams = self.lock();
        let Some(open) = streams.open.get_mut(&stream) else {
            return false;
        };
        let first = std::mem::replace(&mut open.may_send, false);
        if open.inbox.is_none() {
            streams.open.remove(&stream);
        }
        first
    }

    /// Ends both directions; false when they were ended before.
    pub(crate) fn reset(&self, stream: u32) -> bool {
        self.lock().open.remove(&stream).is_some()
    }

    /// The last stream that was accepted.
    pub(crate) fn last(&self) -> u32 {
        self.lock().last
    }
}
