//! What the host can do, found once at start.

use std::path::{Path, PathBuf};

use crate::apparmor;
use crate::fault::{Fault, OrFault, Result};
use crate::plan::capabilities;

/// How the host's cgroup file systems are mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupLayout {
    /// Only cgroup v2. `hierarchies` has one entry.
    pub v2: bool,
    /// Every mounted hierarchy, in the order of the mount table.
    pub hierarchies: Vec<Hierarchy>,
}

/// One mounted cgroup hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// Where it is mounted.
    pub mount: PathBuf,
    /// v1: its controllers, or `name=…`. v2: the controllers that its root offers.
    pub controllers: Vec<String>,
    /// A cgroup v2 hierarchy.
    pub unified: bool,
}

impl Hierarchy {
    /// Whether it has this controller.
    #[must_use]
    pub fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|known| known == controller)
    }

    /// The `controllers` of a plan's cgroup folder.
    #[must_use]
    pub fn label(&self, v2: bool) -> String {
        match (v2, self.unified) {
            (true, _) => String::new(),
            (false, true) => "unified".to_owned(),
            (false, false) => self.controllers.join(","),
        }
    }
}

/// What the host can do. Plain data: tests make their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFacts {
    /// Cgroups.
    pub cgroup: CgroupLayout,
    /// AppArmor is on.
    pub apparmor: bool,
    /// The AppArmor profile of containers that name none, if one is loaded.
    pub apparmor_default: Option<String>,
    /// SELinux is on.
    pub selinux: bool,
    /// The daemon's bounding set: the most that a container can get.
    pub capabilities: u64,
    /// The lowest `oom_score_adj` that can be given: without CAP_SYS_RESOURCE the daemon's own.
    pub oom_score_adj_min: i32,
    /// The limits of open files that the daemon was started with, soft and hard: those of containers.
    pub open_files: (u64, u64),
    /// Kernel version, major and minor.
    pub kernel: (u32, u32),
}

impl HostFacts {
    /// Looks at the host.
    ///
    /// # Errors
    /// No cgroup file system is mounted, or /proc cannot be read.
    pub fn detect(_root: &Path) -> Result<Self> {
        let status = read("/proc/self/status")?;
        let capabilities = status
            .lines()
            .find_map(|line| line.strip_prefix("CapBnd:"))
            .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
            .ok_or_else(|| Fault::internal("/proc/self/status has no CapBnd"))?;
        let oom_score_adj_min = if capabilities & capabilities::bit("SYS_RESOURCE") == 0 {
            read("/proc/self/oom_score_adj")?.trim().parse().unwrap_or(0)
        } else {
            -1000
        };
        let apparmor = criquet_sys::host::apparmor_enabled();
        let has_default = apparmor && apparmor::loaded(apparmor::DEFAULT_PROFILE);
        Ok(Self {
            cgroup: CgroupLayout::parse(&read("/proc/self/mountinfo")?)?,
            apparmor,
            apparmor_default: has_default.then(|| apparmor::DEFAULT_PROFILE.to_owned()),
            selinux: Path::new("/sys/fs/selinux/enforce").exists(),
            capabilities,
            oom_score_adj_min,
            open_files: criquet_sys::limit::open_files(),
            kernel: kernel(&read("/proc/sys/kernel/osrelease")?),
        })
    }
}

fn read(path: &str) -> Result<String> {
    std::fs::read_to_string(path).or_internal(|| format!("reading {path}"))
}

