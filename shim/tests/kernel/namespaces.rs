//! Namespaces and control groups, new, joined and the host's.

use crate::container::{self, Container};

pub(crate) fn plain() {
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

pub(crate) fn user_namespace() {
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

pub(crate) fn joined_pid_namespace() {
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

pub(crate) fn user_namespace_and_joined_pid_namespace() {
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

pub(crate) fn host_namespaces() {
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

pub(crate) fn cgroup() {
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

pub(crate) fn unified_cgroup() {
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
