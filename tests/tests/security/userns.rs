//! Pods with a user namespace: root inside is nobody outside.

use std::os::unix::fs::MetadataExt;

use criquet_tests::{BUSYBOX, Node, container, cri, pod};
use serde_json::json;

use crate::canary::Canary;
use crate::hostile::{Image, Layer};
use crate::probe::{self, pod_security, security, sleeper, try_launch, volume};

const HOST_ID: u32 = 300_000;
const LENGTH: u32 = 65_536;

fn maps() -> Vec<cri::IdMapping> {
    vec![cri::IdMapping {
        host_id: HOST_ID,
        container_id: 0,
        length: LENGTH,
    }]
}

fn mapped() -> cri::UserNamespace {
    cri::UserNamespace {
        mode: cri::NamespaceMode::Pod.into(),
        uids: maps(),
        gids: maps(),
    }
}

fn mapped_pod(name: &str) -> cri::PodSandboxConfig {
    let mut config = pod(name);
    pod_security(&mut config)
        .namespace_options
        .as_mut()
        .unwrap()
        .userns_options = Some(mapped());
    config
}

fn mapped_container(name: &str, image: &str, command: &[&str]) -> cri::ContainerConfig {
    let mut config = container(name, image, command);
    security(&mut config)
        .namespace_options
        .as_mut()
        .unwrap()
        .userns_options = Some(mapped());
    config
}

#[test]
fn ids_are_mapped_exactly() {
    let node = Node::start();
    let pod = node.pod(mapped_pod("mapped"));
    let folder = node.work().join("volume");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("before"), "x").unwrap();
    let mut config = mapped_container("mapped", BUSYBOX, &["sleep", "987654"]);
    config.mounts = vec![
        cri::Mount {
            uid_mappings: maps(),
            gid_mappings: maps(),
            ..volume(&folder.display().to_string(), "/data")
        },
        volume(&folder.display().to_string(), "/plain"),
        probe::mount(&node),
    ];
    let id = node.launch(&pod, config);
    for map in ["uid_map", "gid_map"] {
        let text = node.exec(&id, &["cat", &format!("/proc/self/{map}")]).stdout;
        let words: Vec<&str> = text.split_whitespace().collect();
        assert_eq!(words, ["0", "300000", "65536"], "{map}");
    }
    // The host's view of the processes: all of them, the exec's too.
    let mut found = node.place.processes();
    found.retain(|process| process.command == "sleep 987654");
    let owner = |pid: i32| std::fs::metadata(format!("/proc/{pid}")).unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(
        (owner(found[0].pid).uid(), owner(found[0].pid).gid()),
        (HOST_ID, HOST_ID)
    );
    let owners = node
        .exec(
            &id,
            &[
                "stat",
                "-c",
                "%u:%g",
                "/",
                "/bin/busybox",
                "/data/before",
                "/plain/before",
            ],
        )
        .stdout;
    assert_eq!(owners, "0:0\n0:0\n0:0\n65534:65534\n");
    assert_eq!(
        node.exec(
            &id,
            &[
                "sh",
                "-c",
                "echo y > /data/after && chown 5:6 /data/after && touch /own"
            ]
        )
        .code,
        0
    );
    let after = std::fs::metadata(folder.join("after")).unwrap();
    assert_eq!((after.uid(), after.gid()), (5, 6), "the volume is idmapped");
    assert_ne!(
        node.exec(
            &id,
            &["sh", "-c", "echo y > /plain/before || chown 0 /plain/before"]
        )
        .code,
        0
    );
    for file in [
        "/etc/hosts",
        "/etc/resolv.conf",
        "/etc/hostname",
        "/dev/null",
        "/dev/shm",
    ] {
        assert_eq!(
            node.exec(&id, &["stat", "-c", "%u", file]).stdout,
            "0\n",
            "{file}"
        );
    }
    assert_eq!(
        node.exec(
            &id,
            &[
                "sh",
                "-c",
                "echo z > /dev/null && echo z > /dev/shm/z && echo z >> /etc/hosts"
            ]
        )
        .code,
        0
    );
}

