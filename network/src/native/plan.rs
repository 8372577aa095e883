//! Whether a configuration is one that we do in process, and what it asks for.
//!
//! Every option is either understood here or sends the whole network to the plugins' binaries: a network
//! is never half of both.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::lease::Range;
use crate::config::{NetworkConfig, plugin_type};

/// Keys that any plugin of a chain may have.
const COMMON_KEYS: [&str; 4] = ["type", "name", "cniVersion", "cniVersions"];
/// Where firewalld says that it runs: the plugins then speak D-Bus to it.
const FIREWALLD: &str = "/run/firewalld.pid";

/// What the chain's plugins do, together.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) bridge: BridgePlan,
    pub(crate) data_dir: PathBuf,
    pub(crate) ranges: Vec<Vec<Range>>,
    pub(crate) routes: Vec<Route>,
    /// There is a `portmap` that is given the host ports.
    pub(crate) host_ports: bool,
    /// There is a `firewall`.
    pub(crate) accept_forward: bool,
    pub(crate) dns: Option<Value>,
}

/// The options of `bridge`.
#[derive(Debug, Clone)]
pub(crate) struct BridgePlan {
    pub(crate) name: String,
    pub(crate) gateway: bool,
    pub(crate) default_gateway: bool,
    pub(crate) masquerade: bool,
    pub(crate) hairpin: bool,
    pub(crate) promiscuous: bool,
    pub(crate) mtu: u32,
}

