//! What the machine itself says: mounts, processes, cgroups, links, rules.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::run;

/// Mount points of this mount namespace, in the order of /proc/self/mountinfo.
pub fn mounts() -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("read mountinfo");
    table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|path| path.replace("\\040", " "))
        .collect()
}

/// Every cgroup hierarchy that is mounted.
pub fn cgroup_roots() -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("read mountinfo");
    let mut roots: Vec<PathBuf> = table
        .lines()
        .filter(|line| line.contains(" - cgroup"))
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from)
        .collect();
    roots.dedup();
    roots
}

/// The folders below `path`, deepest first, without `path` itself.
pub fn folders_below(path: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(path) else {
        return found;
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(folders_below(&entry.path()));
            found.push(entry.path());
        }
    }
    found
}

/// Everything below `path`, as text, without following links.
pub fn tree(path: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(path) else {
        return found;
    };
    for entry in entries.flatten() {
        found.push(entry.path().to_string_lossy().into_owned());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(tree(&entry.path()));
        }
    }
    found
}

/// A process and its command line.
#[derive(Debug, Clone)]
pub struct Process {
    /// Its id in this pid namespace.
    pub pid: i32,
    /// Its arguments, joined by spaces.
    pub command: String,
}

/// Every process for which `wanted(pid, command line)` holds.
pub fn processes(wanted: impl Fn(i32, &str) -> bool) -> Vec<Process> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("read /proc").flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else {
            continue;
        };
        let Ok(raw) = fs::read(entry.path().join("cmdline")) else {
            continue;
        };
        let command = String::from_utf8_lossy(&raw)
            .replace('\0', " ")
            .trim()
            .to_string();
        if wanted(pid, &command) {
            found.push(Process { pid, command });
        }
    }
    found
}

/// Processes in any cgroup whose path starts with `parent`, or with an open file or a root below a folder of
/// `folders`, or that name such a folder in their arguments.
pub fn processes_of(parent: &str, folders: &[&Path]) -> Vec<Process> {
    let own = i32::try_from(std::process::id()).unwrap_or(-1);
    processes(|pid, command| {
        if pid == own {
            return false;
        }
        let inside = fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|text| {
            text.lines()
                .filter_map(|line| line.splitn(3, ':').nth(2))
                .any(|path| path_below(path, parent))
        });
        inside
            || folders.iter().any(|folder| {
                // Tests of one binary run at once as threads of one process: its children between fork and exec,
                // and the test programs themselves, are not a daemon's.
                command.contains(&*folder.to_string_lossy())
                    || (command.starts_with("criquet") && holds(pid, folder))
            })
    })
}

fn path_below(path: &str, parent: &str) -> bool {
    path.strip_prefix(parent)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn holds(pid: i32, folder: &Path) -> bool {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    entries
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .any(|target| target.starts_with(folder))
}

/// Links of this network namespace, by name.
pub fn links() -> BTreeSet<String> {
    let text = run("ip", &["-o", "link", "show"]).ok();
    text.lines()
        .filter_map(|line| line.split(": ").nth(1))
        .map(|name| name.split('@').next().unwrap_or(name).to_string())
        .collect()
}

/// Every packet filter rule of this network namespace, of nft and of iptables, without counters.
pub fn rules() -> Vec<String> {
    let mut all = run("nft", &["-s", "list", "ruleset"]).ok();
    for program in ["iptables-save", "ip6tables-save"] {
        let out = run(program, &[]);
        if out.code == 0 {
            all.push_str(&out.stdout);
        }
    }
    all.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.trim().to_string())
        .collect()
}

/// What each descriptor of a process is.
pub fn descriptors(pid: u32) -> Vec<String> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return Vec::new();
    };
    let mut found: Vec<String> = entries
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .map(|target| target.to_string_lossy().into_owned())
        .collect();
    found.sort();
    found
}
