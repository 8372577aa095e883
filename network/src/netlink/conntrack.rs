//! Forgetting tracked connections: `include/uapi/linux/netfilter/nfnetlink_conntrack.h`.

use super::{Message, Result, Socket};

const IPCTNL_MSG_CT_DELETE: u16 = (1 << 8) | 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_FILTER: u16 = 25;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
/// `CTA_FILTER_F_CTA_PROTO_NUM | CTA_FILTER_F_CTA_PROTO_DST_PORT` of the kernel's
/// `nf_internals.h`.
const NUMBER_AND_PORT: u32 = 8 | 32;
const UDP: u8 = 17;

impl Socket {
    /// Forgets UDP flows to `port`, so that the next datagram meets today's rules.
    pub(crate) fn forget_udp(&mut self, family: u8, port: u16) -> Result<()> {
        let message = Message::new(IPCTNL_MSG_CT_DELETE, 0, &[family, 0, 0, 0])
            .nest(CTA_TUPLE_ORIG, |tuple| {
                tuple.nest(CTA_TUPLE_PROTO, |proto| {
                    proto
                        .bytes(CTA_PROTO_NUM, &[UDP])
                        .bytes(CTA_PROTO_DST_PORT, &port.to_be_bytes())
                })
            })
            .nest(CTA_FILTER, |filter| {
                filter.number(CTA_FILTER_ORIG_FLAGS, NUMBER_AND_PORT)
            });
        self.request(message).map(drop)
    }
}