/// A route of the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Route {
    pub(crate) dst: IpNet,
    #[serde(default)]
    pub(crate) gw: Option<IpAddr>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct BridgeOptions {
    bridge: Option<String>,
    #[serde(default)]
    is_gateway: bool,
    #[serde(default)]
    is_default_gateway: bool,
    #[serde(default)]
    force_address: bool,
    #[serde(default)]
    ip_masq: bool,
    /// iptables or nftables: the same packets come out.
    #[serde(default, rename = "ipMasqBackend")]
    _ip_masq_backend: Option<String>,
    #[serde(default)]
    mtu: u32,
    #[serde(default)]
    hairpin_mode: bool,
    #[serde(default)]
    promisc_mode: bool,
    #[serde(default)]
    vlan: u32,
    #[serde(default, rename = "preserveDefaultVlan")]
    _preserve_default_vlan: bool,
    #[serde(default)]
    macspoofchk: bool,
    #[serde(default)]
    enabledad: bool,
    #[serde(default)]
    disable_container_interface: bool,
    #[serde(default)]
    port_isolation: bool,
    ipam: IpamOptions,
    dns: Option<Value>,
    /// Asked for, never given: `mac`, `ips`.
    #[serde(default)]
    capabilities: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct IpamOptions {
    #[serde(rename = "type")]
    kind: String,
    subnet: Option<IpNet>,
    range_start: Option<IpAddr>,
    range_end: Option<IpAddr>,
    gateway: Option<IpAddr>,
    #[serde(default)]
    ranges: Vec<Vec<RangeOptions>>,
    #[serde(default)]
    routes: Vec<Route>,
    data_dir: Option<PathBuf>,
    /// Would only fill the result's `dns`, and a pod's resolv.conf is the kubelet's.
    #[serde(default, rename = "resolvConf")]
    _resolv_conf: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RangeOptions {
    subnet: IpNet,
    range_start: Option<IpAddr>,
    range_end: Option<IpAddr>,
    gateway: Option<IpAddr>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PortmapOptions {
    #[serde(default = "yes")]
    snat: bool,
    #[serde(default, rename = "backend")]
    _backend: Option<String>,
    #[serde(default)]
    capabilities: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FirewallOptions {
    #[serde(default)]
    backend: String,
    #[serde(default)]
    ingress_policy: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NoOptions {
    #[serde(default, rename = "capabilities")]
    _capabilities: Map<String, Value>,
}

fn yes() -> bool {
    true
}

fn options<T: serde::de::DeserializeOwned>(plugin: &Map<String, Value>) -> Result<T, String> {
    let own: Map<String, Value> = plugin
        .iter()
        .filter(|(key, _)| !COMMON_KEYS.contains(&key.as_str()))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    T::deserialize(Value::Object(own)).map_err(|error| format!("{}: {error}", plugin_type(plugin)))
}

impl Plan {
    /// The plan of a configuration, or why the binaries must do it.
    pub(crate) fn of(config: &NetworkConfig, lease_dir: &Path) -> Result<Self, String> {
        let Some((first, rest)) = config.plugins.split_first() else {
            return Err("no plugins".into());
        };
        if plugin_type(first) != "bridge" {
            return Err(format!("the first plugin is {}, not bridge", plugin_type(first)));
        }
        // The results of older versions have another form.
        if !config.speaks("0.3.0") {
            return Err(format!("version {} is older than 0.3.0", config.version));
        }
        let mut plan = Self::of_bridge(options(first)?, lease_dir)?;
        for plugin in rest {
            match plugin_type(plugin) {
                "portmap" => {
                    let portmap: PortmapOptions = options(plugin)?;
                    if !portmap.snat {
                        return Err("portmap: snat is off".into());
                    }
                    plan.host_ports |= portmap.capabilities.get("portMappings") == Some(&Value::Bool(true));
                }
                "firewall" => {
                    let firewall: FirewallOptions = options(plugin)?;
                    if !matches!(firewall.ingress_policy.as_str(), "" | "open") {
                        return Err(format!("firewall: ingressPolicy is {}", firewall.ingress_policy));
                    }
                    if firewall.backend == "firewalld"
                        || (firewall.backend.is_empty() && Path::new(FIREWALLD).exists())
                    {
                        return Err("firewall: firewalld is asked for".into());
                    }
                    plan.accept_forward = true;
                }
                "loopback" | "tuning" => {
                    let _: NoOptions = options(plugin)?;
                }
                other => return Err(format!("plugin {other} is not one that is known")),
            }
        }
        Ok(plan)
    }

    fn of_bridge(bridge: BridgeOptions, lease_dir: &Path) -> Result<Self, String> {
        let refused = [
            (bridge.force_address, "forceAddress"),
            (bridge.vlan != 0, "vlan"),
            (bridge.macspoofchk, "macspoofchk"),
            (bridge.enabledad, "enabledad"),
            (bridge.disable_container_interface, "disableContainerInterface"),
            (bridge.port_isolation, "portIsolation"),
            (
                bridge.hairpin_mode && bridge.promisc_mode,
                "hairpinMode with promiscMode",
            ),
            (
                bridge.capabilities.contains_key("ipRanges"),
                "capability ipRanges",
            ),
        ];
        if let Some((_, option)) = refused.iter().find(|(set, _)| *set) {
            return Err(format!("bridge: {option} is set"));
        }
        let name = bridge.bridge.unwrap_or_else(|| "cni0".into());
        if name.is_empty() || name.len() > 15 || name.contains(['/', ' ']) || name == "." || name == ".." {
            return Err(format!("bridge: {name:?} is not the name of a link"));
        }
        if bridge.ipam.kind != "host-local" {
            return Err(format!("ipam: {} is not host-local", bridge.ipam.kind));
        }
        Ok(Self {
            bridge: BridgePlan {
                name,
                gateway: bridge.is_gateway || bridge.is_default_gateway,
                default_gateway: bridge.is_default_gateway,
                masquerade: bridge.ip_masq,
                hairpin: bridge.hairpin_mode,
                promiscuous: bridge.promisc_mode,
                mtu: bridge.mtu,
            },
            data_dir: bridge
                .ipam
                .data_dir
                .clone()
                .filter(|dir| dir.is_absolute())
                .unwrap_or_else(|| lease_dir.into()),
            ranges: ranges(&bridge.ipam)?,
            routes: bridge.ipam.routes,
            host_ports: false,
            accept_forward: false,
            dns: bridge.dns,
        })
    }
}

fn ranges(ipam: &IpamOptions) -> Result<Vec<Vec<Range>>, String> {
    let mut sets = Vec::new();
    if let Some(subnet) = ipam.subnet {
        sets.push(vec![Range::new(
            subnet,
            ipam.range_start,
            ipam.range_end,
            ipam.gateway,
        )?]);
    }
    for set in &ipam.ranges {
        let set: Result<Vec<Range>, String> = set
            .iter()
            .map(|range| Range::new(range.subnet, range.range_start, range.range_end, range.gateway))
            .collect();
        let set = set?;
        if set.is_empty() {
            return Err("host-local: a range set is empty".into());
        }
        if set
            .iter()
            .any(|range| range.subnet.addr().is_ipv4() != set[0].subnet.addr().is_ipv4())
        {
            return Err("host-local: a range set has addresses of both families".into());
        }
        sets.push(set);
    }
    if sets.is_empty() {
        return Err("host-local: no ranges".into());
    }
    for (at, set) in sets.iter().enumerate() {
        let later = sets[at + 1..].iter().flatten();
        if later
            .clone()
            .any(|other| set.iter().any(|range| range.overlaps(other)))
        {
            return Err("host-local: range sets overlap".into());
        }
    }
    Ok(sets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn plan(bridge: &Value, rest: &[Value]) -> Result<Plan, String> {
        let mut plugins = vec![json!({
            "type": "bridge", "ipam": { "type": "host-local", "subnet": "10.0.0.0/24" },
        })];
        plugins[0]
            .as_object_mut()
            .unwrap()
            .extend(bridge.as_object().unwrap().clone());
        plugins.extend_from_slice(rest);
        let config = json!({ "source": "", "name": "n", "version": "1.0.0", "plugins": plugins });
        Plan::of(&serde_json::from_value(config).unwrap(), Path::new("/leases"))
    }

    #[test]
    fn known_plugins_with_known_options_are_done_in_process() {
        let rest = [
            json!({ "type": "portmap", "snat": true, "capabilities": { "portMappings": true } }),
            json!({ "type": "firewall", "ingressPolicy": "open", "backend": "iptables" }),
            json!({ "type": "tuning" }),
            json!({ "type": "loopback" }),
        ];
        let plan = plan(&json!({ "isDefaultGateway": true, "ipMasq": true }), &rest).unwrap();
        assert!(plan.host_ports && plan.accept_forward && plan.bridge.gateway && plan.bridge.default_gateway);
        assert_eq!(
            (plan.bridge.name.as_str(), plan.data_dir.as_path()),
            ("cni0", Path::new("/leases"))
        );
    }

    #[test]
    fn anything_else_is_for_the_binaries() {
        for bridge in [
            json!({ "vlan": 7 }),
            json!({ "macspoofchk": true }),
            json!({ "unheard": 1 }),
            json!({ "bridge": "../x" }),
            json!({ "bridge": "a-name-that-is-too-long" }),
            json!({ "ipam": { "type": "dhcp" } }),
            json!({ "ipam": { "type": "host-local" } }),
            json!({ "ipam": { "type": "host-local", "subnet": "10.0.0.0/24", "unheard": 1 } }),
            json!({ "ipam": { "type": "host-local", "subnet": "10.0.0.0/24", "routes": [{ "dst": "0.0.0.0/0", "mtu": 9 }] } }),
            json!({ "ipam": { "type": "host-local", "ranges": [[]] } }),
            json!({ "ipam": { "type": "host-local", "ranges": [[{ "subnet": "10.0.0.0/24" }], [{ "subnet": "10.0.0.0/25" }]] } }),
        ] {
            assert!(plan(&bridge, &[]).is_err(), "{bridge}");
        }
        for other in [
            json!({ "type": "portmap", "snat": false }),
            json!({ "type": "portmap", "conditionsV4": ["!"] }),
            json!({ "type": "firewall", "ingressPolicy": "same-bridge" }),
            json!({ "type": "tuning", "sysctl": {} }),
            json!({ "type": "bandwidth" }),
        ] {
            assert!(plan(&json!({}), std::slice::from_ref(&other)).is_err(), "{other}");
        }
    }

    #[test]
    fn a_portmap_without_the_capability_maps_nothing() {
        assert!(
            !plan(&json!({}), &[json!({ "type": "portmap" })])
                .unwrap()
                .host_ports
        );
    }
}
