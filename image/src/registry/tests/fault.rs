//! Registries that break, stall and lie.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::stub::Stub;
use super::*;

type Lie = Box<dyn Fn() -> Reply + Send + Sync>;

/// A stub that answers the layer's requests by `reply`, which gets their number, and others honestly.
async fn layer_stub(reply: impl Fn(usize, &Asked) -> Reply + Send + Sync + 'static) -> (Stub, Remote) {
    layer_stub_within(PATIENCE, reply).await
}

/// `stall`: as for [`resolve_within`].
async fn layer_stub_within(
    stall: Duration,
    reply: impl Fn(usize, &Asked) -> Reply + Send + Sync + 'static,
) -> (Stub, Remote) {
    let (sample, count) = (Sample::new(), AtomicUsize::new(0));
    let stub = Stub::start(move |asked| {
        if asked.path.ends_with(Digest::of(LAYER).as_str()) {
            return reply(count.fetch_add(1, Ordering::SeqCst), asked);
        }
        sample.reply(asked)
    })
    .await;
    let name = format!("{}/app", stub.authority);
    let remote = resolve_within(stall, Path::new("/nonexistent"), &name, None).await;
    (stub, remote.unwrap())
}

fn layer_requests(stub: &Stub) -> Vec<String> {
    let blob = Digest::of(LAYER);
    let asked = stub
        .asked()
        .into_iter()
        .filter(|a| a.path.ends_with(blob.as_str()));
    asked.map(|a| a.header("range").to_owned()).collect()
}

#[tokio::test]
async fn resolves_by_tag_and_digest() {
    let sample = Sample::new();
    let digest = sample.digest();
    let served = sample.clone();
    let stub = Stub::start(move |asked| served.reply(asked)).await;
    for name in [
        format!("{}/a/app", stub.authority),
        format!("{}/a/app@{digest}", stub.authority),
    ] {
        let remote = resolve(&name, None).await.unwrap();
        assert_eq!((&remote.digest, &remote.manifest_digest), (&digest, &digest));
        assert_eq!(remote.config_bytes, sample.config);
        assert_eq!(remote.config.config.cmd, ["/bin/true"]);
        let mut stream = remote.blob(&remote.manifest.layers[0], 30).await.unwrap();
        assert_eq!(stream.chunk().await.unwrap().unwrap(), &LAYER[30..]);
        assert_eq!((stream.position(), stream.chunk().await.unwrap()), (36, None));
        assert_eq!(layer(&remote, 36).await.unwrap(), "");
        assert_eq!(layer(&remote, 37).await.unwrap_err().kind(), ErrorKind::Invalid);
    }
    let error = resolve(&format!("{}/app:none", stub.authority), None)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(
        error.to_string().contains("404 Not Found (MANIFEST_UNKNOWN)"),
        "{error}"
    );
}

#[tokio::test]
async fn resolves_through_an_index() {
    let sample = Sample::new();
    let entry = |architecture: &str, digest: &str| {
        json!({
            "mediaType": media_type::OCI_MANIFEST, "digest": digest, "size": sample.manifest.len(),
            "platform": {"os": "linux", "architecture": architecture},
        })
    };
    let (here, there) = match std::env::consts::ARCH {
        "aarch64" => ("arm64", "amd64"),
        _ => ("amd64", "arm64"),
    };
    let (other, own) = (Digest::of(b"other").to_string(), sample.digest().to_string());
    let index = json!({"schemaVersion": 2, "manifests": [entry(there, &other), entry(here, &own)]});
    let index = Bytes::from(serde_json::to_vec(&index).unwrap());
    let digest = Digest::of(&index);
    let wanted = sample.digest();
    let stub = Stub::start(move |asked| {
        if asked.path.ends_with("/latest") {
            return Reply::ok(index.clone()).with("content-type", media_type::OCI_INDEX);
        }
        sample.reply(asked)
    })
    .await;
    let remote = resolve(&format!("{}/app", stub.authority), None).await.unwrap();
    assert_eq!((remote.digest, remote.manifest_digest), (digest, wanted));
}

