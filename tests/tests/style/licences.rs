//! Licences and sources of dependencies, by deny.toml's lists.

use criquet_tests::{run, workspace};
use serde_json::Value;

/// The strings of `key = [ … ]` in deny.toml.
fn list(text: &str, key: &str) -> Vec<String> {
    let start = text
        .find(&format!("\n{key} = ["))
        .unwrap_or_else(|| panic!("deny.toml has no {key}"));
    let body = text[start..].split(['[', ']']).nth(1).unwrap_or_default();
    body.split('"').skip(1).step_by(2).map(str::to_string).collect()
}

/// Whether an SPDX expression can be met with `allowed`: any of the alternatives, with all of its parts.
fn met(expression: &str, allowed: &[String]) -> bool {
    let flat = expression.replace(['(', ')'], "").replace('/', " OR ");
    let parts = |text: &str| {
        text.split(" AND ")
            .all(|one| allowed.iter().any(|name| name == one.trim()))
    };
    if expression.contains(" AND ") && expression.contains('(') {
        // "(A OR B) AND C": every part of the conjunction has an alternative that is allowed.
        return expression
            .split(" AND ")
            .all(|part| met(part.trim().trim_matches(['(', ')']), allowed));
    }
    flat.split(" OR ").any(parts)
}

#[test]
fn every_dependency_has_a_licence_and_a_source_that_we_allow() {
    let deny = std::fs::read_to_string(workspace().join("deny.toml")).expect("read deny.toml");
    let (allowed, banned) = (list(&deny, "allow"), list(&deny, "deny"));
    let manifest = workspace().join("Cargo.toml");
    let manifest = manifest.to_str().expect("utf-8");
    let platform = "--filter-platform=x86_64-unknown-linux-gnu";
    let arguments = [
        "metadata",
        "--format-version=1",
        "--offline",
        platform,
        "--manifest-path",
        manifest,
    ];
    let metadata: Value = serde_json::from_str(&run("cargo", &arguments).ok()).expect("parse cargo metadata");
    let mut problems = Vec::new();
    for package in metadata["packages"].as_array().expect("packages") {
        let name = package["name"].as_str().unwrap_or_default();
        if !met(package["license"].as_str().unwrap_or("none"), &allowed) {
            problems.push(format!("{name}: licence {}", package["license"]));
        }
        let source = package["source"].as_str();
        if source.is_some_and(|source| {
            !source.starts_with("registry+https://github.com/rust-lang/crates.io-index")
        }) {
            problems.push(format!("{name}: source {}", package["source"]));
        }
        if banned.iter().any(|one| one == name) {
            problems.push(format!("{name}: is banned"));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn expressions_are_read() {
    let allowed = vec![
        "MIT".to_string(),
        "Apache-2.0".to_string(),
        "Unicode-3.0".to_string(),
    ];
    for (text, wanted) in [
        ("MIT OR Apache-2.0", true),
        ("GPL-3.0 OR MIT", true),
        ("MIT/Apache-2.0", true),
        ("(MIT OR GPL-3.0) AND Unicode-3.0", true),
        ("MIT AND GPL-3.0", false),
        ("GPL-3.0", false),
    ] {
        assert_eq!(met(text, &allowed), wanted, "{text}");
    }
}
