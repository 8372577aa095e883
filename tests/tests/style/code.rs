//! Rust files.

use crate::source::{Source, bare, files};

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;
/// A test is often a table.
const TEST_LINES_MAX: usize = 110;
/// A file is a noun of the domain; these say nothing.
const FORBIDDEN_NAMES: [&str; 8] = [
    "util", "utils", "helper", "helpers", "common", "misc", "stuff", "shared",
];
/// What is not finished does not land.
const FORBIDDEN_WORDS: [&str; 8] = [
    "TODO",
    "FIXME",
    "XXX",
    "todo!",
    "unimplemented!",
    "dbg!",
    "#[ignore",
    "unwrap_unchecked",
];

fn report(problems: &[String]) {
    assert!(
        problems.is_empty(),
        "{} problems:\n{}",
        problems.len(),
        problems.join("\n")
    );
}

#[test]
fn files_are_short() {
    let long = files(".rs").into_iter().filter_map(|file| {
        let lines = file.text.lines().count();
        (lines > FILE_LINES_MAX).then(|| format!("{}: {lines} lines, at most {FILE_LINES_MAX}", file.path))
    });
    report(&long.collect::<Vec<_>>());
}

#[test]
fn functions_are_short() {
    report(&files(".rs").iter().flat_map(long_functions).collect::<Vec<_>>());
}

fn long_functions(file: &Source) -> Vec<String> {
    let text = bare(&file.text);
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let Some(name) = function_name(line) else { continue };
        let length = function_length(&lines[start..]);
        let test =
            start > 0 && lines[start - 1].trim_start().starts_with("#[") && lines[start - 1].contains("test");
        let most = if test { TEST_LINES_MAX } else { FUNCTION_LINES_MAX };
        if length > most {
            found.push(format!(
                "{}:{}: fn {name} has {length} lines, at most {most}",
                file.path,
                start + 1
            ));
        }
    }
    found
}

fn function_name(line: &str) -> Option<&str> {
    let rest = line.split_once("fn ").filter(|(before, _)| {
        before.split_whitespace().all(|word| {
            word.starts_with("pub")
                || matches!(
                    word,
                    "async" | "const" | "unsafe" | "extern" | "(crate)" | "(super)"
                )
        })
    })?;
    rest.1
        .split(['(', '<'])
        .next()
        .map(str::trim)
        .filter(|name| !name.is_empty())
}

/// Lines from the signature to the closing brace; 1 for a signature without a body.
fn function_length(lines: &[&str]) -> usize {
    let mut depth = 0usize;
    for (index, line) in lines.iter().enumerate() {
        for character in line.chars() {
            match character {
                '{' => depth += 1,
                '}' if depth == 1 => return index + 1,
                '}' => depth = depth.saturating_sub(1),
                ';' if depth == 0 && index < 30 && !line.contains('[') => return 1,
                _ => {}
            }
        }
    }
    lines.len()
}

#[test]
fn names_say_something() {
    let bad = files(".rs").into_iter().filter_map(|file| {
        let parts = file.path.trim_end_matches(".rs").split('/');
        let word = parts.clone().find(|part| FORBIDDEN_NAMES.contains(part))?;
        Some(format!("{}: {word} is no noun of the domain", file.path))
    });
    report(&bad.collect::<Vec<_>>());
}

#[test]
fn nothing_is_left_for_later() {
    let mut found = Vec::new();
    // This file has to name them.
    for file in files(".rs")
        .iter()
        .chain(&files(".proto"))
        .filter(|file| !file.path.ends_with("style/code.rs"))
    {
        for (index, line) in file.text.lines().enumerate() {
            for word in FORBIDDEN_WORDS.iter().filter(|word| line.contains(**word)) {
                found.push(format!("{}:{}: {word}", file.path, index + 1));
            }
        }
    }
    report(&found);
}

#[test]
fn unsafe_is_in_sys_alone() {
    let mut found = Vec::new();
    for file in files(".rs").iter().filter(|file| !file.path.starts_with("sys/")) {
        for (index, line) in bare(&file.text).lines().enumerate() {
            let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
            if words.any(|word| word == "unsafe") {
                found.push(format!("{}:{}: unsafe", file.path, index + 1));
            }
        }
        let root = file.path.ends_with("src/lib.rs") || file.path.ends_with("src/main.rs");
        if root && !file.text.contains("#![forbid(unsafe_code)]") {
            found.push(format!("{}: no #![forbid(unsafe_code)]", file.path));
        }
    }
    report(&found);
}

/// Everything before the first `#[cfg(test)]` of a file outside the tests.
fn production(file: &Source) -> Option<&str> {
    // A fuzz target's way to fail is to panic.
    let test = file.path.starts_with("tests/")
        || file.path.starts_with("fuzz/")
        || file.path.contains("/tests/")
        || file.path.ends_with("_tests.rs")
        || file.path.ends_with("/tests.rs")
        || file.path.ends_with("build.rs");
    (!test).then(|| file.text.split("#[cfg(test)]").next().unwrap_or_default())
}

#[test]
fn production_code_does_not_panic_for_want_of_an_error() {
    let mut found = Vec::new();
    for file in &files(".rs") {
        let Some(text) = production(file) else { continue };
        for (index, line) in bare(text).lines().enumerate() {
            // A message is blanked: what is left of `.expect("…")` tells it from methods of our own.
            if line.contains(".unwrap()") || line.contains(".expect( ") || line.contains("panic!(") {
                found.push(format!("{}:{}: {}", file.path, index + 1, line.trim()));
            }
        }
    }
    report(&found);
}

#[test]
fn only_the_cri_room_names_cri_types() {
    let mut found = Vec::new();
    for file in files(".rs").iter().filter(|file| file.path.starts_with("src/")) {
        // The client is the other side of the interface, and src/serve.rs plugs the services in.
        if file.path.starts_with("src/cri/")
            || file.path.starts_with("src/cli/")
            || file.path == "src/serve.rs"
        {
            continue;
        }
        for (index, line) in bare(&file.text).lines().enumerate() {
            if line.contains("criquet_proto::cri") || line.contains("proto::cri::") {
                found.push(format!("{}:{}: {}", file.path, index + 1, line.trim()));
            }
        }
    }
    report(&found);
}

#[test]
fn a_function_is_measured() {
    let text = "pub(crate) fn a(x: &str) -> usize {\n    if x { 1 } else { 2 }\n}\nfn b();\n";
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(function_name(lines[0]), Some("a"));
    assert_eq!(function_length(&lines), 3);
    assert_eq!(function_length(&lines[3..]), 1);
}
