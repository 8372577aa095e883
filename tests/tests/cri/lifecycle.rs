//! Pods and containers from run to removal.

use criquet_tests::{BUSYBOX, Node, container, cri, eventually, pod};

/// Descriptors that the tests' own process may have: fewer than its hard limit, as systemd's units.
const SOFT_OPEN_FILES: u64 = 4000;

/// A connection to a shim is a descriptor: the daemon takes all that it may have, and gives containers what it had.
#[test]
fn the_daemon_raises_its_limit_of_open_files_and_no_containers() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = Some(SOFT_OPEN_FILES);
    setrlimit(Resource::Nofile, limit).unwrap();
    let node = Node::start();
    let pod = node.pod(pod("files"));
    let id = node.launch(&pod, container("files", BUSYBOX, &["sleep", "1000"]));
    let hard = limit.maximum.unwrap();
    assert!(hard > SOFT_OPEN_FILES, "this machine's hard limit is {hard}");
    let both = |text: &str| -> Vec<u64> {
        let line = text
            .lines()
            .find(|line| line.starts_with("Max open files"))
            .unwrap();
        line.split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect()
    };
    let daemon = std::fs::read_to_string(format!("/proc/{}/limits", node.pid())).unwrap();
    assert_eq!(both(&daemon), [hard, hard]);
    assert_eq!(
        both(&node.exec(&id, &["cat", "/proc/1/limits"]).ok()),
        [SOFT_OPEN_FILES, hard]
    );
    assert_eq!(
        both(&node.exec(&id, &["cat", "/proc/self/limits"]).ok()),
        [SOFT_OPEN_FILES, hard]
    );
    // Another user's limits are nobody's to set who lacks CAP_SYS_RESOURCE.
    let mut config = container("user", BUSYBOX, &["sleep", "1000"]);
    let security = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
    security.run_as_user = Some(cri::Int64Value { value: 1000 });
    let id = node.launch(&pod, config);
    assert_eq!(
        both(&node.exec(&id, &["cat", "/proc/self/limits"]).ok()),
        [SOFT_OPEN_FILES, hard]
    );
}

#[test]
fn a_container_runs_logs_execs_stops_and_goes() {
    let node = Node::start();
    let pod = node.pod(pod("walk"));
    let config = container(
        "walk",
        BUSYBOX,
        &[
            "sh",
            "-c",
            "trap 'exit 7' TERM; echo out; echo err >&2; while :; do sleep 0.1; done",
        ],
    );
    let id = node.launch(&pod, config);

    let status = node.status(&id);
    assert_eq!(status.state(), cri::ContainerState::ContainerRunning);
    assert!(
        status.created_at > 0 && status.started_at >= status.created_at && status.finished_at == 0,
        "{status:?}"
    );
    assert_eq!(status.image.as_ref().unwrap().image, BUSYBOX);
    assert_eq!(status.image_ref, status.image_id);

    eventually("both streams are in the log", 10, || {
        let text = node.messages(&pod, "walk.log");
        (text.contains("out\n") && text.contains("err\n")).then_some(())
    });
    let out = node.exec(&id, &["sh", "-c", "echo one; echo two >&2; exit 3"]);
    assert_eq!(
        (out.code, out.stdout.as_str(), out.stderr.as_str()),
        (3, "one\n", "two\n")
    );

    node.stop_container(&id, 120);
    let status = node.status(&id);
    assert_eq!(status.state(), cri::ContainerState::ContainerExited);
    assert_eq!(status.exit_code, 7, "{status:?}");
    assert!(status.finished_at >= status.started_at, "{status:?}");
    node.stop_container(&id, 10);
    node.remove_container(&id);
    let list = node
        .cri()
        .list_containers(cri::ListContainersRequest::default())
        .unwrap();
    assert!(list.containers.is_empty(), "{list:?}");
    node.remove_pod(&pod.id);
    node.remove_pod(&pod.id);
}

#[test]
fn exit_codes_and_reasons_are_told() {
    let node = Node::start();
    let pod = node.pod(pod("exit"));
    for (name, script, code, reason) in [
        ("zero", "exit 0", 0, "Completed"),
        ("five", "exit 5", 5, "Error"),
        ("killed", "kill -9 $$", 137, "Error"),
    ] {
        // A shell that is PID 1 cannot kill itself: one below it does.
        let script = if name == "killed" {
            format!("sh -c '{script}'; exit $?")
        } else {
            script.to_string()
        };
        let id = node.launch(&pod, container(name, BUSYBOX, &["sh", "-c", &script]));
        let status = node.wait_exit(&id, 10);
        assert_eq!(status.exit_code, code, "{name}: {status:?}");
        assert_eq!(status.reason, reason, "{name}: {status:?}");
    }
}

#[test]
fn a_container_over_its_memory_limit_is_oom_killed() {
    let node = Node::start();
    let pod = node.pod(pod("oom"));
    let mut config = container("oom", BUSYBOX, &["sh", "-c", "x=a; while :; do x=$x$x; done"]);
    let linux = config.linux.as_mut().unwrap();
    let limit = 15 * 1024 * 1024;
    linux.resources = Some(cri::LinuxContainerResources {
        memory_limit_in_bytes: limit,
        memory_swap_limit_in_bytes: limit,
        ..Default::default()
    });
    let id = node.launch(&pod, config);
    let status = node.wait_exit(&id, 30);
    assert_eq!(
        (status.exit_code, status.reason.as_str()),
        (137, "OOMKilled"),
        "{status:?}"
    );
}

