//! Layers: from packed bytes to a directory in overlayfs' layout, in one pass.

mod decode;
pub(crate) mod implied;
pub(crate) mod removal;
pub(crate) mod tar;
mod unpack;

use std::io::BufReader;
use std::os::fd::BorrowedFd;

use bytes::Bytes;

use crate::digest::Digest;
use crate::{Error, ErrorKind, Result, Usage};

/// What a layer's bytes must be.
#[derive(Debug, Clone)]
pub(crate) struct Expected {
    /// Digest of the packed bytes; none in docker's archives.
    pub(crate) digest: Option<Digest>,
    /// How many packed bytes.
    pub(crate) size: u64,
    /// Digest of the tar archive.
    pub(crate) diff_id: Digest,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Unpacked {
    pub(crate) usage: Usage,
    /// Directories that the archive did not name but only what is in them; `/`-separated, the root is empty.
    pub(crate) implied: Vec<Vec<u8>>,
}

/// Bytes that the tar reader has ahead: one decoder call fills it.
const READ_AHEAD: usize = 128 * 1024;

/// Unpacks a layer into the empty directory `root`, and verifies everything on the way. What is in `root`
/// after an error is for the caller to remove. Blocks.
///
/// # Errors
/// `Corrupt` for content that differs from `expected` or is hostile; what `next`, which gives the packed bytes,
/// fails with; `Internal` for errors of the disk.
pub(crate) fn unpack(
    next: impl FnMut() -> Result<Option<Bytes>>,
    expected: &Expected,
    root: BorrowedFd<'_>,
) -> Result<Unpacked> {
    let algorithm = expected.digest.as_ref().unwrap_or(&expected.diff_id).algorithm();
    let packed = decode::Packed::new(next, algorithm, expected.size);
    let decoder = decode::Decoder::new(packed, &expected.diff_id)?;
    let mut archive = tar::Archive::new(BufReader::with_capacity(READ_AHEAD, decoder));
    let mut unpacker = unpack::Unpacker::new(root)?;
    while let Some(entry) = archive.next_entry()? {
        unpacker.apply(&entry, &mut archive)?;
    }
    let (packed_digest, diff_id) = archive.into_source().into_inner().finish()?;
    if let Some(digest) = &expected.digest {
        digest.expect(&packed_digest, "layer")?;
    }
    expected.diff_id.expect(&diff_id, "unpacked layer")?;
    unpacker.finish()
}

impl<R: std::io::Read> tar::Source for BufReader<R> {}

/// An error of the kernel about something in a layer: some of them say that the layer is bad.
fn os_error(what: &str, name: &[u8], error: rustix::io::Errno) -> Error {
    use rustix::io::Errno;
    let kind = match error {
        Errno::NAMETOOLONG
        | Errno::INVAL
        | Errno::LOOP
        | Errno::NOTDIR
        | Errno::ISDIR
        | Errno::ILSEQ
        | Errno::XDEV
        | Errno::RANGE
        | Errno::TOOBIG => ErrorKind::Corrupt,
        _ => ErrorKind::Internal,
    };
    Error::caused(
        kind,
        format_args!("{what} {}", tar::shown(name)),
        std::io::Error::from(error),
    )
}
