//! The daemon may die at any time: containers, logs and exit codes do not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::let_underscore_must_use)]
// A call that goes on beside the test is a task of the client's runtime, and its handle is the point.
#![allow(clippy::async_yields_async)]

mod crash;
mod crowd;
mod reboot;
mod stuck;

use std::time::{Duration, Instant, SystemTime};

use criquet_tests::{BUSYBOX, Node, PATIENCE_S, Pod, container, cri, eventually, image, pod};

const TICKS: &str = "i=0; while :; do echo tick $i; i=$((i+1)); sleep 0.02; done";

fn three_pods(node: &Node) -> Vec<(Pod, String)> {
    ["one", "two", "three"]
        .iter()
        .map(|name| {
            let pod = node.pod(pod(name));
            let id = node.launch(&pod, container(name, BUSYBOX, &["sh", "-c", TICKS]));
            (pod, id)
        })
        .collect()
}

#[test]
fn three_pods_live_through_kill_9_and_lose_no_line() {
    let mut node = Node::start();
    let pods = three_pods(&node);
    let before: Vec<cri::ContainerStatus> = pods.iter().map(|(_, id)| node.status(id)).collect();
    node.kill();
    for (pod, _) in &pods {
        let alone = ticks(&node, pod).len();
        eventually("the container ticks while nobody watches", PATIENCE_S, || {
            (ticks(&node, pod).len() > alone + 10).then_some(())
        });
    }
    let start = Instant::now();
    node.up();
    println!("answers {:?} after its start", start.elapsed());
    for ((pod, id), before) in pods.iter().zip(&before) {
        // A shim that was late with its answer is asked again beside the requests.
        let now = eventually("its shim tells when it was started", PATIENCE_S, || {
            Some(node.status(id)).filter(|now| now.started_at == before.started_at)
        });
        assert_eq!(now.state(), cri::ContainerState::ContainerRunning);
        assert_eq!(now.created_at, before.created_at);
        assert_eq!(now.labels, before.labels);
        let request = cri::PodSandboxStatusRequest {
            pod_sandbox_id: pod.id.clone(),
            verbose: false,
        };
        let status = node.cri().pod_sandbox_status(request).unwrap().status.unwrap();
        assert_eq!(status.state(), cri::PodSandboxState::SandboxReady);
        assert!(status.network.unwrap().ip.starts_with("10.201."));
        assert_eq!(node.exec(id, &["echo", "alive"]).stdout, "alive\n");
        node.stop_container(id, 0);
        assert_no_tick_is_missing(&node, pod);
    }
}

/// What a container has counted so far.
fn ticks(node: &Node, pod: &Pod) -> Vec<usize> {
    let name = &pod.config.metadata.as_ref().unwrap().name;
    let text = node.messages(pod, &format!("{name}.log"));
    text.lines()
        .filter_map(|line| line.strip_prefix("tick ")?.parse().ok())
        .collect()
}

fn assert_no_tick_is_missing(node: &Node, pod: &Pod) {
    let ticks = ticks(node, pod);
    assert!(ticks.len() > 10, "{} ticks", ticks.len());
    for (index, tick) in ticks.iter().enumerate() {
        assert_eq!(index, *tick, "a line is missing or doubled in the log");
    }
}

#[test]
fn an_exit_while_the_daemon_is_away_is_told_later() {
    let mut node = Node::start();
    let pod = node.pod(pod("away"));
    let id = node.launch(
        &pod,
        container("away", BUSYBOX, &["sh", "-c", "sleep 3; exit 42"]),
    );
    let started_at = node.status(&id).started_at;
    node.kill();
    let record = node.place.state.join("containers").join(&id).join("exit");
    eventually("the shim writes the exit down", PATIENCE_S, || {
        record.exists().then_some(())
    });
    let back = now_ns();
    node.up();
    let status = node.wait_exit(&id, PATIENCE_S);
    assert_eq!(
        (status.exit_code, status.started_at),
        (42, started_at),
        "{status:?}"
    );
    // It is told as of then, not as of now. A busy machine may see the start up to two seconds late.
    assert!(
        status.finished_at >= started_at + 1_000_000_000 && status.finished_at <= back,
        "{status:?}, back at {back}"
    );
}

fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    i64::try_from(since.unwrap().as_nanos()).unwrap()
}

#[test]
fn created_and_stopped_things_are_still_known() {
    let mut node = Node::start();
    let ready = node.pod(pod("ready"));
    node.pull(BUSYBOX);
    let created = node
        .try_create(&ready, container("created", BUSYBOX, &["sleep", "1000"]))
        .unwrap();
    let stopped = node.pod(pod("stopped"));
    let ended = node.launch(&stopped, container("ended", BUSYBOX, &["true"]));
    node.wait_exit(&ended, PATIENCE_S);
    node.cri()
        .stop_pod_sandbox(cri::StopPodSandboxRequest {
            pod_sandbox_id: stopped.id.clone(),
        })
        .unwrap();
    node.crash();
    // A shim that was late with its answer is asked again beside the requests.
    eventually("its shim tells that it waits", PATIENCE_S, || {
        (node.status(&created).state() == cri::ContainerState::ContainerCreated).then_some(())
    });
    node.start_container(&created);
    assert_eq!(
        node.status(&created).state(),
        cri::ContainerState::ContainerRunning
    );
    assert_eq!(node.status(&ended).state(), cri::ContainerState::ContainerExited);
    let request = cri::PodSandboxStatusRequest {
        pod_sandbox_id: stopped.id,
        verbose: false,
    };
    let status = node.cri().pod_sandbox_status(request).unwrap().status.unwrap();
    assert_eq!(status.state(), cri::PodSandboxState::SandboxNotready);
}

