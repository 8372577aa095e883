//! The host's namespaces and ports.

use serde_json::json;

use criquet_tests::Output;

use crate::kube::{NODE_ADDRESS, POD_S, SLEEP, Space, agnhost, folder, in_node, shell};

fn inode(path: &str) -> String {
    let link = std::fs::read_link(path).expect("read a namespace's link");
    format!("{}\n", link.display())
}

#[test]
fn pods_may_use_the_hosts_network_processes_and_ipc() {
    let space = Space::new("host-namespaces");
    space.pod(
        "network",
        json!({"hostNetwork": true, "containers": [shell(SLEEP)]}),
    );
    let addresses = space.exec("network", &["ip", "-o", "-4", "addr", "show"]);
    assert!(addresses.contains(NODE_ADDRESS), "{addresses}");

    space.pod(
        "processes",
        json!({"hostPID": true, "containers": [shell(SLEEP)]}),
    );
    let own = std::process::id().to_string();
    let status = space.exec("processes", &["grep", "^Pid:", &format!("/proc/{own}/status")]);
    assert!(status.contains(&own), "{status}");

    space.pod("ipc", json!({"hostIPC": true, "containers": [shell(SLEEP)]}));
    let seen = space.exec("ipc", &["readlink", "/proc/self/ns/ipc"]);
    assert_eq!(seen, inode("/proc/self/ns/ipc"));

    space.shell("own", SLEEP);
    for kind in ["ipc", "pid", "net", "uts", "mnt", "cgroup"] {
        let path = format!("/proc/self/ns/{kind}");
        assert_ne!(space.exec("own", &["readlink", &path]), inode(&path), "{kind}");
    }
}

#[test]
fn a_host_port_reaches_the_pod_and_goes_with_it() {
    let space = Space::new("host-port");
    let mut container = agnhost(&["netexec", "--http-port=8080"]);
    container["ports"] = json!([{"containerPort": 8080, "hostPort": 18080}]);
    space.pod("server", json!({"containers": [container]}));
    let url = format!("http://{NODE_ADDRESS}:18080/hostname");
    let ask = || {
        Output::of(
            in_node("curl", &["-s", "--max-time", "10", &url])
                .output()
                .expect("run curl"),
        )
    };
    space.until("the host port answers", POD_S, || {
        (ask().stdout == "server").then_some(())
    });
    let local = in_node(
        "curl",
        &["-s", "--max-time", "120", "http://127.0.0.1:18080/hostname"],
    )
    .output();
    assert_eq!(Output::of(local.expect("run curl")).stdout, "server");
    space.delete("pod/server");
    space.until("the host port answers no more", POD_S, || {
        (ask().code != 0).then_some(())
    });
}

#[test]
fn a_pod_may_share_its_processes() {
    let space = Space::new("share-pids");
    let (mut one, mut two) = (shell(SLEEP), shell("sleep 54321"));
    one["name"] = json!("one");
    two["name"] = json!("two");
    space.pod(
        "shared",
        json!({"shareProcessNamespace": true, "containers": [one, two]}),
    );
    let seen = space.ok(&["exec", "shared", "-c", "one", "--", "pgrep", "-f", "sleep 54321"]);
    assert!(!seen.trim().is_empty());
}

#[test]
fn mounts_of_the_host_propagate_as_asked() {
    let space = Space::new("propagation");
    let path = folder().join("propagation");
    let volume = json!([{"name": "host", "hostPath": {"path": path, "type": "DirectoryOrCreate"}}]);
    let mounting = |mode: &str| {
        let mut container = shell(SLEEP);
        container["securityContext"] = json!({"privileged": true});
        container["volumeMounts"] = json!([{"name": "host", "mountPath": "/host", "mountPropagation": mode}]);
        json!({"volumes": volume, "containers": [container]})
    };
    space.pod("giver", mounting("Bidirectional"));
    space.pod("taker", mounting("HostToContainer"));
    space.exec(
        "giver",
        &[
            "sh",
            "-c",
            "mkdir -p /host/m && mount -t tmpfs t /host/m && echo here >/host/m/file",
        ],
    );
    assert_eq!(space.exec("taker", &["cat", "/host/m/file"]), "here\n");
    space.exec("giver", &["umount", "/host/m"]);
    assert_ne!(
        space
            .kubectl(&["exec", "taker", "--", "cat", "/host/m/file"])
            .code,
        0
    );
}