#[tokio::test]
async fn lies_about_manifests() {
    let sample = Sample::new();
    let (manifest, digest) = (sample.manifest.clone(), sample.digest());
    let honest = manifest.clone();
    let lies: Vec<(&str, ErrorKind, &str, Lie)> = vec![
        (
            "wrong digest",
            ErrorKind::Corrupt,
            "@",
            Box::new(|| Reply::ok("{}")),
        ),
        ("wrong header", ErrorKind::Corrupt, "", {
            let manifest = manifest.clone();
            let other = Digest::of(b"x").to_string();
            Box::new(move || Reply::ok(manifest.clone()).with("docker-content-digest", other.clone()))
        }),
        ("other type", ErrorKind::Invalid, "", {
            Box::new(move || Reply::ok(honest.clone()).with("content-type", media_type::OCI_INDEX))
        }),
        (
            "too long",
            ErrorKind::Invalid,
            "",
            Box::new(|| Reply::ok(vec![b' '; 5 << 20])),
        ),
        (
            "no image",
            ErrorKind::Invalid,
            "",
            Box::new(|| Reply::ok("<html>")),
        ),
        (
            "forbidden",
            ErrorKind::Denied,
            "",
            Box::new(|| Reply::new(403, CANARY)),
        ),
        (
            "redirect loop",
            ErrorKind::Unavailable,
            "",
            Box::new(|| Reply::redirect("/loop")),
        ),
        (
            "redirect to a file",
            ErrorKind::Unavailable,
            "",
            Box::new(|| Reply::redirect("file:///etc/passwd")),
        ),
    ];
    for (what, kind, by, lie) in lies {
        let stub = Stub::start(move |_| lie()).await;
        let suffix = if by == "@" {
            format!("@{digest}")
        } else {
            String::new()
        };
        let error = resolve(&format!("{}/app{suffix}", stub.authority), None)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), kind, "{what}: {error}");
        assert!(stub.asked().len() <= 6, "{what}: {:?}", stub.paths());
    }
}

#[tokio::test]
async fn passing_errors_are_tried_again() {
    for (status, wait) in [(429, Some("0")), (503, None), (500, None)] {
        let (sample, count) = (Sample::new(), AtomicUsize::new(0));
        let stub = Stub::start(move |asked| {
            if count.fetch_add(1, Ordering::SeqCst) == 0 {
                let reply = Reply::new(status, "");
                return wait
                    .into_iter()
                    .fold(reply, |reply, wait| reply.with("retry-after", wait));
            }
            sample.reply(asked)
        })
        .await;
        resolve(&format!("{}/app", stub.authority), None).await.unwrap();
    }
    let stub = Stub::start(|_| Reply::new(429, r#"{"errors":[{"code":"TOOMANYREQUESTS"}]}"#)).await;
    let error = resolve(&format!("{}/app", stub.authority), None)
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), stub.asked().len()),
        (ErrorKind::Unavailable, 3),
        "{error}"
    );
    assert!(
        error
            .to_string()
            .ends_with("429 Too Many Requests (TOOMANYREQUESTS)"),
        "{error}"
    );
    let stub = Stub::start(|_| Reply::new(429, "").with("retry-after", "3600")).await;
    let name = format!("{}/app", stub.authority);
    let resolved = tokio::time::timeout(PATIENCE, resolve(&name, None)).await;
    resolved.expect("nobody waits for an hour").unwrap_err();
    assert_eq!(stub.asked().len(), 1);
}

