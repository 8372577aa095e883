//! What a daemon and its shims hold at one moment, to be compared with a later one.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::{Node, host};

/// Idle threads of the daemon's blocking pool end after ten seconds, and some of its own work uses it now and then.
const THREAD_SLACK: usize = 4;
/// How long what was let go may take to be gone, on a busy machine.
const SETTLE: Duration = Duration::from_secs(45);

/// Counts of what sessions take.
#[derive(Debug, Clone)]
pub struct Census {
    descriptors: Vec<String>,
    threads: usize,
    processes: BTreeMap<i32, String>,
    shim_descriptors: usize,
}

impl Node {
    /// Counts what the daemon and its shims hold now.
    pub fn census(&self) -> Census {
        let processes: BTreeMap<i32, String> = self
            .place
            .processes()
            .into_iter()
            .map(|process| (process.pid, process.command))
            .collect();
        let shim_descriptors = processes
            .iter()
            .filter(|(_, command)| command.starts_with("criquet-shim"))
            .filter_map(|(pid, _)| u32::try_from(*pid).ok())
            .map(|pid| host::descriptors(pid).len())
            .sum();
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.pid())).map_or(0, Iterator::count);
        Census {
            descriptors: host::descriptors(self.pid()),
            threads,
            processes,
            shim_descriptors,
        }
    }

    /// Waits until the daemon and its shims hold no more than `before`, and panics with what they hold.
    #[track_caller]
    pub fn assert_settles(&self, before: &Census) {
        let end = Instant::now() + SETTLE;
        loop {
            let now = self.census();
            let more = now.over(before);
            if more.is_empty() {
                return;
            }
            assert!(
                Instant::now() < end,
                "more than before, after {SETTLE:?}:\n  {}",
                more.join("\n  ")
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The daemon's resident memory in bytes.
    pub fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kibibytes = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
        kibibytes.unwrap_or_default() * 1024
    }
}

impl Census {
    fn over(&self, before: &Census) -> Vec<String> {
        let mut more = Vec::new();
        if self.descriptors.len() > before.descriptors.len() {
            more.push(format!(
                "descriptors of the daemon: {:?}, before {:?}",
                self.descriptors, before.descriptors
            ));
        }
        if self.threads > before.threads + THREAD_SLACK {
            more.push(format!(
                "threads of the daemon: {}, before {}",
                self.threads, before.threads
            ));
        }
        if self.shim_descriptors > before.shim_descriptors {
            more.push(format!(
                "descriptors of the shims: {}, before {}",
                self.shim_descriptors, before.shim_descriptors
            ));
        }
        let new = self
            .processes
            .iter()
            .filter(|(pid, _)| !before.processes.contains_key(pid));
        more.extend(new.map(|(pid, command)| format!("process {pid} {command}")));
        more
    }
}
