//! UpdateContainerResources and UpdatePodSandboxResources.

use criquet_tests::{BUSYBOX, Node, container, cri, pod};
use tonic::Code;

use crate::cgroup;

type Resources = cri::LinuxContainerResources;

const MIB: i64 = 1 << 20;

/// What every container here starts with.
fn initial() -> Resources {
    Resources {
        cpu_period: 100_000,
        cpu_quota: 50_000,
        cpu_shares: 512,
        memory_limit_in_bytes: 64 * MIB,
        memory_swap_limit_in_bytes: 64 * MIB,
        oom_score_adj: 500,
        ..Resources::default()
    }
}

fn config(name: &str) -> cri::ContainerConfig {
    let mut config = container(name, BUSYBOX, &["sleep", "1000"]);
    config.linux.as_mut().unwrap().resources = Some(initial());
    config
}

fn update(node: &Node, id: &str, linux: Option<Resources>) -> Result<(), tonic::Status> {
    let request = cri::UpdateContainerResourcesRequest {
        container_id: id.into(),
        linux,
        ..Default::default()
    };
    node.cri().update_container_resources(request).map(|_| ())
}

fn told(node: &Node, id: &str) -> Resources {
    node.status(id).resources.unwrap().linux.unwrap()
}

/// The cgroup files that hold what a request can set: name and text, of those that the machine has.
fn files(node: &Node, id: &str) -> Vec<(&'static str, String)> {
    let names = [
        "cpu.shares",
        "cpu.cfs_period_us",
        "cpu.cfs_quota_us",
        "cpu.weight",
        "cpu.max",
        "cpuset.cpus",
        "cpuset.mems",
        "memory.limit_in_bytes",
        "memory.memsw.limit_in_bytes",
        "memory.max",
        "memory.swap.max",
        "hugetlb.2MB.limit_in_bytes",
        "hugetlb.2MB.max",
    ];
    let there = names
        .into_iter()
        .filter(|name| cgroup::find(node, id, &[name]).is_some());
    there
        .map(|name| (name, cgroup::text(node, id, &[name])))
        .collect()
}

#[track_caller]
fn holds(node: &Node, id: &str, wanted: &[(&str, &str)]) {
    let found = files(node, id);
    let mut seen = 0;
    for (name, value) in wanted {
        if let Some((_, text)) = found.iter().find(|(file, _)| file == name) {
            assert_eq!(text, value, "{name}");
            seen += 1;
        }
    }
    assert!(seen > 0, "none of {wanted:?} in {found:?}");
}

#[test]
fn every_field_reaches_the_kernel_and_the_status() {
    let node = Node::start();
    let sandbox = node.pod(pod("fields"));
    let id = node.launch(&sandbox, config("fields"));
    holds(&node, &id, &[("cpu.shares", "512"), ("cpu.weight", "59")]);
    assert_eq!(told(&node, &id), initial());

    let set = |change: Resources, wanted: &[(&str, &str)]| {
        let before = told(&node, &id);
        update(&node, &id, Some(change.clone())).unwrap();
        holds(&node, &id, wanted);
        (before, told(&node, &id))
    };
    let (before, after) = set(
        Resources {
            cpu_shares: 2048,
            ..Default::default()
        },
        &[("cpu.shares", "2048"), ("cpu.weight", "174")],
    );
    assert_eq!(
        after,
        Resources {
            cpu_shares: 2048,
            ..before
        }
    );
    let (before, after) = set(
        Resources {
            cpu_quota: 20_000,
            ..Default::default()
        },
        &[("cpu.cfs_quota_us", "20000"), ("cpu.max", "20000 100000")],
    );
    assert_eq!(
        after,
        Resources {
            cpu_quota: 20_000,
            ..before
        }
    );
    let (before, after) = set(
        Resources {
            cpu_period: 50_000,
            ..Default::default()
        },
        &[("cpu.cfs_period_us", "50000"), ("cpu.max", "20000 50000")],
    );
    assert_eq!(
        after,
        Resources {
            cpu_period: 50_000,
            ..before
        }
    );
    let (_, after) = set(
        Resources {
            cpu_quota: -1,
            ..Default::default()
        },
        &[("cpu.cfs_quota_us", "-1"), ("cpu.max", "max 50000")],
    );
    assert_eq!(after.cpu_quota, -1);
    let (before, after) = set(
        Resources {
            cpuset_cpus: "0".into(),
            ..Default::default()
        },
        &[("cpuset.cpus", "0")],
    );
    assert_eq!(
        after,
        Resources {
            cpuset_cpus: "0".into(),
            ..before
        }
    );
    let (_, after) = set(
        Resources {
            cpuset_mems: "0".into(),
            ..Default::default()
        },
        &[("cpuset.mems", "0")],
    );
    assert_eq!(
        (after.cpuset_cpus.as_str(), after.cpuset_mems.as_str()),
        ("0", "0")
    );
    let huge = vec![cri::HugepageLimit {
        page_size: "2MB".into(),
        limit: 4 << 20,
    }];
    let (_, after) = set(
        Resources {
            hugepage_limits: huge.clone(),
            ..Default::default()
        },
        &[
            ("hugetlb.2MB.limit_in_bytes", "4194304"),
            ("hugetlb.2MB.max", "4194304"),
        ],
    );
    assert_eq!(after.hugepage_limits, huge);
    oom_score(&node, &id);
    memory(&node, &id);
}

