//! Entries one after the other.

use std::io::{self, Read, Seek, SeekFrom};

use super::header::{BLOCK, Header};
use super::pax::{self, Pax};
use super::{Entry, Kind, corrupt, shown};
use crate::limits::{TAR_ENTRIES_MAX, TAR_HEADER_MAX};
use crate::{Error, ErrorKind, Result};

/// Where an archive comes from; one that can seek skips data without reading it.
pub(crate) trait Source: Read {
    /// Moves on by `count` bytes.
    fn skip(&mut self, count: u64) -> io::Result<()> {
        let copied = io::copy(&mut self.take(count), &mut io::sink())?;
        if copied == count {
            Ok(())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }
}

impl Source for std::fs::File {
    fn skip(&mut self, count: u64) -> io::Result<()> {
        let to = self
            .stream_position()?
            .checked_add(count)
            .ok_or(io::ErrorKind::InvalidInput)?;
        if to > self.metadata()?.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.seek(SeekFrom::Start(to)).map(drop)
    }
}

impl Source for &[u8] {}

/// A tar archive that is being read. Reads as the data of the current entry.
#[derive(Debug)]
pub(crate) struct Archive<S> {
    source: S,
    /// Of the next unread byte.
    position: u64,
    /// Unread data of the current entry, and what fills its last block.
    data: u64,
    padding: u64,
    entries: u64,
    ended: bool,
}

/// The headers that came before the one that makes the entry.
#[derive(Default)]
struct Extensions {
    pax: Option<Pax>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

impl<S: Source> Archive<S> {
    pub(crate) fn new(source: S) -> Self {
        Self {
            source,
            position: 0,
            data: 0,
            padding: 0,
            entries: 0,
            ended: false,
        }
    }

    /// Where the data of the current entry starts, when nothing of it has been read.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// What is behind the archive's end.
    pub(crate) fn into_source(self) -> S {
        self.source
    }

    /// The next entry; the data of the one before is skipped.
    ///
    /// # Errors
    /// `Corrupt` for anything malformed or ambiguous; what the source fails with.
    pub(crate) fn next_entry(&mut self) -> Result<Option<Entry>> {
        let mut extensions = Extensions::default();
        loop {
            let Some(block) = self.next_header()? else {
                return extensions.none_left().map(|()| None);
            };
            let header = Header::parse(&block)?;
            match header.typeflag() {
                b'x' => set(
                    &mut extensions.pax,
                    Pax::parse(&self.extended(&header)?)?,
                    "PAX header",
                )?,
                b'g' => Pax::check_global(&self.extended(&header)?)?,
                b'L' => set(&mut extensions.long_name, self.long_name(&header)?, "long name")?,
                b'K' => set(&mut extensions.long_link, self.long_name(&header)?, "long link")?,
                _ => {
                    let entry = extensions.entry(&header)?;
                    self.data = entry.size;
                    self.padding = padding(entry.size);
                    return Ok(Some(entry));
                }
            }
        }
    }

    /// The next header block; none at the end of the archive: two blocks of zeros, or the end of the source.
    fn next_header(&mut self) -> Result<Option<[u8; BLOCK]>> {
        if self.ended {
            return Ok(None);
        }
        let skip = self.data.saturating_add(self.padding);
        if skip > 0 {
            self.source.skip(skip).map_err(read_error)?;
            self.position += skip;
            (self.data, self.padding) = (0, 0);
        }
        let Some(block) = self.block()? else {
            self.ended = true;
            return Ok(None);
        };
        if block != [0; BLOCK] {
            self.entries += 1;
            if self.entries > TAR_ENTRIES_MAX {
                return Err(corrupt(format_args!("more than {TAR_ENTRIES_MAX} entries")));
            }
            return Ok(Some(block));
        }
        self.ended = true;
        match self.block()? {
            Some(second) if second != [0; BLOCK] => Err(corrupt("data after a block of zeros")),
            _ => Ok(None),
        }
    }

    /// One block; none when the source is at its end, but not when it ends within.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.source.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(corrupt("it ends within a header")),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(read_error(error)),
            }
        }
        self.position += BLOCK as u64;
        Ok(Some(block))
    }

    /// The data of an extension header, which is held in memory.
    fn extended(&mut self, header: &Header<'_>) -> Result<Vec<u8>> {
        let size = header.size()?;
        if size > TAR_HEADER_MAX {
            return Err(corrupt(format_args!("extended header of {size} bytes")));
        }
        (self.data, self.padding) = (size, padding(size));
        let mut data = Vec::new();
        Read::by_ref(self)
            .take(size)
            .read_to_end(&mut data)
            .map_err(read_error)?;
        if data.len() as u64 != size {
            return Err(corrupt("it ends within an extended header"));
        }
        Ok(data)
    }

    /// GNU's, which ends with a zero.
    fn long_name(&mut self, header: &Header<'_>) -> Result<Vec<u8>> {
        let data = self.extended(header)?;
        let end = data.iter().position(|b| *b == 0).unwrap_or(data.len());
        if data[end..].iter().any(|b| *b != 0) {
            return Err(corrupt("name with a zero byte"));
        }
        pax::name(&data[..end])
    }
}

