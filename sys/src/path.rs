//! Paths under somebody else's control, walked by the kernel inside a root (openat2(2)).

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;

use crate::{Error, Result};

/// openat2 gives EAGAIN when a rename or mount happens anywhere while it walks `..`; the man page says to retry.
const RACES_MAX: u32 = 128;
/// Dangling links that are followed to where a mount point is made; as many as the kernel follows (path_resolution(7)).
const LINKS_MAX: u32 = 40;
/// Of what is made on the way to a mount point.
const DIRECTORY_MODE: u32 = 0o755;
const FILE_MODE: u32 = 0o644;

/// A directory that is `/` for every path walked through it: `..`, absolute links and link chains stay inside, and
/// magic links (/proc/self/fd/N) are refused. ELOOP and EXDEV mean that a path tried more than that.
#[derive(Debug)]
pub struct Root(OwnedFd);

impl AsFd for Root {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for Root {
    /// `fd` is a directory.
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl Root {
    /// A directory of the host.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat(CWD, path, flags, Mode::empty())
            .map(Self)
            .map_err(|e| Error::new("openat", path.display().to_string(), e))
    }

    /// What `path` names, links followed, as an O_PATH descriptor.
    ///
    /// # Errors
    /// The kernel's.
    pub fn resolve(&self, path: &Path) -> Result<OwnedFd> {
        self.walk(path, OFlags::PATH, ResolveFlags::empty())
    }

    /// The same without following any link.
    ///
    /// # Errors
    /// ELOOP: there is one.
    pub fn resolve_exact(&self, path: &Path) -> Result<OwnedFd> {
        self.walk(path, OFlags::PATH, ResolveFlags::NO_SYMLINKS)
    }

    /// Opens `path` for reading and writing without following any link and without becoming its terminal's owner.
    ///
    /// # Errors
    /// ELOOP: there is a link.
    pub fn open_exact(&self, path: &Path) -> Result<OwnedFd> {
        self.walk(path, OFlags::RDWR | OFlags::NOCTTY, ResolveFlags::NO_SYMLINKS)
    }

    fn walk(&self, path: &Path, flags: OFlags, more: ResolveFlags) -> Result<OwnedFd> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | more;
        let mut races = 0;
        loop {
            match rustix::fs::openat2(&self.0, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
                Err(Errno::AGAIN) if races < RACES_MAX => races += 1,
                Err(Errno::INTR) => {}
                done => return done.map_err(|e| Error::new("openat2", path.display().to_string(), e)),
            }
        }
    }

    /// The directory `path`; it and its missing parents are made (0755). A dangling link is followed to where it
    /// points, inside the root.
    ///
    /// # Errors
    /// ENOTDIR: something else is there. EXDEV: a missing path with `..`.
    pub fn directory(&self, path: &Path) -> Result<OwnedFd> {
        self.make_directory(path, &mut 0)
    }

    /// The directory `path`, made if missing, without following any link: for file systems that must be where they
    /// are said to be (/proc, /sys, /dev).
    ///
    /// # Errors
    /// ELOOP: there is a link; ENOTDIR: something else is there.
    pub fn directory_exact(&self, path: &Path) -> Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        match self.walk(path, flags, ResolveFlags::NO_SYMLINKS) {
            Err(error) if error.is(libc::ENOENT) => {}
            done => return done,
        }
        let (parent, name) = split(path)?;
        make(&self.directory_exact(parent)?, name, path)?;
        self.walk(path, flags, ResolveFlags::NO_SYMLINKS)
    }

    fn make_directory(&self, path: &Path, links: &mut u32) -> Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        match self.walk(path, flags, ResolveFlags::empty()) {
            Err(error) if error.is(libc::ENOENT) => {}
            done => return done,
        }
        let (parent, name) = split(path)?;
        let folder = self.make_directory(parent, links)?;
        if let Some(target) = dangling(&folder, parent, name, links)? {
            return self.make_directory(&target, links);
        }
        make(&folder, name, path)?;
        self.walk(path, flags, ResolveFlags::empty())
    }

    /// The file `path`, whatever it is but a directory; when missing, an empty file (0644) and its parents are made.
    ///
    /// # Errors
    /// EISDIR: a directory is there. EXDEV: a missing path with `..`.
    pub fn file(&self, path: &Path) -> Result<OwnedFd> {
        let mut links = 0;
        let mut path = path.to_path_buf();
        loop {
            match self.walk(&path, OFlags::PATH, ResolveFlags::empty()) {
                Err(error) if error.is(libc::ENOENT) => {}
                done => return done,
            }
            let (parent, name) = split(&path)?;
            let folder = self.make_directory(parent, &mut links)?;
            match dangling(&folder, parent, name, &mut links)? {
                Some(target) => path = target,
                None => {
                    make_file(&folder, name, &path)?;
                    return self.walk(&path, OFlags::PATH, ResolveFlags::empty());
                }
            }
        }
    }
}

