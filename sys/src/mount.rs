//! Mounts by descriptor (fsopen(2), open_tree(2), mount_setattr(2), move_mount(2)), and the few calls by path
//! that the daemon needs for its own folders.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags,
};

use crate::{Error, Result};

/// Bytes of a kernel message about a failed fsconfig(2) that are kept.
const MESSAGE_BYTES_MAX: usize = 512;
/// `MOUNT_ATTR_IDMAP`, Linux 5.12.
const ATTR_IDMAP: u64 = 0x0010_0000;

/// What a mount forbids.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// `ro`
    pub readonly: bool,
    /// `nosuid`
    pub nosuid: bool,
    /// `nodev`
    pub nodev: bool,
    /// `noexec`
    pub noexec: bool,
}

impl Attributes {
    /// Nothing is allowed but reading and writing of files.
    pub const DATA: Self = Self {
        readonly: false,
        nosuid: true,
        nodev: true,
        noexec: true,
    };

    fn flags(self) -> MountAttrFlags {
        let mut flags = MountAttrFlags::empty();
        flags.set(MountAttrFlags::MOUNT_ATTR_RDONLY, self.readonly);
        flags.set(MountAttrFlags::MOUNT_ATTR_NOSUID, self.nosuid);
        flags.set(MountAttrFlags::MOUNT_ATTR_NODEV, self.nodev);
        flags.set(MountAttrFlags::MOUNT_ATTR_NOEXEC, self.noexec);
        flags
    }
}

/// Where mount events under a mount go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// Nowhere.
    Private,
    /// They come in, and do not go out.
    Slave,
    /// Both ways.
    Shared,
}

/// A new file system `kind` with mount options, as a detached mount.
///
/// # Errors
/// The kernel's, with its own message where it left one (an unknown option, a missing layer).
pub fn new(kind: &str, options: &[(&str, Option<&str>)], attributes: Attributes) -> Result<OwnedFd> {
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)
        .map_err(|e| Error::new("fsopen", kind, e))?;
    for (key, value) in options {
        let done = match value {
            Some(value) => rustix::mount::fsconfig_set_string(&context, *key, *value),
            None => rustix::mount::fsconfig_set_flag(&context, *key),
        };
        done.map_err(|e| {
            refused(
                "fsconfig",
                &context,
                format!("{kind} {key}={}", value.unwrap_or_default()),
                e,
            )
        })?;
    }
    rustix::mount::fsconfig_create(&context)
        .map_err(|e| refused("fsconfig(CREATE)", &context, kind.into(), e))?;
    rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes.flags())
        .map_err(|e| refused("fsmount", &context, kind.into(), e))
}

/// The error with what the kernel wrote into the context's log (fsopen(2), "message retrieval").
fn refused(call: &'static str, context: &OwnedFd, object: String, errno: Errno) -> Error {
    let mut message = [0; MESSAGE_BYTES_MAX];
    let object = match rustix::io::read(context, &mut message) {
        Ok(n) => format!("{object} ({})", String::from_utf8_lossy(&message[..n]).trim()),
        Err(_) => object,
    };
    Error::new(call, object, errno)
}

/// A detached copy of the mount at `path`, a symbolic link being followed; with `recursive` also of the mounts
/// below. Only mounts of the caller's own mount namespace can be copied.
///
/// # Errors
/// The kernel's.
pub fn clone_path(path: &Path, recursive: bool) -> Result<OwnedFd> {
    rustix::mount::open_tree(CWD, path, clone_flags(recursive))
        .map_err(|e| Error::new("open_tree", path.display().to_string(), e))
}

/// The same for the file that `fd` names.
///
/// # Errors
/// The kernel's.
pub fn clone_fd(fd: impl AsFd, recursive: bool) -> Result<OwnedFd> {
    rustix::mount::open_tree(fd, "", clone_flags(recursive) | OpenTreeFlags::AT_EMPTY_PATH)
        .map_err(|e| Error::new("open_tree", "descriptor", e))
}

