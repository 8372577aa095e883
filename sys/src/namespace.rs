//! Namespaces: made, pinned as files, joined.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, ThreadNameSpaceType, UnshareFlags};

use crate::{Error, Result, mount, pidfd, process, procfs};

/// Entries in a user namespace's map at most (user_namespaces(7); before Linux 4.15 it was 5).
pub const ID_MAPS_MAX: usize = 340;

/// A kind of namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// network
    Net,
    /// System V IPC and POSIX message queues
    Ipc,
    /// host name
    Uts,
    /// ids and capabilities
    User,
    /// mounts
    Mount,
    /// process ids; concerns the children of the caller
    Pid,
    /// cgroup root
    Cgroup,
}

impl Kind {
    /// Its name in /proc/PID/ns.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Net => "net",
            Self::Ipc => "ipc",
            Self::Uts => "uts",
            Self::User => "user",
            Self::Mount => "mnt",
            Self::Pid => "pid",
            Self::Cgroup => "cgroup",
        }
    }

    pub(crate) const fn flag(self) -> i32 {
        match self {
            Self::Net => libc::CLONE_NEWNET,
            Self::Ipc => libc::CLONE_NEWIPC,
            Self::Uts => libc::CLONE_NEWUTS,
            Self::User => libc::CLONE_NEWUSER,
            Self::Mount => libc::CLONE_NEWNS,
            Self::Pid => libc::CLONE_NEWPID,
            Self::Cgroup => libc::CLONE_NEWCGROUP,
        }
    }

    fn link(self) -> LinkNameSpaceType {
        match self {
            Self::Net => LinkNameSpaceType::Network,
            Self::Ipc => LinkNameSpaceType::InterProcessCommunication,
            Self::Uts => LinkNameSpaceType::HostNameAndNISDomainName,
            Self::User => LinkNameSpaceType::User,
            Self::Mount => LinkNameSpaceType::Mount,
            Self::Pid => LinkNameSpaceType::ProcessID,
            Self::Cgroup => LinkNameSpaceType::ControlGroup,
        }
    }
}

fn names(kinds: &[Kind]) -> String {
    kinds.iter().map(|k| k.name()).collect::<Vec<_>>().join(" ")
}

/// Joins the namespace that `fd` names.
///
/// # Errors
/// EINVAL: it is of another kind, or the caller's own user namespace.
pub fn join(fd: impl AsFd, kind: Kind) -> Result<()> {
    rustix::thread::move_into_link_name_space(fd.as_fd(), Some(kind.link()))
        .map_err(|e| Error::new("setns", kind.name(), e))
}

/// Joins several namespaces of a process at once.
///
/// # Errors
/// ESRCH: it has ended.
pub fn join_process(pidfd: impl AsFd, kinds: &[Kind]) -> Result<()> {
    let bits = kinds.iter().fold(0, |bits, kind| bits | kind.flag());
    let flags = ThreadNameSpaceType::from_bits_retain(bits.unsigned_abs());
    rustix::thread::move_into_thread_name_spaces(pidfd.as_fd(), flags)
        .map_err(|e| Error::new("setns", names(kinds), e))
}

/// Moves the calling thread into new namespaces. Memory and descriptors stay shared.
///
/// # Errors
/// The kernel's.
pub fn unshare(kinds: &[Kind]) -> Result<()> {
    let bits = kinds.iter().fold(0, |bits, kind| bits | kind.flag());
    let flags = UnshareFlags::from_bits_retain(bits.unsigned_abs());
    // SAFETY: no Kind stands for CLONE_FILES, the one flag that can invalidate descriptors.
    unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(|e| Error::new("unshare", names(kinds), e))
}

/// The calling thread's own namespace.
///
/// # Errors
/// The kernel's.
pub fn current(kind: Kind) -> Result<OwnedFd> {
    open(Path::new(&format!("/proc/thread-self/ns/{}", kind.name())))
}

/// A pinned namespace, or any namespace file.
///
/// # Errors
/// The kernel's.
pub fn open(path: &Path) -> Result<OwnedFd> {
    File::open(path)
        .map(OwnedFd::from)
        .map_err(|e| Error::new("open", path.display().to_string(), e))
}

/// What is pinned.
#[derive(Debug)]
pub enum Source<'a> {
    /// The namespace that the descriptor names.
    Fd(BorrowedFd<'a>),
    /// The calling thread's own.
    Current(Kind),
}

