//! The list of specs that may not run, each with its reason.

use std::fs;
use std::path::Path;

struct Entry {
    name: String,
    reason: String,
    /// Never started, because it would fail here; the others skip themselves.
    excluded: bool,
}

/// skips.txt: `KIND | part of the spec's name | reason` a line, KIND `skip` or `exclude`.
pub(crate) struct Skips(Vec<Entry>);

impl Skips {
    pub(crate) fn read(path: &Path) -> Skips {
        let text = fs::read_to_string(path).expect("read skips.txt");
        let lines = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        let entries = lines.map(|line| {
            let parts: Vec<&str> = line.split('|').map(str::trim).collect();
            let [kind, name, reason] = parts[..] else {
                panic!("skips.txt: not KIND | NAME | REASON: {line}")
            };
            assert!(
                matches!(kind, "skip" | "exclude"),
                "skips.txt: unknown kind: {line}"
            );
            assert!(!reason.is_empty(), "skips.txt: no reason: {line}");
            Entry {
                name: name.into(),
                reason: reason.into(),
                excluded: kind == "exclude",
            }
        });
        Skips(entries.collect())
    }

    pub(crate) fn excluded(&self) -> impl Iterator<Item = &str> {
        self.0
            .iter()
            .filter(|entry| entry.excluded)
            .map(|entry| entry.name.as_str())
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|entry| entry.name.as_str())
    }

    pub(crate) fn reason(&self, spec: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|entry| spec.contains(&entry.name))
            .map(|entry| entry.reason.as_str())
    }
}
