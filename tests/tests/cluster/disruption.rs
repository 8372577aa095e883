//! A kubelet and a daemon that come and go, while pods do not notice.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::kube::{BUSYBOX, POD_S, QUIET, Space, hack_cluster, shell};

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
    space.ok(&["rollout", "status", "deployment/count", "--timeout=120s"]);
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
