//! Pods' addresses, names and ports, on the built-in network, the native chain and plugin binaries.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::let_underscore_must_use)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use criquet_tests::{BUSYBOX, NGINX, Node, Output, Pod, container, cri, eventually, pod, run};

/// The three ways to a network; each has to do the same.
const BUILTIN: &str = "";
const NATIVE: &str = "[network.builtin]\nenabled = false\n";
const BINARIES: &str = "[network]\nnative = false\n[network.builtin]\nenabled = false\n";

const CONFLIST: &str = r#"{"cniVersion": "1.0.0", "name": "test", "plugins": [
    {"type": "bridge", "bridge": "cqtest0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
     "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.201.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
    {"type": "portmap", "capabilities": {"portMappings": true}}]}"#;

fn node(config: &str) -> Node {
    let node = Node::configured(config);
    if config != BUILTIN {
        std::fs::write(node.place.folder.join("cni/10-test.conflist"), CONFLIST).unwrap();
        eventually("the network is ready", 20, || {
            let status = node
                .cri()
                .status(cri::StatusRequest::default())
                .unwrap()
                .status
                .unwrap();
            status
                .conditions
                .iter()
                .all(|condition| condition.status)
                .then_some(())
        });
    }
    node
}

/// What Status says of the network: whether it is ready, and why not.
fn ready(node: &Node) -> (bool, String) {
    let status = node
        .cri()
        .status(cri::StatusRequest::default())
        .unwrap()
        .status
        .unwrap();
    let condition = status
        .conditions
        .into_iter()
        .find(|condition| condition.r#type == "NetworkReady")
        .unwrap();
    (
        condition.status,
        format!("{}: {}", condition.reason, condition.message),
    )
}

fn address(node: &Node, pod: &Pod) -> String {
    let request = cri::PodSandboxStatusRequest {
        pod_sandbox_id: pod.id.clone(),
        verbose: false,
    };
    node.cri()
        .pod_sandbox_status(request)
        .unwrap()
        .status
        .unwrap()
        .network
        .unwrap()
        .ip
}

fn page(address: &str) -> Option<String> {
    let address: SocketAddr = address.parse().unwrap();
    let mut connection = TcpStream::connect_timeout(&address, Duration::from_secs(2)).ok()?;
    connection.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
    connection.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
    let mut text = String::new();
    connection.read_to_string(&mut text).ok()?;
    text.contains("Welcome to nginx").then_some(text)
}

fn pods_reach_each_other_and_host_ports_lead_to_them(config: &str) {
    let node = node(config);
    let mut served = pod("web");
    served.port_mappings = vec![cri::PortMapping {
        container_port: 80,
        host_port: 12000,
        ..Default::default()
    }];
    let web = node.pod(served);
    node.launch(&web, container("nginx", NGINX, &[]));
    let ip = address(&node, &web);
    assert!(ip.starts_with("10.201."), "{ip}");
    eventually("the host reaches the pod", 10, || page(&format!("{ip}:80")));
    eventually("the host port on loopback", 10, || page("127.0.0.1:12000"));
    eventually("the host port on the node's address", 10, || {
        page("192.168.77.1:12000")
    });

    let client = node.pod(pod("client"));
    let id = node.launch(&client, container("client", BUSYBOX, &["sleep", "1000"]));
    assert_ne!(address(&node, &client), ip);
    let out = node.exec(&id, &["wget", "-q", "-O", "-", &format!("http://{ip}/")]);
    assert!(out.stdout.contains("Welcome to nginx"), "{out:?}");
    let out = node.exec(&id, &["ip", "-o", "addr", "show"]);
    assert!(
        out.stdout.contains("eth0") && out.stdout.contains("127.0.0.1"),
        "{out:?}"
    );
    let out = node.exec(&id, &["wget", "-q", "-O", "-", "http://192.168.77.1:12000/"]);
    assert!(
        out.stdout.contains("Welcome to nginx"),
        "a pod reaches the host port: {out:?}"
    );
}

#[test]
fn on_the_built_in_network() {
    pods_reach_each_other_and_host_ports_lead_to_them(BUILTIN);
}

#[test]
fn on_a_chain_that_runs_in_process() {
    pods_reach_each_other_and_host_ports_lead_to_them(NATIVE);
}

#[test]
fn on_a_chain_of_plugin_binaries() {
    pods_reach_each_other_and_host_ports_lead_to_them(BINARIES);
}

#[test]
fn addresses_are_given_back_and_unique() {
    let node = Node::start();
    let pods: Vec<Pod> = (0..12).map(|n| node.pod(pod(&format!("p{n}")))).collect();
    let mut addresses: Vec<String> = pods.iter().map(|pod| address(&node, pod)).collect();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), pods.len());
}

