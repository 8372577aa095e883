//! Containers on the real kernel, as root: made, released, joined. One thread, as in the shim, so this is a program
//! of its own: `cargo test -p criquet-shim --test kernel [NAME]`.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod container;

use std::os::fd::AsFd as _;

use container::{Container, maps};
use criquet_proto::shim::{Device, Mount, Rlimit, failed::Kind, mount, namespace};
use criquet_shim::child;

const TESTS: &[(&str, fn())] = &[
    ("plain", plain),
    ("user_namespace", user_namespace),
    ("joined_pid_namespace", joined_pid_namespace),
    (
        "user_namespace_and_joined_pid_namespace",
        user_namespace_and_joined_pid_namespace,
    ),
    ("terminal", terminal),
    ("identity", identity),
    ("seccomp", seccomp),
    ("masks", masks),
    ("volumes", volumes),
    ("mapped_volume", mapped_volume),
    ("image_volume", image_volume),
    ("devices", devices),
    ("limits", limits),
    ("many_layers", many_layers),
    ("read_only", read_only),
    ("cgroup", cgroup),
    ("unified_cgroup", unified_cgroup),
    ("host_namespaces", host_namespaces),
    ("foreign_dev", foreign_dev),
    ("tried_again", tried_again),
    ("programs_that_cannot_run", programs_that_cannot_run),
    ("hostile_images", hostile_images),
    ("given_up", given_up),
    ("nothing_is_left", nothing_is_left),
];
fn main() {
    let wanted = std::env::args().nth(1).filter(|name| !name.starts_with('-'));
    let mut failed = 0;
    for (name, test) in TESTS
        .iter()
        .filter(|(name, _)| wanted.as_ref().is_none_or(|w| w == name))
    {
        let begin = std::time::Instant::now();
        let done = std::panic::catch_unwind(test);
        let outcome = if done.is_ok() { "ok" } else { "FAILED" };
        println!("test {name} ... {outcome} ({:?})", begin.elapsed());
        failed += usize::from(done.is_err());
    }
    assert_eq!(failed, 0, "tests failed");
}

fn plain() {
    let container = Container::new();
    let text = container
        .shell("echo $$; pwd; ls /; cat /proc/self/mountinfo; ls -l /dev; echo x > /new; ls /proc/self/fd");
    assert!(text.starts_with("1\n/\n"), "{text}");
    assert!(!text.contains("/work/") || !text.contains("/home"), "{text}");
    assert!(text.contains(" / / rw"), "{text}");
    assert_eq!(std::fs::read(container.upper().join("new")).unwrap(), b"x\n");
    // 0, 1, 2 and the folder itself
    assert!(text.ends_with("0\n1\n2\n3\n"), "{text}");
}

fn user_namespace() {
    let mut container = Container::new();
    container.user_namespace();
    let text = container.shell(
        "id -u; cat /proc/self/uid_map; ls -ln /bin/busybox; echo x > /new; ls -ln /new /dev/null; ls -ldn / /dev /dev/pts; \
         echo y > /dev/null && echo written; mkdir /d && mount -t tmpfs t /d && echo mounted; hostname inside && hostname",
    );
    assert!(text.starts_with("0\n"), "{text}");
    assert!(
        text.contains("written") && text.contains("mounted") && text.contains("inside"),
        "{text}"
    );
    assert!(!text.contains("65534"), "{text}");
    use std::os::unix::fs::MetadataExt as _;
    assert_eq!(
        std::fs::metadata(container.upper().join("new")).unwrap().uid(),
        container::HOST_ID
    );
    let mut running = container.start("echo $$; sleep 100");
    assert_eq!(running.line(), "1");
    let text = running.exec(&["sh", "-c", "id -u; cat /proc/1/comm; echo z > /exec"]);
    assert_eq!(text, "0\nsleep\n");
    assert_eq!(
        std::fs::metadata(container.upper().join("exec")).unwrap().uid(),
        container::HOST_ID
    );
    running.kill();
}

