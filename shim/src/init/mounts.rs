//! The plan's mounts, each onto a descriptor that was walked inside the root.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use criquet_proto::shim::{Mount, mount::Kind};
use criquet_sys::mount::{self, Attributes};
use criquet_sys::path::{self, Entry, FileKind, Root};
use criquet_sys::procfs;

use super::Init;
use crate::child::{About as _, Failure};
use crate::prepare::{Source, attributes};

/// Files below /proc that something may be bound onto: lxcfs shows a container's own figures there (the list of
/// every other runtime). Anything else would make procfs lie to programs and to init.
const PROC_FILES: [&str; 9] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/sys/kernel/ns_last_pid",
];
/// Holds a folder and a few links a hierarchy.
const CGROUP_OPTIONS: [(&str, Option<&str>); 2] = [("mode", Some("755")), ("size", Some("64k"))];

pub(super) fn attach(init: &mut Init<'_>) -> Result<(), Failure> {
    let plan = init.birth.plan;
    for (mount, source) in plan.mounts.iter().zip(&init.birth.prepared.mounts) {
        one(&init.root, mount, source, plan.writable_sys).about(|| mount.target.clone())?;
    }
    for (index, node) in &init.birth.prepared.elsewhere {
        if let Some(device) = plan.devices.get(*index) {
            place(&init.root, &device.path, node).about(|| device.path.clone())?;
        }
    }
    Ok(())
}

fn one(root: &Root, mount: &Mount, source: &Source, writable_sys: bool) -> Result<(), Failure> {
    let system = Attributes {
        readonly: mount.readonly,
        ..Attributes::DATA
    };
    let sysfs = Attributes {
        readonly: mount.readonly || !writable_sys,
        ..Attributes::DATA
    };
    let target = Path::new(&mount.target);
    match (mount.kind(), source) {
        (Kind::Proc, _) => exactly(root, target, mount::new("proc", &options(mount), system)?),
        (Kind::Sysfs, Source::Tree(tree)) => exactly(root, target, tree),
        (Kind::Sysfs, _) => exactly(root, target, mount::new("sysfs", &options(mount), sysfs)?),
        (Kind::Cgroup, Source::Cgroups(list)) => cgroups(root, target, list, sysfs),
        (Kind::Cgroup, _) => exactly(root, target, mount::new("cgroup2", &options(mount), sysfs)?),
        (Kind::Mqueue, _) => place(
            root,
            &mount.target,
            mount::new("mqueue", &options(mount), attributes(mount))?,
        ),
        (Kind::Tmpfs, _) => place(
            root,
            &mount.target,
            mount::new("tmpfs", &options(mount), attributes(mount))?,
        ),
        (Kind::Bind | Kind::Image, Source::Tree(tree)) => place(root, &mount.target, tree),
        (Kind::Bind | Kind::Image, _) => Err(Failure::invalid("a mount without a source")),
    }
}

fn options(mount: &Mount) -> Vec<(&str, Option<&str>)> {
    mount
        .options
        .iter()
        .map(|option| mount::split_option(option))
        .collect()
}

/// A file system of the kernel, that other things rely on: an image has no say in where it is (CVE-2019-19921).
fn exactly(root: &Root, target: &Path, mount: impl AsFd) -> Result<(), Failure> {
    let folder = root
        .directory_exact(target)
        .map_err(|error| match error.errno() {
            Some(criquet_sys::errno::ENOTDIR) => Failure::safety(format!("not a directory: {error}")),
            _ => error.into(),
        })?;
    Ok(mount::attach(mount, folder)?)
}

/// Anything else: links are followed inside the root.
fn place(root: &Root, target: &str, tree: impl AsFd) -> Result<(), Failure> {
    let path = Path::new(target);
    let point = match path::kind(&tree)? {
        FileKind::Directory => root.directory(path)?,
        _ => root.file(path)?,
    };
    if procfs::is_procfs(&point)?
        && !PROC_FILES.contains(&target)
        && !(target == "/proc" && procfs::is_procfs(&tree)?)
    {
        return Err(Failure::safety("a mount onto procfs"));
    }
    Ok(mount::attach(tree, point)?)
}

/// v1: a folder with one mount for each hierarchy, and the usual links from single controllers.
fn cgroups(
    root: &Root,
    target: &Path,
    list: &[(String, OwnedFd)],
    attributes: Attributes,
) -> Result<(), Failure> {
    let folder = mount::new("tmpfs", &CGROUP_OPTIONS, Attributes::DATA)?;
    exactly(root, target, &folder)?;
    let inside = Root::from(folder.try_clone().map_err(crate::child::internal)?);
    for (controllers, tree) in list {
        let name = controllers.strip_prefix("name=").unwrap_or(controllers);
        let point = inside.directory_exact(Path::new(name))?;
        mount::attach(tree, point).about(|| name.into())?;
        if name.contains(',') {
            for single in name.split(',') {
                path::make_entry(&folder, single, Entry::Link(name), (0, 0))?;
            }
        }
    }
    Ok(mount::forbid(
        &folder,
        Attributes {
            readonly: attributes.readonly,
            ..Attributes::default()
        },
        false,
    )?)
}
