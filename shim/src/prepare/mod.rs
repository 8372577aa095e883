//! What the host's root opens before the child exists: every source of a mount, as a detached mount. The child
//! only attaches them, and never names a path of the host again.

mod dev;
mod overlay;
pub(crate) mod spaces;
mod volume;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use criquet_proto::shim::{Cgroup, Device, Mount, Plan, failed::Kind, mount};
use criquet_sys::mount::{self as sys_mount, Attributes};

use crate::child::{About as _, Failure};
pub(crate) use dev::Dev;
use spaces::Spaces;
pub(crate) use volume::attributes;

/// Where /dev/shm belongs.
pub(crate) const SHM: &str = "/dev/shm";
pub(crate) const DEV: &str = "/dev";

/// The source of one mount of the plan.
#[derive(Debug)]
pub(crate) enum Source {
    /// A new file system, which the child makes in its own namespaces.
    Fresh,
    /// A finished detached mount.
    Tree(OwnedFd),
    /// The container's v1 cgroups: controllers and the mount of the folder.
    Cgroups(Vec<(String, OwnedFd)>),
}

/// Everything that was opened for one container.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) rootfs: OwnedFd,
    /// One for each mount of the plan.
    pub(crate) mounts: Vec<Source>,
    /// None: the plan mounts something else on /dev.
    pub(crate) dev: Option<Dev>,
    /// The pod's /dev/shm.
    pub(crate) shm: Option<OwnedFd>,
    /// Devices outside of /dev, by their index in the plan.
    pub(crate) elsewhere: Vec<(usize, OwnedFd)>,
}

impl Prepared {
    /// All descriptors, for a child that closes the others.
    pub(crate) fn fds(&self) -> Vec<BorrowedFd<'_>> {
        let mut fds = vec![self.rootfs.as_fd()];
        for source in &self.mounts {
            match source {
                Source::Fresh => {}
                Source::Tree(fd) => fds.push(fd.as_fd()),
                Source::Cgroups(list) => fds.extend(list.iter().map(|(_, fd)| fd.as_fd())),
            }
        }
        fds.extend(self.dev.iter().flat_map(Dev::fds));
        fds.extend(self.shm.iter().map(AsFd::as_fd));
        fds.extend(self.elsewhere.iter().map(|(_, fd)| fd.as_fd()));
        fds
    }
}

/// What can be told of a plan without a kernel, for the fuzzers.
#[cfg(feature = "fuzzing")]
pub(crate) fn check(plan: &Plan) {
    if let Ok(spaces) = Spaces::of(plan, &[]) {
        assert!(
            !spaces.needs_host_sysfs(),
            "a user namespace without a descriptor"
        );
    }
    if let Ok(ids) = spaces::Ids::of(plan) {
        ids.host_owner(u32::MAX, u32::MAX);
    }
    for device in &plan.devices {
        let name = dev::name(&device.path).unwrap_or_default();
        assert!(
            !name.starts_with('/') && !name.split('/').any(|part| part == ".."),
            "{name:?}"
        );
    }
    for mount in &plan.mounts {
        volume::attributes(mount);
        volume::propagation(mount.propagation());
    }
}

/// Opens everything.
pub(crate) fn prepare(plan: &Plan, spaces: &Spaces<'_>) -> Result<Prepared, Failure> {
    let rootfs = plan
        .rootfs
        .as_ref()
        .ok_or_else(|| Failure::invalid("a plan without a root"))?;
    let scratch = Path::new(&plan.state_dir);
    let own_dev = !plan.mounts.iter().any(|m| m.target == DEV);
    Ok(Prepared {
        rootfs: overlay::rootfs(rootfs, spaces, scratch).about(|| "root of the container".into())?,
        mounts: plan
            .mounts
            .iter()
            .map(|m| source(m, plan, spaces))
            .collect::<Result<_, _>>()?,
        dev: own_dev
            .then(|| dev::build(plan, spaces))
            .transpose()
            .about(|| DEV.into())?,
        shm: (!plan.shm_source.is_empty())
            .then(|| shm(&plan.shm_source))
            .transpose()
            .about(|| SHM.into())?,
        elsewhere: elsewhere(&plan.devices)?,
    })
}

fn source(mount: &Mount, plan: &Plan, spaces: &Spaces<'_>) -> Result<Source, Failure> {
    let tree = match mount.kind() {
        mount::Kind::Bind => volume::bind(mount, spaces).map(Source::Tree),
        mount::Kind::Image => volume::image(mount, spaces, Path::new(&plan.state_dir)).map(Source::Tree),
        mount::Kind::Cgroup => cgroups(plan.cgroup.as_ref(), plan.writable_sys),
        mount::Kind::Sysfs if spaces.needs_host_sysfs() => {
            volume::host_sysfs(plan.writable_sys).map(Source::Tree)
        }
        _ => Ok(Source::Fresh),
    };
    tree.about(|| format!("mount {}", mount.target))
}

/// v1: the container's own folder in every hierarchy. The unified hierarchy of a hybrid host stays hidden: its files
/// would make programs believe that they are on a v2 host.
fn cgroups(cgroup: Option<&Cgroup>, writable: bool) -> Result<Source, Failure> {
    let Some(cgroup) = cgroup.filter(|c| !c.v2) else {
        return Ok(Source::Fresh);
    };
    let shown = cgroup
        .dirs
        .iter()
        .filter(|dir| dir.controllers != "unified" && !dir.controllers.is_empty());
    let open = |dir: &criquet_proto::shim::cgroup::Dir| {
        // Proves that it is a cgroup before it is shown as one.
        criquet_sys::cgroup::open(Path::new(&dir.path))?;
        let tree = sys_mount::clone_path(Path::new(&dir.path), false)?;
        sys_mount::forbid(
            &tree,
            Attributes {
                readonly: !writable,
                ..Attributes::DATA
            },
            false,
        )?;
        sys_mount::set_propagation(&tree, sys_mount::Propagation::Private, false)?;
        Ok((dir.controllers.clone(), tree))
    };
    shown
        .map(open)
        .collect::<Result<_, Failure>>()
        .map(Source::Cgroups)
}

fn shm(source: &str) -> Result<OwnedFd, Failure> {
    let mount = sys_mount::clone_path(Path::new(source), false)?;
    sys_mount::forbid(&mount, Attributes::DATA, false)?;
    sys_mount::set_propagation(&mount, sys_mount::Propagation::Private, false)?;
    Ok(mount)
}

fn elsewhere(devices: &[Device]) -> Result<Vec<(usize, OwnedFd)>, Failure> {
    let outside = devices
        .iter()
        .enumerate()
        .filter(|(_, device)| dev::name(&device.path).is_none());
    outside
        .map(|(i, device)| Ok((i, dev::clone_host(device)?)))
        .collect()
}

impl Failure {
    /// The plan contradicts itself.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self {
            kind: Kind::Invalid,
            message: message.into(),
        }
    }

    /// Something led where it must not.
    pub(crate) fn safety(message: impl Into<String>) -> Self {
        Self {
            kind: Kind::SafetyViolation,
            message: message.into(),
        }
    }
}
