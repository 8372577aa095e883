//! Pod networks: CNI plugins, and the work of the common ones in process.
//!
//! Knows nothing of the CRI.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

mod error;
pub use error::{Error, Result};

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

/// The network of this host.
#[derive(Debug)]
pub struct Network {}

#[allow(unused_variables, clippy::unused_async, clippy::missing_errors_doc)]
impl Network {
    /// Reads what is recorded in the cache folder. The configuration is read when it is needed, so that
    /// a conflist may appear later.
    pub fn open(options: Options) -> Result<Self> {
        todo!()
    }
    /// Why pods cannot be attached now; `Ok` with the name of the network when they can.
    pub async fn ready(&self) -> Result<String> {
        todo!()
    }
    /// Attaches a pod. On failure nothing stays: DEL was run.
    pub async fn attach(&self, pod: &Pod) -> Result<Attachment> {
        todo!()
    }
    /// Detaches by the recorded configuration and result, even when today's configuration is another or
    /// none, and when the namespace is gone. Unknown: success. A failed DEL stays recorded for a retry.
    pub async fn detach(&self, pod_id: &str) -> Result<()> {
        todo!()
    }
    /// Frees what belongs to none of `live` (recorded attachments, leases; CNI GC).
    pub async fn collect(&self, live: &[String]) -> Result<()> {
        todo!()
    }
    /// The configuration in force, for verbose status.
    pub fn describe(&self) -> serde_json::Value {
        todo!()
    }
}
