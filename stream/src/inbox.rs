//! What a client sent on one stream, on its way to whoever reads it.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;

/// Chunks that wait, of up to [`READ_MAX`] bytes. When they are there, the connection is read no further: a
/// process that does not read its stdin holds this much of our memory and the rest stays with the client.
const CHUNKS: usize = 8;

/// Reads from a client begin with this: a key press, a ping.
const READ_MIN: usize = 2 * 1024;
/// And grow to this for bulk.
const READ_MAX: usize = 64 * 1024;

/// While a stalled stream keeps us from reading, a client that died would not be noticed: every so often we send
/// it something, which a dead client's kernel answers with a reset; the next one then fails.
const PROBE_PERIOD: Duration = Duration::from_secs(2);

/// The receiving end.
pub(crate) type Inbox = mpsc::Receiver<Bytes>;

pub(crate) fn channel() -> (mpsc::Sender<Bytes>, Inbox) {
    mpsc::channel(CHUNKS)
}

/// Hands `bytes` over; waits while the inbox is full. What nobody wants any more is dropped.
pub(crate) async fn deliver(
    to: &mpsc::Sender<Bytes>,
    bytes: Bytes,
    answers: &mpsc::Sender<Vec<u8>>,
    probe: impl Fn() -> Vec<u8>,
) {
    let bytes = match to.try_send(bytes) {
        Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => return,
        Err(mpsc::error::TrySendError::Full(bytes)) => bytes,
    };
    loop {
        match tokio::time::timeout(PROBE_PERIOD, to.reserve()).await {
            Ok(Ok(room)) => return room.send(bytes),
            Ok(Err(_)) => return,
            // A full queue of answers is a probe already.
            Err(_) => drop(answers.try_send(probe())),
        }
    }
}

/// Makes room in `buffer` for the next read: twice what the last one got.
pub(crate) fn read_size(last: usize, buffer: &mut BytesMut) -> usize {
    let size = (last * 2).clamp(READ_MIN, READ_MAX);
    if buffer.capacity() - buffer.len() < size {
        buffer.reserve(size);
    }
    size
}
