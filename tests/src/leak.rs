//! The leak oracle: what a daemon may leave behind is nothing.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::host;

/// How long the kernel and the daemon may take to drop what a finished call let go of.
const SETTLE: Duration = Duration::from_secs(30);
/// Descriptors that a daemon may have more than at its start: connections that are being closed.
const DESCRIPTOR_SLACK: usize = 6;

/// Where a node's things are.
#[derive(Debug, Clone)]
pub struct Place {
    /// Durable state, logs, configuration.
    pub folder: PathBuf,
    /// Volatile state.
    pub state: PathBuf,
    /// The cgroup below which the daemon puts its pods.
    pub cgroup: String,
    /// The name of the built-in network's bridge.
    pub bridge: String,
    /// The built-in network's addresses start with this.
    pub addresses: String,
}

impl Place {
    fn folders(&self) -> [&Path; 2] {
        [&self.folder, &self.state]
    }

    /// Every cgroup of the node, deepest first, its parent included.
    pub fn cgroups(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for root in host::cgroup_roots() {
            let parent = root.join(self.cgroup.trim_start_matches('/'));
            if parent.is_dir() {
                found.extend(host::folders_below(&parent));
                found.push(parent);
            }
        }
        found
    }

    /// Mount points below the node's folders.
    pub fn mounts(&self) -> Vec<String> {
        host::mounts()
            .into_iter()
            .filter(|at| self.folders().iter().any(|f| Path::new(at).starts_with(f)))
            .collect()
    }

    /// Processes of the node, the daemon and the registry included.
    pub fn processes(&self) -> Vec<host::Process> {
        host::processes_of(&self.cgroup, &self.folders())
    }
}

/// What a running daemon without pods has.
#[derive(Debug, Clone, Default)]
pub struct Baseline {
    mounts: BTreeSet<String>,
    links: BTreeSet<String>,
    pids: BTreeSet<i32>,
    descriptors: Vec<String>,
}

impl Baseline {
    /// Looks at a daemon that has just started.
    pub fn take(place: &Place, daemon: u32) -> Baseline {
        Baseline {
            mounts: place.mounts().into_iter().collect(),
            links: host::links(),
            pids: place.processes().into_iter().map(|process| process.pid).collect(),
            descriptors: host::descriptors(daemon),
        }
    }
}

/// What is still there after every pod was removed, a line per thing. `ids` are the pods and containers that
/// there were. Waits a moment for things that are on their way out.
pub fn after_pods(place: &Place, before: &Baseline, daemon: Option<u32>, ids: &[String]) -> Vec<String> {
    settled(|| look(place, before, daemon, ids))
}

/// What `look` finds once it finds nothing, or when it was given long enough for that.
pub(crate) fn settled(mut look: impl FnMut() -> Vec<String>) -> Vec<String> {
    let end = Instant::now() + SETTLE;
    loop {
        let found = look();
        if found.is_empty() || Instant::now() > end {
            return found;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn look(place: &Place, before: &Baseline, daemon: Option<u32>, ids: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    for mount in place.mounts() {
        if !before.mounts.contains(&mount) {
            found.push(format!("mount {mount}"));
        }
    }
    for cgroup in place.cgroups() {
        if !cgroup.ends_with(place.cgroup.trim_start_matches('/')) {
            found.push(format!("cgroup {}", cgroup.display()));
        }
    }
    for process in place.processes() {
        if !before.pids.contains(&process.pid)
            && Some(process.pid) != daemon.and_then(|pid| i32::try_from(pid).ok())
        {
            found.push(format!("process {} {}", process.pid, process.command));
        }
    }
    for link in host::links() {
        if link != place.bridge && !before.links.contains(&link) {
            found.push(format!("link {link}"));
        }
    }
    found.extend(
        host::rules()
            .into_iter()
            .filter(|rule| of_a_pod(place, rule))
            .map(|rule| format!("rule {rule}")),
    );
    let files = place
        .folders()
        .into_iter()
        .flat_map(host::tree)
        .filter(|path| of_ids(path, ids));
    found.extend(files.map(|path| format!("file {path}")));
    if let Some(daemon) = daemon {
        let now = host::descriptors(daemon);
        if now.len() > before.descriptors.len() + DESCRIPTOR_SLACK {
            found.push(format!(
                "descriptors of the daemon: {:?}, at the start {:?}",
                now, before.descriptors
            ));
        }
    }
    found
}

/// A rule that names one address of the pods' subnet or sends a port to one. The gateway's and the whole
/// subnet's are the network's own.
fn of_a_pod(place: &Place, rule: &str) -> bool {
    rule.split(|c: char| c.is_whitespace() || matches!(c, ',' | '{' | '}' | ':'))
        .any(|word| {
            let (address, length) = word.split_once('/').unwrap_or((word, "32"));
            length == "32"
                && address.starts_with(&place.addresses)
                && !address.ends_with(".0.1")
                && address.parse::<std::net::Ipv4Addr>().is_ok()
        })
}

fn of_ids(path: &str, ids: &[String]) -> bool {
    ids.iter().any(|id| path.contains(id.as_str()))
}

/// What is left of a node whose daemon has ended, its folders aside.
pub fn after_end(place: &Place) -> Vec<String> {
    let mut found: Vec<String> = place
        .mounts()
        .into_iter()
        .map(|mount| format!("mount {mount}"))
        .collect();
    found.extend(
        place
            .processes()
            .into_iter()
            .map(|p| format!("process {} {}", p.pid, p.command)),
    );
    found.extend(
        place
            .cgroups()
            .into_iter()
            .filter(|c| !c.ends_with(place.cgroup.trim_start_matches('/')))
            .map(|c| format!("cgroup {}", c.display())),
    );
    found
}

/// Takes away all that a node has on the machine, by force.
pub fn sweep(place: &Place) {
    use rustix::process::{Pid, Signal, kill_process};
    for _ in 0..50 {
        let processes = place.processes();
        if processes.is_empty() {
            break;
        }
        for process in processes {
            if let Some(pid) = Pid::from_raw(process.pid) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    for mount in place.mounts().into_iter().rev() {
        let _ = rustix::mount::unmount(mount, rustix::mount::UnmountFlags::DETACH);
    }
    for cgroup in place.cgroups() {
        let _ = std::fs::remove_dir(cgroup);
    }
    for folder in place.folders() {
        let _ = std::fs::remove_dir_all(folder);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_of_pods_are_told_from_rules_of_the_network() {
        let place = Place {
            folder: "/x".into(),
            state: "/y".into(),
            cgroup: "/z".into(),
            bridge: "b0".into(),
            addresses: "10.88.".into(),
        };
        for (rule, of_pod) in [
            ("ip saddr 10.88.0.0/16 ip daddr != 10.88.0.0/16 masquerade", false),
            ("ip daddr 10.88.0.1 accept", false),
            ("tcp dport 80 dnat to 10.88.0.7:80", true),
            ("-A CNI-X -d 10.88.0.9/32 -j ACCEPT", true),
            ("elements = { 10.88.3.4, 10.88.3.5 }", true),
        ] {
            assert_eq!(of_a_pod(&place, rule), of_pod, "{rule}");
        }
    }
}
