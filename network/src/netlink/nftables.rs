//! The part of nf_tables that pod networks need: `include/uapi/linux/netfilter/nf_tables.h`.
//!
//! Names are those of the kernel; numbers in attributes are big-endian.

use super::{
    Answer, ENOENT, Message, NLM_F_APPEND, NLM_F_CREATE, Result, Socket, attribute, attributes, text,
};

const SUBSYSTEM: u16 = 10 << 8;
const NFT_MSG_NEWTABLE: u16 = SUBSYSTEM;
const NFT_MSG_DELTABLE: u16 = SUBSYSTEM | 2;
const NFT_MSG_NEWCHAIN: u16 = SUBSYSTEM | 3;
const NFT_MSG_GETCHAIN: u16 = SUBSYSTEM | 4;
const NFT_MSG_NEWRULE: u16 = SUBSYSTEM | 6;
const NFT_MSG_GETRULE: u16 = SUBSYSTEM | 7;
const NFT_MSG_DELRULE: u16 = SUBSYSTEM | 8;
const NFT_MSG_NEWSET: u16 = SUBSYSTEM | 9;
const NFT_MSG_NEWSETELEM: u16 = SUBSYSTEM | 12;
const NFT_MSG_GETSETELEM: u16 = SUBSYSTEM | 13;
const NFT_MSG_DELSETELEM: u16 = SUBSYSTEM | 14;
const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFTA_LIST_ELEM: u16 = 1;
const NFT_REG_VERDICT: u32 = 0;
/// The first 16-byte register; it is also the 4-byte registers 8 to 11.
pub(crate) const REG_1: u32 = 1;
/// The first 4-byte register.
pub(crate) const REG32_00: u32 = 8;
const VERDICT_DATA: u32 = 0xffff_ff00;
const NFT_SET_MAP: u32 = 8;

/// What a packet's fate is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Verdict<'a> {
    Accept,
    Drop,
    Return,
    Jump(&'a str),
    Goto(&'a str),
}

fn verdict(message: Message, verdict: Verdict<'_>) -> Message {
    let (code, chain): (i32, _) = match verdict {
        Verdict::Drop => (0, None),
        Verdict::Accept => (1, None),
        Verdict::Jump(chain) => (-3, Some(chain)),
        Verdict::Goto(chain) => (-4, Some(chain)),
        Verdict::Return => (-5, None),
    };
    message.nest(2, |data| {
        let data = data.number_be(1, code.cast_unsigned());
        match chain {
            Some(chain) => data.text(2, chain),
            None => data,
        }
    })
}

/// The type of one field of a key, as the `nft` program numbers them (`TYPE_IPADDR` …).
#[derive(Debug, Clone, Copy)]
pub(crate) enum Field {
    Ipv4 = 7,
    Ipv6 = 8,
    Protocol = 12,
    Service = 13,
    Link = 41,
}

impl Field {
    /// Bytes in a key or in registers: fields are padded to 4.
    fn size(self) -> u32 {
        if matches!(self, Self::Ipv6 | Self::Link) {
            16
        } else {
            4
        }
    }
    fn unpadded(self) -> u32 {
        match self {
            Self::Ipv6 | Self::Link => 16,
            Self::Ipv4 => 4,
            Self::Service => 2,
            Self::Protocol => 1,
        }
    }
}

fn key_type(fields: &[Field]) -> (u32, u32) {
    let kind = fields.iter().fold(0, |kind, field| (kind << 6) | *field as u32);
    let size = if let [only] = fields {
        only.unpadded()
    } else {
        fields.iter().map(|field| field.size()).sum()
    };
    (kind, size)
}

/// What a map leads to.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Data<'a> {
    /// A set: nothing.
    None,
    Fields(&'a [Field]),
    Verdict,
}

/// The value of one element.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    None,
    Bytes(Vec<u8>),
    Goto(String),
}

/// A base chain's place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hook {
    /// `filter` or `nat`.
    pub(crate) kind: &'static str,
    pub(crate) number: u32,
    pub(crate) priority: i32,
}