/// The parent and the last name of a path that is to be made.
fn split(path: &Path) -> Result<(&Path, &std::ffi::OsStr)> {
    match (path.parent(), path.components().next_back()) {
        (Some(parent), Some(Component::Normal(name))) => Ok((
            if parent.as_os_str().is_empty() {
                Path::new("/")
            } else {
                parent
            },
            name,
        )),
        _ => Err(Error::new("mkdirat", path.display().to_string(), Errno::XDEV)),
    }
}

/// Where `name` in `folder` points when it is a link, as a path inside the root.
fn dangling(
    folder: &OwnedFd,
    parent: &Path,
    name: &std::ffi::OsStr,
    links: &mut u32,
) -> Result<Option<PathBuf>> {
    match rustix::fs::readlinkat(folder, name, Vec::new()) {
        Ok(target) => {
            *links += 1;
            if *links > LINKS_MAX {
                return Err(Error::new(
                    "readlinkat",
                    parent.join(name).display().to_string(),
                    Errno::LOOP,
                ));
            }
            use std::os::unix::ffi::OsStrExt as _;
            // An absolute target replaces the parent.
            Ok(Some(parent.join(std::ffi::OsStr::from_bytes(target.as_bytes()))))
        }
        // EINVAL: no link.
        Err(Errno::INVAL | Errno::NOENT) => Ok(None),
        Err(e) => Err(Error::new(
            "readlinkat",
            parent.join(name).display().to_string(),
            e,
        )),
    }
}

fn make(folder: &OwnedFd, name: &std::ffi::OsStr, path: &Path) -> Result<()> {
    match rustix::fs::mkdirat(folder, name, Mode::from_raw_mode(DIRECTORY_MODE)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(e) => Err(Error::new("mkdirat", path.display().to_string(), e)),
    }
}

fn make_file(folder: &OwnedFd, name: &std::ffi::OsStr, path: &Path) -> Result<()> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
    match rustix::fs::openat(folder, name, flags, Mode::from_raw_mode(FILE_MODE)) {
        Ok(_) | Err(Errno::EXIST) => Ok(()),
        Err(e) => Err(Error::new("openat", path.display().to_string(), e)),
    }
}

/// What kind of file a descriptor names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// Directory
    Directory,
    /// Symbolic link (an O_PATH descriptor)
    Link,
    /// Anything else
    File,
}

/// The kind of the file behind `fd`.
///
/// # Errors
/// The kernel's.
pub fn kind(fd: impl AsFd) -> Result<FileKind> {
    use rustix::fs::FileType;
    let stat = rustix::fs::fstat(fd).map_err(|e| Error::new("fstat", "descriptor", e))?;
    Ok(match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => FileKind::Directory,
        FileType::Symlink => FileKind::Link,
        _ => FileKind::File,
    })
}

/// An empty file, directory or link directly in `folder`, which is the caller's own and nobody else's.
#[derive(Clone, Copy, Debug)]
pub enum Entry<'a> {
    /// A directory with a mode
    Directory(u32),
    /// An empty file with a mode
    File(u32),
    /// A symbolic link to
    Link(&'a str),
}

