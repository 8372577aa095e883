//! kubectl top: what metrics-server reads from kubelet's /metrics/resource, whose figures are criquet's.

use std::process::{Command, Stdio};

use criquet_tests::{Output, workspace};

use crate::kube::{POD_S, Space, hack_cluster, shell};

/// metrics-server reads every 15 s, and needs two readings.
const FIGURES_S: u64 = 180;

/// Ends metrics-server, and its API with it: nobody else's namespace shall wait for an API that does not answer.
struct Metrics;

impl Metrics {
    fn start() -> Metrics {
        let metrics = Metrics;
        hack_cluster(&["metrics"]);
        metrics
    }
}

impl Drop for Metrics {
    fn drop(&mut self) {
        let out = Command::new(workspace().join("hack/cluster"))
            .args(["metrics", "--stop"])
            .stdin(Stdio::null())
            .output();
        if !std::thread::panicking() {
            Output::of(out.expect("run hack/cluster")).ok();
        }
    }
}

/// The figures of a line such as "busy main 250m 12Mi": thousandths of a processor, and MiB.
fn figures(line: &str) -> Option<(u64, u64)> {
    let mut words = line.split_whitespace().rev();
    let memory = words.next()?.strip_suffix("Mi")?.parse().ok()?;
    let cpu = words.next()?.strip_suffix('m')?.parse().ok()?;
    Some((cpu, memory))
}

#[test]
fn top_shows_what_pods_use() {
    let space = Space::new("top");
    let mut busy = shell("while :; do :; done");
    busy["resources"] = serde_json::json!({"limits": {"cpu": "200m", "memory": "64Mi"}});
    // What is in a memory volume counts as the container's that wrote it.
    let mut full = shell("head -c 40000000 /dev/zero >/dev/shm/f; exec sleep 1000000");
    full["name"] = "full".into();
    space.pod("user", serde_json::json!({"containers": [busy, full]}));
    let _metrics = Metrics::start();

    let top = || {
        let out = space.kubectl(&["top", "pod", "user", "--containers", "--no-headers"]);
        let of = |name: &str| {
            let line = out
                .stdout
                .lines()
                .find(|line| line.split_whitespace().nth(1) == Some(name));
            line.and_then(figures)
        };
        Some((of("main")?, of("full")?))
    };
    // The first readings may have met the containers as they began.
    let ((cpu, _), (idle, memory)) = space.until("figures of the pod's containers", FIGURES_S, || {
        top().filter(|((cpu, _), (_, memory))| *cpu >= 100 && *memory >= 38)
    });
    assert!(
        cpu <= 210,
        "{cpu} thousandths of a processor under a limit of 200"
    );
    assert!(
        idle < cpu,
        "{idle} of the one that sleeps, {cpu} of the one that does not"
    );
    assert!(memory <= 64, "{memory} MiB where 38 are in use");

    let node = space.until("the node's figures", POD_S, || {
        let out = space.kubectl(&["top", "node", "--no-headers"]);
        (out.code == 0).then_some(out.stdout)
    });
    // NAME CPU(cores) CPU(%) MEMORY(bytes) MEMORY(%)
    let words: Vec<&str> = node.split_whitespace().collect();
    let node: u64 = words[1]
        .trim_end_matches('m')
        .parse()
        .expect("the node's processor time");
    assert!(node > 0, "{words:?}");
}
