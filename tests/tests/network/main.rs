//! Pods' addresses, names and ports, on the built-in network, the native chain and plugin binaries.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::let_underscore_must_use)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use criquet_tests::{BUSYBOX, NGINX, Node, Pod, container, cri, eventually, pod};

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
    let mut connection = TcpStream::connect_timeout(&address, Duration::from_millis(500)).ok()?;
    connection.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
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

#[test]
fn a_failing_plugin_gives_its_own_words_and_leaves_nothing() {
    let node = Node::configured(BINARIES);
    let broken = CONFLIST.replace("host-local", "no-such-ipam");
    std::fs::write(node.place.folder.join("cni/10-test.conflist"), broken).unwrap();
    let error = eventually("the conflist is read", 20, || {
        let error = node.try_pod(pod("broken")).unwrap_err();
        error.message().contains("no-such-ipam").then_some(error)
    });
    assert!(!error.message().is_empty());
    node.assert_clean();
}
