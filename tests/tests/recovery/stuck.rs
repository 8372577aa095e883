//! Shims that are stopped or killed: one of them delays nobody else, and is ended like any other in the end.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use criquet_tests::{BUSYBOX, Node, Pod, container, cri, eventually, pod};
use rustix::process::{Pid, Signal, kill_process};

/// A list is memory alone. One that asked a stuck shim would take longer, each time.
const LIST_MAX: Duration = Duration::from_secs(3);
/// How much longer a start takes with a stuck shim, at most: it is asked for one second. One that waited for the shim
/// would take ten, each time.
const START_EXTRA: Duration = Duration::from_secs(6);
/// A busy machine can make one start or one list late. It would have to make each of so many late.
const TRIES: usize = 6;

fn launch(node: &Node, name: &str) -> (Pod, String) {
    let pod = node.pod(pod(name));
    let id = node.launch(&pod, container(name, BUSYBOX, &["sleep", "1000"]));
    (pod, id)
}

/// The shim of a container: its command line names it.
fn shim(node: &Node, container: &str) -> Pid {
    let command = format!("criquet-shim {container}");
    let shims = node.place.processes();
    let found = shims.iter().find(|process| process.command == command);
    Pid::from_raw(found.expect("a shim").pid).unwrap()
}

fn list(node: &Node) -> Vec<cri::Container> {
    for _ in 0..TRIES {
        let start = Instant::now();
        let request = cri::ListContainersRequest::default();
        let containers = node.cri().list_containers(request).unwrap().containers;
        if start.elapsed() < LIST_MAX {
            return containers;
        }
    }
    panic!("ListContainers took longer than {LIST_MAX:?}, {TRIES} times");
}

/// The processes of a node that run `sleep 1000`.
fn sleepers(node: &Node) -> usize {
    let sleeps = |command: &str| command == "sleep 1000";
    let processes = node.place.processes();
    processes
        .iter()
        .filter(|process| sleeps(&process.command))
        .count()
}

fn timed_up(node: &mut Node) -> Duration {
    let start = Instant::now();
    node.up();
    start.elapsed()
}

#[test]
fn a_stopped_shim_delays_nobody_and_comes_back() {
    let mut node = Node::start();
    let (_, stuck) = launch(&node, "stuck");
    let (_, free) = launch(&node, "free");
    node.kill();
    let usual = timed_up(&mut node);
    let shim = shim(&node, &stuck);
    kill_process(shim, Signal::STOP).unwrap();
    let mut slow = Vec::new();
    while slow.last().is_none_or(|slow| *slow >= usual + START_EXTRA) {
        assert!(
            slow.len() < TRIES,
            "{usual:?} without and {slow:?} with a stopped shim"
        );
        node.kill();
        fill_backlog(&node, &stuck);
        slow.push(timed_up(&mut node));
    }
    assert_eq!(list(&node).len(), 2);
    assert_eq!(node.exec(&free, &["echo", "alive"]).stdout, "alive\n");
    let status = node.status(&stuck);
    assert_eq!(status.state(), cri::ContainerState::ContainerRunning);
    assert!(status.started_at >= status.created_at, "{status:?}");
    kill_process(shim, Signal::CONT).unwrap();
    let request = || cri::ExecSyncRequest {
        container_id: stuck.clone(),
        cmd: vec!["echo".into(), "back".into()],
        timeout: 30,
    };
    let output = eventually("the shim answers again", 60, || {
        node.cri().exec_sync(request()).ok()
    });
    assert_eq!(output.stdout, b"back\n");
    node.stop_container(&stuck, 0);
    assert_eq!(node.status(&stuck).exit_code, 137);
}