fn clone_flags(recursive: bool) -> OpenTreeFlags {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    flags
}

/// Adds to what a mount forbids; takes nothing away.
///
/// # Errors
/// The kernel's.
pub fn forbid(mount: impl AsFd, attributes: Attributes, recursive: bool) -> Result<()> {
    let set = u64::from(attributes.flags().bits());
    if set == 0 {
        return Ok(());
    }
    set_attributes(
        mount.as_fd(),
        &Setting {
            set,
            clear: 0,
            propagation: 0,
            userns: 0,
        },
        recursive,
    )
}

/// Sets where mount events go.
///
/// # Errors
/// The kernel's.
pub fn set_propagation(mount: impl AsFd, propagation: Propagation, recursive: bool) -> Result<()> {
    let propagation = u64::from(propagation_flags(propagation).bits());
    set_attributes(
        mount.as_fd(),
        &Setting {
            set: 0,
            clear: 0,
            propagation,
            userns: 0,
        },
        recursive,
    )
}

/// Shows the owners of a detached mount's files through the maps of a user namespace (Linux 5.12).
///
/// # Errors
/// EINVAL: the file system cannot do that.
pub fn map_ids(mount: impl AsFd, user_namespace: impl AsFd, recursive: bool) -> Result<()> {
    let userns = u64::from(user_namespace.as_fd().as_raw_fd().unsigned_abs());
    set_attributes(
        mount.as_fd(),
        &Setting {
            set: ATTR_IDMAP,
            clear: 0,
            propagation: 0,
            userns,
        },
        recursive,
    )
}

fn propagation_flags(propagation: Propagation) -> MountPropagationFlags {
    match propagation {
        Propagation::Private => MountPropagationFlags::PRIVATE,
        Propagation::Slave => MountPropagationFlags::DOWNSTREAM,
        Propagation::Shared => MountPropagationFlags::SHARED,
    }
}

/// `struct mount_attr` of mount_setattr(2).
#[repr(C)]
struct Setting {
    set: u64,
    clear: u64,
    propagation: u64,
    userns: u64,
}

fn set_attributes(mount: BorrowedFd<'_>, setting: &Setting, recursive: bool) -> Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path and the structure live through the call, and the size is the structure's own.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(setting),
            size_of::<Setting>(),
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(Error::last(
            "mount_setattr",
            format!("set {:#x} propagation {:#x}", setting.set, setting.propagation),
        ))
    }
}

/// Puts a detached mount onto the file or directory that `target` names. `target` must have been opened in the
/// caller's own mount namespace.
///
/// # Errors
/// ENOTDIR: one is a directory and the other is not.
pub fn attach(mount: impl AsFd, target: impl AsFd) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(mount, "", target, "", flags)
        .map_err(|e| Error::new("move_mount", "descriptor", e))
}

/// Puts a detached mount onto the working directory, which needs no search permission this way.
///
/// # Errors
/// The kernel's.
pub fn attach_here(mount: impl AsFd) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(mount, "", CWD, "", flags)
        .map_err(|e| Error::new("move_mount", "working directory", e))
}

/// Puts a detached mount onto `path`.
///
/// # Errors
/// The kernel's.
pub fn attach_path(mount: impl AsFd, path: &Path) -> Result<()> {
    rustix::mount::move_mount(mount, "", CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(|e| Error::new("move_mount", path.display().to_string(), e))
}

/// Sets the propagation of every mount of the caller's mount namespace.
///
/// # Errors
/// The kernel's.
pub fn set_namespace_propagation(propagation: Propagation) -> Result<()> {
    rustix::mount::mount_change("/", propagation_flags(propagation) | MountPropagationFlags::REC)
        .map_err(|e| Error::new("mount", "propagation of /", e))
}

/// Makes the attached mount `root` the root of the caller's mount namespace, and lets go of the old one.
/// The working directory is then `/`.
///
/// # Errors
/// The kernel's.
pub fn pivot(root: impl AsFd) -> Result<()> {
    rustix::process::fchdir(root).map_err(|e| Error::new("fchdir", "new root", e))?;
    // pivot_root(2), "pivot_root(".", ".")": the old root ends up on top of the new one.
    rustix::process::pivot_root(".", ".").map_err(|e| Error::new("pivot_root", ".", e))?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).map_err(|e| Error::new("umount2", "old root", e))?;
    rustix::process::chdir("/").map_err(|e| Error::new("chdir", "/", e))
}

