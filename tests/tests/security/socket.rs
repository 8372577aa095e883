//! The daemon's and the shims' sockets, and who gets to them.

use std::os::unix::fs::{FileTypeExt, MetadataExt};

use criquet_tests::{BUSYBOX, Node, container, cri, host, pod, run};

use crate::probe::{pod_security, security};

/// Unix sockets of the calling thread's network namespace that are not files.
fn abstract_sockets() -> Vec<String> {
    let text = std::fs::read_to_string("/proc/thread-self/net/unix").unwrap();
    text.lines()
        .filter_map(|line| line.split_whitespace().nth(7))
        .filter(|name| name.starts_with('@'))
        .map(String::from)
        .collect()
}

/// A pod on the host's network sees the host's abstract sockets: there is none of ours.
#[test]
fn cve_2020_15257_no_abstract_sockets() {
    let node = Node::start();
    let mut config = pod("host");
    pod_security(&mut config)
        .namespace_options
        .as_mut()
        .unwrap()
        .set_network(cri::NamespaceMode::Node);
    let pod = node.pod(config);
    let mut config = container("host", BUSYBOX, &["sleep", "1000"]);
    security(&mut config)
        .namespace_options
        .as_mut()
        .unwrap()
        .set_network(cri::NamespaceMode::Node);
    let id = node.launch(&pod, config);
    let seen = node.exec(&id, &["cat", "/proc/net/unix"]).stdout;
    assert!(
        seen.contains("criquet.sock"),
        "it is on the host's network: {seen}"
    );
    let foreign: Vec<&str> = seen
        .split_whitespace()
        .filter(|word| word.starts_with('@'))
        .collect();
    assert!(foreign.is_empty(), "{foreign:?}");
    assert!(abstract_sockets().is_empty(), "{:?}", abstract_sockets());
    // The sockets that are files are on a file system that the container does not have.
    for word in seen
        .split_whitespace()
        .filter(|word| word.starts_with('/') && word.contains("criquet"))
    {
        assert_ne!(node.exec(&id, &["test", "-e", word]).code, 0, "{word}");
    }
}

#[test]
fn sockets_are_roots_alone() {
    let node = Node::start();
    let pod = node.pod(pod("modes"));
    node.launch(&pod, container("modes", BUSYBOX, &["sleep", "1000"]));
    let mut sockets = 0;
    for path in host::tree(&node.place.state) {
        // Something short-lived may have gone since it was listed.
        let Ok(seen) = std::fs::symlink_metadata(&path) else {
            continue;
        };
        if seen.file_type().is_socket() {
            sockets += 1;
            let folder = std::fs::metadata(std::path::Path::new(&path).parent().unwrap()).unwrap();
            assert_eq!(
                (folder.mode() & 0o777, folder.uid()),
                (0o700, 0),
                "folder of {path}"
            );
        }
    }
    assert!(sockets >= 2, "the daemon's and a shim's");
    let mode = std::fs::metadata(node.socket()).unwrap().mode();
    assert_eq!(mode & 0o777, 0o600);
    let socket = node.socket().display().to_string();
    let nobody = [
        "--reuid",
        "65534",
        "--regid",
        "65534",
        "--clear-groups",
        "test",
        "-S",
    ];
    let out = run("setpriv", &[&nobody[..], &[&socket]].concat());
    assert_ne!(out.code, 0, "nobody sees it");
    assert_eq!(run("test", &["-S", &socket]).code, 0);
}

/// The streaming server's address is not to be had from the network, and a container finds no door in its own.
#[test]
fn the_streaming_server_is_on_loopback() {
    let node = Node::start();
    let pod = node.pod(pod("stream"));
    let id = node.launch(&pod, container("stream", BUSYBOX, &["sleep", "1000"]));
    let request = cri::ExecRequest {
        container_id: id.clone(),
        cmd: vec!["true".into()],
        stdout: true,
        ..Default::default()
    };
    let url = node.cri().exec(request).unwrap().url;
    let address = url.trim_start_matches("http://").split('/').next().unwrap();
    assert!(address.starts_with("127.0.0.1:"), "{url}");
    let token = url.rsplit('/').next().unwrap();
    // 128 bits of chance in any usual alphabet.
    assert!(
        token.len() >= 22
            && token
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)),
        "{url}"
    );
    let port: u16 = address.rsplit(':').next().unwrap().parse().unwrap();
    for host in ["192.168.77.1", "10.201.0.1"] {
        assert!(
            std::net::TcpStream::connect((host, port)).is_err(),
            "{host}:{port}"
        );
    }
    let out = node.exec(
        &id,
        &[
            "timeout",
            "2",
            "wget",
            "-q",
            "-O",
            "-",
            &format!("http://10.201.0.1:{port}/"),
        ],
    );
    assert_ne!(out.code, 0, "{out:?}");
}
