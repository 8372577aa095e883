//! Netlink messages: an encoder, a reader of attributes, and a socket that waits for the kernel's answer.
//!
//! The kernel answers a request while it is being sent, so no call here waits for anything but the
//! kernel's own locks. Layout: netlink(7), `include/uapi/linux/netlink.h`.

use std::fmt;
use std::net::IpAddr;

use netlink_sys::{Socket as RawSocket, SocketAddr, protocols};

pub(crate) mod conntrack;
pub(crate) mod nftables;
pub(crate) mod route;

pub(crate) const NLM_F_REQUEST: u16 = 0x1;
pub(crate) const NLM_F_ACK: u16 = 0x4;
pub(crate) const NLM_F_DUMP: u16 = 0x300;
pub(crate) const NLM_F_EXCL: u16 = 0x200;
pub(crate) const NLM_F_CREATE: u16 = 0x400;
pub(crate) const NLM_F_APPEND: u16 = 0x800;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_MULTI: u16 = 0x2;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;
const NLA_F_NESTED: u16 = 0x8000;
const NLA_TYPE_MASK: u16 = 0x3fff;
const HEADER: usize = 16;
/// The largest datagram that the kernel makes for a dump (`NLMSG_GOODSIZE` grows up to 32 KiB).
const ANSWER_BYTES: usize = 64 * 1024;

pub(crate) const ENOENT: i32 = 2;
pub(crate) const EBUSY: i32 = 16;
pub(crate) const EEXIST: i32 = 17;
pub(crate) const ENODEV: i32 = 19;

/// The kernel's refusal: its error number, and its sentence where it has one (extended acknowledgement).
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) errno: i32,
    /// Which message of a batch was refused, counted from 0.
    pub(crate) at: usize,
    sentence: Option<String>,
}

impl Refusal {
    pub(crate) fn is(&self, errno: i32) -> bool {
        self.errno == errno
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let error = std::io::Error::from_raw_os_error(self.errno);
        match &self.sentence {
            Some(sentence) => write!(f, "{error}: {sentence}"),
            None => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for Refusal {}

impl From<std::io::Error> for Refusal {
    fn from(error: std::io::Error) -> Self {
        // A socket that fails without a number is a broken one: EIO.
        Self {
            errno: error.raw_os_error().unwrap_or(5),
            at: 0,
            sentence: None,
        }
    }
}

pub(crate) type Result<T> = std::result::Result<T, Refusal>;

/// One request under construction.
#[derive(Debug)]
pub(crate) struct Message(Vec<u8>);

impl Message {
    /// A message of `kind` with its family header (`ifinfomsg`, `nfgenmsg`, …).
    pub(crate) fn new(kind: u16, flags: u16, family_header: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        bytes.extend_from_slice(family_header);
        Self(bytes).padded()
    }

    fn padded(mut self) -> Self {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    pub(crate) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.padded()
    }

    pub(crate) fn number(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// A number in network byte order, as netfilter wants them.
    pub(crate) fn number_be(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub(crate) fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    pub(crate) fn address(self, kind: u16, value: IpAddr) -> Self {
        self.bytes(kind, &octets(value))
    }

    /// An attribute that holds what `inner` adds.
    pub(crate) fn nest(mut self, kind: u16, inner: impl FnOnce(Self) -> Self) -> Self {
        let start = self.0.len();
        self.0.extend_from_slice(&[0, 0]);
        self.0.extend_from_slice(&(kind | NLA_F_NESTED).to_ne_bytes());
        let mut whole = inner(self);
        let length = u16::try_from(whole.0.len() - start).unwrap_or(u16::MAX);
        whole.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        whole
    }

    /// Bytes without an attribute header, for a header within an attribute.
    pub(crate) fn raw(mut self, value: &[u8]) -> Self {
        self.0.extend_from_slice(value);
        self.padded()
    }

    fn finish(&mut self, sequence: u32, flags: u16) -> &[u8] {
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0[0..4].copy_from_slice(&length.to_ne_bytes());
        let flags = u16::from_ne_bytes([self.0[6], self.0[7]]) | flags;
        self.0[6..8].copy_from_slice(&flags.to_ne_bytes());
        self.0[8..12].copy_from_slice(&sequence.to_ne_bytes());
        &self.0
    }
}

/// The bytes of an address in network order.
pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// The address of 4 or 16 bytes in network order.
pub(crate) fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::from(v4));
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

/// The attributes in `bytes`; what is malformed ends the walk.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let head = bytes.get(..4)?;
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let kind = u16::from_ne_bytes([head[2], head[3]]) & NLA_TYPE_MASK;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The first attribute of `kind`.
pub(crate) fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes)
        .find(|(found, _)| *found == kind)
        .map(|(_, value)| value)
}

/// A text attribute without its closing zero.
pub(crate) fn text(bytes: &[u8]) -> &str {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    std::str::from_utf8(&bytes[..end]).unwrap_or_default()
}

/// A number in host byte order.
pub(crate) fn number(bytes: &[u8]) -> u32 {
    bytes
        .get(..4)
        .and_then(|head| head.try_into().ok())
        .map_or(0, u32::from_ne_bytes)
}

/// One message of an answer, without the netlink header.
pub(crate) type Answer = Vec<u8>;

/// A socket of one protocol in the network namespace in which it was opened.
pub(crate) struct Socket {
    raw: RawSocket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket")
            .field("sequence", &self.sequence)
            .finish_non_exhaustive()
    }
}

impl Socket {
    pub(crate) fn route() -> Result<Self> {
        Self::open(protocols::NETLINK_ROUTE)
    }

