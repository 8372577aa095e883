//! The streamed lists say what the lists say, filters included.

use std::collections::BTreeSet;

use criquet_tests::{BUSYBOX, Node, PAUSE, container, cri, pod};
use tokio_stream::StreamExt;
use tonic::{Response, Status, Streaming};

/// Every message of a stream that ends well.
fn collect<T>(node: &Node, open: impl Future<Output = Result<Response<Streaming<T>>, Status>>) -> Vec<T> {
    node.cri().wait(async {
        let mut stream = open.await.unwrap().into_inner();
        let mut all = Vec::new();
        while let Some(message) = stream.next().await {
            all.push(message.unwrap());
        }
        all
    })
}

/// A node with two pods; the first has two containers, of which one has ended.
fn populated() -> (Node, String, String) {
    let node = Node::start();
    let (first, second) = (node.pod(pod("first")), node.pod(pod("second")));
    let one = node.launch(&first, container("one", BUSYBOX, &["sleep", "1000"]));
    let ended = node.launch(&first, container("ended", BUSYBOX, &["true"]));
    node.launch(&second, container("two", PAUSE, &[]));
    node.wait_exit(&ended, 10);
    (node, first.id, one)
}

#[test]
fn pods_containers_and_images() {
    let (node, first, one) = populated();
    let mut client = node.cri().runtime();
    for filter in [
        None,
        Some(cri::PodSandboxFilter {
            id: first.clone(),
            ..Default::default()
        }),
    ] {
        let listed = node
            .cri()
            .list_pod_sandbox(cri::ListPodSandboxRequest {
                filter: filter.clone(),
            })
            .unwrap()
            .items;
        let request = cri::StreamPodSandboxesRequest {
            filter: filter.clone(),
        };
        let streamed = collect(&node, client.stream_pod_sandboxes(request));
        let streamed: Vec<_> = streamed
            .into_iter()
            .flat_map(|message| message.pod_sandboxes)
            .collect();
        assert_eq!(streamed, listed);
        assert_eq!(listed.len(), if filter.is_some() { 1 } else { 2 });
    }
    for filter in [
        None,
        Some(cri::ContainerFilter {
            id: one.clone(),
            ..Default::default()
        }),
    ] {
        let listed = node
            .cri()
            .list_containers(cri::ListContainersRequest {
                filter: filter.clone(),
            })
            .unwrap()
            .containers;
        let request = cri::StreamContainersRequest {
            filter: filter.clone(),
        };
        let streamed = collect(&node, client.stream_containers(request));
        let streamed: Vec<_> = streamed
            .into_iter()
            .flat_map(|message| message.containers)
            .collect();
        assert_eq!(streamed, listed);
        assert_eq!(listed.len(), if filter.is_some() { 1 } else { 3 });
    }
    let mut images = node.cri().images();
    let listed = node
        .cri()
        .list_images(cri::ListImagesRequest::default())
        .unwrap()
        .images;
    let streamed = collect(&node, images.stream_images(cri::StreamImagesRequest::default()));
    let mut streamed: Vec<_> = streamed.into_iter().flat_map(|message| message.images).collect();
    streamed.sort_by(|a, b| a.id.cmp(&b.id));
    let mut sorted = listed;
    sorted.sort_by(|a, b| a.id.cmp(&b.id));
    assert_eq!(streamed, sorted);
    assert_eq!(sorted.len(), 2);
}

