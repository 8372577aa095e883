//! A container request and an image become a plan: everything that the shim needs, resolved.
//!
//! Nothing here talks to a shim or changes a container. It looks at the host (devices, the image's files), makes
//! the folders of the writable layer and missing host folders of volumes; a caller runs it off the async threads.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use criquet_image::{Image, ImageConfig};
use criquet_proto::shim;

use crate::container::config::ContainerConfig;
use crate::fault::{Fault, OrFault, Result};
use crate::sandbox::config::SandboxConfig;

pub mod args;
pub mod capabilities;
mod cgroup;
mod cgroup_v1;
mod cgroup_v2;
mod device_program;
mod devices;
pub mod environment;
pub mod host;
pub mod identity;
mod labels;
mod layered;
mod mounts;
pub mod passwd;
mod propagation;
pub mod resources;
pub mod scope;
pub mod seccomp;
pub mod signal;

pub use cgroup::{container_cgroup_dir, container_cgroup_dirs, pod_cgroup, pod_parent_dirs};

/// Permissions that new files lack: what containerd, CRI-O and Docker set.
const UMASK: u32 = 0o022;

/// How a container comes to a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Join {
    /// Stays in the host's.
    Host,
    /// Makes its own.
    New,
    /// Joins the descriptor at this place of Create's list.
    Fd(u32),
}

impl Join {
    /// Joins the descriptor at this place of Create's list.
    ///
    /// # Errors
    /// More descriptors than fit a message.
    pub fn at(index: usize) -> Result<Self> {
        match u32::try_from(index) {
            Ok(place) if index < shim::FDS_MAX => Ok(Self::Fd(place)),
            _ => Err(Fault::internal(format!(
                "descriptor {index} does not fit one message"
            ))),
        }
    }

    fn namespace(self) -> shim::Namespace {
        use shim::namespace::Kind;
        let (kind, fd) = match self {
            Self::Host => (Kind::Host, 0),
            Self::New => (Kind::New, 0),
            Self::Fd(fd) => (Kind::Join, fd),
        };
        shim::Namespace {
            kind: kind.into(),
            fd,
        }
    }
}

/// How a container comes to its namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Joined {
    /// Network.
    pub network: Join,
    /// IPC.
    pub ipc: Join,
    /// Host name.
    pub uts: Join,
    /// Processes.
    pub pid: Join,
    /// `Host` or `Fd`.
    pub user: Join,
}

/// What a plan is made of.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// The container's id.
    pub id: &'a str,
    /// What it was asked to be.
    pub config: &'a ContainerConfig,
    /// What its pod was asked to be.
    pub sandbox: &'a SandboxConfig,
    /// The pod's /etc/hosts.
    pub hosts_file: &'a Path,
    /// The pod's host name.
    pub hostname: &'a str,
    /// The pod's /etc/hostname.
    pub hostname_file: &'a Path,
    /// The pod's /etc/resolv.conf.
    pub resolv_conf_file: &'a Path,
    /// The pod's /dev/shm on the host.
    pub shm: &'a Path,
    /// What it runs.
    pub image: &'a Image,
    /// Images of volumes, by the name that the request uses.
    pub volume_images: &'a BTreeMap<String, Arc<Image>>,
    /// Durable folder of the container: `upper` and `work` are below.
    pub root: &'a Path,
    /// Volatile folder of the container.
    pub state_dir: &'a Path,
    /// What the host can do.
    pub host: &'a host::HostFacts,
    /// Parent of pods that name none.
    pub cgroup_parent: &'a str,
    /// Root of relative Localhost seccomp profiles.
    pub seccomp_dir: &'a Path,
    /// Namespaces to join.
    pub namespaces: Joined,
}

/// Makes the plan of a container.
///
/// # Errors
/// The request does not fit the image or the host: unknown users, no command, missing devices or profiles.
pub fn build(inputs: &Inputs<'_>) -> Result<shim::Plan> {
    let Inputs {
        config,
        sandbox,
        host,
        ..
    } = *inputs;
    let security = &config.security;
    let devices = devices::devices(&config.devices, security.privileged)?;
    let mounts = mounts::mounts(inputs)?;
    let (upper, work) = (inputs.root.join("upper"), inputs.root.join("work"));
    for folder in [&upper, &work] {
        make_private(folder)?;
    }
    let mut rootfs = shim::Rootfs {
        lower: mounts::layers(inputs.image)?,
        upper: text(&upper)?,
        work: text(&work)?,
        readonly: security.readonly_rootfs,
        ..shim::Rootfs::default()
    };
    rootfs.set_propagation(mounts::root_propagation(&mounts));
    let place = cgroup::Place {
        host,
        default_parent: inputs.cgroup_parent,
        sandbox,
        id: inputs.id,
    };
    let logged = !config.log_path.is_empty() && !sandbox.log_directory.is_empty();
    let log_of = |part: &str| if logged { part.to_owned() } else { String::new() };
    let paths = |paths: &[String]| {
        if security.privileged {
            Vec::new()
        } else {
            paths.to_vec()
        }
    };
    Ok(shim::Plan {
        version: shim::VERSION,
        container_id: inputs.id.to_owned(),
        state_dir: text(inputs.state_dir)?,
        namespaces: Some(namespaces(inputs)),
        rootfs: Some(rootfs),
        mounts,
        devices: devices.nodes,
        // As the request says, also when it says none: that is what `procMount: Unmasked` means.
        masked_paths: paths(&security.masked_paths),
        readonly_paths: paths(&security.readonly_paths),
        process: Some(process(inputs)?),
        cgroup: Some(cgroup::cgroup(
            place,
            &config.resources,
            devices.rules.as_deref(),
        )?),
        log: Some(shim::Log {
            dir: log_of(&sandbox.log_directory),
            path: log_of(&config.log_path),
        }),
        stdin: config.stdin,
        stdin_once: config.stdin_once,
        shm_source: text(inputs.shm)?,
        writable_sys: security.privileged,
    })
}

