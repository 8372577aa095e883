//! WebSocket frames (RFC 6455), as bytes and back. Nothing here does I/O.

use bytes::{Buf as _, Bytes, BytesMut};

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

const FIN: u8 = 0x80;
/// RFC 6455, section 5.5.
const CONTROL_MAX: usize = 125;

/// What a client sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Frame {
    /// A part of a message, however it was cut: `first` and `last` mark the message's ends.
    Data { first: bool, bytes: Bytes, last: bool },
    /// To be answered with the same bytes.
    Ping(Bytes),
    /// An answer that we did not ask for.
    Pong,
    /// The client leaves.
    Close,
}

/// Why a client is not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("websocket frame with reserved bits or type")]
    Reserved,
    #[error("websocket frame of a client without a mask")]
    Unmasked,
    #[error("websocket control frame is too long or in parts")]
    Control,
    #[error("websocket message out of order")]
    Order,
    #[error("websocket frame length is malformed")]
    Length,
}

#[derive(Debug)]
struct Payload {
    left: u64,
    mask: [u8; 4],
    /// The next byte begins a message.
    first: bool,
    /// This frame ends its message.
    fin: bool,
}

/// Cuts a byte stream into frames, of messages of any length.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    payload: Option<Payload>,
    in_message: bool,
}

struct Head {
    fin: bool,
    kind: u8,
    mask: [u8; 4],
    length: u64,
    size: usize,
}

impl Decoder {
    /// The next frame, or none when `buffer` does not hold enough of it. Never asks for more than a head and a
    /// control frame, 139 bytes.
    pub(crate) fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, Malformed> {
        if let Some(part) = self.part(buffer) {
            return Ok(Some(part));
        }
        if self.payload.is_some() {
            return Ok(None);
        }
        let Some(head) = head(buffer)? else {
            return Ok(None);
        };
        if head.kind >= CLOSE {
            return control(&head, buffer);
        }
        let first = match head.kind {
            CONTINUATION if self.in_message => false,
            TEXT | BINARY if !self.in_message => true,
            CONTINUATION | TEXT | BINARY => return Err(Malformed::Order),
            _ => return Err(Malformed::Reserved),
        };
        buffer.advance(head.size);
        self.in_message = !head.fin;
        if head.length == 0 {
            return Ok(Some(Frame::Data {
                first,
                bytes: Bytes::new(),
                last: head.fin,
            }));
        }
        self.payload = Some(Payload {
            left: head.length,
            mask: head.mask,
            first,
            fin: head.fin,
        });
        Ok(self.part(buffer))
    }

    /// In the middle of a message: an end of file here is a cut.
    pub(crate) fn is_inside(&self) -> bool {
        self.payload.is_some() || self.in_message
    }

    fn part(&mut self, buffer: &mut BytesMut) -> Option<Frame> {
        let payload = self.payload.as_mut()?;
        if buffer.is_empty() {
            return None;
        }
        let take = usize::try_from(payload.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let mut bytes = buffer.split_to(take);
        unmask(&mut bytes, payload.mask);
        payload.mask.rotate_left(take % 4);
        payload.left -= take as u64;
        let first = std::mem::replace(&mut payload.first, false);
        let last = payload.left == 0 && payload.fin;
        if payload.left == 0 {
            self.payload = None;
        }
        Some(Frame::Data {
            first,
            bytes: bytes.freeze(),
            last,
        })
    }
}

fn head(buffer: &[u8]) -> Result<Option<Head>, Malformed> {
    let [first, second, rest @ ..] = buffer else {
        return Ok(None);
    };
    if first & 0x70 != 0 {
        return Err(Malformed::Reserved);
    }
    if second & 0x80 == 0 {
        return Err(Malformed::Unmasked);
    }
    let (length, wide) = match second & 0x7f {
        126 => match rest.first_chunk::<2>() {
            Some(bytes) => (u64::from(u16::from_be_bytes(*bytes)), 2),
            None => return Ok(None),
        },
        127 => match rest.first_chunk::<8>() {
            Some(bytes) => (u64::from_be_bytes(*bytes), 8),
            None => return Ok(None),
        },
        short => (u64::from(short), 0),
    };
    if length >> 63 != 0 {
        return Err(Malformed::Length);
    }
    let Some(mask) = rest.get(wide..).and_then(<[u8]>::first_chunk::<4>) else {
        return Ok(None);
    };
    Ok(Some(Head {
        fin: first & FIN != 0,
        kind: first & 0x0f,
        mask: *mask,
        length,
        size: 2 + wide + 4,
    }))
}

fn control(head: &Head, buffer: &mut BytesMut) -> Result<Option<Frame>, Malformed> {
    let length = usize::try_from(head.length).map_err(|_| Malformed::Control)?;
    if !head.fin || length > CONTROL_MAX {
        return Err(Malformed::Control);
    }
    if buffer.len() < head.size + length {
        return Ok(None);
    }
    buffer.advance(head.size);
    let mut bytes = buffer.split_to(length);
    unmask(&mut bytes, head.mask);
    match head.kind {
        CLOSE => Ok(Some(Frame::Close)),
        PING => Ok(Some(Frame::Ping(bytes.freeze()))),
        PONG => Ok(Some(Frame::Pong)),
        _ => Err(Malformed::Reserved),
    }
}

fn unmask(bytes: &mut [u8], mask: [u8; 4]) {
    let (whole, rest) = bytes.as_chunks_mut::<4>();
    for word in whole {
        *word = (u32::from_ne_bytes(*word) ^ u32::from_ne_bytes(mask)).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask) {
        *byte ^= mask;
    }
}

/// A binary message of `parts`, one after the other.
pub(crate) fn binary(parts: &[&[u8]]) -> Vec<u8> {
    message(BINARY, parts)
}

/// A text message: the digit of `channel`, then `text`.
pub(crate) fn text(channel: u8, text: &str) -> Vec<u8> {
    message(TEXT, &[&[b'0'.wrapping_add(channel)], text.as_bytes()])
}

/// The answer to a ping. Unasked, it is a sign of life that wants no answer.
pub(crate) fn pong(bytes: &[u8]) -> Vec<u8> {
    message(PONG, &[bytes])
}

/// A close frame with a status of RFC 6455, section 7.4.1.
pub(crate) fn close(status: u16) -> Vec<u8> {
    message(CLOSE, &[&status.to_be_bytes()])
}

fn message(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut frame = Vec::with_capacity(10 + length);
    frame.push(FIN | kind);
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short), _) if short < 126 => frame.push(short),
        (_, Ok(medium)) => {
            frame.push(126);
            frame.extend_from_slice(&medium.to_be_bytes());
        }
        _ => {
            frame.push(127);
            frame.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    for part in parts {
        frame.extend_from_slice(part);
    }
    frame
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
