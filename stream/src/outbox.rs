//! What a session sends: bytes become frames here, and wait for the writer in a short queue.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;

use crate::activity::Activity;
use crate::spdy::{self, Table};
use crate::websocket;

/// The most that goes into one frame, and is read from a process at once: the size of a pipe.
pub(crate) const PIECE: usize = 64 * 1024;

/// Frames that wait for the client, of up to [`PIECE`] bytes. A slow client holds this much and no more.
const FRAMES: usize = 4;

/// Answers that wait for the client: pings, replies, resets. Who lets more pile up does not read.
pub(crate) const ANSWERS: usize = 64;

/// The client is not there any more.
#[derive(Debug)]
pub(crate) struct Gone;

/// How bytes of a stream look on the wire.
#[derive(Debug, Clone)]
pub(crate) enum Encoding {
    /// Data frames of these streams.
    Spdy(Table),
    /// Binary messages with the channel in front.
    Binary,
    /// Text messages: a digit and base64.
    Base64,
    /// Binary messages as they are.
    Raw,
}

/// The sending end of a session.
#[derive(Debug, Clone)]
pub(crate) struct Outbox {
    encoding: Encoding,
    frames: mpsc::Sender<Vec<u8>>,
}

/// The frames that a writer takes.
#[derive(Debug)]
pub(crate) struct Queues {
    frames: mpsc::Receiver<Vec<u8>>,
    answers: mpsc::Receiver<Vec<u8>>,
}

/// Both ends of a session's queue, and the sender of answers.
pub(crate) fn queues(encoding: Encoding) -> (Outbox, mpsc::Sender<Vec<u8>>, Queues) {
    let (frames_in, frames) = mpsc::channel(FRAMES);
    let (answers_in, answers) = mpsc::channel(ANSWERS);
    (
        Outbox {
            encoding,
            frames: frames_in,
        },
        answers_in,
        Queues { frames, answers },
    )
}

impl Outbox {
    /// Sends `bytes`, at most [`PIECE`], on `stream`; waits while the client is slow.
    pub(crate) async fn data(&self, stream: u32, bytes: &[u8]) -> Result<(), Gone> {
        let channel = u8::try_from(stream).unwrap_or(u8::MAX);
        let frame = match &self.encoding {
            Encoding::Spdy(table) if !table.may_send(stream) => return Ok(()),
            Encoding::Spdy(_) => spdy::frame::data(stream, bytes, false),
            Encoding::Binary => websocket::frame::binary(&[&[channel], bytes]),
            Encoding::Base64 => websocket::frame::text(channel, &STANDARD.encode(bytes)),
            Encoding::Raw => websocket::frame::binary(&[bytes]),
        };
        self.send(frame).await
    }

    /// Says that nothing more comes on `stream`; once, however often it is called. The place in the queue comes first:
    /// a caller that is dropped while it waits has said nothing, and the next one says it.
    pub(crate) async fn finish(&self, stream: u32) -> Result<(), Gone> {
        let Encoding::Spdy(table) = &self.encoding else {
            // A WebSocket's channels end together, with the connection.
            return Ok(());
        };
        let place = self.frames.reserve().await.map_err(|_| Gone)?;
        if table.finish(stream) {
            place.send(spdy::frame::data(stream, &[], true));
        }
        Ok(())
    }

    /// Says that nothing more is read or written on `stream`.
    pub(crate) async fn reset(&self, stream: u32, reason: u32) -> Result<(), Gone> {
        let Encoding::Spdy(table) = &self.encoding else {
            return Ok(());
        };
        let place = self.frames.reserve().await.map_err(|_| Gone)?;
        if table.reset(stream) {
            place.send(spdy::frame::reset(stream, reason));
        }
        Ok(())
    }

    /// A stream can end in one direction.
    pub(crate) fn half_closes(&self) -> bool {
        matches!(self.encoding, Encoding::Spdy(_))
    }

    async fn send(&self, frame: Vec<u8>) -> Result<(), Gone> {
        self.frames.send(frame).await.map_err(|_| Gone)
    }
}

/// Writes what the queues hold until the last [`Outbox`] is dropped, then `farewell`, and closes the direction.
pub(crate) async fn write<W: AsyncWrite + Unpin>(
    mut to: W,
    mut queues: Queues,
    farewell: impl FnOnce() -> Vec<u8>,
    activity: &Activity,
) -> std::io::Result<()> {
    loop {
        let frame = tokio::select! {
            biased;
            Some(answer) = queues.answers.recv() => answer,
            frame = queues.frames.recv() => match frame {
                Some(frame) => frame,
                None => break,
            },
        };
        write_all(&mut to, &frame, activity).await?;
        if queues.frames.is_empty() && queues.answers.is_empty() {
            to.flush().await?;
        }
    }
    write_all(&mut to, &farewell(), activity).await?;
    to.flush().await?;
    to.shutdown().await
}

async fn write_all<W: AsyncWrite + Unpin>(
    to: &mut W,
    mut bytes: &[u8],
    activity: &Activity,
) -> std::io::Result<()> {
    while !bytes.is_empty() {
        let written = to.write(bytes).await?;
        if written == 0 {
            return Err(std::io::ErrorKind::WriteZero.into());
        }
        activity.touch();
        bytes = &bytes[written..];
    }
    Ok(())
}
