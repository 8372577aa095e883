//! Requests: what a pod's author can write into them reaches nothing that it is not meant for.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::symlink;

use criquet_tests::{BUSYBOX, Node, Pod, container, cri, pod};
use tonic::Code;

use crate::canary::Canary;
use crate::probe::{pod_security, security, sleeper, status, try_launch};

#[test]
fn cve_2023_2431_an_empty_profile_is_no_profile() {
    use cri::security_profile::ProfileType::Localhost;
    let node = Node::start();
    let pod = node.pod(pod("profile"));
    node.pull(BUSYBOX);
    let profiles = node.place.folder.join("seccomp");
    std::fs::create_dir_all(&profiles).unwrap();
    std::fs::write(
        profiles.join("deny.json"),
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13}]}"#,
    )
    .unwrap();
    std::fs::write(profiles.join("broken.json"), "{").unwrap();
    std::fs::write(
        node.work().join("outside.json"),
        r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#,
    )
    .unwrap();
    let config = |reference: &str| {
        let mut config = container("profile", BUSYBOX, &["sleep", "1000"]);
        security(&mut config).seccomp = Some(cri::SecurityProfile {
            profile_type: Localhost.into(),
            localhost_ref: reference.into(),
        });
        config
    };
    for reference in [
        "",
        "localhost/",
        "missing.json",
        "../work/outside.json",
        "a/../../work/outside.json",
        "broken.json",
        ".",
        "/dev/zero",
    ] {
        let error = try_launch(&node, &pod, config(reference)).expect_err(reference);
        assert_eq!(error.code(), Code::InvalidArgument, "{reference:?}: {error:?}");
    }
    for reference in [
        "deny.json",
        "localhost/deny.json",
        &profiles.join("deny.json").display().to_string(),
    ] {
        let id = try_launch(&node, &pod, config(reference)).unwrap();
        assert_eq!(status(&node, &id, "1", "Seccomp"), "2");
        assert_ne!(node.exec(&id, &["mkdir", "/x"]).code, 0);
        node.remove_container(&id);
    }
    #[allow(deprecated)]
    for path in ["localhost/", "anything", "unconfined2"] {
        let mut config = container("old", BUSYBOX, &["true"]);
        security(&mut config).seccomp_profile_path = path.into();
        assert!(node.try_create(&pod, config).is_err(), "{path}");
    }
}

/// And CVE-2022-0532: a sysctl is one name and one value, and of the pod's own namespaces.
#[test]
fn cve_2022_0811_sysctls() {
    let node = Node::start();
    let core_pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    let run = |name: &str, value: &str, change: fn(&mut cri::LinuxSandboxSecurityContext)| {
        let mut config = pod("sysctl");
        config.linux.as_mut().unwrap().sysctls = HashMap::from([(name.to_string(), value.to_string())]);
        change(pod_security(&mut config));
        node.try_pod(config)
    };
    let host_network = |security: &mut cri::LinuxSandboxSecurityContext| {
        security
            .namespace_options
            .as_mut()
            .unwrap()
            .set_network(cri::NamespaceMode::Node);
    };
    let host_ipc = |security: &mut cri::LinuxSandboxSecurityContext| {
        security
            .namespace_options
            .as_mut()
            .unwrap()
            .set_ipc(cri::NamespaceMode::Node);
    };
    for (name, value) in [
        ("kernel.core_pattern", "|/x"),
        ("kernel.shm_rmid_forced", "1+kernel.core_pattern=|/x"),
        ("kernel.shm_rmid_forced", "1\nkernel.core_pattern=|/x"),
        ("kernel.shm_rmid_forced=1+kernel.core_pattern", "|/x"),
        ("net/../kernel/core_pattern", "|/x"),
        ("net.../kernel.core_pattern", "|/x"),
        ("net..core", "1"),
        ("net.ipv4.", "1"),
        ("kernel.shm../core_pattern", "|/x"),
        ("kernel.shmmax/../core_pattern", "|/x"),
        ("kernel.modprobe", "/x"),
        ("vm.overcommit_memory", "1"),
        ("user.max_user_namespaces", "0"),
        ("fs.file-max", "1"),
        ("", "1"),
        (".", "1"),
        ("net", "1"),
        ("net.no_such_thing", "1"),
    ] {
        let error = run(name, value, |_| {}).expect_err(name);
        assert_eq!(error.code(), Code::InvalidArgument, "{name}={value}: {error:?}");
    }
    assert!(run("net.core.somaxconn", "7", host_network).is_err());
    assert!(run("kernel.shmmax", "7", host_ipc).is_err());
    let somaxconn = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
    let pod = run("net.core.somaxconn", "777", |_| {}).unwrap();
    let id = sleeper(&node, &pod, "sysctl", |_| {});
    assert_eq!(
        node.exec(&id, &["cat", "/proc/sys/net/core/somaxconn"]).stdout,
        "777\n"
    );
    assert_eq!(
        std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap(),
        somaxconn
    );
    assert_eq!(
        std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap(),
        core_pattern
    );
    node.remove_pods();
    node.assert_clean();
}