fn joined_pid_namespace() {
    let first = Container::new();
    let mut running = first.start("sleep 100");
    let mut second = Container::new();
    second.join(|n| &mut n.pid, running.namespace("pid"));
    let text = second.shell("echo $$; ps");
    assert!(!text.starts_with("1\n") && text.contains("sleep 100"), "{text}");
    // The caller's own children stay where they were.
    assert_eq!(
        std::fs::read_link("/proc/self/ns/pid").unwrap(),
        std::fs::read_link("/proc/self/ns/pid_for_children").unwrap()
    );
    running.kill();
}

fn user_namespace_and_joined_pid_namespace() {
    let mut first = Container::new();
    first.user_namespace();
    let mut running = first.start("sleep 100");
    let mut second = Container::new();
    second.share_user_namespace(&first);
    second.join(|n| &mut n.pid, running.namespace("pid"));
    let text = second.shell("id -u; ps");
    assert!(text.starts_with("0\n") && text.contains("sleep 100"), "{text}");
    running.kill();
}

fn terminal() {
    for user in [false, true] {
        let mut container = Container::new();
        if user {
            container.user_namespace();
        }
        container.process().terminal = true;
        (container.process().width, container.process().height) = (81, 25);
        let text = container.shell("tty; stty size; test -c /dev/console && echo console; ls -ln /dev/pts/0; echo > /dev/tty && echo tty");
        assert!(text.starts_with("/dev/pts/0\r\n25 81\r\nconsole\r\n"), "{text:?}");
        assert!(text.ends_with("tty\r\n"), "{text:?}");
        container.process().terminal = false;
        let mut running = container.start("sleep 100");
        let text = running.exec_terminal(&["sh", "-c", "tty; stty size"]);
        assert_eq!(text, "/dev/pts/0\r\n30 90\r\n");
        running.kill();
    }
}

fn identity() {
    let mut container = Container::new();
    let process = container.process();
    (process.uid, process.gid, process.groups) = (1000, 1001, vec![1002, 1003]);
    (
        process.bounding,
        process.permitted,
        process.effective,
        process.ambient,
    ) = (0b111, 0b11, 0b11, 0b10);
    process.umask = 0o077;
    process.no_new_privs = true;
    process.cwd = "/made/here".into();
    let script = "id -u; id -g; id -G; umask; pwd; grep -E 'Cap|NoNew|Groups|Sig[BI]' /proc/self/status; echo out > /dev/stdout";
    let text = container.shell(script);
    assert!(
        text.starts_with("1000\n1001\n1001 1002 1003\n0077\n/made/here\n"),
        "{text}"
    );
    for line in [
        "CapInh:\t0000000000000002",
        "CapPrm:\t0000000000000002",
        "CapBnd:\t0000000000000007",
        "CapAmb:\t0000000000000002",
        "NoNewPrivs:\t1",
        "SigBlk:\t0000000000000000",
        "out",
    ] {
        assert!(text.contains(line), "{line} not in {text}");
    }
    // Bits 32 and 33 are the C library's own.
    let ignored = text
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:\t"))
        .unwrap();
    assert_eq!(u64::from_str_radix(ignored, 16).unwrap() & 0x7fff_ffff, 0);
    let mut running = container.start("sleep 100");
    assert_eq!(
        running.exec(&["sh", "-c", script]).lines().collect::<Vec<_>>(),
        text.lines().collect::<Vec<_>>()
    );
    running.kill();
}

fn seccomp() {
    for privileged in [true, false] {
        let mut container = Container::new();
        let process = container.process();
        process.seccomp = container::deny_mkdir();
        process.no_new_privs = privileged;
        process.bounding = 0;
        process.permitted = 0;
        process.effective = 0;
        let text = container.shell("mkdir /x; grep -E '^(Seccomp|CapPrm|NoNewPrivs):' /proc/self/status");
        assert!(
            text.contains("Seccomp:\t2\n") && text.contains("CapPrm:\t0000000000000000"),
            "{text}"
        );
        assert!(
            text.contains(if privileged {
                "NoNewPrivs:\t1"
            } else {
                "NoNewPrivs:\t0"
            }),
            "{text}"
        );
        assert!(!container.upper().join("x").exists());
    }
}

