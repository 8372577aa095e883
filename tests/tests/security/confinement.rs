//! What is taken from every container: capabilities, system calls, devices, the host's files.

use criquet_tests::{Node, cri, pod};

use crate::probe::{self, pod_security, sleeper, status};

/// What a default container gets: containerd's fourteen.
const DEFAULT_CAPABILITIES: u64 = 0xa804_25fb;

fn mask(node: &Node, id: &str, pid: &str, set: &str) -> u64 {
    u64::from_str_radix(&status(node, id, pid, set), 16).unwrap()
}

fn changed(add: &[&str], drop: &[&str]) -> Option<cri::Capability> {
    let list = |names: &[&str]| names.iter().map(ToString::to_string).collect();
    Some(cri::Capability {
        add_capabilities: list(add),
        drop_capabilities: list(drop),
        ..Default::default()
    })
}

#[test]
fn cve_2022_24769_nothing_is_inheritable() {
    let node = Node::start();
    let mut config = pod("inheritable");
    pod_security(&mut config).privileged = true;
    let pod = node.pod(config);
    let combinations = [
        ("default", changed(&[], &[]), None, false),
        ("added", changed(&["NET_ADMIN", "SYS_TIME"], &[]), None, false),
        ("dropped", changed(&[], &["ALL"]), None, false),
        ("exchanged", changed(&["KILL"], &["ALL"]), None, false),
        ("all", changed(&["ALL"], &[]), None, false),
        ("user", changed(&["NET_ADMIN"], &[]), Some(1000), false),
        ("privileged", None, None, true),
    ];
    for (name, capabilities, user, privileged) in combinations {
        let id = sleeper(&node, &pod, name, |security| {
            security.capabilities = capabilities;
            security.run_as_user = user.map(|value| cri::Int64Value { value });
            security.privileged = privileged;
        });
        for pid in ["1", "self"] {
            let set = |set| mask(&node, &id, pid, set);
            assert_eq!((set("CapInh"), set("CapAmb")), (0, 0), "{name} {pid}");
            assert_eq!(set("CapPrm") & !set("CapBnd"), 0, "{name} {pid}");
            if user.is_some() {
                assert_eq!((set("CapEff"), set("CapPrm")), (0, 0), "{name} {pid}");
            }
        }
        if name == "default" {
            assert_eq!(mask(&node, &id, "1", "CapEff"), DEFAULT_CAPABILITIES);
        }
        if name == "dropped" {
            assert_eq!(mask(&node, &id, "self", "CapBnd"), 0);
        }
        node.stop_container(&id, 0);
    }
}

/// CVE-2022-0185, CVE-2026-31431 and every kernel bug behind a call that containers do not need.
#[test]
fn seccomp_runtime_default_refuses() {
    const ALLOWED: [&str; 3] = ["socket-inet ok", "socket-unix ok", "getpid ok"];
    // Refused by the filter, with capabilities that the kernel would ask for: only the filter stands in the way.
    const REFUSED: [&str; 31] = [
        "socket-alg",
        "socket-vsock",
        "unshare-user",
        "unshare-mount",
        "clone-user",
        "setns",
        "mount",
        "umount2",
        "pivot_root",
        "fsopen",
        "fsconfig",
        "move_mount",
        "open_tree",
        "mount_setattr",
        "keyctl",
        "add_key",
        "bpf",
        "userfaultfd",
        "perf_event_open",
        "io_uring_setup",
        "kexec_load",
        "init_module",
        "reboot",
        "swapon",
        "settimeofday",
        "open_by_handle_at",
        "acct",
        "quotactl",
        "syslog",
        "personality-addr",
        "i386-socketcall",
    ];
    let node = Node::start();
    let pod = node.pod(pod("seccomp"));
    let id = sleeper(&node, &pod, "filtered", |security| {
        security.seccomp = Some(cri::SecurityProfile::default());
    });
    let out = node.exec(&id, &["/probe", "calls"]).ok();
    let lines: Vec<&str> = out.lines().collect();
    for line in ALLOWED {
        assert!(lines.contains(&line), "{line} is not in {out}");
    }
    for name in REFUSED {
        if cfg!(not(target_arch = "x86_64")) && name == "i386-socketcall" {
            continue;
        }
        let line = lines
            .iter()
            .find(|line| line.split(' ').next() == Some(name))
            .expect(name);
        assert_eq!(*line, format!("{name} EPERM"), "{out}");
    }
    assert!(
        lines.contains(&"clone3 ENOSYS"),
        "glibc falls back to clone only on ENOSYS: {out}"
    );
    assert_eq!(status(&node, &id, "1", "Seccomp"), "2");
    // The daemon's and the kubelet's way to say it in older requests.
    let old = sleeper(&node, &pod, "old", |security| {
        #[allow(deprecated)]
        {
            security.seccomp_profile_path = "runtime/default".into();
        }
    });
    assert_eq!(status(&node, &old, "1", "Seccomp"), "2");
}

