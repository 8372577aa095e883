//! The daemon dies, or a step fails, at every named step of every operation. Afterwards what was half done is gone
//! or complete, the same request works, and nothing is left in the end.

use criquet_tests::{BUSYBOX, Node, PATIENCE_S, Pod, container, cri, eventually, image, pod};
use tonic::Status;

/// The operations that points are named after.
const OPERATIONS: [&str; 8] = [
    "run",
    "create",
    "start",
    "stop",
    "remove",
    "stop_pod",
    "remove_pod",
    "pull",
];
/// A daemon that was told to die has died within this, in seconds.
const DEATH_S: u64 = PATIENCE_S;

/// What an operation is done to.
struct Scene {
    pod: cri::PodSandboxConfig,
    container: cri::ContainerConfig,
    /// Once they are made.
    pod_id: String,
    container_id: String,
}

type Outcome = Result<(), Status>;

fn points(node: &Node) -> Vec<String> {
    let list = node.criquet_alone(&["fault-points"]).ok();
    list.lines().map(str::to_owned).collect()
}

/// For each point of `operation`: a scene is set, `act` is done, the daemon does `action` at the point, and after a
/// new start `again` must find everything in order.
fn at_each_point(
    operation: &str,
    action: &str,
    set: fn(&Node, &mut Scene),
    act: fn(&Node, &Scene) -> Outcome,
    again: fn(&Node, &mut Scene),
) {
    let mut node = Node::start();
    node.pull(BUSYBOX);
    let points = points(&node);
    let of_operation = |point: &&String| point.split('.').next() == Some(operation);
    let mut tried = 0;
    for point in points.iter().filter(of_operation) {
        println!("{action} at {point}");
        let mut scene = scene(&node, point);
        node.kill();
        node.set_variable("CRIQUET_FAULT", Some(&format!("{point}={action}")));
        node.up();
        set(&node, &mut scene);
        let outcome = act(&node, &scene);
        node.set_variable("CRIQUET_FAULT", None);
        if action == "die" {
            assert!(outcome.is_err(), "{point} is not reached");
            let status = node.wait_end(point, DEATH_S);
            assert!(!status.success(), "{point}: {status}");
            node.up();
            node.wait_recovered();
        }
        again(&node, &mut scene);
        node.remove_pods();
        node.assert_clean();
        assert_no_folder(&node, point);
        tried += 1;
    }
    assert!(tried > 0, "no point belongs to {operation}");
}

fn scene(node: &Node, point: &str) -> Scene {
    let mut config = pod(&point.replace(['.', '_'], "-"));
    // A pid namespace of the pod, so that its init is part of the game.
    let security = config
        .linux
        .as_mut()
        .and_then(|linux| linux.security_context.as_mut());
    security.unwrap().namespace_options.as_mut().unwrap().pid = cri::NamespaceMode::Pod.into();
    config.log_directory = node.work().join(point).to_string_lossy().into_owned();
    Scene {
        pod: config,
        container: container("c", BUSYBOX, &["sleep", "1000"]),
        pod_id: String::new(),
        container_id: String::new(),
    }
}

fn run(node: &Node, scene: &Scene) -> Result<String, Status> {
    node.try_pod(scene.pod.clone()).map(|pod| pod.id)
}

fn create(node: &Node, scene: &Scene) -> Result<String, Status> {
    let pod = Pod {
        id: scene.pod_id.clone(),
        config: scene.pod.clone(),
    };
    node.try_create(&pod, scene.container.clone())
}

fn with_pod(node: &Node, scene: &mut Scene) {
    scene.pod_id = run(node, scene).expect("RunPodSandbox");
}

fn with_container(node: &Node, scene: &mut Scene) {
    with_pod(node, scene);
    scene.container_id = create(node, scene).expect("CreateContainer");
}

fn with_running(node: &Node, scene: &mut Scene) {
    with_container(node, scene);
    node.start_container(&scene.container_id);
}

fn with_exited(node: &Node, scene: &mut Scene) {
    with_running(node, scene);
    node.stop_container(&scene.container_id, 0);
}

fn pods(node: &Node) -> Vec<cri::PodSandbox> {
    let request = cri::ListPodSandboxRequest::default();
    node.cri().list_pod_sandbox(request).unwrap().items
}