fn masks() {
    for user in [false, true] {
        let mut container = Container::new();
        if user {
            container.user_namespace();
        }
        container.plan.masked_paths = [
            "/proc/version",
            "/proc/cpuinfo",
            "/sys/firmware",
            "/proc/tty",
            "/no/such",
        ]
        .map(String::from)
        .into();
        container.plan.readonly_paths = ["/proc/sys", "/proc/irq"].map(String::from).into();
        let text = container.shell(
            "cat /proc/version /proc/cpuinfo; ls /sys/firmware /proc/tty; touch /proc/tty/x; echo 1 > /proc/sys/vm/swappiness; \
             grep ' /proc/tty ' /proc/self/mountinfo; ls -ln /proc/version",
        );
        assert!(text.contains("tmpfs") && text.contains("1,   3"), "{text}");
        assert_eq!(text.matches("Read-only").count(), 2, "{text}");
    }
}

fn volumes() {
    let mut container = Container::new();
    let host = container.folder("volume");
    std::fs::write(host.join("file"), "content").unwrap();
    let bind = |source: &std::path::Path, target: &str| Mount {
        source: source.display().to_string(),
        target: target.into(),
        ..Default::default()
    };
    container.mount(bind(&host, "/data/deep"));
    container.mount(Mount {
        readonly: true,
        noexec: true,
        ..bind(&host, "/readonly")
    });
    container.mount(Mount {
        recursive_readonly: true,
        ..bind(&host, "/rro")
    });
    container.mount(bind(&host.join("file"), "/etc/one/file"));
    container.mount(Mount {
        kind: mount::Kind::Tmpfs.into(),
        target: "/scratch".into(),
        options: vec!["size=64k".into(), "mode=0711".into()],
        ..Default::default()
    });
    let text = container.shell("cat /data/deep/file /etc/one/file; echo x > /data/deep/new; touch /readonly/no /rro/no; ls -ld /scratch; echo y > /dev/shm/z; ls /dev/mqueue; id");
    assert!(
        text.contains("contentcontent")
            && text.matches("Read-only").count() == 2
            && text.contains("drwx--x--x"),
        "{text}"
    );
    assert_eq!(std::fs::read(host.join("new")).unwrap(), b"x\n");
    container.mount(bind(std::path::Path::new("/no/such/source"), "/x"));
    let failure = container.fails();
    assert!(
        failure.kind == Kind::NotFound && failure.message.contains("/no/such/source"),
        "{failure:?}"
    );
}

fn mapped_volume() {
    use std::os::unix::fs::MetadataExt as _;
    let mut container = Container::new();
    container.user_namespace();
    let host = container.folder("volume");
    std::fs::write(host.join("file"), "content").unwrap();
    for (target, start) in [("/same", container::HOST_ID), ("/other", 300_000)] {
        let maps = maps(start);
        container.mount(Mount {
            source: host.display().to_string(),
            target: target.into(),
            uid_maps: maps.clone(),
            gid_maps: maps,
            ..Default::default()
        });
    }
    let text = container.shell("ls -ln /same/file /other/file; echo x > /same/new");
    assert!(text.contains(" 0        0 ") && text.contains("65534"), "{text}");
    assert_eq!(std::fs::metadata(host.join("new")).unwrap().uid(), 0);
}

