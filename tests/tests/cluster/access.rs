//! kubectl exec, attach, cp, port-forward, logs, debug: bytes through kubelet's and criquet's streaming servers.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::Stdio;

use serde_json::json;

use crate::kube::{BUSYBOX, POD_S, SLEEP, Space, folder, in_node, shell, web};

#[test]
fn exec_carries_input_output_and_the_exit_code() {
    let space = Space::new("exec");
    space.shell("target", SLEEP);
    let mut child = space
        .command(&[
            "exec",
            "-i",
            "target",
            "--",
            "sh",
            "-c",
            "wc -c; echo problem >&2; exit 3",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start kubectl");
    let mut stdin = child.stdin.take().expect("stdin");
    let writer = std::thread::spawn(move || stdin.write_all(&vec![b'x'; 3_000_000]));
    let out = child.wait_with_output().expect("kubectl exec");
    writer.join().expect("join").expect("write");
    assert_eq!(out.status.code(), Some(3));
    assert_eq!(String::from_utf8_lossy(&out.stdout).trim(), "3000000");
    assert!(String::from_utf8_lossy(&out.stderr).contains("problem"));
}

#[test]
fn exec_has_a_terminal_when_asked() {
    let space = Space::new("terminal");
    space.shell("target", SLEEP);
    // `script` gives kubectl a terminal of its own.
    let kubectl = criquet_tests::workspace().join(".work/bin/tools/kubectl");
    // The size comes beside the command's start, and on a busy machine after it.
    let inside = "tty; for n in $(seq 600); do [ \"$(stty size)\" != \"33 111\" ] || break; sleep 0.2; done; stty size";
    let line = format!(
        "stty rows 33 cols 111; exec {} -n {} exec -it target -- sh -c '{inside}'",
        kubectl.display(),
        space.name
    );
    let out = in_node("script", &["-qec", &line, "/dev/null"])
        .output()
        .expect("run script");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(text.contains("/dev/pts/") && text.contains("33 111"), "{text}");
}

#[test]
fn attach_talks_to_the_first_process() {
    let space = Space::new("attach");
    let mut container = shell("while read -r line; do echo \"got $line\"; done; echo ended");
    container["stdin"] = json!(true);
    container["stdinOnce"] = json!(true);
    space.pod(
        "reader",
        json!({"restartPolicy": "Never", "containers": [container]}),
    );
    let mut child = space
        .command(&["attach", "-i", "reader"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("start kubectl");
    child
        .stdin
        .take()
        .expect("stdin")
        .write_all(b"one\ntwo\n")
        .expect("write");
    let out = child.wait_with_output().expect("kubectl attach");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(text.contains("got one") && text.contains("got two"), "{text}");
    space.phase("reader", "Succeeded");
    assert!(space.logs("reader").ends_with("ended\n"));
}

#[test]
fn files_are_copied_both_ways() {
    let space = Space::new("copy");
    space.shell("target", SLEEP);
    let local = folder().join("copy");
    // Of an earlier run on the same cluster.
    let _ = std::fs::remove_dir_all(&local);
    std::fs::create_dir_all(local.join("tree/deep")).expect("create");
    let data: Vec<u8> = (0..2_000_000_u32).flat_map(|n| n.to_le_bytes()).collect();
    std::fs::write(local.join("tree/deep/data"), &data).expect("write");
    std::fs::write(local.join("tree/small"), "small").expect("write");
    let tree = local.join("tree").to_string_lossy().into_owned();
    let back = local.join("back").to_string_lossy().into_owned();
    space.ok(&["cp", &tree, "target:/tmp/tree"]);
    assert_eq!(space.exec("target", &["cat", "/tmp/tree/small"]), "small");
    space.ok(&["cp", "target:/tmp/tree", &back]);
    assert!(
        std::fs::read(local.join("back/deep/data")).expect("read") == data,
        "the copy differs"
    );
}

#[test]
fn port_forward_reaches_a_server_in_the_pod() {
    let space = Space::new("forward");
    space.pod("server", json!({"containers": [web(8080)]}));
    let mut child = space
        .command(&["port-forward", "pod/server", ":8080"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("start kubectl");
    let mut line = String::new();
    // Open until the end: kubectl writes a line a connection, and a closed pipe would end it.
    let mut told = BufReader::new(child.stdout.take().expect("stdout"));
    told.read_line(&mut line).expect("read");
    let port = line
        .split("127.0.0.1:")
        .nth(1)
        .and_then(|rest| rest.split(' ').next())
        .expect("a port");
    let url = format!("http://127.0.0.1:{port}/hostname");
    for _ in 0..5 {
        let out = in_node("curl", &["-s", "--max-time", "120", &url])
            .output()
            .expect("run curl");
        assert_eq!(String::from_utf8_lossy(&out.stdout), "server");
    }
    child.kill().expect("kill kubectl");
    child.wait().expect("wait");
}

#[test]
fn logs_follow_until_the_end() {
    let space = Space::new("follow");
    space.create_pod(
        "speaker",
        json!({
            "restartPolicy": "Never",
            "containers": [shell("for i in 1 2 3 4 5 6; do echo line $i; sleep 1; done")],
        }),
    );
    space.until("the first line", POD_S, || {
        (space.kubectl(&["logs", "speaker"]).stdout.contains("line 1")).then_some(())
    });
    let mut child = space
        .command(&["logs", "-f", "speaker"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("start kubectl");
    let mut text = String::new();
    child
        .stdout
        .take()
        .expect("stdout")
        .read_to_string(&mut text)
        .expect("read");
    child.wait().expect("wait");
    assert_eq!(text, "line 1\nline 2\nline 3\nline 4\nline 5\nline 6\n");
}

#[test]
fn debug_adds_a_container_that_sees_the_target() {
    let space = Space::new("debug");
    space.shell("target", "exec sleep 98765");
    space.ok(&[
        "debug",
        "target",
        "--image",
        BUSYBOX,
        "--target=main",
        "--container=probe",
        "--profile=general",
        "--",
        "sh",
        "-c",
        SLEEP,
    ]);
    space.until("the ephemeral container runs", POD_S, || {
        space.container("target", "probe")["state"]["running"]
            .is_object()
            .then_some(())
    });
    let seen = space.ok(&[
        "exec",
        "target",
        "-c",
        "probe",
        "--",
        "pgrep",
        "-f",
        "sleep 98765",
    ]);
    assert!(!seen.trim().is_empty());
}
