//! The namespaces of a pod: made on a thread that ends, pinned as files, and taken away by letting go of them.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use criquet_proto::shim::Cgroup;
use criquet_sys::namespace::{self, Kind, Kinds, Maps, Source};
use criquet_sys::{mount, pidfd, procfs};

use super::config::{Ipc, Network, SandboxConfig, UserMaps};
use super::record::{files_dir, namespace_path};
use crate::container::cgroup;
use crate::fault::{Fault, OrFault, Result};

/// /proc/PID/cgroup: a line a hierarchy, of at most a path's length each.
const CGROUPS_BYTES_MAX: usize = 64 * 1024;

/// Makes the pod's namespaces, sets hostname and sysctls in them, and pins them below `dir`.
///
/// # Errors
/// The kernel refused; what was made is taken away with the sandbox.
pub fn make(dir: &Path, config: &SandboxConfig, hostname: &str) -> Result<()> {
    let pod_network = config.namespaces.network == Network::Pod;
    let kinds = Kinds {
        net: pod_network,
        uts: pod_network,
        ipc: config.namespaces.ipc == Ipc::Pod,
    };
    let maps = config.user.as_ref().map(maps);
    let made =
        namespace::create(kinds, maps.as_ref()).or_internal(|| "making the pod's namespaces".into())?;
    let files = dir.join("ns");
    std::fs::create_dir_all(&files).or_internal(|| format!("making {files:?}"))?;
    let each = [
        (Kind::Net, &made.net),
        (Kind::Ipc, &made.ipc),
        (Kind::Uts, &made.uts),
        (Kind::User, &made.user),
    ];
    for (kind, fd) in each {
        if let Some(fd) = fd {
            let path = namespace_path(dir, kind.name());
            namespace::pin(&Source::Fd(fd.as_fd()), &path)
                .or_internal(|| format!("pinning a namespace at {path:?}"))?;
        }
    }
    let joined: Vec<_> = each[..3]
        .iter()
        .filter_map(|(kind, fd)| fd.as_ref().map(|fd| (fd.as_fd(), *kind)))
        .collect();
    if !pod_network && config.sysctls.is_empty() {
        return Ok(());
    }
    namespace::inside(&joined, || {
        if pod_network {
            namespace::set_hostname(hostname).or_internal(|| "naming the pod".into())?;
        }
        for (name, value) in &config.sysctls {
            let path = format!("sys/{}", name.replace('.', "/"));
            procfs::write(&path, value.as_bytes())
                .map_err(|error| Fault::invalid(format!("setting sysctl {name}={value}: {error}")))?;
        }
        Ok(())
    })
    .or_internal(|| "joining the pod's namespaces".into())?
}

fn maps(user: &UserMaps) -> Maps {
    let convert = |maps: &[super::config::IdMap]| {
        maps.iter()
            .map(|map| namespace::IdMap {
                container: map.container_id,
                host: map.host_id,
                length: map.length,
            })
            .collect()
    };
    Maps {
        uids: convert(&user.uid),
        gids: convert(&user.gid),
    }
}

/// Opens a pinned namespace of the pod.
///
/// # Errors
/// `Unavailable`: it is not there, as after a reboot.
pub fn open(dir: &Path, kind: &str) -> Result<OwnedFd> {
    namespace::open(&namespace_path(dir, kind))
        .map_err(|error| Fault::unavailable(format!("joining the pod's {kind} namespace: {error}")))
}

/// Pins the pid namespace of the pod's init.
///
/// # Errors
/// The process has ended, or the kernel refused.
pub fn pin_pid(dir: &Path, pid: i32, id: &str) -> Result<()> {
    let fd = open_pid_of(pid, id)?;
    let path = namespace_path(dir, "pid");
    namespace::pin(&Source::Fd(fd.as_fd()), &path).or_internal(|| format!("pinning a namespace at {path:?}"))
}

/// The pid namespace that the process `pid`, in a cgroup of the pod or container `id`, is in. The process is looked
/// at before and after, so that a reused pid is noticed.
///
/// # Errors
/// `Unavailable`: it has ended.
pub fn open_pid_of(pid: i32, id: &str) -> Result<OwnedFd> {
    let doing = || format!("opening the pid namespace of process {pid}");
    let gone = |error: criquet_sys::Error| Fault::unavailable(format!("{}: {error}", doing()));
    let process = pidfd::open(pid).map_err(gone)?;
    let fd = namespace::open(Path::new(&format!("/proc/{pid}/ns/pid"))).map_err(gone)?;
    let cgroups = procfs::read(&format!("{pid}/cgroup"), CGROUPS_BYTES_MAX).map_err(gone)?;
    pidfd::signal(&process, 0).map_err(gone)?;
    if !cgroups.contains(id) {
        return Err(Fault::unavailable(format!(
            "{}: it is not in a cgroup of {id:?}",
            doing()
        )));
    }
    Ok(fd)
}

/// Takes the pins, the tmpfs, the pod's cgroups and the folder away. What is not there is done.
///
/// # Errors
/// All that did not work, in one sentence.
pub fn clear(dir: &Path, pod_cgroup: &Cgroup) -> Result<()> {
    let mut problems = Vec::new();
    for path in pins(dir).into_iter().chain([files_dir(dir)]) {
        if let Err(error) = unmount(&path) {
            problems.push(error.to_string());
        }
    }
    for cgroup in &pod_cgroup.dirs {
        if let Err(fault) = cgroup::remove(Path::new(&cgroup.path)) {
            problems.push(fault.message);
        }
    }
    // Never into something that is still mounted.
    if problems.is_empty() {
        match std::fs::remove_dir_all(dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                problems.push(format!("removing {dir:?}: {error}"));
            }
            _ => {}
        }
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(Fault::internal(problems.join("; ")))
    }
}

fn pins(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir.join("ns")) else {
        return Vec::new();
    };
    entries
        .filter_map(std::result::Result::ok)
        .map(|entry| entry.path())
        .collect()
}

fn unmount(path: &Path) -> criquet_sys::Result<()> {
    while path.exists() && mount::is_mountpoint(path)? {
        mount::unmount_detach(path)?;
    }
    Ok(())
}
