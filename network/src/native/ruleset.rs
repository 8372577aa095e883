//! Our nf_tables tables without the elements: what [`base`] gives is the same for every host.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::netlink::nftables::{
    Data, Field, HOOK_OUTPUT, HOOK_POSTROUTING, HOOK_PREROUTING, Hook, REG_1, REG32_00, Rule, Table, Verdict,
};
use crate::netlink::{Message, octets};

/// The table's name, in each family.
pub(super) const TABLE: &str = "criquet";
pub(crate) const AF_INET: u8 = 2;
pub(crate) const AF_INET6: u8 = 10;
/// proto . port → address . port
pub(super) const PORTS: &str = "ports";
/// address . proto . port → address . port
pub(super) const ADDRESS_PORTS: &str = "address_ports";
/// Pods with host ports.
pub(super) const PODS: &str = "pods";
/// source . destination that are one pod.
pub(super) const HAIRPIN: &str = "hairpin";
/// in . out that are one bridge.
pub(super) const BRIDGES: &str = "bridges";
/// A masqueraded pod's address → the chain of its network.
pub(super) const SOURCES: &str = "sources";
/// `NF_IP_PRI_NAT_DST`, `NF_IP_PRI_NAT_SRC` and `NF_IP_PRI_RAW`.
const PRIORITY_DNAT: i32 = -100;
const PRIORITY_SNAT: i32 = 100;
const PRIORITY_RAW: i32 = -300;

pub(super) fn table(family: u8) -> Table<'static> {
    Table { family, name: TABLE }
}

pub(super) fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { AF_INET } else { AF_INET6 }
}

pub(super) fn masquerade_chain(subnet: IpNet) -> String {
    format!("masquerade_{}", subnet.to_string().replace(':', "_"))
}

/// Offsets of source and destination in the network header, and the size of an address.
pub(super) fn layout(family: u8) -> (u32, u32, u32) {
    if family == AF_INET {
        (12, 16, 4)
    } else {
        (8, 24, 16)
    }
}

/// The table, its maps and its fixed rules. Repeating it changes nothing.
pub(super) fn base(family: u8) -> Vec<Message> {
    let mut messages = places(family);
    messages.extend(fixed(family));
    messages
}

fn places(family: u8) -> Vec<Message> {
    let table = table(family);
    let address = if family == AF_INET {
        Field::Ipv4
    } else {
        Field::Ipv6
    };
    let target: &[Field] = &[address, Field::Service];
    let nat = |number, priority| {
        Some(Hook {
            kind: "nat",
            number,
            priority,
        })
    };
    vec![
        table.add(),
        table.add_set(PORTS, 1, &[Field::Protocol, Field::Service], Data::Fields(target)),
        table.add_set(
            ADDRESS_PORTS,
            2,
            &[address, Field::Protocol, Field::Service],
            Data::Fields(target),
        ),
        table.add_set(PODS, 3, &[address], Data::None),
        table.add_set(BRIDGES, 4, &[Field::Link, Field::Link], Data::None),
        table.add_set(HAIRPIN, 6, &[address, address], Data::None),
        table.add_set(SOURCES, 5, &[address], Data::Verdict),
        table.add_chain("hostports", None),
        table.add_chain("prerouting", nat(HOOK_PREROUTING, PRIORITY_DNAT)),
        table.add_chain("output", nat(HOOK_OUTPUT, PRIORITY_DNAT)),
        table.add_chain("postrouting", nat(HOOK_POSTROUTING, PRIORITY_SNAT)),
    ]
}

fn fixed(family: u8) -> Vec<Message> {
    let table = table(family);
    let (source_at, destination_at, size) = layout(family);
    // The 4-byte register behind an address in the first register.
    let behind = REG32_00 + size / 4;
    let mut messages = Vec::new();
    for chain in ["hostports", "prerouting", "output", "postrouting"] {
        messages.push(table.flush_chain(chain));
    }
    messages.push(table.add_rule("hostports", |rule| {
        rule.payload(true, destination_at, size, REG_1)
            .transport(behind)
            .payload(false, 2, 2, behind + 1)
            .lookup(ADDRESS_PORTS, Some(REG_1))
            .dnat(family, behind)
    }));
    messages.push(table.add_rule("hostports", |rule| {
        rule.transport(REG_1)
            .payload(false, 2, 2, REG32_00 + 1)
            .lookup(PORTS, Some(REG_1))
            .dnat(family, behind)
    }));
    for chain in ["prerouting", "output"] {
        messages.push(table.add_rule(chain, |rule| {
            rule.destined_here().verdict(Verdict::Jump("hostports"))
        }));
    }
    // A pod that asks itself or a neighbour by a host port must get its answer through the host. With
    // bridge-nf-call-iptables the neighbour's answer is seen in the bridge, and the link it came by is not told.
    messages.push(table.add_rule("postrouting", |rule| {
        rule.payload(true, source_at, size, REG_1)
            .payload(true, destination_at, size, behind)
            .lookup(HAIRPIN, None)
            .masquerade()
    }));
    messages.push(table.add_rule("postrouting", |rule| {
        rule.links(REG_1, REG32_00 + 4)
            .lookup(BRIDGES, None)
            .redirected()
            .masquerade()
    }));
    if family == AF_INET {
        messages.extend(localhost(table));
    }
    let multicast = |rule: Rule| {
        let rule = rule.payload(true, destination_at, 1, REG_1);
        if family == AF_INET {
            rule.mask(&[0xf0]).compare(true, &[0xe0])
        } else {
            rule.compare(true, &[0xff])
        }
    };
    messages.push(table.add_rule("postrouting", |rule| multicast(rule).verdict(Verdict::Return)));
    messages.push(table.add_rule("postrouting", |rule| {
        rule.payload(true, source_at, size, REG_1).dispatch(SOURCES)
    }));
    messages
}

/// Connections from this host to 127.0.0.1:port need another source on the bridge. The bridge has
/// `route_localnet` for them, so what comes from outside for 127.0.0.0/8 is dropped (CVE-2020-8558).
fn localhost(table: Table<'static>) -> Vec<Message> {
    let raw = Hook {
        kind: "filter",
        number: HOOK_PREROUTING,
        priority: PRIORITY_RAW,
    };
    let (source_at, destination_at, size) = layout(AF_INET);
    vec![
        table.add_rule("postrouting", |rule| {
            rule.payload(true, source_at, 1, REG_1)
                .compare(true, &[127])
                .payload(true, destination_at, size, REG_1)
                .lookup(PODS, None)
                .masquerade()
        }),
        table.add_chain("localhost", Some(raw)),
        table.flush_chain("localhost"),
        table.add_rule("localhost", |rule| {
            rule.link(true, false, "lo")
                .payload(true, destination_at, 1, REG_1)
                .compare(true, &[127])
                .verdict(Verdict::Drop)
        }),
    ]
}

/// Masquerades what leaves `subnet`.
pub(super) fn network(subnet: IpNet) -> Vec<Message> {
    let family = family(subnet.addr());
    let table = table(family);
    let chain = masquerade_chain(subnet);
    let (_, destination_at, size) = layout(family);
    let mask = octets(subnet.netmask());
    vec![
        table.add_chain(&chain, None),
        table.flush_chain(&chain),
        table.add_rule(&chain, |rule| {
            rule.payload(true, destination_at, size, REG_1)
                .mask(&mask)
                .compare(false, &octets(subnet.network()))
                .masquerade()
        }),
    ]
}
