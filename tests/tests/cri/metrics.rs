//! ListMetricDescriptors and ListPodSandboxMetrics: what the kubelet shows at /metrics/cadvisor.

use std::collections::{BTreeSet, HashMap};

use criquet_tests::{BUSYBOX, Node, container, cri, eventually, pod};

use crate::cgroup;

/// KEP-2371's metrics, as critest has them.
const NAMES: &str = "blkio_device_usage_total cpu_cfs_periods_total cpu_cfs_throttled_periods_total \
    cpu_cfs_throttled_seconds_total cpu_system_seconds_total cpu_usage_seconds_total cpu_user_seconds_total \
    file_descriptors fs_inodes_free fs_inodes_total fs_limit_bytes fs_reads_bytes_total fs_reads_total \
    fs_usage_bytes fs_writes_bytes_total fs_writes_total hugetlb_max_usage_bytes hugetlb_usage_bytes last_seen \
    memory_cache memory_failcnt memory_failures_total memory_kernel_usage memory_mapped_file \
    memory_max_usage_bytes memory_rss memory_swap memory_usage_bytes memory_working_set_bytes \
    network_receive_bytes_total network_receive_errors_total network_receive_packets_dropped_total \
    network_receive_packets_total network_transmit_bytes_total network_transmit_errors_total \
    network_transmit_packets_dropped_total network_transmit_packets_total oom_events_total \
    pressure_cpu_stalled_seconds_total pressure_cpu_waiting_seconds_total pressure_io_stalled_seconds_total \
    pressure_io_waiting_seconds_total pressure_memory_stalled_seconds_total \
    pressure_memory_waiting_seconds_total processes sockets spec_cpu_period spec_cpu_quota spec_cpu_shares \
    spec_memory_limit_bytes spec_memory_reservation_limit_bytes spec_memory_swap_limit_bytes \
    start_time_seconds threads threads_max ulimits_soft";

/// Labels by their keys, and the value.
type Sample = (HashMap<String, String>, u64);

fn descriptors(node: &Node) -> HashMap<String, Vec<String>> {
    let request = cri::ListMetricDescriptorsRequest::default();
    let all = node.cri().list_metric_descriptors(request).unwrap().descriptors;
    let names: BTreeSet<_> = all.iter().map(|descriptor| descriptor.name.clone()).collect();
    assert_eq!(names.len(), all.len(), "a name twice");
    all.into_iter()
        .map(|descriptor| (descriptor.name, descriptor.label_keys))
        .collect()
}

fn metrics(node: &Node) -> Vec<cri::PodSandboxMetrics> {
    node.cri()
        .list_pod_sandbox_metrics(cri::ListPodSandboxMetricsRequest::default())
        .unwrap()
        .pod_metrics
}

/// Every sample, by name without `container_`, checked against its descriptor.
fn samples(node: &Node) -> HashMap<String, Vec<Sample>> {
    let keys = descriptors(node);
    let mut seen = BTreeSet::new();
    let mut out: HashMap<String, Vec<Sample>> = HashMap::new();
    let all = metrics(node).into_iter().flat_map(|pod| {
        let containers = pod
            .container_metrics
            .into_iter()
            .flat_map(|container| container.metrics);
        pod.metrics.into_iter().chain(containers)
    });
    for metric in all {
        let keys = keys
            .get(&metric.name)
            .unwrap_or_else(|| panic!("{} has no descriptor", metric.name));
        assert_eq!(metric.label_values.len(), keys.len(), "{metric:?} {keys:?}");
        // Prometheus refuses a whole answer that has one sample twice.
        assert!(
            seen.insert((metric.name.clone(), metric.label_values.clone())),
            "twice: {metric:?}"
        );
        let labels = keys.iter().cloned().zip(metric.label_values).collect();
        let name = metric.name.strip_prefix("container_").unwrap().to_owned();
        out.entry(name)
            .or_default()
            .push((labels, metric.value.unwrap().value));
    }
    out
}

/// The value of the one sample of `name` whose labels have all of `wanted`.
#[track_caller]
fn value(samples: &HashMap<String, Vec<Sample>>, name: &str, wanted: &[(&str, &str)]) -> u64 {
    let all = samples.get(name).unwrap_or_else(|| panic!("no sample of {name}"));
    let fits = |labels: &HashMap<String, String>| {
        wanted
            .iter()
            .all(|(key, value)| labels.get(*key).is_some_and(|label| label == value))
    };
    let found: Vec<&Sample> = all.iter().filter(|(labels, _)| fits(labels)).collect();
    assert_eq!(found.len(), 1, "{name} {wanted:?}: {all:?}");
    found[0].1
}

