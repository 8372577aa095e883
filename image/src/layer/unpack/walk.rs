//! From directory to directory: entries of an archive lie side by side, so the way to the last one is kept open.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, Dev, FileType, Mode, Stat, XattrFlags};
use rustix::io::Errno;

use super::super::{os_error, removal};
use super::{Unpacker, bad, metadata};
use crate::Result;

/// What a device 0:0 is: a whiteout.
const WHITEOUT_DEVICE: Dev = 0;

impl Unpacker {
    /// The directory that was entered last.
    pub(super) fn here(&self) -> BorrowedFd<'_> {
        self.walk
            .last()
            .map_or_else(|| self.root.as_fd(), |(_, fd)| fd.as_fd())
    }

    /// Goes to the directory `path`, and makes what is missing on the way.
    pub(super) fn enter(&mut self, path: &[&[u8]]) -> Result<()> {
        let common = self
            .walk
            .iter()
            .zip(path)
            .take_while(|((name, _), wanted)| name == *wanted)
            .count();
        self.walk.truncate(common);
        for at in common..path.len() {
            let name = path[at];
            match removal::open_directory(self.here(), name) {
                Ok(directory) => self.walk.push((name.to_vec(), directory)),
                Err(Errno::NOENT) => self.implied_directory(&path[..=at], false)?,
                Err(Errno::NOTDIR | Errno::LOOP) if self.is_whiteout(name) => {
                    self.remove(name).map_err(|e| os_error("replacing", name, e))?;
                    self.implied_directory(&path[..=at], true)?;
                }
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    return Err(bad(
                        &path.join(&b'/'),
                        "is a directory below something that is none",
                    ));
                }
                Err(error) => return Err(os_error("opening directory", name, error)),
            }
        }
        Ok(())
    }

    fn implied_directory(&mut self, path: &[&[u8]], opaque: bool) -> Result<()> {
        let Some(name) = path.last() else { return Ok(()) };
        self.make_directory(name, opaque)
            .and_then(|()| metadata::default_directory(self.here()))
            .map_err(|e| os_error("creating directory", name, e))?;
        self.imply(path.join(&b'/'))
    }

    /// Makes the directory `name` here and goes into it.
    pub(super) fn make_directory(&mut self, name: &[u8], opaque: bool) -> rustix::io::Result<()> {
        rustix::fs::mkdirat(self.here(), name, Mode::from_raw_mode(0o700))?;
        self.usage.inodes += 1;
        let directory = removal::open_directory(self.here(), name)?;
        self.walk.push((name.to_vec(), directory));
        if opaque { self.opaque(self.here()) } else { Ok(()) }
    }

    /// Hides what lower layers have in `directory`.
    #[allow(clippy::unused_self)]
    pub(super) fn opaque(&self, directory: BorrowedFd<'_>) -> rustix::io::Result<()> {
        rustix::fs::fsetxattr(directory, metadata::OPAQUE, b"y", XattrFlags::empty())
    }

    /// Hides what lower layers have as `name` here. What this layer itself has there stays: a file hides it
    /// anyway, a directory becomes opaque.
    pub(super) fn whiteout(&mut self, name: &[u8]) -> rustix::io::Result<()> {
        let mode = Mode::empty();
        match rustix::fs::mknodat(
            self.here(),
            name,
            FileType::CharacterDevice,
            mode,
            WHITEOUT_DEVICE,
        ) {
            Ok(()) => self.usage.inodes += 1,
            Err(Errno::EXIST) => match removal::open_directory(self.here(), name) {
                Ok(directory) => self.opaque(directory.as_fd())?,
                Err(Errno::NOTDIR | Errno::LOOP) => {}
                Err(error) => return Err(error),
            },
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn is_whiteout(&self, name: &[u8]) -> bool {
        rustix::fs::statat(self.here(), name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|stat| {
            FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
                && stat.st_rdev == WHITEOUT_DEVICE
        })
    }

    /// Creates something as `name` here, in place of what is there.
    pub(super) fn create<T>(
        &mut self,
        name: &[u8],
        make: impl Fn(BorrowedFd<'_>) -> rustix::io::Result<T>,
    ) -> rustix::io::Result<T> {
        match make(self.here()) {
            Err(Errno::EXIST) => {
                self.remove(name)?;
                make(self.here())
            }
            other => other,
        }
    }

    pub(super) fn remove(&mut self, name: &[u8]) -> rustix::io::Result<()> {
        let mut usage = self.usage;
        let mut gone = |stat: &Stat| {
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                usage.inodes = usage.inodes.saturating_sub(1);
            } else if stat.st_nlink == 1 {
                usage.inodes = usage.inodes.saturating_sub(1);
                usage.bytes = usage.bytes.saturating_sub(metadata::stat_blocks(stat));
            }
        };
        let removed = removal::remove(self.here(), name, &mut gone);
        self.usage = usage;
        removed
    }

    /// Sets the time of a directory, and counts its blocks. One that was replaced later is passed over.
    pub(super) fn settle(&mut self, path: &[u8], time: (i64, u32)) -> Result<()> {
        let components: Vec<&[u8]> = path.split(|b| *b == b'/').filter(|c| !c.is_empty()).collect();
        let common = self
            .walk
            .iter()
            .zip(&components)
            .take_while(|((name, _), wanted)| name == *wanted)
            .count();
        self.walk.truncate(common);
        for name in &components[common..] {
            match removal::open_directory(self.here(), name) {
                Ok(directory) => self.walk.push((name.to_vec(), directory)),
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
                Err(error) => return Err(os_error("opening directory", path, error)),
            }
        }
        let fail = |e| os_error("setting the time of", path, e);
        metadata::directory_time(self.here(), time).map_err(fail)?;
        self.usage.bytes += metadata::blocks(self.here()).map_err(fail)?;
        Ok(())
    }
}
