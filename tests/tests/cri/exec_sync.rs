//! ExecSync at its limits.

use std::time::{Duration, Instant};

use criquet_tests::{BUSYBOX, Node, container, cri, eventually, pod};
use tonic::Code;

/// What a kubelet's gRPC takes in one answer; the daemon leaves some bytes for what is around the streams.
const OUTPUT_MAX: usize = (16 << 20) - 64;
/// PID 1 of a container whose exec's children are reaped when they are orphans.
const REAPER: [&str; 3] = ["sh", "-c", "sleep 100000 & wait"];

fn request(id: &str, script: &str, timeout: i64) -> cri::ExecSyncRequest {
    cri::ExecSyncRequest {
        container_id: id.into(),
        cmd: ["sh", "-c", script].map(String::from).to_vec(),
        timeout,
    }
}

#[test]
fn output_is_cut_at_the_limit_and_the_daemon_stays_small() {
    let node = Node::start();
    let pod = node.pod(pod("cut"));
    let id = node.launch(&pod, container("cut", BUSYBOX, &["sleep", "1000"]));
    let (out, err) = (
        "head -c 200000000 /dev/zero | tr '\\0' o;",
        "head -c 200000000 /dev/zero | tr '\\0' e >&2;",
    );
    let before = node.resident();
    let mut largest = 0;
    // Much more than fits: the command is not blocked, and its end is told.
    for (script, kept) in [
        (format!("{out} exit 5"), (OUTPUT_MAX, 0)),
        (format!("{err} exit 5"), (0, OUTPUT_MAX)),
        (format!("{out} {err} exit 5"), (OUTPUT_MAX / 2, OUTPUT_MAX / 2)),
        (format!("echo few; {err} exit 5"), (4, OUTPUT_MAX - 4)),
    ] {
        let told = node.cri().exec_sync(request(&id, &script, 110)).unwrap();
        assert_eq!(told.exit_code, 5, "{script}");
        assert_eq!((told.stdout.len(), told.stderr.len()), kept, "{script}");
        assert!(told.stderr.iter().all(|byte| *byte == b'e'), "{script}");
        largest = largest.max(node.resident());
    }
    // Both streams kept, encoded and on their way out; not the 400 MB that were written.
    let grown = largest.saturating_sub(before);
    assert!(grown < 200 << 20, "the daemon grew by {} MiB", grown >> 20);
}

#[test]
fn a_timeout_leaves_no_process() {
    let node = Node::start();
    let pod = node.pod(pod("late"));
    let id = node.launch(&pod, container("late", BUSYBOX, &REAPER));
    node.exec(&id, &["true"]);
    let before = node.census();
    for script in [
        "sleep 7777",
        "trap '' TERM INT; sleep 7777 & sleep 7777",
        "sleep 7777 & wait",
    ] {
        let begun = Instant::now();
        let error = node.cri().exec_sync(request(&id, script, 1)).unwrap_err();
        let took = begun.elapsed();
        // The daemon's word, not that of a test that waited in vain.
        assert!(
            error.code() == Code::DeadlineExceeded && !error.message().contains("the test's own"),
            "{script}: {error:?}"
        );
        assert!(took >= Duration::from_millis(900), "{script}: {took:?}");
        eventually(script, 20, || {
            (node.exec(&id, &["pgrep", "-f", "sleep 7777"]).code == 1).then_some(())
        });
    }
    node.assert_settles(&before);
}

#[test]
fn a_child_that_holds_the_output_does_not_hold_the_answer() {
    let node = Node::start();
    let pod = node.pod(pod("child"));
    let id = node.launch(&pod, container("child", BUSYBOX, &["sleep", "1000"]));
    let out = node
        .cri()
        .exec_sync(request(&id, "sleep 2000 & echo said; exit 6", 120))
        .unwrap();
    assert_eq!((out.exit_code, out.stdout.as_slice()), (6, b"said\n".as_slice()));
    // It was not waited for: it is still there.
    node.exec(&id, &["pgrep", "-f", "^sleep 2000"]).ok();
}

#[test]
fn two_hundred_execs_leave_no_zombie_and_no_descriptor() {
    let node = Node::start();
    let pod = node.pod(pod("many"));
    let id = node.launch(&pod, container("many", BUSYBOX, &REAPER));
    node.exec(&id, &["true"]);
    let before = node.census();
    for number in 0..200 {
        let code = number % 256;
        let out = node
            .cri()
            .exec_sync(request(&id, &format!("echo {number}; exit {code}"), 60))
            .unwrap();
        assert_eq!(
            (out.exit_code, out.stdout),
            (code, format!("{number}\n").into_bytes())
        );
    }
    node.assert_settles(&before);
    let states = node.exec(&id, &["sh", "-c", "cat /proc/[0-9]*/stat"]).stdout;
    assert!(!states.lines().any(|line| line.contains(") Z ")), "{states}");
}

#[test]
fn what_cannot_be_executed_is_said() {
    let node = Node::start();
    let pod = node.pod(pod("none"));
    let id = node.launch(&pod, container("none", BUSYBOX, &["sleep", "1000"]));
    let request = cri::ExecSyncRequest {
        container_id: id.clone(),
        cmd: vec!["/no/such/program".into()],
        timeout: 30,
    };
    let error = node.cri().exec_sync(request).unwrap_err();
    assert!(error.message().contains("/no/such/program"), "{error:?}");
    for (transport, word) in [("spdy", "/no/such/program"), ("websocket", "/no/such/program")] {
        let out = node.crictl(&["exec", "-r", transport, &id, "/no/such/program"]);
        assert!(out.code != 0 && out.stderr.contains(word), "{transport}: {out:?}");
    }
}
