//! WebSocket (RFC 6455), the server's side after the handshake.

pub(crate) mod channels;
pub(crate) mod frame;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;

use crate::activity::Activity;
use crate::inbox::{self, read_size};
use channels::{Channels, Event};
use frame::{Decoder, Frame};

/// Why the reading of a connection ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    #[error("read from client")]
    Read(#[from] std::io::Error),
    #[error("client left in the middle of a message")]
    Cut,
    #[error(transparent)]
    Frame(#[from] frame::Malformed),
    #[error(transparent)]
    Channel(#[from] channels::Malformed),
}

/// Where data goes.
trait Target {
    async fn take(&mut self, first: bool, bytes: Bytes, last: bool) -> Result<(), Broken>;
}

/// Reads messages for channels until the client leaves. A channel without a sender is ignored.
pub(crate) async fn read_channels<R: AsyncRead + Unpin>(
    from: R,
    channels: Channels,
    inboxes: Vec<Option<mpsc::Sender<Bytes>>>,
    answers: mpsc::Sender<Vec<u8>>,
    activity: &Activity,
) -> Result<(), Broken> {
    let target = Demux {
        channels,
        inboxes,
        answers: answers.clone(),
    };
    read(from, target, answers, activity).await
}

/// Reads messages that carry a byte stream for `to` until the client leaves.
pub(crate) async fn read_raw<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    from: R,
    to: W,
    answers: mpsc::Sender<Vec<u8>>,
    activity: &Activity,
) -> Result<(), Broken> {
    read(from, Raw(to), answers, activity).await
}

async fn read<R: AsyncRead + Unpin>(
    mut from: R,
    mut target: impl Target,
    answers: mpsc::Sender<Vec<u8>>,
    activity: &Activity,
) -> Result<(), Broken> {
    let mut decoder = Decoder::default();
    let mut buffer = BytesMut::new();
    let mut size = 0;
    loop {
        while let Some(frame) = decoder.next(&mut buffer)? {
            match frame {
                Frame::Data { first, bytes, last } => target.take(first, bytes, last).await?,
                // RFC 6455 lets us skip a ping when more wait for their answer.
                Frame::Ping(bytes) => drop(answers.try_send(frame::pong(&bytes))),
                Frame::Pong => {}
                Frame::Close => return Ok(()),
            }
        }
        size = read_size(size, &mut buffer);
        let read = from.read_buf(&mut buffer).await?;
        if read == 0 {
            let whole = buffer.is_empty() && !decoder.is_inside();
            return if whole { Ok(()) } else { Err(Broken::Cut) };
        }
        size = read.max(size / 2);
        activity.touch();
    }
}

struct Demux {
    channels: Channels,
    inboxes: Vec<Option<mpsc::Sender<Bytes>>>,
    answers: mpsc::Sender<Vec<u8>>,
}

impl Target for Demux {
    async fn take(&mut self, first: bool, bytes: Bytes, last: bool) -> Result<(), Broken> {
        match self.channels.push(first, bytes, last)? {
            Some(Event::Data(channel, bytes)) => {
                if let Some(Some(inbox)) = self.inboxes.get(usize::from(channel)) {
                    inbox::deliver(inbox, bytes, &self.answers, || frame::pong(&[])).await;
                }
            }
            Some(Event::Closed(channel)) => {
                if let Some(inbox) = self.inboxes.get_mut(usize::from(channel)) {
                    *inbox = None;
                }
            }
            None => {}
        }
        Ok(())
    }
}

struct Raw<W>(W);

impl<W: AsyncWrite + Unpin> Target for Raw<W> {
    async fn take(&mut self, _first: bool, bytes: Bytes, _last: bool) -> Result<(), Broken> {
        // Who does not want the bytes any more is about to end the session.
        drop(self.0.write_all(&bytes).await);
        Ok(())
    }
}
