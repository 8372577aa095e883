//! The walk that a person makes with crictl.

use criquet_tests::{BUSYBOX, Node, eventually};
use serde_json::{Value, json};

#[test]
fn crictl_walks_from_pull_to_removal() {
    let node = Node::start();
    let (pod_file, container_file) = (node.work().join("pod.json"), node.work().join("container.json"));
    let logs = node.work().join("logs");
    let pod = json!({"metadata": {"name": "walk", "uid": "u1", "namespace": "default", "attempt": 1},
        "log_directory": logs, "linux": {}});
    let container = json!({"metadata": {"name": "shell"}, "image": {"image": BUSYBOX}, "linux": {},
        "command": ["sh", "-c", "echo hello from the walk; exec sleep 1000"], "log_path": "shell.log"});
    std::fs::write(&pod_file, pod.to_string()).unwrap();
    std::fs::write(&container_file, container.to_string()).unwrap();
    let (pod_file, container_file) = (pod_file.to_str().unwrap(), container_file.to_str().unwrap());

    assert!(node.crictl(&["version"]).ok().contains("criquet"));
    node.crictl(&["pull", BUSYBOX]).ok();
    assert!(node.crictl(&["images"]).ok().contains("busybox"));
    let info: Value = serde_json::from_str(&node.crictl(&["info"]).ok()).unwrap();
    assert!(info["status"]["conditions"].is_array(), "{info}");
    let pod = node.crictl(&["runp", pod_file]).ok().trim().to_string();
    let id = node
        .crictl(&["create", &pod, container_file, pod_file])
        .ok()
        .trim()
        .to_string();
    node.crictl(&["start", &id]).ok();
    assert!(node.crictl(&["ps", "-q", "--no-trunc"]).ok().contains(&id));
    assert!(node.crictl(&["pods"]).ok().contains("walk"));
    let inspect: Value = serde_json::from_str(&node.crictl(&["inspect", &id]).ok()).unwrap();
    assert_eq!(inspect["status"]["state"], "CONTAINER_RUNNING");
    let inspect: Value = serde_json::from_str(&node.crictl(&["inspectp", &pod]).ok()).unwrap();
    assert!(
        inspect["status"]["network"]["ip"]
            .as_str()
            .is_some_and(|ip| ip.starts_with("10.201.")),
        "{inspect}"
    );
    eventually("the log", 10, || {
        node.crictl(&["logs", &id])
            .ok()
            .contains("hello from the walk")
            .then_some(())
    });
    assert_eq!(
        node.crictl(&["exec", "-s", &id, "echo", "sync"]).ok().trim(),
        "sync"
    );
    assert_eq!(node.crictl(&["exec", &id, "echo", "streamed"]).ok(), "streamed\n");
    assert_eq!(
        node.crictl(&["exec", "-r", "websocket", &id, "echo", "websocket"])
            .ok(),
        "websocket\n"
    );
    assert_ne!(node.crictl(&["exec", &id, "false"]).code, 0);
    assert!(node.crictl(&["stats", "-a"]).ok().contains(&id[..12]));
    assert!(node.crictl(&["statsp"]).ok().contains(&pod[..12]));
    node.crictl(&["stop", "-t", "1", &id]).ok();
    node.crictl(&["rm", &id]).ok();
    node.crictl(&["stopp", &pod]).ok();
    node.crictl(&["rmp", &pod]).ok();
    node.crictl(&["rmi", BUSYBOX]).ok();
    assert_eq!(node.crictl(&["images", "-q"]).ok().trim(), "");
}