fn namespaces(inputs: &Inputs<'_>) -> shim::Namespaces {
    let joined = inputs.namespaces;
    let user = inputs.sandbox.user.clone().unwrap_or_default();
    // A privileged container sees the host's whole cgroup tree, as with the peers.
    let cgroup = if inputs.config.security.privileged {
        Join::Host
    } else {
        Join::New
    };
    shim::Namespaces {
        network: Some(joined.network.namespace()),
        ipc: Some(joined.ipc.namespace()),
        uts: Some(joined.uts.namespace()),
        pid: Some(joined.pid.namespace()),
        user: Some(joined.user.namespace()),
        cgroup: Some(cgroup.namespace()),
        uid_maps: user.uid.iter().map(Into::into).collect(),
        gid_maps: user.gid.iter().map(Into::into).collect(),
    }
}

fn process(inputs: &Inputs<'_>) -> Result<shim::Process> {
    let Inputs {
        config,
        sandbox,
        host,
        image,
        ..
    } = *inputs;
    let security = &config.security;
    let identity = identity::identity(security, image)?;
    let sets = capabilities::sets(security, identity.uid, host.capabilities);
    let oom_score_adj = config.resources.oom_score_adj;
    Ok(shim::Process {
        args: args::args(config, &image.config)?,
        env: environment::environment(
            &image.config.env,
            &config.env,
            inputs.hostname,
            &identity.home,
            config.tty,
        ),
        cwd: cwd(&config.working_dir, &image.config.working_dir)?,
        uid: identity.uid,
        gid: identity.gid,
        groups: identity.groups,
        bounding: sets.bounding,
        effective: sets.effective,
        permitted: sets.permitted,
        ambient: sets.ambient,
        no_new_privs: security.no_new_privs,
        seccomp: seccomp::filter(security, sets.bounding, host, inputs.seccomp_dir)?.to_vec(),
        apparmor_profile: labels::apparmor(security, host)?,
        selinux_label: labels::selinux(security, &sandbox.selinux, host),
        rlimits: vec![shim::Rlimit {
            resource: criquet_sys::limit::OPEN_FILES,
            soft: host.open_files.0,
            hard: host.open_files.1,
        }],
        has_oom_score_adj: oom_score_adj.is_some(),
        // Without CAP_SYS_RESOURCE it cannot go below the daemon's own.
        oom_score_adj: oom_score_adj.unwrap_or_default().max(host.oom_score_adj_min),
        terminal: config.tty,
        width: 0,
        height: 0,
        umask: UMASK,
    })
}

/// The process of an exec: the container's identity, confinement and environment with another command line.
#[must_use]
pub fn exec_process(container: shim::Process, command: Vec<String>, terminal: bool) -> shim::Process {
    shim::Process {
        args: command.into_iter().map(String::into_bytes).collect(),
        env: environment::for_exec(&container.env, terminal),
        terminal,
        width: 0,
        height: 0,
        ..container
    }
}

/// The signal that asks a container to end: the request's, else the image's, else SIGTERM.
///
/// # Errors
/// The image names one that does not exist.
pub fn stop_signal(config: &ContainerConfig, image: &ImageConfig) -> Result<i32> {
    if let Some(number) = config.stop_signal {
        return Ok(number);
    }
    match image.stop_signal.trim() {
        "" => Ok(signal::DEFAULT_STOP),
        name => signal::number(name)
            .ok_or_else(|| Fault::invalid(format!("the image's stop signal {name:?} does not exist"))),
    }
}

/// The working folder. An image's is written by people, often without the first slash.
fn cwd(request: &str, image: &str) -> Result<String> {
    let path = if request.is_empty() { image } else { request };
    if path.contains('\0') {
        return Err(Fault::invalid("the working directory contains a NUL byte"));
    }
    Ok(if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    })
}

/// A folder for overlayfs: the shim gives the upper one the owner and mode of the image's root.
fn make_private(folder: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .or_internal(|| format!("making {folder:?}"))
}

fn text(path: &Path) -> Result<String> {
    path.to_str()
        .map(str::to_owned)
        .ok_or_else(|| Fault::internal(format!("path {path:?} is not UTF-8")))
}

#[cfg(test)]
mod tests;
