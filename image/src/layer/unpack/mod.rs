//! Tar entries to a directory in overlayfs' layout.
//!
//! Everything goes by descriptors of directories that were opened one component at a time, without links; what is
//! in the way of an entry is removed, never written through. So there is no path in a layer that leads out of it.
//! Layout: `Documentation/filesystems/overlayfs.rst`, "whiteouts and opaque directories"; the tar side: OCI image
//! specification, `layer.md`.

mod metadata;
mod path;
#[cfg(test)]
mod tests;
mod walk;

use std::collections::BTreeSet;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

pub(in crate::layer) use self::metadata::{is_opaque, kept_xattrs};
use self::path::Target;
use super::tar::{Entry, Kind, read_error, shown};
use super::{Unpacked, os_error, removal};
use crate::limits::LAYER_DIRECTORY_NAMES_MAX;
use crate::{Error, ErrorKind, Result, Usage};

/// What a data block is moved in.
const COPY_BUFFER: usize = 128 * 1024;

/// A layer that is being unpacked.
#[derive(Debug)]
pub(super) struct Unpacker {
    root: OwnedFd,
    /// The directories from the root to where the last entry was, with their names.
    walk: Vec<(Vec<u8>, OwnedFd)>,
    /// Directories and their times, to be set when nothing is written into them any more.
    times: Vec<(Vec<u8>, (i64, u32))>,
    implied: BTreeSet<Vec<u8>>,
    /// Bytes of names in `times` and `implied`.
    names: usize,
    usage: Usage,
    buffer: Vec<u8>,
}

impl Unpacker {
    /// `root` is an empty directory.
    pub(super) fn new(root: BorrowedFd<'_>) -> Result<Self> {
        let root = rustix::fs::openat(
            root,
            ".",
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|e| os_error("opening", b".", e))?;
        let mut this = Self {
            root,
            walk: Vec::new(),
            times: Vec::new(),
            implied: BTreeSet::new(),
            names: 0,
            usage: Usage { bytes: 0, inodes: 1 },
            buffer: vec![0; COPY_BUFFER],
        };
        metadata::default_directory(this.root.as_fd()).map_err(|e| os_error("preparing", b".", e))?;
        this.imply(Vec::new())?;
        Ok(this)
    }

    /// Makes what one entry says, with `data` for a file.
    pub(super) fn apply(&mut self, entry: &Entry, data: &mut impl Read) -> Result<()> {
        match path::target(&entry.name)? {
            Target::Root => self.root_entry(entry),
            Target::Ignored => Ok(()),
            Target::Opaque(parent) => {
                self.enter(&parent)?;
                self.opaque(self.here())
                    .map_err(|e| os_error("hiding what is below", &entry.name, e))
            }
            Target::Whiteout(parent, name) => {
                self.enter(&parent)?;
                self.whiteout(name)
                    .map_err(|e| os_error("removing", &entry.name, e))
            }
            Target::Inside(parent, name) => {
                self.enter(&parent)?;
                self.entry(entry, &parent, name, data)
            }
        }
    }

    /// Sets the times of directories, and ends.
    pub(super) fn finish(mut self) -> Result<Unpacked> {
        for name in &self.implied.clone() {
            self.settle(name, (0, 0))?;
        }
        for (name, time) in std::mem::take(&mut self.times) {
            self.settle(&name, time)?;
        }
        Ok(Unpacked {
            usage: self.usage,
            implied: self.implied.into_iter().collect(),
        })
    }

    fn entry(&mut self, entry: &Entry, parent: &[&[u8]], name: &[u8], data: &mut impl Read) -> Result<()> {
        let fail = |e| os_error("creating", &entry.name, e);
        match entry.kind {
            Kind::Directory => self.directory(entry, parent, name),
            Kind::File => {
                let flags =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = self
                    .create(name, |dir| {
                        rustix::fs::openat2(dir, name, flags, Mode::from_raw_mode(0o600), removal::beneath())
                    })
                    .map_err(fail)?;
                self.write(&file, entry, data)?;
                metadata::file(file.as_fd(), entry)?;
                self.usage.bytes += metadata::blocks(file.as_fd()).map_err(fail)?;
                self.usage.inodes += 1;
                Ok(())
            }
            Kind::HardLink => self.hard_link(entry, parent, name),
            Kind::Symlink => {
                if entry.link.is_empty() {
                    return Err(bad(&entry.name, "is a symbolic link to nowhere"));
                }
                self.create(name, |dir| rustix::fs::symlinkat(&entry.link, dir, name))
                    .map_err(fail)?;
                self.usage.inodes += 1;
                metadata::link(self.here(), name, entry)
            }
            Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => {
                let kind = match entry.kind {
                    Kind::CharDevice => FileType::CharacterDevice,
                    Kind::BlockDevice => FileType::BlockDevice,
                    _ => FileType::Fifo,
                };
                let device = rustix::fs::makedev(entry.device.0, entry.device.1);
                let mode = Mode::from_raw_mode(0o600);
                self.create(name, |dir| rustix::fs::mknodat(dir, name, kind, mode, device))
                    .map_err(fail)?;
                self.usage.inodes += 1;
                metadata::special(self.here(), name, entry)
            }
        }
    }

