//! RunPodSandbox: the request, validated into a [`SandboxConfig`].

use std::collections::BTreeMap;
use std::net::IpAddr;

use criquet_proto::cri;

use super::{field, profile_request, resource_request};
use crate::container::config::GroupsPolicy;
use crate::fault::{Fault, Result};
use crate::limits;
use crate::sandbox::config::{
    Dns, IdMap, Ipc, Namespaces, Network, Pid, Port, Protocol, SandboxConfig, UserMaps,
};
use crate::sysctl::{self, Owner};
use crate::systemd::slice;

/// Validates the whole request.
///
/// # Errors
/// Something in it can never work; the sentence names the field.
pub fn sandbox(request: &cri::RunPodSandboxRequest) -> Result<SandboxConfig> {
    let config = request
        .config
        .as_ref()
        .ok_or_else(|| Fault::invalid("the request has no config"))?;
    let metadata = config
        .metadata
        .as_ref()
        .ok_or_else(|| Fault::invalid("the sandbox config has no metadata"))?;
    let linux = config.linux.clone().unwrap_or_default();
    let security = linux.security_context.unwrap_or_default();
    let options = security.namespace_options.clone().unwrap_or_default();
    let namespaces = namespaces(&options)?;
    let user = user(options.userns_options.as_ref())?;
    if user.is_some() && (namespaces.pid == Pid::Node || namespaces.ipc == Ipc::Node) {
        return Err(Fault::invalid(
            "a pod with a user namespace cannot share the host's pid or ipc namespace",
        ));
    }
    if security.run_as_group.is_some() && security.run_as_user.is_none() {
        return Err(Fault::invalid("run_as_group is set without run_as_user"));
    }
    Ok(SandboxConfig {
        name: field::required_name("metadata.name", &metadata.name)?.to_owned(),
        uid: field::name("metadata.uid", &metadata.uid)?.to_owned(),
        namespace: field::name("metadata.namespace", &metadata.namespace)?.to_owned(),
        attempt: metadata.attempt,
        hostname: hostname(&config.hostname)?,
        log_directory: absolute_or_empty("log_directory", &config.log_directory)?,
        dns: config.dns_config.as_ref().map(dns).transpose()?,
        ports: if namespaces.network == Network::Node {
            Vec::new()
        } else {
            ports(&config.port_mappings)?
        },
        labels: field::metadata("labels", &config.labels)?,
        annotations: field::metadata("annotations", &config.annotations)?,
        cgroup_parent: cgroup_parent(&linux.cgroup_parent)?,
        runtime_handler: field::name("runtime_handler", &request.runtime_handler)?.to_owned(),
        sysctls: sysctls(&linux.sysctls, namespaces)?,
        namespaces,
        user,
        privileged: security.privileged,
        selinux: profile_request::selinux(security.selinux_options.as_ref())?,
        seccomp: seccomp(&security)?,
        supplemental_groups: field::groups("supplemental_groups", &security.supplemental_groups)?,
        supplemental_groups_policy: groups_policy(security.supplemental_groups_policy)?,
        overhead: linux
            .overhead
            .as_ref()
            .map(resource_request::resources)
            .transpose()?,
        resources: linux
            .resources
            .as_ref()
            .map(resource_request::resources)
            .transpose()?,
    })
}

#[allow(deprecated)]
fn seccomp(security: &cri::LinuxSandboxSecurityContext) -> Result<crate::container::config::SeccompProfile> {
    profile_request::seccomp(security.seccomp.as_ref(), &security.seccomp_profile_path)
}

/// The policy of supplementary groups.
pub(crate) fn groups_policy(value: i32) -> Result<GroupsPolicy> {
    Ok(match field::choice("supplemental_groups_policy", value)? {
        cri::SupplementalGroupsPolicy::Merge => GroupsPolicy::Merge,
        cri::SupplementalGroupsPolicy::Strict => GroupsPolicy::Strict,
    })
}