#[test]
fn names_are_resolved_as_the_pod_asks() {
    let node = Node::start();
    let mut config = pod("dns");
    config.hostname = "myhost".into();
    config.dns_config = Some(cri::DnsConfig {
        servers: vec!["10.10.10.10".into()],
        searches: vec!["google.com".into()],
        options: vec!["ndots:8".into()],
    });
    let pod = node.pod(config);
    let id = node.launch(&pod, container("dns", BUSYBOX, &["sleep", "1000"]));
    let out = node.exec(&id, &["cat", "/etc/resolv.conf"]).stdout;
    assert_eq!(
        out,
        "search google.com\nnameserver 10.10.10.10\noptions ndots:8\n"
    );
    assert_eq!(node.exec(&id, &["hostname"]).stdout, "myhost\n");
    let hosts = node.exec(&id, &["cat", "/etc/hosts"]).stdout;
    assert!(
        hosts.contains("127.0.0.1") && hosts.contains("localhost"),
        "{hosts}"
    );
}

#[test]
fn a_pod_on_the_hosts_network_sees_the_hosts_links() {
    let node = Node::start();
    let mut config = pod("host");
    let security = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
    security
        .namespace_options
        .as_mut()
        .unwrap()
        .set_network(cri::NamespaceMode::Node);
    let pod = node.pod(config);
    let mut config = container("host", BUSYBOX, &["sleep", "1000"]);
    let security = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
    security
        .namespace_options
        .as_mut()
        .unwrap()
        .set_network(cri::NamespaceMode::Node);
    let id = node.launch(&pod, config);
    let out = node.exec(&id, &["ip", "-o", "link", "show"]);
    assert!(out.stdout.contains("uplink"), "{out:?}");
}

/// As with containerd: a server need not be root for port 80, nor have a capability for `ping`.
#[test]
fn low_ports_and_ping_need_no_privilege_unless_the_pod_says_so() {
    let node = node(BUILTIN);
    let read = |id: &str, name: &str| {
        node.exec(id, &["cat", &format!("/proc/sys/net/ipv4/{name}")])
            .ok()
    };
    let id = node.launch(
        &node.pod(pod("plain")),
        container("plain", BUSYBOX, &["sleep", "1000"]),
    );
    assert_eq!(read(&id, "ip_unprivileged_port_start"), "0\n");
    assert_eq!(read(&id, "ping_group_range"), "0\t2147483647\n");

    let mut config = pod("own");
    let own = ("net.ipv4.ip_unprivileged_port_start", "1024");
    config.linux.as_mut().unwrap().sysctls = [(own.0.to_owned(), own.1.to_owned())].into();
    let id = node.launch(&node.pod(config), container("own", BUSYBOX, &["sleep", "1000"]));
    assert_eq!(read(&id, "ip_unprivileged_port_start"), "1024\n");
    assert_eq!(read(&id, "ping_group_range"), "0\t2147483647\n");
    node.remove_pods();
    node.assert_clean();
}

/// A plugin that is not there: its own words, and a pod that stays known until its network could be taken back.
#[test]
fn a_failing_plugin_gives_its_own_words_and_leaves_nothing() {
    let tools = criquet_tests::workspace().join(".work/bin/tools");
    let later = tempfile::tempdir().unwrap();
    let node = Node::configured(&format!(
        "[network]\nnative = false\nbin_dirs = [{tools:?}, {:?}]\n[network.builtin]\nenabled = false\n",
        later.path()
    ));
    let broken = CONFLIST.replace("host-local", "late-ipam");
    std::fs::write(node.place.folder.join("cni/10-test.conflist"), broken).unwrap();
    eventually("the conflist is read", 20, || ready(&node).0.then_some(()));
    let error = node.try_pod(pod("early")).unwrap_err();
    assert!(error.message().contains("late-ipam"), "{error:?}");
    let known = node
        .cri()
        .list_pod_sandbox(cri::ListPodSandboxRequest::default())
        .unwrap()
        .items;
    for pod in &known {
        assert_eq!(pod.state(), cri::PodSandboxState::SandboxNotready);
        let request = cri::StopPodSandboxRequest {
            pod_sandbox_id: pod.id.clone(),
        };
        let error = node.cri().stop_pod_sandbox(request).unwrap_err();
        assert!(error.message().contains("late-ipam"), "{error:?}");
    }
    // By another process: what this one had open for writing, a child of another test may still have, and then
    // it cannot be executed.
    let plugin = tools.join("host-local");
    let late = later.path().join("late-ipam");
    run("cp", &[plugin.to_str().unwrap(), late.to_str().unwrap()]).ok();
    known.iter().for_each(|pod| node.remove_pod(&pod.id));
}

