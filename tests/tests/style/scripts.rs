//! The scripts of hack/ and .ci/.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use criquet_tests::{run, workspace};

#[test]
fn scripts_are_strict_executable_and_parse() {
    let mut problems = Vec::new();
    for folder in ["hack", "hack/tools", "hack/images", ".ci"] {
        for entry in fs::read_dir(workspace().join(folder))
            .into_iter()
            .flatten()
            .flatten()
        {
            let path = entry.path();
            let Ok(text) = fs::read_to_string(&path) else {
                continue;
            };
            if !text.starts_with("#!/usr/bin/env bash") {
                continue;
            }
            if !text.contains("\nset -euo pipefail\n") {
                problems.push(format!("{}: no set -euo pipefail", path.display()));
            }
            if entry.metadata().expect("metadata").permissions().mode() & 0o111 == 0 {
                problems.push(format!("{}: not executable", path.display()));
            }
            let out = run("bash", &["-n", path.to_str().expect("utf-8")]);
            if out.code != 0 {
                problems.push(format!("{}: {}", path.display(), out.stderr));
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}
