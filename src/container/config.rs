//! What a container was asked to be: validated, and kept in its record.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::sandbox::config::{IdMap, UserMaps};

/// A validated container request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerConfig {
    /// Unique in the pod, with `attempt`.
    pub name: String,
    /// Which attempt at this container.
    pub attempt: u32,
    /// What to run: an id or a reference, as requested.
    pub image: String,
    /// What the user wrote, for status.
    pub user_specified_image: String,
    /// Annotations of the image spec, returned unaltered.
    pub image_annotations: BTreeMap<String, String>,
    /// Replaces the image's entrypoint (and its command).
    pub command: Vec<String>,
    /// Replaces the image's command.
    pub args: Vec<String>,
    /// Absolute; empty: the image's, or `/`.
    pub working_dir: String,
    /// Names without `=` and NUL, in the order of the request.
    pub env: Vec<(String, Vec<u8>)>,
    /// As requested, in the order of the request.
    pub mounts: Vec<Mount>,
    /// As requested; a host path may be a folder.
    pub devices: Vec<Device>,
    /// Returned unaltered.
    pub labels: BTreeMap<String, String>,
    /// Returned unaltered.
    pub annotations: BTreeMap<String, String>,
    /// Below the sandbox's log directory, no `..`; empty: no log.
    pub log_path: String,
    /// Keep stdin open for attachers.
    pub stdin: bool,
    /// The first attacher that leaves closes stdin.
    pub stdin_once: bool,
    /// Run on a terminal.
    pub tty: bool,
    /// Cgroup settings.
    pub resources: Resources,
    /// Identity and confinement.
    pub security: Security,
    /// The kernel's number; `None`: the image's or SIGTERM.
    pub stop_signal: Option<i32>,
}

/// Cgroup settings as the CRI counts them. `None`: not asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Microseconds of a CFS period.
    pub cpu_period: Option<u64>,
    /// Microseconds a period; negative: unlimited.
    pub cpu_quota: Option<i64>,
    /// 2 to 262 144; 1024 is one share.
    pub cpu_shares: Option<u64>,
    /// Bytes; -1: unlimited.
    pub memory_limit: Option<i64>,
    /// Bytes of memory and swap together; -1: unlimited.
    pub memory_swap: Option<i64>,
    /// -1000 to 1000. Always given by the CRI (0 is a value).
    pub oom_score_adj: Option<i32>,
    /// `0-3,7`; empty: not asked for.
    pub cpuset_cpus: String,
    /// `0,1`; empty: not asked for.
    pub cpuset_mems: String,
    /// Bytes by page size as cgroupfs spells it, e.g. `2MB`.
    pub hugepages: BTreeMap<String, u64>,
    /// cgroup v2 files, e.g. `memory.high`.
    pub unified: BTreeMap<String, String>,
}

/// Identity and confinement of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Security {
    /// Changes to the default capabilities.
    pub capabilities: Capabilities,
    /// Nearly everything of the host.
    pub privileged: bool,
    /// The pid namespace.
    pub pid: Pid,
    /// Wins over the name.
    pub run_as_user: Option<u32>,
    /// Needs a user.
    pub run_as_group: Option<u32>,
    /// A name of the image's /etc/passwd, or a number.
    pub run_as_username: String,
    /// `/` is read-only.
    pub readonly_rootfs: bool,
    /// Beside those of the image's /etc/group (Merge) or instead of them (Strict).
    pub supplemental_groups: Vec<u32>,
    /// See [`GroupsPolicy`].
    pub supplemental_groups_policy: GroupsPolicy,
    /// LSM profile.
    pub apparmor: AppArmorProfile,
    /// Syscall filter.
    pub seccomp: SeccompProfile,
    /// PR_SET_NO_NEW_PRIVS.
    pub no_new_privs: bool,
    /// Absolute paths.
    pub masked_paths: Vec<String>,
    /// Absolute paths.
    pub readonly_paths: Vec<String>,
    /// SELinux label.
    pub selinux: SelinuxLabel,
    /// The pod's user namespace as the request repeats it; must be the sandbox's.
    pub user: Option<UserMaps>,
}

