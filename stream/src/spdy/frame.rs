//! SPDY/3.1 frames, as bytes and back. Nothing here does I/O.

use bytes::{Buf as _, Bytes, BytesMut};

/// A control frame of ours or of a client is under 200 bytes; four times a page is generous.
pub(crate) const CONTROL_FRAME_MAX: usize = 16 * 1024;

const HEAD: usize = 8;
const VERSION: u16 = 3;
const FLAG_FIN: u8 = 1;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

/// Why a stream is refused: not now, and no harm done.
pub(crate) const REFUSED_STREAM: u32 = 3;
/// Why a stream is reset: its sender wants no more.
pub(crate) const CANCEL: u32 = 5;
/// Why a stream is reset: it broke the rules.
pub(crate) const PROTOCOL_ERROR: u32 = 1;

/// What a peer sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Frame {
    /// A part of a data frame, however long that is. `fin` comes with the last part only.
    Data { stream: u32, bytes: Bytes, fin: bool },
    /// A new stream; `block` is compressed.
    SynStream { stream: u32, block: Bytes, fin: bool },
    /// More headers, of no use to us; they must still go through the inflater.
    Headers { block: Bytes },
    /// The stream is dead.
    Reset { stream: u32 },
    /// To be sent back as it is.
    Ping { id: u32 },
    /// The peer leaves.
    GoAway,
    /// Well-formed and without meaning here: SETTINGS, WINDOW_UPDATE, and types that the draft leaves open.
    Ignored,
}

/// Why a peer is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("spdy version {0}, want 3")]
    Version(u16),
    #[error("spdy control frame of {0} bytes, limit {CONTROL_FRAME_MAX}")]
    TooLong(usize),
    #[error("spdy frame of type {kind} is malformed")]
    Control { kind: u16 },
    #[error("spdy frame for stream 0")]
    StreamZero,
}

/// Cuts a byte stream into frames. Holds nothing but where in a data frame it is.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    data: Option<(u32, usize, bool)>,
}

impl Decoder {
    /// The next frame, or none when `buffer` does not hold it all yet. Never asks for more than
    /// [`CONTROL_FRAME_MAX`] bytes and a head at once.
    pub(crate) fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, Malformed> {
        if let Some(part) = self.data_part(buffer) {
            return Ok(Some(part));
        }
        if self.data.is_some() || buffer.len() < HEAD {
            return Ok(None);
        }
        let first = u32::from_be_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]);
        let flags = buffer[4];
        let length = usize::from(buffer[5]) << 16 | usize::from(buffer[6]) << 8 | usize::from(buffer[7]);
        if first >> 31 == 0 {
            if first == 0 {
                return Err(Malformed::StreamZero);
            }
            buffer.advance(HEAD);
            let fin = flags & FLAG_FIN != 0;
            self.data = Some((first, length, fin));
            if length == 0 {
                self.data = None;
                return Ok(Some(Frame::Data {
                    stream: first,
                    bytes: Bytes::new(),
                    fin,
                }));
            }
            return Ok(self.data_part(buffer));
        }
        let [hi, lo, kind_hi, kind_lo] = first.to_be_bytes();
        let version = u16::from_be_bytes([hi & 0x7f, lo]);
        if version != VERSION {
            return Err(Malformed::Version(version));
        }
        if length > CONTROL_FRAME_MAX {
            return Err(Malformed::TooLong(length));
        }
        if buffer.len() < HEAD + length {
            return Ok(None);
        }
        buffer.advance(HEAD);
        control(
            u16::from_be_bytes([kind_hi, kind_lo]),
            flags,
            buffer.split_to(length).freeze(),
        )
        .map(Some)
    }

    /// In the middle of a frame: an end of file here is a cut.
    pub(crate) fn is_inside(&self) -> bool {
        self.data.is_some()
    }

    fn data_part(&mut self, buffer: &mut BytesMut) -> Option<Frame> {
        let (stream, left, fin) = self.data?;
        if buffer.is_empty() {
            return None;
        }
        let bytes = buffer.split_to(left.min(buffer.len())).freeze();
        let left = left - bytes.len();
        self.data = (left > 0).then_some((stream, left, fin));
        Some(Frame::Data {
            stream,
            bytes,
            fin: fin && left == 0,
        })
    }
}

