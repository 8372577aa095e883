//! A network namespace per test: bridges, addresses and rules of the daemon under test stay off the machine.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Moves the calling thread into a fresh network namespace with loopback and a default route (to a veth whose
/// both ends are inside: port mapping and masquerading want one). What the thread starts is there too. The
/// namespace ends with the last thread, process and descriptor in it.
pub(crate) fn enter_new() {
    const SETUP: &str = "ip link set lo up && \
        ip link add uplink type veth peer name world && \
        ip addr add 192.168.77.1/24 dev uplink && ip link set uplink up && ip link set world up && \
        ip route add default via 192.168.77.2 dev uplink && \
        sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.route_localnet=1 && echo ready && read -r _";
    let mut holder = Command::new("unshare")
        .args(["--net", "sh", "-c", SETUP])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("start unshare");
    let mut line = String::new();
    BufReader::new(holder.stdout.take().expect("stdout"))
        .read_line(&mut line)
        .expect("read");
    assert_eq!(line.trim(), "ready", "the network namespace was not set up");
    let namespace = File::open(format!("/proc/{}/ns/net", holder.id())).expect("open the namespace");
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).expect("setns");
    drop(holder.stdin.take());
    let _ = holder.wait();
}
