//! The tests' own reading of cgroup files, v1 and v2.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use criquet_tests::{Node, PATIENCE_S, host};

/// The file of the cgroup called `name` that has the first name of `files` that is there.
pub(crate) fn find(node: &Node, name: &str, files: &[&str]) -> Option<PathBuf> {
    let folders: Vec<PathBuf> = node
        .place
        .cgroups()
        .into_iter()
        .filter(|folder| folder.ends_with(name))
        .collect();
    let mut all = files
        .iter()
        .flat_map(|file| folders.iter().map(move |folder| folder.join(file)));
    all.find(|path| path.exists())
}

/// The text of such a file.
#[track_caller]
pub(crate) fn text(node: &Node, name: &str, files: &[&str]) -> String {
    let path = find(node, name, files).unwrap_or_else(|| panic!("none of {files:?} for {name}"));
    std::fs::read_to_string(path).unwrap().trim().to_owned()
}

/// The number in such a file.
#[track_caller]
pub(crate) fn number(node: &Node, name: &str, files: &[&str]) -> u64 {
    let text = text(node, name, files);
    text.parse()
        .unwrap_or_else(|_| panic!("{text:?} of {files:?} is no number"))
}

/// `name number` lines.
#[track_caller]
pub(crate) fn keyed(node: &Node, name: &str, files: &[&str]) -> HashMap<String, u64> {
    let text = text(node, name, files);
    let pair = |line: &str| {
        line.split_once(' ')
            .map(|(key, value)| (key.to_owned(), value.parse().unwrap_or(0)))
    };
    text.lines().filter_map(pair).collect()
}

/// Nanoseconds of processor time.
#[track_caller]
pub(crate) fn cpu_ns(node: &Node, name: &str) -> u64 {
    if v2() {
        keyed(node, name, &["cpu.stat"])["usage_usec"] * 1000
    } else {
        number(node, name, &["cpuacct.usage"])
    }
}

/// A figure of memory.stat: its v2 name, its v1 name.
#[track_caller]
pub(crate) fn memory(node: &Node, name: &str, names: (&str, &str)) -> u64 {
    keyed(node, name, &["memory.stat"])[if v2() { names.0 } else { names.1 }]
}

/// Whether the machine has cgroup v2 alone.
pub(crate) fn v2() -> bool {
    host::cgroup_roots()
        .iter()
        .all(|root| root.join("cgroup.controllers").exists())
}

/// Makes a cgroup in every hierarchy, as a kubelet does for a pod. Dropping it removes it.
pub(crate) struct Parent(Vec<PathBuf>);

impl Parent {
    /// Below the node's own parent, so that leaks of it are found.
    pub(crate) fn new(node: &Node, name: &str) -> (Parent, String) {
        let path = format!("{}/{name}", node.place.cgroup);
        let folders: Vec<PathBuf> = host::cgroup_roots()
            .iter()
            .map(|root| root.join(path.trim_start_matches('/')))
            .collect();
        for folder in &folders {
            std::fs::create_dir_all(folder).unwrap();
            inherit_cpuset(folder);
        }
        (Parent(folders), path)
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        for folder in &self.0 {
            // A cgroup can be busy for a moment after its last process. One that stays is found as a leak.
            let end = Instant::now() + Duration::from_secs(PATIENCE_S);
            while std::fs::remove_dir(folder).is_err() && folder.exists() && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = std::fs::remove_dir(folder.parent().unwrap());
        }
    }
}

/// A new v1 cpuset is empty, and takes no process.
fn inherit_cpuset(folder: &Path) {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let (Some(parent), false) = (folder.parent(), v2()) else {
            return;
        };
        if !folder.join(file).exists() {
            return;
        }
        for (from, to) in [(parent.parent().unwrap(), parent), (parent, folder)] {
            if std::fs::read_to_string(to.join(file)).unwrap().trim().is_empty() {
                std::fs::write(to.join(file), std::fs::read(from.join(file)).unwrap()).unwrap();
            }
        }
    }
}
