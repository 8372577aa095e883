//! The container's cgroup: made before its init, emptied and removed after it. One folder on a v2 host, one
//! a hierarchy on v1 and hybrid hosts.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use criquet_proto::shim::{self, failed::Kind};
use criquet_sys::signal;

use crate::child::Failure;
use crate::complain;
use crate::limits::{CGROUP_DEPTH_MAX, CGROUP_FILE_BYTES, CGROUP_REMOVE_POLL, CGROUP_REMOVE_WAIT};

/// Controllers that a container may need, in v2's names.
const CONTROLLERS: [&str; 6] = ["cpu", "cpuset", "hugetlb", "io", "memory", "pids"];

/// The plan's name for the cgroup2 hierarchy of a hybrid host.
pub(crate) const UNIFIED: &str = "unified";

/// Folders that exist.
#[derive(Debug, Default)]
pub struct Cgroup {
    v2: bool,
    dirs: Vec<Dir>,
}

#[derive(Debug)]
struct Dir {
    path: PathBuf,
    controllers: String,
}

impl Cgroup {
    /// Makes the folders, and writes the settings. After a failure nothing is left.
    ///
    /// # Errors
    /// When a folder cannot be made or a setting that is not optional is refused.
    pub fn make(plan: &shim::Cgroup) -> Result<Self, Failure> {
        let mut made = Self {
            v2: plan.v2,
            dirs: Vec::new(),
        };
        match made.fill(plan) {
            Ok(()) => Ok(made),
            Err(failure) => {
                made.remove();
                Err(failure)
            }
        }
    }

    fn fill(&mut self, plan: &shim::Cgroup) -> Result<(), Failure> {
        for dir in &plan.dirs {
            let path = PathBuf::from(&dir.path);
            let failed = |e| failure("make", &path, &e);
            fs::create_dir_all(&path).map_err(failed)?;
            self.dirs.push(Dir {
                path: path.clone(),
                controllers: dir.controllers.clone(),
            });
            if self.v2 || dir.controllers == UNIFIED {
                enable_controllers(&path);
            } else if dir.controllers.split(',').any(|name| name == "cpuset") {
                inherit_cpuset(&path).map_err(failed)?;
            }
            for file in &dir.files {
                let path = path.join(&file.name);
                match write(&path, &file.value) {
                    Err(e) if file.optional => complain(&failure("write", &path, &e).message),
                    other => other.map_err(|e| failure("write", &path, &e))?,
                }
            }
        }
        if plan.device_program.is_empty() {
            return Ok(());
        }
        // Also on a hybrid host, where v1 has no devices controller.
        let unified = |dir: &&Dir| self.v2 || dir.controllers == UNIFIED;
        let dir = self.dirs.iter().find(unified).ok_or_else(|| Failure {
            kind: Kind::Internal,
            message: "attach the device program: the container has no cgroup v2 folder".into(),
        })?;
        let folder = criquet_sys::cgroup::open(&dir.path)?;
        criquet_sys::cgroup::attach_device_program(folder, &plan.device_program)?;
        Ok(())
    }

    /// Puts a process into it.
    ///
    /// # Errors
    /// When a folder refuses it.
    pub fn adopt(&self, pid: i32) -> Result<(), Failure> {
        for dir in &self.dirs {
            let path = dir.path.join("cgroup.procs");
            write(&path, &pid.to_string()).map_err(|e| failure("write", &path, &e))?;
        }
        Ok(())
    }

    /// The folder of the memory controller, and whether it is v2's.
    #[must_use]
    pub fn memory(&self) -> Option<(&Path, bool)> {
        let wanted = |dir: &&Dir| self.v2 || dir.controllers.split(',').any(|name| name == "memory");
        self.dirs
            .iter()
            .find(wanted)
            .map(|dir| (dir.path.as_path(), self.v2))
    }

    /// The processes in it and in its child cgroups, as the host sees them.
    #[must_use]
    pub fn processes(&self) -> BTreeSet<i32> {
        let mut pids = BTreeSet::new();
        for dir in &self.dirs {
            walk(&dir.path, 0, &mut |path| {
                let text = read(&path.join("cgroup.procs")).unwrap_or_default();
                pids.extend(
                    text.lines()
                        .filter_map(|line| line.parse::<i32>().ok())
                        .filter(|pid| *pid > 1),
                );
            });
        }
        pids
    }

    /// Sends SIGKILL to all that is in it; gives whether anything was.
    pub fn kill(&self) -> bool {
        let pids = self.processes();
        if pids.is_empty() {
            return false;
        }
        for dir in &self.dirs {
            // One call takes them all, also those that fork right now; v1 has no such file.
            write(&dir.path.join("cgroup.kill"), "1").ok();
        }
        for pid in pids {
            signal::kill(pid, signal::SIGKILL).ok();
        }
        true
    }

    /// Removes the folders, children first; gives whether all are gone.
    pub fn remove(&mut self) -> bool {
        self.dirs.retain(|dir| {
            if remove_dir(&dir.path) {
                return false;
            }
            let mut gone = false;
            walk(&dir.path, 0, &mut |path| gone = remove_dir(path));
            !gone
        });
        self.dirs.is_empty()
    }

    /// Kills and removes, and waits for it: for the undoing of what never ran.
    pub fn remove_patiently(&mut self) {
        let until = Instant::now() + CGROUP_REMOVE_WAIT;
        loop {
            self.kill();
            if self.remove() {
                return;
            }
            if Instant::now() >= until {
                let left: Vec<_> = self
                    .dirs
                    .iter()
                    .map(|dir| dir.path.display().to_string())
                    .collect();
                return complain(&format!("remove cgroup {}: still in use", left.join(", ")));
            }
            std::thread::sleep(CGROUP_REMOVE_POLL);
        }
    }
}