fn oom_score(node: &Node, id: &str) {
    // Raising it needs no privilege, lowering does.
    update(
        node,
        id,
        Some(Resources {
            oom_score_adj: 700,
            ..Default::default()
        }),
    )
    .unwrap();
    assert_eq!(
        node.exec(id, &["cat", "/proc/1/oom_score_adj"]).ok().trim(),
        "700"
    );
    assert_eq!(told(node, id).oom_score_adj, 700);
}

/// Up and down, the sum with swap before or after the limit as the kernel wants it.
fn memory(node: &Node, id: &str) {
    let set = |limit: i64, sum: i64| {
        let change = Resources {
            memory_limit_in_bytes: limit * MIB,
            memory_swap_limit_in_bytes: sum * MIB,
            ..Default::default()
        };
        update(node, id, Some(change)).unwrap();
        let told = told(node, id);
        assert_eq!(
            (told.memory_limit_in_bytes, told.memory_swap_limit_in_bytes),
            (limit * MIB, sum * MIB)
        );
        let bytes = |mebibytes: i64| (mebibytes * MIB).to_string();
        holds(
            node,
            id,
            &[
                ("memory.limit_in_bytes", &bytes(limit)),
                ("memory.max", &bytes(limit)),
            ],
        );
        let swap = bytes(sum - limit);
        holds(
            node,
            id,
            &[
                ("memory.memsw.limit_in_bytes", &bytes(sum)),
                ("memory.swap.max", &swap),
            ],
        );
    };
    set(128, 192);
    set(32, 40);
    set(256, 256);
    let unlimited = Resources {
        memory_limit_in_bytes: -1,
        ..Default::default()
    };
    update(node, id, Some(unlimited)).unwrap();
    holds(
        node,
        id,
        &[
            ("memory.limit_in_bytes", "9223372036854771712"),
            ("memory.max", "max"),
        ],
    );
    set(48, 48);
}

