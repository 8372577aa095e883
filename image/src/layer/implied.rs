//! Directories that layers imply.
//!
//! An archive may hold `tmp/x` and not `tmp/`. Unpacked for itself, that layer gets a `tmp` of mode 0755, which in
//! overlayfs hides the mode 1777 that a lower layer gave it. Layers are shared between images, so the right
//! owner and mode, which depend on what is below, cannot go into the layer: an image that needs it gets one
//! more layer on top, of such directories only, made here as an archive like any other.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::Stat;
use rustix::io::Errno;

use super::removal::open_directory;
use super::tar::{Entry, Kind, writer};
use super::{os_error, unpack};
use crate::limits::IMPLIED_PROBES_MAX;
use crate::{Error, ErrorKind, Result};

/// A layer of an image.
#[derive(Debug)]
pub(crate) struct Tree {
    pub(crate) root: OwnedFd,
    pub(crate) implied: BTreeSet<Vec<u8>>,
}

/// What a layer has to say about a directory.
enum Probe {
    /// Nothing; ask the next.
    Missing,
    /// That there is none, here or below.
    Hidden,
    Here {
        directory: OwnedFd,
        /// Nothing of lower layers shows.
        is_opaque: bool,
    },
}

/// The archive of the layer to put on top of `trees`, topmost first; none when they are right as they are.
///
/// # Errors
/// `Corrupt` for images that would take too long; `Internal` for errors of the disk.
pub(crate) fn correction(trees: &[Tree]) -> Result<Option<Vec<u8>>> {
    let paths: BTreeSet<&Vec<u8>> = trees.iter().flat_map(|tree| &tree.implied).collect();
    let mut entries = BTreeMap::new();
    let mut probes = 0;
    for path in paths {
        let mut effective = |path: &[u8]| effective(trees, path, &mut probes);
        let Some(entry) = effective(path)?.filter(|found| found.differs) else {
            continue;
        };
        entries.insert(path.clone(), entry.entry);
        for (at, _) in path.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
            if !entries.contains_key(&path[..at])
                && let Some(found) = effective(&path[..at])?
            {
                entries.insert(path[..at].to_vec(), found.entry);
            }
        }
    }
    if entries.is_empty() {
        return Ok(None);
    }
    if let Some(root) = effective(trees, b"", &mut probes)? {
        entries.insert(Vec::new(), root.entry);
    }
    let mut archive = Vec::new();
    for entry in entries.values() {
        writer::append(&mut archive, entry, &[]);
    }
    writer::finish(&mut archive);
    Ok(Some(archive))
}

struct Effective {
    entry: Entry,
    /// The topmost layer that has the directory shows something else.
    differs: bool,
}

/// The directory as it would be if the layers had been unpacked onto each other.
fn effective(trees: &[Tree], path: &[u8], probes: &mut u64) -> Result<Option<Effective>> {
    let mut topmost: Option<Entry> = None;
    for tree in trees {
        *probes += 1;
        if *probes > IMPLIED_PROBES_MAX {
            return Err(Error::new(
                ErrorKind::Corrupt,
                "image has too many directories that its layers do not name",
            ));
        }
        match probe(tree, path).map_err(|e| os_error("looking at", path, e))? {
            Probe::Missing => {}
            Probe::Hidden => break,
            Probe::Here { directory, is_opaque } => {
                let entry = entry(&directory, path).map_err(|e| os_error("looking at", path, e))?;
                if !tree.implied.contains(path) {
                    let differs = topmost.is_some_and(|topmost| !same(&topmost, &entry));
                    return Ok(Some(Effective { entry, differs }));
                }
                topmost.get_or_insert(entry);
                if is_opaque {
                    break;
                }
            }
        }
    }
    Ok(topmost.map(|entry| Effective {
        entry,
        differs: false,
    }))
}

fn probe(tree: &Tree, path: &[u8]) -> rustix::io::Result<Probe> {
    let mut directory = tree.root.try_clone().map_err(|_| Errno::MFILE)?;
    let mut is_opaque = unpack::is_opaque(directory.as_fd());
    for name in path.split(|b| *b == b'/').filter(|name| !name.is_empty()) {
        match open_directory(directory.as_fd(), name) {
            Ok(next) => directory = next,
            Err(Errno::NOENT) if is_opaque => return Ok(Probe::Hidden),
            Err(Errno::NOENT) => return Ok(Probe::Missing),
            Err(Errno::NOTDIR | Errno::LOOP) => return Ok(Probe::Hidden),
            Err(error) => return Err(error),
        }
        is_opaque |= unpack::is_opaque(directory.as_fd());
    }
    Ok(Probe::Here { directory, is_opaque })
}

fn entry(directory: &OwnedFd, path: &[u8]) -> rustix::io::Result<Entry> {
    let stat: Stat = rustix::fs::fstat(directory)?;
    Ok(Entry {
        kind: Kind::Directory,
        name: [path, b"/".as_slice()].concat(),
        link: Vec::new(),
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        size: 0,
        mtime: (stat.st_mtime, 0),
        device: (0, 0),
        xattrs: unpack::kept_xattrs(directory.as_fd())?,
    })
}

/// Times apart: the difference is not worth a layer.
fn same(a: &Entry, b: &Entry) -> bool {
    (a.mode, a.uid, a.gid, &a.xattrs) == (b.mode, b.uid, b.gid, &b.xattrs)
}
