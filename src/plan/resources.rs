//! Changing the limits of a running container.

use std::ffi::OsStr;
use std::path::PathBuf;

use rustix::io::Errno;

use super::cgroup::{self, Place};
use super::host::HostFacts;
use super::scope;
use crate::container::config::Resources;
use crate::fault::{Fault, Kind, OrFault, Result};
use crate::sandbox::config::SandboxConfig;

/// One file to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// The file.
    pub path: PathBuf,
    /// What goes into it.
    pub value: String,
    /// A host that lacks the file is no error.
    pub optional: bool,
}

impl Resources {
    /// These settings with those of an update on top. `None`, empty and an `oom_score_adj` of 0 leave things
    /// as they are.
    #[must_use]
    pub fn updated(&self, update: &Resources) -> Resources {
        let text = |new: &String, old: &String| if new.is_empty() { old.clone() } else { new.clone() };
        let memory_limit = update.memory_limit.or(self.memory_limit);
        // A new limit without a new sum: the old sum may be below it now.
        let memory_swap = match (update.memory_limit, update.memory_swap) {
            (_, Some(swap)) => Some(swap),
            (Some(_), None) => None,
            (None, None) => self.memory_swap,
        };
        let mut hugepages = self.hugepages.clone();
        hugepages.extend(update.hugepages.clone());
        let mut unified = self.unified.clone();
        unified.extend(update.unified.clone());
        Resources {
            cpu_period: update.cpu_period.or(self.cpu_period),
            cpu_quota: update.cpu_quota.or(self.cpu_quota),
            cpu_shares: update.cpu_shares.or(self.cpu_shares),
            memory_limit,
            memory_swap,
            oom_score_adj: update
                .oom_score_adj
                .filter(|adj| *adj != 0)
                .or(self.oom_score_adj),
            cpuset_cpus: text(&update.cpuset_cpus, &self.cpuset_cpus),
            cpuset_mems: text(&update.cpuset_mems, &self.cpuset_mems),
            hugepages,
            unified,
        }
    }
}

/// The files to write, in an order that the kernel takes, to get from `old` to `new` (both complete, see
/// [`Resources::updated`]). Settings that do not change are left alone.
///
/// # Errors
/// `unified` settings on a host without a cgroup v2 home.
pub fn update(
    host: &HostFacts,
    default_parent: &str,
    sandbox: &SandboxConfig,
    container_id: &str,
    old: &Resources,
    new: &Resources,
) -> Result<Vec<Write>> {
    let place = Place {
        host,
        default_parent,
        sandbox,
        id: container_id,
    };
    let in_force = flat(place, old, None)?;
    let mut writes = flat(place, new, Some(old))?;
    // With a limit of any kind systemd writes its idea of the processor's anew, which is a coarser one.
    let in_slice = scope::unit(default_parent, sandbox, container_id).is_some();
    let again = |write: &Write| in_slice && write.path.file_name().is_some_and(is_cpu);
    writes.retain(|write| !in_force.contains(write) || again(write));
    Ok(writes)
}

fn is_cpu(file: &OsStr) -> bool {
    file.as_encoded_bytes().starts_with(b"cpu.")
}

fn flat(place: Place<'_>, resources: &Resources, old: Option<&Resources>) -> Result<Vec<Write>> {
    let mut out = Vec::new();
    for (at, settings) in cgroup::settings(place.host, resources, old)? {
        let Some(hierarchy) = place.host.cgroup.hierarchies.get(at) else {
            continue;
        };
        let folder = cgroup::folder(hierarchy, place.default_parent, place.sandbox, place.id);
        out.extend(settings.into_iter().map(|setting| Write {
            path: folder.join(setting.name),
            value: setting.value,
            optional: setting.optional,
        }));
    }
    Ok(out)
}

