//! Registries that lie, lead astray or want credentials that are not theirs.

use std::collections::BTreeMap;

use criquet_tests::{Node, PATIENCE_S, cri, eventually, host};
use serde_json::{Value, json};

use crate::canary::Canary;
use crate::hostile::{Image, Layer, MANIFEST, digest};
use crate::stub::{Reply, Stub, contents};

const PASSWORD: &str = "canary-password-7d21";
/// "user:" and the password, as a Basic header has them.
const BASIC: &str = "dXNlcjpjYW5hcnktcGFzc3dvcmQtN2QyMQ==";
/// An address of the node that is not loopback, for which plain HTTP is not good enough.
const OUTSIDE: &str = "192.168.77.1";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

fn auth(server: &str) -> Option<cri::AuthConfig> {
    Some(cri::AuthConfig {
        username: "user".into(),
        password: PASSWORD.into(),
        server_address: server.into(),
        ..Default::default()
    })
}

/// Neither the log nor an answer knows the password, in any of its forms.
#[track_caller]
fn told_nobody(node: &Node, errors: &[String]) {
    for text in errors.iter().chain([&node.log()]) {
        for secret in [PASSWORD, BASIC, "token-canary"] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
    }
}

/// And CVE-2019-10214: credentials go to the registry that they are for, and to nobody that it names.
#[test]
fn cve_2020_15157_credentials_stay_with_their_registry() {
    let node = Node::start();
    let attacker = Stub::at(OUTSIDE, BTreeMap::new(), |_| {
        Some(Reply::new(401, "{}").with("Www-Authenticate", "Basic realm=\"x\""))
    });
    let theirs = attacker.address;
    // Other hosts' layers, by redirect, by `urls` and by a realm.
    let mut foreign = Image::of(&Layer::new().file("x", "x"), json!({}));
    foreign.manifest["layers"][1]["urls"] = json!([format!("http://{theirs}/layer")]);
    let missing = foreign.manifest["layers"][1]["digest"]
        .as_str()
        .unwrap()
        .to_string();
    foreign.blobs.remove(&missing);
    let mut errors = Vec::new();
    let mut pull = |stub: &Stub| {
        let error = stub
            .pull(&node, "a/b:1", auth(&stub.address.to_string()))
            .unwrap_err();
        errors.push(format!("{error:?}"));
    };
    pull(&Stub::of(&foreign));
    let whole = Image::of(&Layer::new().file("y", "y"), json!({}));
    let redirecting = Stub::start(contents(&whole), move |asked| {
        let blob = asked.line.contains("/blobs/");
        blob.then(|| {
            Reply::new(307, "").with(
                "Location",
                format!("http://{theirs}{}", asked.line.split(' ').nth(1).unwrap()),
            )
        })
    });
    pull(&redirecting);
    let mut realms = Vec::new();
    for realm in [
        format!("http://{theirs}/token"),
        "http://10.255.255.1/token".into(),
        "file:///etc/passwd".into(),
    ] {
        let challenge = format!("Bearer realm=\"{realm}\",service=\"x\",scope=\"repository:a/b:pull\"");
        let stub = Stub::start(BTreeMap::new(), move |_| {
            Some(Reply::new(401, "{}").with("Www-Authenticate", challenge.clone()))
        });
        pull(&stub);
        realms.push(stub);
    }
    for asked in attacker.asked() {
        assert!(
            !asked.headers.to_lowercase().contains("authorization:"),
            "{asked:?}"
        );
        assert!(
            !asked.line.contains(PASSWORD) && !asked.line.contains("user"),
            "{asked:?}"
        );
        assert!(
            !asked.line.contains("GET /layer"),
            "urls are not followed: {asked:?}"
        );
    }
    // The registry itself gets them when it asks, and credentials for another registry not even then.
    let own = Stub::start(contents(&whole), |asked| {
        let known = asked.headers.to_lowercase().contains("authorization: basic");
        (!known).then(|| Reply::new(401, "{}").with("Www-Authenticate", "Basic realm=\"x\""))
    });
    own.pull(&node, "a/b:1", auth(&own.address.to_string())).unwrap();
    let other = Stub::start(BTreeMap::new(), |_| {
        Some(Reply::new(401, "{}").with("Www-Authenticate", "Basic realm=\"x\""))
    });
    let error = other
        .pull(&node, "a/b:1", auth("registry.example.com"))
        .unwrap_err();
    errors.push(format!("{error:?}"));
    assert!(
        other.asked().iter().all(|asked| !asked.headers.contains(BASIC)),
        "{:?}",
        other.asked()
    );
    told_nobody(&node, &errors);
}

