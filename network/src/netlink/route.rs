//! Links, addresses and routes: rtnetlink(7).

use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use ipnet::IpNet;

use super::{
    EEXIST, ENODEV, Message, NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, Result, Socket, address, attribute,
    attributes, number, text,
};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const AF_UNSPEC: u8 = 0;
const AF_INET: u8 = 2;
const AF_BRIDGE: u8 = 7;
const AF_INET6: u8 = 10;
const IFF_UP: u32 = 1;
const IFF_PROMISC: u32 = 0x100;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_PROTINFO: u16 = 12;
const IFLA_OPERSTATE: u16 = 16;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_BRPORT_MODE: u16 = 4;
const VETH_INFO_PEER: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;
const IFA_F_NODAD: u32 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_BOOT: u8 = 3;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_LINK: u8 = 253;
const RTN_UNICAST: u8 = 1;
/// `lo` is the first link of every network namespace.
const LOOPBACK: u32 = 1;
/// RFC 2863, `include/uapi/linux/if.h`.
const IF_OPER_UP: u8 = 6;

/// What we ask about a link.
#[derive(Debug, Clone, Default)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) kind: String,
    pub(crate) mac: Vec<u8>,
    /// Carries packets: both ends are up.
    pub(crate) operational: bool,
    pub(crate) up: bool,
}

impl Link {
    /// `aa:bb:…`
    pub(crate) fn mac_text(&self) -> String {
        self.mac
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<Vec<_>>()
            .join(":")
    }
}

/// `struct ifinfomsg`.
fn link_header(family: u8, index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[0] = family;
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { AF_INET } else { AF_INET6 }
}

/// The pair to make: one end here in a bridge, one in the pod.
#[derive(Debug)]
pub(crate) struct Veth<'a> {
    pub(crate) name: &'a str,
    pub(crate) master: u32,
    pub(crate) peer: &'a str,
    pub(crate) netns: BorrowedFd<'a>,
    /// 0: the kernel's default.
    pub(crate) mtu: u32,
}

impl Socket {
    pub(crate) fn link(&mut self, name: &str) -> Result<Option<Link>> {
        let message = Message::new(RTM_GETLINK, 0, &link_header(AF_UNSPEC, 0, 0, 0)).text(IFLA_IFNAME, name);
        match self.request(message) {
            Ok(answers) => Ok(answers.first().map(|answer| parse_link(answer))),
            Err(refusal) if refusal.is(ENODEV) => Ok(None),
            Err(refusal) => Err(refusal),
        }
    }

    /// Makes a bridge; one that is there already is success.
    pub(crate) fn add_bridge(&mut self, name: &str, mtu: u32) -> Result<()> {
        let mut message = Message::new(
            RTM_NEWLINK,
            NLM_F_CREATE | NLM_F_EXCL,
            &link_header(AF_UNSPEC, 0, IFF_UP, IFF_UP),
        )
        .text(IFLA_IFNAME, name);
        if mtu > 0 {
            message = message.number(IFLA_MTU, mtu);
        }
        let message = message.nest(IFLA_LINKINFO, |info| info.text(IFLA_INFO_KIND, "bridge"));
        ignore(self.request(message), EEXIST)
    }

    /// Makes the pair, plugs this end into the bridge and sets it up: one call.
    pub(crate) fn add_veth(&mut self, veth: &Veth<'_>) -> Result<()> {
        let mtu = |message: Message| {
            if veth.mtu > 0 {
                message.number(IFLA_MTU, veth.mtu)
            } else {
                message
            }
        };
        let netns = veth.netns.as_raw_fd().cast_unsigned();
        let message = Message::new(
            RTM_NEWLINK,
            NLM_F_CREATE | NLM_F_EXCL,
            &link_header(AF_UNSPEC, 0, IFF_UP, IFF_UP),
        )
        .text(IFLA_IFNAME, veth.name)
        .number(IFLA_MASTER, veth.master);
        let message = mtu(message).nest(IFLA_LINKINFO, |info| {
            info.text(IFLA_INFO_KIND, "veth").nest(IFLA_INFO_DATA, |data| {
                data.nest(VETH_INFO_PEER, |peer| {
                    let peer = peer
                        .raw(&link_header(AF_UNSPEC, 0, 0, 0))
                        .text(IFLA_IFNAME, veth.peer);
                    mtu(peer).number(IFLA_NET_NS_FD, netns)
                })
            })
        });
        self.request(message).map(drop)
    }

    pub(crate) fn set_up(&mut self, index: u32) -> Result<()> {
        self.request(Message::new(
            RTM_SETLINK,
            0,
            &link_header(AF_UNSPEC, index, IFF_UP, IFF_UP),
        ))
        .map(drop)
    }

    pub(crate) fn set_loopback_up(&mut self) -> Result<()> {
        self.set_up(LOOPBACK)
    }

