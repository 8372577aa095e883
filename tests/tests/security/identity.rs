//! Who a container's processes are, and what they are told: users, groups, environment.

use std::collections::HashMap;

use criquet_tests::{BUSYBOX, Node, PATIENCE_S, Settings, container, cri, image, pod};
use serde_json::json;

use crate::canary::Canary;
use crate::hostile::{Image, Layer};
use crate::probe::{security, sleeper, status, try_launch};

fn image_user(node: &Node, name: &str) -> (Option<i64>, String) {
    let request = cri::ImageStatusRequest {
        image: Some(image(name)),
        ..Default::default()
    };
    let found = node
        .cri()
        .image_status(request)
        .unwrap()
        .image
        .expect("the image");
    (found.uid.map(|uid| uid.value), found.username)
}

/// And CVE-2026-46680: a number that is out of range is an error, and never a name that the image gives to root.
#[test]
fn cve_2024_40635_users_that_are_no_ids() {
    let node = Node::start();
    let pod = node.pod(pod("users"));
    let cases: [(&str, Option<u32>); 16] = [
        ("2147483648", Some(2_147_483_648)),
        ("4294967294", Some(4_294_967_294)),
        ("00", Some(0)),
        ("0001000", Some(1000)),
        ("4294967295", None),
        ("4294967296", None),
        ("18446744073709551616", None),
        ("18446744073709551617:0", None),
        ("-1", None),
        ("+0", None),
        ("0x0", None),
        ("1000 ", None),
        ("1e3", None),
        ("\u{661}\u{660}", None),
        ("1000:4294967296", None),
        ("1000:-1", None),
    ];
    let passwd: String = cases
        .iter()
        .map(|(name, _)| format!("{name}:x:0:0::/:/bin/sh\n"))
        .collect();
    let group: String = cases
        .iter()
        .map(|(name, _)| format!("{}:x:0:\n", name.trim_start_matches("1000:")))
        .collect();
    let layer = Layer::new().file("etc/passwd", &passwd).file("etc/group", &group);
    for (number, (user, wanted)) in cases.iter().enumerate() {
        let name = format!("hostile.test/user:{number}");
        Image::of(&layer, json!({"User": user})).load(&node, &name);
        let (uid, _) = image_user(&node, &name);
        let created = try_launch(
            &node,
            &pod,
            container(&format!("c{number}"), &name, &["sleep", "1000"]),
        );
        match (created, wanted) {
            (Ok(id), Some(wanted)) => {
                let fields = status(&node, &id, "1", "Uid");
                assert!(
                    fields.split_whitespace().all(|field| field == wanted.to_string()),
                    "{user:?}: {fields}"
                );
                assert_eq!(uid, Some(i64::from(*wanted)), "{user:?}");
                node.stop_container(&id, 0);
            }
            (Err(error), None) => {
                assert_eq!(error.code(), tonic::Code::InvalidArgument, "{user:?}: {error:?}");
                // kubelet looks here for runAsNonRoot.
                assert_ne!(uid, Some(0), "{user:?}");
            }
            (other, _) => panic!("{user:?}: {other:?}"),
        }
    }
    for value in [-1, 4_294_967_295, 4_294_967_296, i64::MIN, i64::MAX] {
        let mut config = container("request", BUSYBOX, &["true"]);
        security(&mut config).run_as_user = Some(cri::Int64Value { value });
        assert!(node.try_create(&pod, config).is_err(), "{value}");
    }
}