/// containerd 7b11d6cae, 64cc8cdec: what fails with credentials at hand does not tell them.
#[test]
fn credentials_are_in_no_error_and_no_log() {
    let node = Node::start();
    let mut errors = Vec::new();
    let echo = |status: u16| {
        Stub::start(BTreeMap::new(), move |asked| {
            // It plays everything back that it was sent.
            let body = json!({"errors": [{"code": "DENIED", "message": format!("{} {}", asked.line, asked.headers)}]});
            let reply = Reply::new(status, body.to_string()).with("X-Echo", asked.headers.replace('\n', " "));
            Some(reply.with("Www-Authenticate", "Basic realm=\"x\""))
        })
    };
    for status in [401, 403, 404, 429, 500] {
        let stub = echo(status);
        errors.push(format!(
            "{:?}",
            stub.pull(&node, "a/b:1", auth(&stub.address.to_string()))
                .unwrap_err()
        ));
    }
    let token = Stub::start(BTreeMap::new(), |asked| {
        let host = asked
            .headers
            .lines()
            .find_map(|line| line.to_lowercase().strip_prefix("host: ").map(str::to_string))?;
        Some(if asked.line.contains("/token") {
            Reply::new(200, json!({"token": "token-canary"}).to_string())
        } else {
            Reply::new(401, "{}").with(
                "Www-Authenticate",
                format!("Bearer realm=\"http://{host}/token\",service=\"x\""),
            )
        })
    });
    errors.push(format!(
        "{:?}",
        token
            .pull(&node, "a/b:1", auth(&token.address.to_string()))
            .unwrap_err()
    ));
    // In the name itself.
    let named = cri::PullImageRequest {
        image: Some(criquet_tests::image(&format!(
            "user:{PASSWORD}@127.0.0.1:1/a/b:1"
        ))),
        ..Default::default()
    };
    node.cri().pull_image(named).unwrap_err();
    told_nobody(&node, &errors);
    // A crash and its recovery tell no more, and nothing of it is on disk.
    let on_disk = host::tree(&node.place.folder.join("root"))
        .into_iter()
        .filter(|path| {
            std::fs::read(path).is_ok_and(|bytes| {
                bytes
                    .windows(PASSWORD.len())
                    .any(|part| part == PASSWORD.as_bytes())
            })
        });
    assert_eq!(on_disk.collect::<Vec<_>>(), Vec::<String>::new());
}

/// CVE-2024-3727: digests are not paths. CVE-2021-41190: a document has one meaning.
#[test]
fn cve_2024_3727_documents_that_lie() {
    let node = Node::start();
    let canary = Canary::of(&node);
    let good = Image::of(&Layer::new().file("x", "x"), json!({}));
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut image = good.clone();
        change(&mut image.manifest);
        image
    };
    let up = format!("sha256:../../../../../../..{}", canary.path("file"));
    let upper = good.manifest["layers"][1]["digest"]
        .as_str()
        .unwrap()
        .to_uppercase()
        .replace("SHA256", "sha256");
    let set = |pointer: &'static str, value: Value| {
        changed(&|manifest| *manifest.pointer_mut(pointer).unwrap() = value.clone())
    };
    let other = digest(b"other");
    let cases: Vec<(&str, Image)> = vec![
        ("layer digest is a path", set("/layers/1/digest", json!(up))),
        ("config digest is a path", set("/config/digest", json!(up))),
        ("short digest", set("/layers/1/digest", json!("sha256:abc"))),
        ("empty digest", set("/layers/1/digest", json!(""))),
        ("upper case digest", set("/layers/1/digest", json!(upper))),
        (
            "unknown algorithm",
            set("/layers/1/digest", json!("md5:d41d8cd98f00b204e9800998ecf8427e")),
        ),
        ("missing blob", set("/layers/1/digest", json!(other))),
        (
            "another layer",
            set("/layers/1/digest", good.manifest["layers"][0]["digest"].clone()),
        ),
        ("wrong size", set("/layers/1/size", json!(7))),
        ("huge size", set("/layers/1/size", json!(u64::MAX))),
        ("negative size", set("/layers/1/size", json!(-1))),
        ("huge config", set("/config/size", json!(2_000_000_000_u64))),
        (
            "index and image",
            changed(&|m| m["manifests"] = json!([m["config"]])),
        ),
        (
            "says that it is an index",
            changed(&|m| m["mediaType"] = json!(INDEX)),
        ),
        ("schema 1", changed(&|m| m["schemaVersion"] = json!(1))),
        (
            "a layer too many",
            changed(&|m| {
                let first = m["layers"][0].clone();
                m["layers"].as_array_mut().unwrap().push(first);
            }),
        ),
        ("no layers", changed(&|m| m["layers"] = json!([]))),
        (
            "other diff id",
            good.clone()
                .configured(|config| config["rootfs"]["diff_ids"][1] = json!(other)),
        ),
        (
            "diff id is a path",
            good.clone()
                .configured(|config| config["rootfs"]["diff_ids"][1] = json!(up)),
        ),
    ];
    for (name, image) in &cases {
        let error = Stub::of(image).pull(&node, "a/b:1", None).expect_err(name);
        assert_ne!(error.code(), tonic::Code::Unknown, "{name}: {error:?}");
    }
    lying_registries(&node, &good);
    let list = node.cri().list_images(cri::ListImagesRequest::default()).unwrap();
    assert!(list.images.is_empty(), "{list:?}");
    canary.assert_unchanged();
    // What is good is still good, after all that was cut short.
    let stub = Stub::of(&good);
    let first = stub.pull(&node, "a/b:1", None).unwrap();
    assert_eq!(stub.pull(&node, "a/b:1", None).unwrap(), first);
}

