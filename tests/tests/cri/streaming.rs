//! exec, attach and port-forward through crictl, over both transports.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Stdio;

use criquet_tests::{BUSYBOX, NGINX, Node, container, eventually, pod};

pub(crate) const TRANSPORTS: [&str; 2] = ["spdy", "websocket"];

#[test]
fn exec_carries_stdin_and_the_exit_code() {
    let node = Node::start();
    let pod = node.pod(pod("exec"));
    let id = node.launch(&pod, container("exec", BUSYBOX, &["sleep", "1000"]));
    for transport in TRANSPORTS {
        let mut child = node
            .crictl_command(&["exec", "-r", transport, "-i", &id, "sh", "-c", "wc -c; exit 9"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(&vec![b'x'; 300_000]).unwrap();
        drop(stdin);
        let out = child.wait_with_output().unwrap();
        assert_eq!(
            String::from_utf8_lossy(&out.stdout).trim(),
            "300000",
            "{transport}: {out:?}"
        );
        assert!(!out.status.success(), "{transport}");
    }
}

#[test]
fn exec_carries_much_output() {
    let node = Node::start();
    let pod = node.pod(pod("much"));
    let id = node.launch(&pod, container("much", BUSYBOX, &["sleep", "1000"]));
    for transport in TRANSPORTS {
        let out = node
            .crictl(&[
                "exec",
                "-r",
                transport,
                &id,
                "sh",
                "-c",
                "head -c 3000000 /dev/zero | tr '\\0' y",
            ])
            .ok();
        assert_eq!(out.len(), 3_000_000, "{transport}");
    }
}

#[test]
fn a_port_is_forwarded() {
    let node = Node::start();
    let pod = node.pod(pod("forward"));
    node.launch(&pod, container("nginx", NGINX, &[]));
    for (transport, port) in TRANSPORTS.iter().zip(["18080", "18081"]) {
        let mut child = node
            .crictl_command(&["port-forward", "-r", transport, &pod.id, &format!("{port}:80")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let page = eventually("a page through the forwarded port", 15, || {
            let mut connection = TcpStream::connect(format!("127.0.0.1:{port}")).ok()?;
            connection.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
            let mut page = String::new();
            connection.read_to_string(&mut page).ok()?;
            page.contains("Welcome to nginx").then_some(page)
        });
        assert!(page.starts_with("HTTP/1.1 200"), "{transport}: {page}");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
