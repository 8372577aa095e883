//! Peers that want more than there is: memory, processes, connections, time.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use criquet_tests::{BUSYBOX, Node, PATIENCE_S, container, cri, eventually, host, pod};
use tonic::Code;

use crate::probe::{sleeper, try_launch};

/// What the CRI lets an ExecSync answer, of each stream.
const OUTPUT_BYTES_MAX: usize = 16 << 20;
/// Hundreds of megabytes take a busy machine its time, in seconds.
const BULK_S: i64 = 600;

fn resident_kib(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap_or("0 kB");
    line.trim().trim_end_matches(" kB").parse().unwrap_or(0)
}

/// The node's processes with this command line: another node's are none of ours.
fn of_node(node: &Node, command: &str) -> Vec<host::Process> {
    let mut found = node.place.processes();
    found.retain(|process| process.command == command);
    found
}

fn exec(id: &str, command: &[&str], timeout: i64) -> cri::ExecSyncRequest {
    cri::ExecSyncRequest {
        container_id: id.into(),
        cmd: command.iter().map(ToString::to_string).collect(),
        timeout,
    }
}

/// And CVE-2022-31030: what a command writes is cut, and not kept.
#[test]
fn cve_2022_1708_the_output_of_an_exec_is_bounded() {
    let node = Node::start();
    let pod = node.pod(pod("output"));
    let id = sleeper(&node, &pod, "output", |_| {});
    let before = resident_kib(node.pid());
    let script = "head -c 400m /dev/zero; echo end >&2; exit 7";
    let mut client = node.cri().runtime().max_decoding_message_size(usize::MAX);
    let request = exec(&id, &["sh", "-c", script], BULK_S);
    let out = node
        .cri()
        .wait(async { client.exec_sync(request).await })
        .unwrap()
        .into_inner();
    assert_eq!((out.exit_code, out.stderr.as_slice()), (7, b"end\n".as_slice()));
    assert!(
        out.stdout.len() <= OUTPUT_BYTES_MAX && out.stdout.len() > OUTPUT_BYTES_MAX / 2,
        "{}",
        out.stdout.len()
    );
    let grown = resident_kib(node.pid()).saturating_sub(before);
    assert!(grown < 128 << 10, "{grown} KiB more");
    // The kubelet takes 16 MiB a message: a full answer has to fit with all that is around it.
    let script = "head -c 40m /dev/zero; head -c 40m /dev/zero >&2";
    let out = node.cri().exec_sync(exec(&id, &["sh", "-c", script], BULK_S));
    let out = out.unwrap();
    assert!(out.stdout.len() + out.stderr.len() <= OUTPUT_BYTES_MAX);
    // A log goes to a file, through a shim that stays small.
    let logging = container(
        "log",
        BUSYBOX,
        &["sh", "-c", "head -c 50m /dev/zero | tr '\\0' 'x'; sleep 1000"],
    );
    let id = node.launch(&pod, logging);
    eventually("the line is logged", PATIENCE_S, || {
        let log = std::path::Path::new(&pod.config.log_directory).join("log.log");
        std::fs::metadata(log)
            .is_ok_and(|file| file.len() > 50 << 20)
            .then_some(())
    });
    for process in node
        .place
        .processes()
        .iter()
        .filter(|process| process.command.starts_with("criquet-shim"))
    {
        let resident = resident_kib(u32::try_from(process.pid).unwrap());
        assert!(resident < 16 << 10, "{process:?}: {resident} KiB");
    }
    node.stop_container(&id, 0);
}

/// A command that leaves a child with its output open is over when it is over.
#[test]
fn cve_2026_53495_children_do_not_hold_an_exec() {
    let node = Node::start();
    let pod = node.pod(pod("children"));
    let id = sleeper(&node, &pod, "children", |_| {});
    let descriptors = host::descriptors(node.pid()).len();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..3 {
                    let out = node
                        .cri()
                        .exec_sync(exec(&id, &["sh", "-c", "echo out; sleep 5000 & exit 3"], 0))
                        .unwrap();
                    assert_eq!((out.exit_code, out.stdout.as_slice()), (3, b"out\n".as_slice()));
                }
            });
        }
    });
    eventually("the daemon's descriptors are closed", PATIENCE_S, || {
        (host::descriptors(node.pid()).len() <= descriptors + 6).then_some(())
    });
    node.stop_container(&id, 0);
    let left = of_node(&node, "sleep 5000");
    assert!(left.is_empty(), "{left:?}");
}