/// The documents are fine; what brings them is not.
fn lying_registries(node: &Node, good: &Image) {
    let manifest = good.manifest_bytes();
    let content = contents(good);
    let served = |kind: &str, body: &[u8]| {
        let mut content = content.clone();
        content.insert("1".into(), (kind.into(), body.to_vec()));
        Stub::start(content, |_| None)
    };
    let deep = |levels: usize| {
        let mut content = content.clone();
        let mut body = manifest.clone();
        let mut kind = MANIFEST;
        for _ in 0..levels {
            let entry = json!({"mediaType": kind, "digest": digest(&body), "size": body.len()});
            body = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]})
                .to_string()
                .into_bytes();
            kind = INDEX;
            content.insert(digest(&body), (INDEX.into(), body.clone()));
        }
        content.insert("1".into(), (INDEX.into(), body));
        Stub::start(content, |_| None)
    };
    let mut other = manifest.clone();
    other.push(b' ');
    let cases = [
        ("served as an index", served(INDEX, &manifest)),
        ("served as text", served("text/html", b"<html>")),
        ("5 MiB of manifest", served(MANIFEST, &vec![b' '; 5 << 20])),
        ("index of 100 levels", deep(100)),
    ];
    for (name, stub) in cases {
        assert!(stub.pull(node, "a/b:1", None).is_err(), "{name}");
    }
    let content: BTreeMap<_, _> = contents(good)
        .into_iter()
        .map(|(name, (kind, body))| {
            (
                name,
                (kind.clone(), if kind == MANIFEST { other.clone() } else { body }),
            )
        })
        .collect();
    let stub = Stub::start(content, |_| None);
    let error = stub
        .pull(node, &format!("a/b@{}", digest(&manifest)), None)
        .unwrap_err();
    assert!(
        error.message().contains("digest") || error.message().contains("sha256"),
        "{error:?}"
    );
}

/// containerd 574a60700: a registry that falls silent ends at the configured time, and with its client.
#[test]
fn a_silent_registry_is_given_up() {
    let node = Node::configured("[image]\nstall_timeout_s = 1\n");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = listener.local_addr().unwrap();
    let request = cri::PullImageRequest {
        image: Some(criquet_tests::image(&format!("{silent}/a/b:1"))),
        ..Default::default()
    };
    // With the client: its deadline ends the pull, and the daemon lets go of the connection.
    let sockets = || {
        host::descriptors(node.pid())
            .iter()
            .filter(|target| target.starts_with("socket:"))
            .count()
    };
    let before = sockets();
    let error = node
        .cri()
        .pull_image_within(request, std::time::Duration::from_millis(500))
        .unwrap_err();
    assert!(
        matches!(
            error.code(),
            tonic::Code::DeadlineExceeded | tonic::Code::Cancelled
        ),
        "{error:?}"
    );
    eventually("the connection is dropped", PATIENCE_S, || {
        (sockets() <= before).then_some(())
    });
    // A body that stops in the middle.
    let good = Image::of(&Layer::new().file("x", "x".repeat(1 << 20)), json!({}));
    let blob = good.manifest["layers"][0]["digest"].as_str().unwrap().to_string();
    let mut content = contents(&good);
    content.remove(&blob);
    let stub = Stub::start(content, move |asked| {
        let stalls = asked.line.contains(&blob) || asked.line.contains(&blob.replace(':', "%3A"));
        stalls.then(|| Reply::new(200, "").stalled())
    });
    assert!(stub.pull(&node, "a/b:1", None).is_err());
}