/// Changes that are refused, each with all that is good, too.
fn refusals(good: &Resources) -> Vec<(&'static str, Resources)> {
    type Spoil = fn(&mut Resources);
    let unified = |key: &str| [(key.to_owned(), "1".to_owned())].into();
    let all: [(&'static str, Spoil); 8] = [
        ("a processor that is not there", |r| r.cpuset_cpus = "4000".into()),
        ("no list", |r| r.cpuset_mems = "a".into()),
        ("a period out of range", |r| r.cpu_period = 10),
        ("a quota out of range", |r| r.cpu_quota = 10),
        ("swap below memory", |r| r.memory_swap_limit_in_bytes = MIB),
        ("negative shares", |r| r.cpu_shares = -1),
        ("no OOM score", |r| r.oom_score_adj = 2000),
        ("no page size", |r| {
            let page_size = "3XB".into();
            r.hugepage_limits = vec![cri::HugepageLimit { page_size, limit: 1 }];
        }),
    ];
    let mut bad = Vec::new();
    for (what, spoil) in all {
        let mut change = good.clone();
        spoil(&mut change);
        bad.push((what, change));
    }
    let mut keys = vec!["../memory.max", "cgroup.procs"];
    if !cgroup::v2() {
        keys.push("memory.high");
    }
    for key in keys {
        let unified = unified(key);
        bad.push((
            key,
            Resources {
                unified,
                ..good.clone()
            },
        ));
    }
    bad
}

#[test]
fn an_update_that_is_refused_changes_nothing() {
    let node = Node::start();
    let sandbox = node.pod(pod("refused"));
    let id = node.launch(&sandbox, config("refused"));
    let before = (files(&node, &id), told(&node, &id));
    let good = Resources {
        cpu_shares: 1024,
        cpu_quota: 10_000,
        memory_limit_in_bytes: 128 * MIB,
        memory_swap_limit_in_bytes: 128 * MIB,
        oom_score_adj: 900,
        ..Default::default()
    };
    let bad = refusals(&good);
    for (what, change) in bad {
        let error = update(&node, &id, Some(change)).unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{what}: {error:?}");
        assert_eq!((files(&node, &id), told(&node, &id)), before, "{what}: {error:?}");
        assert_eq!(
            node.exec(&id, &["cat", "/proc/1/oom_score_adj"]).ok().trim(),
            "500",
            "{what}"
        );
    }
    update(&node, &id, Some(good)).unwrap();
    assert_eq!(told(&node, &id).cpu_shares, 1024);
}

#[test]
fn what_cannot_be_updated_says_so() {
    let node = Node::start();
    let sandbox = node.pod(pod("cannot"));
    let code = |id: &str, linux: Option<Resources>| update(&node, id, linux).unwrap_err().code();
    assert_eq!(code("none", Some(initial())), Code::NotFound);
    let ended = node.launch(&sandbox, container("ended", BUSYBOX, &["true"]));
    node.wait_exit(&ended, 10);
    assert_eq!(code(&ended, Some(initial())), Code::FailedPrecondition);
    let id = node.launch(&sandbox, config("runs"));
    assert_eq!(code(&id, None), Code::InvalidArgument);
    let before = files(&node, &id);
    update(&node, &id, Some(Resources::default())).unwrap();
    assert_eq!(
        (files(&node, &id), told(&node, &id)),
        (before, initial()),
        "nothing asked for, nothing changed"
    );
}

#[test]
fn an_update_before_the_start_and_a_restart_of_the_daemon_is_kept() {
    let mut node = Node::start();
    let sandbox = node.pod(pod("kept"));
    node.pull(BUSYBOX);
    let id = node.try_create(&sandbox, config("kept")).unwrap();
    update(
        &node,
        &id,
        Some(Resources {
            cpu_shares: 100,
            memory_limit_in_bytes: 32 * MIB,
            ..Default::default()
        }),
    )
    .unwrap();
    node.start_container(&id);
    let limits = [("memory.limit_in_bytes", "33554432"), ("memory.max", "33554432")];
    holds(&node, &id, &limits);
    let before = told(&node, &id);
    assert_eq!(
        (before.cpu_shares, before.memory_limit_in_bytes, before.cpu_quota),
        (100, 32 * MIB, 50_000)
    );
    node.crash();
    assert_eq!(told(&node, &id), before);
    update(
        &node,
        &id,
        Some(Resources {
            cpu_shares: 200,
            ..Default::default()
        }),
    )
    .unwrap();
    holds(&node, &id, &limits);
    assert_eq!(
        told(&node, &id),
        Resources {
            cpu_shares: 200,
            ..before
        }
    );
}

#[test]
fn a_pods_resources_are_kept() {
    let mut node = Node::start();
    let sandbox = node.pod(pod("whole"));
    let request =
        |resources: Option<Resources>, overhead: Option<Resources>| cri::UpdatePodSandboxResourcesRequest {
            pod_sandbox_id: sandbox.id.clone(),
            resources,
            overhead,
        };
    let overhead = Resources {
        memory_limit_in_bytes: MIB,
        ..Default::default()
    };
    node.cri()
        .update_pod_sandbox_resources(request(Some(initial()), Some(overhead)))
        .unwrap();
    let kept = |node: &Node| {
        let request = cri::PodSandboxStatusRequest {
            pod_sandbox_id: sandbox.id.clone(),
            verbose: true,
        };
        let info = node.cri().pod_sandbox_status(request).unwrap().info;
        let info: serde_json::Value = serde_json::from_str(&info["info"]).unwrap();
        let config = &info["config"];
        let memory = |what: &str| config[what]["memory_limit"].as_i64();
        (memory("resources"), memory("overhead"))
    };
    assert_eq!(kept(&node), (Some(64 * MIB), Some(MIB)));
    let change = Resources {
        memory_limit_in_bytes: 8 * MIB,
        ..Default::default()
    };
    node.cri()
        .update_pod_sandbox_resources(request(Some(change), None))
        .unwrap();
    assert_eq!(kept(&node), (Some(8 * MIB), Some(MIB)));
    let bad = Resources {
        cpu_period: 1,
        ..Default::default()
    };
    let error = node
        .cri()
        .update_pod_sandbox_resources(request(Some(bad), None))
        .unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    node.crash();
    assert_eq!(kept(&node), (Some(8 * MIB), Some(MIB)));
    let none = cri::UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: "none".into(),
        ..Default::default()
    };
    assert_eq!(
        node.cri().update_pod_sandbox_resources(none).unwrap_err().code(),
        Code::NotFound
    );
}
