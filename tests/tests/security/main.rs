//! What a container may not do, seen from inside it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::let_underscore_must_use)]

use criquet_tests::{BUSYBOX, Node, Pod, container, cri, pod};

fn shell(
    node: &Node,
    pod: &Pod,
    name: &str,
    change: impl Fn(&mut cri::LinuxContainerSecurityContext),
) -> String {
    let mut config = container(name, BUSYBOX, &["sleep", "1000"]);
    change(config.linux.as_mut().unwrap().security_context.as_mut().unwrap());
    node.launch(pod, config)
}

fn field(node: &Node, id: &str, name: &str) -> String {
    let text = node.exec(id, &["cat", "/proc/self/status"]).stdout;
    let line = text
        .lines()
        .find(|line| line.starts_with(&format!("{name}:")))
        .expect("the field");
    line.split_once(':').unwrap().1.trim().to_string()
}

#[test]
fn capabilities_are_those_of_the_default_set_and_what_was_asked() {
    let node = Node::start();
    let pod = node.pod(pod("caps"));
    let default = shell(&node, &pod, "default", |_| {});
    let effective = u64::from_str_radix(&field(&node, &default, "CapEff"), 16).unwrap();
    for (name, bit, there) in [
        ("CHOWN", 0, true),
        ("NET_ADMIN", 12, false),
        ("SYS_ADMIN", 21, false),
        ("SYS_MODULE", 16, false),
    ] {
        assert_eq!(effective & (1 << bit) != 0, there, "{name} in {effective:x}");
    }
    let none = shell(&node, &pod, "none", |security| {
        let drop = vec!["ALL".to_string()];
        security.capabilities = Some(cri::Capability {
            drop_capabilities: drop,
            ..Default::default()
        });
    });
    for set in ["CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb"] {
        assert_eq!(u64::from_str_radix(&field(&node, &none, set), 16), Ok(0), "{set}");
    }
    let user = shell(&node, &pod, "user", |security| {
        security.run_as_user = Some(cri::Int64Value { value: 1000 })
    });
    assert_eq!(
        u64::from_str_radix(&field(&node, &user, "CapEff"), 16),
        Ok(0),
        "another user has no effective one"
    );
}

#[test]
fn users_and_groups() {
    let node = Node::start();
    let pod = node.pod(pod("users"));
    let id = shell(&node, &pod, "user", |security| {
        security.run_as_user = Some(cri::Int64Value { value: 1001 });
        security.run_as_group = Some(cri::Int64Value { value: 1002 });
        security.supplemental_groups = vec![1003];
    });
    assert_eq!(
        node.exec(&id, &["sh", "-c", "id -u; id -G"]).stdout,
        "1001\n1002 1003\n"
    );
    let told = node.status(&id).user.unwrap().linux.unwrap();
    assert_eq!(
        (told.uid, told.gid, told.supplemental_groups.contains(&1003)),
        (1001, 1002, true)
    );
    let name = shell(&node, &pod, "name", |security| {
        security.run_as_username = "www-data".into()
    });
    assert_eq!(node.exec(&name, &["id", "-u"]).stdout, "33\n");
}