fn containers(node: &Node) -> Vec<cri::Container> {
    let request = cri::ListContainersRequest::default();
    node.cri().list_containers(request).unwrap().containers
}

/// Ids of what was half made are known to nobody but the daemon: its folders must be empty.
fn assert_no_folder(node: &Node, point: &str) {
    let (root, state) = (node.place.folder.join("root"), &node.place.state);
    for folder in [
        root.join("containers"),
        state.join("containers"),
        state.join("sandboxes"),
    ] {
        eventually(&format!("{point}: {folder:?} is empty"), PATIENCE_S, || {
            std::fs::read_dir(&folder).unwrap().next().is_none().then_some(())
        });
    }
}

fn run_again(node: &Node, scene: &mut Scene) {
    for found in pods(node) {
        assert_eq!(
            found.state(),
            cri::PodSandboxState::SandboxReady,
            "a half-made pod is shown"
        );
    }
    scene.pod_id = run(node, scene).expect("RunPodSandbox again");
    assert_eq!(pods(node).len(), 1);
    // It is whole.
    scene.container_id = create(node, scene).expect("CreateContainer");
    node.start_container(&scene.container_id);
    assert_eq!(
        node.exec(&scene.container_id, &["hostname"]).stdout.trim(),
        scene.pod.hostname
    );
}

fn create_again(node: &Node, scene: &mut Scene) {
    for found in containers(node) {
        assert_eq!(
            found.state(),
            cri::ContainerState::ContainerCreated,
            "a half-made container is shown"
        );
    }
    scene.container_id = create(node, scene).expect("CreateContainer again");
    assert_eq!(containers(node).len(), 1);
    node.start_container(&scene.container_id);
    assert_eq!(
        node.exec(&scene.container_id, &["echo", "alive"]).stdout,
        "alive\n"
    );
}

fn start(node: &Node, scene: &Scene) -> Outcome {
    let container_id = scene.container_id.clone();
    node.cri()
        .start_container(cri::StartContainerRequest { container_id })
        .map(drop)
}

fn start_again(node: &Node, scene: &mut Scene) {
    // One whose shim did not answer at once counts as running until it does.
    let request = cri::ExecSyncRequest {
        container_id: scene.container_id.clone(),
        cmd: ["echo", "alive"].map(str::to_owned).to_vec(),
        timeout: 60,
    };
    let out = eventually("the container runs", PATIENCE_S, || {
        if node.status(&scene.container_id).state() == cri::ContainerState::ContainerCreated {
            node.start_container(&scene.container_id);
        }
        node.cri().exec_sync(request.clone()).ok()
    });
    assert_eq!(out.stdout, b"alive\n");
    let status = node.status(&scene.container_id);
    assert_eq!(status.state(), cri::ContainerState::ContainerRunning);
    assert!(status.started_at >= status.created_at, "{status:?}");
}

fn stop(node: &Node, scene: &Scene) -> Outcome {
    let request = cri::StopContainerRequest {
        container_id: scene.container_id.clone(),
        // Sleep does not mind SIGTERM.
        timeout: 1,
    };
    node.cri().stop_container(request).map(drop)
}

fn stop_again(node: &Node, scene: &mut Scene) {
    node.stop_container(&scene.container_id, 0);
    let status = node.status(&scene.container_id);
    assert_eq!(status.state(), cri::ContainerState::ContainerExited);
    assert!(
        status.finished_at >= status.started_at && status.started_at > 0,
        "{status:?}"
    );
    // 143: where the pod's init is pid 1, sleep does mind.
    assert!([137, 143].contains(&status.exit_code), "{status:?}");
}

fn remove(node: &Node, scene: &Scene) -> Outcome {
    let container_id = scene.container_id.clone();
    node.cri()
        .remove_container(cri::RemoveContainerRequest { container_id })
        .map(drop)
}

fn remove_again(node: &Node, scene: &mut Scene) {
    node.remove_container(&scene.container_id);
    assert!(containers(node).is_empty());
    // Its name is free.
    scene.container_id = create(node, scene).expect("CreateContainer");
}

fn stop_pod(node: &Node, scene: &Scene) -> Outcome {
    let pod_sandbox_id = scene.pod_id.clone();
    node.cri()
        .stop_pod_sandbox(cri::StopPodSandboxRequest { pod_sandbox_id })
        .map(drop)
}

