//! Archives with images in them: OCI image layouts and what `docker save` writes.

mod docker;
mod member;
mod oci;

use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;

use self::member::Members;
use crate::assemble::{self, Parts};
use crate::layer::Expected;
use crate::limits::{ARCHIVE_IMAGES_MAX, ARCHIVE_UNPACKED_MAX};
use crate::reference::Reference;
use crate::store::Store;
use crate::{Error, ErrorKind, Image, Result};

/// Bytes that a layer is read in.
const CHUNK: usize = 256 * 1024;

/// An image of the archive, before its layers are unpacked.
#[derive(Debug)]
struct Found {
    parts: Parts,
    /// Where each layer is, base first.
    layers: Vec<(member::Span, Expected)>,
}

/// Reads an archive, plain or compressed as a whole, and records its images. Blocks.
///
/// # Errors
/// `Invalid` for what is no such archive, `Corrupt` for content that is not what it says.
pub(crate) fn load(store: &Arc<Store>, archive: File) -> Result<Vec<Arc<Image>>> {
    let archive = plain(store, archive)?;
    let members = Members::read(archive)?;
    let found = if members.contains("index.json") {
        oci::images(&members)?
    } else if members.contains("manifest.json") {
        docker::images(&members)?
    } else {
        return Err(invalid("it has neither index.json nor manifest.json"));
    };
    if found.is_empty() {
        return Err(invalid("it has no image for this machine"));
    }
    if found.len() > ARCHIVE_IMAGES_MAX {
        return Err(invalid("it has too many images"));
    }
    found
        .into_iter()
        .map(|image| record(store, &members, image))
        .collect()
}

fn record(store: &Arc<Store>, members: &Members, found: Found) -> Result<Arc<Image>> {
    let mut holds = Vec::new();
    for (span, expected) in &found.layers {
        let hold = match store.hold(&expected.diff_id) {
            Some(hold) => hold,
            None => store.add_layer(expected, chunks(members, span.clone()))?,
        };
        holds.push(Arc::new(hold));
    }
    assemble::image(store, found.parts, &holds)
}

/// The bytes of a member, piece by piece.
fn chunks(members: &Members, mut span: member::Span) -> impl FnMut() -> Result<Option<Bytes>> + '_ {
    move || {
        let count = usize::try_from(span.size).unwrap_or(CHUNK).min(CHUNK);
        if count == 0 {
            return Ok(None);
        }
        let mut chunk = vec![0; count];
        members
            .file()
            .read_exact_at(&mut chunk, span.offset)
            .map_err(|e| failed("reading a layer", e))?;
        span.offset += count as u64;
        span.size -= count as u64;
        Ok(Some(chunk.into()))
    }
}

/// The archive itself, or what it decompresses to in an unnamed file.
fn plain(store: &Store, mut archive: File) -> Result<File> {
    let mut start = [0; 4];
    let mut rewind = || archive.rewind().map_err(|e| failed("seeking in the archive", e));
    rewind()?;
    let count = archive
        .read_at(&mut start, 0)
        .map_err(|e| failed("reading the archive", e))?;
    let decoder: Box<dyn Read> = match &start[..count] {
        [0x1f, 0x8b, ..] => Box::new(flate2::read::MultiGzDecoder::new(archive)),
        [0x28, 0xb5, 0x2f, 0xfd] => {
            Box::new(zstd::Decoder::new(archive).map_err(|e| failed("reading the archive", e))?)
        }
        _ => return Ok(archive),
    };
    let mut file = store.scratch()?;
    let written = std::io::copy(&mut decoder.take(ARCHIVE_UNPACKED_MAX), &mut file)
        .map_err(|e| Error::caused(ErrorKind::Corrupt, "decompressing the archive", e))?;
    if written == ARCHIVE_UNPACKED_MAX {
        return Err(invalid("it is too large"));
    }
    file.rewind().map_err(|e| failed("seeking in the archive", e))?;
    Ok(file)
}

/// A name in an archive, normalised.
fn reference(name: &str) -> Result<Reference> {
    name.parse()
}

fn invalid(why: &str) -> Error {
    Error::new(ErrorKind::Invalid, format!("image archive: {why}"))
}

fn failed(what: &str, error: std::io::Error) -> Error {
    Error::caused(ErrorKind::Internal, what, error)
}
