//! SPDY/3.1, the server's side, as far as `moby/spdystream` clients speak it.
//!
//! Flow control: those clients neither send WINDOW_UPDATE nor act on it, and queue what they do not understand
//! behind their data. So neither do we send any, and TCP's window is the only one.

mod dictionary;
pub(crate) mod frame;
pub(crate) mod header;
mod streams;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::mpsc;

pub(crate) use streams::{NewStream, Table};

use crate::activity::Activity;
use crate::inbox::{self, read_size};
use frame::{Decoder, Frame};
use header::{Inflater, Storer};

/// Why the reading of a connection ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    #[error("read from client")]
    Read(#[from] std::io::Error),
    #[error("client left in the middle of a frame")]
    Cut,
    #[error(transparent)]
    Frame(#[from] frame::Malformed),
    #[error(transparent)]
    Header(#[from] header::Refused),
    #[error("stream id {0} is not a new one of a client")]
    StreamId(u32),
    #[error("data for stream {0}, which was never opened")]
    NeverOpened(u32),
    #[error("client does not read our answers")]
    Flood,
}

/// The receiving side of one connection.
#[derive(Debug)]
pub(crate) struct Reader {
    table: Table,
    opened: mpsc::Sender<NewStream>,
    answers: mpsc::Sender<Vec<u8>>,
    inflater: Inflater,
    storer: Storer,
    last: u32,
}

impl Reader {
    /// `opened` gets the new streams; when its other end is dropped, new streams are refused.
    pub(crate) fn new(table: Table, opened: mpsc::Sender<NewStream>, answers: mpsc::Sender<Vec<u8>>) -> Self {
        Self {
            table,
            opened,
            answers,
            inflater: Inflater::new(),
            storer: Storer::default(),
            last: 0,
        }
    }

    /// Reads until the client leaves.
    pub(crate) async fn run<R: AsyncRead + Unpin>(
        mut self,
        mut from: R,
        activity: &Activity,
    ) -> Result<(), Broken> {
        let mut decoder = Decoder::default();
        let mut buffer = BytesMut::new();
        let mut size = 0;
        loop {
            while let Some(frame) = decoder.next(&mut buffer)? {
                if let Frame::GoAway = frame {
                    return Ok(());
                }
                self.handle(frame).await?;
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

    async fn handle(&mut self, frame: Frame) -> Result<(), Broken> {
        match frame {
            Frame::Data { stream, .. } if stream > self.last => Err(Broken::NeverOpened(stream)),
            Frame::Data { stream, bytes, fin } => {
                if let Some(inbox) = self.table.inbox(stream)
                    && !bytes.is_empty()
                {
                    // A probe that says nothing, for a client that may have died while we do not read.
                    let probe = || frame::data(stream, &[], false);
                    inbox::deliver(&inbox, bytes, &self.answers, probe).await;
                }
                if fin {
                    self.table.remote_finished(stream);
                }
                Ok(())
            }
            Frame::SynStream { stream, block, fin } => self.open(stream, &block, fin).await,
            Frame::Headers { block } => Ok(self.inflater.inflate(&block).map(drop)?),
            Frame::Reset { stream } => {
                self.table.remote_reset(stream);
                Ok(())
            }
            // Even ids are ours, and we send none.
            Frame::Ping { id } if id % 2 == 1 => self.answer(frame::ping(id)),
            Frame::Ping { .. } | Frame::GoAway | Frame::Ignored => Ok(()),
        }
    }

    async fn open(&mut self, stream: u32, block: &[u8], fin: bool) -> Result<(), Broken> {
        // Inflate first, whatever becomes of the stream: the next block builds on this one.
        let headers = header::parse(&self.inflater.inflate(block)?)?;
        if stream.is_multiple_of(2) || stream <= self.last {
            return Err(Broken::StreamId(stream));
        }
        self.last = stream;
        let Some(new) = self.table.open(stream, headers) else {
            return self.answer(frame::reset(stream, frame::REFUSED_STREAM));
        };
        if fin {
            self.table.remote_finished(stream);
        }
        if self.opened.is_closed() {
            self.table.reset(stream);
            return self.answer(frame::reset(stream, frame::REFUSED_STREAM));
        }
        let block = self.storer.empty();
        self.answer(frame::syn_reply(stream, &block))?;
        // An error is a session that just ended: its streams end with it.
        drop(self.opened.send(new).await);
        Ok(())
    }

    fn answer(&self, frame: Vec<u8>) -> Result<(), Broken> {
        match self.answers.try_send(frame) {
            Err(mpsc::error::TrySendError::Full(_)) => Err(Broken::Flood),
            // A closed queue is a writer that finished: nobody waits for answers.
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
        }
    }
}