fn namespaces(options: &cri::NamespaceOption) -> Result<Namespaces> {
    use cri::NamespaceMode as Mode;
    let refuse = |field: &str, mode: Mode| {
        Err(Fault::invalid(format!(
            "{field} namespace mode {} is not possible for a sandbox",
            mode.as_str_name()
        )))
    };
    Ok(Namespaces {
        network: match field::choice("network namespace mode", options.network)? {
            Mode::Pod => Network::Pod,
            Mode::Node => Network::Node,
            other => return refuse("network", other),
        },
        pid: match field::choice("pid namespace mode", options.pid)? {
            Mode::Pod => Pid::Pod,
            Mode::Container => Pid::Container,
            Mode::Node => Pid::Node,
            // The sandbox itself has no process that could be in another container's namespace.
            Mode::Target => Pid::Container,
        },
        ipc: match field::choice("ipc namespace mode", options.ipc)? {
            Mode::Pod => Ipc::Pod,
            Mode::Node => Ipc::Node,
            other => return refuse("ipc", other),
        },
    })
}

/// A user namespace: exactly one range each for users and groups, root inside is mapped, same length.
pub(crate) fn user(options: Option<&cri::UserNamespace>) -> Result<Option<UserMaps>> {
    use cri::NamespaceMode as Mode;
    let Some(options) = options else { return Ok(None) };
    match field::choice("user namespace mode", options.mode)? {
        Mode::Node if options.uids.is_empty() && options.gids.is_empty() => Ok(None),
        Mode::Node => Err(Fault::invalid("user namespace mode NODE takes no id mappings")),
        Mode::Pod => {
            let maps = UserMaps {
                uid: vec![map("uids", &options.uids)?],
                gid: vec![map("gids", &options.gids)?],
            };
            if maps.uid.first().map(|m| m.length) != maps.gid.first().map(|m| m.length) {
                return Err(Fault::invalid("user namespace: uids and gids differ in length"));
            }
            Ok(Some(maps))
        }
        other => Err(Fault::invalid(format!(
            "user namespace mode {} is not possible",
            other.as_str_name()
        ))),
    }
}

fn map(field: &str, maps: &[cri::IdMapping]) -> Result<IdMap> {
    let [one] = maps else {
        return Err(Fault::invalid(format!(
            "user namespace: {field} has {} mappings, must be one",
            maps.len()
        )));
    };
    if one.container_id != 0 {
        return Err(Fault::invalid(format!(
            "user namespace: {field} does not map id 0 of the container"
        )));
    }
    id_map(field, one)
}

/// One range of ids, not empty and without overflow.
pub(crate) fn id_map(field: &str, map: &cri::IdMapping) -> Result<IdMap> {
    let fits = |first: u32| first.checked_add(map.length).is_some();
    if map.length == 0 || !fits(map.host_id) || !fits(map.container_id) {
        return Err(Fault::invalid(format!(
            "{field} mapping {}:{}:{} is empty or leaves the range of ids",
            map.container_id, map.host_id, map.length
        )));
    }
    Ok(IdMap {
        container_id: map.container_id,
        host_id: map.host_id,
        length: map.length,
    })
}

/// Goes into /etc/hosts and /etc/hostname, so nothing that could begin another field or line.
fn hostname(value: &str) -> Result<String> {
    field::text("hostname", value, limits::HOSTNAME_BYTES_MAX)?;
    match value
        .chars()
        .find(|c| !(c.is_ascii_alphanumeric() || "._-".contains(*c)))
    {
        Some(bad) => Err(Fault::invalid(format!("hostname {value:?} contains {bad:?}"))),
        None => Ok(value.to_owned()),
    }
}

fn absolute_or_empty(field: &str, value: &str) -> Result<String> {
    if !value.is_empty() {
        field::absolute(field, value)?;
    }
    Ok(value.to_owned())
}

