//! ContainerStats, PodSandboxStats and their lists, against the tests' own reading of the cgroups.

use std::time::Duration;

use criquet_tests::{BUSYBOX, Node, Pod, container, cri, eventually, host, pod};
use tonic::Code;

use crate::cgroup;

/// Page counters are kept per processor: what two reads may differ by.
const SLACK: u64 = 1 << 20;

fn stats(node: &Node, id: &str) -> Result<cri::ContainerStats, Code> {
    let request = cri::ContainerStatsRequest {
        container_id: id.into(),
    };
    node.cri()
        .container_stats(request)
        .map(|answer| answer.stats.unwrap())
        .map_err(|error| error.code())
}

fn pod_stats(node: &Node, id: &str) -> Result<cri::PodSandboxStats, Code> {
    let request = cri::PodSandboxStatsRequest {
        pod_sandbox_id: id.into(),
    };
    node.cri()
        .pod_sandbox_stats(request)
        .map(|answer| answer.stats.unwrap())
        .map_err(|error| error.code())
}

fn known(value: &Option<cri::UInt64Value>) -> u64 {
    value.as_ref().expect("a value").value
}

/// Waits until the container has said that it does nothing more but to become a sleep, and that sleeps.
fn rests(node: &Node, pod: &Pod, id: &str, file: &str) {
    eventually("the container is at rest", 60, || {
        node.messages(pod, file).contains("rests").then_some(())
    });
    let request = cri::ContainerStatusRequest {
        container_id: id.into(),
        verbose: true,
    };
    let info = node.cri().container_status(request).unwrap().info;
    let info: serde_json::Value = serde_json::from_str(&info["info"]).unwrap();
    let process = std::path::Path::new("/proc").join(info["pid"].to_string());
    eventually("the container sleeps", 60, || {
        let command = std::fs::read(process.join("cmdline")).unwrap();
        let status = std::fs::read_to_string(process.join("status")).unwrap();
        (command.starts_with(b"sleep\0") && status.contains("\nState:\tS")).then_some(())
    });
}

#[test]
fn a_containers_stats_are_what_its_cgroup_says() {
    let node = Node::start();
    let sandbox = node.pod(pod("stats"));
    let command = "head -c 5000000 /dev/zero >/data; i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; \
        echo rests; exec sleep 1000";
    let mut config = container("stats", BUSYBOX, &["sh", "-c", command]);
    config.labels.insert("color".into(), "red".into());
    config.annotations.insert("note".into(), "kept".into());
    let resources = cri::LinuxContainerResources {
        memory_limit_in_bytes: 64 << 20,
        ..Default::default()
    };
    config.linux.as_mut().unwrap().resources = Some(resources);
    let id = node.launch(&sandbox, config);
    rests(&node, &sandbox, &id, "stats.log");

    let begin = now_ns();
    let waited_before = waited_us(&node, &id);
    let low = cgroup::cpu_ns(&node, &id);
    let told = stats(&node, &id).unwrap();
    let high = cgroup::cpu_ns(&node, &id);
    let attributes = told.attributes.as_ref().unwrap();
    assert_eq!(
        (
            attributes.id.as_str(),
            attributes.metadata.as_ref().unwrap().name.as_str()
        ),
        (&*id, "stats")
    );
    assert_eq!(
        (
            attributes.labels["color"].as_str(),
            attributes.annotations["note"].as_str()
        ),
        ("red", "kept")
    );
    let cpu = told.cpu.as_ref().unwrap();
    assert!(
        (low..=high).contains(&known(&cpu.usage_core_nano_seconds)),
        "{low} {cpu:?} {high}"
    );
    assert!(known(&cpu.usage_core_nano_seconds) > 0);
    memory(&node, &id, told.memory.as_ref().unwrap());
    let layer = told.writable_layer.as_ref().unwrap();
    assert!(
        (5_000_000..6_000_000).contains(&known(&layer.used_bytes)),
        "{layer:?}"
    );
    assert!((1..10).contains(&known(&layer.inodes_used)), "{layer:?}");
    assert!(std::path::Path::new(&layer.fs_id.as_ref().unwrap().mountpoint).starts_with(&node.place.folder));
    for at in [
        cpu.timestamp,
        told.memory.as_ref().unwrap().timestamp,
        layer.timestamp,
    ] {
        assert!((begin..=now_ns()).contains(&at), "{at}");
    }
    let swap = told.swap.as_ref().unwrap();
    assert_eq!(
        (known(&swap.swap_usage_bytes), swap.swap_available_bytes.is_some()),
        (0, true)
    );
    let memory_psi = told.memory.as_ref().unwrap().psi.is_some();
    let io_psi = told.io.as_ref().is_some_and(|io| io.psi.is_some());
    if let Some(waited) = waited_us(&node, &id) {
        let told = cpu.psi.as_ref().unwrap().some.as_ref().unwrap().total;
        assert!(
            (waited_before.unwrap() * 1000..=waited * 1000).contains(&told),
            "nanoseconds of a kernel that counts microseconds: {waited_before:?} {told} {waited}"
        );
        assert!(memory_psi && io_psi);
    }
}

