//! Markdown: the change log's headings, links that lead somewhere.

use std::path::Path;

use criquet_tests::workspace;

use crate::source::files;

const CHANGES: [&str; 6] = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"];

#[test]
fn the_change_log_has_the_headings_that_readers_know() {
    let Some(log) = files("CHANGELOG.md")
        .into_iter()
        .find(|file| file.path == "CHANGELOG.md")
    else {
        panic!("there is no CHANGELOG.md");
    };
    let versions: Vec<&str> = log
        .text
        .lines()
        .filter_map(|line| line.strip_prefix("## "))
        .collect();
    assert!(
        versions.first().is_some_and(|first| first.contains("Unreleased")),
        "the first is [Unreleased]: {versions:?}"
    );
    for version in &versions[1..] {
        let number = version
            .trim_start_matches('[')
            .split([']', ' '])
            .next()
            .unwrap_or_default();
        assert_eq!(
            number
                .split('.')
                .filter(|part| part.parse::<u32>().is_ok())
                .count(),
            3,
            "no version: {version}"
        );
    }
    for heading in log.text.lines().filter_map(|line| line.strip_prefix("### ")) {
        assert!(CHANGES.contains(&heading), "{heading:?} is none of {CHANGES:?}");
    }
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut broken = Vec::new();
    for file in files(".md") {
        let folder = workspace().join(Path::new(&file.path).parent().unwrap_or(Path::new("")));
        for target in links(&file.text) {
            let path = target.split(['#', ' ']).next().unwrap_or_default();
            if path.is_empty() || path.contains("://") || path.starts_with("mailto:") {
                continue;
            }
            if !folder.join(path).exists() {
                broken.push(format!("{}: {target}", file.path));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// The targets of `[text](target)` outside of code.
fn links(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut fenced = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        let prose: String = line.split('`').step_by(2).collect();
        for part in prose.split("](").skip(1) {
            found.extend(part.split(')').next().map(str::to_string));
        }
    }
    found
}