fn image_volume() {
    for user in [false, true] {
        let mut container = Container::new();
        if user {
            container.user_namespace();
        }
        let layers = ["one", "two"].map(|name| {
            let layer = container.folder(name);
            std::fs::create_dir_all(layer.join("sub")).unwrap();
            std::fs::write(layer.join("sub").join(name), name).unwrap();
            layer.display().to_string()
        });
        let image = |target: &str, lower: &[String], sub_path: &str| Mount {
            kind: mount::Kind::Image.into(),
            target: target.into(),
            lower: lower.to_vec(),
            sub_path: sub_path.into(),
            uid_maps: if user {
                maps(container::HOST_ID)
            } else {
                Vec::new()
            },
            gid_maps: if user {
                maps(container::HOST_ID)
            } else {
                Vec::new()
            },
            readonly: true,
            ..Default::default()
        };
        container.mount(image("/both", &layers, ""));
        container.mount(image("/part", &layers, "sub"));
        container.mount(image("/single", &layers[..1], ""));
        let text = container.shell(
            "cat /both/sub/one /part/two /single/sub/one; touch /both/x /part/x /single/x; ls -ln /part",
        );
        assert!(
            text.contains("onetwoone") && text.matches("Read-only").count() == 3,
            "{text}"
        );
        assert!(!text.contains("65534"), "{text}");
        container.mount(image("/missing", &layers, "missing"));
        assert_eq!(container.fails().kind, Kind::NotFound);
    }
}

fn devices() {
    for user in [false, true] {
        let mut container = Container::new();
        if user {
            container.user_namespace();
        }
        let device = |path: &str, uid| Device {
            path: path.into(),
            host_path: "/dev/zero".into(),
            r#type: "c".into(),
            major: 1,
            minor: 5,
            mode: 0o640,
            uid,
            gid: 7,
        };
        container.plan.devices = vec![
            device("/dev/deep/zero", 3),
            device("/dev/null", 0),
            device("/outside", 0),
        ];
        let text = container.shell("ls -ln /dev/deep/zero /dev/null /outside; head -c 3 /dev/deep/zero | od; head -c 3 /outside | od; ls -l /dev; cat < /dev/tty");
        assert!(
            text.contains("crw-r-----    1 3        7           1,   5"),
            "{text}"
        );
        assert!(
            text.contains("crw-rw-rw-    1 0        0           1,   3"),
            "{text}"
        );
        assert_eq!(text.matches("000000 000000").count(), 2, "{text}");
    }
}

fn limits() {
    let mut container = Container::new();
    container.process().rlimits = vec![
        Rlimit {
            resource: 7,
            soft: 77,
            hard: 99,
        },
        Rlimit {
            resource: 3,
            soft: u64::MAX,
            hard: u64::MAX,
        },
    ];
    container.process().has_oom_score_adj = true;
    container.process().oom_score_adj = 500;
    assert_eq!(
        container.shell("ulimit -n; ulimit -Hn; cat /proc/self/oom_score_adj"),
        "77\n99\n500\n"
    );
    // Refused without CAP_SYS_RESOURCE, which is no reason not to run.
    container.process().oom_score_adj = -999;
    container.shell("cat /proc/self/oom_score_adj");
}

fn many_layers() {
    for user in [false, true] {
        let mut container = Container::new();
        if user {
            container.user_namespace();
        }
        for i in 0..40 {
            let layer = container.folder(&format!(
                "a-layer-with-a-name-as-long-as-a-digest-in-hexadecimal-is-{i:04}"
            ));
            std::fs::write(layer.join(format!("file{i}")), i.to_string()).unwrap();
            container
                .plan
                .rootfs
                .as_mut()
                .unwrap()
                .lower
                .insert(0, layer.display().to_string());
        }
        assert_eq!(
            container.shell("cat /file0 /file39; ls -n / | grep -c 65534"),
            if user { "0392\n" } else { "0390\n" }
        );
    }
}

fn read_only() {
    let mut container = Container::new();
    container.plan.rootfs.as_mut().unwrap().readonly = true;
    let text = container.shell("touch /x; touch /dev/shm/y && echo shm");
    assert!(text.contains("Read-only") && text.contains("shm"), "{text}");
    let mut container = Container::new();
    let rootfs = container.plan.rootfs.as_mut().unwrap();
    (rootfs.upper, rootfs.work) = (String::new(), String::new());
    assert!(container.shell("touch /x; echo ran").contains("Read-only"));
}