#[test]
fn the_descriptors_are_those_of_cadvisor() {
    let node = Node::start();
    let wanted: BTreeSet<String> = NAMES
        .split(' ')
        .filter(|name| !name.is_empty())
        .map(|name| format!("container_{name}"))
        .collect();
    assert_eq!(wanted.len(), 56);
    let found = descriptors(&node);
    assert_eq!(found.keys().cloned().collect::<BTreeSet<_>>(), wanted);
    for (name, keys) in found {
        let unique: BTreeSet<_> = keys.iter().collect();
        assert_eq!(unique.len(), keys.len(), "{name}: {keys:?}");
        for key in ["id", "name", "image", "namespace", "pod", "container"] {
            assert!(keys.iter().any(|found| found == key), "{name} has no label {key}");
        }
    }
    assert!(metrics(&node).is_empty(), "samples of nothing");
}

fn limited(name: &str, command: &str, mebibytes: i64) -> cri::ContainerConfig {
    let mut config = container(name, BUSYBOX, &["sh", "-c", command]);
    config.linux.as_mut().unwrap().resources = Some(cri::LinuxContainerResources {
        cpu_period: 100_000,
        cpu_quota: 10_000,
        cpu_shares: 1024,
        memory_limit_in_bytes: mebibytes << 20,
        memory_swap_limit_in_bytes: mebibytes << 20,
        ..Default::default()
    });
    config
}

#[test]
fn samples_are_there_and_say_what_the_machine_says() {
    let node = Node::start();
    let sandbox = node.pod(pod("metrics"));
    // A socket, a shell, a sleep; some memory, processor time and traffic.
    let command = "head -c 8000000 /dev/zero >/tmp/f; nc -l -p 4000 & wget -q -T 1 -O /dev/null 10.201.0.1:5000; \
        i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; echo done; exec sleep 1000";
    let id = node.launch(&sandbox, limited("one", command, 64));
    eventually("the container is at rest", 60, || {
        node.messages(&sandbox, "one.log").contains("done").then_some(())
    });
    let low = cgroup::cpu_ns(&node, &id);
    let before = now_s();
    let all = samples(&node);
    let high = cgroup::cpu_ns(&node, &id);

    let missing: Vec<&str> = NAMES
        .split(' ')
        .filter(|name| !name.is_empty() && !all.contains_key(*name))
        .collect();
    let unknown = |name: &&str| {
        // The kernel may count no input and output, nor huge pages' peaks with v2, nor pressure.
        ["blkio", "fs_reads", "fs_writes", "hugetlb", "pressure"]
            .iter()
            .any(|start| name.starts_with(start))
    };
    assert!(missing.iter().all(unknown), "{missing:?}");

    let this = [("name", id.as_str())];
    let get = |name: &str| value(&all, name, &this);
    let usage = get("cpu_usage_seconds_total");
    assert!(
        (low / 1_000_000_000..=high / 1_000_000_000).contains(&usage),
        "{low} {usage} {high}"
    );
    // The parts are read after the sum.
    let parts = get("cpu_user_seconds_total") + get("cpu_system_seconds_total");
    assert!(parts <= high / 1_000_000_000, "{parts} {high}");
    assert!(get("cpu_cfs_periods_total") >= get("cpu_cfs_throttled_periods_total"));
    assert!(
        get("cpu_cfs_throttled_periods_total") > 0,
        "a loop under a quota was never throttled"
    );
    for (name, wanted) in [
        ("spec_cpu_period", 100_000),
        ("spec_cpu_quota", 10_000),
        ("spec_cpu_shares", 1024),
        ("spec_memory_limit_bytes", 64 << 20),
        ("spec_memory_reservation_limit_bytes", 0),
        ("processes", 2),
        ("threads", 2),
        ("sockets", 1),
        ("oom_events_total", 0),
        ("memory_failcnt", 0),
        ("memory_swap", 0),
    ] {
        assert_eq!(get(name), wanted, "{name}");
    }
    memory(&node, &id, &get);
    let init = node
        .exec(
            &id,
            &[
                "sh",
                "-c",
                "ls /proc/1/fd | wc -l; grep 'Max open' /proc/1/limits",
            ],
        )
        .ok();
    let mut lines = init.lines();
    assert!(get("file_descriptors") > lines.next().unwrap().trim().parse().unwrap());
    let limit: u64 = lines
        .next()
        .unwrap()
        .split_whitespace()
        .nth(3)
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(
        value(&all, "ulimits_soft", &[this[0], ("ulimit", "max_open_files")]),
        limit
    );
    times_and_labels(&node, &sandbox, &id, &all, before);
    let received = value(
        &all,
        "network_receive_bytes_total",
        &[("name", &sandbox.id), ("interface", "eth0")],
    );
    let table = node.exec(&id, &["grep", "eth0", "/proc/net/dev"]).ok();
    let now: u64 = table.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(
        received > 0 && received <= now && now - received < 100_000,
        "{received} {now}"
    );
}