/// An exec beyond its time is gone, and so is one whose client went away.
#[test]
fn an_exec_that_is_late_is_killed() {
    let node = Node::start();
    let pod = node.pod(pod("late"));
    let id = sleeper(&node, &pod, "late", |_| {});
    for ignore in ["", "trap '' TERM INT HUP; "] {
        let error = node
            .cri()
            .exec_sync(exec(&id, &["sh", "-c", &format!("{ignore}sleep 5001; true")], 1))
            .unwrap_err();
        assert_eq!(error.code(), Code::DeadlineExceeded, "{error:?}");
    }
    let mut request = tonic::Request::new(exec(&id, &["sleep", "5001"], 0));
    request.set_timeout(Duration::from_millis(300));
    let error = node
        .cri()
        .wait(async { node.cri().runtime().exec_sync(request).await })
        .unwrap_err();
    assert!(
        matches!(error.code(), Code::DeadlineExceeded | Code::Cancelled),
        "{error:?}"
    );
    eventually("no process is left", PATIENCE_S, || {
        of_node(&node, "sleep 5001").is_empty().then_some(())
    });
    for command in [vec!["/no/such/program"], vec![""], vec![]] {
        for _ in 0..20 {
            assert!(
                node.cri().exec_sync(exec(&id, &command, 60)).is_err(),
                "{command:?}"
            );
        }
    }
    assert_eq!(node.exec(&id, &["true"]).code, 0);
}

/// CVE-2023-44487, RUSTSEC-2024-0332 and what is not HTTP at all: the socket's other clients do not notice.
#[test]
fn garbage_on_the_socket_disturbs_nobody() {
    let node = Node::start();
    let descriptors = host::descriptors(node.pid()).len();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    // Length, type, flags, stream: SETTINGS, PING, DATA on no stream, a RST_STREAM flood, endless CONTINUATION.
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let huge = [0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1];
    let headers = [0, 0, 1, 1, 0, 0, 0, 0, 1, 0x82];
    let continuation = [0, 0, 1, 9, 0, 0, 0, 0, 1, 0x84];
    let resets: Vec<u8> = (0..2000u32)
        .flat_map(|number| {
            let stream = (2 * number + 1).to_be_bytes();
            [
                &[0, 0, 2, 1, 4][..],
                &stream,
                &[0x82, 0x84],
                &[0, 0, 4, 3, 0],
                &stream,
                &[0, 0, 0, 8],
            ]
            .concat()
        })
        .collect();
    let attacks: Vec<Vec<u8>> = vec![
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![0xff; 100_000],
        preface.to_vec(),
        [preface.as_slice(), &settings, &huge].concat(),
        [
            preface.as_slice(),
            &settings,
            &headers,
            &continuation.repeat(20_000),
        ]
        .concat(),
        [preface.as_slice(), &settings, &resets].concat(),
        [preface.as_slice(), &settings.repeat(20_000)].concat(),
    ];
    let mut open = Vec::new();
    for _ in 0..5 {
        for attack in &attacks {
            let mut stream = UnixStream::connect(node.socket()).unwrap();
            stream
                .set_write_timeout(Some(Duration::from_millis(500)))
                .unwrap();
            // It may well be closed in the middle.
            let _ = stream.write_all(attack);
            open.push(stream);
        }
    }
    // With all of them still open.
    node.cri().version(Default::default()).unwrap();
    node.cri().list_containers(Default::default()).unwrap();
    drop(open);
    eventually("the connections are gone", PATIENCE_S, || {
        (host::descriptors(node.pid()).len() <= descriptors + 6).then_some(())
    });
    assert!(!node.log().contains("panicked"), "{}", node.log());
    assert!(resident_kib(node.pid()) < 200 << 10);
}

/// Messages with every field at its worst are answered with an error.
#[test]
fn huge_fields_are_refused() {
    let node = Node::start();
    node.pull(BUSYBOX);
    let pod = node.pod(pod("huge"));
    let big = "x".repeat(2 << 20);
    type Change = fn(&mut cri::ContainerConfig, &str);
    let changes: [(&str, Change); 9] = [
        ("name", |config, big| {
            config.metadata.as_mut().unwrap().name = big.into()
        }),
        ("label", |config, big| {
            drop(config.labels.insert(big.into(), big.into()))
        }),
        ("annotation", |config, big| {
            drop(config.annotations.insert("a".into(), big.into()))
        }),
        ("working_dir", |config, big| {
            config.working_dir = format!("/{big}")
        }),
        ("log_path", |config, big| config.log_path = big.into()),
        ("env name", |config, big| {
            config.envs = vec![cri::KeyValue {
                key: big.into(),
                value: Vec::new(),
            }];
        }),
        ("image", |config, big| {
            config.image.as_mut().unwrap().image = big.into()
        }),
        ("mount", |config, big| {
            config.mounts = vec![crate::probe::volume(&format!("/{big}"), "/x")];
        }),
        ("masked", |config, big| {
            crate::probe::security(config).masked_paths = vec![format!("/{big}")]
        }),
    ];
    for (name, change) in changes {
        let mut config = container("huge", BUSYBOX, &["true"]);
        change(&mut config, &big);
        let error = try_launch(&node, &pod, config).expect_err(name);
        assert_eq!(error.code(), Code::InvalidArgument, "{name}: {:?}", error.code());
        assert!(
            error.message().len() < 16 << 10,
            "{name}: the answer has {} bytes",
            error.message().len()
        );
    }
    assert!(
        node.cri()
            .list_containers(Default::default())
            .unwrap()
            .containers
            .is_empty()
    );
}