    pub(crate) fn set_promiscuous(&mut self, index: u32) -> Result<()> {
        let header = link_header(AF_UNSPEC, index, IFF_PROMISC, IFF_PROMISC);
        self.request(Message::new(RTM_SETLINK, 0, &header)).map(drop)
    }

    /// Fixes a bridge's address, which otherwise changes with its ports.
    pub(crate) fn set_mac(&mut self, index: u32, mac: &[u8]) -> Result<()> {
        let message = Message::new(RTM_SETLINK, 0, &link_header(AF_UNSPEC, index, 0, 0));
        self.request(message.bytes(IFLA_ADDRESS, mac)).map(drop)
    }

    /// Lets a bridge port send back what it received.
    pub(crate) fn set_hairpin(&mut self, index: u32) -> Result<()> {
        let message = Message::new(RTM_SETLINK, 0, &link_header(AF_BRIDGE, index, 0, 0))
            .nest(IFLA_PROTINFO, |port| port.bytes(IFLA_BRPORT_MODE, &[1]));
        self.request(message).map(drop)
    }

    pub(crate) fn delete_link(&mut self, index: u32) -> Result<()> {
        ignore(
            self.request(Message::new(RTM_DELLINK, 0, &link_header(AF_UNSPEC, index, 0, 0))),
            ENODEV,
        )
    }

    /// The addresses of a link.
    pub(crate) fn addresses(&mut self, index: u32) -> Result<Vec<IpNet>> {
        let answers = self.dump(Message::new(RTM_GETADDR, 0, &[0; 8]))?;
        Ok(answers
            .iter()
            .filter_map(|answer| parse_address(answer, index))
            .collect())
    }

    /// Adds an address; one that is there already is success.
    pub(crate) fn add_address(&mut self, index: u32, net: IpNet) -> Result<()> {
        let mut header = [
            family(net.addr()),
            net.prefix_len(),
            0,
            RT_SCOPE_UNIVERSE,
            0,
            0,
            0,
            0,
        ];
        header[4..8].copy_from_slice(&index.to_ne_bytes());
        let mut message = Message::new(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &header)
            .address(IFA_LOCAL, net.addr())
            .address(IFA_ADDRESS, net.addr());
        match net {
            IpNet::V4(v4) if v4.prefix_len() < 31 => {
                message = message.address(IFA_BROADCAST, v4.broadcast().into())
            }
            IpNet::V4(_) => {}
            // Nobody else has it: the lease says so.
            IpNet::V6(_) => message = message.number(IFA_FLAGS, IFA_F_NODAD),
        }
        ignore(self.request(message), EEXIST)
    }

    /// Adds a route out of a link, through `gateway` if there is one.
    pub(crate) fn add_route(&mut self, index: u32, to: IpNet, gateway: Option<IpAddr>) -> Result<()> {
        let scope = if gateway.is_some() {
            RT_SCOPE_UNIVERSE
        } else {
            RT_SCOPE_LINK
        };
        let header = [
            family(to.addr()),
            to.prefix_len(),
            0,
            0,
            RT_TABLE_MAIN,
            RTPROT_BOOT,
            scope,
            RTN_UNICAST,
            0,
            0,
            0,
            0,
        ];
        let mut message =
            Message::new(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_APPEND, &header).number(RTA_OIF, index);
        if to.prefix_len() > 0 {
            message = message.address(RTA_DST, to.network());
        }
        if let Some(gateway) = gateway {
            message = message.address(RTA_GATEWAY, gateway);
        }
        ignore(self.request(message), EEXIST)
    }
}

fn ignore<T>(result: Result<T>, errno: i32) -> Result<()> {
    match result {
        Err(refusal) if !refusal.is(errno) => Err(refusal),
        _ => Ok(()),
    }
}

fn parse_link(answer: &[u8]) -> Link {
    let mut link = Link {
        index: number(answer.get(4..).unwrap_or_default()),
        ..Link::default()
    };
    link.up = number(answer.get(8..).unwrap_or_default()) & IFF_UP != 0;
    for (kind, value) in attributes(answer.get(16..).unwrap_or_default()) {
        match kind {
            IFLA_ADDRESS => link.mac = value.to_vec(),
            IFLA_OPERSTATE => link.operational = value.first() == Some(&IF_OPER_UP),
            IFLA_LINKINFO => {
                link.kind = attribute(value, IFLA_INFO_KIND)
                    .map(|kind| text(kind).to_owned())
                    .unwrap_or_default();
            }
            _ => {}
        }
    }
    link
}

fn parse_address(answer: &[u8], index: u32) -> Option<IpNet> {
    if number(answer.get(4..)?) != index {
        return None;
    }
    let list = answer.get(8..)?;
    let bytes = attribute(list, IFA_LOCAL).or_else(|| attribute(list, IFA_ADDRESS))?;
    IpNet::new(address(bytes)?, answer[1]).ok()
}
