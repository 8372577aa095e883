//! The two shapes of a cgroup file: a number, and `name number` lines.

use std::collections::HashMap;
use std::path::Path;

/// A file of a cgroup, if it is there.
pub(super) fn read(dir: &Path, name: &str) -> Option<String> {
    std::fs::read_to_string(dir.join(name)).ok()
}

/// A file that holds one number; `max` is none.
pub(super) fn number(dir: &Path, name: &str) -> Option<u64> {
    read(dir, name)?.trim().parse().ok()
}

/// A file of `name number` lines.
pub(super) fn keyed(dir: &Path, name: &str) -> Option<HashMap<String, u64>> {
    let text = read(dir, name)?;
    let pairs = text.lines().filter_map(|line| {
        let (key, value) = line.split_once(' ')?;
        Some((key.to_owned(), value.trim().parse().ok()?))
    });
    Some(pairs.collect())
}
