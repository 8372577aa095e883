//! GetContainerEvents: what the kubelet's evented PLEG lives on.

use std::time::Duration;

use criquet_tests::{BUSYBOX, Node, PATIENCE_S, container, cri, pod};
use tokio_stream::StreamExt;
use tonic::Streaming;

use cri::ContainerEventType as Kind;

/// The life of a container or pod.
const LIFE: [Kind; 4] = [
    Kind::ContainerCreatedEvent,
    Kind::ContainerStartedEvent,
    Kind::ContainerStoppedEvent,
    Kind::ContainerDeletedEvent,
];
/// An event comes within this.
const SOON: Duration = Duration::from_secs(PATIENCE_S);

/// Somebody who listens.
struct Listener<'a> {
    node: &'a Node,
    events: Streaming<cri::ContainerEventResponse>,
}

impl Listener<'_> {
    /// Listens: what happens from now on is told, which the first event of a pod proves.
    fn open(node: &Node) -> Listener<'_> {
        let mut client = node.cri().runtime();
        let open = async { client.get_container_events(cri::GetEventsRequest {}).await };
        let events = node.cri().wait(open).unwrap().into_inner();
        let mut listener = Listener { node, events };
        let first = node.pod(pod("proof"));
        assert_eq!(listener.next().container_id, first.id);
        node.remove_pod(&first.id);
        while listener.next().container_event_type() != Kind::ContainerDeletedEvent {}
        listener
    }

    #[track_caller]
    fn next(&mut self) -> cri::ContainerEventResponse {
        let next = self
            .node
            .cri()
            .wait(async { tokio::time::timeout(SOON, self.events.next()).await });
        next.expect("an event in time")
            .expect("an open stream")
            .expect("an event")
    }

    /// Nothing is told for a moment.
    fn quiet(&mut self) {
        let pause = Duration::from_millis(300);
        let next = self
            .node
            .cri()
            .wait(async { tokio::time::timeout(pause, self.events.next()).await });
        assert!(next.is_err(), "{next:?}");
    }
}

fn states(event: &cri::ContainerEventResponse) -> Vec<(String, cri::ContainerState)> {
    event
        .containers_statuses
        .iter()
        .map(|status| (status.id.clone(), status.state()))
        .collect()
}

#[test]
fn a_life_is_told_in_order_with_the_state_of_then() {
    let node = Node::start();
    node.pull(BUSYBOX);
    let mut listener = Listener::open(&node);
    let mut last_at = 0;
    let mut next = |id: &str, kind: Kind| {
        let event = listener.next();
        assert_eq!(
            (event.container_id.as_str(), event.container_event_type()),
            (id, kind)
        );
        assert!(event.created_at >= last_at, "time goes back");
        last_at = event.created_at;
        event
    };

    let sandbox = node.pod(pod("events"));
    for kind in &LIFE[..2] {
        let status = next(&sandbox.id, *kind).pod_sandbox_status.unwrap();
        assert_eq!(
            (status.id.as_str(), status.state()),
            (&*sandbox.id, cri::PodSandboxState::SandboxReady)
        );
        assert!(status.network.unwrap().ip.starts_with(&node.place.addresses));
    }
    let id = node
        .try_create(&sandbox, container("one", BUSYBOX, &["sh", "-c", "exit 7"]))
        .unwrap();
    let created = next(&id, LIFE[0]);
    assert_eq!(created.pod_sandbox_status.as_ref().unwrap().id, sandbox.id);
    assert_eq!(
        states(&created),
        [(id.clone(), cri::ContainerState::ContainerCreated)]
    );
    node.start_container(&id);
    let started = next(&id, LIFE[1]);
    let state = states(&started)[0].1;
    // It may have ended before the event was written.
    assert!(matches!(
        state,
        cri::ContainerState::ContainerRunning | cri::ContainerState::ContainerExited
    ));
    let stopped = next(&id, LIFE[2]);
    let status = &stopped.containers_statuses[0];
    assert_eq!(
        (status.state(), status.exit_code),
        (cri::ContainerState::ContainerExited, 7)
    );
    assert!(status.finished_at > 0 && stopped.created_at >= status.finished_at);
    node.remove_container(&id);
    assert!(states(&next(&id, LIFE[3])).is_empty());

    node.cri()
        .stop_pod_sandbox(cri::StopPodSandboxRequest {
            pod_sandbox_id: sandbox.id.clone(),
        })
        .unwrap();
    let status = next(&sandbox.id, LIFE[2]).pod_sandbox_status.unwrap();
    assert_eq!(status.state(), cri::PodSandboxState::SandboxNotready);
    node.remove_pod(&sandbox.id);
    next(&sandbox.id, LIFE[3]);
    listener.quiet();
}

#[test]
fn what_is_asked_for_again_is_told_once() {
    let node = Node::start();
    node.pull(BUSYBOX);
    let mut listener = Listener::open(&node);
    let sandbox = node.pod(pod("again"));
    let id = node.launch(&sandbox, container("again", BUSYBOX, &["sleep", "1000"]));
    for _ in 0..2 {
        node.stop_container(&id, 0);
    }
    node.remove_container(&id);
    node.remove_container(&id);
    for _ in 0..2 {
        node.remove_pod(&sandbox.id);
    }
    for of in [[&sandbox.id; 2], [&id; 2]] {
        for (id, kind) in of.iter().zip(LIFE) {
            let event = listener.next();
            assert_eq!((&event.container_id, event.container_event_type()), (*id, kind));
        }
    }
    for (id, kind) in [
        (&id, LIFE[2]),
        (&id, LIFE[3]),
        (&sandbox.id, LIFE[2]),
        (&sandbox.id, LIFE[3]),
    ] {
        let event = listener.next();
        assert_eq!((&event.container_id, event.container_event_type()), (id, kind));
    }
    listener.quiet();
}

#[test]
fn a_pod_that_is_removed_alive_takes_its_containers_along() {
    let node = Node::start();
    node.pull(BUSYBOX);
    let mut listener = Listener::open(&node);
    let sandbox = node.pod(pod("alive"));
    let ids = ["one", "two"].map(|name| node.launch(&sandbox, container(name, BUSYBOX, &["sleep", "1000"])));
    node.remove_pod(&sandbox.id);
    let mut told: Vec<(String, Kind)> = Vec::new();
    while told.last() != Some(&(sandbox.id.clone(), Kind::ContainerDeletedEvent)) {
        let event = listener.next();
        told.push((event.container_id.clone(), event.container_event_type()));
    }
    for id in ids.iter().chain([&sandbox.id]) {
        let kinds: Vec<Kind> = told
            .iter()
            .filter(|(of, _)| of == id)
            .map(|(_, kind)| *kind)
            .collect();
        assert_eq!(kinds, LIFE, "{id}");
    }
}

#[test]
fn every_listener_hears_everything_and_may_leave() {
    let node = Node::start();
    node.pull(BUSYBOX);
    let mut first = Listener::open(&node);
    let mut second = Listener::open(&node);
    // What the second one's proof was, the first has heard too.
    while first.next().container_event_type() != Kind::ContainerDeletedEvent {}
    drop(Listener::open(&node));
    for listener in [&mut first, &mut second] {
        while listener.next().container_event_type() != Kind::ContainerDeletedEvent {}
    }
    let sandbox = node.pod(pod("both"));
    for listener in [&mut first, &mut second] {
        for kind in &LIFE[..2] {
            let event = listener.next();
            assert_eq!(
                (&event.container_id, event.container_event_type()),
                (&sandbox.id, *kind)
            );
        }
    }
}
