//! hosts.toml, by table.

use super::*;
use crate::registry::hosts::{is_loopback, load};

/// `scheme authority path capabilities`, one a line.
fn shown(hosts: &[Host]) -> Vec<String> {
    hosts
        .iter()
        .map(|h| {
            let scheme = if h.https { "https" } else { "http" };
            let (pull, resolve) = (if h.pull { "p" } else { "" }, if h.resolve { "r" } else { "" });
            format!("{scheme}://{}{} {pull}{resolve}", h.authority, h.path)
        })
        .collect()
}

#[test]
fn files() {
    for (registry, text, want) in [
        ("quay.io", "", &["https://quay.io/v2 pr"][..]),
        ("docker.io", "", &["https://registry-1.docker.io/v2 pr"]),
        (
            "docker.io",
            "server = \"https://docker.io\"\n[host.\"https://registry-1.docker.io\"]\ncapabilities = [\"pull\", \"resolve\"]",
            &["https://registry-1.docker.io/v2 pr", "https://docker.io/v2 pr"],
        ),
        (
            "docker.io",
            "server = \"https://registry-1.docker.io\"\n[host.\"https://public.example\"]\ncapabilities = [\"pull\"]\n\
             [host.\"https://docker-mirror.internal\"]\ncapabilities = [\"pull\", \"resolve\"]\nca = \"m.crt\"",
            &[
                "https://public.example/v2 p",
                "https://docker-mirror.internal/v2 pr",
                "https://registry-1.docker.io/v2 pr",
            ],
        ),
        (
            "quay.io",
            "[host.\"https://z.example\"]\n[host.\"https://a.example\"]\n[host.\"https://m.example\"]",
            &[
                "https://z.example/v2 pr",
                "https://a.example/v2 pr",
                "https://m.example/v2 pr",
                "https://quay.io/v2 pr",
            ],
        ),
        (
            "quay.io",
            "server = \"https://only.example\"",
            &["https://only.example/v2 pr"],
        ),
        (
            "docker.io",
            "server = \"https://registry-1.docker.io\"\n[host.\"http://192.168.31.250:5000\"]\n\
             capabilities = [\"pull\", \"resolve\", \"push\"]\nskip_verify = true",
            &[
                "http://192.168.31.250:5000/v2 pr",
                "https://registry-1.docker.io/v2 pr",
            ],
        ),
        (
            "quay.io",
            "server = \"plain.example:5000\"",
            &["https://plain.example:5000/v2 pr"],
        ),
        (
            "quay.io",
            "server = \"https://s.example/v2\"",
            &["https://s.example/v2 pr"],
        ),
        (
            "quay.io",
            "server = \"https://s.example/\"",
            &["https://s.example/v2 pr"],
        ),
        (
            "quay.io",
            "server = \"https://s.example/proxy//x/../\"",
            &["https://s.example/proxy/v2 pr"],
        ),
        (
            "quay.io",
            "server = \"https://s.example/p\"\noverride_path = true",
            &["https://s.example/p pr"],
        ),
        (
            "quay.io",
            "server = \"https://s.example\"\noverride_path = true",
            &["https://s.example pr"],
        ),
        (
            "quay.io",
            "capabilities = [\"push\"]\nserver = \"https://s.example\"",
            &["https://s.example/v2 "],
        ),
        (
            "quay.io",
            "server = \"https://[2001:db8::1]:5000\"",
            &["https://[2001:db8::1]:5000/v2 pr"],
        ),
        (
            "quay.io",
            "dial_timeout = \"1s\"\nproxy = \"http://p:1\"\nunknown = 1",
            &["https://quay.io/v2 pr"],
        ),
    ] {
        let root = certs_d(&[(&format!("{registry}/hosts.toml"), text.to_owned())]);
        let hosts = load(root.path(), registry).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(shown(&hosts), want, "{text}");
    }
}

#[test]
fn malformed() {
    for text in [
        "server = ",
        "server = 1",
        "server = \"ftp://x\"",
        "server = \"https://u:p@x\"",
        "server = \"https://x/?a\"",
        "server = \"https:// x\"",
        "server = \"https://\"",
        "capabilities = [\"steal\"]",
        "[host.\"\"]",
        "ca = 1",
        "client = [[\"a\"]]",
        "client = [[\"a\", \"b\", \"c\"]]",
        "[header]\n\"a b\" = \"x\"",
        "[header]\na = \"x\\ny\"",
        "[header]\na = 1",
        "skip_verify = \"yes\"",
    ] {
        let root = certs_d(&[("quay.io/hosts.toml", text.to_owned())]);
        let result = load(root.path(), "quay.io");
        assert!(result.is_err(), "{text}: {:?}", result.map(|hosts| shown(&hosts)));
    }
}

#[test]
fn certificates_and_headers() {
    let text = "ca = [\"a.pem\", \"/abs/b.pem\"]\nclient = [[\"c.cert\", \"c.key\"], [\"d.pem\", \"\"], \"e.pem\"]\n\
                skip_verify = false\n[header]\nx-a = \"1\"\nx-b = [\"2\", \"3\"]\n";
    let root = certs_d(&[("quay.io/hosts.toml", text.to_owned())]);
    let host = load(root.path(), "quay.io").unwrap().remove(0);
    let dir = root.path().join("quay.io");
    assert_eq!(host.tls.ca, [dir.join("a.pem"), "/abs/b.pem".into()]);
    let pairs = [
        (dir.join("c.cert"), Some(dir.join("c.key"))),
        (dir.join("d.pem"), None),
        (dir.join("e.pem"), None),
    ];
    assert_eq!(host.tls.client, pairs);
    assert_eq!(host.tls.skip_verify, Some(false));
    assert_eq!(host.headers.get_all("x-b").iter().count(), 2);
    assert!(!format!("{host:?}").contains("\"1\""), "headers can be secrets");
}

#[test]
fn directories() {
    let server = |name: &str| format!("server = \"https://{name}\"");
    let root = certs_d(&[
        ("r.example_5000_/hosts.toml", server("underscores")),
        ("r.example:5000/hosts.toml", server("colon")),
        ("o.example:5000/hosts.toml", server("colon")),
        ("_default/hosts.toml", server("default")),
        ("empty/x", String::new()),
    ]);
    for (registry, want) in [
        ("r.example:5000", "underscores"),
        ("o.example:5000", "colon"),
        ("r.example", "default"),
        ("empty", "empty"),
    ] {
        assert_eq!(
            load(root.path(), registry).unwrap()[0].authority,
            want,
            "{registry}"
        );
    }
    assert_eq!(
        load(Path::new("/nonexistent"), "quay.io").unwrap()[0].authority,
        "quay.io"
    );
}

#[test]
fn loopback() {
    for (registry, https, https_first, skip) in [
        ("localhost", true, false, true),
        ("localhost:443", true, false, true),
        ("localhost:80", false, false, false),
        ("127.0.0.1:5000", false, true, true),
        ("127.8.9.1:5000", false, true, true),
        ("[::1]:5000", false, true, true),
        ("10.0.0.1:5000", true, false, false),
        ("localhost.example:5000", true, false, false),
    ] {
        let host = load(Path::new("/nonexistent"), registry).unwrap().remove(0);
        let found = (host.https, host.https_first, host.tls.skip_verify == Some(true));
        assert_eq!(found, (https, https_first, skip), "{registry}");
    }
    assert!(!is_loopback("127.0.0.1.example") && !is_loopback("[::2]:5000") && !is_loopback(""));
}
