//! Forwarding on hosts where others close it: the `firewall` plugin's work.
//!
//! A chain of ours cannot accept what a chain of another table drops, so the rules go to the front of the
//! `FORWARD` chain of the `filter` table that iptables-nft (docker, kube-proxy, distributions) keeps; they are
//! made of what iptables can list. Where there is no such chain nothing is closed and nothing is done. The
//! tables of iptables-legacy are out of reach.

use super::ruleset::{AF_INET, AF_INET6};
use crate::netlink::nftables::{Rule, Table, Verdict};
use crate::netlink::{Refusal, Socket};

const CHAIN: &str = "FORWARD";
/// Marks our rules.
const MARK: &str = "criquet ";
/// `sizeof(struct xt_conntrack_mtinfo3)`, `include/uapi/linux/netfilter/xt_conntrack.h`.
const CONNTRACK_BYTES: usize = 164;
const CONNTRACK_REVISION: u32 = 3;
const MATCH_FLAGS_AT: usize = 146;
const STATE_MASK_AT: usize = 150;
/// `XT_CONNTRACK_STATE`
const MATCH_STATE: u16 = 1;
/// ESTABLISHED, RELATED and DNAT: answers, and connections to host ports.
const STATES: u16 = 1 << 1 | 1 << 2 | 1 << 7;

fn filter(family: u8) -> Table<'static> {
    Table {
        family,
        name: "filter",
    }
}

/// Accepts what comes from the bridge, answers to it, and what was sent to host ports.
pub(crate) fn accept(socket: &mut Socket, bridge: &str) -> Result<(), Refusal> {
    let mark = format!("{MARK}{bridge}");
    for family in [AF_INET, AF_INET6] {
        let table = filter(family);
        if !socket.has_chain(table, CHAIN)? {
            continue;
        }
        if socket
            .rules(table, CHAIN)?
            .iter()
            .any(|rule| rule.comment == mark)
        {
            continue;
        }
        let mut info = [0; CONNTRACK_BYTES];
        info[MATCH_FLAGS_AT..MATCH_FLAGS_AT + 2].copy_from_slice(&MATCH_STATE.to_ne_bytes());
        info[STATE_MASK_AT..STATE_MASK_AT + 2].copy_from_slice(&STATES.to_ne_bytes());
        let to = |rule: Rule| {
            rule.link(false, true, bridge)
                .compat_match("conntrack", CONNTRACK_REVISION, &info)
                .verdict(Verdict::Accept)
        };
        let from = |rule: Rule| rule.link(true, true, bridge).verdict(Verdict::Accept);
        socket.commit(vec![
            table.insert_rule(CHAIN, &mark, to),
            table.insert_rule(CHAIN, &mark, from),
        ])?;
    }
    Ok(())
}

/// Removes our rules.
pub(crate) fn wipe(socket: &mut Socket) -> Result<(), Refusal> {
    for family in [AF_INET, AF_INET6] {
        let table = filter(family);
        let ours = socket
            .rules(table, CHAIN)?
            .into_iter()
            .filter(|rule| rule.comment.starts_with(MARK));
        let deletions = ours.map(|rule| table.delete_rule(CHAIN, &rule.handle)).collect();
        socket.commit(deletions)?;
    }
    Ok(())
}
