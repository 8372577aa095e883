//! The first process of a shared pid namespace.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};

use criquet_proto::shim::{Cgroup, MESSAGE_BYTES_MAX, Namespace, PodInit, Reply, namespace, reply};
use criquet_sys::namespace::{IdMap, Kinds, Maps};
use criquet_sys::pidfd::Ended;
use criquet_sys::socket::{self, Packet};
use criquet_sys::{memfd, pidfd, signal};
use prost::Message;

use crate::client::{Client, Shim};
use crate::host::{Host, eventually};

/// A pod's init; it is killed when the test is over.
struct Pod {
    pid: i32,
    pidfd: OwnedFd,
}

impl Pod {
    fn new(user: Option<&OwnedFd>, cgroup: Option<Cgroup>) -> Self {
        let (mut shim, socket) = Shim::spawn("pod");
        let request = PodInit {
            user: user.is_some(),
            cgroup,
        };
        let fds: Vec<_> = user.iter().map(|fd| fd.as_fd()).collect();
        socket::send(&socket, &request.encode_to_vec(), &fds).unwrap();
        let mut buffer = vec![0; MESSAGE_BYTES_MAX];
        let Packet::Data(size, mut fds) = socket::receive(&socket, &mut buffer, 1).unwrap() else {
            panic!("no answer")
        };
        let pid = match Reply::decode(&buffer[..size]).unwrap().kind {
            Some(reply::Kind::Created(created)) => created.pid,
            other => panic!("instead of a pod: {other:?}"),
        };
        assert_eq!(shim.end(), Ended::Exited(0));
        Self {
            pid,
            pidfd: fds.remove(0),
        }
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{name}", self.pid)).unwrap()
    }

    fn count(&self, name: &str) -> usize {
        fs::read_dir(format!("/proc/{}/{name}/", self.pid))
            .unwrap()
            .count()
    }

    fn has_ended(&self) -> bool {
        // Whoever takes orphans on this host may not have reaped it yet.
        !fs::read_to_string(format!("/proc/{}/stat", self.pid)).is_ok_and(|stat| !stat.contains(") Z "))
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        pidfd::signal(&self.pidfd, signal::SIGKILL).ok();
    }
}

fn check(pod: &Pod) {
    let status = pod.read("status");
    assert_eq!(pod.read("comm"), "criquet-pod\n");
    for name in ["CapEff", "CapPrm", "CapInh", "CapBnd"] {
        assert!(status.contains(&format!("{name}:\t0000000000000000")), "{status}");
    }
    assert!(status.contains("NSpid:\t") && status.contains("\t1\n"));
    assert_eq!(pod.count("root"), 0);
    // It lets go of its own only after it has said that it is there.
    eventually(|| pod.count("fd") == 3);
    assert_eq!(pod.read("mountinfo").lines().count(), 1);
    assert!(
        fs::read_link(format!("/proc/{}/exe", pod.pid))
            .unwrap()
            .to_string_lossy()
            .contains("memfd:")
    );
}

#[test]
fn a_pods_init_has_nothing_and_ends_on_request() {
    let pod = Pod::new(None, None);
    check(&pod);
    pidfd::signal(&pod.pidfd, signal::SIGTERM).unwrap();
    eventually(|| pod.has_ended());
}

#[test]
fn it_can_belong_to_a_user_namespace() {
    let map = || {
        vec![IdMap {
            container: 0,
            host: 700_000,
            length: 65_536,
        }]
    };
    let maps = Maps {
        uids: map(),
        gids: map(),
    };
    let user = criquet_sys::namespace::create(Kinds::default(), Some(&maps))
        .unwrap()
        .user
        .unwrap();
    let pod = Pod::new(Some(&user), None);
    check(&pod);
    assert!(
        pod.read("status")
            .contains("Uid:\t765534\t765534\t765534\t765534"),
        "{}",
        pod.read("status")
    );
}

#[test]
fn it_sits_in_the_pods_cgroup() {
    let host = Host::shell("true");
    let cgroup = host.plan.cgroup.clone().unwrap();
    let path = cgroup.dirs[0].path.clone();
    let pod = Pod::new(None, Some(cgroup));
    assert_eq!(
        fs::read_to_string(format!("{path}/cgroup.procs")).unwrap(),
        format!("{}\n", pod.pid)
    );
    pidfd::signal(&pod.pidfd, signal::SIGKILL).unwrap();
    eventually(|| {
        fs::read_to_string(format!("{path}/cgroup.procs"))
            .unwrap()
            .is_empty()
    });
    for dir in &host.plan.cgroup.as_ref().unwrap().dirs {
        // One of another hierarchy may see the end a moment later.
        eventually(|| fs::remove_dir(&dir.path).is_ok());
    }
}

#[test]
fn containers_share_it() {
    let pod = Pod::new(None, None);
    let mut host = Host::shell("(sleep 0.1; true) & read name </proc/1/comm; echo $name; exit 2");
    host.plan.namespaces.as_mut().unwrap().pid = Some(Namespace {
        kind: namespace::Kind::Join.into(),
        fd: 1,
    });
    let space = OwnedFd::from(fs::File::open(format!("/proc/{}/ns/pid", pod.pid)).unwrap());
    let (_shim, socket) = Shim::spawn("joins");
    let client = Client::new(socket);
    let plan = memfd::sealed("plan", &host.plan.encode_to_vec()).unwrap();
    let created = client.create_with(&[plan.as_fd(), space.as_fd()]);
    assert!(matches!(created, reply::Kind::Created(_)), "{created:?}");
    assert!(matches!(client.start(), reply::Kind::Started(_)));
    let exit = client.wait().unwrap_or_else(|| host.exit_record().unwrap());
    assert_eq!(exit.code, 2);
    assert_eq!(host.log()[0].2, "criquet-pod");
    // The orphan was killed with its cgroup, and taken by process 1.
    let children = || pod.read(&format!("task/{}/children", pod.pid));
    eventually(|| children().trim().is_empty());
    assert!(!pod.has_ended());
}
