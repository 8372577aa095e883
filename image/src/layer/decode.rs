//! Packed bytes to tar bytes, with both digests and the size checked as they pass.

use std::cell::Cell;
use std::io::{self, BufRead, Read};
use std::rc::Rc;

use bytes::{Buf, Bytes};
use flate2::bufread::MultiGzDecoder;

use super::tar::read_error;
use crate::digest::{Algorithm, Digest, Hasher};
use crate::limits::{UNPACKED_FLOOR, UNPACKED_RATIO_MAX, ZSTD_WINDOW_LOG_MAX};
use crate::{Error, ErrorKind, Result};

/// Packed bytes as they come, hashed and counted.
#[derive(Debug)]
pub(crate) struct Packed<F> {
    next: F,
    chunk: Bytes,
    algorithm: Algorithm,
    hasher: Hasher,
    size: u64,
    count: Rc<Cell<u64>>,
}

impl<F: FnMut() -> Result<Option<Bytes>>> Packed<F> {
    pub(crate) fn new(next: F, algorithm: Algorithm, size: u64) -> Self {
        let hasher = Hasher::new(algorithm);
        Self {
            next,
            chunk: Bytes::new(),
            algorithm,
            hasher,
            size,
            count: Rc::default(),
        }
    }

    /// Reads what the decoder left, and checks the size.
    fn finish(mut self) -> Result<Digest> {
        loop {
            let more = self.fill_buf().map_err(read_error)?.len();
            if more == 0 {
                break;
            }
            self.consume(more);
        }
        if self.count.get() != self.size {
            let message = format!("layer has {} bytes instead of {}", self.count.get(), self.size);
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        Ok(self.hasher.finish())
    }
}

impl<F: FnMut() -> Result<Option<Bytes>>> BufRead for Packed<F> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.chunk.is_empty() {
            let Some(chunk) = (self.next)().map_err(io::Error::other)? else {
                break;
            };
            self.hasher.update(&chunk);
            self.count.set(self.count.get() + chunk.len() as u64);
            if self.count.get() > self.size {
                let message = format!("layer has more than its {} bytes", self.size);
                return Err(io::Error::other(Error::new(ErrorKind::Corrupt, message)));
            }
            self.chunk = chunk;
        }
        Ok(&self.chunk)
    }

    fn consume(&mut self, amount: usize) {
        self.chunk.advance(amount);
    }
}

impl<F: FnMut() -> Result<Option<Bytes>>> Read for Packed<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

/// The tar bytes.
pub(super) struct Decoder<F> {
    format: Format<F>,
    /// None for plain layers: their bytes are hashed already.
    hasher: Option<Hasher>,
    packed: Rc<Cell<u64>>,
    unpacked: u64,
}

enum Format<F> {
    Plain(Packed<F>),
    Gzip(Box<MultiGzDecoder<Packed<F>>>),
    Zstd(zstd::Decoder<'static, Packed<F>>),
}

impl<F: FnMut() -> Result<Option<Bytes>>> Decoder<F> {
    /// Tells the format by the first bytes, as all runtimes do: media types of real images are wrong at times,
    /// and the digest of the tar bytes decides in the end.
    pub(super) fn new(mut packed: Packed<F>, diff_id: &Digest) -> Result<Self> {
        let count = packed.count.clone();
        let start = packed.fill_buf().map_err(read_error)?;
        let format = match start {
            [0x1f, 0x8b, ..] => Format::Gzip(Box::new(MultiGzDecoder::new(packed))),
            // A frame, or a skippable frame in front of one.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
                let mut decoder = zstd::Decoder::with_buffer(packed).map_err(read_error)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(read_error)?;
                Format::Zstd(decoder)
            }
            _ => Format::Plain(packed),
        };
        let hasher = match &format {
            Format::Plain(packed) if packed.algorithm == diff_id.algorithm() => None,
            _ => Some(diff_id.hasher()),
        };
        Ok(Self {
            format,
            hasher,
            packed: count,
            unpacked: 0,
        })
    }

    /// Reads all that is left, and gives the digests of the packed and of the tar bytes.
    pub(super) fn finish(mut self) -> Result<(Digest, Digest)> {
        io::copy(&mut self, &mut io::sink()).map_err(read_error)?;
        let packed = match self.format {
            Format::Plain(packed) => packed,
            Format::Gzip(decoder) => decoder.into_inner(),
            Format::Zstd(decoder) => decoder.finish(),
        };
        let packed = packed.finish()?;
        let tar = self.hasher.map_or_else(|| packed.clone(), Hasher::finish);
        Ok((packed, tar))
    }
}

impl<F: FnMut() -> Result<Option<Bytes>>> Read for Decoder<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = match &mut self.format {
            Format::Plain(packed) => packed.read(buffer),
            Format::Gzip(decoder) => decoder.read(buffer),
            Format::Zstd(decoder) => decoder.read(buffer).map_err(zstd_error),
        }?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buffer[..count]);
        }
        self.unpacked += count as u64;
        let max = UNPACKED_FLOOR.saturating_add(UNPACKED_RATIO_MAX.saturating_mul(self.packed.get()));
        if self.unpacked > max {
            let message = format!("layer unpacks to more than {UNPACKED_RATIO_MAX} times its size");
            return Err(io::Error::other(Error::new(ErrorKind::Corrupt, message)));
        }
        Ok(count)
    }
}

/// The library gives its own errors the kind `Other`, as if they were the disk's.
fn zstd_error(error: io::Error) -> io::Error {
    let foreign = error.get_ref().is_none_or(|inner| !inner.is::<Error>());
    if foreign && error.kind() == io::ErrorKind::Other {
        return io::Error::new(io::ErrorKind::InvalidData, error);
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame of 40 KiB that is more than a gigabyte of zeros: each block of 4 bytes stands for 128 KiB.
    #[test]
    fn bomb() {
        const BLOCK: u32 = 128 * 1024;
        let mut frame = b"\x28\xb5\x2f\xfd\x00\x58".to_vec();
        for _ in 0..10_000 {
            frame.extend_from_slice(&(BLOCK << 3 | 1 << 1).to_le_bytes()[..3]);
            frame.push(0);
        }
        let size = frame.len() as u64;
        let mut frame = Some(Bytes::from(frame));
        let packed = Packed::new(|| Ok(frame.take()), Algorithm::Sha256, size);
        let decoder = Decoder::new(packed, &Digest::of(b"")).unwrap();
        let error = decoder.finish().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains("times its size"), "{error}");
    }
}
