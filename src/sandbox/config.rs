//! What a pod sandbox was asked to be: validated, and kept in its record.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::container::config::{GroupsPolicy, Resources, SeccompProfile, SelinuxLabel};
use crate::sysctl::{self, Owner};

/// A validated pod sandbox request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SandboxConfig {
    /// The pod's name.
    pub name: String,
    /// The pod's uid.
    pub uid: String,
    /// The pod's Kubernetes namespace.
    pub namespace: String,
    /// Which attempt at this pod.
    pub attempt: u32,
    /// Empty: the host's, or (with a network of its own) the sandbox id's.
    pub hostname: String,
    /// Absolute host path; empty: containers have no logs.
    pub log_directory: String,
    /// For resolv.conf. `None`: the host's file is copied.
    pub dns: Option<Dns>,
    /// Ports of the host that lead to the pod; only those with a host port.
    pub ports: Vec<Port>,
    /// Returned unaltered.
    pub labels: BTreeMap<String, String>,
    /// Returned unaltered.
    pub annotations: BTreeMap<String, String>,
    /// cgroupfs syntax (absolute) or a systemd slice; empty: the daemon's default.
    pub cgroup_parent: String,
    /// Empty: the default one.
    pub runtime_handler: String,
    /// Which namespaces the pod has.
    pub namespaces: Namespaces,
    /// Id maps of the pod's user namespace; `None`: the host's.
    pub user: Option<UserMaps>,
    /// Of the pod's own namespaces only, see [`sysctl::owner`].
    pub sysctls: BTreeMap<String, String>,
    /// The pod may hold privileged containers.
    pub privileged: bool,
    /// Label of the pod; containers inherit what they do not say.
    pub selinux: SelinuxLabel,
    /// For processes of the sandbox itself (there are none by default); containers say their own.
    pub seccomp: SeccompProfile,
    /// For processes of the sandbox itself; kept for verbose status.
    pub supplemental_groups: Vec<u32>,
    /// Kept for verbose status.
    pub supplemental_groups_policy: GroupsPolicy,
    /// What the pod costs beside its containers.
    pub overhead: Option<Resources>,
    /// The sum of the containers' resources.
    pub resources: Option<Resources>,
}

impl SandboxConfig {
    /// Whether the pod lives in the host's network.
    #[must_use]
    pub fn host_network(&self) -> bool {
        self.namespaces.network == Network::Node
    }

    /// Adds the administrator's sysctls of the namespaces that the pod has; its own stay.
    pub fn add_default_sysctls(&mut self, defaults: &BTreeMap<String, String>) {
        for (name, value) in defaults {
            // What is no pod's was refused when the configuration was read.
            let own = sysctl::owner(name).is_ok_and(|owner| self.namespaces.own(owner));
            if own {
                self.sysctls.entry(name.clone()).or_insert_with(|| value.clone());
            }
        }
    }
}

/// Contents of resolv.conf.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// `nameserver` lines.
    pub servers: Vec<String>,
    /// The `search` line.
    pub searches: Vec<String>,
    /// The `options` line.
    pub options: Vec<String>,
}

/// A host port that leads to the pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// On the host, not 0.
    pub host_port: u16,
    /// In the pod.
    pub container_port: u16,
    /// Transport.
    pub protocol: Protocol,
    /// Only on this address of the host.
    pub host_ip: Option<IpAddr>,
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl From<&Port> for criquet_network::PortMapping {
    fn from(port: &Port) -> Self {
        Self {
            host_port: port.host_port,
            container_port: port.container_port,
            protocol: match port.protocol {
                Protocol::Tcp => criquet_network::Protocol::Tcp,
                Protocol::Udp => criquet_network::Protocol::Udp,
                Protocol::Sctp => criquet_network::Protocol::Sctp,
            },
            host_ip: port.host_ip,
        }
    }
}

/// The pod's namespaces.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespaces {
    /// Network (and UTS, which follows it).
    pub network: Network,
    /// The default of the pod's containers.
    pub pid: Pid,
    /// IPC, POSIX queues, /dev/shm.
    pub ipc: Ipc,
}

impl Namespaces {
    /// Whether a sysctl of this owner is the pod's own, and not the host's.
    #[must_use]
    pub fn own(self, owner: Owner) -> bool {
        match owner {
            Owner::Ipc => self.ipc == Ipc::Pod,
            Owner::Network => self.network == Network::Pod,
        }
    }
}

/// The network namespace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// The pod's own.
    #[default]
    Pod,
    /// The host's.
    Node,
}

/// The pid namespace of a pod.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pid {
    /// One for all containers: the sandbox has an init process.
    #[default]
    Pod,
    /// One a container.
    Container,
    /// The host's.
    Node,
}

/// The IPC namespace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ipc {
    /// The pod's own.
    #[default]
    Pod,
    /// The host's.
    Node,
}

/// Id maps of a user namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserMaps {
    /// User ids.
    pub uid: Vec<IdMap>,
    /// Group ids.
    pub gid: Vec<IdMap>,
}

/// One range of ids; `host_id + length` fits 32 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMap {
    /// First id inside.
    pub container_id: u32,
    /// First id on the host.
    pub host_id: u32,
    /// How many, not 0.
    pub length: u32,
}

impl From<&IdMap> for criquet_proto::shim::IdMap {
    fn from(map: &IdMap) -> Self {
        Self {
            container_id: map.container_id,
            host_id: map.host_id,
            length: map.length,
        }
    }
}