fn memory(node: &Node, id: &str, get: &dyn Fn(&str) -> u64) {
    let near = |name: &str, wanted: u64| {
        assert!(
            get(name).abs_diff(wanted) <= 1 << 20,
            "{name}: {} is not {wanted}",
            get(name)
        );
    };
    near(
        "memory_usage_bytes",
        cgroup::number(node, id, &["memory.current", "memory.usage_in_bytes"]),
    );
    near("memory_rss", cgroup::memory(node, id, ("anon", "total_rss")));
    near("memory_cache", cgroup::memory(node, id, ("file", "total_cache")));
    near(
        "memory_mapped_file",
        cgroup::memory(node, id, ("file_mapped", "total_mapped_file")),
    );
    assert!(get("memory_max_usage_bytes") >= get("memory_working_set_bytes"));
    assert!(get("memory_max_usage_bytes") <= 64 << 20);
}

fn now_s() -> u64 {
    std::time::UNIX_EPOCH.elapsed().unwrap().as_secs()
}

/// `before`: when the samples were not taken yet, in seconds.
fn times_and_labels(
    node: &Node,
    sandbox: &criquet_tests::Pod,
    id: &str,
    all: &HashMap<String, Vec<Sample>>,
    before: u64,
) {
    let this = [("name", id)];
    let started = u64::try_from(node.status(id).started_at).unwrap() / 1_000_000_000;
    assert_eq!(value(all, "start_time_seconds", &this), started);
    assert!((before..=now_s()).contains(&value(all, "last_seen", &this)));
    let disk = rustix::fs::statvfs(node.place.folder.as_path()).unwrap();
    assert_eq!(value(all, "fs_limit_bytes", &this), disk.f_blocks * disk.f_frsize);
    assert!(value(all, "fs_inodes_free", &this) <= value(all, "fs_inodes_total", &this));
    assert!((8_000_000..9_000_000).contains(&value(all, "fs_usage_bytes", &this)));
    let (labels, _) = &all["memory_rss"][0];
    let wanted = [
        ("id", format!("{}/{id}", node.place.cgroup)),
        ("image", BUSYBOX.to_owned()),
        ("namespace", "tests".to_owned()),
        ("pod", "metrics".to_owned()),
        ("container", "one".to_owned()),
    ];
    for (key, value) in wanted {
        assert_eq!(labels[key], value);
    }
    let (labels, _) = &all["network_receive_bytes_total"][0];
    assert_eq!(
        (labels["container"].as_str(), labels["pod"].as_str()),
        ("POD", "metrics")
    );
    assert_eq!(labels["id"], format!("{}/{}", node.place.cgroup, sandbox.id));
}

#[test]
fn a_process_that_the_oom_killer_ended_counts() {
    let node = Node::start();
    let sandbox = node.pod(pod("oom"));
    let id = node.launch(&sandbox, limited("oom", "tail /dev/zero; sleep 1000", 16));
    let count = eventually("the kill is seen", 60, || {
        let all = samples(&node);
        if !all.contains_key("oom_events_total") {
            return Some(None);
        }
        let count = value(&all, "oom_events_total", &[("name", &id)]);
        (count > 0).then_some(Some(count))
    });
    match count {
        Some(count) => assert_eq!(count, 1),
        // Where the kernel ends all of a cgroup at once, nothing is left to be told of.
        None => assert_eq!(node.status(&id).reason, "OOMKilled"),
    }
}

#[test]
fn only_what_runs_is_told_of() {
    let node = Node::start();
    let sandbox = node.pod(pod("runs"));
    let gone = node.launch(&sandbox, container("gone", BUSYBOX, &["true"]));
    node.wait_exit(&gone, 10);
    node.try_create(&sandbox, container("created", BUSYBOX, &["sleep", "1000"]))
        .unwrap();
    let runs = node.launch(&sandbox, container("runs", BUSYBOX, &["sleep", "1000"]));
    let mut host = pod("host");
    let security = host.linux.as_mut().unwrap().security_context.as_mut().unwrap();
    security.namespace_options.as_mut().unwrap().network = cri::NamespaceMode::Node.into();
    let host = node.pod(host);
    let stopped = node.pod(pod("stopped"));
    node.cri()
        .stop_pod_sandbox(cri::StopPodSandboxRequest {
            pod_sandbox_id: stopped.id,
        })
        .unwrap();
    let all = metrics(&node);
    let pods: BTreeSet<_> = all.iter().map(|pod| pod.pod_sandbox_id.clone()).collect();
    assert_eq!(pods, BTreeSet::from([sandbox.id.clone(), host.id.clone()]));
    for pod in all {
        let containers: Vec<_> = pod
            .container_metrics
            .into_iter()
            .map(|container| container.container_id)
            .collect();
        let on_host = pod.pod_sandbox_id == host.id;
        assert_eq!(containers, if on_host { vec![] } else { vec![runs.clone()] });
        assert_eq!(
            pod.metrics.is_empty(),
            on_host,
            "the host's interfaces are not the pod's"
        );
    }
}
