//! Container events and the streamed lists.

use std::time::Duration;

use criquet_tests::{BUSYBOX, Node, container, cri, pod};
use tokio_stream::StreamExt;

#[test]
fn events_tell_a_containers_life_in_order() {
    let node = Node::start();
    node.pull(BUSYBOX);
    let mut client = node.cri().runtime();
    let mut events = node
        .cri()
        .wait(async { client.get_container_events(cri::GetEventsRequest {}).await })
        .unwrap()
        .into_inner();
    let pod = node.pod(pod("events"));
    let id = node.launch(&pod, container("events", BUSYBOX, &["true"]));
    node.wait_exit(&id, 10);
    node.remove_container(&id);
    let kinds = node.cri().wait(async {
        let mut kinds = Vec::new();
        while kinds.last() != Some(&cri::ContainerEventType::ContainerDeletedEvent) {
            let next = tokio::time::timeout(Duration::from_secs(10), events.next()).await;
            let event = next
                .expect("an event in time")
                .expect("an open stream")
                .expect("an event");
            if event.container_id == id {
                kinds.push(event.container_event_type());
            }
        }
        kinds
    });
    use cri::ContainerEventType as Kind;
    let life = [
        Kind::ContainerCreatedEvent,
        Kind::ContainerStartedEvent,
        Kind::ContainerStoppedEvent,
        Kind::ContainerDeletedEvent,
    ];
    assert_eq!(kinds, life);
}

#[test]
fn the_streamed_list_is_the_list() {
    let node = Node::start();
    let first = node.pod(pod("one"));
    let second = node.pod(pod("two"));
    let mut client = node.cri().runtime();
    let mut ids: Vec<String> = node.cri().wait(async {
        let mut stream = client
            .stream_pod_sandboxes(cri::StreamPodSandboxesRequest::default())
            .await
            .unwrap()
            .into_inner();
        let mut ids = Vec::new();
        while let Some(part) = stream.next().await {
            ids.extend(part.unwrap().pod_sandboxes.into_iter().map(|pod| pod.id));
        }
        ids
    });
    ids.sort();
    let mut wanted = vec![first.id, second.id];
    wanted.sort();
    assert_eq!(ids, wanted);
}