/// Keeps a namespace alive as a file: an empty file at `path` is made if missing, and the namespace is bound to it.
/// [`mount::unmount_detach`] and unlink undo it.
///
/// # Errors
/// The kernel's.
pub fn pin(source: &Source<'_>, path: &Path) -> Result<()> {
    let mount = match source {
        Source::Fd(fd) => mount::clone_fd(fd, false)?,
        Source::Current(kind) => mount::clone_fd(current(*kind)?, false)?,
    };
    File::options()
        .create(true)
        .append(true)
        .open(path)
        .map_err(|e| Error::new("create", path.display().to_string(), e))?;
    mount::attach_path(mount, path)
}

/// Which namespaces to make.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kinds {
    /// Network
    pub net: bool,
    /// IPC
    pub ipc: bool,
    /// Host name
    pub uts: bool,
}

impl Kinds {
    fn list(self) -> Vec<Kind> {
        [
            (self.net, Kind::Net),
            (self.ipc, Kind::Ipc),
            (self.uts, Kind::Uts),
        ]
        .into_iter()
        .filter_map(|(wanted, kind)| wanted.then_some(kind))
        .collect()
    }
}

/// One range of ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdMap {
    /// First id inside.
    pub container: u32,
    /// First id on the host.
    pub host: u32,
    /// So many.
    pub length: u32,
}

/// The maps of a user namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Maps {
    /// User ids
    pub uids: Vec<IdMap>,
    /// Group ids
    pub gids: Vec<IdMap>,
}

impl Maps {
    /// Text for /proc/PID/uid_map.
    fn text(maps: &[IdMap]) -> String {
        maps.iter()
            .map(|m| format!("{} {} {}\n", m.container, m.host, m.length))
            .collect()
    }
}

/// What [`create`] made.
#[derive(Debug, Default)]
pub struct Namespaces {
    /// Network
    pub net: Option<OwnedFd>,
    /// IPC
    pub ipc: Option<OwnedFd>,
    /// Host name
    pub uts: Option<OwnedFd>,
    /// User, when maps were given; it owns the others.
    pub user: Option<OwnedFd>,
}

/// Makes namespaces, owned by a new user namespace when maps are given. May be called from any thread; blocks
/// for about a millisecond.
///
/// # Errors
/// ENOSPC: a limit of /proc/sys/user; EINVAL: bad maps.
pub fn create(kinds: Kinds, user: Option<&Maps>) -> Result<Namespaces> {
    match user {
        None if kinds == Kinds::default() => Ok(Namespaces::default()),
        None => on_fresh_thread(|| {
            unshare(&kinds.list())?;
            gather(kinds, current)
        })?,
        Some(maps) => create_owned(kinds, maps),
    }
}

fn gather(kinds: Kinds, open: impl Fn(Kind) -> Result<OwnedFd>) -> Result<Namespaces> {
    Ok(Namespaces {
        net: kinds.net.then(|| open(Kind::Net)).transpose()?,
        ipc: kinds.ipc.then(|| open(Kind::Ipc)).transpose()?,
        uts: kinds.uts.then(|| open(Kind::Uts)).transpose()?,
        user: None,
    })
}

fn create_owned(kinds: Kinds, maps: &Maps) -> Result<Namespaces> {
    if maps.uids.is_empty() || maps.gids.is_empty() || maps.uids.len().max(maps.gids.len()) > ID_MAPS_MAX {
        return Err(Error::new(
            "clone3",
            format!("user namespace of {} maps", maps.uids.len()),
            Errno::INVAL,
        ));
    }
    let rest = kinds.list().iter().fold(0, |bits, kind| bits | kind.flag());
    let holder = process::hold_user_namespace(rest)?;
    let pid = holder.pid;
    let made = (|| {
        procfs::write(&format!("{pid}/uid_map"), Maps::text(&maps.uids).as_bytes())?;
        procfs::write(&format!("{pid}/gid_map"), Maps::text(&maps.gids).as_bytes())?;
        holder.go_on()?;
        let file = |kind: Kind| open(Path::new(&format!("/proc/{pid}/ns/{}", kind.name())));
        Ok(Namespaces {
            user: Some(file(Kind::User)?),
            ..gather(kinds, file)?
        })
    })();
    drop(pidfd::signal(&holder.pidfd, libc::SIGKILL));
    pidfd::reap(pid)?;
    made
}