pub(crate) const HOOK_PREROUTING: u32 = 0;
pub(crate) const HOOK_OUTPUT: u32 = 3;
pub(crate) const HOOK_POSTROUTING: u32 = 4;

/// A table of one address family (`AF_INET` or `AF_INET6`).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Table<'a> {
    pub(crate) family: u8,
    pub(crate) name: &'a str,
}

/// `struct nfgenmsg`.
fn header(family: u8, resource: u16) -> [u8; 4] {
    let resource = resource.to_be_bytes();
    [family, 0, resource[0], resource[1]]
}

impl Table<'_> {
    fn message(&self, kind: u16, flags: u16) -> Message {
        Message::new(kind, flags, &header(self.family, 0))
    }

    pub(crate) fn add(&self) -> Message {
        self.message(NFT_MSG_NEWTABLE, NLM_F_CREATE).text(1, self.name)
    }

    pub(crate) fn delete(&self) -> Message {
        self.message(NFT_MSG_DELTABLE, 0).text(1, self.name)
    }

    pub(crate) fn add_chain(&self, name: &str, hook: Option<Hook>) -> Message {
        let message = self
            .message(NFT_MSG_NEWCHAIN, NLM_F_CREATE)
            .text(1, self.name)
            .text(3, name);
        let Some(hook) = hook else { return message };
        message
            .nest(4, |place| {
                place
                    .number_be(1, hook.number)
                    .number_be(2, hook.priority.cast_unsigned())
            })
            .text(7, hook.kind)
    }

    /// Empties a chain.
    pub(crate) fn flush_chain(&self, name: &str) -> Message {
        self.message(NFT_MSG_DELRULE, 0).text(1, self.name).text(2, name)
    }

    /// `set_id` must be unlike those of the other sets of the transaction.
    pub(crate) fn add_set(&self, name: &str, set_id: u32, key: &[Field], data: Data<'_>) -> Message {
        let (kind, size) = key_type(key);
        let flags = if matches!(data, Data::None) {
            0
        } else {
            NFT_SET_MAP
        };
        let mut message = self
            .message(NFT_MSG_NEWSET, NLM_F_CREATE)
            .text(1, self.name)
            .text(2, name)
            .number_be(3, flags)
            .number_be(4, kind)
            .number_be(5, size);
        match data {
            Data::None => {}
            Data::Fields(fields) => {
                let (kind, size) = key_type(fields);
                message = message.number_be(6, kind).number_be(7, size);
            }
            Data::Verdict => message = message.number_be(6, VERDICT_DATA).number_be(7, 16),
        }
        message.number_be(10, set_id)
    }

    /// Appends a rule.
    pub(crate) fn add_rule(&self, chain: &str, rule: impl FnOnce(Rule) -> Rule) -> Message {
        self.rule(chain, NLM_F_APPEND, rule)
    }

    /// Puts a rule before the others.
    pub(crate) fn insert_rule(&self, chain: &str, comment: &str, rule: impl FnOnce(Rule) -> Rule) -> Message {
        let mut user_data = vec![0, u8::try_from(comment.len() + 1).unwrap_or(u8::MAX)];
        user_data.extend_from_slice(comment.as_bytes());
        user_data.push(0);
        self.rule(chain, 0, rule).bytes(7, &user_data)
    }

    fn rule(&self, chain: &str, flags: u16, rule: impl FnOnce(Rule) -> Rule) -> Message {
        self.message(NFT_MSG_NEWRULE, NLM_F_CREATE | flags)
            .text(1, self.name)
            .text(2, chain)
            .nest(4, |list| rule(Rule(list)).0)
    }

    fn element(&self, kind: u16, flags: u16, set: &str, key: &[u8], value: &Value) -> Message {
        self.message(kind, flags)
            .text(1, self.name)
            .text(2, set)
            .nest(3, |list| {
                list.nest(NFTA_LIST_ELEM, |element| {
                    let element = element.nest(1, |data| data.bytes(1, key));
                    match value {
                        Value::None => element,
                        Value::Bytes(bytes) => element.nest(2, |data| data.bytes(1, bytes)),
                        Value::Goto(chain) => element.nest(2, |data| verdict(data, Verdict::Goto(chain))),
                    }
                })
            })
    }

    /// Adds an element. The same again is success; another value for the key is `EBUSY`.
    pub(crate) fn add_element(&self, set: &str, key: &[u8], value: &Value) -> Message {
        self.element(NFT_MSG_NEWSETELEM, NLM_F_CREATE, set, key, value)
    }

    pub(crate) fn delete_element(&self, set: &str, key: &[u8]) -> Message {
        self.element(NFT_MSG_DELSETELEM, 0, set, key, &Value::None)
    }

    pub(crate) fn delete_rule(&self, chain: &str, handle: &[u8]) -> Message {
        self.message(NFT_MSG_DELRULE, 0)
            .text(1, self.name)
            .text(2, chain)
            .bytes(3, handle)
    }
}