#[test]
fn a_stop_without_an_answer_to_term_kills_after_the_grace() {
    let node = Node::start();
    let pod = node.pod(pod("deaf"));
    let id = node.launch(
        &pod,
        container(
            "deaf",
            BUSYBOX,
            &["sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 1; done"],
        ),
    );
    eventually("TERM is ignored", 10, || {
        node.messages(&pod, "deaf.log").contains("deaf\n").then_some(())
    });
    let start = std::time::Instant::now();
    node.stop_container(&id, 1);
    let took = start.elapsed();
    assert!(took >= std::time::Duration::from_millis(900), "{took:?}");
    assert_eq!(node.status(&id).exit_code, 137);
}

#[test]
fn a_stopped_pod_has_no_running_container_and_keeps_its_records() {
    let node = Node::start();
    let pod = node.pod(pod("stopped"));
    let id = node.launch(&pod, container("c", BUSYBOX, &["sleep", "1000"]));
    node.cri()
        .stop_pod_sandbox(cri::StopPodSandboxRequest {
            pod_sandbox_id: pod.id.clone(),
        })
        .unwrap();
    let request = cri::PodSandboxStatusRequest {
        pod_sandbox_id: pod.id.clone(),
        verbose: true,
    };
    let status = node.cri().pod_sandbox_status(request).unwrap().status.unwrap();
    assert_eq!(status.state(), cri::PodSandboxState::SandboxNotready);
    assert_eq!(node.status(&id).state(), cri::ContainerState::ContainerExited);
    let error = node
        .try_create(&pod, container("late", BUSYBOX, &["true"]))
        .unwrap_err();
    assert!(!error.message().is_empty());
}

#[test]
fn containers_of_a_shared_pid_namespace_see_each_other() {
    let node = Node::start();
    let mut config = pod("shared");
    let security = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
    security.namespace_options = Some(cri::NamespaceOption::default());
    let pod = node.pod(config);
    let shared = |name: &str, command: &[&str]| {
        let mut config = container(name, BUSYBOX, command);
        let security = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
        security.namespace_options = Some(cri::NamespaceOption::default());
        config
    };
    node.launch(&pod, shared("one", &["sleep", "4321"]));
    let two = node.launch(&pod, shared("two", &["sleep", "1000"]));
    let out = node.exec(&two, &["pgrep", "-f", "sleep 4321"]);
    assert_eq!(out.code, 0, "{out:?}");
}

#[test]
fn lists_are_filtered() {
    let node = Node::start();
    let first = node.pod(pod("first"));
    let second = node.pod(pod("second"));
    let id = node.launch(&first, container("c", BUSYBOX, &["sleep", "1000"]));
    node.pull(BUSYBOX);
    let created = node
        .try_create(&second, container("d", BUSYBOX, &["sleep", "1000"]))
        .unwrap();
    let pods = |filter: cri::PodSandboxFilter| {
        let request = cri::ListPodSandboxRequest { filter: Some(filter) };
        node.cri()
            .list_pod_sandbox(request)
            .unwrap()
            .items
            .into_iter()
            .map(|pod| pod.id)
            .collect::<Vec<_>>()
    };
    let by_label = cri::PodSandboxFilter {
        label_selector: [("app".to_string(), "second".to_string())].into(),
        ..Default::default()
    };
    assert_eq!(pods(by_label), std::slice::from_ref(&second.id));
    assert_eq!(
        pods(cri::PodSandboxFilter {
            id: first.id.clone(),
            ..Default::default()
        }),
        std::slice::from_ref(&first.id)
    );
    let containers = |filter: cri::ContainerFilter| {
        let request = cri::ListContainersRequest { filter: Some(filter) };
        node.cri()
            .list_containers(request)
            .unwrap()
            .containers
            .into_iter()
            .map(|c| c.id)
            .collect::<Vec<_>>()
    };
    let running = cri::ContainerStateValue {
        state: cri::ContainerState::ContainerRunning.into(),
    };
    assert_eq!(
        containers(cri::ContainerFilter {
            state: Some(running),
            ..Default::default()
        }),
        [id]
    );
    let of_second = cri::ContainerFilter {
        pod_sandbox_id: second.id.clone(),
        ..Default::default()
    };
    assert_eq!(containers(of_second), [created]);
}

#[test]
fn limits_reach_the_cgroup_and_can_be_changed() {
    let node = Node::start();
    let pod = node.pod(pod("limits"));
    let mut config = container("limits", BUSYBOX, &["sleep", "1000"]);
    config.linux.as_mut().unwrap().resources = Some(resources(64));
    let id = node.launch(&pod, config);
    assert_eq!(memory_limit(&node, &id), 64 << 20);
    let request = cri::UpdateContainerResourcesRequest {
        container_id: id.clone(),
        linux: Some(resources(96)),
        ..Default::default()
    };
    node.cri().update_container_resources(request).unwrap();
    assert_eq!(memory_limit(&node, &id), 96 << 20);
    let told = node.status(&id).resources.unwrap().linux.unwrap();
    assert_eq!(told.memory_limit_in_bytes, 96 << 20);
}

fn resources(mebibytes: i64) -> cri::LinuxContainerResources {
    cri::LinuxContainerResources {
        memory_limit_in_bytes: mebibytes << 20,
        cpu_quota: 50_000,
        cpu_period: 100_000,
        cpu_shares: 512,
        ..Default::default()
    }
}

/// The limit of the container's own cgroup, by the kernel's word.
fn memory_limit(node: &Node, id: &str) -> i64 {
    let folder = node.place.cgroups().into_iter().find_map(|folder| {
        let of_container = folder.to_string_lossy().contains(id);
        ["memory.max", "memory.limit_in_bytes"]
            .iter()
            .map(|name| folder.join(name))
            .find(|file| of_container && file.exists())
    });
    let file = folder.expect("a memory cgroup of the container");
    std::fs::read_to_string(file).unwrap().trim().parse().unwrap()
}
