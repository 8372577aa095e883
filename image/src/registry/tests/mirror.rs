//! Mirrors, certificates, and who is asked for what.

use super::stub::Stub;
use super::*;

fn toml_for(upstream: &str, mirrors: &[(&str, &str)]) -> String {
    let mut text = format!("server = \"http://{upstream}\"\n");
    for (authority, rest) in mirrors {
        text.push_str(&format!("[host.\"http://{authority}\"]\n{rest}\n"));
    }
    text
}

#[tokio::test]
async fn mirrors_first_and_in_order() {
    let sample = Sample::new();
    let (a, b) = (sample.clone(), sample.clone());
    let (_bound, dead) = closed_port();
    // Has only the layer, and must not be asked what a tag is.
    let pull_only = Stub::start(move |asked| {
        if asked.path.ends_with(Digest::of(LAYER).as_str()) {
            a.reply(asked)
        } else {
            Reply::new(404, "")
        }
    })
    .await;
    let broken = Stub::start(|_| Reply::new(500, "")).await;
    let upstream = Stub::start(move |asked| b.reply(asked)).await;
    let file = toml_for(
        &upstream.authority,
        &[
            (&dead, ""),
            (&pull_only.authority, "capabilities = [\"pull\"]"),
            (&broken.authority, "capabilities = [\"pull\", \"resolve\"]"),
        ],
    );
    let root = certs_d(&[("registry.example/hosts.toml", file)]);
    let remote = resolve_with(root.path(), "registry.example/app", Some(&password()))
        .await
        .unwrap();
    assert_eq!(layer(&remote, 0).await.unwrap(), LAYER);

    let blob = format!("/v2/app/blobs/{}", Digest::of(LAYER));
    let config = format!("/v2/app/blobs/{}", Digest::of(&sample.config));
    assert_eq!(pull_only.paths(), [config.as_str(), &blob]);
    assert_eq!(
        broken.paths(),
        ["/v2/app/manifests/latest", &config],
        "one try each"
    );
    assert_eq!(upstream.paths(), ["/v2/app/manifests/latest", &config]);
    for asked in [pull_only.asked(), broken.asked(), upstream.asked()].concat() {
        assert_eq!(asked.query, "ns=registry.example");
        assert!(
            asked.header("authorization").is_empty(),
            "nobody here is registry.example"
        );
    }
}

#[tokio::test]
async fn a_lying_mirror_is_passed_over() {
    let sample = Sample::new();
    let name = format!("registry.example/app@{}", sample.digest());
    let liar = Stub::start(|_| Reply::ok("{}")).await;
    let upstream = Stub::start(move |asked| sample.reply(asked)).await;
    let file = toml_for(&upstream.authority, &[(&liar.authority, "")]);
    let root = certs_d(&[("_default/hosts.toml", file)]);
    let remote = resolve_with(root.path(), &name, None).await.unwrap();
    // The liar's blobs have the wrong length.
    assert_eq!(layer(&remote, 0).await.unwrap(), LAYER);
}

#[tokio::test]
async fn the_registry_has_the_last_word() {
    let mirror = Stub::start(|_| Reply::new(403, "")).await;
    let upstream = Stub::start(|_| Reply::new(404, "")).await;
    let file = toml_for(&upstream.authority, &[(&mirror.authority, "")]);
    let root = certs_d(&[("registry.example/hosts.toml", file)]);
    let error = resolve_with(root.path(), "registry.example/app", None)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("before that"), "{error}");
}

#[tokio::test]
async fn mirror_credentials_are_named() {
    let sample = Sample::new();
    let mirror = Stub::start(move |asked| {
        if asked.header("authorization").is_empty() {
            Reply::challenge("Basic realm=x")
        } else {
            sample.reply(asked)
        }
    })
    .await;
    let file = toml_for("127.0.0.1:1", &[(&mirror.authority, "")]);
    let root = certs_d(&[("registry.example/hosts.toml", file)]);
    let named = Credentials {
        server_address: mirror.authority.clone(),
        ..password()
    };
    resolve_with(root.path(), "registry.example/app", Some(&named))
        .await
        .unwrap();
}

#[tokio::test]
async fn paths_and_headers() {
    let sample = Sample::new();
    let mirror = Stub::start(move |asked| sample.reply(asked)).await;
    let file = format!(
        "[host.\"http://{}/api/hub\"]\noverride_path = true\n[host.\"http://{0}/api/hub\".header]\nx-a = [\"1\", \"2\"]\n",
        mirror.authority,
    );
    let root = certs_d(&[("docker.io/hosts.toml", file)]);
    resolve_with(root.path(), "busybox", None).await.unwrap();
    let asked = &mirror.asked()[0];
    assert_eq!(
        (asked.path.as_str(), asked.query.as_str()),
        ("/api/hub/library/busybox/manifests/latest", "ns=docker.io")
    );
    assert_eq!(asked.headers.get_all("x-a").iter().count(), 2);
    assert!(asked.header("user-agent").starts_with("criquet/"));
    assert!(asked.header("accept").contains(media_type::OCI_INDEX));
}

#[tokio::test]
async fn certificates() {
    let sample = Sample::new();
    let served = sample.clone();
    let stub = Stub::start_tls(true, move |asked| served.reply(asked)).await;
    let name = format!("{}/app", stub.authority);
    let dir = stub.authority.replace(':', "_") + "_";
    let server = format!("server = \"https://{}\"\n", stub.authority);
    let file = |rest: &str| (format!("{dir}/hosts.toml"), format!("{server}{rest}"));
    let pems = ["ca.pem", "client.pem", "client.key"].map(|f| (format!("{dir}/{f}"), fixture_text(f)));
    let joint = (
        format!("{dir}/joint.pem"),
        fixture_text("client.pem") + &fixture_text("client.key"),
    );
    for (rest, works) in [
        (
            "ca = \"ca.pem\"\nclient = [[\"client.pem\", \"client.key\"]]\n",
            true,
        ),
        ("ca = [\"ca.pem\"]\nclient = \"joint.pem\"\n", true),
        ("skip_verify = true\nclient = [\"joint.pem\"]\n", true),
        ("ca = \"ca.pem\"\n", false),
        ("client = \"joint.pem\"\n", false),
        ("skip_verify = false\nclient = \"joint.pem\"\n", false),
        ("ca = \"missing.pem\"\n", false),
        ("ca = \"client.key\"\n", false),
        ("client = \"client.pem\"\n", false),
    ] {
        let mut files: Vec<(String, String)> = pems.to_vec();
        files.extend([joint.clone(), file(rest)]);
        let files: Vec<(&str, String)> = files.iter().map(|(n, c)| (n.as_str(), c.clone())).collect();
        let root = certs_d(&files);
        let result = resolve_with(root.path(), &name, None).await;
        assert_eq!(result.is_ok(), works, "{rest}: {:?}", result.err());
    }
    // Docker's layout. The registry is loopback, so its certificate is taken as it is.
    let root = certs_d(&[
        (&format!("{dir}/x.crt"), fixture_text("ca.pem")),
        (&format!("{dir}/c.cert"), fixture_text("client.pem")),
        (&format!("{dir}/c.key"), fixture_text("client.key")),
    ]);
    resolve_with(root.path(), &name, None).await.unwrap();
}

#[tokio::test]
async fn loopback_registries_may_have_tls() {
    let sample = Sample::new();
    let stub = Stub::start_tls(false, move |asked| sample.reply(asked)).await;
    resolve(&format!("{}/app", stub.authority), None).await.unwrap();
}
