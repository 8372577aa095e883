//! Our packet rules: masquerading and host ports, as elements of maps.
//!
//! One table `criquet` per address family holds a fixed set of rules; a pod adds and removes elements.
//! A host port leads to a pod's address, and a pod's address is leased to one pod only, so an element is
//! known to be a pod's own by its value. nat hooks of several tables all see a packet, so this lives
//! beside iptables, docker and kube-proxy.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use ipnet::IpNet;

use super::ruleset::{
    ADDRESS_PORTS, AF_INET, AF_INET6, BRIDGES, HAIRPIN, PODS, PORTS, SOURCES, TABLE, base, family, layout,
    masquerade_chain, network, table,
};
use super::{Attached, forward};
use crate::netlink::nftables::{Table, Value};
use crate::netlink::{EBUSY, EEXIST, ENOENT, Refusal, Socket, octets};
use crate::{Error, PortMapping, Protocol, Result};

/// The rules of the network namespace in which the first call was made.
#[derive(Debug, Default)]
pub(crate) struct Rules(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Kept open: closing one makes the kernel wait for an RCU grace period, some 10 ms, when elements
    /// were deleted shortly before.
    socket: Option<Socket>,
    /// What this process knows to be in the kernel: tables, and networks in them.
    known: HashSet<(u8, Option<IpNet>)>,
    /// Bridges for which forwarding was opened.
    accepted: HashSet<String>,
}

/// What a pod asks of the rules.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wanted {
    pub(crate) addresses: Vec<IpNet>,
    pub(crate) masquerade: bool,
    pub(crate) ports: Vec<PortMapping>,
    pub(crate) bridge: String,
    /// Open forwarding for the bridge.
    pub(crate) accept: bool,
}

/// The elements of one address: set, key and value.
fn elements(wanted: &Wanted, net: IpNet) -> Vec<(&'static str, Vec<u8>, Value)> {
    let mut elements = Vec::new();
    let address = octets(net.addr());
    if wanted.masquerade {
        elements.push((
            SOURCES,
            address.clone(),
            Value::Goto(masquerade_chain(net.trunc())),
        ));
    }
    let ports = port_elements(wanted, net.addr());
    if !ports.is_empty() {
        elements.push((HAIRPIN, [address.clone(), address.clone()].concat(), Value::None));
        elements.push((PODS, address, Value::None));
        elements.push((
            BRIDGES,
            [link_key(&wanted.bridge), link_key(&wanted.bridge)].concat(),
            Value::None,
        ));
    }
    elements.extend(ports);
    elements
}

/// A link's name as the registers hold it.
fn link_key(name: &str) -> Vec<u8> {
    let mut key = name.as_bytes().to_vec();
    key.resize(16, 0);
    key
}

fn port_elements(wanted: &Wanted, pod: IpAddr) -> Vec<(&'static str, Vec<u8>, Value)> {
    let mut elements = Vec::new();
    for port in &wanted.ports {
        let mut key = vec![number_of(port.protocol), 0, 0, 0];
        key.extend(port.host_port.to_be_bytes());
        key.extend([0, 0]);
        let mut target = octets(pod);
        target.extend(port.container_port.to_be_bytes());
        target.extend([0, 0]);
        match port.host_ip {
            Some(ip) if ip.is_ipv4() != pod.is_ipv4() => {}
            Some(ip) if !ip.is_unspecified() => {
                elements.push((ADDRESS_PORTS, [octets(ip), key].concat(), Value::Bytes(target)));
            }
            _ => elements.push((PORTS, key, Value::Bytes(target))),
        }
    }
    elements
}

fn number_of(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

fn failed(what: &'static str) -> impl Fn(Refusal) -> Error {
    move |refusal| Error(format!("{what} table {TABLE}: {refusal}"))
}

impl Rules {
    fn with<T>(&self, work: impl FnOnce(&mut Socket, &mut HashSet<(u8, Option<IpNet>)>) -> T) -> Result<T> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *state;
        let socket = match state.socket.take() {
            Some(socket) => socket,
            None => Socket::netfilter().map_err(failed("open a netfilter socket for"))?,
        };
        let socket = state.socket.insert(socket);
        Ok(work(socket, &mut state.known))
    }

    /// Adds a pod's elements, and the table when it is not there.
    pub(crate) fn add(&self, wanted: &Wanted) -> Result<()> {
        if wanted.accept {
            self.accept(&wanted.bridge, false)?;
        }
        if !wanted.masquerade && wanted.ports.is_empty() {
            return Ok(());
        }
        self.with(|socket, known| {
            let added = match add(socket, known, wanted) {
                // Somebody emptied the ruleset.
                Err(refusal) if refusal.is(ENOENT) => {
                    known.clear();
                    add(socket, known, wanted)
                }
                other => other,
            };
            added.map_err(|refusal| explain(&refusal, wanted))?;
            for port in wanted.ports.iter().filter(|port| port.protocol == Protocol::Udp) {
                for net in &wanted.addresses {
                    // Old kernels cannot; then an old flow lives until it times out.
                    if let Err(error) = socket.forget_udp(family(net.addr()), port.host_port) {
                        tracing::debug!(port = port.host_port, %error, "stale udp flows were not forgotten");
                    }
                }
            }
            Ok(())
        })?
    }

    /// Lets the host forward for a bridge. `again`: somebody may have made a chain since, or emptied it. Pods of
    /// one bridge work without it, so that it fails is only told.
    pub(crate) fn accept(&self, bridge: &str, again: bool) -> Result<()> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.accepted.insert(bridge.to_owned()) && !again {
            return Ok(());
        }
        drop(state);
        if let Err(error) = self.with(|socket, _| forward::accept(socket, bridge))? {
            tracing::warn!(bridge, %error, "forwarding was not opened in the chain FORWARD of iptables");
        }
        Ok(())
    }

    /// Removes what leads to, or comes from, `addresses`.
    pub(crate) fn remove(&self, addresses: &[IpAddr], attached: &Attached) -> Result<()> {
        if addresses.is_empty() || (!attached.masquerade && !attached.ports) {
            return Ok(());
        }
        self.with(|socket, _| remove(socket, addresses, attached))?
            .map_err(failed("remove packet rules from"))
    }

    /// Removes the elements of addresses that are not in `keep`.
    pub(crate) fn retain(&self, keep: &HashSet<IpAddr>) -> Result<()> {
        self.with(|socket, _| retain(socket, keep))?
            .map_err(failed("clean packet rules of"))
    }

    /// Removes the tables.
    pub(crate) fn wipe(&self) -> Result<()> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .accepted
            .clear();
        self.with(|socket, known| {
            known.clear();
            for family in [AF_INET, AF_INET6] {
                match socket.commit(vec![table(family).delete()]) {
                    Err(refusal) if !refusal.is(ENOENT) => return Err(refusal),
                    _ => {}
                }
            }
            forward::wipe(socket)
        })?
        .map_err(failed("remove"))
    }
}

