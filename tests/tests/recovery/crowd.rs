//! Many pods and many clients, requests that are given up and repeated, and the daemon killed in between.

use std::time::{Duration, Instant};

use criquet_proto::cri::runtime_service_client::RuntimeServiceClient;
use criquet_tests::{BUSYBOX, Node, PATIENCE_S, container, cri, eventually, pod};
use tonic::transport::Channel;
use tonic::{Code, Status};

type Client = RuntimeServiceClient<Channel>;

/// A request is repeated for so long, as a kubelet does.
const PATIENCE: Duration = Duration::from_secs(300);

/// Repeats a request until it works; `done` says of an error that it means the same.
macro_rules! repeat {
    ($client:ident.$call:ident($request:expr), $done:expr) => {{
        let end = Instant::now() + PATIENCE;
        loop {
            let done: fn(&Status) -> bool = $done;
            match $client.$call($request).await {
                Ok(answer) => break Some(answer.into_inner()),
                Err(status) if done(&status) => break None,
                Err(status) => assert!(Instant::now() < end, "{}: {status}", stringify!($call)),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }};
}

fn config(node: &Node, name: &str) -> cri::PodSandboxConfig {
    let mut config = pod(name);
    config.log_directory = node.work().join(name).to_string_lossy().into_owned();
    config
}

async fn start(client: &mut Client, config: &cri::PodSandboxConfig) -> String {
    let never = |_: &Status| false;
    let request = cri::RunPodSandboxRequest {
        config: Some(config.clone()),
        ..Default::default()
    };
    let pod = repeat!(client.run_pod_sandbox(request.clone()), never)
        .unwrap()
        .pod_sandbox_id;
    let request = cri::CreateContainerRequest {
        pod_sandbox_id: pod.clone(),
        config: Some(container("c", BUSYBOX, &["sleep", "1000"])),
        sandbox_config: Some(config.clone()),
    };
    let id = repeat!(client.create_container(request.clone()), never)
        .unwrap()
        .container_id;
    let request = cri::StartContainerRequest { container_id: id };
    // The one that got no answer may have worked.
    let runs = |status: &Status| status.message().contains("runs already");
    repeat!(client.start_container(request.clone()), runs);
    pod
}

async fn end(client: &mut Client, pod: String) {
    let never = |_: &Status| false;
    let request = cri::StopPodSandboxRequest {
        pod_sandbox_id: pod.clone(),
    };
    repeat!(client.stop_pod_sandbox(request.clone()), never);
    let request = cri::RemovePodSandboxRequest { pod_sandbox_id: pod };
    repeat!(client.remove_pod_sandbox(request.clone()), never);
}

#[test]
fn eight_clients_and_a_daemon_that_dies_now_and_then_leak_nothing() {
    const CLIENTS: usize = 8;
    const PODS: usize = 20;
    let mut node = Node::start();
    node.pull(BUSYBOX);
    let configs: Vec<_> = (0..PODS).map(|n| config(&node, &format!("pod-{n}"))).collect();
    let work: Vec<_> = (0..CLIENTS)
        .map(|first| {
            let mut client = node.cri().runtime();
            let own: Vec<_> = configs.iter().skip(first).step_by(CLIENTS).cloned().collect();
            node.cri().wait(async {
                tokio::spawn(async move {
                    for config in own {
                        let pod = Box::pin(start(&mut client, &config)).await;
                        end(&mut client, pod).await;
                    }
                })
            })
        })
        .collect();
    for pause_ms in [120, 350, 90, 600, 200] {
        // Whatever moment it hits: each is as good as another.
        std::thread::sleep(Duration::from_millis(pause_ms));
        node.crash();
    }
    for client in work {
        node.cri().wait(client).expect("a client");
    }
    let left = node
        .cri()
        .list_pod_sandbox(cri::ListPodSandboxRequest::default())
        .unwrap()
        .items;
    assert!(left.is_empty(), "{left:?}");
    node.assert_clean();
}

#[test]
fn thirty_pods_are_all_there_after_a_crash() {
    const PODS: usize = 30;
    let mut node = Node::start();
    node.pull(BUSYBOX);
    let configs: Vec<_> = (0..PODS).map(|n| config(&node, &format!("pod-{n}"))).collect();
    let client = node.cri().runtime();
    node.cri().wait(async {
        let mut starts = tokio::task::JoinSet::new();
        for config in configs {
            let mut client = client.clone();
            starts.spawn(async move { Box::pin(start(&mut client, &config)).await });
        }
        starts.join_all().await
    });
    node.kill();
    let start = Instant::now();
    node.up();
    println!("answers {:?} after its start", start.elapsed());
    let pods = node
        .cri()
        .list_pod_sandbox(cri::ListPodSandboxRequest::default())
        .unwrap()
        .items;
    assert_eq!(pods.len(), PODS);
    assert!(
        pods.iter()
            .all(|pod| pod.state() == cri::PodSandboxState::SandboxReady)
    );
    let containers = node
        .cri()
        .list_containers(cri::ListContainersRequest::default())
        .unwrap()
        .containers;
    assert_eq!(containers.len(), PODS);
    assert!(
        containers
            .iter()
            .all(|one| one.state() == cri::ContainerState::ContainerRunning)
    );
    let client = node.cri().runtime();
    node.cri().wait(async {
        let mut ends = tokio::task::JoinSet::new();
        for pod in pods {
            let mut client = client.clone();
            ends.spawn(async move { end(&mut client, pod.id).await });
        }
        ends.join_all().await
    });
}

/// A daemon that waits at `point` once, long enough for what a test does meanwhile.
fn slow(point: &str, wait: Duration) -> Node {
    let mut node = Node::start();
    node.pull(BUSYBOX);
    node.kill();
    node.set_variable("CRIQUET_FAULT", Some(&format!("{point}={}", wait.as_millis())));
    node.up();
    node
}

#[test]
fn a_repeated_request_joins_the_one_that_its_caller_gave_up() {
    let node = slow("run.namespaces", Duration::from_secs(3));
    let request = cri::RunPodSandboxRequest {
        config: Some(config(&node, "joined")),
        ..Default::default()
    };
    let mut client = node.cri().runtime();
    let first = request.clone();
    let given_up = node.cri().wait(async move {
        tokio::time::timeout(Duration::from_millis(300), client.run_pod_sandbox(first)).await
    });
    assert!(given_up.is_err(), "the point makes it slow");
    let id = node
        .cri()
        .run_pod_sandbox(request.clone())
        .expect("the repeated request")
        .pod_sandbox_id;
    assert_eq!(
        node.cri()
            .run_pod_sandbox(request)
            .expect("once more")
            .pod_sandbox_id,
        id
    );
    let pods = node
        .cri()
        .list_pod_sandbox(cri::ListPodSandboxRequest::default())
        .unwrap()
        .items;
    assert_eq!(pods.len(), 1, "one pod, whoever asked how often");
}

#[test]
fn a_container_that_is_being_made_does_not_outlive_its_pod() {
    let node = slow("create.plan", Duration::from_secs(10));
    let pod = node.pod(config(&node, "gone"));
    let request = cri::CreateContainerRequest {
        pod_sandbox_id: pod.id.clone(),
        config: Some(container("late", BUSYBOX, &["sleep", "1000"])),
        sandbox_config: Some(pod.config.clone()),
    };
    let mut client = node.cri().runtime();
    let create = node
        .cri()
        .wait(async { tokio::spawn(async move { client.create_container(request).await }) });
    let folders = node.place.state.join("containers");
    eventually("the container is being made", PATIENCE_S, || {
        std::fs::read_dir(&folders).unwrap().next().map(drop)
    });
    node.remove_pod(&pod.id);
    let refused = node.cri().wait(create).unwrap().expect_err("its pod is gone");
    assert_ne!(refused.code(), Code::Ok);
    let containers = node
        .cri()
        .list_containers(cri::ListContainersRequest::default())
        .unwrap()
        .containers;
    assert!(containers.is_empty(), "{containers:?}");
    eventually("its folder is gone", PATIENCE_S, || {
        std::fs::read_dir(&folders)
            .unwrap()
            .next()
            .is_none()
            .then_some(())
    });
    node.assert_clean();
}

#[test]
fn a_shorter_grace_period_ends_a_stop_that_is_under_way() {
    let node = Node::start();
    let pod = node.pod(pod("grace"));
    let script = "trap 'echo asked' TERM; echo ready; while :; do sleep 0.1; done";
    let id = node.launch(&pod, container("grace", BUSYBOX, &["sh", "-c", script]));
    let said = |text: &str| {
        eventually(text, PATIENCE_S, || {
            node.messages(&pod, "grace.log").contains(text).then_some(())
        });
    };
    said("ready");
    let mut client = node.cri().runtime();
    let request = cri::StopContainerRequest {
        container_id: id.clone(),
        timeout: 3600,
    };
    let long = node
        .cri()
        .wait(async { tokio::spawn(async move { client.stop_container(request).await }) });
    said("asked");
    node.stop_container(&id, 1);
    node.cri()
        .wait(long)
        .unwrap()
        .expect("the stop that was under way");
    assert_eq!(node.status(&id).exit_code, 137);
}
