//! Capability names, the default set, and the sets of a process.

use crate::container::config::Security;

/// Names by number, capabilities(7).
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What a container gets that asks for nothing: Docker's and containerd's fourteen.
const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// The number of a capability; `CAP_` in front is optional, case does not matter.
#[must_use]
pub fn number(name: &str) -> Option<u32> {
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
    NAMES
        .iter()
        .position(|known| *known == short)
        .and_then(|at| u32::try_from(at).ok())
}

/// The bit of a capability in a mask; 0 for an unknown name.
#[must_use]
pub fn bit(name: &str) -> u64 {
    number(name).map_or(0, |number| 1 << number)
}

/// The names in a mask, with `CAP_`, as profiles write them.
#[must_use]
pub fn names(mask: u64) -> Vec<String> {
    (0..)
        .zip(NAMES)
        .filter(|(number, _)| mask >> number & 1 == 1)
        .map(|(_, name)| format!("CAP_{name}"))
        .collect()
}

/// The capability sets of a process. Inheritable is always empty (CVE-2022-24769), so it is not here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sets {
    /// The most that any execve can give.
    pub bounding: u64,
    /// In force.
    pub effective: u64,
    /// May be put in force.
    pub permitted: u64,
    /// Survive the execve of an ordinary program by a non-root user.
    pub ambient: u64,
}

/// The sets of a container's process with this uid. `host` is the bounding set of the daemon: nobody can
/// give more than that.
#[must_use]
pub fn sets(security: &Security, uid: u32, host: u64) -> Sets {
    let asked = &security.capabilities;
    let mut mask = DEFAULT.iter().fold(0, |mask, name| mask | bit(name));
    if security.privileged {
        mask = host;
    } else {
        // As containerd and CRI-O: ALL first, then single additions, then single drops.
        if asked.add_all {
            mask = host;
        }
        if asked.drop_all {
            mask = 0;
        }
        mask = (mask | asked.add) & !asked.drop;
    }
    let bounding = mask & host;
    let ambient = asked.ambient & bounding;
    // execve recomputes the sets: for root from the bounding set, for others from the ambient set alone.
    let permitted = if uid == 0 { bounding } else { ambient };
    Sets {
        bounding,
        effective: permitted,
        permitted,
        ambient,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::config::Capabilities;

    const HOST: u64 = (1 << 41) - 1;

    fn security(capabilities: Capabilities) -> Security {
        Security {
            capabilities,
            ..Security::default()
        }
    }

    #[test]
    fn names_are_numbers_of_the_kernel() {
        assert_eq!(number("CAP_CHOWN"), Some(0));
        assert_eq!(number("net_admin"), Some(12));
        assert_eq!(number("SYS_ADMIN"), Some(21));
        assert_eq!(number("CHECKPOINT_RESTORE"), Some(40));
        assert_eq!(number("ALL"), None);
        assert_eq!(names(bit("KILL") | bit("BPF")), ["CAP_KILL", "CAP_BPF"]);
    }

    #[test]
    fn add_and_drop() {
        let default = sets(&security(Capabilities::default()), 0, HOST).bounding;
        assert_eq!(default, 0xa804_25fb, "Docker's default set");
        let cases = [
            (
                Capabilities {
                    add: bit("SYS_TIME"),
                    ..Default::default()
                },
                default | bit("SYS_TIME"),
            ),
            (
                Capabilities {
                    drop: bit("NET_RAW"),
                    ..Default::default()
                },
                default & !bit("NET_RAW"),
            ),
            (
                Capabilities {
                    add_all: true,
                    ..Default::default()
                },
                HOST,
            ),
            (
                Capabilities {
                    add_all: true,
                    drop: bit("KILL"),
                    ..Default::default()
                },
                HOST & !bit("KILL"),
            ),
            (
                Capabilities {
                    drop_all: true,
                    ..Default::default()
                },
                0,
            ),
            (
                Capabilities {
                    drop_all: true,
                    add: bit("CHOWN"),
                    ..Default::default()
                },
                bit("CHOWN"),
            ),
        ];
        for (asked, want) in cases {
            assert_eq!(sets(&security(asked), 0, HOST).bounding, want, "{asked:?}");
        }
    }

    #[test]
    fn other_users_hold_only_ambient_ones() {
        let asked = Capabilities {
            add: bit("NET_BIND_SERVICE"),
            ambient: bit("NET_BIND_SERVICE"),
            ..Default::default()
        };
        let got = sets(&security(asked), 1000, HOST);
        assert_eq!(got.ambient, bit("NET_BIND_SERVICE"));
        assert_eq!((got.effective, got.permitted), (got.ambient, got.ambient));
        assert_eq!(got.bounding, 0xa804_25fb);
        let plain = sets(&security(Capabilities::default()), 1000, HOST);
        assert_eq!((plain.effective, plain.permitted, plain.ambient), (0, 0, 0));
    }

    #[test]
    fn nobody_gets_more_than_the_host_has() {
        let host = HOST & !bit("SYS_RESOURCE");
        let privileged = Security {
            privileged: true,
            ..Security::default()
        };
        assert_eq!(sets(&privileged, 0, host).bounding, host);
        let asked = Capabilities {
            add: bit("SYS_RESOURCE"),
            ..Default::default()
        };
        assert_eq!(sets(&security(asked), 0, host).bounding & bit("SYS_RESOURCE"), 0);
    }
}