impl<S: Source> Read for Archive<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.data).unwrap_or(usize::MAX).min(buffer.len());
        if wanted == 0 {
            return Ok(0);
        }
        let count = self.source.read(&mut buffer[..wanted])?;
        if count == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                corrupt("it ends within a file"),
            ));
        }
        self.data -= count as u64;
        self.position += count as u64;
        Ok(count)
    }
}

impl Extensions {
    fn none_left(self) -> Result<()> {
        if self.pax.is_some() || self.long_name.is_some() || self.long_link.is_some() {
            return Err(corrupt("extended header without an entry"));
        }
        Ok(())
    }

    /// Header and extensions together.
    fn entry(&mut self, header: &Header<'_>) -> Result<Entry> {
        let mut pax = self.pax.take().unwrap_or_default();
        let name = one_of(pax.path.take(), self.long_name.take(), "name")?;
        let name = name.map_or_else(|| header.name(), Ok)?;
        let link = one_of(pax.linkpath.take(), self.long_link.take(), "link target")?;
        let kind = kind(header.typeflag(), &name)?;
        let size = pax.size.map_or_else(|| header.size(), Ok)?;
        if kind != Kind::File && size != 0 {
            return Err(corrupt(format_args!("{} has data but is no file", shown(&name))));
        }
        if size > i64::MAX.unsigned_abs() - BLOCK as u64 {
            return Err(corrupt(format_args!("{} has an impossible size", shown(&name))));
        }
        let link = match kind {
            Kind::HardLink | Kind::Symlink => link.unwrap_or_else(|| header.link()),
            _ => Vec::new(),
        };
        let device = match kind {
            Kind::CharDevice | Kind::BlockDevice => header.device()?,
            _ => (0, 0),
        };
        let id = |pax: Option<u64>, header: Result<u64>, what| {
            let id = pax.map_or(header, Ok)?;
            // The highest is "no id" to the kernel (CVE-2024-40635 is about what became of such numbers).
            u32::try_from(id)
                .ok()
                .filter(|id| *id != u32::MAX)
                .ok_or_else(|| corrupt(format_args!("{} has {what} {id}", shown(&name))))
        };
        Ok(Entry {
            kind,
            link,
            mode: header.mode()?,
            uid: id(pax.uid, header.uid(), "uid")?,
            gid: id(pax.gid, header.gid(), "gid")?,
            size,
            mtime: pax
                .mtime
                .map_or_else(|| header.mtime().map(|seconds| (seconds, 0)), Ok)?,
            device,
            xattrs: pax.xattrs,
            name,
        })
    }
}

fn kind(typeflag: u8, name: &[u8]) -> Result<Kind> {
    Ok(match typeflag {
        // Before POSIX a directory was told by its name.
        0 | b'0' | b'7' if name.ends_with(b"/") => Kind::Directory,
        0 | b'0' | b'7' => Kind::File,
        b'1' => Kind::HardLink,
        b'2' => Kind::Symlink,
        b'3' => Kind::CharDevice,
        b'4' => Kind::BlockDevice,
        b'5' => Kind::Directory,
        b'6' => Kind::Fifo,
        b'S' => {
            return Err(corrupt(format_args!(
                "{}: sparse files are not supported",
                shown(name)
            )));
        }
        other => {
            let other = [other];
            return Err(corrupt(format_args!(
                "{} has unknown type {}",
                shown(name),
                shown(&other)
            )));
        }
    })
}

fn set<T>(slot: &mut Option<T>, value: T, what: &str) -> Result<()> {
    if slot.replace(value).is_some() {
        return Err(corrupt(format_args!("two of {what} for one entry")));
    }
    Ok(())
}

fn one_of(pax: Option<Vec<u8>>, gnu: Option<Vec<u8>>, what: &str) -> Result<Option<Vec<u8>>> {
    match (pax, gnu) {
        (Some(_), Some(_)) => Err(corrupt(format_args!(
            "one entry has a {what} in PAX and in GNU format"
        ))),
        (pax, gnu) => Ok(pax.or(gnu)),
    }
}

fn padding(size: u64) -> u64 {
    size.next_multiple_of(BLOCK as u64) - size
}

/// The error that a reader below wrapped, or what the kinds of `io::Error` say: decoders tell bad input by them.
pub(crate) fn read_error(error: io::Error) -> Error {
    match error.kind() {
        _ if error.get_ref().is_some_and(|inner| inner.is::<Error>()) => {
            match error.into_inner().map(|inner| inner.downcast::<Error>()) {
                Some(Ok(inner)) => *inner,
                _ => Error::new(ErrorKind::Internal, "reading failed"),
            }
        }
        io::ErrorKind::UnexpectedEof => corrupt("it ends early"),
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => {
            Error::caused(ErrorKind::Corrupt, "decompressing", error)
        }
        _ => Error::caused(ErrorKind::Internal, "reading", error),
    }
}
