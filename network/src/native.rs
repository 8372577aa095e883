//! The work of the plugins `bridge`, `host-local`, `portmap`, `firewall` and `loopback` in process.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use criquet_sys::namespace;
use criquet_sys::procfs;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::netlink::route::{Link, Veth};
use crate::netlink::{EEXIST, Refusal, Socket};
use crate::{Error, PortMapping, Result};

pub(crate) mod bridge;
pub(crate) mod forward;
pub(crate) mod lease;
pub(crate) mod plan;
pub(crate) mod rules;
mod ruleset;

use lease::{Lease, Store};
use plan::{Plan, Route};
use rules::Rules;

/// The pod's interface, as every Kubernetes runtime names it.
pub(crate) const INTERFACE: &str = "eth0";
/// Random names that are tried before giving up.
const NAME_TRIES: usize = 10;
/// A bridge port carries packets a few hundred microseconds after both ends are up. The plugin waits for
/// 2.5 seconds at most.
const CARRIER_TIMEOUT: Duration = Duration::from_millis(2500);
const CARRIER_POLL: Duration = Duration::from_micros(50);

/// What an attachment has taken, recorded before it takes it: what detaching must give back.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Attached {
    pub(crate) data_dir: std::path::PathBuf,
    pub(crate) network: String,
    pub(crate) masquerade: bool,
    pub(crate) ports: bool,
}

impl Attached {
    pub(crate) fn of(plan: &Plan, network: &str, ports: &[PortMapping]) -> Self {
        Self {
            data_dir: plan.data_dir.clone(),
            network: network.into(),
            masquerade: plan.bridge.masquerade,
            ports: plan.host_ports && !ports.is_empty(),
        }
    }

    fn store(&self) -> Store {
        Store::new(&self.data_dir, &self.network)
    }

    pub(crate) fn addresses(&self, pod_id: &str) -> Result<Vec<IpAddr>> {
        self.store().of(pod_id, INTERFACE)
    }
}

/// Which pod, by whose plan.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    pub(crate) pod_id: &'a str,
    pub(crate) netns: &'a Path,
    pub(crate) network: &'a str,
    pub(crate) version: &'a str,
    pub(crate) plan: &'a Plan,
    pub(crate) ports: &'a [PortMapping],
}

fn failed(what: impl std::fmt::Display) -> impl FnOnce(Refusal) -> Error {
    move |refusal| Error(format!("{what}: {refusal}"))
}

/// Attaches the pod and gives the CNI result. What is done half when it fails is undone by [`detach`].
pub(crate) fn attach(request: &Request<'_>, rules: &Rules) -> Result<Value> {
    let plan = request.plan;
    let netns =
        namespace::open(request.netns).map_err(|error| Error(format!("open network namespace: {error}")))?;
    let store = Store::new(&plan.data_dir, request.network);
    let leases = store.lease(&plan.ranges, request.pod_id, INTERFACE)?;
    let mut socket = Socket::route().map_err(failed("open a route socket"))?;
    let bridge = bridge::ensure(&mut socket, &plan.bridge, &leases)?;
    let host_name = add_veth(&mut socket, plan, &bridge, netns.as_fd())?;
    let routes = routes(plan, &leases);
    let inside = || configure_pod(&leases, &routes);
    let pod_link = namespace::in_netns(netns.as_fd(), inside).map_err(|error| {
        Error(format!(
            "enter network namespace {}: {error}",
            request.netns.display()
        ))
    })??;
    let ports = if plan.host_ports { request.ports } else { &[] };
    if !ports.is_empty() {
        bridge::allow_localhost(&plan.bridge.name)?;
    }
    let addresses: Vec<IpNet> = leases.iter().map(|lease| lease.address).collect();
    rules.add(&rules::Wanted {
        addresses,
        masquerade: plan.bridge.masquerade,
        ports: ports.to_vec(),
        bridge: plan.bridge.name.clone(),
        accept: plan.accept_forward,
    })?;
    let host_link = wait_for_carrier(&mut socket, &host_name)?;
    Ok(result(
        request,
        &[(&plan.bridge.name, &bridge), (&host_name, &host_link)],
        &pod_link,
        &leases,
        &routes,
    ))
}

