//! Counters of the interfaces in a pod's network namespace.

use std::os::fd::BorrowedFd;

use crate::fault::{OrFault, Result};

/// One interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interface {
    /// e.g. `eth0`.
    pub name: String,
    /// Received.
    pub rx_bytes: u64,
    /// Received packets.
    pub rx_packets: u64,
    /// Receive errors.
    pub rx_errors: u64,
    /// Packets that came and were dropped.
    pub rx_dropped: u64,
    /// Sent.
    pub tx_bytes: u64,
    /// Sent packets.
    pub tx_packets: u64,
    /// Send errors.
    pub tx_errors: u64,
    /// Packets that were to be sent and were dropped.
    pub tx_dropped: u64,
}

/// The interfaces of a network namespace, without the loopback.
///
/// # Errors
/// The namespace cannot be joined.
pub fn interfaces(netns: BorrowedFd<'_>) -> Result<Vec<Interface>> {
    let text =
        criquet_sys::namespace::in_netns(netns, || std::fs::read_to_string("/proc/thread-self/net/dev"))
            .or_internal(|| "joining the pod's network".into())?
            .or_internal(|| "reading the pod's interfaces".into())?;
    Ok(parse(&text))
}

/// proc(5), /proc/net/dev: two lines of titles, then `name: 8 receive fields, 8 transmit fields`.
fn parse(text: &str) -> Vec<Interface> {
    let line = |line: &str| {
        let (name, fields) = line.split_once(':')?;
        let fields: Vec<u64> = fields
            .split_whitespace()
            .map(|field| field.parse().unwrap_or(0))
            .collect();
        Some(Interface {
            name: name.trim().to_owned(),
            rx_bytes: *fields.first()?,
            rx_packets: *fields.get(1)?,
            rx_errors: *fields.get(2)?,
            rx_dropped: *fields.get(3)?,
            tx_bytes: *fields.get(8)?,
            tx_packets: *fields.get(9)?,
            tx_errors: *fields.get(10)?,
            tx_dropped: *fields.get(11)?,
        })
    };
    text.lines()
        .skip(2)
        .filter_map(line)
        .filter(|interface| interface.name != "lo")
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_table() {
        let text = "Inter-|   Receive                 |  Transmit\n face |bytes packets errs drop fifo frame compressed multicast|bytes ...\n\
                    \x20   lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n\
                    \x20 eth0: 100 2 3 4 0 0 0 0 200 5 6 7 0 0 0 0\n";
        let eth0 = Interface {
            name: "eth0".into(),
            rx_bytes: 100,
            rx_packets: 2,
            rx_errors: 3,
            rx_dropped: 4,
            tx_bytes: 200,
            tx_packets: 5,
            tx_errors: 6,
            tx_dropped: 7,
        };
        assert_eq!(parse(text), vec![eth0]);
    }
}