fn control(kind: u16, flags: u8, payload: Bytes) -> Result<Frame, Malformed> {
    let malformed = Malformed::Control { kind };
    let word = |at: usize| {
        let bytes = payload.get(at..at + 4)?;
        Some(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    };
    let stream = || match word(0).map(|word| word & 0x7fff_ffff) {
        None => Err(malformed.clone()),
        Some(0) => Err(Malformed::StreamZero),
        Some(stream) => Ok(stream),
    };
    let exact = |length: usize| {
        if payload.len() == length {
            Ok(())
        } else {
            Err(malformed.clone())
        }
    };
    match kind {
        SYN_STREAM => {
            let stream = stream()?;
            if payload.len() < 10 {
                return Err(malformed);
            }
            Ok(Frame::SynStream {
                stream,
                block: payload.slice(10..),
                fin: flags & FLAG_FIN != 0,
            })
        }
        SYN_REPLY | HEADERS => {
            stream()?;
            Ok(Frame::Headers {
                block: payload.slice(4..),
            })
        }
        RST_STREAM => {
            exact(8)?;
            Ok(Frame::Reset { stream: stream()? })
        }
        SETTINGS => {
            // The count is compared in 64 bits, and nothing is allocated for it (CVE-2026-35469).
            let count = u64::from(word(0).ok_or_else(|| malformed.clone())?);
            if count * 8 + 4 != payload.len() as u64 {
                return Err(malformed);
            }
            Ok(Frame::Ignored)
        }
        PING => {
            exact(4)?;
            Ok(Frame::Ping {
                id: word(0).ok_or(malformed)?,
            })
        }
        GOAWAY => exact(8).map(|()| Frame::GoAway),
        WINDOW_UPDATE => exact(8).map(|()| Frame::Ignored),
        _ => Ok(Frame::Ignored),
    }
}

/// A data frame. `bytes` is shorter than 16 MiB: callers send pieces of [`crate::outbox::PIECE`].
pub(crate) fn data(stream: u32, bytes: &[u8], fin: bool) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEAD + bytes.len());
    frame.extend_from_slice(&(stream & 0x7fff_ffff).to_be_bytes());
    frame.extend_from_slice(&sized(u8::from(fin), bytes.len()));
    frame.extend_from_slice(bytes);
    frame
}

/// The answer to a new stream, with `block` for headers.
pub(crate) fn syn_reply(stream: u32, block: &[u8]) -> Vec<u8> {
    control_frame(SYN_REPLY, &[&stream.to_be_bytes(), block])
}

/// The end of a stream, for `reason`.
pub(crate) fn reset(stream: u32, reason: u32) -> Vec<u8> {
    control_frame(RST_STREAM, &[&stream.to_be_bytes(), &reason.to_be_bytes()])
}

/// The answer to a ping.
pub(crate) fn ping(id: u32) -> Vec<u8> {
    control_frame(PING, &[&id.to_be_bytes()])
}

/// The end of the connection; `last` is the last stream that was accepted.
pub(crate) fn go_away(last: u32) -> Vec<u8> {
    control_frame(GOAWAY, &[&last.to_be_bytes(), &[0; 4]])
}

fn control_frame(kind: u16, parts: &[&[u8]]) -> Vec<u8> {
    let length = parts.iter().map(|part| part.len()).sum();
    let mut frame = Vec::with_capacity(HEAD + length);
    frame.extend_from_slice(&(0x8000 | VERSION).to_be_bytes());
    frame.extend_from_slice(&kind.to_be_bytes());
    frame.extend_from_slice(&sized(0, length));
    for part in parts {
        frame.extend_from_slice(part);
    }
    frame
}

fn sized(flags: u8, length: usize) -> [u8; 4] {
    debug_assert!(length < 1 << 24, "frame length fits in 24 bits");
    let [_, a, b, c] = u32::try_from(length).unwrap_or(0).to_be_bytes();
    [flags, a, b, c]
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
