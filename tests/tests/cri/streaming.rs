//! exec, attach and port-forward through crictl, over both transports.

use std::io::Write;
use std::process::Stdio;

use criquet_tests::{BUSYBOX, Node, container, pod};

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