#[tokio::test]
async fn nobody_listens() {
    let (_bound, authority) = closed_port();
    let error = resolve(&format!("{authority}/app"), None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn broken_blobs_are_resumed() {
    let (stub, remote) = layer_stub(|at, asked| match at {
        0 => Reply::broken(&LAYER[..10], LAYER.len()),
        1 => Reply::broken(&LAYER[10..12], LAYER.len() - 10)
            .status(206)
            .with("content-range", "bytes 10-35/36"),
        _ => ranged(asked, LAYER),
    })
    .await;
    assert_eq!(layer(&remote, 0).await.unwrap(), LAYER);
    assert_eq!(layer_requests(&stub), ["", "bytes=10-", "bytes=12-"]);
}

#[tokio::test]
async fn servers_without_ranges_are_read_from_the_start() {
    let (stub, remote) = layer_stub(|at, _| match at {
        0 => Reply::broken(&LAYER[..10], LAYER.len()),
        _ => Reply::ok(LAYER),
    })
    .await;
    assert_eq!(layer(&remote, 0).await.unwrap(), LAYER);
    assert_eq!(layer(&remote, 20).await.unwrap(), &LAYER[20..]);
    assert_eq!(layer_requests(&stub), ["", "bytes=10-", "bytes=20-"]);
}

#[tokio::test]
async fn stalls_end() {
    let (stub, remote) = layer_stub_within(STALL, |at, asked| match at {
        0 => Reply::stalled(&LAYER[..5], LAYER.len()),
        _ => ranged(asked, LAYER),
    })
    .await;
    assert_eq!(layer(&remote, 0).await.unwrap(), LAYER);
    let asked = layer_requests(&stub);
    // More often when the machine itself stalls.
    assert!(asked.len() > 1 && asked[0].is_empty(), "{asked:?}");
    assert!(asked[1..].iter().all(|range| range == "bytes=5-"), "{asked:?}");

    let (stub, remote) = layer_stub_within(STALL, |_, _| Reply::stalled(b"", LAYER.len())).await;
    let error = layer(&remote, 0).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("no byte in"), "{error}");
    assert_eq!(layer_requests(&stub).len(), 3);
}

#[tokio::test]
async fn a_drip_feed_ends() {
    let (stub, remote) = layer_stub(|at, _| {
        let range = format!("bytes {at}-{at}/36");
        Reply::ok(LAYER[at..=at].to_vec())
            .status(206)
            .with("content-range", range)
    })
    .await;
    assert_eq!(
        layer(&remote, 0).await.unwrap_err().kind(),
        ErrorKind::Unavailable
    );
    assert_eq!(layer_requests(&stub).len(), 32);
}

#[tokio::test]
async fn lies_about_blobs() {
    let long = [LAYER, b"more"].concat();
    let lies: Vec<(&str, ErrorKind, u64, Lie)> = vec![
        (
            "longer",
            ErrorKind::Corrupt,
            0,
            Box::new(move || Reply::ok(long.clone())),
        ),
        (
            "shorter",
            ErrorKind::Corrupt,
            0,
            Box::new(|| Reply::ok(&LAYER[..5])),
        ),
        (
            "no content-range",
            ErrorKind::Corrupt,
            5,
            Box::new(|| Reply::ok(&LAYER[5..]).status(206)),
        ),
        ("other range", ErrorKind::Corrupt, 5, {
            Box::new(|| {
                Reply::ok(&LAYER[4..])
                    .status(206)
                    .with("content-range", "bytes 4-35/36")
            })
        }),
        ("other total", ErrorKind::Corrupt, 5, {
            Box::new(|| {
                Reply::ok(&LAYER[5..])
                    .status(206)
                    .with("content-range", "bytes 5-35/99")
            })
        }),
        ("gone", ErrorKind::NotFound, 0, Box::new(|| Reply::new(404, ""))),
        (
            "no range",
            ErrorKind::Unavailable,
            5,
            Box::new(|| Reply::new(416, "")),
        ),
        (
            "breaks always",
            ErrorKind::Unavailable,
            0,
            Box::new(|| Reply::broken(b"", LAYER.len())),
        ),
    ];
    for (what, kind, offset, lie) in lies {
        let (_stub, remote) = layer_stub(move |_, _| lie()).await;
        let error = layer(&remote, offset).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{what}: {error}");
    }
}

#[tokio::test]
async fn lies_about_the_configuration() {
    let sample = Sample::new();
    let config = Digest::of(&sample.config);
    let length = sample.config.len();
    let stub = Stub::start(move |asked| {
        if asked.path.ends_with(config.as_str()) {
            Reply::ok(vec![b'x'; length])
        } else {
            sample.reply(asked)
        }
    })
    .await;
    let error = resolve(&format!("{}/app", stub.authority), None)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
}

#[tokio::test]
async fn dropping_the_stream_ends_the_transfer() {
    let (_stub, remote) = layer_stub(|_, _| Reply::stalled(&LAYER[..5], LAYER.len())).await;
    let mut stream = remote.blob(&remote.manifest.layers[0], 0).await.unwrap();
    assert_eq!(stream.chunk().await.unwrap().unwrap(), &LAYER[..5]);
    let cancelled = tokio::time::timeout(Duration::from_millis(30), stream.chunk()).await;
    assert!(cancelled.is_err());
    assert_eq!(stream.position(), 5);
}