/// Writes all or, after a failure, puts back what was there: UpdateContainerResources is all or nothing.
///
/// # Errors
/// The first write that failed.
pub fn apply(writes: &[Write]) -> Result<()> {
    let mut done: Vec<(&PathBuf, String)> = Vec::new();
    for write in writes {
        let before = std::fs::read_to_string(&write.path).unwrap_or_default();
        match put(&write.path, &write.value) {
            Ok(()) => done.push((&write.path, before)),
            Err(_) if write.optional => {}
            Err(error) => {
                for (path, value) in done.iter().rev() {
                    if let Err(error) = put(path, value.trim_end()) {
                        tracing::warn!(?path, %error, "a cgroup setting could not be put back");
                    }
                }
                let kind = match error.kind() {
                    std::io::ErrorKind::InvalidInput => Kind::Invalid,
                    std::io::ErrorKind::ResourceBusy => Kind::FailedPrecondition,
                    // A processor or memory node that this host does not have.
                    _ if error.raw_os_error() == Some(Errno::RANGE.raw_os_error()) => Kind::Invalid,
                    _ => Kind::Internal,
                };
                return Err(error)
                    .or_fault(kind, || format!("writing {:?} to {:?}", write.value, write.path));
            }
        }
    }
    Ok(())
}

fn put(path: &PathBuf, value: &str) -> std::io::Result<()> {
    use std::io::Write as _;
    std::fs::File::options()
        .write(true)
        .open(path)?
        .write_all(value.as_bytes())
}

/// Refuses an update that no kernel takes.
///
/// # Errors
/// Memory and swap together are below memory alone.
pub fn check(new: &Resources) -> Result<()> {
    match (new.memory_limit, new.memory_swap) {
        (Some(limit), Some(swap)) if swap >= 0 && (limit < 0 || swap < limit) => Err(Fault::invalid(
            format!("the memory and swap limit {swap} is less than the memory limit {limit}"),
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::host::tests::{hybrid, v2};
    use super::*;

    fn names(writes: &[Write]) -> Vec<String> {
        let name = |write: &Write| write.path.file_name().unwrap().to_str().unwrap().to_owned();
        writes
            .iter()
            .map(|write| format!("{}={}", name(write), write.value))
            .collect()
    }

    #[test]
    fn only_changes_are_written() {
        let old = Resources {
            cpu_shares: Some(1024),
            memory_limit: Some(100),
            ..Resources::default()
        };
        let new = old.updated(&Resources {
            cpu_shares: Some(2),
            oom_score_adj: Some(0),
            ..Resources::default()
        });
        let sandbox = SandboxConfig::default();
        let writes = update(&v2(), "/criquet", &sandbox, "abc", &old, &new).unwrap();
        assert_eq!(names(&writes), ["cpu.weight=1"]);
        assert!(writes[0].path.starts_with("/sys/fs/cgroup/criquet/abc"));
        assert_eq!(new.memory_limit, Some(100));
    }

    #[test]
    fn in_a_slice_the_quota_is_written_again() {
        let old = Resources {
            cpu_quota: Some(20_100),
            memory_limit: Some(100),
            ..Resources::default()
        };
        let new = old.updated(&Resources {
            memory_limit: Some(200),
            ..Resources::default()
        });
        let sandbox = SandboxConfig::default();
        let in_slice = update(&v2(), "criquet.slice", &sandbox, "abc", &old, &new).unwrap();
        assert_eq!(names(&in_slice), ["cpu.max=20100 100000", "memory.max=200"]);
        let elsewhere = update(&v2(), "/criquet", &sandbox, "abc", &old, &new).unwrap();
        assert_eq!(names(&elsewhere), ["memory.max=200"]);
    }

    #[test]
    fn growing_memory_moves_the_sum_first() {
        let old = Resources {
            memory_limit: Some(100),
            ..Resources::default()
        };
        let new = old.updated(&Resources {
            memory_limit: Some(200),
            ..Resources::default()
        });
        let sandbox = SandboxConfig::default();
        let writes = update(&hybrid(), "/criquet", &sandbox, "abc", &old, &new).unwrap();
        assert_eq!(
            names(&writes),
            ["memory.memsw.limit_in_bytes=200", "memory.limit_in_bytes=200"]
        );
    }

    #[test]
    fn a_failed_update_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a");
        std::fs::write(&file, "1").unwrap();
        let write = |path: PathBuf, optional| Write {
            path,
            value: "2".into(),
            optional,
        };
        apply(&[write(file.clone(), false), write(dir.path().join("none"), true)]).unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "2");
        std::fs::write(&file, "1").unwrap();
        assert!(apply(&[write(file.clone(), false), write(dir.path().join("none"), false)]).is_err());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "1");
    }
}
