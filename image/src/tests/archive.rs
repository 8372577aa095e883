//! Loading, finding, removing, leasing, opening again.

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

use super::fixture::*;
use crate::ErrorKind;
use crate::digest::Digest;
use crate::layer::tar::{Entry, Kind};

const NAME: &str = "docker.io/library/test:1";

fn base() -> Vec<u8> {
    let tmp = (
        Entry {
            mode: 0o1777,
            ..entry(Kind::Directory, "tmp")
        },
        Vec::new(),
    );
    let srv = (
        Entry {
            mode: 0o750,
            uid: 5,
            gid: 6,
            ..entry(Kind::Directory, "srv/data")
        },
        Vec::new(),
    );
    tar(&[
        directory("./"),
        tmp,
        directory("srv"),
        srv,
        file("etc/passwd", b"root:x:0:0::/:/bin/sh\n"),
    ])
}

fn top() -> Vec<u8> {
    tar(&[
        file("tmp/x", b"x"),
        file("etc/.wh.passwd", b""),
        file("srv/data/y", b"y"),
    ])
}

#[tokio::test]
async fn docker_archive_from_load_to_removal() {
    let root = tempfile::tempdir().unwrap();
    let images = images(root.path()).await;
    let loaded = images
        .load(opened(&gzip(&docker_archive(
            "test:1",
            &[base(), gzip_is_not_tar(), top()],
        ))))
        .await;
    assert_eq!(loaded.unwrap_err().kind(), ErrorKind::Corrupt);
    assert!(images.list().is_empty());
    until("collection", || {
        names(root.path(), "layers").is_empty() && names(root.path(), "trash").is_empty()
    })
    .await;

    let loaded = images
        .load(opened(&docker_archive("test:1", &[base(), top(), base()])))
        .await
        .unwrap();
    let image = &loaded[0];
    assert_eq!(image.repo_tags, [NAME]);
    assert_eq!(
        (image.config.user.as_str(), &image.config.env[..]),
        ("7", &["PATH=/bin".to_owned()][..])
    );
    for name in [
        "test:1",
        NAME,
        "library/test:1",
        &image.id,
        &image.id[7..],
        &image.id[..15],
        &image.id[7..13],
    ] {
        assert_eq!(images.find(name).unwrap().id, image.id, "{name}");
    }
    for name in [
        "test",
        "test:2",
        "other/test:1",
        "",
        "sha256:",
        &image.id[7..9],
        "sha256:ffff",
    ] {
        assert!(images.find(name).is_none(), "{name}");
    }
    let usage = images.usage().await.unwrap();
    assert!(usage.bytes > 4096 && usage.inodes > 10, "{usage:?}");

    let lease = images.lease("test:1").unwrap();
    images.remove("nothing").await.unwrap();
    images.remove("test:1").await.unwrap();
    images.remove("test:1").await.unwrap();
    assert!(images.list().is_empty() && images.find(NAME).is_none());
    assert!(image.layers.iter().all(|layer| layer.is_dir()));
    // A container of a removed image takes its lease again.
    drop(images.lease(&image.id).unwrap());
    assert!(image.layers[0].is_dir());
    drop(lease);
    until("removal", || {
        names(root.path(), "layers").is_empty() && names(root.path(), "trash").is_empty()
    })
    .await;
    assert_eq!(images.lease(&image.id).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(images.usage().await.unwrap().inodes, 0);
}

fn gzip_is_not_tar() -> Vec<u8> {
    gzip(b"no archive")
}

#[tokio::test]
async fn implied_directories_are_as_below() {
    let root = tempfile::tempdir().unwrap();
    let images = images(root.path()).await;
    let loaded = images
        .load(opened(&docker_archive("test:1", &[base(), top()])))
        .await
        .unwrap();
    let layers = &loaded[0].layers;
    assert_eq!(layers.len(), 3);
    let fixed = |name: &str| std::fs::symlink_metadata(layers[0].join(name)).unwrap();
    assert_eq!(fixed("tmp").mode() & 0o7777, 0o1777);
    let data = fixed("srv/data");
    assert_eq!(
        (data.mode() & 0o7777, data.uid(), data.gid(), data.mtime()),
        (0o750, 5, 6, 1_000_000_000)
    );
    assert_eq!(fixed("srv").mode() & 0o7777, 0o755);
    // etc is implied in both.
    assert!(!layers[0].join("etc").exists());
    let whiteout = std::fs::symlink_metadata(layers[1].join("etc/passwd")).unwrap();
    assert!(whiteout.file_type().is_char_device() && whiteout.rdev() == 0);
    let base_only = images
        .load(opened(&docker_archive("test:2", &[base()])))
        .await
        .unwrap();
    assert_eq!(base_only[0].layers, layers[2..]);
}

#[tokio::test]
async fn private_whatever_the_modes_were() {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(root.path().join("store/layers")).unwrap();
    std::fs::set_permissions(root.path().join("store"), std::fs::Permissions::from_mode(0o777)).unwrap();
    let images = images(root.path()).await;
    images
        .load(opened(&docker_archive("test:1", &[base()])))
        .await
        .unwrap();
    for part in ["", "layers", "images", "tmp", "trash"] {
        let mode = std::fs::metadata(root.path().join("store").join(part))
            .unwrap()
            .mode();
        assert_eq!(mode & 0o7777, 0o700, "{part}");
    }
}

#[tokio::test]
async fn tags_move_and_layers_are_shared() {
    let root = tempfile::tempdir().unwrap();
    let images = images(root.path()).await;
    let first = images
        .load(opened(&docker_archive("test:1", &[base(), top()])))
        .await
        .unwrap();
    let shared = first[0].layers[2].clone();
    let second = images
        .load(opened(&docker_archive("test:1", &[base()])))
        .await
        .unwrap();
    assert_eq!(images.find("test:1").unwrap().id, second[0].id);
    assert!(images.find(&first[0].id).unwrap().repo_tags.is_empty());
    images.remove(&first[0].id).await.unwrap();
    until("removal", || names(root.path(), "layers").len() == 1).await;
    assert!(shared.is_dir());
    // The pinned name of the options.
    let pinned = images
        .load(opened(&docker_archive("pinned.example/pause:3", &[base()])))
        .await
        .unwrap();
    assert!(pinned[0].pinned && pinned[0].repo_tags.len() == 2);
}

#[tokio::test]
async fn oci_archive() {
    let root = tempfile::tempdir().unwrap();
    let images = images(root.path()).await;
    let mut layout = Layout::default();
    let manifest = layout.image(&[
        (base(), gzip, "tar+gzip"),
        (tar(&[file("z", b"z")]), zstd, "tar+zstd"),
        (tar(&[directory("./"), file("p", b"p")]), <[u8]>::to_vec, "tar"),
    ]);
    let digest = manifest["digest"].as_str().unwrap().to_owned();
    layout.name(manifest.clone(), "test:1");
    layout.name(manifest, "example.org/other:2");
    let loaded = images.load(opened(&zstd(&layout.archive()))).await.unwrap();
    assert_eq!(loaded.len(), 1);
    assert_eq!(
        loaded[0].repo_tags,
        ["docker.io/library/test:1", "example.org/other:2"]
    );
    let by_digest = format!("docker.io/library/test@{digest}");
    assert_eq!(loaded[0].repo_digests[0], by_digest);
    for name in [
        by_digest.as_str(),
        &format!("test:whatever@{digest}"),
        &format!("example.org/other@{digest}"),
    ] {
        assert!(images.find(name).is_some(), "{name}");
    }
    assert!(loaded[0].layers.iter().any(|l| l.join("z").is_file()));
    // Any changed byte is seen.
    let first = layout.blobs.keys().next().unwrap().clone();
    for (digest, _) in layout.blobs.clone() {
        let fresh = tempfile::tempdir().unwrap();
        let images = super::fixture::images(fresh.path()).await;
        let mut bad = Layout {
            blobs: layout.blobs.clone(),
            manifests: layout.manifests.clone(),
        };
        let blob = bad.blobs.get_mut(&digest).unwrap();
        let middle = blob.len() / 2;
        blob[middle] ^= 1;
        assert!(images.load(opened(&bad.archive())).await.is_err(), "{digest}");
        assert!(images.list().is_empty());
    }
    layout.blobs.remove(&first);
    for garbage in [
        layout.archive(),
        Vec::new(),
        tar(&[]),
        b"x".repeat(2000),
        gzip(b"x"),
    ] {
        let fresh = tempfile::tempdir().unwrap();
        assert!(
            super::fixture::images(fresh.path())
                .await
                .load(opened(&garbage))
                .await
                .is_err()
        );
    }
}

#[tokio::test]
async fn opened_again() {
    let root = tempfile::tempdir().unwrap();
    let store = root.path().join("store");
    let (first, second) = (
        docker_archive("test:1", &[base(), top()]),
        docker_archive("other:1", &[top()]),
    );
    let images = images(root.path()).await;
    let kept = images.load(opened(&first)).await.unwrap().remove(0);
    let leased = images.load(opened(&second)).await.unwrap().remove(0);
    std::mem::forget(images.lease("other:1").unwrap());
    images.remove("other:1").await.unwrap();
    drop(images);
    // What a crash leaves, and a second process that is refused: the forgotten lease keeps the database open.
    std::fs::create_dir_all(store.join("tmp/7/fs/half")).unwrap();
    std::fs::create_dir_all(store.join("layers/junk")).unwrap();
    let unrecorded = format!("layers/{}", Digest::of(b"?").as_str().replace(':', "-"));
    std::fs::create_dir_all(store.join(&unrecorded).join("fs")).unwrap();
    let copy = root.path().join("copy");
    let copied = std::process::Command::new("cp")
        .args(["-a"])
        .arg(&store)
        .arg(&copy)
        .status()
        .unwrap();
    assert!(copied.success());
    let open = |root: std::path::PathBuf| {
        crate::Images::open(crate::Options {
            root,
            ..options(std::path::Path::new("/"))
        })
    };
    let again = || async { open(copy.clone()).await.unwrap() };

    // Without its database the store is what lies on the disk.
    let lost = root.path().join("lost");
    assert!(
        std::process::Command::new("cp")
            .arg("-a")
            .arg(&copy)
            .arg(&lost)
            .status()
            .unwrap()
            .success()
    );
    std::fs::remove_file(lost.join("images.redb")).unwrap();
    let images = open(lost.clone()).await.unwrap();
    assert_eq!(images.list().len(), 1);
    drop(images.lease(&leased.id).unwrap());
    until("removal", || images.lease(&leased.id).is_err()).await;
    drop(images);

    let images = again().await;
    assert_eq!(images.list().len(), 1);
    let found = images.find("test:1").unwrap();
    assert_eq!((found.id.as_str(), found.layers.len()), (kept.id.as_str(), 3));
    assert!(
        found
            .layers
            .iter()
            .all(|layer| layer.starts_with(&copy) && layer.is_dir())
    );
    assert!(!copy.join(&unrecorded).exists() && !copy.join("layers/junk").exists());
    until("clean-up", || {
        copy.join("trash").read_dir().unwrap().next().is_none()
    })
    .await;
    assert!(copy.join("tmp").read_dir().unwrap().next().is_none());
    let lease = images.lease(&leased.id).unwrap();
    images.collect().await.unwrap();
    drop(lease);
    until("removal", || images.lease(&leased.id).is_err()).await;
    drop(images);
    // Who removes may still be at it, and have the database.
    let database = std::fs::File::open(copy.join("images.redb")).unwrap();
    until("the end of the store", || database.try_lock().is_ok()).await;
    drop(database);

    for damage in [&b"no database"[..], b""] {
        std::fs::write(copy.join("images.redb"), damage).unwrap();
        let images = again().await;
        assert_eq!(images.find("test:1").unwrap().id, kept.id);
    }
    std::fs::remove_dir_all(copy.join("layers")).unwrap();
    let images = again().await;
    assert!(images.list().is_empty());
}
