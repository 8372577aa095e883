//! The invariants of docs/architecture.md: who may name whom.

use crate::source::{bare, files};

/// A word of code, the folders and files that may say it, and why.
const RESERVED: [(&str, &[&str], &str); 6] = [
    (
        "criquet_proto::cri",
        &["src/cri/", "src/cli/", "src/serve.rs", "tests/", "fuzz/"],
        "only cri/ knows the CRI's types, and the client in cli/",
    ),
    (
        "tonic::",
        &[
            "src/cri/",
            "src/cli/",
            "src/serve.rs",
            "src/grpc.rs",
            "tests/",
            "proto/",
            "fuzz/",
        ],
        "gRPC ends at cri/",
    ),
    (
        "redb::",
        &["src/store/", "image/src/"],
        "only the stores write durable records",
    ),
    (
        "spawn_from_memfd",
        &["src/supervise/", "sys/", "shim/tests/"],
        "only supervise/ starts our own program",
    ),
    (
        "process::Command",
        &[
            "network/",
            "tests/",
            "shim/tests/",
            "image/src/",
            "sys/src/",
            "stream/tests/",
            "src/apparmor.rs",
            "src/plan/",
        ],
        "only network/ starts other programs, apparmor.rs one, and tests",
    ),
    (
        "rustls",
        &["image/", "stream/", "tests/", "src/main.rs"],
        "TLS belongs to registries and streams",
    ),
];

/// A crate and what its Cargo.toml must not name.
const STRANGERS: [(&str, &[&str]); 5] = [
    ("sys", &["criquet-", "tokio", "serde", "tonic"]),
    (
        "shim",
        &[
            "tokio",
            "tonic",
            "serde",
            "hyper",
            "rustls",
            "criquet-image",
            "criquet-network",
            "criquet-stream",
        ],
    ),
    (
        "image",
        &["criquet-proto", "criquet-network", "criquet-stream", "tonic"],
    ),
    (
        "network",
        &[
            "criquet-proto",
            "criquet-image",
            "criquet-stream",
            "tonic",
            "hyper",
        ],
    ),
    (
        "stream",
        &["criquet-proto", "criquet-image", "criquet-network", "tonic"],
    ),
];

#[test]
fn words_stay_in_their_rooms() {
    let mut problems = Vec::new();
    for file in files(".rs") {
        let code = bare(&file.text);
        for (word, rooms, why) in RESERVED {
            if code.contains(word) && !rooms.iter().any(|room| file.path.starts_with(room)) {
                problems.push(format!("{}: {word}: {why}", file.path));
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn crates_do_not_know_strangers() {
    let mut problems = Vec::new();
    for (name, strangers) in STRANGERS {
        let path = format!("{name}/Cargo.toml");
        let manifest = files("Cargo.toml")
            .into_iter()
            .find(|file| file.path == path)
            .expect("the crate has a manifest");
        let own = format!("name = \"criquet-{name}\"");
        // What tests use is their own affair.
        let linked = manifest
            .text
            .split("[dev-dependencies]")
            .next()
            .unwrap_or_default();
        for line in linked.lines().filter(|line| *line != own) {
            for stranger in strangers {
                if line.starts_with(stranger) {
                    problems.push(format!("{path}: {line}"));
                }
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}
