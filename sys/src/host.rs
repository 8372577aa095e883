//! What the machine offers.

use std::path::{Path, PathBuf};

use crate::{Result, procfs};

/// The mount table of a busy node has thousands of lines.
const MOUNTINFO_BYTES_MAX: usize = 16 * 1024 * 1024;
const CGROUP_BYTES_MAX: usize = 64 * 1024;
const SMALL_FILE_BYTES_MAX: usize = 4096;

/// The kernel's release, e.g. `6.1.0-13-amd64`.
#[must_use]
pub fn kernel_release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// The first two numbers of a release.
#[must_use]
pub fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// How control groups are mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CgroupMode {
    /// One cgroup2 hierarchy with all controllers.
    V2,
    /// v1 controllers, and a cgroup2 mount beside them.
    Hybrid,
    /// v1 controllers only.
    V1,
}

/// One mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// Where it is mounted.
    pub mount: PathBuf,
    /// v1: e.g. `cpu,cpuacct` or `name=systemd`; cgroup2: empty.
    pub controllers: String,
    /// The cgroup of the calling process in it, e.g. `/`.
    pub own: String,
}

/// The machine's control groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroups {
    /// Which kind of machine this is.
    pub mode: CgroupMode,
    /// The v1 hierarchies.
    pub v1: Vec<Hierarchy>,
    /// The cgroup2 mount.
    pub v2: Option<Hierarchy>,
}

/// Reads how control groups are mounted, from /proc/self/mountinfo and /proc/self/cgroup.
///
/// # Errors
/// The kernel's.
pub fn cgroups() -> Result<Cgroups> {
    let mounts = procfs::read("self/mountinfo", MOUNTINFO_BYTES_MAX)?;
    Ok(parse_cgroups(
        &mounts,
        &procfs::read("self/cgroup", CGROUP_BYTES_MAX)?,
    ))
}

fn parse_cgroups(mountinfo: &str, membership: &str) -> Cgroups {
    let own = |controllers: &str| {
        membership
            .lines()
            .filter_map(|line| line.split_once(':')?.1.split_once(':'))
            .find(|(names, _)| *names == controllers)
            .map_or("/", |(_, path)| path)
            .to_owned()
    };
    // controllers of every v1 hierarchy, as /proc/self/cgroup writes them
    let known: Vec<&str> = membership
        .lines()
        .filter_map(|line| line.split(':').nth(1))
        .filter(|names| !names.is_empty())
        .collect();
    let mut cgroups = Cgroups {
        mode: CgroupMode::V2,
        v1: Vec::new(),
        v2: None,
    };
    for line in mountinfo.lines() {
        // proc_pid_mountinfo(5): ID PARENT MAJ:MIN ROOT MOUNT OPTIONS [TAGS] - KIND SOURCE SUPER-OPTIONS
        let Some((left, right)) = line.split_once(" - ") else {
            continue;
        };
        let left: Vec<&str> = left.split(' ').collect();
        let right: Vec<&str> = right.split(' ').collect();
        // A bind mount of a part of a hierarchy is not the hierarchy.
        let (Some(&"/"), Some(mount)) = (left.get(3), left.get(4)) else {
            continue;
        };
        let mount = PathBuf::from(unescape(mount));
        match right.as_slice() {
            ["cgroup2", ..] if cgroups.v2.is_none() => {
                cgroups.v2 = Some(Hierarchy {
                    mount,
                    controllers: String::new(),
                    own: own(""),
                });
            }
            ["cgroup", _, options, ..] => {
                let options: Vec<&str> = options.split(',').collect();
                let names = known
                    .iter()
                    .find(|names| names.split(',').all(|name| options.contains(&name)));
                let Some(names) = names.filter(|names| !cgroups.v1.iter().any(|h| h.controllers == **names))
                else {
                    continue;
                };
                cgroups.v1.push(Hierarchy {
                    mount,
                    controllers: (*names).into(),
                    own: own(names),
                });
            }
            _ => {}
        }
    }
    cgroups.mode = match (
        cgroups.v1.iter().any(|h| !h.controllers.starts_with("name=")),
        cgroups.v2.is_some(),
    ) {
        (false, true) => CgroupMode::V2,
        (_, true) => CgroupMode::Hybrid,
        (_, false) => CgroupMode::V1,
    };
    cgroups
}

/// Undoes the octal escapes of mountinfo.
fn unescape(path: &str) -> String {
    path.replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\")
}

/// Whether AppArmor is on.
#[must_use]
pub fn apparmor_enabled() -> bool {
    small_file("/sys/module/apparmor/parameters/enabled").starts_with('Y')
}

/// Whether SELinux is on.
#[must_use]
pub fn selinux_enabled() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}

/// An id that changes with every boot.
#[must_use]
pub fn boot_id() -> String {
    procfs::read("sys/kernel/random/boot_id", SMALL_FILE_BYTES_MAX)
        .unwrap_or_default()
        .trim()
        .to_owned()
}

fn small_file(path: &str) -> String {
    use std::io::Read as _;
    let mut text = String::new();
    let file = std::fs::File::open(path);
    // A file that is not there or cannot be read says what an empty one says.
    file.and_then(|file| file.take(SMALL_FILE_BYTES_MAX as u64).read_to_string(&mut text))
        .unwrap_or_default();
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert_eq!(kernel_version("6.18.44-fc"), Some((6, 18)));
        assert_eq!(kernel_version("5.14.0"), Some((5, 14)));
        assert_eq!(kernel_version("linux"), None);
        assert!(kernel_version(&kernel_release()).is_some());
        assert_eq!(boot_id().len(), 36);
    }

    #[test]
    fn a_hybrid_machine() {
        let mounts = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
            32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
            33 31 0:29 /x /other rw - cgroup cgroup rw,cpu,cpuacct\n\
            40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
            41 31 0:38 / /sys/fs/cgroup/uni\\040fied rw shared:1 - cgroup2 cgroup2 rw\n";
        let found = parse_cgroups(mounts, "9:name=systemd:/\n4:cpu,cpuacct:/a\n0::/b\n");
        assert_eq!(found.mode, CgroupMode::Hybrid);
        assert_eq!(found.v1.len(), 2);
        assert_eq!(
            (found.v1[0].controllers.as_str(), found.v1[0].own.as_str()),
            ("cpu,cpuacct", "/a")
        );
        assert_eq!(
            found.v2.unwrap(),
            Hierarchy {
                mount: "/sys/fs/cgroup/uni fied".into(),
                controllers: String::new(),
                own: "/b".into()
            }
        );
    }

    #[test]
    fn a_v2_machine() {
        let found = parse_cgroups(
            "31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
            "0::/init.scope\n",
        );
        assert_eq!((found.mode, found.v1.len()), (CgroupMode::V2, 0));
    }
}