/// Limits of a container's cgroups, by file.
fn limits(node: &Node, id: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for folder in node
        .place
        .cgroups()
        .iter()
        .filter(|folder| folder.to_string_lossy().contains(id))
    {
        let hierarchy = folder
            .components()
            .nth(4)
            .map(|part| part.as_os_str().to_string_lossy().into_owned());
        for file in std::fs::read_dir(folder).unwrap().flatten() {
            let name = file.file_name().to_string_lossy().into_owned();
            let set = [
                "max",
                "min",
                "high",
                "low",
                "weight",
                "shares",
                "quota_us",
                "limit_in_bytes",
                "swappiness",
                "list",
                "cpus",
                "mems",
            ];
            if set.iter().any(|end| name.ends_with(end)) {
                let text = std::fs::read_to_string(file.path()).unwrap_or_default();
                found.insert(format!("{}/{name}", hierarchy.clone().unwrap_or_default()), text);
            }
        }
    }
    found
}

/// And CVE-2023-6476: annotations are notes, and set nothing.
#[test]
fn cve_2024_3154_annotations_set_nothing() {
    let node = Node::start();
    let canary = Canary::of(&node);
    let annotations: HashMap<String, String> = [
        ("org.systemd.property.ExecStartPre", "['/bin/touch', '@']"),
        ("org.systemd.property.MemoryMax", "uint64 1"),
        ("io.kubernetes.cri-o.cgroup2-mount-hierarchy-rw", "true"),
        ("io.kubernetes.cri-o.userns-mode", "auto"),
        ("io.kubernetes.cri-o.Devices", "/dev/kmsg"),
        ("io.kubernetes.cri-o.ShmSize", "1g"),
        (
            "io.kubernetes.cri-o.UnifiedCgroup.c",
            "memory.max=max;pids.max=max",
        ),
        ("io.kubernetes.cri-o.seccompNotifierAction", "stop"),
        ("cpu-load-balancing.crio.io", "disable"),
        ("run.oci.keep_original_groups", "1"),
        ("run.oci.hooks", "/bin/touch @"),
        ("run.oci.handler", "krun"),
        ("io.katacontainers.config.hypervisor.path", "/bin/touch"),
        ("io.containerd.runc.v2.group", "x"),
        (
            "container.seccomp.security.alpha.kubernetes.io/annotated",
            "unconfined",
        ),
        (
            "container.apparmor.security.beta.kubernetes.io/annotated",
            "unconfined",
        ),
        ("cdi.k8s.io/x", "vendor.com/device=all"),
        ("module.wasm.image/variant", "compat"),
    ]
    .iter()
    .map(|(name, value)| (name.to_string(), value.replace('@', &canary.path("touched"))))
    .collect();
    let launch = |name: &str, annotations: &HashMap<String, String>| {
        let mut config = pod(name);
        config.annotations.clone_from(annotations);
        let pod = node.pod(config);
        let mut config = container(name, BUSYBOX, &["sleep", "1000"]);
        config.annotations.clone_from(annotations);
        security(&mut config).seccomp = Some(cri::SecurityProfile::default());
        (node.launch(&pod, config), pod)
    };
    let (plain, _) = launch("plain", &HashMap::new());
    let (annotated, _pod): (String, Pod) = launch("annotated", &annotations);
    let wanted = limits(&node, &plain);
    assert!(wanted.len() > 5, "{wanted:?}");
    assert_eq!(limits(&node, &annotated), wanted);
    for script in [
        "test -e /dev/kmsg",
        "touch /sys/fs/cgroup/x",
        "df -k /dev/shm | grep -q 1048576",
    ] {
        assert_ne!(node.exec(&annotated, &["sh", "-c", script]).code, 0, "{script}");
    }
    assert_eq!(status(&node, &annotated, "1", "Seccomp"), "2");
    assert_eq!(node.status(&annotated).annotations, annotations);
    canary.assert_unchanged();
}