/// Connects to a stopped shim until no more connections can wait there. They are closed when the shim goes on.
fn fill_backlog(node: &Node, container: &str) {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
    let folder = std::fs::File::open(node.place.state.join("containers").join(container)).unwrap();
    // The path itself is longer than an address.
    let short = format!(
        "/proc/self/fd/{}/shim.sock",
        std::os::fd::AsRawFd::as_raw_fd(&folder.as_fd())
    );
    let address = SocketAddrUnix::new(short).unwrap();
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    for _ in 0..200 {
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        match connect(&socket, &address) {
            // Closed here, but still in the shim's queue.
            Ok(()) => {}
            Err(error) => return assert_eq!(error, rustix::io::Errno::AGAIN),
        }
    }
    panic!("the backlog has no end");
}

#[test]
fn a_container_of_a_stopped_shim_can_be_stopped_and_removed() {
    let node = Node::start();
    let (_, id) = launch(&node, "stuck");
    kill_process(shim(&node, &id), Signal::STOP).unwrap();
    node.stop_container(&id, 0);
    let status = node.status(&id);
    assert_eq!(
        (status.state(), status.exit_code),
        (cri::ContainerState::ContainerExited, 137)
    );
    assert_eq!(sleepers(&node), 0);
    node.remove_container(&id);
    node.remove_pods();
    node.assert_clean();
}

/// A user that is not root: the kernel forgets for such a program that it was to die with its parent.
fn launch_as_user(node: &Node, name: &str) -> String {
    let pod = node.pod(pod(name));
    let mut config = container(name, BUSYBOX, &["sleep", "1000"]);
    let security = config
        .linux
        .as_mut()
        .and_then(|linux| linux.security_context.as_mut());
    security.unwrap().run_as_user = Some(cri::Int64Value { value: 1000 });
    node.launch(&pod, config)
}

#[test]
fn a_killed_shim_takes_its_container_along() {
    let mut node = Node::start();
    let watched = launch_as_user(&node, "watched");
    kill_process(shim(&node, &watched), Signal::KILL).unwrap();
    let status = node.wait_exit(&watched, 30);
    assert_eq!(status.exit_code, 255, "{status:?}");
    assert!(status.message.contains("shim"), "{status:?}");
    eventually("its process ends", 30, || (sleepers(&node) == 0).then_some(()));
    // The same while nobody watches.
    let alone = launch_as_user(&node, "alone");
    let shim = shim(&node, &alone);
    node.kill();
    kill_process(shim, Signal::KILL).unwrap();
    node.up();
    let status = node.wait_exit(&alone, 30);
    assert_eq!(status.exit_code, 255, "{status:?}");
    assert!(status.finished_at >= status.started_at, "{status:?}");
    eventually("its process ends", 30, || (sleepers(&node) == 0).then_some(()));
    assert_eq!(node.status(&watched).exit_code, 255);
}

#[test]
fn a_pod_whose_init_is_killed_is_not_ready() {
    let node = Node::start();
    let mut config = pod("shared");
    let security = config
        .linux
        .as_mut()
        .and_then(|linux| linux.security_context.as_mut());
    security.unwrap().namespace_options.as_mut().unwrap().pid = cri::NamespaceMode::Pod.into();
    let pod = node.pod(config);
    let mut config = container("c", BUSYBOX, &["sleep", "1000"]);
    let security = config
        .linux
        .as_mut()
        .and_then(|linux| linux.security_context.as_mut());
    security.unwrap().namespace_options.as_mut().unwrap().pid = cri::NamespaceMode::Pod.into();
    let id = node.launch(&pod, config);
    let command = format!("criquet-pod pod {}", pod.id);
    let processes = node.place.processes();
    let init = processes
        .iter()
        .find(|process| process.command == command)
        .expect("the pod's init");
    kill_process(Pid::from_raw(init.pid).unwrap(), Signal::KILL).unwrap();
    node.wait_exit(&id, 30);
    eventually("the pod is not ready", 30, || {
        let request = cri::PodSandboxStatusRequest {
            pod_sandbox_id: pod.id.clone(),
            verbose: false,
        };
        let status = node.cri().pod_sandbox_status(request).unwrap().status.unwrap();
        (status.state() == cri::PodSandboxState::SandboxNotready).then_some(())
    });
}
