//! The 512-byte header block.

use super::corrupt;
use crate::Result;

/// Everything in a tar archive is a multiple of it.
pub(super) const BLOCK: usize = 512;

/// One header block, with a checksum that fits.
pub(super) struct Header<'a>(&'a [u8; BLOCK]);

/// Whose extension of the first format it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// Before POSIX: no user names, no prefix.
    V7,
    Ustar,
    Gnu,
}

impl<'a> Header<'a> {
    /// Takes a block whose checksum is right; the sum of signed bytes, as old writers made it, counts as well.
    pub(super) fn parse(block: &'a [u8; BLOCK]) -> Result<Self> {
        let this = Self(block);
        let written = this.number(148..156, "checksum")?;
        let (mut unsigned, mut signed) = (0_i64, 0_i64);
        for (at, byte) in block.iter().enumerate() {
            let byte = if (148..156).contains(&at) { b' ' } else { *byte };
            unsigned += i64::from(byte);
            signed += i64::from(byte.cast_signed());
        }
        if written != unsigned && written != signed {
            return Err(corrupt("wrong header checksum"));
        }
        Ok(this)
    }

    pub(super) fn format(&self) -> Result<Format> {
        match &self.0[257..265] {
            b"ustar\x0000" => Ok(Format::Ustar),
            b"ustar  \0" => Ok(Format::Gnu),
            // Some writers leave the version out; the block is ustar all the same.
            magic if magic.starts_with(b"ustar\0") => Ok(Format::Ustar),
            magic if magic.starts_with(b"ustar") => Err(corrupt("unknown magic")),
            _ => Ok(Format::V7),
        }
    }

    pub(super) fn typeflag(&self) -> u8 {
        self.0[156]
    }

    /// The name, with the prefix of a ustar block.
    pub(super) fn name(&self) -> Result<Vec<u8>> {
        let name = text(&self.0[0..100]);
        let prefix = match self.format()? {
            Format::Ustar => text(&self.0[345..500]),
            Format::V7 | Format::Gnu => &[],
        };
        if prefix.is_empty() {
            return Ok(name.to_vec());
        }
        Ok([prefix, b"/", name].concat())
    }

    pub(super) fn link(&self) -> Vec<u8> {
        text(&self.0[157..257]).to_vec()
    }

    pub(super) fn mode(&self) -> Result<u32> {
        let mode = self.unsigned(100..108, "mode")?;
        // The type bits that some writers add are told by the type flag.
        Ok(u32::try_from(mode & 0o7777).unwrap_or_default())
    }

    pub(super) fn uid(&self) -> Result<u64> {
        self.unsigned(108..116, "uid")
    }

    pub(super) fn gid(&self) -> Result<u64> {
        self.unsigned(116..124, "gid")
    }

    pub(super) fn size(&self) -> Result<u64> {
        self.unsigned(124..136, "size")
    }

    pub(super) fn mtime(&self) -> Result<i64> {
        self.number(136..148, "mtime")
    }

    pub(super) fn device(&self) -> Result<(u32, u32)> {
        let part = |range, what| {
            let number = self.unsigned(range, what)?;
            u32::try_from(number).map_err(|_| corrupt(format_args!("{what} {number} out of range")))
        };
        Ok((part(329..337, "device major")?, part(337..345, "device minor")?))
    }

    fn unsigned(&self, range: std::ops::Range<usize>, what: &str) -> Result<u64> {
        let number = self.number(range, what)?;
        u64::try_from(number).map_err(|_| corrupt(format_args!("{what} {number} out of range")))
    }

    /// Octal digits between spaces and zeros, or GNU's base 256.
    fn number(&self, range: std::ops::Range<usize>, what: &str) -> Result<i64> {
        let field = &self.0[range];
        if field[0] & 0x80 != 0 {
            return base256(field).ok_or_else(|| corrupt(format_args!("{what} out of range")));
        }
        let digits = field.trim_ascii_start();
        let end = digits
            .iter()
            .position(|b| matches!(b, 0 | b' '))
            .unwrap_or(digits.len());
        let (digits, rest) = digits.split_at(end);
        if !rest.iter().all(|b| matches!(b, 0 | b' ')) || !digits.iter().all(|b| (b'0'..=b'7').contains(b)) {
            return Err(corrupt(format_args!("malformed {what}")));
        }
        Ok(digits
            .iter()
            .fold(0, |sum, digit| sum << 3 | i64::from(digit - b'0')))
    }
}

/// Two's complement, big endian, of which the first bit is only a mark.
fn base256(field: &[u8]) -> Option<i64> {
    let negative = field[0] & 0x40 != 0;
    let first = if negative { field[0] } else { field[0] & 0x7f };
    let mut number: i128 = if negative { -1 } else { 0 };
    for (at, byte) in field.iter().enumerate() {
        let byte = if at == 0 { first } else { *byte };
        number = number << 8 | i128::from(byte);
    }
    i64::try_from(number).ok()
}

/// Up to the first zero.
fn text(field: &[u8]) -> &[u8] {
    &field[..field.iter().position(|b| *b == 0).unwrap_or(field.len())]
}