fn explain(refusal: &Refusal, wanted: &Wanted) -> Error {
    if (refusal.is(EBUSY) || refusal.is(EEXIST)) && !wanted.ports.is_empty() {
        let ports: Vec<String> = wanted
            .ports
            .iter()
            .map(|port| port.host_port.to_string())
            .collect();
        return Error(format!("a host port of {} is taken already", ports.join(", ")));
    }
    Error(format!("set packet rules in table {TABLE}: {refusal}"))
}

fn add(
    socket: &mut Socket,
    known: &mut HashSet<(u8, Option<IpNet>)>,
    wanted: &Wanted,
) -> std::result::Result<(), Refusal> {
    let mut messages = Vec::new();
    let mut news = Vec::new();
    for net in &wanted.addresses {
        let family = family(net.addr());
        let table = (family, None);
        if !known.contains(&table) && !news.contains(&table) {
            messages.extend(base(family));
            news.push(table);
        }
        let chain = (family, Some(net.trunc()));
        if wanted.masquerade && !known.contains(&chain) && !news.contains(&chain) {
            messages.extend(network(net.trunc()));
            news.push(chain);
        }
    }
    for net in &wanted.addresses {
        for (set, key, value) in elements(wanted, *net) {
            messages.push(table(family(net.addr())).add_element(set, &key, &value));
        }
    }
    socket.commit(messages)?;
    known.extend(news);
    Ok(())
}

fn remove(
    socket: &mut Socket,
    addresses: &[IpAddr],
    attached: &Attached,
) -> std::result::Result<(), Refusal> {
    let mut deletions = Vec::new();
    for address in addresses {
        let table = table(family(*address));
        let key = octets(*address);
        if attached.masquerade {
            deletions.push((table, SOURCES, key.clone()));
        }
        if attached.ports {
            for map in [PORTS, ADDRESS_PORTS] {
                for element in socket.elements(table, map)? {
                    if element.data.starts_with(&key) {
                        deletions.push((table, map, element.key));
                    }
                }
            }
            deletions.push((table, HAIRPIN, [key.clone(), key.clone()].concat()));
            deletions.push((table, PODS, key));
        }
    }
    delete(socket, &deletions)
}

type Deletion = (Table<'static>, &'static str, Vec<u8>);

fn delete(socket: &mut Socket, deletions: &[Deletion]) -> std::result::Result<(), Refusal> {
    let message = |(table, set, key): &Deletion| table.delete_element(set, key);
    match socket.commit(deletions.iter().map(message).collect()) {
        // Some were gone: one by one.
        Err(refusal) if refusal.is(ENOENT) => {
            for deletion in deletions {
                match socket.commit(vec![message(deletion)]) {
                    Err(refusal) if !refusal.is(ENOENT) => return Err(refusal),
                    _ => {}
                }
            }
            Ok(())
        }
        other => other,
    }
}

fn retain(socket: &mut Socket, keep: &HashSet<IpAddr>) -> std::result::Result<(), Refusal> {
    for family in [AF_INET, AF_INET6] {
        let table = table(family);
        let size = layout(family).2 as usize;
        let mut deletions = Vec::new();
        for set in [SOURCES, HAIRPIN, PORTS, ADDRESS_PORTS, PODS] {
            for element in socket.elements(table, set)? {
                let owner = if set == PORTS || set == ADDRESS_PORTS {
                    &element.data
                } else {
                    &element.key
                };
                let owner = owner.get(..size).and_then(crate::netlink::address);
                if owner.is_none_or(|owner| !keep.contains(&owner)) {
                    deletions.push((table, set, element.key));
                }
            }
        }
        delete(socket, &deletions)?;
    }
    Ok(())
}
