use super::*;
use crate::plan::capabilities::{self, bit};
use crate::plan::host::tests::v2;

const ALLOW: u32 = 0x7fff_0000;
const EPERM: u32 = 0x0005_0001;
const ENOSYS: u32 = 0x0005_0026;
const X86_64: u32 = prefix::AUDIT_ARCH_X86_64;
const I386: u32 = prefix::AUDIT_ARCH_I386;

/// Runs a filter as the kernel would: classic BPF over `struct seccomp_data`.
fn run(program: &[u8], arch: u32, number: u32, arguments: &[u64]) -> u32 {
    let mut data = Vec::new();
    data.extend(number.to_ne_bytes());
    data.extend(arch.to_ne_bytes());
    data.extend(0u64.to_ne_bytes());
    for at in 0..6 {
        data.extend(arguments.get(at).copied().unwrap_or(0).to_ne_bytes());
    }
    let (mut a, mut at) = (0u32, 0usize);
    loop {
        let i = &program[at * 8..at * 8 + 8];
        let code = u16::from_ne_bytes([i[0], i[1]]);
        let (yes, no) = (usize::from(i[2]), usize::from(i[3]));
        let k = u32::from_ne_bytes([i[4], i[5], i[6], i[7]]);
        at += 1;
        let jump = |taken: bool| if taken { yes } else { no };
        match code {
            0x20 => a = u32::from_ne_bytes(data[k as usize..k as usize + 4].try_into().unwrap()),
            0x54 => a &= k,
            0x05 => at += k as usize,
            0x15 => at += jump(a == k),
            0x25 => at += jump(a > k),
            0x35 => at += jump(a >= k),
            0x06 => return k,
            other => panic!("unknown code {other:#x}"),
        }
    }
}

fn number(name: &str) -> u32 {
    let known = libseccomp::ScmpSyscall::from_name_by_arch(name, libseccomp::ScmpArch::X8664).ok();
    known
        .and_then(|n| u32::try_from(i32::from(n)).ok())
        .or_else(|| numbers::common(name))
        .unwrap_or_else(|| panic!("{name}"))
}

fn default(extra: u64) -> Arc<[u8]> {
    let security = Security {
        seccomp: SeccompProfile::RuntimeDefault,
        ..Security::default()
    };
    let mask = capabilities::sets(&security, 0, u64::MAX).bounding | extra;
    filter(&security, mask, &v2(), Path::new("/")).unwrap()
}

#[cfg(target_arch = "x86_64")]
#[test]
fn the_default_profile() {
    let program = default(0);
    let check = |name: &str, arguments: &[u64]| run(&program, X86_64, number(name), arguments);
    let allowed = "read write openat openat2 execve mmap futex epoll_pwait2 statx faccessat2 close_range pidfd_open \
        clock_gettime getrandom prctl seccomp ptrace chroot rseq memfd_create fchmodat2 futex_wait mseal ioctl \
        getxattrat cachestat landlock_restrict_self socketpair arch_prctl";
    for name in allowed.split_whitespace() {
        assert_eq!(check(name, &[]), ALLOW, "{name}");
    }
    let denied = "mount umount2 unshare setns pivot_root keyctl add_key request_key bpf perf_event_open userfaultfd \
        io_uring_setup io_uring_enter io_uring_register kexec_load kexec_file_load init_module finit_module \
        delete_module fsopen fsconfig fsmount move_mount open_tree mount_setattr open_by_handle_at swapon reboot \
        sethostname settimeofday iopl ioperm quotactl acct process_madvise kcmp lookup_dcookie nfsservctl vmsplice2";
    for name in denied.split_whitespace().filter(|n| *n != "vmsplice2") {
        assert_eq!(check(name, &[]), EPERM, "{name}");
    }
    assert_eq!(check("clone3", &[]), ENOSYS);
    assert_eq!(check("clone", &[0x11]), ALLOW);
    for flag in [
        0x0002_0000u64,
        0x0200_0000,
        0x0400_0000,
        0x0800_0000,
        0x1000_0000,
        0x2000_0000,
        0x4000_0000,
    ] {
        assert_eq!(check("clone", &[flag | 0x11]), EPERM, "{flag:#x}");
    }
    assert_eq!(check("personality", &[0]), ALLOW);
    assert_eq!(check("personality", &[0x40000]), EPERM);
    assert_eq!(run(&program, X86_64, 600, &[]), ENOSYS, "newer than any profile");
    assert_eq!(run(&program, X86_64, 470, &[]), ENOSYS);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn families_of_sockets() {
    let program = default(0);
    let socket = |family: u64| run(&program, X86_64, number("socket"), &[family]);
    for family in 0..48 {
        let want = if family == 38 || family == 40 {
            EPERM
        } else {
            ALLOW
        };
        assert_eq!(socket(family), want, "{family}");
        assert_eq!(
            socket(family | 7 << 32),
            want,
            "the kernel drops the upper half: {family}"
        );
    }
    assert_eq!(run(&program, I386, 359, &[38]), EPERM, "i386 socket");
    assert_eq!(run(&program, I386, 359, &[2]), ALLOW);
    for call in 0..20 {
        assert_eq!(
            run(&program, I386, 102, &[call, 0]),
            EPERM,
            "i386 socketcall {call}"
        );
    }
    assert_eq!(
        run(&program, X86_64, 0x4000_0000 | 41, &[38]),
        EPERM,
        "x32 socket"
    );
    assert_eq!(run(&program, X86_64, 0x4000_0000, &[]), ALLOW, "x32 read");
    assert_eq!(run(&program, I386, 3, &[]), ALLOW, "i386 read");
    assert_eq!(run(&program, I386, 21, &[]), EPERM, "i386 mount");
    assert_eq!(run(&program, I386, 310, &[]), EPERM, "i386 unshare");
}

#[cfg(target_arch = "x86_64")]
#[test]
fn capabilities_open_their_calls() {
    let admin = default(bit("SYS_ADMIN"));
    for name in [
        "mount",
        "unshare",
        "setns",
        "clone3",
        "sethostname",
        "fsopen",
        "bpf",
        "statmount",
    ] {
        assert_eq!(run(&admin, X86_64, number(name), &[0x1000_0000]), ALLOW, "{name}");
    }
    assert_eq!(run(&admin, X86_64, number("clone"), &[0x1000_0000]), ALLOW);
    assert_eq!(run(&admin, X86_64, number("keyctl"), &[]), EPERM);
    assert_eq!(
        run(&default(bit("SYS_TIME")), X86_64, number("clock_settime"), &[]),
        ALLOW
    );
}

#[test]
fn one_compilation_for_what_does_not_matter() {
    let first = default(0);
    assert!(Arc::ptr_eq(&first, &default(0)));
    assert!(
        Arc::ptr_eq(&first, &default(bit("NET_ADMIN"))),
        "no condition looks at it"
    );
    assert!(!Arc::ptr_eq(&first, &default(bit("SYS_ADMIN"))));
    assert!(first.len().is_multiple_of(8) && first.len() / 8 < limits::SECCOMP_INSTRUCTIONS_MAX);
}

fn localhost_profile(json: &str) -> Result<Arc<[u8]>> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("p.json"), json).unwrap();
    let security = Security {
        seccomp: SeccompProfile::Localhost("p.json".into()),
        ..Security::default()
    };
    filter(&security, 0, &v2(), dir.path())
}

