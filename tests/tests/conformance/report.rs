//! Ginkgo's JSON report.

use std::fs;
use std::path::Path;

use serde_json::Value;

/// How a spec ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    Passed,
    Failed,
    Skipped,
}

/// One spec of a run.
#[derive(Debug, Clone)]
pub(crate) struct Spec {
    /// Its containers' texts and its own, joined by spaces.
    pub(crate) name: String,
    pub(crate) state: State,
    /// Why it failed or skipped itself.
    pub(crate) message: String,
}

pub(crate) fn read(path: &Path) -> Vec<Spec> {
    let text = fs::read_to_string(path).expect("read the report");
    let report: Value = serde_json::from_str(&text).expect("parse the report");
    let suites = report.as_array().into_iter().flatten();
    let specs = suites.flat_map(|suite| suite["SpecReports"].as_array().into_iter().flatten());
    specs.filter_map(spec).collect()
}

fn spec(value: &Value) -> Option<Spec> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
    let state = match value["State"].as_str().unwrap_or_default() {
        "passed" => State::Passed,
        "skipped" | "pending" => State::Skipped,
        _ => State::Failed,
    };
    if value["LeafNodeType"] != "It" {
        // A node around the specs: of interest only when it broke.
        return (state == State::Failed).then(|| Spec {
            name: text(&value["LeafNodeType"]),
            state,
            message: text(&value["Failure"]["Message"]),
        });
    }
    let mut names: Vec<String> = value["ContainerHierarchyTexts"]
        .as_array()
        .into_iter()
        .flatten()
        .map(text)
        .collect();
    names.push(text(&value["LeafNodeText"]));
    let name = names.join(" ");
    // Benchmarks are in the same binary and not part of a validation.
    (!name.contains("benchmark")).then(|| Spec {
        name,
        state,
        message: text(&value["Failure"]["Message"]),
    })
}
