//! A kubelet and a daemon that come and go, while pods do not notice.

use std::process::Command;
use std::time::{Duration, Instant};

use criquet_tests::{Output, workspace};
use serde_json::{Value, json};

use crate::kube::{BUSYBOX, POD_S, QUIET, Space, cluster, folder, hack_cluster, shell};

/// An image that no other test of the cluster uses.
const NGINX: &str = "registry.k8s.io/e2e-test-images/nginx:1.28.0-2";
/// Namespaces of earlier tests are still going when a test looks for what is left.
const LEFT_S: u64 = 300;

/// A container that counts aloud, five times a second.
const COUNT: &str = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.2; done";

/// Ten pods that count, and one for exec.
fn pods(space: &Space) {
    space.apply(&json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "count"},
        "spec": {
            "replicas": 10, "selector": {"matchLabels": {"app": "count"}},
            "template": {
                "metadata": {"labels": {"app": "count"}},
                "spec": {"terminationGracePeriodSeconds": 1, "containers": [shell(COUNT)]},
            },
        },
    }));
    space.ok(&["rollout", "status", "deployment/count", "--timeout=600s"]);
}

/// The containers that run, by pod; and that none was restarted.
fn running(space: &Space) -> Vec<String> {
    let mut found = Vec::new();
    for pod in space.list("pods", "count") {
        let status = &pod["status"]["containerStatuses"][0];
        assert_eq!(status["restartCount"], 0, "{pod}");
        found.push(status["containerID"].as_str().unwrap_or_default().to_string());
    }
    found.sort();
    found
}

/// A pod's log has every number from 1 to its last line.
fn counted_without_a_gap(space: &Space) {
    for pod in space.list("pods", "count") {
        let name = pod["metadata"]["name"].as_str().expect("a name");
        let log = space.logs(name);
        for (line, number) in log.lines().zip(1_u32..) {
            assert_eq!(line, number.to_string(), "a gap in the log of {name}");
        }
    }
}

/// What is left on the node of pods that are gone.
fn nothing_is_left(space: &Space) {
    let mut left = String::new();
    let end = Instant::now() + Duration::from_secs(LEFT_S);
    while Instant::now() < end {
        left = hack_cluster(&["left"]);
        if left.is_empty() {
            return;
        }
        std::thread::sleep(Duration::from_secs(1));
    }
    panic!("left after the pods of {}:\n{left}", space.name);
}

#[test]
fn a_node_that_reboots_brings_its_pods_back_and_leaves_nothing() {
    let _alone = QUIET.write().unwrap_or_else(std::sync::PoisonError::into_inner);
    let space = Space::alone("reboot");
    pods(&space);
    let before = running(&space);
    hack_cluster(&["reboot"]);
    let after = space.until("every container runs again", POD_S, || {
        let pods = space.list("pods", "count");
        let now: Option<Vec<String>> = pods.iter().map(restarted_once).collect();
        now.filter(|now| now.len() == before.len())
    });
    assert!(
        after.iter().all(|id| !before.contains(id)),
        "{before:?} {after:?}"
    );
    let name = space.list("pods", "count")[0]["metadata"]["name"].clone();
    assert_eq!(
        space.exec(name.as_str().expect("a name"), &["echo", "hello"]),
        "hello\n"
    );
    space.delete("deployment/count");
    space.until("all are gone", POD_S, || {
        space.list("pods", "count").is_empty().then_some(())
    });
    nothing_is_left(&space);
}

/// The id of a pod's container, once it has been started again and is ready.
fn restarted_once(pod: &Value) -> Option<String> {
    let status = &pod["status"]["containerStatuses"][0];
    (status["restartCount"] == 1 && status["ready"] == true)
        .then(|| status["containerID"].as_str().unwrap_or_default().to_string())
}

/// By what ImageFsInfo and the statistics say.
#[test]
fn a_full_disk_costs_unused_images_and_evicts_pods() {
    let _alone = QUIET.write().unwrap_or_else(std::sync::PoisonError::into_inner);
    let space = Space::alone("full-disk");
    space.pod("guest", json!({"containers": [{"name": "main", "image": NGINX}]}));
    space.shell("victim", "exec sleep 100000");
    space.delete("pod/guest");
    assert!(images().contains("/nginx"), "{}", images());
    // The disk is as it was; the kubelet takes it for full.
    let config = folder().join("kubelet.yaml");
    let as_it_was = std::fs::read_to_string(&config).expect("read the kubelet's configuration");
    let full = as_it_was
        .replace("imagefs.available: \"1%\"", "imagefs.available: \"99%\"")
        .replace("imageMinimumGCAge: 2m", "imageMinimumGCAge: 1s");
    assert_ne!(full, as_it_was);
    std::fs::write(&config, full).expect("write the kubelet's configuration");
    hack_cluster(&["restart", "kubelet"]);
    space.until("the image is collected", POD_S, || {
        (!images().contains("/nginx")).then_some(())
    });
    assert_eq!(space.phase("victim", "Failed")["status"]["reason"], "Evicted");
    std::fs::write(&config, as_it_was).expect("write the kubelet's configuration");
    hack_cluster(&["restart", "kubelet"]);
    space.shell("after", "exec sleep 100000");
}

/// What criquet has.
fn images() -> String {
    let socket = format!("unix:///run/{}/criquet.sock", cluster());
    let crictl = workspace().join(".work/bin/tools/crictl");
    let out = Command::new(crictl)
        .args(["--timeout", "120s", "-r", &socket, "-i", &socket, "images"])
        .output();
    Output::of(out.expect("run crictl")).ok()
}

#[test]
fn a_kubelet_restart_touches_no_container() {
    let _alone = QUIET.write().unwrap_or_else(std::sync::PoisonError::into_inner);
    let space = Space::alone("kubelet-restart");
    pods(&space);
    let before = running(&space);
    hack_cluster(&["restart", "--kill", "kubelet"]);
    // The kubelet is back when it starts a new pod.
    space.shell("after", "exec sleep 100000");
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(running(&space), before);
    counted_without_a_gap(&space);
}

#[test]
fn a_daemon_that_is_killed_every_ten_seconds_loses_nothing() {
    let _alone = QUIET.write().unwrap_or_else(std::sync::PoisonError::into_inner);
    let space = Space::alone("daemon-kill");
    pods(&space);
    let before = running(&space);
    for round in 0..5 {
        let start = Instant::now();
        hack_cluster(&["restart", "--kill", "criquet"]);
        // Pods come and go meanwhile.
        let name = format!("guest-{round}");
        space.create_pod(
            &name,
            json!({"containers": [{"name": "main", "image": BUSYBOX, "command": ["sleep", "1000"]}]}),
        );
        space.ready(&name);
        assert_eq!(space.exec(&name, &["echo", "hello"]), "hello\n");
        if round % 2 == 1 {
            space.delete(&format!("pod/{name}"));
        }
        std::thread::sleep(Duration::from_secs(10).saturating_sub(start.elapsed()));
    }
    assert_eq!(running(&space), before);
    counted_without_a_gap(&space);
    space.delete("deployment/count");
    space.until("all are gone", POD_S, || {
        space.list("pods", "count").is_empty().then_some(())
    });
}
