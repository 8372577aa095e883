//! Pod networks: CNI plugins, and the work of the common ones in process.
//!
//! Knows nothing of the CRI.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

mod capability;
mod chain;
mod config;
mod error;
mod native;
mod netlink;
mod network;
mod plugin;
mod record;
mod result;
pub use error::{Error, Result};
pub use network::Network;

/// Where the configuration and the plugins are.
#[derive(Debug, Clone)]
pub struct Options {
    /// `/etc/cni/net.d`: the first `*.conflist`, `*.conf` or `*.json` by name counts.
    pub conf_dir: PathBuf,
    /// Searched in order for plugin binaries.
    pub bin_dirs: Vec<PathBuf>,
    /// Durable: what was attached, with its cached result, recorded before ADD.
    pub cache_dir: PathBuf,
    /// host-local's lease folder (`/var/lib/cni/networks`), for the native path.
    pub lease_dir: PathBuf,
    /// The network to use while `conf_dir` holds none.
    pub builtin: Option<Builtin>,
    /// Do known plugins in process. Off: always run the binaries.
    pub native: bool,
}

/// The bridge network of a machine that has no CNI configuration.
#[derive(Debug, Clone)]
pub struct Builtin {
    /// Link name, e.g. `criquet0`.
    pub bridge: String,
    /// e.g. `10.88.0.0/16`; the first address is the bridge's.
    pub subnet: ipnet::IpNet,
}

/// A pod to attach.
#[derive(Debug, Clone, Default)]
pub struct Pod {
    /// Sandbox id.
    pub id: String,
    /// Pinned network namespace.
    pub netns: PathBuf,
    /// Kubernetes name.
    pub name: String,
    /// Kubernetes namespace.
    pub namespace: String,
    /// Kubernetes uid.
    pub uid: String,
    /// Host ports.
    pub ports: Vec<PortMapping>,
    /// For the `bandwidth` capability: `kubernetes.io/ingress-bandwidth`, `…/egress-bandwidth`.
    pub annotations: BTreeMap<String, String>,
    /// For the `cgroupPath` capability.
    pub cgroup: String,
    /// For the `dns` capability.
    pub dns_servers: Vec<String>,
    /// For the `dns` capability.
    pub dns_searches: Vec<String>,
    /// For the `dns` capability.
    pub dns_options: Vec<String>,
}

/// One port of the host that leads to the pod.
#[derive(Debug, Clone)]
pub struct PortMapping {
    /// On the host.
    pub host_port: u16,
    /// In the pod.
    pub container_port: u16,
    /// Transport.
    pub protocol: Protocol,
    /// Only on this address of the host.
    pub host_ip: Option<IpAddr>,
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// What a pod got.
#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
pub struct Attachment {
    /// Its addresses, the primary one first.
    pub ips: Vec<IpAddr>,
    /// Its main interface, e.g. `eth0`.
    pub interface: String,
}