/// As on a node with a kubelet: no configuration, no network, and Status says why; then it comes, changes and goes.
#[test]
fn the_network_comes_later() {
    for config in [NATIVE, BINARIES] {
        let node = Node::configured(config);
        let (is_ready, why) = ready(&node);
        let folder = node.place.folder.join("cni");
        assert!(!is_ready && why.contains(&folder.display().to_string()), "{why}");
        let error = node.try_pod(pod("early")).unwrap_err();
        assert!(
            error.message().contains("network") || error.message().contains("CNI"),
            "{error:?}"
        );
        // The host's network needs none.
        let mut host = pod("host");
        let security = host.linux.as_mut().unwrap().security_context.as_mut().unwrap();
        security
            .namespace_options
            .as_mut()
            .unwrap()
            .set_network(cri::NamespaceMode::Node);
        node.pod(host);
        let file = folder.join("10-test.conflist");
        // Half a file is not a configuration yet.
        std::fs::write(&file, &CONFLIST[..CONFLIST.len() / 2]).unwrap();
        std::thread::sleep(Duration::from_millis(200));
        assert!(!ready(&node).0);
        std::fs::write(&file, CONFLIST).unwrap();
        eventually("the network is ready", 20, || ready(&node).0.then_some(()));
        let first = node.pod(pod("first"));
        assert!(address(&node, &first).starts_with("10.201."));
        std::fs::write(
            &file,
            CONFLIST.replace(
                "\"10.201.0.0/16\"",
                "\"10.201.0.0/16\", \"rangeStart\": \"10.201.128.0\"",
            ),
        )
        .unwrap();
        eventually("a pod of the changed network", 20, || {
            let pod = node.pod(pod("changed"));
            let third: u8 = address(&node, &pod).split('.').nth(2)?.parse().ok()?;
            node.remove_pod(&pod.id);
            (third >= 128).then_some(())
        });
        std::fs::remove_file(&file).unwrap();
        eventually("the network is gone", 20, || (!ready(&node).0).then_some(()));
        // What it made it also takes away, without the file.
        node.remove_pod(&first.id);
    }
}

/// CVE-2021-20206: a plugin is a name in the plugin folders, and not a path.
#[test]
fn cve_2021_20206_plugin_types_are_no_paths() {
    let node = Node::configured(BINARIES);
    let folder = node.place.folder.join("cni");
    for (number, kind) in [
        "../../../../bin/sh",
        "/bin/sh",
        "a/b",
        "",
        ".",
        "..",
        "bridge/../bridge",
    ]
    .iter()
    .enumerate()
    {
        for file in std::fs::read_dir(&folder).unwrap().flatten() {
            std::fs::remove_file(file.path()).unwrap();
        }
        let text = CONFLIST.replace("\"type\": \"bridge\"", &format!("\"type\": {kind:?}"));
        std::fs::write(folder.join(format!("{number}.conflist")), text).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        assert!(node.try_pod(pod("bad")).is_err(), "{kind:?}");
    }
    std::fs::remove_dir_all(&folder).unwrap();
    node.assert_clean();
}

/// Runs `script` as root in the pod's network namespace, with the host's programs: what a container with NET_ADMIN can.
fn in_pods_network(node: &Node, id: &str, script: &str) -> Output {
    let request = cri::ContainerStatusRequest {
        container_id: id.into(),
        verbose: true,
    };
    let info = node.cri().container_status(request).unwrap().info;
    let info: serde_json::Value = serde_json::from_str(&info["info"]).unwrap();
    let pid = info["pid"].to_string();
    run("nsenter", &["--net", "--target", &pid, "sh", "-c", script])
}

