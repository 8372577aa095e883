//! Attachments without a terminal: several, slow, gone.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, ChildStdout, Stdio};

use criquet_tests::spdy::SpdySession;
use criquet_tests::{BUSYBOX, Node, container, cri, eventually, pod};

use crate::streaming::TRANSPORTS;

/// A `crictl attach` that is killed with the test.
struct Attached(Child);

impl Attached {
    fn start(node: &Node, transport: &str, id: &str) -> Attached {
        let child = node
            .crictl_command(&["attach", "-r", transport, "-i", id])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        Attached(child.unwrap())
    }

    fn lines(&mut self) -> BufReader<ChildStdout> {
        BufReader::new(self.0.stdout.take().unwrap())
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn listener(id: &str, command: &[&str], stdin_once: bool) -> cri::ContainerConfig {
    let mut config = container(id, BUSYBOX, command);
    (config.stdin, config.stdin_once) = (true, stdin_once);
    config
}

#[test]
fn two_attachers_see_the_same_and_either_may_type() {
    let node = Node::start();
    let pod = node.pod(pod("two"));
    let script = "while read -r x; do echo out:$x; echo err:$x >&2; done; echo over";
    let id = node.launch(&pod, listener("two", &["sh", "-c", script], false));
    let mut attached: Vec<Attached> = TRANSPORTS
        .iter()
        .map(|t| Attached::start(&node, t, &id))
        .collect();
    let mut outputs: Vec<_> = attached.iter_mut().map(Attached::lines).collect();
    // An attachment has begun when its input comes back to it.
    let mut next = |index: usize| {
        let mut line = String::new();
        assert_ne!(
            outputs[index].read_line(&mut line).unwrap(),
            0,
            "attacher {index} ended"
        );
        line
    };
    let mut type_in = |index: usize, text: &str| {
        let input = attached[index].0.stdin.as_mut().unwrap();
        // In one piece: two who type at once take turns by pieces.
        input.write_all(format!("{text}\n").as_bytes()).unwrap();
    };
    for index in [0, 1] {
        type_in(index, "hello");
        while next(index) != "out:hello\n" {}
    }
    type_in(0, "first");
    type_in(1, "second");
    for index in [0, 1] {
        let mut seen = Vec::new();
        while seen.len() < 2 {
            let line = next(index);
            if line != "out:hello\n" {
                seen.push(line);
            }
        }
        seen.sort();
        assert_eq!(seen, ["out:first\n", "out:second\n"], "attacher {index}");
    }
    // One leaves: its end of input is not the container's, whose stdin stays open for the next.
    drop(attached.remove(0));
    let input = attached[0].0.stdin.as_mut().unwrap();
    writeln!(input, "third").unwrap();
    let mut line = String::new();
    outputs[1].read_line(&mut line).unwrap();
    assert_eq!(line, "out:third\n");
    assert_eq!(node.status(&id).state(), cri::ContainerState::ContainerRunning);
}

#[test]
fn stdin_once_ends_the_container_s_input_with_its_first_attacher_s() {
    let node = Node::start();
    let pod = node.pod(pod("once"));
    for transport in TRANSPORTS {
        let name = format!("once-{transport}");
        let id = node.launch(
            &pod,
            listener(&name, &["sh", "-c", "cat; echo over; exit 4"], true),
        );
        let mut attached = Attached::start(&node, transport, &id);
        let mut input = attached.0.stdin.take().unwrap();
        input.write_all(b"all there is\n").unwrap();
        drop(input);
        let mut output = String::new();
        attached
            .0
            .stdout
            .take()
            .unwrap()
            .read_to_string(&mut output)
            .unwrap();
        assert_eq!(output, "all there is\nover\n", "{transport}");
        assert_eq!(node.wait_exit(&id, 30).exit_code, 4, "{transport}");
    }
}

#[test]
fn a_container_that_never_stops_talking_is_attached_to() {
    let node = Node::start();
    let pod = node.pod(pod("talk"));
    let script = "i=0; while :; do i=$((i+1)); echo line $i of many more; done";
    let id = node.launch(&pod, listener("talk", &["sh", "-c", script], false));
    let before = node.census();
    for transport in TRANSPORTS {
        let mut attached = Attached::start(&node, transport, &id);
        let mut lines = attached.lines().lines().map(Result::unwrap);
        let number = |line: &str| line.split(' ').nth(1).and_then(|n| n.parse::<u64>().ok());
        // The first may be a part of a line; from then on none is missing.
        let first = lines
            .by_ref()
            .find_map(|line| number(&line).filter(|_| line.ends_with("more")))
            .unwrap();
        for expected in first + 1..first + 5000 {
            assert_eq!(number(&lines.next().unwrap()), Some(expected), "{transport}");
        }
    }
    node.assert_settles(&before);
    assert_eq!(node.status(&id).state(), cri::ContainerState::ContainerRunning);
}

#[test]
fn an_attacher_that_reads_nothing_does_not_stop_the_container_for_ever() {
    let node = Node::start();
    let pod = node.pod(pod("slow"));
    let script =
        "i=0; while :; do i=$((i+1)); echo $i >/count; head -c 1000000 /dev/zero | tr '\\0' x; echo; done";
    let id = node.launch(&pod, listener("slow", &["sh", "-c", script], false));
    let request = cri::AttachRequest {
        container_id: id.clone(),
        stdout: true,
        ..cri::AttachRequest::default()
    };
    let url = node.cri().attach(request).unwrap().url;
    let mut session = SpdySession::open(&url, "v4.channel.k8s.io").unwrap();
    let error = session.stream(&[("streamtype", "error")]).unwrap();
    session.stream(&[("streamtype", "stdout")]).unwrap();
    session.data().unwrap();
    let count = || {
        let out = node.exec(&id, &["cat", "/count"]).stdout;
        out.trim().parse::<u64>().unwrap_or_default()
    };
    // More than all buffers between hold: it went on although nobody reads.
    let begun = eventually("a count", 120, || Some(count()).filter(|count| *count > 0));
    eventually("the container goes on", 300, || {
        (count() > begun + 100).then_some(())
    });
    // The rest of what was on its way, and then why there is no more.
    let said = loop {
        let (stream, bytes) = session.data().unwrap();
        if stream == error {
            break String::from_utf8(bytes).unwrap();
        }
    };
    assert!(said.contains("Failure") && said.contains("too slowly"), "{said}");
}

#[test]
fn an_attacher_that_vanishes_leaves_the_container_alone() {
    let node = Node::start();
    let pod = node.pod(pod("vanish"));
    let script = "while read -r x; do echo $x; done; echo over; sleep 1000";
    let id = node.launch(&pod, listener("vanish", &["sh", "-c", script], false));
    let mut before = None;
    for round in 0..3 {
        let transport = TRANSPORTS[round % 2];
        let mut attached = Attached::start(&node, transport, &id);
        writeln!(attached.0.stdin.as_mut().unwrap(), "round {round}").unwrap();
        let mut line = String::new();
        attached.lines().read_line(&mut line).unwrap();
        assert_eq!(line, format!("round {round}\n"), "{transport}");
        // SIGKILL: the connection ends without goodbye.
        drop(attached);
        match &before {
            None => {
                std::thread::sleep(std::time::Duration::from_secs(1));
                before = Some(node.census());
            }
            Some(before) => node.assert_settles(before),
        }
        assert_eq!(node.status(&id).state(), cri::ContainerState::ContainerRunning);
    }
    let log = node.messages(&pod, "vanish.log");
    assert_eq!(log, "round 0\nround 1\nround 2\n");
}