fn cgroup() {
    for user in [false, true] {
        let mut container = Container::new();
        if user {
            container.user_namespace();
        }
        let dirs = container.cgroups();
        let mut running = container.start("cat /proc/self/cgroup; ls /sys/fs/cgroup; mkdir /sys/fs/cgroup/pids/x; ls /sys/fs/cgroup/pids; cat /sys/fs/cgroup/pids/cgroup.procs; echo end; sleep 100");
        let text = running.until("end");
        if dirs.len() > 1 {
            assert!(
                text.contains("pids:/\n") && text.contains("Read-only") && text.contains("pids.current"),
                "{text}"
            );
            assert!(!text.contains("unified"), "{text}");
        } else {
            assert!(text.contains("0::/\n"), "{text}");
        }
        assert!(running.exec(&["cat", "/proc/self/cgroup"]).contains(":/\n"));
        running.kill();
    }
}

fn unified_cgroup() {
    for user in [false, true] {
        let mut container = Container::new();
        if user {
            container.user_namespace();
        }
        container.unified_cgroup();
        let mut running = container.start(
            "cat /proc/self/cgroup; cat /sys/fs/cgroup/cgroup.procs; mkdir /sys/fs/cgroup/x; echo end; sleep 100",
        );
        let text = running.until("end");
        assert!(
            text.contains("0::/\n") && text.contains("\n1\n") && text.contains("Read-only"),
            "{text}"
        );
        assert!(running.exec(&["cat", "/proc/self/cgroup"]).contains("0::/\n"));
        running.kill();
    }
}

fn host_namespaces() {
    let mut container = Container::new();
    let namespaces = container.plan.namespaces.as_mut().unwrap();
    (namespaces.pid, namespaces.network, namespaces.ipc) = (None, None, None);
    (namespaces.uts, namespaces.cgroup) = (None, None);
    container.plan.writable_sys = true;
    let mut running = container.start("echo $$; grep ' /sys ' /proc/self/mountinfo; echo end; sleep 100");
    let text = running.until("end");
    assert!(!text.starts_with("1\n") && text.contains(" /sys rw,"), "{text}");
    assert!(running.exec(&["ps"]).contains("kernel"));
    running.kill();
}

fn foreign_dev() {
    let mut container = Container::new();
    container.plan.mounts.insert(
        0,
        Mount {
            source: "/dev".into(),
            target: "/dev".into(),
            ..Default::default()
        },
    );
    container.process().terminal = true;
    let text = container.shell("tty; ls /dev/pts; echo x > /dev/shm/criquet-test && echo shm");
    assert_eq!(text, "/dev/pts/0\r\n0     ptmx\r\nshm\r\n");
    assert!(!std::path::Path::new("/dev/shm/criquet-test").exists());
}

fn tried_again() {
    let mut container = Container::new();
    container.process().cwd = "/proc/self/fd/1".into();
    container.fails();
    container.process().cwd = "/".into();
    assert_eq!(container.shell("echo ran"), "ran\n");
}

fn programs_that_cannot_run() {
    let mut container = Container::new();
    let cases: [(&str, Kind, &str); 6] = [
        (
            "missing",
            Kind::NotFound,
            "exec: \"missing\": executable file not found in $PATH",
        ),
        (
            "/bin/missing",
            Kind::NotFound,
            "exec: \"/bin/missing\": no such file or directory",
        ),
        (
            "/etc/plain",
            Kind::Permission,
            "exec: \"/etc/plain\": permission denied",
        ),
        ("/etc", Kind::Permission, "exec: \"/etc\": permission denied"),
        ("/etc/odd", Kind::Invalid, "exec: \"/etc/odd\": exec format error"),
        (
            "/etc/script",
            Kind::NotFound,
            "exec: \"/etc/script\": no such file or directory",
        ),
    ];
    container.file("etc/plain", "", 0o644);
    container.file("etc/odd", "\0\0\0\0", 0o755);
    container.file("etc/script", "#!/no/interpreter\n", 0o755);
    for (name, kind, message) in cases {
        container.process().args = vec![name.into()];
        let mut made = container.create().unwrap();
        let failure = made.child.release().unwrap_err();
        assert_eq!((failure.kind, failure.message.as_str()), (kind, message));
        let code = if kind == Kind::NotFound { 127 } else { 126 };
        assert_eq!(
            criquet_sys::process::reap(&made.child.pidfd).unwrap(),
            criquet_sys::pidfd::Ended::Exited(code)
        );
    }
}