#[test]
fn stats_and_metrics() {
    let (node, first, _) = populated();
    let mut client = node.cri().runtime();
    for filter in [
        None,
        Some(cri::ContainerStatsFilter {
            pod_sandbox_id: first.clone(),
            ..Default::default()
        }),
    ] {
        let request = cri::ListContainerStatsRequest {
            filter: filter.clone(),
        };
        let listed = node.cri().list_container_stats(request).unwrap().stats;
        let request = cri::StreamContainerStatsRequest {
            filter: filter.clone(),
        };
        let streamed = collect(&node, client.stream_container_stats(request));
        let of = |stats: cri::ContainerStats| {
            (
                stats.attributes.unwrap(),
                stats.cpu.is_some(),
                stats.memory.is_some(),
            )
        };
        let listed: Vec<_> = listed.into_iter().map(of).collect();
        let streamed: Vec<_> = streamed
            .into_iter()
            .flat_map(|message| message.container_stats)
            .map(of)
            .collect();
        same(streamed, listed, |stats| stats.0.id.clone());
    }
    for filter in [
        None,
        Some(cri::PodSandboxStatsFilter {
            id: first.clone(),
            ..Default::default()
        }),
    ] {
        let request = cri::ListPodSandboxStatsRequest {
            filter: filter.clone(),
        };
        let listed = node.cri().list_pod_sandbox_stats(request).unwrap().stats;
        let request = cri::StreamPodSandboxStatsRequest {
            filter: filter.clone(),
        };
        let streamed = collect(&node, client.stream_pod_sandbox_stats(request));
        let of =
            |stats: cri::PodSandboxStats| (stats.attributes.unwrap(), stats.linux.unwrap().containers.len());
        let listed: Vec<_> = listed.into_iter().map(of).collect();
        let streamed: Vec<_> = streamed
            .into_iter()
            .flat_map(|message| message.pod_sandbox_stats)
            .map(of)
            .collect();
        same(streamed, listed, |stats| stats.0.id.clone());
    }
    let list = || {
        let request = cri::ListPodSandboxMetricsRequest::default();
        node.cri().list_pod_sandbox_metrics(request).unwrap().pod_metrics
    };
    let before = list();
    let streamed = collect(
        &node,
        client.stream_pod_sandbox_metrics(cri::StreamPodSandboxMetricsRequest::default()),
    );
    let streamed: Vec<_> = streamed
        .into_iter()
        .flat_map(|message| message.pod_sandbox_metrics)
        .collect();
    let after = list();
    assert_eq!((before.len(), streamed.len(), after.len()), (2, 2, 2));
    let names = |all: Vec<cri::PodSandboxMetrics>| {
        let each = all.into_iter().flat_map(|pod| {
            let containers = pod
                .container_metrics
                .into_iter()
                .flat_map(|container| container.metrics);
            pod.metrics
                .into_iter()
                .chain(containers)
                .map(|metric| (metric.name, metric.label_values))
        });
        each.collect::<BTreeSet<_>>()
    };
    // A device that is read or written for the first time adds some, and none goes.
    let (before, streamed, after) = (names(before), names(streamed), names(after));
    assert!(!before.is_empty());
    assert!(
        before.is_subset(&streamed) && streamed.is_subset(&after),
        "{before:?}\n{streamed:?}\n{after:?}"
    );
}

/// The same things, in whatever order.
fn same<T: PartialEq + std::fmt::Debug>(mut found: Vec<T>, mut wanted: Vec<T>, key: impl Fn(&T) -> String) {
    found.sort_by_key(&key);
    wanted.sort_by_key(&key);
    assert!(!wanted.is_empty());
    assert_eq!(found, wanted);
}

#[test]
fn a_list_of_nothing_ends() {
    let node = Node::start();
    let mut client = node.cri().runtime();
    let pods = collect(
        &node,
        client.stream_pod_sandboxes(cri::StreamPodSandboxesRequest::default()),
    );
    assert!(pods.iter().all(|message| message.pod_sandboxes.is_empty()));
    let containers = collect(
        &node,
        client.stream_containers(cri::StreamContainersRequest::default()),
    );
    assert!(containers.iter().all(|message| message.containers.is_empty()));
    let metrics = collect(
        &node,
        client.stream_pod_sandbox_metrics(cri::StreamPodSandboxMetricsRequest::default()),
    );
    assert!(
        metrics
            .iter()
            .all(|message| message.pod_sandbox_metrics.is_empty())
    );
}
