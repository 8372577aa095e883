//! What cargo's own tools say of the whole workspace.

use std::process::{Command, Stdio};

use criquet_tests::workspace;

/// Runs `cargo ARGUMENTS` as a developer would: without what the cargo that runs this test has set.
fn cargo(arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new("cargo");
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CARGO_")) {
        if !matches!(
            name.as_str(),
            "CARGO_HOME" | "CARGO_TARGET_DIR" | "CARGO_NET_OFFLINE"
        ) {
            command.env_remove(name);
        }
    }
    let out = command
        .args(arguments)
        .current_dir(workspace())
        .stdin(Stdio::null())
        .output()
        .expect("run cargo");
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    (out.status.success(), text)
}

#[test]
fn everything_is_formatted() {
    let (well, text) = cargo(&["fmt", "--all", "--check"]);
    let files: Vec<&str> = text.lines().filter(|line| line.starts_with("Diff in")).collect();
    assert!(
        well,
        "cargo fmt --all would change:\n{}\n{text}",
        files.join("\n")
    );
}

#[test]
fn clippy_has_nothing_to_say() {
    let (well, text) = cargo(&[
        "clippy",
        "--quiet",
        "--workspace",
        "--all-targets",
        "--",
        "--deny",
        "warnings",
    ]);
    assert!(well, "cargo clippy --workspace --all-targets:\n{text}");
}