/// Logs are files below the pod's own folder.
#[test]
fn cve_2025_0750_log_paths() {
    let node = Node::start();
    let canary = Canary::of(&node);
    for directory in ["relative", "/var/../etc", "..", "/a\0b"] {
        let mut config = pod("logs");
        config.log_directory = directory.into();
        let error = node.try_pod(config).expect_err(directory);
        assert_eq!(error.code(), Code::InvalidArgument, "{directory:?}: {error:?}");
    }
    let pod = node.pod(pod("logs"));
    node.pull(BUSYBOX);
    let folder = std::path::PathBuf::from(&pod.config.log_directory);
    symlink(canary.path(""), folder.join("away")).unwrap();
    symlink(canary.path("file"), folder.join("file.log")).unwrap();
    symlink("../../../../../../../etc/passwd", folder.join("passwd.log")).unwrap();
    std::fs::create_dir(folder.join("folder.log")).unwrap();
    criquet_tests::run("mkfifo", &[folder.join("fifo.log").to_str().unwrap()]).ok();
    let paths = [
        "../escape.log",
        "/etc/escape.log",
        "a/../../escape.log",
        "away/new.log",
        "away/file",
        "away/private/x.log",
        "file.log",
        "passwd.log",
        "folder.log",
        "fifo.log",
        "folder.log/..",
        "a\0b",
    ];
    for (number, path) in paths.iter().enumerate() {
        let mut config = container(&format!("c{number}"), BUSYBOX, &["echo", "evil"]);
        config.log_path = path.to_string();
        assert!(try_launch(&node, &pod, config).is_err(), "{path:?}");
        canary.assert_unchanged();
    }
    // And while it runs: the kubelet has rotated, and a link is where the file was.
    let mut config = container(
        "rotated",
        BUSYBOX,
        &["sh", "-c", "while :; do echo line; sleep 0.05; done"],
    );
    config.log_path = "deep/rotated.log".into();
    let id = try_launch(&node, &pod, config).unwrap();
    let log = folder.join("deep/rotated.log");
    std::fs::remove_file(&log).unwrap();
    symlink(canary.path("file"), &log).unwrap();
    let error = node.cri().reopen_container_log(cri::ReopenContainerLogRequest {
        container_id: id.clone(),
    });
    assert!(error.is_err());
    std::thread::sleep(std::time::Duration::from_millis(200));
    canary.assert_unchanged();
    std::fs::remove_file(&log).unwrap();
    node.cri()
        .reopen_container_log(cri::ReopenContainerLogRequest { container_id: id })
        .unwrap();
    assert!(log.is_file());
}

