//! Many sessions, opened and dropped: nothing of them stays.

use std::io;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};

use criquet_tests::spdy::SpdySession;
use criquet_tests::{BUSYBOX, Node, container, cri, eventually, pod};

use crate::forward::listening;
use crate::streaming::TRANSPORTS;

/// As many as a node sees in days.
const SESSIONS: usize = 1000;
/// Clients at once.
const CLIENTS: usize = 8;

fn exec(id: &str, tty: bool, command: &[&str]) -> cri::ExecRequest {
    cri::ExecRequest {
        container_id: id.into(),
        cmd: command.iter().map(ToString::to_string).collect(),
        tty,
        stdin: true,
        stdout: true,
        stderr: !tty,
    }
}

/// Opens a session of the kind that `number` chooses, waits until it works, and drops it.
fn open_and_drop(node: &Node, pod: &str, container: &str, number: usize) -> io::Result<()> {
    let url = match number % 4 {
        0 | 1 => {
            let request = exec(
                container,
                number % 4 == 1,
                &["sh", "-c", "echo here; exec sleep 54321"],
            );
            node.cri().exec(request).unwrap().url
        }
        2 => {
            let request = cri::AttachRequest {
                container_id: container.into(),
                stdin: true,
                stdout: true,
                stderr: true,
                tty: false,
            };
            node.cri().attach(request).unwrap().url
        }
        _ => {
            let request = cri::PortForwardRequest {
                pod_sandbox_id: pod.into(),
                port: vec![],
            };
            node.cri().port_forward(request).unwrap().url
        }
    };
    if number % 4 == 3 {
        let mut session = SpdySession::open(&url, "portforward.k8s.io")?;
        for kind in ["error", "data"] {
            session.stream(&[("streamtype", kind), ("port", "9000"), ("requestid", "0")])?;
        }
        session.send(3, b"echo me\n", false)?;
        session.data()?;
        return Ok(());
    }
    let mut session = SpdySession::open(&url, "v4.channel.k8s.io")?;
    let last = if number % 4 == 1 { "resize" } else { "stderr" };
    for kind in ["error", "stdin", "stdout", last] {
        session.stream(&[("streamtype", kind)])?;
    }
    session.send(3, b"echo me\n", false)?;
    session.data()?;
    Ok(())
}

#[test]
fn a_thousand_sessions_leave_nothing() {
    let node = Node::start();
    let pod = node.pod(pod("thousand"));
    let script = "nc -ll -p 9000 -e cat </dev/null >/dev/null 2>&1 & exec cat";
    let mut config = container("thousand", BUSYBOX, &["sh", "-c", script]);
    config.stdin = true;
    let id = node.launch(&pod, config);
    listening(&node, &id, &[9000]);
    let served = |from: usize, to: usize| {
        let next = AtomicUsize::new(from);
        std::thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= to {
                            return;
                        }
                        if let Err(error) = open_and_drop(&node, &pod.id, &id, number) {
                            panic!("session {number}: {error}");
                        }
                    }
                });
            }
        });
    };
    let gone = || {
        eventually("the execs are gone", 60, || {
            (node.exec(&id, &["pgrep", "-f", "sleep 54321"]).code == 1).then_some(())
        });
    };
    served(0, 2 * CLIENTS);
    gone();
    let before = node.census();
    served(0, SESSIONS);
    gone();
    node.assert_settles(&before);
    assert_eq!(node.exec(&id, &["echo", "well"]).stdout, "well\n");
    assert_eq!(node.status(&id).state(), cri::ContainerState::ContainerRunning);
}

#[test]
fn a_thousand_urls_that_nobody_uses_leave_nothing() {
    let node = Node::start();
    let pod = node.pod(pod("unused"));
    let id = node.launch(&pod, container("unused", BUSYBOX, &["sleep", "1000"]));
    node.crictl(&["exec", &id, "true"]).ok();
    let before = node.census();
    let mut urls = std::collections::BTreeSet::new();
    for _ in 0..SESSIONS {
        let url = node
            .cri()
            .exec(exec(&id, false, &["sleep", "54321"]))
            .unwrap()
            .url;
        assert!(urls.insert(url), "a url was given twice");
    }
    node.assert_settles(&before);
    assert_eq!(node.exec(&id, &["pgrep", "-f", "sleep 54321"]).code, 1);
    // They are in nobody's way.
    assert_eq!(node.crictl(&["exec", &id, "echo", "next"]).ok(), "next\n");
}

#[test]
fn a_client_that_vanishes_takes_its_process_with_it() {
    let node = Node::start();
    let pod = node.pod(pod("vanish"));
    let id = node.launch(
        &pod,
        container("vanish", BUSYBOX, &["sh", "-c", "sleep 100000 & wait"]),
    );
    let started = node.status(&id).started_at;
    node.crictl(&["exec", &id, "true"]).ok();
    let before = node.census();
    for transport in TRANSPORTS {
        for script in [
            "sleep 54321",
            "cat",
            "trap '' HUP INT TERM PIPE; while :; do sleep 54321; done",
            "while :; do echo 54321; done",
            "sleep 54321 & sleep 54321",
        ] {
            let mut child = node
                .crictl_command(&[
                    "exec",
                    "-r",
                    transport,
                    "-i",
                    &id,
                    "sh",
                    "-c",
                    &format!("echo {script:?} >/dev/null; {script}"),
                ])
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let running = || {
                node.exec(&id, &["pgrep", "-f", "^sh -c echo|^sleep 54321|^cat"])
                    .code
                    == 0
            };
            eventually("the command runs", 30, || running().then_some(()));
            child.kill().unwrap();
            child.wait().unwrap();
            eventually(&format!("{transport}: {script:?} is gone"), 30, || {
                (!running()).then_some(())
            });
        }
    }
    node.assert_settles(&before);
    let status = node.status(&id);
    assert_eq!(
        (status.state(), status.started_at),
        (cri::ContainerState::ContainerRunning, started)
    );
}