/// Whether it is gone now.
fn remove_dir(path: &Path) -> bool {
    fs::remove_dir(path).map_or_else(|e| e.kind() == io::ErrorKind::NotFound, |()| true)
}

/// Visits `path` and all folders below, children first.
fn walk(path: &Path, depth: u32, visit: &mut dyn FnMut(&Path)) {
    if depth < CGROUP_DEPTH_MAX
        && let Ok(entries) = fs::read_dir(path)
    {
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                walk(&entry.path(), depth + 1, visit);
            }
        }
    }
    visit(path);
}

/// v2: lets the parents hand their controllers down, as far as the host goes along.
fn enable_controllers(path: &Path) {
    let mut parents: Vec<_> = path
        .ancestors()
        .skip(1)
        .take_while(|p| p.join("cgroup.subtree_control").exists())
        .collect();
    parents.reverse();
    for parent in parents {
        let available = read(&parent.join("cgroup.controllers")).unwrap_or_default();
        let control = parent.join("cgroup.subtree_control");
        let enabled = read(&control).unwrap_or_default();
        for name in CONTROLLERS {
            let has = |list: &str| list.split_whitespace().any(|word| word == name);
            if has(&available) && !has(&enabled) {
                // Refused e.g. where the parent holds processes of its own: the setting's write will tell.
                write(&control, &format!("+{name}")).ok();
            }
        }
    }
}

/// v1: a new cpuset cgroup is empty and takes no process; it gets what its parent has.
fn inherit_cpuset(path: &Path) -> io::Result<()> {
    let mut chain: Vec<_> = path
        .ancestors()
        .take_while(|p| p.join("cpuset.cpus").exists())
        .collect();
    chain.reverse();
    for pair in chain.windows(2) {
        for name in ["cpuset.cpus", "cpuset.mems"] {
            let file = pair[1].join(name);
            if read(&file)?.trim().is_empty() {
                write(&file, read(&pair[0].join(name))?.trim())?;
            }
        }
    }
    Ok(())
}

/// A file of cgroupfs as text.
///
/// # Errors
/// As open(2) and read(2).
pub fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?
        .take(CGROUP_FILE_BYTES)
        .read_to_string(&mut text)?;
    Ok(text)
}

fn write(path: &Path, value: &str) -> io::Result<()> {
    File::options()
        .write(true)
        .open(path)?
        .write_all(value.as_bytes())
}

fn failure(what: &str, path: &Path, error: &io::Error) -> Failure {
    let (kind, hint) = match error.kind() {
        // Not the request's to find: the kernel has a controller's files where the cgroups above hand it down.
        io::ErrorKind::NotFound => (
            Kind::Internal,
            "; is its controller in cgroup.subtree_control of the cgroups above?",
        ),
        io::ErrorKind::PermissionDenied => (Kind::Permission, ""),
        io::ErrorKind::InvalidInput => (Kind::Invalid, ""),
        _ => (Kind::Internal, ""),
    };
    Failure {
        kind,
        message: format!("{what} cgroup {}: {error}{hint}", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(path: &Path, files: Vec<shim::cgroup::File>) -> shim::Cgroup {
        let dir = shim::cgroup::Dir {
            path: path.display().to_string(),
            files,
            controllers: "memory".into(),
        };
        shim::Cgroup {
            dirs: vec![dir],
            ..Default::default()
        }
    }

    #[test]
    fn an_optional_file_may_be_missing_and_another_may_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        let file = |optional| shim::cgroup::File {
            name: "none".into(),
            value: "1".into(),
            optional,
        };
        let mut made = Cgroup::make(&plan(&path, vec![file(true)])).unwrap();
        assert!(path.exists());
        fs::create_dir_all(path.join("c/d")).unwrap();
        assert!(made.remove());
        assert!(!path.exists());
        let failure = Cgroup::make(&plan(&path, vec![file(false)])).unwrap_err();
        assert_eq!(failure.kind, Kind::Internal);
        assert!(failure.message.contains("a/b/none"), "{}", failure.message);
        assert!(
            failure.message.contains("cgroup.subtree_control"),
            "{}",
            failure.message
        );
        assert!(!path.exists());
    }

    #[test]
    fn devices_are_not_left_open_where_no_program_can_be_attached() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let plan = shim::Cgroup {
            device_program: vec![0; 8],
            ..plan(&path, Vec::new())
        };
        let failure = Cgroup::make(&plan).unwrap_err();
        assert!(failure.message.contains("device program"), "{}", failure.message);
        assert!(!path.exists());
    }

    #[test]
    fn cpusets_are_inherited_along_the_chain() {
        let dir = tempfile::tempdir().unwrap();
        let leaf = dir.path().join("a/b");
        fs::create_dir_all(&leaf).unwrap();
        for (path, value) in [
            (dir.path(), "0-3\n"),
            (&dir.path().join("a"), "\n"),
            (&leaf, "\n"),
        ] {
            fs::write(path.join("cpuset.cpus"), value).unwrap();
            fs::write(path.join("cpuset.mems"), value).unwrap();
        }
        inherit_cpuset(&leaf).unwrap();
        // Ordinary files, unlike the kernel's, keep the old tail: one byte more than what was written is not there.
        assert_eq!(fs::read_to_string(leaf.join("cpuset.cpus")).unwrap(), "0-3");
    }
}
