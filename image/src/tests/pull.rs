//! Pulls.

use std::time::Duration;

use serde_json::{Value, json};

use super::fixture::*;
use super::server::Server;
use crate::layer::tar::Kind;
use crate::manifest::media_type::{OCI_INDEX, OCI_MANIFEST};
use crate::{ErrorKind, Images};

const BIG: usize = 600 * 1024;

fn base() -> Vec<u8> {
    tar(&[
        directory("./"),
        directory("bin"),
        file("bin/sh", &noise(1, BIG)),
        link(Kind::Symlink, "sh", "bin/sh"),
    ])
}

fn top(seed: u64) -> Vec<u8> {
    tar(&[file("data", &noise(seed, BIG))])
}

fn layers(seed: u64) -> [Packed; 3] {
    [
        (base(), gzip, "tar+gzip"),
        (top(seed), zstd, "tar+zstd"),
        (tar(&[file("plain", b"p")]), <[u8]>::to_vec, "tar"),
    ]
}

fn digest_of(layout: &Layout, packed: &Packed) -> String {
    let digest = crate::digest::Digest::of(&packed.1(&packed.0));
    assert!(layout.blobs.contains_key(&digest));
    digest.to_string()
}

/// Index with one image for this machine and one for another.
fn multi(layout: &mut Layout, layers: &[Packed]) -> Value {
    let mut ours = layout.image(layers);
    ours["platform"] = json!({"os": "linux", "architecture": crate_architecture()});
    let mut other = layout.image(&[(top(99), gzip, "tar+gzip")]);
    other["platform"] = json!({"os": "linux", "architecture": "s390x"});
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [other, ours]});
    layout.blob(OCI_INDEX, serde_json::to_vec(&index).unwrap())
}

fn nothing_left(root: &std::path::Path) -> bool {
    ["layers", "tmp", "trash"]
        .iter()
        .all(|part| names(root, part).is_empty())
}