#[test]
fn proc_and_sys_are_guarded() {
    let node = Node::start();
    let pod = node.pod(pod("proc"));
    let id = shell(&node, &pod, "guarded", |security| {
        security.masked_paths = ["/proc/kcore", "/proc/keys", "/proc/scsi", "/sys/firmware"]
            .map(String::from)
            .into();
        security.readonly_paths = ["/proc/sys", "/proc/sysrq-trigger"].map(String::from).into();
    });
    for (script, works) in [
        ("echo 1 > /proc/sys/kernel/panic", false),
        ("echo h > /proc/sysrq-trigger", false),
        ("touch /sys/file || echo 0 > /sys/kernel/profiling", false),
        ("test -z \"$(cat /proc/kcore | head -c 1)\"", true),
        ("test -z \"$(ls /proc/scsi)\"", true),
        ("mount -t tmpfs none /tmp || mount -t proc none /home", false),
        ("mknod /tmp/disk b 8 0 && cat /tmp/disk", false),
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
    let id = shell(&node, &pod, "readonly", |security| {
        security.readonly_rootfs = true
    });
    assert_ne!(node.exec(&id, &["touch", "/file"]).code, 0);
    assert_eq!(node.exec(&id, &["sh", "-c", "echo x > /dev/shm/file"]).code, 0);
}

#[test]
fn seccomp_and_no_new_privileges() {
    let node = Node::start();
    let pod = node.pod(pod("seccomp"));
    let runtime_default = cri::SecurityProfile::default();
    let filtered = shell(&node, &pod, "filtered", |security| {
        security.seccomp = Some(runtime_default.clone());
        security.no_new_privs = true;
    });
    assert_eq!(field(&node, &filtered, "Seccomp"), "2");
    assert_eq!(field(&node, &filtered, "NoNewPrivs"), "1");
    assert_ne!(node.exec(&filtered, &["unshare", "-U", "true"]).code, 0);
    let open = shell(&node, &pod, "open", |_| {});
    assert_eq!(field(&node, &open, "Seccomp"), "0");
    assert_eq!(field(&node, &open, "NoNewPrivs"), "0");
}

#[test]
fn a_container_sees_nothing_of_the_host() {
    let node = Node::start();
    let pod = node.pod(pod("inside"));
    let id = shell(&node, &pod, "inside", |_| {});
    let state = node.place.state.to_string_lossy().into_owned();
    let mounts = node.exec(&id, &["cat", "/proc/self/mountinfo"]).stdout;
    assert!(
        !mounts
            .lines()
            .any(|line| line.split(' ').nth(4).is_some_and(|at| at.starts_with(&state))),
        "{mounts}"
    );
    let fds = node.exec(&id, &["ls", "-l", "/proc/1/fd"]).stdout;
    assert!(!fds.contains("criquet"), "{fds}");
    let count = fds.lines().filter(|line| line.contains("->")).count();
    assert!(count <= 3, "more than stdio is open: {fds}");
    let processes = node.exec(&id, &["sh", "-c", "ls -d /proc/[0-9]* | wc -l"]).stdout;
    assert!(processes.trim().parse::<u32>().unwrap() <= 4, "{processes}");
    let cgroups = node.exec(&id, &["cat", "/proc/self/cgroup"]).stdout;
    assert!(
        !cgroups.contains(&id),
        "the cgroup namespace hides the host's names: {cgroups}"
    );
}

#[test]
fn a_link_in_the_image_or_a_volume_leads_nowhere_outside() {
    let node = Node::start();
    let pod = node.pod(pod("links"));
    let volume = node.work().join("volume");
    std::fs::create_dir_all(&volume).unwrap();
    let id = {
        let mut config = container("links", BUSYBOX, &["sleep", "1000"]);
        config.mounts = vec![cri::Mount {
            host_path: volume.to_string_lossy().into_owned(),
            // /var/run is a link to /run in the image: the mount lands inside the container all the same.
            container_path: "/var/run/volume".into(),
            ..Default::default()
        }];
        node.launch(&pod, config)
    };
    assert_eq!(
        node.exec(&id, &["sh", "-c", "echo inside > /run/volume/file"])
            .code,
        0
    );
    assert_eq!(std::fs::read_to_string(volume.join("file")).unwrap(), "inside\n");
    assert!(
        !std::path::Path::new("/run/volume").exists(),
        "the mount point is not on the host"
    );
    std::os::unix::fs::symlink("/etc", volume.join("escape")).unwrap();
    let mut config = container("through", BUSYBOX, &["sleep", "1000"]);
    config.mounts = vec![
        cri::Mount {
            host_path: volume.to_string_lossy().into_owned(),
            container_path: "/volume".into(),
            ..Default::default()
        },
        cri::Mount {
            host_path: node.work().to_string_lossy().into_owned(),
            container_path: "/volume/escape/below".into(),
            ..Default::default()
        },
    ];
    if let Ok(id) = node.try_create(&pod, config) {
        let _ = node
            .cri()
            .start_container(cri::StartContainerRequest { container_id: id });
    }
    assert!(
        !std::path::Path::new("/etc/below").exists(),
        "the mount point is not on the host"
    );
}

#[test]
fn a_user_namespace_maps_root_to_nobody() {
    let node = Node::start();
    let map = cri::IdMapping {
        host_id: 100_000,
        container_id: 0,
        length: 65_536,
    };
    let userns = cri::UserNamespace {
        mode: cri::NamespaceMode::Pod.into(),
        uids: vec![map],
        gids: vec![map],
    };
    let mut config = pod("userns");
    let security = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
    security.namespace_options.as_mut().unwrap().userns_options = Some(userns.clone());
    let pod = node.pod(config);
    let id = shell(&node, &pod, "userns", |security| {
        security.namespace_options.as_mut().unwrap().userns_options = Some(userns.clone());
    });
    let words: Vec<String> = node
        .exec(&id, &["cat", "/proc/self/uid_map"])
        .stdout
        .split_whitespace()
        .map(String::from)
        .collect();
    assert_eq!(words, ["0", "100000", "65536"]);
    assert_eq!(
        node.exec(&id, &["stat", "-c", "%u", "/bin/busybox"]).stdout,
        "0\n"
    );
    assert_eq!(
        node.exec(&id, &["sh", "-c", "touch /file && stat -c %u /file"])
            .stdout,
        "0\n"
    );
}

#[test]
fn a_privileged_container_has_everything() {
    let node = Node::start();
    let mut config = pod("privileged");
    config
        .linux
        .as_mut()
        .unwrap()
        .security_context
        .as_mut()
        .unwrap()
        .privileged = true;
    let pod = node.pod(config);
    let id = shell(&node, &pod, "privileged", |security| security.privileged = true);
    let out = node.exec(
        &id,
        &[
            "sh",
            "-c",
            "mount -t tmpfs none /tmp && test -e /dev/fuse -o -e /dev/kmsg -o -e /dev/net",
        ],
    );
    assert_eq!(out.code, 0, "{out:?}");
}