#[test]
fn seccomp_is_off_only_when_said_so() {
    let node = Node::start();
    let mut config = pod("unconfined");
    pod_security(&mut config).privileged = true;
    let pod = node.pod(config);
    let profile = |kind: cri::security_profile::ProfileType| {
        Some(cri::SecurityProfile {
            profile_type: kind.into(),
            localhost_ref: String::new(),
        })
    };
    use cri::security_profile::ProfileType::{RuntimeDefault, Unconfined};
    for (name, seccomp, privileged, mode) in [
        ("unconfined", profile(Unconfined), false, "0"),
        ("unsaid", None, false, "0"),
        ("privileged", profile(RuntimeDefault), true, "0"),
        ("default", profile(RuntimeDefault), false, "2"),
    ] {
        let id = sleeper(&node, &pod, name, |security| {
            security.seccomp = seccomp;
            security.privileged = privileged;
            security.no_new_privs = !privileged;
        });
        for pid in ["1", "self"] {
            assert_eq!(status(&node, &id, pid, "Seccomp"), mode, "{name} {pid}");
            assert_eq!(
                status(&node, &id, pid, "NoNewPrivs"),
                if privileged { "0" } else { "1" },
                "{name} {pid}"
            );
        }
    }
}

#[test]
fn cve_2022_0492_devices_and_cgroups_are_out_of_reach() {
    let node = Node::start();
    let pod = node.pod(pod("devices"));
    // With every capability: the device cgroup has to hold alone.
    let id = sleeper(&node, &pod, "devices", |security| {
        security.capabilities = changed(&["ALL"], &[])
    });
    let out = node.exec(&id, &["/probe", "devices"]).ok();
    for line in out.lines() {
        let (name, result) = line.split_once(' ').unwrap();
        if name == "null" {
            assert_eq!(result, "ok", "{out}");
        } else {
            assert_eq!(result, "EPERM", "{out}");
        }
    }
    assert_eq!(out.lines().count(), 8, "{out}");
    let plain = sleeper(&node, &pod, "cgroups", |_| {});
    for script in [
        "find /sys/fs/cgroup -name cgroup.procs | head -1 | grep .",
        "f=$(find /sys/fs/cgroup -name cgroup.procs | head -1); echo $$ > $f",
        "mkdir $(dirname $(find /sys/fs/cgroup -name cgroup.procs | head -1))/inner",
        "f=$(find /sys/fs/cgroup -name release_agent | head -1); test -n \"$f\" && echo /x > $f",
        "mount -t cgroup -o rdma cgroup /mnt || mount -t cgroup2 cgroup /mnt",
        "mount -o remount,rw /sys/fs/cgroup || mount -o remount,rw,bind /sys",
    ] {
        let out = node.exec(&plain, &["sh", "-c", script]);
        let works = script.ends_with("grep .");
        assert_eq!(out.code == 0, works, "{script}: {out:?}");
    }
}