fn add_veth(
    socket: &mut Socket,
    plan: &Plan,
    bridge: &Link,
    netns: std::os::fd::BorrowedFd<'_>,
) -> Result<String> {
    let mut last = None;
    for _ in 0..NAME_TRIES {
        let random = getrandom::u32().map_err(|error| Error(format!("make a random link name: {error}")))?;
        let name = format!("veth{random:08x}");
        let veth = Veth {
            name: &name,
            master: bridge.index,
            peer: INTERFACE,
            netns,
            mtu: plan.bridge.mtu,
        };
        match socket.add_veth(&veth) {
            Ok(()) => {
                // We want to own the routes of this link (CVE-2020-10749); no IPv6, no file.
                set_quietly(&format!("sys/net/ipv6/conf/{name}/accept_ra"), "0");
                if plan.bridge.hairpin {
                    let index = socket
                        .link(&name)
                        .map_err(failed(format!("look at link {name}")))?
                        .map(|link| link.index);
                    socket
                        .set_hairpin(index.unwrap_or_default())
                        .map_err(failed(format!("set hairpin mode of {name}")))?;
                }
                return Ok(name);
            }
            Err(refusal) if refusal.is(EEXIST) => last = Some(refusal),
            Err(refusal) => {
                return Err(failed(format!("add link {name} to bridge {}", plan.bridge.name))(
                    refusal,
                ));
            }
        }
    }
    let reason = last.map(|refusal| refusal.to_string()).unwrap_or_default();
    Err(Error(format!(
        "add a link pair for {INTERFACE}: a name is taken: {reason}"
    )))
}

/// The pod's routes: those of the configuration, and the default one where the bridge is the gateway.
fn routes(plan: &Plan, leases: &[Lease]) -> Vec<Route> {
    let mut routes = plan.routes.clone();
    if plan.bridge.default_gateway {
        for lease in leases {
            let v4 = lease.address.addr().is_ipv4();
            let is_default = |route: &Route| route.dst.prefix_len() == 0 && route.dst.addr().is_ipv4() == v4;
            if !routes.iter().any(|route| is_default(route) && route.gw.is_some()) {
                let any = if v4 {
                    IpAddr::from([0; 4])
                } else {
                    IpAddr::from([0; 16])
                };
                routes.extend(IpNet::new(any, 0).map(|dst| Route {
                    dst,
                    gw: Some(lease.gateway),
                }));
            }
        }
    }
    routes
}

/// A sysctl that may be missing: then there is nothing to set.
fn set_quietly(path: &str, value: &str) {
    if let Err(error) = procfs::write(path, value.as_bytes()) {
        tracing::debug!(path, %error, "sysctl was not set");
    }
}

/// Runs in the pod's namespace.
fn configure_pod(leases: &[Lease], routes: &[Route]) -> Result<Link> {
    let mut socket = Socket::route().map_err(failed("open a route socket in the pod"))?;
    socket.set_loopback_up().map_err(failed("set lo up in the pod"))?;
    let link = socket
        .link(INTERFACE)
        .map_err(failed(format!("look at {INTERFACE} in the pod")))?
        .ok_or_else(|| Error(format!("{INTERFACE} is not in the pod")))?;
    set_quietly(&format!("sys/net/ipv6/conf/{INTERFACE}/accept_dad"), "0");
    // A neighbour that plays router would become this pod's way out (CVE-2020-10749).
    set_quietly(&format!("sys/net/ipv6/conf/{INTERFACE}/accept_ra"), "0");
    set_quietly(&format!("sys/net/ipv4/conf/{INTERFACE}/arp_notify"), "1");
    if leases.iter().any(|lease| lease.address.addr().is_ipv6()) {
        for name in ["lo", INTERFACE] {
            set_quietly(&format!("sys/net/ipv6/conf/{name}/disable_ipv6"), "0");
        }
        set_quietly(&format!("sys/net/ipv6/conf/{INTERFACE}/keep_addr_on_down"), "1");
    }
    for lease in leases {
        socket
            .add_address(link.index, lease.address)
            .map_err(failed(format!("add address {} in the pod", lease.address)))?;
    }
    socket
        .set_up(link.index)
        .map_err(failed(format!("set {INTERFACE} up in the pod")))?;
    for route in routes {
        let v4 = route.dst.addr().is_ipv4();
        let gateway = route.gw.or_else(|| {
            leases
                .iter()
                .map(|lease| lease.gateway)
                .find(|gateway| gateway.is_ipv4() == v4)
        });
        socket
            .add_route(link.index, route.dst, gateway)
            .map_err(failed(format!("add route {} in the pod", route.dst)))?;
    }
    Ok(link)
}

/// Sets `lo` up in a namespace: the `loopback` plugin.
pub(crate) fn loopback_up(netns: &Path) -> Result<()> {
    let fd = namespace::open(netns).map_err(|error| Error(format!("open network namespace: {error}")))?;
    let up = || Socket::route()?.set_loopback_up();
    namespace::in_netns(fd.as_fd(), up)
        .map_err(|error| Error(format!("enter network namespace {}: {error}", netns.display())))?
        .map_err(failed("set lo up in the pod"))
}