/// crun 1.28: ids are keys, not parts of paths, and nothing but a whole id or its unique beginning names an object.
#[test]
fn ids_are_no_paths() {
    let node = Node::start();
    let canary = Canary::of(&node);
    let pod = node.pod(pod("ids"));
    let id = sleeper(&node, &pod, "ids", |_| {});
    let up = format!("../../../../../..{}", canary.path(""));
    let long = "a".repeat(4096);
    let inside = format!("{id}/../{id}");
    for bad in [
        "", ".", "..", "/", "../..", "*", " ", "\n", "a\0b", "%s%n", &long, &up, &inside, "\u{202e}",
    ] {
        let cri = node.cri();
        let (container_id, pod_sandbox_id) = (bad.to_string(), bad.to_string());
        // Removal of what is not there succeeds, and removes nothing.
        let _ = cri.stop_container(cri::StopContainerRequest {
            container_id: container_id.clone(),
            timeout: 0,
        });
        let _ = cri.remove_container(cri::RemoveContainerRequest {
            container_id: container_id.clone(),
        });
        let _ = cri.stop_pod_sandbox(cri::StopPodSandboxRequest {
            pod_sandbox_id: pod_sandbox_id.clone(),
        });
        let _ = cri.remove_pod_sandbox(cri::RemovePodSandboxRequest {
            pod_sandbox_id: pod_sandbox_id.clone(),
        });
        assert!(
            cri.container_status(cri::ContainerStatusRequest {
                container_id: container_id.clone(),
                verbose: true
            })
            .is_err(),
            "{bad:?}"
        );
        assert!(
            cri.pod_sandbox_status(cri::PodSandboxStatusRequest {
                pod_sandbox_id: pod_sandbox_id.clone(),
                verbose: true
            })
            .is_err(),
            "{bad:?}"
        );
        assert!(
            cri.start_container(cri::StartContainerRequest {
                container_id: container_id.clone()
            })
            .is_err()
        );
        assert!(
            cri.reopen_container_log(cri::ReopenContainerLogRequest {
                container_id: container_id.clone()
            })
            .is_err()
        );
        assert!(
            cri.container_stats(cri::ContainerStatsRequest {
                container_id: container_id.clone()
            })
            .is_err()
        );
        let exec = cri::ExecSyncRequest {
            container_id: container_id.clone(),
            cmd: vec!["true".into()],
            timeout: 5,
        };
        assert!(cri.exec_sync(exec).is_err());
        let attach = cri::AttachRequest {
            container_id,
            stdout: true,
            ..Default::default()
        };
        assert!(cri.attach(attach).is_err());
        let forward = cri::PortForwardRequest {
            pod_sandbox_id: pod_sandbox_id.clone(),
            port: vec![80],
        };
        assert!(cri.port_forward(forward).is_err());
        let elsewhere = Pod {
            id: pod_sandbox_id,
            config: pod.config.clone(),
        };
        assert!(
            node.try_create(&elsewhere, container("x", BUSYBOX, &["true"]))
                .is_err()
        );
        let image = cri::RemoveImageRequest {
            image: Some(criquet_tests::image(bad)),
        };
        let _ = cri.remove_image(image);
    }
    assert_eq!(node.status(&id).state(), cri::ContainerState::ContainerRunning);
    assert_eq!(node.exec(&id, &["true"]).code, 0);
    assert_eq!(
        node.cri().list_images(Default::default()).unwrap().images.len(),
        1
    );
    canary.assert_unchanged();
    // Names become parts of CNI arguments.
    for name in ["a;IgnoreUnknown=0", "a=b", "../x", "a/b", "a b", "a\nb", ""] {
        let mut config = criquet_tests::pod("name");
        config.metadata.as_mut().unwrap().name = name.into();
        assert!(node.try_pod(config).is_err(), "{name:?}");
    }
}

/// What a container writes to the files that the runtime made for it has an end.
#[test]
fn cve_2020_8557_files_of_the_pod_are_bounded() {
    let mut node = Node::start();
    let pod = node.pod(pod("bounded"));
    let id = sleeper(&node, &pod, "bounded", |_| {});
    for file in [
        "/etc/hosts",
        "/etc/resolv.conf",
        "/etc/hostname",
        "/dev/shm/file",
        "/dev/file",
    ] {
        let script = format!("dd if=/dev/zero of={file} bs=1M count=300 2>/dev/null; stat -c %s {file}");
        let size = node.exec(&id, &["sh", "-c", &script]).stdout;
        let size: u64 = size.trim().parse().unwrap();
        assert!(size <= 64 << 20, "{file}: {size} bytes");
    }
    // Full files stand in nobody's way: not of the pod's next container, nor of its end.
    let next = sleeper(&node, &pod, "next", |_| {});
    assert_eq!(node.exec(&next, &["true"]).code, 0);
    node.crash();
    assert_eq!(node.exec(&next, &["true"]).code, 0);
    node.remove_pod(&pod.id);
    node.assert_clean();
}
