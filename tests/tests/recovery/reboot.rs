//! What a restart of the host leaves, a store that cannot be read, and work that goes on over a crash.

use std::fs;
use std::path::PathBuf;

use criquet_tests::{BUSYBOX, Node, container, cri, eventually, pod};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};

fn pods(node: &Node) -> Vec<cri::PodSandbox> {
    let request = cri::ListPodSandboxRequest::default();
    node.cri().list_pod_sandbox(request).unwrap().items
}

/// Addresses that are given out, as host-local writes them down.
fn leases(node: &Node) -> Vec<PathBuf> {
    let networks = fs::read_dir(node.place.folder.join("leases"))
        .into_iter()
        .flatten()
        .flatten();
    let files = networks.flat_map(|network| fs::read_dir(network.path()).into_iter().flatten().flatten());
    let is_address = |path: &PathBuf| {
        path.file_name()
            .unwrap()
            .to_string_lossy()
            .starts_with(&node.place.addresses)
    };
    files.map(|file| file.path()).filter(is_address).collect()
}

/// As a power cut: the daemon, every process and every mount of the node are gone, and so are the volatile files if
/// they were on a tmpfs.
fn cut_power(node: &mut Node, is_tmpfs: bool) {
    node.kill();
    let registry = i32::try_from(node.registry.pid()).unwrap();
    eventually("all processes are killed", 30, || {
        let left: Vec<_> = node
            .place
            .processes()
            .into_iter()
            .filter(|process| process.pid != registry)
            .collect();
        for process in &left {
            let _ = kill_process(Pid::from_raw(process.pid).unwrap(), Signal::KILL);
        }
        left.is_empty().then_some(())
    });
    for mount in node.place.mounts().into_iter().rev() {
        unmount(&mount, UnmountFlags::DETACH).unwrap();
    }
    if is_tmpfs {
        fs::remove_dir_all(&node.place.state).unwrap();
        fs::create_dir(&node.place.state).unwrap();
    }
}

#[test]
fn after_a_restart_of_the_host_everything_can_be_removed() {
    let mut node = Node::start();
    for (boot, is_tmpfs) in [("first", true), ("second", false)] {
        let mut shared = pod("shared");
        let security = shared
            .linux
            .as_mut()
            .and_then(|linux| linux.security_context.as_mut());
        security.unwrap().namespace_options.as_mut().unwrap().pid = cri::NamespaceMode::Pod.into();
        let mut containers = Vec::new();
        for config in [pod("plain"), shared] {
            let pod = node.pod(config);
            containers.push(node.launch(&pod, container("runs", BUSYBOX, &["sleep", "1000"])));
            containers.push(
                node.try_create(&pod, container("waits", BUSYBOX, &["sleep", "1000"]))
                    .unwrap(),
            );
        }
        assert_eq!(leases(&node).len(), 2);
        cut_power(&mut node, is_tmpfs);
        node.set_variable("CRIQUET_BOOT_ID", Some(boot));
        node.up();
        let found = pods(&node);
        assert_eq!(found.len(), 2);
        for pod in &found {
            assert_eq!(pod.state(), cri::PodSandboxState::SandboxNotready);
        }
        for id in &containers {
            let status = node.status(id);
            assert_eq!(
                (status.state(), status.exit_code),
                (cri::ContainerState::ContainerExited, 255)
            );
            assert!(
                status.finished_at >= status.started_at && !status.message.is_empty(),
                "{status:?}"
            );
        }
        eventually("the addresses are given back", 30, || {
            leases(&node).is_empty().then_some(())
        });
        node.remove_pods();
        node.assert_clean();
        // The same boot goes on: what is made now lives through a crash.
        let pod = node.pod(pod("next"));
        let id = node.launch(&pod, container("next", BUSYBOX, &["sleep", "1000"]));
        node.crash();
        assert_eq!(node.status(&id).state(), cri::ContainerState::ContainerRunning);
        node.remove_pod(&pod.id);
    }
}

#[test]
fn a_damaged_store_is_put_aside_and_nothing_stays() {
    let mut node = Node::start();
    let mut shared = pod("shared");
    let security = shared
        .linux
        .as_mut()
        .and_then(|linux| linux.security_context.as_mut());
    security.unwrap().namespace_options.as_mut().unwrap().pid = cri::NamespaceMode::Pod.into();
    for config in [pod("plain"), shared] {
        let pod = node.pod(config);
        node.launch(&pod, container("c", BUSYBOX, &["sleep", "1000"]));
    }
    node.kill();
    let root = node.place.folder.join("root");
    fs::write(root.join("state.redb"), b"this is no database").unwrap();
    node.up();
    let aside = fs::read_dir(&root).unwrap().flatten();
    let aside = aside.filter(|file| file.file_name().to_string_lossy().starts_with("state.damaged-"));
    assert_eq!(aside.count(), 1);
    assert!(pods(&node).is_empty());
    // Nobody knows these pods any more: they are taken away, and their addresses with them.
    node.assert_clean();
    eventually("the addresses are given back", 30, || {
        leases(&node).is_empty().then_some(())
    });
    let pod = node.pod(pod("plain"));
    let id = node.launch(&pod, container("c", BUSYBOX, &["sleep", "1000"]));
    assert_eq!(node.exec(&id, &["echo", "alive"]).stdout, "alive\n");
}

#[test]
fn an_exec_goes_on_over_a_crash() {
    let mut node = Node::start();
    let pod = node.pod(pod("exec"));
    let id = node.launch(&pod, container("exec", BUSYBOX, &["sleep", "1000"]));
    let mut client = node.cri().runtime();
    let script = "touch /tmp/begun; while [ ! -e /tmp/go ]; do sleep 0.1; done; touch /tmp/done";
    let request = cri::ExecSyncRequest {
        container_id: id.clone(),
        cmd: ["sh", "-c", script].map(str::to_owned).to_vec(),
        timeout: 0,
    };
    let exec = node
        .cri()
        .wait(async { tokio::spawn(async move { client.exec_sync(request).await }) });
    let exists = |node: &Node, file: &str| node.exec(&id, &["test", "-e", file]).code == 0;
    eventually("the command has begun", 30, || {
        exists(&node, "/tmp/begun").then_some(())
    });
    node.crash();
    assert!(
        node.cri().wait(exec).unwrap().is_err(),
        "its client lost the daemon"
    );
    assert!(!exists(&node, "/tmp/done"));
    assert_eq!(node.exec(&id, &["touch", "/tmp/go"]).code, 0);
    eventually("the command goes on", 30, || {
        exists(&node, "/tmp/done").then_some(())
    });
}
