//! Who gets to see credentials, and who does not.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::stub::Stub;
use super::*;
use crate::registry::auth::{Challenge, belong, pull_scope, realm_allowed};

fn basic_header() -> String {
    format!("Basic {}", STANDARD.encode(format!("ann:{CANARY}")))
}

/// A registry and its token server in one; `grant` decides about a request for a token.
async fn bearer_stub(grant: impl Fn(&Asked) -> bool + Send + Sync + 'static) -> Stub {
    let sample = Sample::new();
    Stub::start(move |asked| {
        let token = format!("{CANARY}-token");
        if asked.path == "/token" {
            return match grant(asked) {
                true => Reply::ok(format!(r#"{{"access_token":"{token}","expires_in":60}}"#)),
                false => Reply::new(401, CANARY),
            };
        }
        if asked.header("authorization") == format!("Bearer {token}") {
            return sample.reply(asked);
        }
        let realm = format!("http://{}/token?a=b", asked.header("host"));
        let scope = "repository:app:pull,push repository:other:*";
        Reply::challenge(format!(
            r#"Bearer realm="{realm}",service="stub, inc",scope="{scope}""#
        ))
    })
    .await
}

#[tokio::test]
async fn bearer_anonymous_and_by_password() {
    for credentials in [None, Some(password())] {
        let want = credentials.as_ref().map(|_| basic_header()).unwrap_or_default();
        let stub = bearer_stub(move |asked| asked.header("authorization") == want).await;
        let remote = resolve(&format!("{}/app", stub.authority), credentials.as_ref())
            .await
            .unwrap();
        assert_eq!(layer(&remote, 0).await.unwrap(), LAYER);
        let tokens: Vec<_> = stub.asked().into_iter().filter(|a| a.path == "/token").collect();
        assert_eq!(tokens.len(), 1, "one token serves the whole pull");
        assert!(tokens[0].query.starts_with("a=b&"), "{}", tokens[0].query);
        assert!(
            tokens[0].query.contains("service=stub%2C%20inc"),
            "{}",
            tokens[0].query
        );
        // Less than the registry asked for: no push, no `*`.
        let scope = "scope=repository%3Aapp%3Apull%20repository%3Aother%3Apull";
        assert!(tokens[0].query.contains(scope), "{}", tokens[0].query);
    }
}

#[tokio::test]
async fn bearer_by_identity_token() {
    let stub = bearer_stub(|asked| {
        asked.method == "POST"
            && asked.body.contains(&format!("refresh_token={CANARY}"))
            && asked.body.contains("grant_type=refresh_token")
            && asked.header("authorization").is_empty()
    })
    .await;
    let credentials = Credentials {
        identity_token: CANARY.into(),
        ..Credentials::default()
    };
    resolve(&format!("{}/app", stub.authority), Some(&credentials))
        .await
        .unwrap();
}

#[tokio::test]
async fn refused_credentials_are_denied() {
    let stub = bearer_stub(|_| false).await;
    let name = format!("{}/app", stub.authority);
    let error = resolve(&name, Some(&password())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");

    let given = Credentials {
        registry_token: CANARY.into(),
        ..Credentials::default()
    };
    let error = resolve(&name, Some(&given)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert!(
        error.to_string().contains("refused the registry token"),
        "{error}"
    );
}

#[tokio::test]
async fn registry_token_is_sent_as_it_is() {
    let sample = Sample::new();
    let stub = Stub::start(move |asked| match asked.header("authorization") {
        "Bearer cAnArY-given" => sample.reply(asked),
        _ => Reply::challenge("Bearer realm=\"http://127.0.0.1:1/\""),
    })
    .await;
    let given = Credentials {
        registry_token: format!("{CANARY}-given"),
        ..Credentials::default()
    };
    resolve(&format!("{}/app", stub.authority), Some(&given))
        .await
        .unwrap();
    assert!(
        stub.asked()
            .iter()
            .all(|a| a.header("authorization").starts_with("Bearer"))
    );
}

#[tokio::test]
async fn basic() {
    let sample = Sample::new();
    let stub = Stub::start(move |asked| {
        if asked.header("authorization") == basic_header() {
            return sample.reply(asked);
        }
        Reply::challenge("Basic realm=\"stub\"")
    })
    .await;
    let name = format!("{}/app", stub.authority);
    resolve(&name, Some(&password())).await.unwrap();
    let error = resolve(&name, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(error.to_string().contains("wants a user name"), "{error}");
    let elsewhere = Credentials {
        server_address: "https://quay.io/v1".into(),
        ..password()
    };
    let before = stub.asked().len();
    assert_eq!(
        resolve(&name, Some(&elsewhere)).await.unwrap_err().kind(),
        ErrorKind::Denied
    );
    assert!(
        stub.asked()[before..]
            .iter()
            .all(|a| a.header("authorization").is_empty())
    );
}

#[tokio::test]
async fn realms_that_are_not_safe_get_nothing() {
    let thief = Stub::start(|_| Reply::ok(r#"{"token":"x"}"#)).await;
    let realm = format!("http://{}/token", thief.authority);
    let stub = Stub::start_tls(false, move |_| {
        Reply::challenge(format!("Bearer realm=\"{realm}\""))
    })
    .await;
    let port = stub.authority.rsplit_once(':').unwrap().1;
    let file = format!(
        "server = \"https://{}\"\nca = \"{}\"\n",
        stub.authority,
        fixture("ca.pem").display()
    );
    let root = certs_d(&[(&format!("127.0.0.1_{port}_/hosts.toml"), file)]);
    let error = resolve_with(root.path(), &format!("{}/app", stub.authority), Some(&password()))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert!(error.to_string().contains("not safe"), "{error}");
    assert!(thief.asked().is_empty(), "{:?}", thief.asked());
}

#[tokio::test]
async fn redirects_carry_no_credentials() {
    let storage = Stub::start(|asked| match asked.path.as_str() {
        "/blob" => Reply::ok(LAYER),
        _ => Reply::challenge("Basic realm=\"give it to me\""),
    })
    .await;
    let (sample, cdn) = (Sample::new(), storage.authority.clone());
    let stub = Stub::start(move |asked| {
        if asked.header("authorization").is_empty() {
            return Reply::challenge("Basic realm=\"stub\"");
        }
        let layer = asked.path.ends_with(Digest::of(LAYER).as_str());
        if layer {
            Reply::redirect(format!("http://{cdn}/blob?signature={CANARY}"))
        } else {
            sample.reply(asked)
        }
    })
    .await;
    let port = stub.authority.rsplit_once(':').unwrap().1;
    let file = format!(
        "server = \"http://{0}\"\n[header]\nx-secret = \"{CANARY}\"\n",
        stub.authority
    );
    let root = certs_d(&[(&format!("127.0.0.1_{port}_/hosts.toml"), file)]);
    let name = format!("{}/app", stub.authority);
    let remote = resolve_with(root.path(), &name, Some(&password())).await.unwrap();
    assert_eq!(layer(&remote, 0).await.unwrap(), LAYER);
    assert!(stub.asked().iter().all(|a| a.header("x-secret") == CANARY));
    let asked = storage.asked();
    assert_eq!(asked.len(), 1);
    assert!(asked[0].header("authorization").is_empty() && asked[0].header("x-secret").is_empty());
}

#[tokio::test]
async fn a_foreign_challenge_is_not_answered() {
    let thief = Stub::start(|_| Reply::challenge("Basic realm=\"give it to me\"")).await;
    let to = format!("http://{}/x", thief.authority);
    let stub = Stub::start(move |_| Reply::redirect(to.clone())).await;
    let error = resolve(&format!("{}/app", stub.authority), Some(&password()))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert!(thief.asked().iter().all(|a| a.header("authorization").is_empty()));
}

#[test]
fn where_credentials_belong() {
    let docker = "docker.io";
    for (server, registry, https, authority, want) in [
        ("", "quay.io", true, "quay.io", true),
        ("", "quay.io", true, "quay.io:443", true),
        ("", "quay.io", true, "mirror.example", false),
        ("", "quay.io", true, "quay.io:8443", false),
        ("", "quay.io", true, "quay.io.evil.example", false),
        ("", docker, true, "registry-1.docker.io", true),
        (
            "https://index.docker.io/v1/",
            docker,
            true,
            "registry-1.docker.io",
            true,
        ),
        ("https://index.docker.io/v1/", "quay.io", true, "quay.io", false),
        ("quay.io/team", "quay.io", true, "quay.io", true),
        ("QUAY.io", "quay.io", true, "quay.io", true),
        ("mirror.example:5000", docker, true, "mirror.example:5000", true),
        ("https://r.example", "r.example", false, "r.example", false),
        ("http://r.example", "r.example", false, "r.example", true),
        ("", "localhost:5000", false, "localhost:5000", true),
    ] {
        let credentials = Credentials {
            server_address: server.into(),
            ..password()
        };
        assert_eq!(
            belong(&credentials, registry, https, authority),
            want,
            "{server:?} at {authority}"
        );
    }
}

#[test]
fn realms() {
    for (realm, https, authority, want) in [
        ("https://auth.docker.io/token", true, "registry-1.docker.io", true),
        ("http://auth.docker.io/token", true, "registry-1.docker.io", false),
        ("http://r.example/token", true, "r.example", false),
        ("http://r.example:81/token", false, "r.example", true),
        ("http://o.example/token", false, "r.example", false),
        ("http://127.0.0.1:5001/token", false, "localhost:5000", true),
        ("http://127.0.0.1:5001/token", false, "r.example", false),
        ("https://u:p@auth.example/", true, "r.example", false),
        ("/token", true, "r.example", false),
    ] {
        assert_eq!(
            realm_allowed(&realm.parse().unwrap(), https, authority),
            want,
            "{realm} for {authority}"
        );
    }
}

#[test]
fn challenges() {
    let find = |texts: &[&'static str]| {
        let mut headers = http::HeaderMap::new();
        for text in texts {
            headers.append("www-authenticate", text.parse().unwrap());
        }
        Challenge::find(&headers)
    };
    assert_eq!(find(&["Basic realm=\"x\""]), Some(Challenge::Basic));
    assert_eq!(find(&["Negotiate", "basic realm=x"]), Some(Challenge::Basic));
    let bearer = find(&[
        "Basic realm=\"x\"",
        "bearer Realm=\"https://a/\",service=\"a, \\\"b\\\"\"",
    ]);
    let want = Challenge::Bearer {
        realm: "https://a/".into(),
        service: Some("a, \"b\"".into()),
        scope: None,
    };
    assert_eq!(bearer, Some(want));
    for texts in [
        &["Bearer scope=\"x\""][..],
        &["Digest realm=\"x\""],
        &["==,,\""],
        &[""],
        &[],
    ] {
        assert_eq!(find(texts), None, "{texts:?}");
    }
}

#[test]
fn scopes() {
    for (asked, want) in [
        (None, "repository:a/b:pull"),
        (Some(""), "repository:a/b:pull"),
        (
            Some("repository:proxy/a/b:pull,push"),
            "repository:proxy/a/b:pull",
        ),
        (Some("registry:catalog:*"), "repository:a/b:pull"),
        (Some("repository::pull repository:x"), "repository:a/b:pull"),
    ] {
        assert_eq!(pull_scope(asked, "a/b"), want, "{asked:?}");
    }
}