/// Changes to the default set, as capability numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// `ALL` was added.
    pub add_all: bool,
    /// Bit mask of added ones.
    pub add: u64,
    /// `ALL` was dropped.
    pub drop_all: bool,
    /// Bit mask of dropped ones.
    pub drop: u64,
    /// Bit mask of those that survive execve for non-root users.
    pub ambient: u64,
}

/// The pid namespace of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pid {
    /// The pod's.
    #[default]
    Pod,
    /// Its own.
    Container,
    /// The host's.
    Node,
    /// That of another container of the pod, by id.
    Target(String),
}

/// How the image's /etc/group counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum GroupsPolicy {
    /// The image's memberships of the user, and the requested groups.
    #[default]
    Merge,
    /// Only the requested groups.
    Strict,
}

/// An AppArmor profile.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AppArmorProfile {
    /// Not asked for: the runtime's default where AppArmor is on.
    #[default]
    None,
    /// The runtime's default.
    RuntimeDefault,
    /// None at all.
    Unconfined,
    /// A loaded profile.
    Localhost(String),
}

/// A seccomp profile.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SeccompProfile {
    /// Not asked for, which the CRI defines as unconfined.
    #[default]
    None,
    /// The compiled-in profile.
    RuntimeDefault,
    /// No filter.
    Unconfined,
    /// A file: absolute, or below the daemon's seccomp folder.
    Localhost(String),
}

/// Parts of an SELinux label; empty parts come from the sandbox or the host's defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelinuxLabel {
    /// e.g. `system_u`.
    pub user: String,
    /// e.g. `system_r`.
    pub role: String,
    /// e.g. `container_t`.
    #[serde(rename = "type")]
    pub kind: String,
    /// e.g. `s0:c1,c2`.
    pub level: String,
}

impl SelinuxLabel {
    /// Whether nothing was asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.user.is_empty() && self.role.is_empty() && self.kind.is_empty() && self.level.is_empty()
    }
}

/// A volume.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Mount {
    /// Absolute.
    pub container_path: String,
    /// What is mounted.
    pub source: Source,
    /// No writes through this mount.
    pub readonly: bool,
    /// No writes through the mounts below it either.
    pub recursive_readonly: bool,
    /// Give the content the container's SELinux label.
    pub selinux_relabel: bool,
    /// How mounts travel.
    pub propagation: Propagation,
    /// An idmapped mount when not empty.
    pub uid_maps: Vec<IdMap>,
    /// See `uid_maps`.
    pub gid_maps: Vec<IdMap>,
    /// `nosuid` asked for.
    pub nosuid: bool,
    /// `nodev` asked for.
    pub nodev: bool,
    /// `noexec` asked for.
    pub noexec: bool,
}

/// What a [`Mount`] shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// An absolute path of the host; links are followed.
    Host(String),
    /// An image's content, read-only.
    Image(ImageVolume),
}

impl Default for Source {
    fn default() -> Self {
        Self::Host(String::new())
    }
}

/// An image mounted as a volume.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageVolume {
    /// An id or a reference, as requested.
    pub image: String,
    /// What the user wrote.
    pub user_specified_image: String,
    /// Relative, no `..`; empty: all of it.
    pub sub_path: String,
}

/// How mounts travel between host and container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    /// Not at all.
    #[default]
    Private,
    /// From the host into the container.
    HostToContainer,
    /// Both ways; for privileged containers.
    Bidirectional,
}

/// A device of the host for the container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Absolute.
    pub container_path: String,
    /// Absolute: a node, a link to one, or a folder of nodes.
    pub host_path: String,
    /// Some of `r`, `w`, `m`.
    pub permissions: String,
}
