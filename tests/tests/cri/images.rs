//! Images: pull, look, remove.

use std::time::Duration;

use criquet_tests::{BUSYBOX, Node, PAUSE, container, cri, image, pod};

#[allow(clippy::result_large_err)]
fn look(node: &Node, name: &str) -> Option<cri::Image> {
    let request = cri::ImageStatusRequest {
        image: Some(image(name)),
        ..Default::default()
    };
    node.cri().image_status(request).unwrap().image
}

#[test]
fn an_image_is_found_by_tag_digest_and_id_and_goes_by_any() {
    let node = Node::start();
    assert!(look(&node, PAUSE).is_none(), "an absent image is no error");
    let id = node.pull(PAUSE);
    let found = look(&node, PAUSE).unwrap();
    assert_eq!(found.id, id);
    assert_eq!(found.repo_tags, [PAUSE]);
    assert!(found.size > 0);
    assert_eq!(found.uid.as_ref().map(|uid| uid.value), Some(65535));
    let digest = found.repo_digests.first().unwrap().clone();
    for name in [&id, &digest] {
        assert_eq!(look(&node, name).as_ref(), Some(&found), "{name}");
    }
    node.cri()
        .remove_image(cri::RemoveImageRequest {
            image: Some(image(&id)),
        })
        .unwrap();
    assert!(look(&node, PAUSE).is_none() && look(&node, &digest).is_none());
    node.cri()
        .remove_image(cri::RemoveImageRequest {
            image: Some(image(&id)),
        })
        .unwrap();

    // By digest: no tag comes with it.
    assert_eq!(node.pull(&digest), id);
    let found = look(&node, &digest).unwrap();
    assert!(found.repo_tags.is_empty(), "{found:?}");
    assert_eq!(found.repo_digests, [digest]);
}

#[test]
fn the_same_image_of_two_registries_is_one() {
    let node = Node::start();
    let first = node.pull(PAUSE);
    assert_eq!(node.pull("k8s.gcr.io/pause:3.9"), first);
    let found = look(&node, PAUSE).unwrap();
    assert_eq!(found.repo_tags.len(), 2, "{found:?}");
    assert_ne!(node.pull("registry.k8s.io/pause:3.10"), first);
}

#[test]
fn short_names_are_of_docker_hub() {
    let node = Node::start();
    node.pull("busybox");
    let found = look(&node, "docker.io/library/busybox:latest").unwrap();
    assert_eq!(found.repo_tags, ["docker.io/library/busybox:latest"]);
}

#[test]
fn a_pull_ends_with_its_deadline_and_can_be_tried_again() {
    let node = Node::start();
    let request = cri::PullImageRequest {
        image: Some(image(BUSYBOX)),
        ..Default::default()
    };
    let error = node
        .cri()
        .pull_image_within(request, Duration::from_micros(500))
        .unwrap_err();
    assert!(
        matches!(
            error.code(),
            tonic::Code::DeadlineExceeded | tonic::Code::Cancelled
        ),
        "{error:?}"
    );
    node.pull(BUSYBOX);
}

#[test]
fn many_pulls_of_one_image_at_once_give_one_image() {
    let node = Node::start();
    let ids = node.cri().wait(async {
        let mut pulls = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let mut client = node.cri().images();
            let request = cri::PullImageRequest {
                image: Some(image(BUSYBOX)),
                ..Default::default()
            };
            pulls.spawn(async move { client.pull_image(request).await.unwrap().into_inner().image_ref });
        }
        pulls.join_all().await
    });
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert_eq!(
        node.cri()
            .list_images(cri::ListImagesRequest::default())
            .unwrap()
            .images
            .len(),
        1
    );
}

#[test]
fn an_image_in_use_can_be_removed_or_is_refused_but_the_container_lives() {
    let node = Node::start();
    let pod = node.pod(pod("used"));
    let id = node.launch(&pod, container("used", BUSYBOX, &["sleep", "1000"]));
    let _ = node.cri().remove_image(cri::RemoveImageRequest {
        image: Some(image(BUSYBOX)),
    });
    assert_eq!(node.exec(&id, &["ls", "/bin/ls"]).stdout, "/bin/ls\n");
}

#[test]
fn the_image_file_system_is_measured() {
    let node = Node::start();
    node.pull(BUSYBOX);
    let info = node.cri().image_fs_info(cri::ImageFsInfoRequest {}).unwrap();
    let image = info.image_filesystems.first().expect("an image file system");
    assert!(image.used_bytes.as_ref().unwrap().value > 0, "{info:?}");
    assert!(!info.container_filesystems.is_empty());
}