#[test]
fn root_of_a_namespace_has_no_power_over_the_host() {
    let node = Node::start();
    let canary = Canary::of(&node);
    let pod = node.pod(mapped_pod("powerless"));
    let mut config = mapped_container("powerless", BUSYBOX, &["sleep", "1000"]);
    config.mounts = vec![volume(&canary.path(""), "/canary"), probe::mount(&node)];
    security(&mut config).capabilities = Some(cri::Capability {
        add_capabilities: vec!["ALL".into()],
        ..Default::default()
    });
    let id = node.launch(&pod, config);
    for script in [
        "cat /canary/private/secret",
        "echo x >> /canary/file",
        "chown 0:0 /canary/file",
        "mknod /tmp/disk b 8 0",
        "echo 1 > /proc/sys/kernel/panic",
        "echo x > /proc/sys/kernel/core_pattern",
        "echo h > /proc/sysrq-trigger",
        "echo 1 > /sys/kernel/profiling",
        "date -s 2000-01-01; test $(date +%Y) = 2000",
        "mkdir /sys/fs/cgroup/x || mkdir /sys/fs/cgroup/pids/x",
        "cat /dev/mem || cat /dev/kmsg || dmesg",
    ] {
        let out = node.exec(&id, &["sh", "-c", script]);
        assert_ne!(out.code, 0, "{script}: {out:?}");
    }
    // Inside it is root.
    assert_eq!(
        node.exec(
            &id,
            &[
                "sh",
                "-c",
                "mount -t tmpfs none /home && hostname other && ip addr add 127.0.0.9/8 dev lo"
            ]
        )
        .code,
        0
    );
    let out = node.exec(&id, &["/probe", "fds"]).ok();
    assert_eq!(out.lines().count(), 4, "{out}");
    canary.assert_unchanged();
}

/// Setuid programs and devices of a volume, links of an image: as without a user namespace.
#[test]
fn cve_2019_16884_hostile_images_in_a_user_namespace() {
    let node = Node::start();
    let canary = Canary::of(&node);
    let pod = node.pod(mapped_pod("hostile"));
    for (number, name) in ["proc", "sys", "dev"].iter().enumerate() {
        let image = format!("hostile.test/userns:{number}");
        Image::of(&Layer::new().link(name, &canary.path("")), json!({})).load(&node, &image);
        assert!(
            try_launch(&node, &pod, mapped_container(name, &image, &["sleep", "1000"])).is_err(),
            "{name}"
        );
    }
    let layer = Layer::new()
        .link("etc/resolv.conf", &canary.path("file"))
        .link("out", "../../../../../../..");
    Image::of(&layer, json!({"WorkingDir": "/out/made/here"})).load(&node, "hostile.test/userns:files");
    let mut config = mapped_container("files", "hostile.test/userns:files", &["sleep", "1000"]);
    config.tty = true;
    config.mounts = vec![volume(&canary.path("file"), "/out/at/this")];
    if let Ok(id) = try_launch(&node, &pod, config) {
        assert_eq!(node.exec(&id, &["pwd"]).stdout, "/made/here\n");
    }
    assert!(!std::path::Path::new("/made").exists() && !std::path::Path::new("/at").exists());
    let file = node.work().join("shared");
    std::fs::write(&file, "").unwrap();
    canary.assert_unchanged();
}

#[test]
fn a_pod_with_a_user_namespace_shares_nothing_of_the_hosts() {
    use cri::NamespaceMode::{Node as Hosts, Pod};
    let node = Node::start();
    node.pull(BUSYBOX);
    type Change = fn(&mut cri::LinuxSandboxSecurityContext);
    let refused: [(&str, Change); 5] = [
        ("pid", |s| s.namespace_options.as_mut().unwrap().set_pid(Hosts)),
        ("ipc", |s| s.namespace_options.as_mut().unwrap().set_ipc(Hosts)),
        ("two ranges", |s| {
            s.namespace_options
                .as_mut()
                .unwrap()
                .userns_options
                .as_mut()
                .unwrap()
                .uids
                .extend(maps())
        }),
        ("no root", |s| {
            s.namespace_options
                .as_mut()
                .unwrap()
                .userns_options
                .as_mut()
                .unwrap()
                .uids[0]
                .container_id = 1
        }),
        ("overflow", |s| {
            s.namespace_options
                .as_mut()
                .unwrap()
                .userns_options
                .as_mut()
                .unwrap()
                .uids[0]
                .host_id = u32::MAX
        }),
    ];
    for (name, change) in refused {
        let mut config = mapped_pod("refused");
        change(pod_security(&mut config));
        assert!(node.try_pod(config).is_err(), "{name}");
    }
    let pod = node.pod(mapped_pod("mapped"));
    let mut privileged = mapped_container("privileged", BUSYBOX, &["true"]);
    security(&mut privileged).privileged = true;
    assert!(node.try_create(&pod, privileged).is_err());
    let mut hosts = mapped_container("hosts", BUSYBOX, &["true"]);
    security(&mut hosts)
        .namespace_options
        .as_mut()
        .unwrap()
        .set_pid(Hosts);
    assert!(node.try_create(&pod, hosts).is_err());
    let mut other = mapped_container("other", BUSYBOX, &["true"]);
    let options = security(&mut other).namespace_options.as_mut().unwrap();
    options.userns_options.as_mut().unwrap().uids[0].host_id = 0;
    options.set_pid(Pod);
    assert!(
        node.try_create(&pod, other).is_err(),
        "a mapping to the host's root"
    );
    // Two pods: neither's root is the other's.
    let second = node.pod(criquet_tests::pod("plain"));
    sleeper(&node, &second, "plain", |_| {});
}
