//! SPDY header blocks: bounded inflation of what comes, stored blocks for what goes.

use flate2::{Decompress, FlushDecompress, Status};

use super::dictionary::dictionary;

/// A client sends three headers of a few dozen bytes.
const HEADERS_MAX: usize = 32;
/// One block, inflated. A zlib bomb ends here, in a buffer that never grows.
const BLOCK_MAX: usize = 8 * 1024;

/// Names in lower case, with their values.
pub(crate) type Headers = Vec<(String, String)>;

/// Why a header block is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("spdy header block does not inflate")]
    Compression,
    #[error("spdy header block over {BLOCK_MAX} bytes")]
    TooLong,
    #[error("spdy header block with {0} headers, limit {HEADERS_MAX}")]
    TooMany(u32),
    #[error("spdy header block is malformed")]
    Malformed,
}

/// Inflates the blocks of one connection: they share one window.
pub(crate) struct Inflater {
    zlib: Decompress,
}

impl std::fmt::Debug for Inflater {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inflater").finish_non_exhaustive()
    }
}

impl Inflater {
    pub(crate) fn new() -> Self {
        Self {
            zlib: Decompress::new(true),
        }
    }

    /// The bytes of the next block.
    pub(crate) fn inflate(&mut self, mut block: &[u8]) -> Result<Vec<u8>, Refused> {
        let mut plain = vec![0; BLOCK_MAX + 1];
        let mut filled = 0;
        loop {
            let (read, written) = (self.zlib.total_in(), self.zlib.total_out());
            let result = self
                .zlib
                .decompress(block, &mut plain[filled..], FlushDecompress::Sync);
            let read = usize::try_from(self.zlib.total_in() - read).map_err(|_| Refused::Compression)?;
            let written =
                usize::try_from(self.zlib.total_out() - written).map_err(|_| Refused::Compression)?;
            block = block.get(read..).ok_or(Refused::Compression)?;
            filled += written;
            match result {
                Ok(Status::StreamEnd) => return Err(Refused::Compression),
                Ok(_) => {}
                // The first block begins with the sum of the dictionary that it wants.
                Err(error) if error.needs_dictionary().is_some() => {
                    self.zlib
                        .set_dictionary(&dictionary())
                        .map_err(|_| Refused::Compression)?;
                    continue;
                }
                Err(_) => return Err(Refused::Compression),
            }
            if filled > BLOCK_MAX {
                return Err(Refused::TooLong);
            }
            if read == 0 && written == 0 {
                break;
            }
        }
        if !block.is_empty() {
            return Err(Refused::Compression);
        }
        plain.truncate(filled);
        Ok(plain)
    }
}

/// The headers in an inflated block.
pub(crate) fn parse(mut block: &[u8]) -> Result<Headers, Refused> {
    let count = number(&mut block)?;
    if usize::try_from(count).map_or(true, |count| count > HEADERS_MAX) {
        return Err(Refused::TooMany(count));
    }
    let mut headers = Vec::new();
    for _ in 0..count {
        let name = text(&mut block)?.to_ascii_lowercase();
        let value = text(&mut block)?;
        headers.push((name, value));
    }
    if block.is_empty() {
        Ok(headers)
    } else {
        Err(Refused::Malformed)
    }
}

/// The value of `name`, which is in lower case.
pub(crate) fn value<'a>(headers: &'a Headers, name: &str) -> Option<&'a str> {
    headers
        .iter()
        .find(|(have, _)| have == name)
        .map(|(_, value)| value.as_str())
}

fn number(block: &mut &[u8]) -> Result<u32, Refused> {
    let (number, rest) = block.split_first_chunk::<4>().ok_or(Refused::Malformed)?;
    *block = rest;
    Ok(u32::from_be_bytes(*number))
}

fn text(block: &mut &[u8]) -> Result<String, Refused> {
    let length = usize::try_from(number(block)?).map_err(|_| Refused::Malformed)?;
    let bytes = block.split_off(..length).ok_or(Refused::Malformed)?;
    String::from_utf8(bytes.to_vec()).map_err(|_| Refused::Malformed)
}

/// Writes the blocks of one connection without a compressor, which would cost 300 KiB: each is a stored deflate
/// block, and what is stored is always "no headers".
#[derive(Debug, Default)]
pub(crate) struct Storer {
    begun: bool,
}

impl Storer {
    /// The next block, of no headers.
    pub(crate) fn empty(&mut self) -> Vec<u8> {
        // zlib: deflate with a 32 KiB window, no dictionary; the check bits make it a multiple of 31.
        const ZLIB: [u8; 2] = [0x78, 0x01];
        // Stored, not the last; length 4 and its complement; a count of zero. Then an empty one: Go's inflater gives
        // out what it has only there, and otherwise runs into the end of the frame for good.
        const BLOCK: [u8; 14] = [0, 4, 0, 0xfb, 0xff, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];
        let mut block = if std::mem::replace(&mut self.begun, true) {
            Vec::new()
        } else {
            ZLIB.to_vec()
        };
        block.extend_from_slice(&BLOCK);
        block
    }
}

#[cfg(test)]
#[path = "header_tests.rs"]
mod tests;