/// Microseconds for which some task of the container waited for a processor, if the kernel tells.
fn waited_us(node: &Node, id: &str) -> Option<u64> {
    let text = std::fs::read_to_string(cgroup::find(node, id, &["cpu.pressure"])?).unwrap();
    let total = text.lines().next().unwrap().rsplit_once('=').unwrap().1;
    Some(total.parse().unwrap())
}

fn memory(node: &Node, id: &str, told: &cri::MemoryUsage) {
    let near = |what: &str, told: &Option<cri::UInt64Value>, wanted: u64| {
        assert!(
            known(told).abs_diff(wanted) <= SLACK,
            "{what}: {told:?} is not {wanted}"
        );
    };
    let usage = cgroup::number(node, id, &["memory.current", "memory.usage_in_bytes"]);
    let inactive = cgroup::memory(node, id, ("inactive_file", "total_inactive_file"));
    near("usage", &told.usage_bytes, usage);
    near("working set", &told.working_set_bytes, usage - inactive);
    near(
        "available",
        &told.available_bytes,
        (64 << 20) - (usage - inactive),
    );
    near(
        "rss",
        &told.rss_bytes,
        cgroup::memory(node, id, ("anon", "total_rss")),
    );
    let faults = cgroup::memory(node, id, ("pgfault", "total_pgfault"));
    assert!(
        known(&told.page_faults) > 0 && known(&told.page_faults) <= faults,
        "{told:?} {faults}"
    );
    assert!(known(&told.major_page_faults) <= known(&told.page_faults));
}

fn now_ns() -> i64 {
    i64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos()).unwrap()
}

#[test]
fn cores_in_use_are_those_of_the_time_between_two_looks() {
    let node = Node::start();
    let sandbox = node.pod(pod("rate"));
    let id = node.launch(
        &sandbox,
        container("burn", BUSYBOX, &["sh", "-c", "while :; do :; done"]),
    );
    let low = cgroup::cpu_ns(&node, &id);
    let first = stats(&node, &id).unwrap().cpu.unwrap();
    let begin = now_ns();
    std::thread::sleep(Duration::from_millis(1500));
    let end = now_ns();
    let second = stats(&node, &id).unwrap().cpu.unwrap();
    let high = cgroup::cpu_ns(&node, &id);
    let used = known(&second.usage_core_nano_seconds) - known(&first.usage_core_nano_seconds);
    let span = u64::try_from(second.timestamp - first.timestamp).unwrap();
    let wanted = u128::from(used) * 1_000_000_000 / u128::from(span);
    let told = u128::from(known(&second.usage_nano_cores));
    assert!(
        wanted > 0 && told.abs_diff(wanted) <= wanted / 100,
        "{told} {wanted}"
    );
    // By our own reading no more can be: all that was used, in the least time that passed between the two looks.
    let most = u128::from(high - low) * 1_000_000_000 / u128::try_from(end - begin).unwrap();
    assert!(told <= most, "{told} {most}");
}

#[test]
fn what_does_not_run_has_a_layer_and_nothing_else() {
    let node = Node::start();
    let sandbox = node.pod(pod("idle"));
    let gone = node.launch(
        &sandbox,
        container("gone", BUSYBOX, &["sh", "-c", "echo x >/file"]),
    );
    node.wait_exit(&gone, 10);
    let created = node
        .try_create(&sandbox, container("new", BUSYBOX, &["true"]))
        .unwrap();
    for id in [&gone, &created] {
        let told = stats(&node, id).unwrap();
        assert!(
            told.cpu.is_none() && told.memory.is_none() && told.swap.is_none(),
            "{told:?}"
        );
        assert!(told.writable_layer.is_some());
    }
    assert!(known(&stats(&node, &gone).unwrap().writable_layer.unwrap().inodes_used) >= 1);
    assert_eq!(stats(&node, "none").unwrap_err(), Code::NotFound);
    assert_eq!(pod_stats(&node, "none").unwrap_err(), Code::NotFound);
}

