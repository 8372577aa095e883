//! Large files through sessions, unchanged.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use criquet_tests::{BUSYBOX, Node, Pod, container, cri, eventually, pod};
use sha2::{Digest as _, Sha256};

use crate::forward::{Forward, listening};
use crate::streaming::TRANSPORTS;

/// MiB through each way of each transport; CRIQUET_TEST_BULK_MIB says otherwise.
const MEBIBYTES: u64 = 128;

fn size() -> u64 {
    let named = std::env::var("CRIQUET_TEST_BULK_MIB").ok();
    named.map_or(MEBIBYTES, |text| text.parse().unwrap()) << 20
}

/// A container with a folder of the host at /data, and `sent` there: random bytes, whose sum is given.
struct Bulk {
    node: Node,
    pod: Pod,
    container: String,
    folder: PathBuf,
    sum: String,
}

fn bulk(command: &str) -> Bulk {
    let node = Node::start();
    let folder = node.work().join("bulk");
    std::fs::create_dir(&folder).unwrap();
    let mut random = File::open("/dev/urandom").unwrap().take(size());
    io::copy(&mut random, &mut File::create(folder.join("sent")).unwrap()).unwrap();
    let sum = sum(File::open(folder.join("sent")).unwrap());
    let pod = node.pod(pod("bulk"));
    let mut config = container("bulk", BUSYBOX, &["sh", "-c", command]);
    config.mounts.push(cri::Mount {
        container_path: "/data".into(),
        host_path: folder.to_string_lossy().into_owned(),
        ..cri::Mount::default()
    });
    let container = node.launch(&pod, config);
    Bulk {
        node,
        pod,
        container,
        folder,
        sum,
    }
}

fn sum(mut from: impl io::Read) -> String {
    let mut digest = Sha256::new();
    io::copy(&mut from, &mut digest).unwrap();
    digest
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn open(path: &Path) -> File {
    File::open(path).unwrap()
}

#[test]
fn a_large_file_goes_through_exec_both_ways() {
    let bulk = bulk("exec sleep 100000");
    let received = bulk.folder.join("received");
    for transport in TRANSPORTS {
        let exec = |command: &str| {
            let arguments = [
                "exec",
                "-r",
                transport,
                "-i",
                &bulk.container,
                "sh",
                "-c",
                command,
            ];
            bulk.node.crictl_command(&arguments)
        };
        let status = exec("cat >/data/received")
            .stdin(open(&bulk.folder.join("sent")))
            .status()
            .unwrap();
        assert!(status.success(), "{transport}: {status}");
        assert_eq!(sum(open(&received)), bulk.sum, "{transport}: in");
        std::fs::remove_file(&received).unwrap();

        let mut child = exec("cat /data/sent")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        assert_eq!(sum(child.stdout.take().unwrap()), bulk.sum, "{transport}: out");
        assert!(child.wait().unwrap().success(), "{transport}");

        // Both ways at once, and the end of the input is seen while the output still comes.
        let mut child = exec("cat; echo end >&2")
            .stdin(open(&bulk.folder.join("sent")))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        assert_eq!(
            sum(child.stdout.take().unwrap()),
            bulk.sum,
            "{transport}: through"
        );
        let out = child.wait_with_output().unwrap();
        assert!(
            out.status.success() && out.stderr.ends_with(b"end\n"),
            "{transport}: {out:?}"
        );
    }
}

#[test]
fn a_large_file_goes_through_port_forward_both_ways() {
    // A server that answers what it was sent, one that takes a file and says its sum, one that gives a file.
    let bulk =
        bulk("nc -ll -p 9000 -e cat & nc -ll -p 9001 -e sha256sum & nc -ll -p 9002 -e cat /data/sent & wait");
    let sent = bulk.folder.join("sent");
    listening(&bulk.node, &bulk.container, &[9000, 9001, 9002]);
    for transport in TRANSPORTS {
        let connect = |port: u16| {
            let forward = Forward::start(&bulk.node, transport, &bulk.pod.id, port);
            let connection = eventually("a connection", 10, || forward.connect());
            (forward, connection)
        };
        let (_echo, mut connection) = connect(9000);
        let mut writer = connection.try_clone().unwrap();
        let path = sent.clone();
        let writing = std::thread::spawn(move || {
            io::copy(&mut open(&path), &mut writer).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        assert_eq!(sum(&mut connection), bulk.sum, "{transport}: through");
        writing.join().unwrap();

        let (_take, mut connection) = connect(9001);
        io::copy(&mut open(&sent), &mut connection).unwrap();
        connection.shutdown(Shutdown::Write).unwrap();
        let mut told = String::new();
        connection.read_to_string(&mut told).unwrap();
        assert!(told.starts_with(&bulk.sum), "{transport}: in: {told}");

        let (_give, mut connection) = connect(9002);
        connection.flush().unwrap();
        assert_eq!(sum(&mut connection), bulk.sum, "{transport}: out");
    }
}