/// Runs `work` on a fresh thread that has joined the namespaces, in the order given, and ends with it. Sysctl
/// writes of that thread ([`procfs::write`] `sys/…`) go to those namespaces; a user namespace cannot be joined
/// by a thread.
///
/// # Errors
/// The kernel's at joining.
pub fn inside<R: Send>(namespaces: &[(BorrowedFd<'_>, Kind)], work: impl FnOnce() -> R + Send) -> Result<R> {
    on_fresh_thread(|| {
        for (fd, kind) in namespaces {
            join(fd, *kind)?;
        }
        Ok(work())
    })?
}

/// [`inside`] one network namespace.
///
/// # Errors
/// The kernel's at joining.
pub fn in_netns<R: Send>(fd: BorrowedFd<'_>, work: impl FnOnce() -> R + Send) -> Result<R> {
    inside(&[(fd, Kind::Net)], work)
}

fn on_fresh_thread<R: Send>(work: impl FnOnce() -> R + Send) -> Result<R> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("namespace".into())
            .spawn_scoped(scope, work);
        let thread = thread.map_err(|e| Error::new("clone3", "thread", e))?;
        thread
            .join()
            .map_err(|_| Error::new("thread", "panicked", std::io::Error::other("in a namespace")))
    })
}

/// Sets the host name of the calling thread's UTS namespace.
///
/// # Errors
/// EINVAL: longer than 64 bytes.
pub fn set_hostname(name: &str) -> Result<()> {
    rustix::system::sethostname(name.as_bytes()).map_err(|e| Error::new("sethostname", name, e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    fn inode(fd: &OwnedFd) -> u64 {
        rustix::fs::fstat(fd).unwrap().st_ino
    }

    #[test]
    fn makes_pins_and_joins() {
        let made = create(
            Kinds {
                net: true,
                ipc: true,
                uts: true,
            },
            None,
        )
        .unwrap();
        let net = made.net.as_ref().unwrap();
        assert_ne!(inode(net), inode(&current(Kind::Net).unwrap()));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("net");
        pin(&Source::Fd(net.as_fd()), &path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().ino(), inode(net));
        let pinned = open(&path).unwrap();
        let seen = in_netns(pinned.as_fd(), || {
            procfs::write("sys/net/ipv4/ip_unprivileged_port_start", b"0").unwrap();
            inode(&current(Kind::Net).unwrap())
        });
        assert_eq!(seen.unwrap(), inode(net));
        assert_eq!(
            procfs::read("sys/net/ipv4/ip_unprivileged_port_start", 16).unwrap(),
            "1024\n"
        );
        mount::unmount_detach(&path).unwrap();
    }

    #[test]
    fn a_user_namespace_owns_the_others() {
        let map = vec![IdMap {
            container: 0,
            host: 100_000,
            length: 65_536,
        }];
        let maps = Maps {
            uids: map.clone(),
            gids: map,
        };
        let made = create(
            Kinds {
                net: true,
                ipc: false,
                uts: true,
            },
            Some(&maps),
        )
        .unwrap();
        assert!(made.ipc.is_none());
        // NS_GET_USERNS, ioctl_nsfs(2).
        const GET_OWNER: libc::Ioctl = 0xb701;
        use std::os::fd::AsRawFd as _;
        // SAFETY: the ioctl takes no argument and gives a new descriptor.
        let owner = unsafe { libc::ioctl(made.net.as_ref().unwrap().as_raw_fd(), GET_OWNER) };
        assert!(owner >= 0);
        use std::os::fd::FromRawFd as _;
        // SAFETY: just made.
        let owner = unsafe { OwnedFd::from_raw_fd(owner) };
        assert_eq!(inode(&owner), inode(made.user.as_ref().unwrap()));
    }

    #[test]
    fn bad_maps_are_refused() {
        let map = vec![IdMap {
            container: 0,
            host: 0,
            length: 0,
        }];
        assert!(
            create(
                Kinds::default(),
                Some(&Maps {
                    uids: map.clone(),
                    gids: map
                })
            )
            .is_err()
        );
        assert!(
            create(
                Kinds::default(),
                Some(&Maps {
                    uids: vec![],
                    gids: vec![]
                })
            )
            .is_err()
        );
    }
}
