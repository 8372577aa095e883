//! Channels in WebSocket messages: the first byte says which, the rest is data.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf as _, Bytes};

/// In v5: the next byte names a channel that the client closes.
const CLOSE_SIGNAL: u8 = 255;

/// What a message, or a part of one, means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// Bytes for a channel.
    Data(u8, Bytes),
    /// The client sends no more on a channel.
    Closed(u8),
}

/// Why a message is not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("close signal without exactly one channel")]
    Close,
    #[error("message is not base64")]
    Base64,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before the first byte.
    #[default]
    Start,
    Channel(u8),
    /// After a close signal.
    Closing(Option<u8>),
}

/// Follows the messages of one connection, in whatever parts they come.
#[derive(Debug)]
pub(crate) struct Channels {
    base64: bool,
    close_signal: bool,
    state: State,
    /// Base64 characters short of a group of four.
    carry: Vec<u8>,
}

impl Channels {
    pub(crate) fn new(base64: bool, close_signal: bool) -> Self {
        Self {
            base64,
            close_signal,
            state: State::Start,
            carry: Vec::new(),
        }
    }

    /// Takes a part of a message.
    pub(crate) fn push(
        &mut self,
        first: bool,
        mut bytes: Bytes,
        last: bool,
    ) -> Result<Option<Event>, Malformed> {
        if first {
            self.state = State::Start;
            self.carry.clear();
        }
        if self.state == State::Start && !bytes.is_empty() {
            let byte = bytes.get_u8();
            self.state = match byte {
                CLOSE_SIGNAL if self.close_signal => State::Closing(None),
                byte if self.base64 => State::Channel(byte.wrapping_sub(b'0')),
                byte => State::Channel(byte),
            };
        }
        match self.state {
            State::Start => Ok(None),
            State::Channel(channel) => {
                let bytes = if self.base64 {
                    self.decode(&bytes, last)?
                } else {
                    bytes
                };
                Ok((!bytes.is_empty()).then_some(Event::Data(channel, bytes)))
            }
            State::Closing(mut channel) => {
                for byte in bytes {
                    if channel.replace(byte).is_some() {
                        return Err(Malformed::Close);
                    }
                }
                self.state = State::Closing(channel);
                match channel {
                    _ if !last => Ok(None),
                    Some(channel) => Ok(Some(Event::Closed(channel))),
                    None => Err(Malformed::Close),
                }
            }
        }
    }

    fn decode(&mut self, bytes: &[u8], last: bool) -> Result<Bytes, Malformed> {
        let mut text = std::mem::take(&mut self.carry);
        text.extend_from_slice(bytes);
        if !last {
            self.carry = text.split_off(text.len() - text.len() % 4);
        }
        STANDARD
            .decode(&text)
            .map(Bytes::from)
            .map_err(|_| Malformed::Base64)
    }
}

#[cfg(test)]
#[path = "channels_tests.rs"]
mod tests;