/// And CVE-2022-36109, CVE-2022-2995; CVE-2026-30892 for exec: one identity, for the first process and all others.
#[test]
fn cve_2023_25173_groups_are_those_asked_for() {
    use cri::SupplementalGroupsPolicy::{Merge, Strict};
    let node = Node::start();
    let pod = node.pod(pod("groups"));
    let layer = Layer::new()
        .file(
            "etc/passwd",
            "root:x:0:0::/root:\napp:x:1000:1001::/home:\nother:x:1000:0::/:\n",
        )
        .file(
            "etc/group",
            "root:x:0:app\nextra:x:50000:app\nlater:x:50001:other\n",
        );
    Image::of(&layer, json!({"User": "app"})).load(&node, "hostile.test/groups:1");
    for (name, policy, supplemental, wanted) in [
        ("merge", Merge, vec![7], "0 7 1001 50000"),
        ("strict", Strict, vec![7], "7 1001"),
        ("none", Strict, vec![], "1001"),
    ] {
        let mut config = container(name, "hostile.test/groups:1", &["sleep", "1000"]);
        let asked = security(&mut config);
        asked.supplemental_groups = supplemental;
        asked.set_supplemental_groups_policy(policy);
        let id = try_launch(&node, &pod, config).unwrap();
        for pid in ["1", "self"] {
            assert_eq!(status(&node, &id, pid, "Groups"), wanted, "{name} {pid}");
            assert_eq!(
                status(&node, &id, pid, "Uid"),
                "1000\t1000\t1000\t1000",
                "{name} {pid}"
            );
            assert_eq!(
                status(&node, &id, pid, "Gid"),
                "1001\t1001\t1001\t1001",
                "{name} {pid}"
            );
        }
    }
    let id = sleeper(&node, &pod, "asked", |security| {
        security.run_as_user = Some(cri::Int64Value { value: 1001 });
        security.run_as_group = Some(cri::Int64Value { value: 1002 });
        security.supplemental_groups = vec![1003];
    });
    assert_eq!(
        node.exec(&id, &["sh", "-c", "id -u; id -G"]).stdout,
        "1001\n1002 1003\n"
    );
    let told = node.status(&id).user.unwrap().linux.unwrap();
    assert_eq!((told.uid, told.gid), (1001, 1002));
    assert!(told.supplemental_groups.contains(&1003));
    let name = sleeper(&node, &pod, "name", |security| {
        security.run_as_username = "www-data".into()
    });
    assert_eq!(node.exec(&name, &["id", "-u"]).stdout, "33\n");
}

fn resident(node: &Node) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// And CVE-2026-47262, CVE-2024-9676: passwd and group are read in bounds, and only when they are files.
#[test]
fn cve_2025_4437_passwd_that_is_no_file() {
    let node = Node::start();
    let canary = Canary::of(&node);
    let pod = node.pod(pod("passwd"));
    std::fs::write(canary.folder.join("passwd"), "canary\n").unwrap();
    let zeros = vec![0u8; 20 << 20];
    let hosts = format!("../../../../../../../..{}", canary.path("passwd"));
    let cases = [
        ("fifo", Layer::new().fifo("etc/passwd")),
        ("device", Layer::new().device("etc/passwd")),
        ("folder", Layer::new().without("etc/passwd").folder("etc/passwd")),
        ("large", Layer::new().file("etc/passwd", &zeros)),
        ("group", Layer::new().file("etc/group", &zeros)),
        ("loop", Layer::new().link("etc/passwd", "passwd")),
        (
            "fifo-far",
            Layer::new().link("etc/passwd", "/queue").fifo("queue"),
        ),
        ("missing", Layer::new().link("etc/passwd", "/proc/kmsg")),
        ("host", Layer::new().link("etc/passwd", &hosts)),
    ];
    for (name, layer) in &cases {
        Image::of(layer, json!({"User": "canary"})).load(&node, &format!("hostile.test/passwd:{name}"));
    }
    let before = resident(&node);
    for (name, _) in &cases {
        let config = container(name, &format!("hostile.test/passwd:{name}"), &["sleep", "1000"]);
        let error = node.try_create(&pod, config).expect_err(name);
        assert_eq!(error.code(), tonic::Code::InvalidArgument, "{name}: {error:?}");
    }
    let grown = resident(&node).saturating_sub(before);
    assert!(grown < 64 << 10, "{grown} KiB more");
    // Absolute links inside the image are what NixOS has.
    let layer = Layer::new()
        .link("etc/passwd", "/nix/passwd")
        .file("nix/passwd", "nix:x:77:78::/:\n");
    Image::of(&layer, json!({"User": "nix"})).load(&node, "hostile.test/passwd:nix");
    let id = try_launch(
        &node,
        &pod,
        container("nix", "hostile.test/passwd:nix", &["sleep", "1000"]),
    )
    .unwrap();
    assert_eq!(node.exec(&id, &["id", "-u"]).stdout, "77\n");
    canary.assert_unchanged();
}