fn listed(node: &Node, filter: cri::ContainerStatsFilter) -> Vec<String> {
    let request = cri::ListContainerStatsRequest { filter: Some(filter) };
    let all = node.cri().list_container_stats(request).unwrap().stats;
    let mut names: Vec<String> = all
        .into_iter()
        .map(|stats| stats.attributes.unwrap().metadata.unwrap().name)
        .collect();
    names.sort();
    names
}

fn listed_pods(node: &Node, filter: cri::PodSandboxStatsFilter) -> Vec<String> {
    let request = cri::ListPodSandboxStatsRequest { filter: Some(filter) };
    let all = node.cri().list_pod_sandbox_stats(request).unwrap().stats;
    let mut names: Vec<String> = all
        .into_iter()
        .map(|stats| stats.attributes.unwrap().metadata.unwrap().name)
        .collect();
    names.sort();
    names
}

#[test]
fn lists_are_filtered_by_id_pod_and_labels() {
    let node = Node::start();
    let (first, second) = (node.pod(pod("first")), node.pod(pod("second")));
    let labeled = |name: &str, color: &str| {
        let mut config = container(name, BUSYBOX, &["sleep", "1000"]);
        config.labels.insert("color".into(), color.into());
        config
    };
    let one = node.launch(&first, labeled("one", "red"));
    node.launch(&first, labeled("two", "blue"));
    node.launch(&second, labeled("three", "red"));
    let label = |key: &str, value: &str| [(key.to_owned(), value.to_owned())].into();

    type Filter = cri::ContainerStatsFilter;
    assert_eq!(listed(&node, Filter::default()), ["one", "three", "two"]);
    assert_eq!(
        listed(
            &node,
            Filter {
                id: one.clone(),
                ..Default::default()
            }
        ),
        ["one"]
    );
    let of_first = Filter {
        pod_sandbox_id: first.id.clone(),
        ..Default::default()
    };
    assert_eq!(listed(&node, of_first.clone()), ["one", "two"]);
    assert_eq!(
        listed(
            &node,
            Filter {
                label_selector: label("color", "red"),
                ..Default::default()
            }
        ),
        ["one", "three"]
    );
    assert_eq!(
        listed(
            &node,
            Filter {
                label_selector: label("color", "red"),
                ..of_first.clone()
            }
        ),
        ["one"]
    );
    assert!(
        listed(
            &node,
            Filter {
                label_selector: label("color", "green"),
                ..of_first
            }
        )
        .is_empty()
    );
    assert!(
        listed(
            &node,
            Filter {
                id: "none".into(),
                ..Default::default()
            }
        )
        .is_empty()
    );
    assert!(
        listed(
            &node,
            Filter {
                id: one,
                pod_sandbox_id: second.id.clone(),
                ..Default::default()
            }
        )
        .is_empty()
    );
}

#[test]
fn lists_of_pods_are_filtered_by_id_and_labels() {
    let node = Node::start();
    node.pod(pod("first"));
    let second = node.pod(pod("second"));
    let label = |key: &str, value: &str| [(key.to_owned(), value.to_owned())].into();

    type PodFilter = cri::PodSandboxStatsFilter;
    assert_eq!(listed_pods(&node, PodFilter::default()), ["first", "second"]);
    assert_eq!(
        listed_pods(
            &node,
            PodFilter {
                id: second.id.clone(),
                ..Default::default()
            }
        ),
        ["second"]
    );
    assert_eq!(
        listed_pods(
            &node,
            PodFilter {
                label_selector: label("app", "first"),
                ..Default::default()
            }
        ),
        ["first"]
    );
    let neither = PodFilter {
        id: second.id.clone(),
        label_selector: label("app", "first"),
    };
    assert!(listed_pods(&node, neither).is_empty());
    node.cri()
        .stop_pod_sandbox(cri::StopPodSandboxRequest {
            pod_sandbox_id: second.id,
        })
        .unwrap();
    assert_eq!(
        listed_pods(&node, PodFilter::default()),
        ["first"],
        "only ready pods"
    );
}

