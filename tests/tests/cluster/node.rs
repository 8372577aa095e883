//! What the kubelet makes of criquet's answers about the node, images and figures.

use serde_json::{Value, json};

use crate::kube::{NODE, POD_S, SLEEP, Space, kubectl, shell};

fn summary() -> Value {
    let path = format!("/api/v1/nodes/{NODE}/proxy/stats/summary");
    serde_json::from_str(&kubectl(&["get", "--raw", &path]).ok()).expect("the summary's JSON")
}

fn node() -> Value {
    let text = kubectl(&["get", "node", NODE, "-o", "json"]).ok();
    serde_json::from_str(&text).expect("JSON")
}

#[test]
fn the_node_is_ready_and_names_criquet() {
    // Another test may have filled the node's disk, or stopped its kubelet, a moment ago.
    let space = Space::new("node");
    let node = space.until("the node is ready, and nothing is short", POD_S, || {
        let node = node();
        let conditions = node["status"]["conditions"].as_array()?;
        let as_wanted = |condition: &Value| {
            let wanted = if condition["type"] == "Ready" {
                "True"
            } else {
                "False"
            };
            condition["status"] == wanted
        };
        (!conditions.is_empty() && conditions.iter().all(as_wanted)).then_some(node)
    });
    let runtime = node["status"]["nodeInfo"]["containerRuntimeVersion"].as_str();
    assert!(
        runtime.is_some_and(|version| version.starts_with("criquet://")),
        "{runtime:?}"
    );
    // hostUsers: false is scheduled only to nodes that say so.
    let handlers = node["status"]["runtimeHandlers"]
        .as_array()
        .expect("runtimeHandlers");
    assert!(
        handlers
            .iter()
            .any(|handler| handler["features"]["userNamespaces"] == true),
        "{handlers:?}"
    );
}

/// kubelet evicts pods and collects images by this figure.
#[test]
fn the_image_file_system_has_a_size_for_eviction() {
    let space = Space::new("imagefs");
    space.shell("one", SLEEP);
    for figure in ["usedBytes", "availableBytes", "capacityBytes", "inodesFree"] {
        space.until(figure, POD_S, || {
            let runtime = &summary()["node"]["runtime"]["imageFs"];
            (runtime[figure].as_u64()? > 0).then_some(())
        });
    }
    // The kubelet tells its images now and then.
    space.until("the image is the node's", POD_S, || {
        let node = node();
        let images = node["status"]["images"].as_array()?;
        images
            .iter()
            .any(|image| image["names"].to_string().contains("busybox:1.37.0-2"))
            .then_some(())
    });
}

#[test]
fn figures_of_pods_reach_the_summary_and_cadvisors_metrics() {
    let space = Space::new("figures");
    space.shell("busy", "while :; do i=$((i+1)); done");
    let pod = space.until("the pod's processor time", POD_S, || {
        let all = summary();
        let pods = all["pods"].as_array()?.clone();
        pods.into_iter().find(|pod| {
            pod["podRef"]["namespace"] == space.name.as_str()
                && pod["cpu"]["usageNanoCores"].as_u64().is_some_and(|n| n > 0)
                && pod["containers"][0]["memory"]["workingSetBytes"]
                    .as_u64()
                    .is_some_and(|n| n > 0)
                && pod["network"]["rxBytes"].as_u64().is_some()
                && pod["containers"][0]["rootfs"]["usedBytes"].as_u64().is_some()
        })
    });
    assert_eq!(pod["containers"][0]["name"], "main", "{pod}");
    let path = format!("/api/v1/nodes/{NODE}/proxy/metrics/cadvisor");
    let wanted = format!("namespace=\"{}\"", space.name);
    space.until("a figure in cAdvisor's metrics", POD_S, || {
        let metrics = kubectl(&["get", "--raw", &path]).ok();
        metrics
            .lines()
            .any(|line| line.starts_with("container_cpu_usage_seconds_total") && line.contains(&wanted))
            .then_some(())
    });
}

/// It has no interface of its own to count: the kubelet must live with that.
#[test]
fn a_pod_on_the_hosts_network_has_figures_too() {
    let space = Space::new("host-figures");
    space.pod(
        "outside",
        json!({"hostNetwork": true, "containers": [shell(SLEEP)]}),
    );
    space.until("the pod's memory", POD_S, || {
        let all = summary();
        let pods = all["pods"].as_array()?;
        let pod = pods
            .iter()
            .find(|pod| pod["podRef"]["namespace"] == space.name.as_str())?;
        (pod["memory"]["workingSetBytes"].as_u64()? > 0).then_some(())
    });
}

/// The kubelet of hack/cluster has EventedPLEG on: it listens to GetContainerEvents.
#[test]
fn the_kubelet_is_driven_by_events() {
    // It may have been started anew just now, and counts from then on: here is something to tell of.
    let space = Space::new("events");
    space.shell("eventful", SLEEP);
    let path = format!("/api/v1/nodes/{NODE}/proxy/metrics");
    let count = |name: &str| {
        let metrics = kubectl(&["get", "--raw", &path]).ok();
        metrics
            .lines()
            .find_map(|line| line.strip_prefix(&format!("kubelet_evented_pleg_{name} ")))
            .and_then(|text| text.parse::<f64>().ok())
    };
    for name in ["connection_success_count", "connection_latency_seconds_count"] {
        space.until(name, POD_S, || (count(name)? >= 1.0).then_some(()));
    }
}