fn cgroup_parent(value: &str) -> Result<String> {
    field::line("cgroup_parent", value, limits::PATH_BYTES_MAX)?;
    if value.split('/').any(|part| part == ".." || part == ".") {
        return Err(Fault::invalid(format!(
            "cgroup_parent {value:?} contains \".\" or \"..\""
        )));
    }
    if slice::is_slice(value) {
        slice::check(value)?;
    }
    Ok(value.to_owned())
}

/// These become words of resolv.conf.
fn dns(config: &cri::DnsConfig) -> Result<Dns> {
    let words = |field: &str, values: &[String]| {
        if values.len() > limits::DNS_ENTRIES_MAX {
            return Err(Fault::invalid(format!(
                "{field} has more than {} entries",
                limits::DNS_ENTRIES_MAX
            )));
        }
        for value in values {
            field::line(field, value, limits::NAME_BYTES_MAX)?;
            if value.is_empty() || value.contains(char::is_whitespace) {
                return Err(Fault::invalid(format!("{field} entry {value:?} is not one word")));
            }
        }
        Ok(values.to_vec())
    };
    Ok(Dns {
        servers: words("dns servers", &config.servers)?,
        searches: words("dns searches", &config.searches)?,
        options: words("dns options", &config.options)?,
    })
}

/// Only mappings with a host port; the others say nothing to a runtime.
fn ports(mappings: &[cri::PortMapping]) -> Result<Vec<Port>> {
    if mappings.len() > limits::PORTS_MAX {
        return Err(Fault::invalid(format!(
            "port_mappings has more than {} entries",
            limits::PORTS_MAX
        )));
    }
    let number = |field: &str, port: i32| match u16::try_from(port) {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(Fault::invalid(format!("{field} {port} is not from 1 to 65535"))),
    };
    let mut ports = Vec::new();
    for mapping in mappings {
        let container_port = number("container_port", mapping.container_port)?;
        if mapping.host_port == 0 {
            continue;
        }
        let protocol = match field::choice("port protocol", mapping.protocol)? {
            cri::Protocol::Tcp => Protocol::Tcp,
            cri::Protocol::Udp => Protocol::Udp,
            cri::Protocol::Sctp => Protocol::Sctp,
        };
        let host_ip = match mapping.host_ip.as_str() {
            "" => None,
            text => Some(
                text.parse::<IpAddr>()
                    .map_err(|_| Fault::invalid(format!("host_ip {text:?} is not an IP address")))?,
            ),
        };
        ports.push(Port {
            host_port: number("host_port", mapping.host_port)?,
            container_port,
            protocol,
            host_ip: host_ip.filter(|ip| !ip.is_unspecified()),
        });
    }
    Ok(ports)
}

/// Namespaced sysctls only, and only those of namespaces that the pod has: anything else would set the host.
/// The value is one line, so that it cannot carry a second setting (CVE-2022-0811).
fn sysctls<'a>(
    entries: impl IntoIterator<Item = (&'a String, &'a String)>,
    namespaces: Namespaces,
) -> Result<BTreeMap<String, String>> {
    let mut out = BTreeMap::new();
    for (key, value) in entries {
        let owner = sysctl::owner(key).map_err(Fault::invalid)?;
        if !namespaces.own(owner) {
            let shared = match owner {
                Owner::Ipc => "ipc namespace",
                Owner::Network => "network",
            };
            return Err(Fault::invalid(format!(
                "sysctl {key:?} would change the host: the pod has its {shared}"
            )));
        }
        field::line("sysctl value", value, limits::PATH_BYTES_MAX)?;
        out.insert(key.clone(), value.clone());
    }
    if out.len() > limits::SYSCTLS_MAX {
        return Err(Fault::invalid(format!(
            "more than {} sysctls",
            limits::SYSCTLS_MAX
        )));
    }
    Ok(out)
}

#[cfg(test)]
#[path = "sandbox_request_tests.rs"]
mod tests;