/// Makes an entry with an owner.
///
/// # Errors
/// EEXIST and others.
pub fn make_entry(folder: impl AsFd, name: &str, entry: Entry<'_>, owner: (u32, u32)) -> Result<()> {
    let folder = folder.as_fd();
    let failed = |call| move |e| Error::new(call, name, e);
    match entry {
        Entry::Directory(mode) => {
            rustix::fs::mkdirat(folder, name, Mode::from_raw_mode(mode)).map_err(failed("mkdirat"))?
        }
        Entry::File(mode) => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            drop(
                rustix::fs::openat(folder, name, flags, Mode::from_raw_mode(mode))
                    .map_err(failed("openat"))?,
            );
        }
        Entry::Link(target) => rustix::fs::symlinkat(target, folder, name).map_err(failed("symlinkat"))?,
    }
    set_owner(folder, name, owner)
}

pub(crate) fn set_owner(folder: impl AsFd, name: &str, (uid, gid): (u32, u32)) -> Result<()> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    rustix::fs::chownat(folder, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|e| Error::new("fchownat", name, e))
}

/// Who a file belongs to, and its permissions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owned {
    /// Owner
    pub uid: u32,
    /// Group
    pub gid: u32,
    /// Permission bits with setuid, setgid and sticky
    pub mode: u32,
}

/// Owner and permissions of a path of the host.
///
/// # Errors
/// The kernel's.
pub fn owned(path: &Path) -> Result<Owned> {
    let stat = rustix::fs::stat(path).map_err(|e| Error::new("stat", path.display().to_string(), e))?;
    Ok(Owned {
        uid: stat.st_uid,
        gid: stat.st_gid,
        mode: stat.st_mode & 0o7777,
    })
}

/// Gives a directory of the host an owner and permissions; a link is not followed.
///
/// # Errors
/// The kernel's.
pub fn give_directory(path: &Path, to: Owned) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let failed = |call| move |e| Error::new(call, path.display().to_string(), e);
    let folder = rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(failed("openat"))?;
    let (uid, gid) = (Uid::from_raw(to.uid), Gid::from_raw(to.gid));
    rustix::fs::fchown(&folder, Some(uid), Some(gid)).map_err(failed("fchown"))?;
    rustix::fs::fchmod(&folder, Mode::from_raw_mode(to.mode)).map_err(failed("fchmod"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn jail() -> (tempfile::TempDir, Root) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("root")).unwrap();
        let root = Root::open(&folder.path().join("root")).unwrap();
        (folder, root)
    }

    #[test]
    fn makes_parents_inside_whatever_links_say() {
        let (folder, root) = jail();
        let base = folder.path().join("root");
        symlink("/", base.join("abs")).unwrap();
        symlink("../../..", base.join("up")).unwrap();
        symlink("/missing/deep", base.join("dangling")).unwrap();
        root.directory(Path::new("/abs/one/two")).unwrap();
        root.directory(Path::new("up/three")).unwrap();
        root.file(Path::new("/dangling/file")).unwrap();
        symlink("missing/other", base.join("dangling-file")).unwrap();
        root.file(Path::new("/dangling-file")).unwrap();
        for made in ["one/two", "three", "missing/deep/file", "missing/other"] {
            assert!(base.join(made).exists(), "{made}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn refuses_loops_magic_links_and_made_up_parents() {
        let (folder, root) = jail();
        let base = folder.path().join("root");
        symlink("loop", base.join("loop")).unwrap();
        symlink("b", base.join("a")).unwrap();
        symlink("a/x", base.join("b")).unwrap();
        assert!(root.directory(Path::new("/loop/x")).unwrap_err().is(libc::ELOOP));
        assert!(root.directory(Path::new("/a")).unwrap_err().is(libc::ELOOP));
        assert!(root.directory(Path::new("/missing/../x/..")).is_err());
        assert!(
            root.directory_exact(Path::new("/loop"))
                .unwrap_err()
                .is(libc::ELOOP)
        );
        std::fs::write(base.join("plain"), "").unwrap();
        assert!(
            root.directory_exact(Path::new("/plain"))
                .unwrap_err()
                .is(libc::ENOTDIR)
        );
        assert!(
            root.directory(Path::new("/plain/x"))
                .unwrap_err()
                .is(libc::ENOTDIR)
        );
        let host = Root::open(Path::new("/")).unwrap();
        assert!(
            host.resolve(Path::new("/proc/self/fd/0"))
                .unwrap_err()
                .is(libc::ELOOP)
        );
    }
}
