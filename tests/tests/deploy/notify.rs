//! sd_notify(3), with the test in systemd's place.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use criquet_tests::{BUSYBOX, Node, PATIENCE_S, Settings, container, cri, eventually, pod};

const PATIENCE: Duration = Duration::from_secs(PATIENCE_S);

struct Systemd {
    messages: Receiver<String>,
    path: tempfile::TempDir,
}

impl Systemd {
    /// Takes every message at once, as systemd does: a socket holds few, and the daemon drops what it does not take.
    fn new() -> Systemd {
        let path = crate::folder("/run");
        let socket = UnixDatagram::bind(path.path().join("socket")).unwrap();
        let (sender, messages) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length) = socket.recv(&mut buffer) {
                let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
                if sender.send(message).is_err() {
                    return;
                }
            }
        });
        Systemd { messages, path }
    }

    fn environment(&self, watchdog: Duration) -> Vec<(String, String)> {
        let socket = self.path.path().join("socket").display().to_string();
        vec![
            ("NOTIFY_SOCKET".into(), socket),
            ("WATCHDOG_USEC".into(), watchdog.as_micros().to_string()),
        ]
    }

    fn next(&self, patience: Duration) -> Option<String> {
        self.messages.recv_timeout(patience).ok()
    }

    /// Reads on until a message begins with `word`, and gives it.
    #[track_caller]
    fn wait(&self, word: &str) -> String {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if let Some(message) = self.next(Duration::from_millis(500))
                && message.starts_with(word)
            {
                return message;
            }
        }
        panic!("no {word} came");
    }

    /// Forgets what has come.
    fn drain(&self) {
        while self.next(Duration::from_millis(1)).is_some() {}
    }
}

fn variables_of(pid: i32) -> String {
    let bytes = std::fs::read(Path::new("/proc").join(pid.to_string()).join("environ"));
    String::from_utf8_lossy(&bytes.unwrap_or_default()).replace('\0', "\n")
}

#[test]
fn ready_alive_and_ending_are_told_and_no_child_knows_whom() {
    let systemd = Systemd::new();
    let mut node = Node::with(Settings {
        environment: systemd.environment(Duration::from_millis(600)),
        ..Settings::default()
    });
    let first = systemd.next(PATIENCE).expect("a message");
    assert_eq!(first, "READY=1\nSTATUS=0 pods, 0 containers");
    let pod = node.pod(pod("notify"));
    let id = node.launch(&pod, container("notify", BUSYBOX, &["sleep", "1000"]));
    let alive = "WATCHDOG=1\nSTATUS=1 pods, 1 containers";
    eventually("the container is told of", PATIENCE_S, || {
        (systemd.wait("WATCHDOG=1") == alive).then_some(())
    });
    for _ in 0..3 {
        assert_eq!(systemd.wait("WATCHDOG=1"), alive);
    }
    let daemon = i32::try_from(node.pid()).unwrap();
    assert!(
        variables_of(daemon).contains("NOTIFY_SOCKET="),
        "the daemon has it"
    );
    let children: Vec<_> = node.place.processes();
    let children: Vec<_> = children.iter().filter(|process| process.pid != daemon).collect();
    assert!(children.len() >= 2, "a shim and a container: {children:?}");
    for child in children {
        let variables = variables_of(child.pid);
        assert!(
            !variables.contains("NOTIFY_SOCKET") && !variables.contains("WATCHDOG"),
            "{}: {variables}",
            child.command
        );
    }
    assert!(!node.exec(&id, &["env"]).stdout.contains("NOTIFY_SOCKET"));
    assert!(node.stop().success());
    systemd.wait("STOPPING=1");
    assert_eq!(systemd.next(Duration::from_millis(300)), None, "it was the last");
}

/// The daemon runs and its timers do, but nobody can reach it: it must not say that it is well.
#[test]
fn a_daemon_that_answers_nobody_does_not_feed_the_watchdog() {
    let systemd = Systemd::new();
    let node = Node::with(Settings {
        environment: systemd.environment(Duration::from_millis(600)),
        ..Settings::default()
    });
    systemd.wait("WATCHDOG=1");
    let aside = node.socket().with_extension("aside");
    std::fs::rename(node.socket(), &aside).unwrap();
    let before = node.log().len();
    // A check that was under way may still be told.
    eventually("the daemon notices", 20, || {
        node.log()[before..].contains("no progress").then_some(())
    });
    systemd.drain();
    assert_eq!(systemd.next(Duration::from_secs(2)), None);
    std::fs::rename(&aside, node.socket()).unwrap();
    systemd.wait("WATCHDOG=1");
}

#[test]
fn without_a_watchdog_only_the_beginning_and_the_end_are_told() {
    let systemd = Systemd::new();
    let mut node = Node::with(Settings {
        environment: systemd.environment(Duration::ZERO),
        ..Settings::default()
    });
    assert!(systemd.wait("READY=1").starts_with("READY=1"));
    assert_eq!(systemd.next(Duration::from_millis(500)), None);
    node.kill();
    assert_eq!(
        systemd.next(Duration::from_millis(300)),
        None,
        "kill -9 says nothing"
    );
    node.up();
    systemd.wait("READY=1");
    let version = node.cri().version(cri::VersionRequest::default()).unwrap();
    assert_eq!(version.runtime_name, "criquet");
}