/// Received and sent bytes of eth0, by the pod's own word.
fn traffic(node: &Node, id: &str) -> (u64, u64) {
    let table = node.exec(id, &["grep", "eth0", "/proc/net/dev"]).ok();
    let field = |at: usize| table.split_whitespace().nth(at).unwrap().parse().unwrap();
    (field(1), field(9))
}

#[test]
fn a_pods_stats_are_those_of_its_own_cgroup_and_network() {
    let node = Node::start();
    let mut config = pod("whole");
    let (parent, path) = cgroup::Parent::new(&node, "podwhole");
    config.linux.as_mut().unwrap().cgroup_parent = path;
    let sandbox = node.pod(config);
    let command = "wget -q -T 1 -O /dev/null 10.201.0.1:5000; echo rests; exec sleep 1000";
    let id = node.launch(&sandbox, container("one", BUSYBOX, &["sh", "-c", command]));
    rests(&node, &sandbox, &id, "one.log");
    node.launch(&sandbox, container("two", BUSYBOX, &["sleep", "1000"]));

    let (rx_low, tx_low) = traffic(&node, &id);
    // What has just been executed there is gone, and each of the two is one process.
    eventually("two processes", 60, || {
        (cgroup::number(&node, "podwhole", &["pids.current"]) == 2).then_some(())
    });
    let low = cgroup::cpu_ns(&node, "podwhole");
    let told = pod_stats(&node, &sandbox.id).unwrap();
    let high = cgroup::cpu_ns(&node, "podwhole");
    let (rx_high, tx_high) = traffic(&node, &id);
    assert_eq!(
        told.attributes.as_ref().unwrap().metadata,
        sandbox.config.metadata
    );
    let linux = told.linux.unwrap();
    let cpu = known(&linux.cpu.as_ref().unwrap().usage_core_nano_seconds);
    assert!((low..=high).contains(&cpu), "{low} {cpu} {high}");
    let memory = linux.memory.as_ref().unwrap();
    let usage = cgroup::number(&node, "podwhole", &["memory.current", "memory.usage_in_bytes"]);
    assert!(known(&memory.usage_bytes).abs_diff(usage) <= SLACK);
    assert!(memory.available_bytes.is_none(), "the pod has no limit");
    assert_eq!(known(&linux.process.as_ref().unwrap().process_count), 2);
    let eth0 = linux
        .network
        .as_ref()
        .unwrap()
        .default_interface
        .as_ref()
        .unwrap();
    assert_eq!(eth0.name, "eth0");
    assert!(
        (rx_low..=rx_high).contains(&known(&eth0.rx_bytes)),
        "{rx_low} {eth0:?} {rx_high}"
    );
    assert!(
        (tx_low..=tx_high).contains(&known(&eth0.tx_bytes)),
        "{tx_low} {eth0:?} {tx_high}"
    );
    assert!(known(&eth0.tx_bytes) > 0 && known(&eth0.rx_errors) == 0);
    let parts: u64 = linux
        .containers
        .iter()
        .map(|one| known(&one.memory.as_ref().unwrap().usage_bytes))
        .sum();
    assert_eq!(linux.containers.len(), 2);
    assert!(parts <= known(&memory.usage_bytes) + SLACK);
    node.remove_pod(&sandbox.id);
    drop(parent);
}

#[test]
fn a_pod_without_a_cgroup_of_its_own_is_the_sum_of_its_containers() {
    let node = Node::start();
    let mut config = pod("sum");
    let security = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
    security.namespace_options.as_mut().unwrap().network = cri::NamespaceMode::Node.into();
    let sandbox = node.pod(config);
    node.launch(&sandbox, container("one", BUSYBOX, &["sleep", "1000"]));
    node.launch(&sandbox, container("two", BUSYBOX, &["sleep", "1000"]));
    let linux = pod_stats(&node, &sandbox.id).unwrap().linux.unwrap();
    let cpu = |cpu: &Option<cri::CpuUsage>| known(&cpu.as_ref().unwrap().usage_core_nano_seconds);
    assert_eq!(
        cpu(&linux.cpu),
        linux.containers.iter().map(|one| cpu(&one.cpu)).sum::<u64>()
    );
    // The host's are not the pod's. And none is told by leaving all of it out: an empty one crashes a kubelet.
    assert!(linux.network.is_none(), "{:?}", linux.network);
    assert!(host::links().contains("uplink"), "and the host has some");
}