#[cfg(target_arch = "x86_64")]
#[test]
fn localhost_profiles() {
    let deny = r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
        "syscalls": [{"names": ["sethostname", "chmod", "mseal"], "action": "SCMP_ACT_ERRNO"}]}"#;
    let program = localhost_profile(deny).unwrap();
    for name in ["sethostname", "chmod", "mseal"] {
        assert_eq!(run(&program, X86_64, number(name), &[]), EPERM, "{name}");
    }
    assert_eq!(run(&program, X86_64, number("mount"), &[]), ALLOW);
    assert_eq!(run(&program, X86_64, 9999, &[]), ALLOW);
    assert_eq!(
        run(&program, I386, 102, &[1]),
        ALLOW,
        "nothing is filtered by family here"
    );
    let either = r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 13, "syscalls": [{"names": ["personality"],
        "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"},
        {"index": 0, "value": 2, "op": "SCMP_CMP_EQ"}]}]}"#;
    let program = localhost_profile(either).unwrap();
    let check = |value| run(&program, X86_64, number("personality"), &[value]);
    assert_eq!((check(1), check(2), check(3)), (ALLOW, ALLOW, 0x0005_000d));
}

#[test]
fn broken_profiles_are_errors_and_never_no_filter() {
    for json in [
        "",
        "{",
        "{}",
        r#"{"defaultAction": "SCMP_ACT_FLY"}"#,
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_NOTIFY"}]}"#,
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_PDP11"]}"#,
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}]}]}"#,
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": 1, "op": "="}]}]}"#,
    ] {
        assert!(localhost_profile(json).is_err(), "{json}");
    }
    for path in ["", "../p.json", "a/../../p.json", "missing.json", "/dev/zero"] {
        let security = Security {
            seccomp: SeccompProfile::Localhost(path.into()),
            ..Security::default()
        };
        assert!(
            filter(&security, 0, &v2(), Path::new("/nonexistent")).is_err(),
            "{path}"
        );
    }
}

#[test]
fn no_filter_only_when_nothing_is_asked_for() {
    let with = |seccomp, privileged| {
        let security = Security {
            seccomp,
            privileged,
            ..Security::default()
        };
        filter(&security, 0, &v2(), Path::new("/")).unwrap().len()
    };
    assert_eq!(with(SeccompProfile::None, false), 0);
    assert_eq!(with(SeccompProfile::Unconfined, false), 0);
    assert_eq!(with(SeccompProfile::RuntimeDefault, true), 0);
    assert!(with(SeccompProfile::RuntimeDefault, false) > 0);
}