#[test]
fn privileged_has_what_others_have_not() {
    let node = Node::start();
    let mut config = pod("privileged");
    pod_security(&mut config).privileged = true;
    let pod = node.pod(config);
    let plain = sleeper(&node, &pod, "plain", |_| {});
    let privileged = sleeper(&node, &pod, "privileged", |security| security.privileged = true);
    for script in [
        "mount -t tmpfs none /home",
        "test -c /dev/kmsg",
        "mkdir -p /sys/kernel/x || test -w /sys/kernel/profiling && grep -q ' /sys sysfs rw' /proc/mounts",
    ] {
        let out = node.exec(&privileged, &["sh", "-c", script]);
        assert_eq!(out.code, 0, "privileged: {script}: {out:?}");
    }
    for script in [
        "mount -t tmpfs none /home",
        "test -c /dev/kmsg",
        "grep -q ' /sys sysfs rw' /proc/mounts",
    ] {
        let out = node.exec(&plain, &["sh", "-c", script]);
        assert_ne!(out.code, 0, "plain: {script}: {out:?}");
    }
    // A privileged container in a pod that is not: the sandbox has the last word.
    let other = node.pod(criquet_tests::pod("plainpod"));
    let mut config = criquet_tests::container("no", criquet_tests::BUSYBOX, &["true"]);
    probe::security(&mut config).privileged = true;
    let error = node.try_create(&other, config).unwrap_err();
    assert!(error.message().contains("privileged"), "{error:?}");
}

#[test]
fn proc_and_sys_are_guarded() {
    let node = Node::start();
    let pod = node.pod(pod("proc"));
    let id = sleeper(&node, &pod, "guarded", |security| {
        security.masked_paths = ["/proc/kcore", "/proc/keys", "/proc/scsi", "/sys/firmware"]
            .map(String::from)
            .into();
        security.readonly_paths = ["/proc/sys", "/proc/sysrq-trigger"].map(String::from).into();
    });
    for (script, works) in [
        ("echo 1 > /proc/sys/kernel/panic", false),
        ("echo h > /proc/sysrq-trigger", false),
        ("echo 1 > /proc/sys/net/ipv4/ip_forward", false),
        ("touch /sys/file || echo 0 > /sys/kernel/profiling", false),
        ("test -z \"$(cat /proc/kcore | head -c 1)\"", true),
        ("test -z \"$(ls /proc/scsi)\" && ! touch /proc/scsi/x", true),
        ("mount -t tmpfs none /tmp || mount -t proc none /home", false),
        ("umount /proc/kcore || umount /proc/sys || umount /sys", false),
        (
            "echo hi > /dev/null && head -c 4 /dev/urandom > /dev/null && test -c /dev/zero",
            true,
        ),
        ("test -e /dev/kmsg || test -e /dev/mem || test -e /dev/vda", false),
    ] {
        let out = node.exec(&id, &["sh", "-c", script]);
        assert_eq!(out.code == 0, works, "{script}: {out:?}");
    }
}

#[test]
fn a_read_only_root_is_read_only() {
    let node = Node::start();
    let pod = node.pod(pod("readonly"));
    let id = sleeper(&node, &pod, "readonly", |security| {
        security.readonly_rootfs = true
    });
    for path in ["/file", "/etc/hosts", "/etc/resolv.conf"] {
        assert_ne!(node.exec(&id, &["touch", path]).code, 0, "{path}");
    }
    assert_eq!(node.exec(&id, &["sh", "-c", "echo x > /dev/shm/file"]).code, 0);
}

#[test]
fn a_container_sees_nothing_of_the_host() {
    let node = Node::start();
    let pod = node.pod(pod("inside"));
    let id = sleeper(&node, &pod, "inside", |_| {});
    let state = node.place.state.to_string_lossy().into_owned();
    let mounts = node.exec(&id, &["cat", "/proc/self/mountinfo"]).stdout;
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    assert!(points.clone().all(|at| !at.starts_with(&state)), "{mounts}");
    let processes = node.exec(&id, &["sh", "-c", "ls -d /proc/[0-9]* | wc -l"]).stdout;
    assert!(processes.trim().parse::<u32>().unwrap() <= 4, "{processes}");
    let cgroups = node.exec(&id, &["cat", "/proc/self/cgroup"]).stdout;
    assert!(
        !cgroups.contains(&id) && !cgroups.contains(&node.place.cgroup),
        "{cgroups}"
    );
}
