//! Numbers of system calls that the linked libseccomp is too old to know. From 424 on all architectures share
//! one numbering (arch/*/syscall.tbl).

/// First number that all architectures share.
const COMMON_FIRST: u32 = 424;

/// Names from 424 on, in order.
const COMMON: [&str; 46] = [
    "pidfd_send_signal",
    "io_uring_setup",
    "io_uring_enter",
    "io_uring_register",
    "open_tree",
    "move_mount",
    "fsopen",
    "fsconfig",
    "fsmount",
    "fspick",
    "pidfd_open",
    "clone3",
    "close_range",
    "openat2",
    "pidfd_getfd",
    "faccessat2",
    "process_madvise",
    "epoll_pwait2",
    "mount_setattr",
    "quotactl_fd",
    "landlock_create_ruleset",
    "landlock_add_rule",
    "landlock_restrict_self",
    "memfd_secret",
    "process_mrelease",
    "futex_waitv",
    "set_mempolicy_home_node",
    "cachestat",
    "fchmodat2",
    "map_shadow_stack",
    "futex_wake",
    "futex_wait",
    "futex_requeue",
    "statmount",
    "listmount",
    "lsm_get_self_attr",
    "lsm_set_self_attr",
    "lsm_list_modules",
    "mseal",
    "setxattrat",
    "getxattrat",
    "listxattrat",
    "removexattrat",
    "open_tree_attr",
    "file_getattr",
    "file_setattr",
];

/// The number of a system call that all architectures have; `None`: not among them.
pub(super) fn common(name: &str) -> Option<u32> {
    let at = COMMON.iter().position(|known| *known == name)?;
    u32::try_from(at).ok().map(|at| COMMON_FIRST + at)
}

/// The highest number that this table knows: above it are system calls newer than any profile.
pub(super) fn newest() -> u32 {
    COMMON_FIRST + u32::try_from(COMMON.len()).unwrap_or(0) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_agrees_with_libseccomp_where_both_know() {
        let mut known = 0;
        for name in COMMON {
            for arch in [
                libseccomp::ScmpArch::X8664,
                libseccomp::ScmpArch::X86,
                libseccomp::ScmpArch::Aarch64,
            ] {
                let Ok(syscall) = libseccomp::ScmpSyscall::from_name_by_arch(name, arch) else {
                    continue;
                };
                // Negative: libseccomp knows the name, but not this architecture's number.
                if let Ok(number) = u32::try_from(i32::from(syscall)) {
                    assert_eq!(Some(number), common(name), "{name}");
                    known += 1;
                }
            }
        }
        assert!(known > 60);
        assert_eq!(
            (common("mseal"), common("futex_wait"), newest()),
            (Some(462), Some(455), 469)
        );
    }
}