    pub(crate) fn netfilter() -> Result<Self> {
        Self::open(protocols::NETLINK_NETFILTER)
    }

    fn open(protocol: isize) -> Result<Self> {
        let mut raw = RawSocket::new(protocol)?;
        raw.bind_auto()?;
        raw.connect(&SocketAddr::new(0, 0))?;
        raw.set_ext_ack(true)?;
        Ok(Self {
            raw,
            sequence: 0,
            buffer: Vec::with_capacity(ANSWER_BYTES),
        })
    }

    /// Sends a request and waits for the acknowledgement; gives what came before it.
    pub(crate) fn request(&mut self, mut message: Message) -> Result<Vec<Answer>> {
        self.sequence += 1;
        let sequence = self.sequence;
        self.raw.send(message.finish(sequence, NLM_F_ACK), 0)?;
        self.answers(sequence, sequence)
    }

    /// Asks for all objects of a kind.
    pub(crate) fn dump(&mut self, mut message: Message) -> Result<Vec<Answer>> {
        self.sequence += 1;
        let sequence = self.sequence;
        self.raw.send(message.finish(sequence, NLM_F_DUMP), 0)?;
        self.answers(sequence, sequence)
    }

    /// Sends messages as one datagram: one transaction where the protocol has them. `begin` and `end`
    /// enclose them and are not counted in [`Refusal::at`].
    pub(crate) fn transaction(&mut self, begin: Message, messages: Vec<Message>, end: Message) -> Result<()> {
        if messages.is_empty() {
            return Ok(());
        }
        let first = self.sequence + 1;
        let mut bytes = Vec::new();
        let last_at = messages.len();
        for (at, mut message) in std::iter::once(begin).chain(messages).chain([end]).enumerate() {
            self.sequence += 1;
            bytes.extend_from_slice(message.finish(self.sequence, if at == last_at { NLM_F_ACK } else { 0 }));
        }
        self.raw.send(&bytes, 0)?;
        self.answers(first, self.sequence - 1)
            .map(drop)
            .map_err(|mut refusal| {
                refusal.at = refusal.at.saturating_sub(1);
                refusal
            })
    }

    /// Reads until `last` is acknowledged or one of the requests is refused.
    fn answers(&mut self, first: u32, last: u32) -> Result<Vec<Answer>> {
        let mut answers = Vec::new();
        let mut refusal = None;
        loop {
            self.buffer.clear();
            self.raw.recv(&mut self.buffer, 0)?;
            let mut rest = self.buffer.as_slice();
            while let Some((kind, flags, sequence, payload)) = next_message(&mut rest) {
                if sequence < first || sequence > last {
                    continue;
                }
                match kind {
                    NLMSG_DONE => return refusal.map_or(Ok(answers), Err),
                    NLMSG_ERROR => {
                        let answer = acknowledgement(flags, payload, (sequence - first) as usize);
                        refusal = refusal.or(answer);
                        if sequence == last {
                            return refusal.map_or(Ok(answers), Err);
                        }
                        // A transaction that fails as a whole is refused with the number of its begin.
                        if let Some(refusal) = refusal.take_if(|_| sequence == first) {
                            self.drain()?;
                            return Err(refusal);
                        }
                    }
                    _ if flags & NLM_F_MULTI != 0 || first == last => answers.push(payload.to_vec()),
                    _ => {}
                }
            }
        }
    }

    /// Drops acknowledgements that are still queued: several messages of one batch may be refused.
    fn drain(&mut self) -> Result<()> {
        const MSG_DONTWAIT: i32 = 0x40;
        loop {
            self.buffer.clear();
            match self.raw.recv(&mut self.buffer, MSG_DONTWAIT) {
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn next_message<'a>(rest: &mut &'a [u8]) -> Option<(u16, u16, u32, &'a [u8])> {
    let head = rest.get(..HEADER)?;
    let length = number(head) as usize;
    let kind = u16::from_ne_bytes([head[4], head[5]]);
    let flags = u16::from_ne_bytes([head[6], head[7]]);
    let sequence = number(&head[8..]);
    let payload = rest.get(HEADER..length)?;
    *rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, flags, sequence, payload))
}

fn acknowledgement(flags: u16, payload: &[u8], at: usize) -> Option<Refusal> {
    let code = number(payload).cast_signed();
    if code == 0 {
        return None;
    }
    let mut sentence = None;
    if flags & NLM_F_ACK_TLVS != 0 {
        let echoed = if flags & NLM_F_CAPPED != 0 {
            HEADER
        } else {
            number(payload.get(4..).unwrap_or_default()) as usize
        };
        let tlvs = payload
            .get((4 + echoed).next_multiple_of(4)..)
            .unwrap_or_default();
        sentence = attribute(tlvs, NLMSGERR_ATTR_MSG).map(|bytes| text(bytes).to_owned());
    }
    Some(Refusal {
        errno: -code,
        at,
        sentence,
    })
}
