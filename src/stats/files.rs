//! The shapes of a cgroup file: a number, `name number` lines, and what devices did.

use std::collections::{BTreeMap, HashMap};
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

/// A block device's number.
pub(super) type Device = (u32, u32);

/// `8:0` as a device number.
pub(super) fn device(text: &str) -> Option<Device> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// cgroup v1, blkio: lines of `8:0 Read 4096`, and a total without a device that is left out.
pub(super) fn by_operation(dir: &Path, name: &str) -> BTreeMap<Device, BTreeMap<String, u64>> {
    let mut out: BTreeMap<Device, BTreeMap<String, u64>> = BTreeMap::new();
    for line in read(dir, name).unwrap_or_default().lines() {
        let mut words = line.split_ascii_whitespace();
        if let (Some(number), Some(operation), Some(value)) = (words.next(), words.next(), words.next())
            && let (Some(number), Ok(value)) = (device(number), value.parse())
        {
            out.entry(number).or_default().insert(operation.to_owned(), value);
        }
    }
    out
}

/// cgroup v2, io.stat: lines of `8:0 rbytes=1 wbytes=2 …`.
pub(super) fn by_device(dir: &Path, name: &str) -> BTreeMap<Device, BTreeMap<String, u64>> {
    let mut out = BTreeMap::new();
    for line in read(dir, name).unwrap_or_default().lines() {
        let mut words = line.split_ascii_whitespace();
        let Some(number) = words.next().and_then(device) else {
            continue;
        };
        let pair = |word: &str| {
            let (key, value) = word.split_once('=')?;
            Some((key.to_owned(), value.parse().ok()?))
        };
        out.insert(number, words.filter_map(pair).collect());
    }
    out
}
