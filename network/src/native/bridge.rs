//! The bridge on the host.

use ipnet::IpNet;

use super::lease::Lease;
use super::plan::BridgePlan;
use super::{failed, set_quietly};
use crate::netlink::Socket;
use crate::netlink::route::Link;
use crate::{Error, Result};
use criquet_sys::procfs;

/// A sysctl is a digit and a newline.
const SYSCTL_BYTES_MAX: usize = 64;

/// Makes the bridge if it is not there, up and with the gateways' addresses, and lets the host forward.
pub(crate) fn ensure(socket: &mut Socket, plan: &BridgePlan, leases: &[Lease]) -> Result<Link> {
    let name = &plan.name;
    let link = match find(socket, name)? {
        Some(link) => link,
        None => {
            socket
                .add_bridge(name, plan.mtu)
                .map_err(failed(format!("add bridge {name}")))?;
            find(socket, name)?.ok_or_else(|| Error(format!("bridge {name} is gone")))?
        }
    };
    if link.kind != "bridge" {
        return Err(Error(format!(
            "link {name} is there already and is not a bridge but {:?}",
            link.kind
        )));
    }
    set_quietly(&format!("sys/net/ipv6/conf/{name}/accept_ra"), "0");
    if plan.promiscuous {
        socket
            .set_promiscuous(link.index)
            .map_err(failed(format!("set bridge {name} promiscuous")))?;
    }
    if !link.up {
        socket
            .set_up(link.index)
            .map_err(failed(format!("set bridge {name} up")))?;
    }
    if plan.gateway {
        add_gateways(socket, &link, name, leases)?;
        for (v4, path) in [
            (true, "sys/net/ipv4/ip_forward"),
            (false, "sys/net/ipv6/conf/all/forwarding"),
        ] {
            if leases.iter().any(|lease| lease.address.addr().is_ipv4() == v4) {
                switch_on(path)?;
            }
        }
    }
    Ok(link)
}

fn find(socket: &mut Socket, name: &str) -> Result<Option<Link>> {
    socket.link(name).map_err(failed(format!("look at link {name}")))
}

fn add_gateways(socket: &mut Socket, link: &Link, name: &str, leases: &[Lease]) -> Result<()> {
    let present = socket
        .addresses(link.index)
        .map_err(failed(format!("list addresses of bridge {name}")))?;
    let mut added = false;
    for lease in leases {
        let gateway = IpNet::new(lease.gateway, lease.address.prefix_len())
            .map_err(|error| Error(format!("gateway {} of bridge {name}: {error}", lease.gateway)))?;
        if present.contains(&gateway) {
            continue;
        }
        let other = present.iter().find(|have| {
            have.addr().is_ipv4() == gateway.addr().is_ipv4()
                && (have.addr().is_ipv4() || have.contains(&gateway.addr()) || gateway.contains(&have.addr()))
        });
        if let Some(other) = other {
            return Err(Error(format!(
                "bridge {name} has address {other}, the network wants {gateway}"
            )));
        }
        socket
            .add_address(link.index, gateway)
            .map_err(failed(format!("add address {gateway} to bridge {name}")))?;
        added = true;
    }
    if added {
        socket
            .set_mac(link.index, &link.mac)
            .map_err(failed(format!("fix the address of bridge {name}")))?;
    }
    Ok(())
}

/// Host ports on 127.0.0.1: packets of 127.0.0.0/8 may leave by this bridge. The `localhost` chain of our
/// rules drops those that come in.
pub(crate) fn allow_localhost(name: &str) -> Result<()> {
    switch_on(&format!("sys/net/ipv4/conf/{name}/route_localnet"))
}

fn switch_on(path: &str) -> Result<()> {
    if procfs::read(path, SYSCTL_BYTES_MAX).is_ok_and(|value| value.trim() != "0") {
        return Ok(());
    }
    procfs::write(path, b"1").map_err(|error| Error(format!("switch on {path}: {error}")))
}

/// Removes the bridge.
pub(crate) fn wipe(name: &str) -> Result<()> {
    let mut socket = Socket::route().map_err(failed("open a route socket"))?;
    match find(&mut socket, name)? {
        Some(link) if link.kind == "bridge" => socket
            .delete_link(link.index)
            .map_err(failed(format!("delete bridge {name}"))),
        _ => Ok(()),
    }
}
