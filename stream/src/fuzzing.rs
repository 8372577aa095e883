//! What a client's bytes go through, for the fuzzers. Nothing here is for use.

use bytes::{Bytes, BytesMut};

use crate::resize::Sizes;
use crate::spdy::{frame, header};
use crate::websocket::channels::Channels;
use crate::websocket::frame as message;

/// A SPDY connection: the first byte says in which pieces it comes.
pub fn spdy(bytes: &[u8]) {
    let (mut decoder, mut inflater) = (frame::Decoder::default(), header::Inflater::new());
    let mut whole = 0;
    pieces(bytes, |buffer| {
        loop {
            let before = buffer.len();
            match decoder.next(buffer) {
                Ok(Some(frame::Frame::SynStream { block, .. } | frame::Frame::Headers { block })) => {
                    let Ok(plain) = inflater.inflate(&block) else {
                        return false;
                    };
                    drop(header::parse(&plain));
                }
                Ok(Some(frame::Frame::Data { bytes, .. })) => whole += bytes.len(),
                Ok(Some(_)) => assert!(buffer.len() < before, "a frame of no bytes"),
                Ok(None) => return buffer.len() <= frame::CONTROL_FRAME_MAX + 8,
                Err(_) => return false,
            }
        }
    });
    assert!(whole <= bytes.len());
    // A block by itself, as no frame would carry it.
    if let Ok(plain) = header::Inflater::new().inflate(bytes) {
        drop(header::parse(&plain));
    }
    drop(header::parse(bytes));
}

/// A WebSocket connection: its frames, the channels in them, the sizes of a terminal.
pub fn websocket(bytes: &[u8]) {
    let mode = bytes.first().copied().unwrap_or_default();
    let mut decoder = message::Decoder::default();
    let mut channels = Channels::new(mode & 64 != 0, mode & 128 != 0);
    pieces(bytes, |buffer| {
        loop {
            match decoder.next(buffer) {
                Ok(Some(message::Frame::Data { first, bytes, last })) => {
                    if channels.push(first, bytes, last).is_err() {
                        return false;
                    }
                }
                Ok(Some(message::Frame::Close)) | Err(_) => return false,
                Ok(Some(_)) => {}
                // A head and a control frame.
                Ok(None) => return buffer.len() <= 139,
            }
        }
    });
    let mut channels = Channels::new(mode & 64 != 0, mode & 128 != 0);
    drop(channels.push(true, Bytes::copy_from_slice(bytes), mode & 32 != 0));
    Sizes::default().push(bytes);
}

/// Feeds `bytes` in pieces whose size the first byte chooses, until `take` wants no more.
fn pieces(bytes: &[u8], mut take: impl FnMut(&mut BytesMut) -> bool) {
    let Some((size, bytes)) = bytes.split_first() else {
        return;
    };
    let mut buffer = BytesMut::new();
    for piece in bytes.chunks(usize::from(size % 32) * 37 + 1) {
        buffer.extend_from_slice(piece);
        if !take(&mut buffer) {
            return;
        }
    }
}