/// The expressions of one rule.
#[derive(Debug)]
pub(crate) struct Rule(Message);

impl Rule {
    fn expression(self, name: &str, data: impl FnOnce(Message) -> Message) -> Self {
        Self(
            self.0
                .nest(NFTA_LIST_ELEM, |element| element.text(1, name).nest(2, data)),
        )
    }

    /// Loads from the network (`true`) or the transport header.
    pub(crate) fn payload(self, network: bool, offset: u32, length: u32, register: u32) -> Self {
        let base = if network { 1 } else { 2 };
        self.expression("payload", |data| {
            data.number_be(1, register)
                .number_be(2, base)
                .number_be(3, offset)
                .number_be(4, length)
        })
    }

    /// Loads the transport protocol's number.
    pub(crate) fn transport(self, register: u32) -> Self {
        self.meta(16, register)
    }

    fn meta(self, key: u32, register: u32) -> Self {
        self.expression("meta", |data| data.number_be(1, register).number_be(2, key))
    }

    /// The link by which the packet came (`true`) or leaves is, or is not, `name`.
    pub(crate) fn link(self, input: bool, equal: bool, name: &str) -> Self {
        // With its closing zero: as iptables writes it.
        let name: Vec<u8> = name.bytes().chain([0]).collect();
        self.meta(if input { 6 } else { 7 }, REG_1).compare(equal, &name)
    }

    /// Loads the names of the links by which the packet came and leaves.
    pub(crate) fn links(self, input: u32, output: u32) -> Self {
        self.meta(6, input).meta(7, output)
    }

    /// The connection's destination was rewritten (`IPS_DST_NAT`).
    pub(crate) fn redirected(self) -> Self {
        self.expression("ct", |data| data.number_be(1, REG_1).number_be(2, 2))
            .mask(&0x20u32.to_ne_bytes())
            .compare(false, &[0; 4])
    }

    pub(crate) fn compare(self, equal: bool, value: &[u8]) -> Self {
        self.expression("cmp", |data| {
            data.number_be(1, REG_1)
                .number_be(2, u32::from(!equal))
                .nest(3, |data| data.bytes(1, value))
        })
    }

    pub(crate) fn mask(self, mask: &[u8]) -> Self {
        let length = u32::try_from(mask.len()).unwrap_or_default();
        self.expression("bitwise", |data| {
            data.number_be(1, REG_1)
                .number_be(2, REG_1)
                .number_be(3, length)
                .nest(4, |data| data.bytes(1, mask))
                .nest(5, |data| data.bytes(1, &vec![0; mask.len()]))
        })
    }

    /// The destination is an address of this host.
    pub(crate) fn destined_here(self) -> Self {
        self.expression("fib", |data| {
            data.number_be(1, REG_1).number_be(2, 3).number_be(3, 2)
        })
        .compare(true, &2u32.to_ne_bytes())
    }

    /// What the registers from the first on hold is in the set.
    pub(crate) fn lookup(self, set: &str, destination: Option<u32>) -> Self {
        self.expression("lookup", |data| {
            let data = data.text(1, set).number_be(2, REG_1);
            match destination {
                Some(register) => data.number_be(3, register),
                None => data,
            }
        })
    }

