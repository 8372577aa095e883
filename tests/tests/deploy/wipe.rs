//! `criquet wipe`.

use std::fs;
use std::path::PathBuf;

use criquet_tests::{BUSYBOX, Node, Output, container, cri, eventually, host, leak, pod};

fn wipe(node: &Node, more: &[&str]) -> Output {
    let config = node.place.folder.join("config.toml").display().to_string();
    let mut arguments = vec!["wipe", "--config", &config];
    arguments.extend(more);
    node.criquet_alone(&arguments)
}

/// Pods of every kind: running, in a shared pid namespace, created, ended, stopped, on the host's network, with a port.
fn fill(node: &Node) {
    let mut shared = pod("shared");
    let linux = shared.linux.get_or_insert_default();
    let security = linux.security_context.get_or_insert_default();
    security.namespace_options = Some(cri::NamespaceOption {
        pid: cri::NamespaceMode::Pod.into(),
        ..Default::default()
    });
    let shared = node.pod(shared);
    node.launch(&shared, container("shared", BUSYBOX, &["sleep", "1000"]));
    let mut ports = pod("ports");
    ports.port_mappings.push(cri::PortMapping {
        container_port: 80,
        host_port: 8080,
        ..Default::default()
    });
    let ports = node.pod(ports);
    node.launch(
        &ports,
        container(
            "stubborn",
            BUSYBOX,
            &["sh", "-c", "trap '' TERM; while :; do sleep 1; done"],
        ),
    );
    node.try_create(&ports, container("created", BUSYBOX, &["true"]))
        .unwrap();
    let ended = node.launch(&ports, container("ended", BUSYBOX, &["true"]));
    node.wait_exit(&ended, 10);
    let stopped = node.pod(pod("stopped"));
    let request = cri::StopPodSandboxRequest {
        pod_sandbox_id: stopped.id,
    };
    node.cri().stop_pod_sandbox(request).unwrap();
}

/// What is left of the node, the registry and the folders of the test aside.
#[track_caller]
fn assert_nothing_is_left(node: &Node) {
    let registry = format!("process {} ", node.registry.pid());
    // Killed processes stay zombies until the host's init has looked at them.
    eventually("nothing is left", 10, || {
        let left = leak::after_end(&node.place);
        left.iter().all(|line| line.starts_with(&registry)).then_some(())
    });
    assert!(!node.place.state.exists(), "{:?}", host::tree(&node.place.state));
    assert_eq!(node.place.cgroups(), Vec::<PathBuf>::new());
    let ours = |name: &String| name.starts_with("cq") || name.starts_with("veth");
    let links: Vec<_> = host::links().into_iter().filter(ours).collect();
    assert!(links.is_empty(), "{links:?}");
    let rules = host::rules();
    assert!(
        !rules
            .iter()
            .any(|rule| rule.contains("criquet") || rule.contains("10.201.")),
        "{rules:?}"
    );
    let leases = host::tree(&node.place.folder.join("leases"));
    assert!(!leases.iter().any(|path| path.contains("10.201.")), "{leases:?}");
}

fn names(folder: PathBuf) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

#[test]
fn everything_goes_but_the_images_and_then_these() {
    let mut node = Node::start();
    fill(&node);
    assert!(node.stop().success());
    assert!(
        node.place.processes().len() > 3,
        "containers run without the daemon"
    );
    let said = wipe(&node, &[]).ok();
    assert!(said.contains("3 pods, 4 containers"), "{said}");
    assert!(said.contains("kept: the images"), "{said}");
    assert_nothing_is_left(&node);
    assert_eq!(names(node.place.folder.join("root")), ["images"]);
    // The images are whole: a pod needs no pull.
    node.up();
    let images = node
        .cri()
        .list_images(cri::ListImagesRequest::default())
        .unwrap()
        .images;
    assert_eq!(images.len(), 1);
    let after = node.pod(pod("after"));
    let id = node.launch(&after, container("after", BUSYBOX, &["sleep", "1000"]));
    assert_eq!(node.exec(&id, &["echo", "fine"]).stdout, "fine\n");
    node.kill();
    assert!(wipe(&node, &["--images"]).ok().contains("1 pods, 1 containers"));
    assert_nothing_is_left(&node);
    assert!(!node.place.folder.join("root").exists());
    assert!(wipe(&node, &["--images"]).ok().contains("nothing to wipe"));
    assert!(!node.place.folder.join("root").exists());
}

#[test]
fn a_daemon_that_runs_is_safe() {
    let node = Node::start();
    let pod = node.pod(pod("safe"));
    let id = node.launch(&pod, container("safe", BUSYBOX, &["sleep", "1000"]));
    let refused = wipe(&node, &["--images"]);
    assert_ne!(refused.code, 0);
    assert!(
        refused.stderr.contains("another criquet already uses"),
        "{refused:?}"
    );
    assert_eq!(node.exec(&id, &["echo", "alive"]).stdout, "alive\n");
    assert_eq!(node.status(&id).state(), cri::ContainerState::ContainerRunning);
}

/// The records are lost or damaged: folders and processes still say what there is.
#[test]
fn a_node_without_its_records_is_wiped_as_well() {
    let mut node = Node::start();
    fill(&node);
    node.kill();
    fs::write(node.place.folder.join("root/state.redb"), "damaged").unwrap();
    wipe(&node, &["--images"]).ok();
    assert_nothing_is_left(&node);
    assert!(!node.place.folder.join("root").exists());
}