/// The old mount(2) call with an option string, for what fsconfig(2) of older kernels cannot say.
///
/// # Errors
/// The kernel's.
pub fn by_string(kind: &str, path: &Path, options: &str) -> Result<()> {
    let data =
        CString::new(options).map_err(|_| Error::new("mount", "options with a zero byte", Errno::INVAL))?;
    rustix::mount::mount(kind, path, kind, MountFlags::empty(), data.as_c_str())
        .map_err(|e| Error::new("mount", format!("{kind} on {}", path.display()), e))
}

/// A new tmpfs at `path` (nosuid, nodev, noexec), with options such as `size=64m,mode=1777`.
///
/// # Errors
/// The kernel's.
pub fn tmpfs(path: &Path, options: &str) -> Result<()> {
    let options: Vec<_> = options
        .split(',')
        .filter(|o| !o.is_empty())
        .map(split_option)
        .collect();
    attach_path(new("tmpfs", &options, Attributes::DATA)?, path)
}

/// `key=value` or `key`.
#[must_use]
pub fn split_option(option: &str) -> (&str, Option<&str>) {
    option
        .split_once('=')
        .map_or((option, None), |(key, value)| (key, Some(value)))
}

/// Takes a mount away from the tree now, and lets the kernel drop it when its last user is gone. Nothing
/// mounted there is no error; a symbolic link is not followed.
///
/// # Errors
/// The kernel's.
pub fn unmount_detach(path: &Path) -> Result<()> {
    match rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        Err(e) => Err(Error::new("umount2", path.display().to_string(), e)),
    }
}

/// Whether something is mounted exactly at `path`. False when it does not exist.
///
/// # Errors
/// The kernel's.
pub fn is_mountpoint(path: &Path) -> Result<bool> {
    match rustix::fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty()) {
        Ok(stat) => Ok(stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
        Err(e) => Err(Error::new("statx", path.display().to_string(), e)),
    }
}

/// Whether the file system at `path` can show its files with mapped owners, tried with a user namespace.
#[must_use]
pub fn can_map_ids(path: &Path, user_namespace: impl AsFd) -> bool {
    clone_path(path, false)
        .and_then(|mount| map_ids(mount, user_namespace, false))
        .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_options() {
        assert_eq!(split_option("mode=1777"), ("mode", Some("1777")));
        assert_eq!(split_option("noswap"), ("noswap", None));
    }

    #[test]
    fn a_refusal_carries_the_kernels_message() {
        let error = new("tmpfs", &[("size", Some("many"))], Attributes::DATA).unwrap_err();
        assert!(error.to_string().contains("size=many"), "{error}");
        assert!(error.is(libc::EINVAL));
    }

    #[test]
    fn knows_mount_points() {
        assert!(is_mountpoint(Path::new("/proc")).unwrap());
        assert!(!is_mountpoint(Path::new("/proc/self")).unwrap());
        assert!(!is_mountpoint(Path::new("/no/such/path")).unwrap());
    }

    #[test]
    fn a_tmpfs_comes_and_goes() {
        let folder = tempfile::tempdir().unwrap();
        tmpfs(folder.path(), "size=64k,mode=700").unwrap();
        assert!(is_mountpoint(folder.path()).unwrap());
        unmount_detach(folder.path()).unwrap();
        unmount_detach(folder.path()).unwrap();
        assert!(!is_mountpoint(folder.path()).unwrap());
    }
}