#[test]
fn images_survive_and_need_no_second_pull() {
    let mut node = Node::start();
    let id = node.pull(BUSYBOX);
    node.crash();
    let request = cri::ImageStatusRequest {
        image: Some(image(BUSYBOX)),
        ..Default::default()
    };
    assert_eq!(node.cri().image_status(request).unwrap().image.unwrap().id, id);
}

#[test]
fn a_crash_during_a_pull_leaves_a_store_that_works() {
    let mut node = Node::start();
    for delay_ms in [5, 20, 60, 150] {
        let mut client = node.cri().images();
        let request = cri::PullImageRequest {
            image: Some(image(BUSYBOX)),
            ..Default::default()
        };
        node.cri().wait(async {
            let pull = tokio::spawn(async move { client.pull_image(request).await });
            tokio::time::sleep(Duration::from_millis(delay_ms)).await;
            pull.abort();
            // Nothing of it may reach the next daemon.
            let _ = pull.await;
        });
        node.crash();
    }
    let pod = node.pod(pod("after"));
    let id = node.launch(&pod, container("after", BUSYBOX, &["sleep", "1000"]));
    assert_eq!(node.exec(&id, &["echo", "fine"]).stdout, "fine\n");
}

/// kill -9 in the middle of RunPodSandbox, CreateContainer or StartContainer: whatever the daemon says is there
/// can be removed, and then nothing is left.
#[test]
fn a_crash_at_any_moment_of_a_pods_start_leaks_nothing() {
    let mut node = Node::start();
    node.pull(BUSYBOX);
    for (round, delay_ms) in [1, 3, 6, 10, 15, 25, 40, 60].into_iter().enumerate() {
        let mut config = pod(&format!("crash{round}"));
        config.log_directory = node.work().join("logs").to_string_lossy().into_owned();
        start_in_background(&node, config, Duration::from_millis(delay_ms));
        node.crash();
        node.wait_recovered();
        node.remove_pods();
        node.assert_clean();
    }
}

fn start_in_background(node: &Node, config: cri::PodSandboxConfig, time: Duration) {
    let mut client = node.cri().runtime();
    node.cri().wait(async {
        let work = tokio::spawn(async move {
            let request = cri::RunPodSandboxRequest {
                config: Some(config.clone()),
                ..Default::default()
            };
            let Ok(pod) = client.run_pod_sandbox(request).await else {
                return;
            };
            let request = cri::CreateContainerRequest {
                pod_sandbox_id: pod.into_inner().pod_sandbox_id,
                config: Some(container("c", BUSYBOX, &["sleep", "1000"])),
                sandbox_config: Some(config),
            };
            let Ok(made) = client.create_container(request).await else {
                return;
            };
            let container_id = made.into_inner().container_id;
            let _ = client
                .start_container(cri::StartContainerRequest { container_id })
                .await;
        });
        tokio::time::sleep(time).await;
        work.abort();
        // Nothing of it may reach the next daemon.
        let _ = work.await;
    });
}

#[test]
fn a_calm_restart_keeps_containers_running() {
    let mut node = Node::start();
    let pod = node.pod(pod("calm"));
    let id = node.launch(&pod, container("calm", BUSYBOX, &["sh", "-c", TICKS]));
    assert!(node.stop().success());
    node.up();
    assert_eq!(node.status(&id).state(), cri::ContainerState::ContainerRunning);
    node.stop_container(&id, 0);
}

#[test]
fn a_killed_shim_is_noticed() {
    let node = Node::start();
    let pod = node.pod(pod("shim"));
    let id = node.launch(&pod, container("shim", BUSYBOX, &["sleep", "1000"]));
    let daemon = node.pid().to_string();
    let shims =
        node.place.processes().into_iter().filter(|process| {
            process.command.starts_with("criquet-shim") && process.pid.to_string() != daemon
        });
    let mut killed = 0;
    for shim in shims {
        criquet_tests::run("kill", &["-9", &shim.pid.to_string()]).ok();
        killed += 1;
    }
    assert!(killed > 0, "no shim was found among {:?}", node.place.processes());
    let status = eventually("the container has ended", PATIENCE_S, || {
        let status = node.status(&id);
        (status.state() != cri::ContainerState::ContainerRunning).then_some(status)
    });
    assert_ne!(status.exit_code, 0, "{status:?}");
}