fn hostile_images() {
    let link = |name: &str, to: &str| {
        let container = Container::new();
        let path = container.lower().join(name);
        if path.exists() {
            std::fs::remove_dir_all(&path).unwrap();
        }
        std::os::unix::fs::symlink(to, path).unwrap();
        container
    };
    for name in ["proc", "sys", "dev"] {
        for to in ["/tmp", "../../../..", "elsewhere"] {
            let failure = link(name, to).fails();
            assert_eq!(failure.kind, Kind::SafetyViolation, "{failure:?}");
        }
        let mut container = Container::new();
        std::fs::remove_dir_all(container.lower().join(name)).unwrap();
        container.file(name, "", 0o644);
        assert!(matches!(
            container.fails().kind,
            Kind::SafetyViolation | Kind::Internal
        ));
    }
    // A volume through a link stays inside.
    let mut container = link("out", "../../../../../../tmp");
    let volume = container.folder("volume");
    container.mount(Mount {
        source: volume.display().to_string(),
        target: "/out/criquet-inside".into(),
        ..Default::default()
    });
    container.shell("true");
    assert!(!std::path::Path::new("/tmp/criquet-inside").exists());
    assert!(container.upper().join("tmp/criquet-inside").exists());
    // Not onto procfs, also not by a link.
    for target in ["/proc/sys", "/alias/self/attr"] {
        let mut container = link("alias", "/proc");
        let volume = container.folder("volume");
        container.mount(Mount {
            source: volume.display().to_string(),
            target: target.into(),
            ..Default::default()
        });
        assert_eq!(container.fails().kind, Kind::SafetyViolation);
    }
    // CVE-2024-21626
    for cwd in ["/proc/self/fd/3", "/proc/self/cwd/x"] {
        let mut container = Container::new();
        container.process().cwd = cwd.into();
        assert!(matches!(
            container.fails().kind,
            Kind::SafetyViolation | Kind::NotFound
        ));
    }
}

fn given_up() {
    let container = Container::new();
    let made = container.create().unwrap();
    let pidfd = made.child.pidfd.try_clone().unwrap();
    drop(made);
    assert_eq!(
        criquet_sys::process::reap(pidfd).unwrap(),
        criquet_sys::pidfd::Ended::Exited(0)
    );
    let mut container = Container::new();
    container.plan.namespaces.as_mut().unwrap().pid = Some(criquet_proto::shim::Namespace {
        kind: namespace::Kind::Join.into(),
        fd: 9,
    });
    assert_eq!(
        child::create(&container.plan, &[], container::nowhere())
            .unwrap_err()
            .kind,
        Kind::Invalid
    );
}

fn nothing_is_left() {
    let count = || {
        let fds = std::fs::read_dir("/proc/self/fd").unwrap().count();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo")
            .unwrap()
            .lines()
            .count();
        (fds, mounts)
    };
    let before = count();
    for user in [false, true] {
        let mut container = Container::new();
        if user {
            container.user_namespace();
        }
        let mut running = container.start("sleep 100");
        running.exec(&["true"]);
        running.kill();
        container.process().cwd = "/proc/self/fd/1".into();
        container.fails();
        let _ = criquet_sys::namespace::current(criquet_sys::namespace::Kind::Mount)
            .unwrap()
            .as_fd();
    }
    assert_eq!(count(), before);
}
