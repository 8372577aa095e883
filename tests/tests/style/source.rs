//! The repository's files, and Rust text without its comments and strings.

use std::fs;
use std::path::{Path, PathBuf};

use criquet_tests::workspace;

/// Folders that are not ours, or are made.
const NOT_OURS: [&str; 4] = ["target", ".work", ".git", "node_modules"];

/// A file by its path from the root.
pub(crate) struct Source {
    pub(crate) path: String,
    pub(crate) text: String,
}

/// Every file of the repository whose name ends in `suffix`.
pub(crate) fn files(suffix: &str) -> Vec<Source> {
    let root = workspace();
    let mut found = Vec::new();
    walk(&root, &mut found);
    found.sort();
    found
        .into_iter()
        .filter(|path| path.to_string_lossy().ends_with(suffix))
        .filter_map(|path| {
            let text = fs::read_to_string(&path).ok()?;
            let path = path
                .strip_prefix(&root)
                .unwrap_or(&path)
                .to_string_lossy()
                .into_owned();
            Some(Source { path, text })
        })
        .collect()
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let kind = entry.file_type().expect("a file type");
        let name = entry.file_name().to_string_lossy().into_owned();
        if kind.is_dir() && !NOT_OURS.contains(&name.as_str()) {
            walk(&entry.path(), found);
        } else if kind.is_file() {
            found.push(entry.path());
        }
    }
}

/// The text with every comment, string and character literal blanked; line ends stay.
pub(crate) fn bare(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = literal_end(&chars, at);
        if end == at {
            out.push(chars[at]);
            at += 1;
        } else {
            out.extend(chars[at..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
            at = end;
        }
    }
    out
}

/// Where the comment or literal that starts at `at` ends; `at` itself when none starts there.
fn literal_end(chars: &[char], at: usize) -> usize {
    let rest = &chars[at..];
    let previous = at.checked_sub(1).map_or(' ', |before| chars[before]);
    let in_word = previous.is_alphanumeric() || previous == '_';
    match rest {
        ['/', '/', ..] => at + rest.iter().position(|c| *c == '\n').unwrap_or(rest.len()),
        ['/', '*', ..] => at + block_comment(rest),
        ['"', ..] => at + quoted(rest),
        ['b', '"', ..] | ['c', '"', ..] if !in_word => at + 1 + quoted(&rest[1..]),
        ['r', '"' | '#', ..] if !in_word => at + raw(rest, 1),
        ['b' | 'c', 'r', '"' | '#', ..] if !in_word => at + raw(rest, 2),
        ['\'', '\\', ..] => at + 3 + rest[3..].iter().position(|c| *c == '\'').unwrap_or(0) + 1,
        ['\'', _, '\'', ..] => at + 3,
        _ => at,
    }
}

fn block_comment(rest: &[char]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match rest[at..] {
            ['/', '*', ..] => (depth, at) = (depth + 1, at + 2),
            ['*', '/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn quoted(rest: &[char]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// A raw string after `prefix` letters, or nothing when what follows is a raw identifier.
fn raw(rest: &[char], prefix: usize) -> usize {
    let hashes = rest[prefix..].iter().take_while(|c| **c == '#').count();
    if rest.get(prefix + hashes) != Some(&'"') {
        return 0;
    }
    let mut at = prefix + hashes + 1;
    while at < rest.len() {
        if rest[at] == '"' && rest[at + 1..].iter().take_while(|c| **c == '#').count() >= hashes {
            return at + 1 + hashes;
        }
        at += 1;
    }
    rest.len()
}

#[test]
fn comments_and_literals_are_blanked() {
    for (text, wanted) in [
        ("a // }\nb", "a     \nb"),
        ("a \"}\\\"}\" b", "a        b"),
        ("x('{') y", "x(   ) y"),
        ("f<'a>(x: &'a str) {", "f<'a>(x: &'a str) {"),
        ("r#\"}\"# z", "       z"),
        ("/* { /* } */ */ q", "                q"),
        ("'\\'' {", "     {"),
    ] {
        assert_eq!(bare(text), wanted, "{text}");
    }
}
