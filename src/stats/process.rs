//! What the processes of a cgroup have open, by /proc.

use std::path::{Path, PathBuf};

use super::Dirs;
use crate::plan::host::HostFacts;

/// Processes that are looked into at most; a container with more has no counts of descriptors.
const PROCESSES_MAX: usize = 1024;
/// Descriptors that are looked at, one readlink each; a container with more has no counts of them.
const DESCRIPTORS_MAX: u64 = 16_384;
/// Cgroups below the container's own that are looked into: an init system makes one a service.
const CGROUPS_MAX: usize = 256;

/// See the module.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Processes {
    /// Processes, without threads.
    pub count: Option<u64>,
    /// Open descriptors, and how many of them are sockets.
    pub descriptors: Option<(u64, u64)>,
    /// The first process's soft limit of open files; `None`, too, when there is no limit.
    pub open_files_soft: Option<u64>,
}

/// Looks at the processes of a cgroup; `dirs` as for [`super::figures`], `init` is the first of them.
#[must_use]
pub fn processes(host: &HostFacts, dirs: &[PathBuf], init: Option<i32>) -> Processes {
    let dirs = Dirs { host, dirs };
    let dir = dirs
        .unified()
        .or_else(|| dirs.of("pids"))
        .or_else(|| dirs.of("memory"));
    let pids = dir.and_then(pids);
    let proc = Path::new("/proc");
    Processes {
        count: pids.as_ref().and_then(|pids| u64::try_from(pids.len()).ok()),
        descriptors: pids.and_then(|pids| descriptors(proc, &pids)),
        open_files_soft: init.and_then(|pid| open_files(&proc.join(pid.to_string()))),
    }
}

/// The processes of a cgroup and those below, or none when a bound is reached.
fn pids(root: &Path) -> Option<Vec<u32>> {
    let mut folders = vec![root.to_owned()];
    let (mut seen, mut out) = (0, Vec::new());
    while let Some(folder) = folders.pop() {
        seen += 1;
        // A cgroup that went meanwhile has no processes, but the container's own must be there.
        let text = match std::fs::read_to_string(folder.join("cgroup.procs")) {
            Ok(text) => text,
            Err(_) if folder == root => return None,
            Err(_) => continue,
        };
        out.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
        let entries = std::fs::read_dir(&folder)
            .into_iter()
            .flatten()
            .filter_map(Result::ok);
        folders.extend(
            entries
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .map(|entry| entry.path()),
        );
        if out.len() > PROCESSES_MAX || seen > CGROUPS_MAX {
            return None;
        }
    }
    Some(out)
}

/// All descriptors, and the sockets among them. What ends meanwhile does not count.
fn descriptors(proc: &Path, pids: &[u32]) -> Option<(u64, u64)> {
    let (mut all, mut sockets) = (0u64, 0u64);
    for pid in pids {
        let entries = match std::fs::read_dir(proc.join(pid.to_string()).join("fd")) {
            Ok(entries) => entries,
            Err(error) if gone(&error) => continue,
            Err(_) => return None,
        };
        for entry in entries.filter_map(Result::ok) {
            all += 1;
            if all > DESCRIPTORS_MAX {
                return None;
            }
            let target = std::fs::read_link(entry.path());
            sockets += u64::from(target.is_ok_and(|target| target.to_string_lossy().starts_with("socket:")));
        }
    }
    Some((all, sockets))
}

fn gone(error: &std::io::Error) -> bool {
    // proc(5): ESRCH once the process has ended.
    error.kind() == std::io::ErrorKind::NotFound
        || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}

/// proc(5), limits: `Max open files            1024                 524288               files`.
fn open_files(process: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(process.join("limits")).ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_the_processes_of_a_cgroup_and_of_those_below() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(pids(dir.path()), None, "no cgroup");
        std::fs::write(dir.path().join("cgroup.procs"), "1\n2\n").unwrap();
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        std::fs::write(dir.path().join("a/cgroup.procs"), "").unwrap();
        std::fs::write(dir.path().join("a/b/cgroup.procs"), "3\n").unwrap();
        assert_eq!(pids(dir.path()), Some(vec![1, 2, 3]));
        let many: String = (0..=PROCESSES_MAX).map(|pid| format!("{pid}\n")).collect();
        std::fs::write(dir.path().join("cgroup.procs"), many).unwrap();
        assert_eq!(pids(dir.path()), None, "too many");
    }

    #[test]
    fn counts_descriptors_and_sockets_and_finds_the_limit() {
        let proc = tempfile::tempdir().unwrap();
        let process = proc.path().join("7");
        std::fs::create_dir_all(process.join("fd")).unwrap();
        for (number, target) in [("0", "/dev/null"), ("1", "pipe:[5]"), ("3", "socket:[9]")] {
            std::os::unix::fs::symlink(target, process.join("fd").join(number)).unwrap();
        }
        assert_eq!(descriptors(proc.path(), &[7, 8]), Some((3, 1)), "8 has ended");
        let line = |soft: &str| {
            format!("Limit   Soft   Hard   Units\nMax open files            {soft}     20000    files\n")
        };
        std::fs::write(process.join("limits"), line("1024")).unwrap();
        assert_eq!(open_files(&process), Some(1024));
        std::fs::write(process.join("limits"), line("unlimited")).unwrap();
        assert_eq!(open_files(&process), None);
    }
}
