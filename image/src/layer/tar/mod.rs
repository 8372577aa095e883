//! A strict, streaming tar reader: ustar, PAX and GNU long names.
//!
//! Where readers of the world differ about what an archive says (the size in the PAX record or in the header,
//! data after a hard link, two names for one entry), this one refuses: an archive that means two things hides
//! one of them (CVE-2025-62518). Formats: POSIX.1-2017 `pax`, GNU tar manual "Basic Tar Format".

mod header;
mod pax;
mod reader;
#[cfg(test)]
mod tests;
pub(crate) mod writer;
pub(crate) use reader::{Archive, Source, read_error};

/// What an entry makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    HardLink,
    Symlink,
    CharDevice,
    BlockDevice,
    Directory,
    Fifo,
}

/// One entry, as of its headers together. Names are as written: the caller makes paths of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) kind: Kind,
    pub(crate) name: Vec<u8>,
    /// Target of a hard link or symbolic link.
    pub(crate) link: Vec<u8>,
    /// Permission bits with setuid, setgid and sticky.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Bytes of data; 0 unless a file.
    pub(crate) size: u64,
    /// Seconds since 1970 and nanoseconds.
    pub(crate) mtime: (i64, u32),
    /// Of a device.
    pub(crate) device: (u32, u32),
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

use crate::{Error, ErrorKind};

/// An archive that is not as it should be.
fn corrupt(message: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Corrupt, format!("tar archive: {message}"))
}

/// Names for messages: readable, and short whatever they are.
pub(crate) fn shown(name: &[u8]) -> String {
    const SHOWN_MAX: usize = 200;
    let cut = &name[..name.len().min(SHOWN_MAX)];
    format!(
        "\"{}{}\"",
        cut.escape_ascii(),
        if cut.len() < name.len() { "…" } else { "" }
    )
}
