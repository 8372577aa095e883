//! Who the program is, what it may do, and whether it runs at all.

use crate::container::{self, Container};
use criquet_proto::shim::{Rlimit, failed::Kind, namespace};
use criquet_shim::child;

pub(crate) fn terminal() {
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

pub(crate) fn identity() {
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

pub(crate) fn seccomp() {
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

pub(crate) fn limits() {
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

pub(crate) fn programs_that_cannot_run() {
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

pub(crate) fn given_up() {
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