/// `6.1.0-18-amd64` to (6, 1).
fn kernel(release: &str) -> (u32, u32) {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

impl CgroupLayout {
    /// Reads a mount table, proc(5): `36 35 0:31 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu`. A hierarchy that
    /// is mounted twice counts once.
    fn parse(mountinfo: &str) -> Result<Self> {
        let mut hierarchies: Vec<Hierarchy> = Vec::new();
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else {
                continue;
            };
            let mut right = right.split(' ');
            let kind = right.next().unwrap_or_default();
            let options = right.nth(1).unwrap_or_default();
            let Some(mount) = left.split(' ').nth(4).map(|path| PathBuf::from(unescape(path))) else {
                continue;
            };
            let hierarchy = match kind {
                "cgroup2" => Hierarchy {
                    controllers: offered(&mount),
                    mount,
                    unified: true,
                },
                "cgroup" => Hierarchy {
                    controllers: v1_controllers(options),
                    mount,
                    unified: false,
                },
                _ => continue,
            };
            let known = hierarchies.iter().any(|other| {
                other.unified == hierarchy.unified
                    && (other.unified || other.controllers == hierarchy.controllers)
            });
            if !known && (hierarchy.unified || !hierarchy.controllers.is_empty()) {
                hierarchies.push(hierarchy);
            }
        }
        if hierarchies.is_empty() {
            return Err(Fault::failed_precondition("no cgroup file system is mounted"));
        }
        Ok(Self {
            v2: hierarchies.iter().all(|hierarchy| hierarchy.unified),
            hierarchies,
        })
    }

    /// The hierarchy with this controller.
    #[must_use]
    pub fn with(&self, controller: &str) -> Option<&Hierarchy> {
        self.hierarchies
            .iter()
            .find(|hierarchy| hierarchy.has(controller))
    }
}

fn offered(mount: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}

/// The controllers among the options of a v1 mount's superblock.
fn v1_controllers(options: &str) -> Vec<String> {
    const KNOWN: [&str; 13] = [
        "cpu",
        "cpuacct",
        "cpuset",
        "memory",
        "devices",
        "freezer",
        "blkio",
        "pids",
        "hugetlb",
        "net_cls",
        "net_prio",
        "perf_event",
        "rdma",
    ];
    let is_one = |option: &&str| KNOWN.contains(option) || option.starts_with("name=") || *option == "misc";
    options.split(',').filter(is_one).map(str::to_owned).collect()
}

/// Blank, tab, line feed and backslash are octal in mount tables.
fn unescape(path: &str) -> String {
    path.replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A cgroup v2 host with everything.
    pub(crate) fn v2() -> HostFacts {
        let controllers = ["cpuset", "cpu", "io", "memory", "hugetlb", "pids"]
            .map(str::to_owned)
            .to_vec();
        let mount = PathBuf::from("/sys/fs/cgroup");
        HostFacts {
            cgroup: CgroupLayout {
                v2: true,
                hierarchies: vec![Hierarchy {
                    mount,
                    controllers,
                    unified: true,
                }],
            },
            apparmor: false,
            apparmor_default: None,
            selinux: false,
            capabilities: (1 << 41) - 1,
            oom_score_adj_min: -1000,
            open_files: (1024, 524_288),
            kernel: (6, 8),
        }
    }

    /// A hybrid host.
    pub(crate) fn hybrid() -> HostFacts {
        let table = "\
30 29 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
31 29 0:28 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset
32 29 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
33 29 0:30 / /sys/fs/cgroup/devices rw - cgroup cgroup rw,devices
34 29 0:31 / /sys/fs/cgroup/hugetlb rw - cgroup cgroup rw,hugetlb
35 29 0:32 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
36 29 0:33 / /nonexistent/unified rw - cgroup2 cgroup2 rw
37 29 0:29 / /mnt/again rw - cgroup cgroup rw,memory
";
        HostFacts {
            cgroup: CgroupLayout::parse(table).unwrap(),
            ..v2()
        }
    }

    #[test]
    fn reads_a_hybrid_mount_table() {
        let layout = hybrid().cgroup;
        assert!(!layout.v2);
        assert_eq!(layout.hierarchies.len(), 7, "mounted twice, counted once");
        assert_eq!(
            layout.with("cpuacct").unwrap().mount,
            Path::new("/sys/fs/cgroup/cpu,cpuacct")
        );
        let labels: Vec<String> = layout.hierarchies.iter().map(|h| h.label(false)).collect();
        assert_eq!(labels[0], "cpu,cpuacct");
        assert_eq!(&labels[5..], ["name=systemd", "unified"]);
        assert!(CgroupLayout::parse("").is_err());
    }

    #[test]
    fn detects_this_host() {
        let facts = HostFacts::detect(Path::new("/")).unwrap();
        assert!(facts.kernel >= (5, 14));
        assert!(facts.capabilities != 0);
    }

    #[test]
    fn kernel_versions() {
        assert_eq!(kernel("6.1.0-18-amd64\n"), (6, 1));
        assert_eq!(kernel("5.14+"), (5, 14));
    }
}