fn stop_pod_again(node: &Node, scene: &mut Scene) {
    stop_pod(node, scene).expect("StopPodSandbox again");
    let found = pods(node);
    assert_eq!(
        (found.len(), found[0].state()),
        (1, cri::PodSandboxState::SandboxNotready)
    );
    assert_eq!(
        node.status(&scene.container_id).state(),
        cri::ContainerState::ContainerExited
    );
    scene.container.metadata.as_mut().unwrap().attempt += 1;
    let refused = create(node, scene).expect_err("a stopped pod takes no container");
    assert!(refused.message().contains("not ready"), "{refused}");
}

fn remove_pod(node: &Node, scene: &Scene) -> Outcome {
    let pod_sandbox_id = scene.pod_id.clone();
    node.cri()
        .remove_pod_sandbox(cri::RemovePodSandboxRequest { pod_sandbox_id })
        .map(drop)
}

fn remove_pod_again(node: &Node, scene: &mut Scene) {
    remove_pod(node, scene).expect("RemovePodSandbox again");
    assert!(pods(node).is_empty() && containers(node).is_empty());
    // Its name is free.
    scene.pod_id = run(node, scene).expect("RunPodSandbox");
}

fn remove_image(node: &Node) {
    let request = cri::RemoveImageRequest {
        image: Some(image(BUSYBOX)),
    };
    node.cri().remove_image(request).expect("RemoveImage");
}

fn pull(node: &Node, _: &Scene) -> Outcome {
    let request = cri::PullImageRequest {
        image: Some(image(BUSYBOX)),
        ..cri::PullImageRequest::default()
    };
    node.cri().pull_image(request).map(drop)
}

fn pull_again(node: &Node, scene: &mut Scene) {
    pull(node, scene).expect("PullImage again");
    // It is whole.
    with_running(node, scene);
    assert_eq!(
        node.exec(&scene.container_id, &["echo", "alive"]).stdout,
        "alive\n"
    );
    let entries = |name| {
        std::fs::read_dir(node.place.folder.join("root/images").join(name))
            .unwrap()
            .count()
    };
    assert_eq!(
        (entries("layers"), entries("tmp")),
        (1, 0),
        "busybox has one layer"
    );
}

#[test]
fn pulling_an_image() {
    at_each_point("pull", "die", |node, _| remove_image(node), pull, pull_again);
}

#[test]
fn every_point_has_a_test() {
    let node = Node::start();
    for point in points(&node) {
        let operation = point.split('.').next().unwrap();
        assert!(OPERATIONS.contains(&operation), "{point}: of which operation?");
    }
}

#[test]
fn running_a_pod() {
    at_each_point(
        "run",
        "die",
        |_, _| {},
        |node, scene| run(node, scene).map(drop),
        run_again,
    );
}

#[test]
fn running_a_pod_fails() {
    at_each_point(
        "run",
        "fail",
        |_, _| {},
        |node, scene| run(node, scene).map(drop),
        run_again,
    );
}

#[test]
fn creating_a_container() {
    at_each_point(
        "create",
        "die",
        with_pod,
        |node, scene| create(node, scene).map(drop),
        create_again,
    );
}

#[test]
fn creating_a_container_fails() {
    at_each_point(
        "create",
        "fail",
        with_pod,
        |node, scene| create(node, scene).map(drop),
        create_again,
    );
}

#[test]
fn starting_a_container() {
    at_each_point("start", "die", with_container, start, start_again);
}

#[test]
fn stopping_a_container() {
    at_each_point("stop", "die", with_running, stop, stop_again);
}

#[test]
fn removing_a_container() {
    at_each_point("remove", "die", with_exited, remove, remove_again);
}

#[test]
fn stopping_a_pod() {
    at_each_point("stop_pod", "die", with_running, stop_pod, stop_pod_again);
}

#[test]
fn stopping_a_pod_fails() {
    at_each_point("stop_pod", "fail", with_running, stop_pod, stop_pod_again);
}

#[test]
fn removing_a_pod() {
    at_each_point("remove_pod", "die", with_running, remove_pod, remove_pod_again);
}

#[test]
fn removing_a_pod_fails() {
    at_each_point("remove_pod", "fail", with_running, remove_pod, remove_pod_again);
}