/// Containers of one image, made at once, have each their own environment.
#[test]
fn cve_2021_21334_environments_are_not_shared() {
    let node = Node::start();
    let pod = node.pod(pod("environment"));
    node.pull(BUSYBOX);
    let ids: Vec<(usize, String)> = std::thread::scope(|scope| {
        let made: Vec<_> = (0..24)
            .map(|number| {
                let (node, pod) = (&node, &pod);
                scope.spawn(move || {
                    let mut config = container(&format!("c{number}"), BUSYBOX, &["env"]);
                    config.envs = vec![cri::KeyValue {
                        key: format!("OWN{number}"),
                        value: number.to_string().into_bytes(),
                    }];
                    config.annotations = HashMap::from([("own".to_string(), number.to_string())]);
                    (number, try_launch(node, pod, config).expect("a container"))
                })
            })
            .collect();
        made.into_iter()
            .map(|thread| thread.join().expect("a thread"))
            .collect()
    });
    for (number, id) in ids {
        let ended = node.wait_exit(&id, PATIENCE_S);
        assert_eq!(ended.annotations.get("own"), Some(&number.to_string()));
        let told = node.messages(&pod, &format!("c{number}.log"));
        let own: Vec<&str> = told.lines().filter(|line| line.starts_with("OWN")).collect();
        assert_eq!(own, [format!("OWN{number}={number}")]);
    }
}

/// An image's malformed entries take nothing from the daemon's environment.
#[test]
fn cve_2026_57231_the_daemons_environment_stays_its_own() {
    let secret = "canary-1f6c2a";
    let node = Node::with(Settings {
        environment: vec![
            ("SECRET".into(), secret.into()),
            ("LD_PRELOAD_X".into(), secret.into()),
        ],
        ..Settings::default()
    });
    let pod = node.pod(pod("env"));
    let env = json!({"Env": ["SECRET", "*", "", "=x", "LD_PRELOAD_*", "SECRET*", "PATH=/bin", "A=b=c"]});
    Image::of(&Layer::new(), env).load(&node, "hostile.test/env:1");
    let id = try_launch(
        &node,
        &pod,
        container("env", "hostile.test/env:1", &["sleep", "1000"]),
    )
    .unwrap();
    for command in [&["env"][..], &["cat", "/proc/1/environ"]] {
        let out = node.exec(&id, command).ok();
        assert!(!out.contains(secret) && out.contains("A=b=c"), "{out}");
    }
    for process in node
        .place
        .processes()
        .iter()
        .filter(|process| u32::try_from(process.pid) != Ok(node.pid()))
    {
        let environ = std::fs::read_to_string(format!("/proc/{}/environ", process.pid)).unwrap_or_default();
        // The registry is the test's own, and inherits the test's.
        assert!(!environ.contains(secret), "{process:?}");
    }
    assert!(!node.log().contains(secret));
}

/// And CVE-2026-15809: values do not become lines of files.
#[test]
fn cve_2022_4318_values_do_not_become_lines() {
    let node = Node::start();
    let pod = node.pod(pod("lines"));
    let mut config = container("lines", BUSYBOX, &["sleep", "1000"]);
    let evil = "/root\nevil:x:0:0::/:/bin/sh\r\nmore:x:0:0";
    config.envs = ["HOME", "HOSTNAME", "USER"]
        .iter()
        .map(|key| cri::KeyValue {
            key: key.to_string(),
            value: evil.as_bytes().to_vec(),
        })
        .collect();
    config.working_dir = "/a\nevil:x:0:0::/:".into();
    let id = node.launch(&pod, config);
    for file in ["/etc/passwd", "/etc/group", "/etc/hosts", "/etc/hostname"] {
        let text = node.exec(&id, &["cat", file]).ok();
        assert!(!text.contains("evil") && !text.contains("more"), "{file}: {text}");
    }
    for (field, value) in [
        ("hostname", "a\nb"),
        ("hostname", "a b"),
        ("dns", "1.1.1.1\nnameserver 2.2.2.2"),
    ] {
        let mut config = criquet_tests::pod("bad");
        match field {
            "hostname" => config.hostname = value.into(),
            _ => {
                config.dns_config = Some(cri::DnsConfig {
                    servers: vec![value.into()],
                    ..Default::default()
                })
            }
        }
        assert!(node.try_pod(config).is_err(), "{field} {value:?}");
    }
}