/// A neighbour that sends packets for 127.0.0.1 to the host's side reaches no service that listens on loopback.
#[test]
fn cve_2020_8558_loopback_of_the_host_is_out_of_reach() {
    for config in [BUILTIN, NATIVE] {
        let node = node(config);
        let mut served = pod("web");
        served.port_mappings = vec![cri::PortMapping {
            container_port: 80,
            host_port: 12000,
            ..Default::default()
        }];
        let web = node.pod(served);
        node.launch(&web, container("nginx", NGINX, &[]));
        eventually("the host port on loopback", 10, || page("127.0.0.1:12000"));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let attacker = node.pod(pod("attacker"));
        let id = node.launch(&attacker, container("attacker", BUSYBOX, &["sleep", "1000"]));
        let ip = address(&node, &attacker);
        let script = format!(
            "sysctl -qw net.ipv4.conf.all.route_localnet=1 net.ipv4.conf.eth0.route_localnet=1 && \
             ip rule add pref 100 lookup local && ip rule del pref 0 && ip route add table 7 127.0.0.1 via 10.201.0.1 src {ip} && \
             ip rule add pref 1 to 127.0.0.1 lookup 7 && ip route get 127.0.0.1 && \
             timeout 2 bash -c 'exec 3<>/dev/tcp/127.0.0.1/{port}'"
        );
        let out = in_pods_network(&node, &id, &script);
        assert!(
            out.stdout.contains("via 10.201.0.1"),
            "the packets go to the host: {out:?}"
        );
        assert_ne!(out.code, 0, "{out:?}");
        assert!(listener.accept().is_err(), "somebody came through");
        // The gateway's own address is no way to it either.
        let out = node.exec(&id, &["nc", "-w", "1", "10.201.0.1", &port.to_string()]);
        assert_ne!(out.code, 0, "{out:?}");
    }
}

/// CVE-2025-67499, CVE-2019-9946: a host port with an address leaves other addresses alone.
#[test]
fn cve_2025_67499_a_host_ports_address_counts() {
    for config in [BUILTIN, NATIVE, BINARIES] {
        let node = node(config);
        let mut served = pod("web");
        served.port_mappings = vec![cri::PortMapping {
            container_port: 80,
            host_port: 12000,
            host_ip: "192.168.77.1".into(),
            ..Default::default()
        }];
        let web = node.pod(served);
        node.launch(&web, container("nginx", NGINX, &[]));
        eventually("the host port on its address", 10, || page("192.168.77.1:12000"));
        assert!(page("127.0.0.1:12000").is_none());
        let client = node.pod(pod("client"));
        let id = node.launch(&client, container("client", BUSYBOX, &["sleep", "1000"]));
        let get = |patience: &str, address: &str| {
            let url = format!("http://{address}:12000/");
            node.exec(&id, &["timeout", patience, "wget", "-q", "-O", "-", &url])
        };
        let out = get("100", "192.168.77.1");
        assert_eq!(out.code, 0, "{config:?}: {out:?}");
        // Another host's port of the same number, and the bridge's: not caught.
        for address in ["10.201.0.1", "192.168.77.2"] {
            assert_ne!(get("2", address).code, 0, "{address}");
        }
    }
}

/// CVE-2020-10749: a pod that plays router is listened to neither by the host nor by its neighbours.
#[test]
fn cve_2020_10749_router_advertisements_are_not_accepted() {
    for config in [BUILTIN, NATIVE, BINARIES] {
        let node = node(config);
        let pod = node.pod(pod("ra"));
        let id = node.launch(&pod, container("ra", BUSYBOX, &["sleep", "1000"]));
        // The kernel's own IPv6 settings of this thread's namespace; without IPv6 there is nothing to accept.
        let read = |link: &str| run("cat", &[&format!("/proc/sys/net/ipv6/conf/{link}/accept_ra")]).stdout;
        let links = criquet_tests::host::links();
        let host_side: Vec<&String> = links
            .iter()
            .filter(|name| name.starts_with("veth") || *name == "cqtest0")
            .collect();
        assert_eq!(host_side.len(), 2, "{links:?}");
        if std::path::Path::new("/proc/sys/net/ipv6").exists() {
            assert!(host_side.iter().all(|link| read(link) == "0\n"), "{host_side:?}");
            if config != BINARIES {
                let inside = node.exec(&id, &["cat", "/proc/sys/net/ipv6/conf/eth0/accept_ra"]);
                assert_eq!(inside.stdout, "0\n", "{inside:?}");
            }
        }
    }
}