#[tokio::test(flavor = "multi_thread")]
async fn five_pulls_are_one_and_layers_are_shared() {
    let mut layout = Layout::default();
    let index = multi(&mut layout, &layers(2));
    let digest = index["digest"].as_str().unwrap().to_owned();
    layout.name(index, "v1");
    let second = layout.image(&layers(3));
    layout.name(second, "v2");
    let server = Server::start(&layout);
    server.slow(true);
    let root = tempfile::tempdir().unwrap();
    let images = images(root.path()).await;
    let name = server.name("team/app");

    let (tag, by_digest) = (format!("{name}:v1"), format!("{name}@{digest}"));
    let (a, b, c, d, e) = tokio::join!(
        images.pull(&tag, None),
        images.pull(&tag, None),
        images.pull(&by_digest, None),
        images.pull(&tag, None),
        images.pull(&by_digest, None),
    );
    let image = images.find(&tag).unwrap();
    for pulled in [a, b, c, d, e] {
        assert_eq!(pulled.unwrap().id, image.id);
    }
    assert_eq!(
        (&image.repo_tags[..], &image.repo_digests[..]),
        (&[tag.clone()][..], &[by_digest.clone()][..])
    );
    assert_eq!((image.layers.len(), image.config.user.as_str()), (3, "7"));
    assert_eq!(
        std::fs::read(image.layers[2].join("bin/sh")).unwrap(),
        noise(1, BIG)
    );
    assert_eq!(
        std::fs::read(image.layers[1].join("data")).unwrap(),
        noise(2, BIG)
    );
    for layer in layers(2) {
        assert_eq!(server.fetches(&digest_of(&layout, &layer)), 1);
    }
    assert_eq!(server.fetches("v1"), 1);

    let other = images.pull(&format!("{name}:v2"), None).await.unwrap();
    assert_eq!(other.layers[2], image.layers[2]);
    assert_eq!(server.fetches(&digest_of(&layout, &layers(2)[0])), 1);

    // The tag moves; the old image keeps its digest.
    let mut moved = Layout::default();
    let manifest = moved.image(&layers(4));
    moved.name(manifest, "v1");
    server.publish(&moved);
    let fresh = images.pull(&tag, None).await.unwrap();
    let old = images.find(&by_digest).unwrap();
    assert_eq!((old.id == image.id, fresh.id == image.id), (true, false));
    assert!(old.repo_tags.is_empty() && fresh.repo_tags == [tag]);

    for image in images.list() {
        images.remove(&image.id).await.unwrap();
    }
    until("removal", || nothing_left(root.path())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_pulls_leave_nothing() {
    let mut layout = Layout::default();
    let manifest = layout.image(&layers(2));
    layout.name(manifest, "v1");
    let server = Server::start(&layout);
    server.hold(true);
    let root = tempfile::tempdir().unwrap();
    let images = images(root.path()).await;
    let name = server.name("app:v1");
    for wait in [1, 30, 100, 300] {
        tokio::time::timeout(Duration::from_millis(wait), images.pull(&name, None))
            .await
            .unwrap_err();
        until("clean-up", || nothing_left(root.path())).await;
        assert!(images.list().is_empty());
    }
    // One who waits is enough to keep it going.
    let before = server.fetches("v1");
    let task = tokio::spawn({
        let (images, name) = (images.clone(), name.clone());
        async move { images.pull(&name, None).await }
    });
    until("the first one's start", || server.fetches("v1") > before).await;
    tokio::time::timeout(Duration::from_millis(50), images.pull(&name, None))
        .await
        .unwrap_err();
    server.hold(false);
    task.await.unwrap().unwrap();
    assert_eq!(images.list().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_downloads_resume() {
    let mut layout = Layout::default();
    let manifest = layout.image(&layers(2));
    layout.name(manifest, "v1");
    let server = Server::start(&layout);
    server.cut(250 * 1024);
    let root = tempfile::tempdir().unwrap();
    let images = images(root.path()).await;
    let image = images.pull(&server.name("app:v1"), None).await.unwrap();
    assert_eq!(
        std::fs::read(image.layers[1].join("data")).unwrap(),
        noise(2, BIG)
    );
    assert!(server.fetches(&digest_of(&layout, &layers(2)[1])) >= 3);
}

async fn fails(images: &Images, server: &Server, tag: &str) -> crate::Error {
    let name = server.name(&format!("app:{tag}"));
    let error = images.pull(&name, None).await.unwrap_err();
    assert!(error.to_string().contains(&name), "{error}");
    error
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_images_are_refused_whole() {
    let mut layout = Layout::default();
    let mut broken = |tag: &str, damage: &dyn Fn(&mut Value, &mut Layout)| {
        let manifest = layout.image(&layers(2));
        let digest = manifest["digest"].as_str().unwrap().parse().unwrap();
        let mut document: Value = serde_json::from_slice(&layout.blobs[&digest]).unwrap();
        damage(&mut document, &mut layout);
        let manifest = layout.blob(OCI_MANIFEST, serde_json::to_vec(&document).unwrap());
        layout.name(manifest, tag);
    };
    broken("size", &|m, _| m["layers"][1]["size"] = json!(BIG));
    broken("type", &|m, _| {
        m["layers"][1]["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar+encrypted")
    });
    broken("swap", &|m, _| m["layers"][1] = m["layers"][2].clone());
    broken("count", &|m, _| {
        m["layers"].as_array_mut().unwrap().pop();
    });
    broken("evil", &|m, layout| {
        m["layers"][2] = layout.blob(
            "application/vnd.oci.image.layer.v1.tar",
            tar(&[file("../x", b"x")]),
        );
    });
    let server = Server::start(&layout);
    let root = tempfile::tempdir().unwrap();
    let images = images(root.path()).await;
    for (tag, kind) in [
        ("size", ErrorKind::Corrupt),
        ("type", ErrorKind::Invalid),
        ("swap", ErrorKind::Corrupt),
        ("count", ErrorKind::Invalid),
        ("evil", ErrorKind::Corrupt),
        ("none", ErrorKind::NotFound),
    ] {
        let error = fails(&images, &server, tag).await;
        assert_eq!(error.kind(), kind, "{tag}: {error}");
    }
    assert!(images.list().is_empty());
    until("clean-up", || nothing_left(root.path())).await;
    assert_eq!(
        images.pull("UPPER", None).await.unwrap_err().kind(),
        ErrorKind::Invalid
    );
}