    /// Goes where the map says.
    pub(crate) fn dispatch(self, map: &str) -> Self {
        self.lookup(map, Some(NFT_REG_VERDICT))
    }

    /// Redirects to the address in the first register and the port in `port`.
    pub(crate) fn dnat(self, family: u8, port: u32) -> Self {
        self.expression("nat", |data| {
            data.number_be(1, 1)
                .number_be(2, u32::from(family))
                .number_be(3, REG_1)
                .number_be(5, port)
        })
    }

    pub(crate) fn masquerade(self) -> Self {
        self.expression("masq", |data| data)
    }

    pub(crate) fn verdict(self, fate: Verdict<'_>) -> Self {
        self.expression("immediate", |data| {
            data.number_be(1, NFT_REG_VERDICT)
                .nest(2, |data| verdict(data, fate))
        })
    }

    /// An `iptables` match, for rules in a table that `iptables` reads.
    pub(crate) fn compat_match(self, name: &str, revision: u32, info: &[u8]) -> Self {
        self.expression("match", |data| {
            data.text(1, name).number_be(2, revision).bytes(3, info)
        })
    }
}

/// One element of a set or map.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Element {
    pub(crate) key: Vec<u8>,
    pub(crate) data: Vec<u8>,
}

impl Socket {
    /// All of `messages` or, on a refusal, none of them.
    pub(crate) fn commit(&mut self, messages: Vec<Message>) -> Result<()> {
        let mark = |kind| Message::new(kind, 0, &header(0, NFNL_SUBSYS_NFTABLES));
        self.transaction(mark(NFNL_MSG_BATCH_BEGIN), messages, mark(NFNL_MSG_BATCH_END))
    }

    /// The elements of a set; none when there is no such set.
    pub(crate) fn elements(&mut self, table: Table<'_>, set: &str) -> Result<Vec<Element>> {
        let message = table
            .message(NFT_MSG_GETSETELEM, 0)
            .text(1, table.name)
            .text(2, set);
        let answers = or_none(self.dump(message))?;
        let mut elements = Vec::new();
        for answer in &answers {
            let list = attribute(answer.get(4..).unwrap_or_default(), 3).unwrap_or_default();
            for (_, element) in attributes(list) {
                let value = |kind| {
                    attribute(element, kind)
                        .and_then(|data| attribute(data, 1))
                        .unwrap_or_default()
                };
                elements.push(Element {
                    key: value(1).to_vec(),
                    data: value(2).to_vec(),
                });
            }
        }
        Ok(elements)
    }

    pub(crate) fn has_chain(&mut self, table: Table<'_>, chain: &str) -> Result<bool> {
        let message = table
            .message(NFT_MSG_GETCHAIN, 0)
            .text(1, table.name)
            .text(3, chain);
        Ok(!or_none(self.request(message))?.is_empty())
    }

    /// The chain's rules.
    pub(crate) fn rules(&mut self, table: Table<'_>, chain: &str) -> Result<Vec<Listed>> {
        let message = table
            .message(NFT_MSG_GETRULE, 0)
            .text(1, table.name)
            .text(2, chain);
        let of_chain = |answer: &Answer| {
            let list = answer.get(4..)?;
            if text(attribute(list, 2)?) != chain {
                return None;
            }
            // Type and length before each part; 0 is the comment.
            let comment = match attribute(list, 7) {
                Some([0, length, rest @ ..]) => text(rest.get(..usize::from(*length)).unwrap_or_default()),
                _ => "",
            };
            Some(Listed {
                handle: attribute(list, 3)?.to_vec(),
                comment: comment.to_owned(),
            })
        };
        Ok(or_none(self.dump(message))?.iter().filter_map(of_chain).collect())
    }
}

/// A rule that is there.
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) handle: Vec<u8>,
    pub(crate) comment: String,
}

fn or_none(result: Result<Vec<Answer>>) -> Result<Vec<Answer>> {
    match result {
        Err(refusal) if refusal.is(ENOENT) => Ok(Vec::new()),
        other => other,
    }
}
