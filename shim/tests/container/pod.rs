//! The first process of a shared pid namespace.

use std::os::fd::AsFd;

use criquet_proto::shim::{MESSAGE_BYTES_MAX, PodInit, Reply, reply};
use criquet_sys::pidfd::Ended;
use criquet_sys::socket::{self, Packet};
use criquet_sys::{pidfd, signal};
use prost::Message;

use crate::client::Shim;
use crate::host::eventually;

#[test]
fn a_pods_init_has_nothing_and_ends_on_request() {
    let (mut shim, socket) = Shim::spawn("pod");
    socket::send(&socket, &PodInit::default().encode_to_vec(), &[]).unwrap();
    let mut buffer = vec![0; MESSAGE_BYTES_MAX];
    let Packet::Data(size, fds) = socket::receive(&socket, &mut buffer, 1).unwrap() else {
        panic!("no answer")
    };
    let created = match Reply::decode(&buffer[..size]).unwrap().kind {
        Some(reply::Kind::Created(created)) => created,
        other => panic!("instead of a pod: {other:?}"),
    };
    assert_eq!(shim.end(), Ended::Exited(0));
    let proc = format!("/proc/{}", created.pid);
    let read = |name: &str| std::fs::read_to_string(format!("{proc}/{name}")).unwrap();
    assert_eq!(read("comm"), "criquet-pod\n");
    assert!(read("status").contains("CapEff:\t0000000000000000"));
    assert!(read("status").contains("NSpid:\t") && read("status").contains("\t1\n"));
    assert_eq!(std::fs::read_dir(format!("{proc}/fd")).unwrap().count(), 3);
    assert_eq!(std::fs::read_dir(format!("{proc}/root/")).unwrap().count(), 0);
    assert!(
        std::fs::read_link(format!("{proc}/exe"))
            .unwrap()
            .to_string_lossy()
            .contains("memfd:")
    );
    pidfd::signal(fds[0].as_fd(), signal::SIGTERM).unwrap();
    eventually(|| !std::fs::read_to_string(format!("{proc}/stat")).is_ok_and(|stat| !stat.contains(") Z ")));
}
