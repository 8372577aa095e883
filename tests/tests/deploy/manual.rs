//! criquet.toml(5) says what `criquet config default` prints, no more and no less.

use std::collections::BTreeSet;
use std::fs;

use criquet_tests::{run, workspace};

use crate::daemon;

/// `[table] key = value` of each key, as TOML has them.
fn keys(toml: &str) -> BTreeSet<String> {
    let mut table = "";
    let mut found = BTreeSet::new();
    for line in toml.lines() {
        if line.starts_with('[') {
            table = line;
        } else if line.contains(" = ") {
            found.insert(format!("{table} {line}"));
        }
    }
    found
}

/// The same of the page: a heading is a table, a bold tag a key with its default.
fn documented(page: &str) -> BTreeSet<String> {
    let text = page.replace("\\(dq", "\"");
    let mut table = "";
    let mut tag = false;
    let mut found = BTreeSet::new();
    for line in text.lines() {
        if let Some(heading) = line.strip_prefix(".SH ") {
            table = if heading.starts_with('[') { heading } else { "" };
        }
        if tag
            && let Some(key) = line
                .strip_prefix("\\fB")
                .and_then(|rest| rest.strip_suffix("\\fR"))
        {
            found.insert(format!("{table} {key}"));
        }
        tag = line == ".TP";
    }
    found
}

#[test]
fn every_key_is_documented_with_its_default() {
    let said = keys(&run(daemon(), &["config", "default"]).ok());
    let page = fs::read_to_string(workspace().join("deploy/man/criquet.toml.5")).unwrap();
    let documented = documented(&page);
    assert!(said.len() > 15, "{said:?}");
    let missing: Vec<_> = said.difference(&documented).collect();
    let wrong: Vec<_> = documented.difference(&said).collect();
    assert!(
        missing.is_empty() && wrong.is_empty(),
        "not in the page: {missing:#?}\nonly in the page: {wrong:#?}"
    );
}

/// Every key is said to be something, in containerd's and CRI-O's terms or as new.
#[test]
fn the_way_from_another_runtime_names_every_key() {
    let page = fs::read_to_string(workspace().join("docs/migration.md")).unwrap();
    let said = run(daemon(), &["config", "default"]).ok();
    let mut missing = Vec::new();
    for key in keys(&said) {
        let (table, line) = key.split_once(' ').unwrap();
        let name = line.split(" = ").next().unwrap();
        let table = table.trim_matches(['[', ']']);
        // Names of sysctls are the kernel's.
        let whole = match (table, name.contains('.')) {
            (_, true) => table.to_owned(),
            ("", false) => name.to_owned(),
            (table, false) => format!("{table}.{name}"),
        };
        if !page.contains(&format!("`{whole}`")) {
            missing.push(whole);
        }
    }
    assert!(missing.is_empty(), "docs/migration.md does not name {missing:?}");
}

#[test]
fn keys_are_read_from_both() {
    let toml = "a = \"x\"\n\n[t]\nb = []\n";
    let page = ".SH NAME\n.SH \"TOP\"\n.TP\n\\fBa = \\(dqx\\(dq\\fR\nText.\n.SH [t]\n.TP\n\\fBb = []\\fR\n.SH FILES\n.TP\n.I c\n";
    assert_eq!(keys(toml), documented(page));
    assert_eq!(keys(toml).len(), 2);
}
