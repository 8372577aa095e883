//! Taking a cgroup away from outside, when no shim is left to do it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use criquet_sys::signal::SIGKILL;

use crate::fault::{OrFault, Result};

/// A killed process leaves its cgroup within this, unless it hangs in the kernel.
const EMPTY_TRIES_MAX: u32 = 1000;
/// Between two looks.
const EMPTY_PAUSE: Duration = Duration::from_millis(1);
/// Nested cgroups that a container may have made.
const DEPTH_MAX: u32 = 32;

/// Kills every process in the cgroup `dir` and below.
///
/// # Errors
/// The cgroup is there, but cannot be read.
pub fn kill(dir: &Path) -> Result<()> {
    if std::fs::write(dir.join("cgroup.kill"), "1").is_ok() {
        return Ok(());
    }
    kill_each(dir, 0)
}

fn kill_each(dir: &Path, depth: u32) -> Result<()> {
    for child in children(dir) {
        if depth < DEPTH_MAX {
            kill_each(&child, depth + 1)?;
        }
    }
    let path = dir.join("cgroup.procs");
    match std::fs::read_to_string(&path) {
        Ok(processes) => {
            for pid in processes
                .lines()
                .filter_map(|line| line.trim().parse::<i32>().ok())
            {
                // 0 is a process outside our pid namespace; ESRCH is what we want.
                if pid > 0 {
                    criquet_sys::signal::kill(pid, SIGKILL).ok();
                }
            }
            Ok(())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).or_internal(|| format!("reading {path:?}")),
    }
}

/// The processes in the cgroups `dirs` and below, as the host sees them.
#[must_use]
pub fn processes(dirs: &[PathBuf]) -> BTreeSet<i32> {
    let mut found = BTreeSet::new();
    for dir in dirs {
        collect(dir, 0, &mut found);
    }
    found
}

fn collect(dir: &Path, depth: u32, found: &mut BTreeSet<i32>) {
    if depth < DEPTH_MAX {
        children(dir)
            .iter()
            .for_each(|child| collect(child, depth + 1, found));
    }
    let text = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    found.extend(text.lines().filter_map(|line| line.trim().parse::<i32>().ok()));
}

/// Removes the cgroup `dir` with those below it, killing what is in it. Not there: done.
///
/// # Errors
/// It stays busy.
pub fn remove(dir: &Path) -> Result<()> {
    let mut tries = 0;
    loop {
        let error = match remove_tree(dir, 0) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => error,
        };
        tries += 1;
        if tries == EMPTY_TRIES_MAX {
            return Err(error).or_internal(|| format!("removing the cgroup {dir:?}"));
        }
        kill(dir)?;
        std::thread::sleep(EMPTY_PAUSE);
    }
}

fn remove_tree(dir: &Path, depth: u32) -> std::io::Result<()> {
    if depth < DEPTH_MAX {
        for child in children(dir) {
            remove_tree(&child, depth + 1)?;
        }
    }
    std::fs::remove_dir(dir)
}

fn children(dir: &Path) -> Vec<std::path::PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Vec::new();
    };
    let is_dir = |entry: &std::fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    entries
        .filter_map(std::result::Result::ok)
        .filter(is_dir)
        .map(|entry| entry.path())
        .collect()
}
