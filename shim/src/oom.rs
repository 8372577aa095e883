//! Whether the kernel killed for want of memory: the cgroup counts it.

use std::path::{Path, PathBuf};

use criquet_proto::shim::Exit;
use criquet_sys::signal::SIGKILL;

use crate::cgroup::{Cgroup, read};

/// The kill counter of a container's memory cgroup.
#[derive(Debug)]
pub struct Counter {
    file: Option<PathBuf>,
    before: u64,
}

impl Counter {
    /// Starts counting. Without a memory controller the counter stays at nothing.
    #[must_use]
    pub fn new(cgroup: &Cgroup) -> Self {
        let file = cgroup
            .memory()
            .map(|(dir, v2)| dir.join(if v2 { "memory.events" } else { "memory.oom_control" }));
        let before = file.as_deref().map_or(0, kills);
        Self { file, before }
    }

    /// Whether that exit was the kernel's doing: a death by SIGKILL, of the process or of the child that its
    /// code speaks of, and a kill has been counted. To be asked before the cgroup is removed.
    #[must_use]
    pub fn explains(&self, exit: &Exit) -> bool {
        (exit.signal == SIGKILL || exit.code == 128 + SIGKILL)
            && self.file.as_deref().is_some_and(|file| kills(file) > self.before)
    }
}

fn kills(file: &Path) -> u64 {
    let Ok(text) = read(file) else { return 0 };
    text.lines()
        .find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_from_the_start_only() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("memory.events");
        std::fs::write(&file, "low 0\noom 7\noom_kill 2\noom_group_kill 9\n").unwrap();
        let counter = Counter {
            before: kills(&file),
            file: Some(file.clone()),
        };
        let killed = Exit {
            code: 137,
            signal: 9,
            ..Exit::default()
        };
        assert!(!counter.explains(&killed));
        std::fs::write(&file, "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n").unwrap();
        assert!(counter.explains(&killed));
        assert!(!counter.explains(&Exit {
            code: 1,
            ..Exit::default()
        }));
    }
}