fn wait_for_carrier(socket: &mut Socket, name: &str) -> Result<Link> {
    let deadline = Instant::now() + CARRIER_TIMEOUT;
    loop {
        let link = socket
            .link(name)
            .map_err(failed(format!("look at link {name}")))?
            .ok_or_else(|| Error(format!("link {name} is gone")))?;
        if link.operational {
            return Ok(link);
        }
        if Instant::now() > deadline {
            return Err(Error(format!(
                "bridge port {name} carries no packets after {CARRIER_TIMEOUT:?}"
            )));
        }
        std::thread::sleep(CARRIER_POLL);
    }
}

fn result(
    request: &Request<'_>,
    host_links: &[(&str, &Link)],
    pod_link: &Link,
    leases: &[Lease],
    routes: &[Route],
) -> Value {
    let mut interfaces: Vec<Value> = host_links
        .iter()
        .map(|(name, link)| json!({ "name": name, "mac": link.mac_text() }))
        .collect();
    interfaces.push(json!({ "name": INTERFACE, "mac": pod_link.mac_text(), "sandbox": request.netns }));
    let old = request.version.starts_with("0.");
    let ips: Vec<Value> = leases
        .iter()
        .map(|lease| {
            let mut ip = json!({
                "interface": host_links.len(), "address": lease.address, "gateway": lease.gateway,
            });
            if old {
                ip["version"] = if lease.address.addr().is_ipv4() { "4" } else { "6" }.into();
            }
            ip
        })
        .collect();
    let routes: Vec<Value> = routes
        .iter()
        .map(|route| match route.gw {
            Some(gw) => json!({ "dst": route.dst, "gw": gw }),
            None => json!({ "dst": route.dst }),
        })
        .collect();
    let mut result =
        json!({ "cniVersion": request.version, "interfaces": interfaces, "ips": ips, "routes": routes });
    if let Some(dns) = &request.plan.dns {
        result["dns"] = dns.clone();
    }
    result
}

/// Gives back what an attachment took, but for the link, which goes with its namespace.
pub(crate) fn detach(
    attached: &Attached,
    pod_id: &str,
    known: Option<Vec<IpAddr>>,
    rules: &Rules,
) -> Result<()> {
    let store = attached.store();
    let addresses = match known {
        Some(addresses) => addresses,
        None => store.of(pod_id, INTERFACE)?,
    };
    // The address must not be another pod's before the rules are gone.
    rules.remove(&addresses, attached)?;
    store.release_known(&addresses, pod_id, INTERFACE)
}

/// The name of the link on the host that a result tells of.
pub(crate) fn host_link(result: &Value) -> Option<String> {
    let interfaces = result.get("interfaces")?.as_array()?;
    interfaces
        .iter()
        .filter_map(|link| link.get("name")?.as_str())
        .find(|name| name.starts_with("veth"))
        .map(str::to_owned)
}

/// Deletes a link of the host; none is success.
pub(crate) fn delete_link(name: &str) -> Result<()> {
    let delete = || {
        let mut socket = Socket::route()?;
        match socket.link(name)? {
            Some(link) if link.kind == "veth" => socket.delete_link(link.index),
            _ => Ok(()),
        }
    };
    delete().map_err(failed(format!("delete link {name}")))
}

/// Deletes the pod's link from within; no link and no namespace are success.
pub(crate) fn delete_pod_link(netns: &Path) -> Result<()> {
    let Ok(fd) = namespace::open(netns) else {
        return Ok(());
    };
    // What is no namespace, like the file that unpinning leaves, cannot be entered and holds no link.
    namespace::in_netns(fd.as_fd(), || delete_link(INTERFACE)).unwrap_or(Ok(()))
}

/// Whether the pod still has its interface, its addresses and its leases.
pub(crate) fn check(attached: &Attached, pod_id: &str, netns: &Path, addresses: &[IpAddr]) -> Result<()> {
    let leased = attached.addresses(pod_id)?;
    if let Some(missing) = addresses.iter().find(|address| !leased.contains(address)) {
        return Err(Error(format!("the lease of {missing} is gone")));
    }
    let fd = namespace::open(netns).map_err(|error| Error(format!("open network namespace: {error}")))?;
    let look = || {
        let mut socket = Socket::route()?;
        let Some(link) = socket.link(INTERFACE)? else {
            return Ok(None);
        };
        socket.addresses(link.index).map(Some)
    };
    let found = namespace::in_netns(fd.as_fd(), look)
        .map_err(|error| Error(format!("enter network namespace {}: {error}", netns.display())))?
        .map_err(failed(format!("look at {INTERFACE} in the pod")))?
        .ok_or_else(|| Error(format!("{INTERFACE} is gone from the pod")))?;
    match addresses
        .iter()
        .find(|address| !found.iter().any(|net| net.addr() == **address))
    {
        Some(missing) => Err(Error(format!("address {missing} is gone from the pod"))),
        None => Ok(()),
    }
}