    fn root_entry(&mut self, entry: &Entry) -> Result<()> {
        if entry.kind != Kind::Directory {
            return Err(bad(&entry.name, "is the root but no directory"));
        }
        self.walk.clear();
        metadata::directory(self.root.as_fd(), entry)?;
        self.name_directory(Vec::new(), entry.mtime)
    }

    fn directory(&mut self, entry: &Entry, parent: &[&[u8]], name: &[u8]) -> Result<()> {
        let fail = |e| os_error("creating directory", &entry.name, e);
        let mut path = parent.to_vec();
        path.push(name);
        match removal::open_directory(self.here(), name) {
            Ok(directory) => self.walk.push((name.to_vec(), directory)),
            Err(Errno::NOENT) => self.make_directory(name, false).map_err(fail)?,
            Err(Errno::NOTDIR | Errno::LOOP) => {
                self.remove(name).map_err(fail)?;
                // What was in the way hid what lower layers have there, and so must this.
                self.make_directory(name, true).map_err(fail)?;
            }
            Err(error) => return Err(fail(error)),
        }
        metadata::directory(self.here(), entry)?;
        self.name_directory(path.join(&b'/'), entry.mtime)
    }

    /// Hard links reach only files of this layer, by the same walk without links.
    fn hard_link(&mut self, entry: &Entry, parent: &[&[u8]], name: &[u8]) -> Result<()> {
        let Target::Inside(to_parent, to_name) = path::target(&entry.link)? else {
            return Err(bad(
                &entry.name,
                "is a hard link to something that no file can be",
            ));
        };
        if to_parent == parent && to_name == name {
            return Err(bad(&entry.name, "is a hard link to itself"));
        }
        let missing = |_| {
            bad(
                &entry.name,
                &format!("is a hard link to {}, which is not here", shown(&entry.link)),
            )
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let to_path = if to_parent.is_empty() {
            b".".to_vec()
        } else {
            to_parent.join(&b'/')
        };
        let to = rustix::fs::openat2(&self.root, &to_path, flags, Mode::empty(), removal::beneath())
            .map_err(missing)?;
        let stat = rustix::fs::statat(&to, to_name, AtFlags::SYMLINK_NOFOLLOW).map_err(missing)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return Err(bad(&entry.name, "is a hard link to a directory"));
        }
        self.create(name, |dir| {
            // A symbolic link gets a second name; nothing follows it.
            rustix::fs::linkat(&to, to_name, dir, name, AtFlags::empty())
        })
        .map_err(|e| match e {
            // It was in what the link replaces.
            Errno::NOENT => missing(e),
            e => os_error("linking", &entry.name, e),
        })
    }

    fn write(&mut self, file: &OwnedFd, entry: &Entry, data: &mut impl Read) -> Result<()> {
        let mut left = entry.size;
        while left > 0 {
            let count = data.read(&mut self.buffer).map_err(read_error)?;
            if count == 0 {
                return Err(bad(&entry.name, "ends early"));
            }
            let mut rest = &self.buffer[..count];
            while !rest.is_empty() {
                match rustix::io::write(file, rest) {
                    Ok(written) => rest = &rest[written..],
                    Err(Errno::INTR) => {}
                    Err(error) => return Err(os_error("writing", &entry.name, error)),
                }
            }
            left = left.saturating_sub(count as u64);
        }
        Ok(())
    }

    /// Notes a directory that the archive names.
    fn name_directory(&mut self, path: Vec<u8>, time: (i64, u32)) -> Result<()> {
        self.implied.remove(&path);
        self.count_name(&path)?;
        self.times.push((path, time));
        Ok(())
    }

    /// Notes a directory that the archive does not name, so far.
    fn imply(&mut self, path: Vec<u8>) -> Result<()> {
        self.count_name(&path)?;
        self.implied.insert(path);
        Ok(())
    }

    fn count_name(&mut self, path: &[u8]) -> Result<()> {
        self.names += path.len() + size_of::<(Vec<u8>, (i64, u32))>();
        if self.names > LAYER_DIRECTORY_NAMES_MAX {
            return Err(Error::new(ErrorKind::Corrupt, "layer has too many directories"));
        }
        Ok(())
    }
}

fn bad(name: &[u8], what: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("layer entry {} {what}", shown(name)))
}
