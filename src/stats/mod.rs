//! Figures of a cgroup: read when they are asked for, a handful of small files a container.

pub mod detail;
pub mod disk;
mod files;
pub mod layer;
pub mod network;
pub mod process;
pub mod rate;

use std::path::{Path, PathBuf};

use crate::plan::host::HostFacts;
use files::{keyed, number, read};

/// v1 has no word for "unlimited" but a number near 2^63, rounded down to a page.
const UNLIMITED_FROM: u64 = 1 << 60;

/// What a cgroup uses now.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    /// Nanoseconds since 1970 at which they were read.
    pub at_ns: i64,
    /// Processor time so far, in nanoseconds.
    pub cpu_ns: Option<u64>,
    /// Memory.
    pub memory: Option<Memory>,
    /// Swap in use, and what is left of it, in bytes.
    pub swap: Option<(u64, Option<u64>)>,
    /// Processes and threads.
    pub tasks: Option<u64>,
    /// Pressure on the processor, if the kernel tells.
    pub cpu_pressure: Option<Pressure>,
    /// Pressure on memory.
    pub memory_pressure: Option<Pressure>,
    /// Pressure on I/O.
    pub io_pressure: Option<Pressure>,
}

/// Memory of a cgroup, in bytes and faults.
#[derive(Debug, Clone, Copy, Default)]
pub struct Memory {
    /// All that is charged.
    pub usage: u64,
    /// Without what the kernel can drop at once: what eviction looks at.
    pub working_set: u64,
    /// Anonymous memory.
    pub rss: u64,
    /// Minor and major.
    pub faults: u64,
    /// From a disk.
    pub major_faults: u64,
    /// The limit, if there is one.
    pub limit: Option<u64>,
    /// The page cache.
    pub cache: u64,
    /// What of files is mapped.
    pub mapped_file: u64,
    /// Minor and major, without those of cgroups below; v2 tells only both together.
    pub own_faults: u64,
    /// From a disk, without those of cgroups below.
    pub own_major_faults: u64,
}

/// Pressure stall information, see the kernel's accounting/psi.rst.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pressure {
    /// Some task waited.
    pub some: Stall,
    /// All tasks waited.
    pub full: Stall,
}

/// One line of a pressure file.
#[derive(Debug, Clone, Copy, Default)]
pub struct Stall {
    /// Microseconds in all.
    pub total_us: u64,
    /// Percent of the last 10, 60 and 300 seconds.
    pub averages: [f64; 3],
}

/// The folders of a cgroup, one for each of the host's hierarchies, in that order.
#[derive(Debug, Clone, Copy)]
struct Dirs<'a> {
    host: &'a HostFacts,
    dirs: &'a [PathBuf],
}

impl<'a> Dirs<'a> {
    /// That of a controller.
    fn of(&self, controller: &str) -> Option<&'a Path> {
        let at = self
            .host
            .cgroup
            .hierarchies
            .iter()
            .position(|hierarchy| hierarchy.has(controller))?;
        self.dirs.get(at).map(PathBuf::as_path)
    }

    /// That of cgroup v2: its home, or the hierarchy beside those of v1, which has pressure and huge pages.
    fn unified(&self) -> Option<&'a Path> {
        let at = self
            .host
            .cgroup
            .hierarchies
            .iter()
            .position(|hierarchy| hierarchy.unified)?;
        self.dirs.get(at).map(PathBuf::as_path)
    }
}

/// Reads a cgroup: `dirs` has one folder for each of the host's hierarchies, in that order.
#[must_use]
pub fn figures(host: &HostFacts, dirs: &[PathBuf]) -> Figures {
    let dirs = Dirs { host, dirs };
    let mut figures = if host.cgroup.v2 {
        dirs.unified().map(unified).unwrap_or_default()
    } else {
        separate(|controller| dirs.of(controller), dirs.unified())
    };
    figures.at_ns = crate::id::now_ns();
    figures
}

/// A limit of v1, unless it is none.
fn limited(limit: u64) -> Option<u64> {
    (limit < UNLIMITED_FROM).then_some(limit)
}

fn unified(dir: &Path) -> Figures {
    let cpu_ns =
        keyed(dir, "cpu.stat").and_then(|stat| stat.get("usage_usec").map(|us| us.saturating_mul(1000)));
    let memory = number(dir, "memory.current").map(|usage| {
        let stat = keyed(dir, "memory.stat").unwrap_or_default();
        let get = |name: &str| stat.get(name).copied().unwrap_or(0);
        Memory {
            usage,
            working_set: usage.saturating_sub(get("inactive_file")),
            rss: get("anon"),
            faults: get("pgfault"),
            major_faults: get("pgmajfault"),
            limit: number(dir, "memory.max"),
            cache: get("file"),
            mapped_file: get("file_mapped"),
            own_faults: get("pgfault"),
            own_major_faults: get("pgmajfault"),
        }
    });
    let swap = number(dir, "memory.swap.current").map(|usage| {
        (
            usage,
            number(dir, "memory.swap.max").map(|limit| limit.saturating_sub(usage)),
        )
    });
    Figures {
        at_ns: 0,
        cpu_ns,
        memory,
        swap,
        tasks: number(dir, "pids.current"),
        cpu_pressure: pressure(dir, "cpu.pressure"),
        memory_pressure: pressure(dir, "memory.pressure"),
        io_pressure: pressure(dir, "io.pressure"),
    }
}

/// `dir`: the folder of a controller. `v2`: the unified hierarchy beside, on a hybrid host.
fn separate<'a>(dir: impl Fn(&str) -> Option<&'a Path>, v2: Option<&'a Path>) -> Figures {
    let memory_dir = dir("memory");
    let usage = memory_dir.and_then(|dir| number(dir, "memory.usage_in_bytes"));
    let stat = memory_dir
        .and_then(|dir| keyed(dir, "memory.stat"))
        .unwrap_or_default();
    let memory = memory_dir.zip(usage).map(|(dir, usage)| {
        let get = |name: &str| stat.get(name).copied().unwrap_or(0);
        Memory {
            usage,
            working_set: usage.saturating_sub(get("total_inactive_file")),
            rss: get("total_rss"),
            faults: get("total_pgfault"),
            major_faults: get("total_pgmajfault"),
            limit: number(dir, "memory.limit_in_bytes").and_then(limited),
            cache: get("total_cache"),
            mapped_file: get("total_mapped_file"),
            own_faults: get("pgfault"),
            own_major_faults: get("pgmajfault"),
        }
    });
    let swap = memory_dir.and_then(|dir| {
        // With memory, as v1 counts swap.
        let together = number(dir, "memory.memsw.usage_in_bytes")?;
        let limit = number(dir, "memory.memsw.limit_in_bytes").and_then(limited);
        // Not what this is more than the usage: that was read at another moment.
        Some((
            stat.get("total_swap").copied().unwrap_or(0),
            limit.map(|limit| limit.saturating_sub(together)),
        ))
    });
    let pressure = |name: &str| v2.and_then(|dir| pressure(dir, name));
    Figures {
        at_ns: 0,
        cpu_ns: dir("cpuacct").and_then(|dir| number(dir, "cpuacct.usage")),
        memory,
        swap,
        tasks: dir("pids").and_then(|dir| number(dir, "pids.current")),
        cpu_pressure: pressure("cpu.pressure"),
        memory_pressure: pressure("memory.pressure"),
        io_pressure: pressure("io.pressure"),
    }
}

fn pressure(dir: &Path, name: &str) -> Option<Pressure> {
    let text = read(dir, name)?;
    let mut pressure = Pressure::default();
    for line in text.lines() {
        let mut words = line.split(' ');
        let stall = match words.next() {
            Some("some") => &mut pressure.some,
            Some("full") => &mut pressure.full,
            _ => continue,
        };
        for word in words {
            match word.split_once('=') {
                Some(("avg10", value)) => stall.averages[0] = value.parse().unwrap_or(0.0),
                Some(("avg60", value)) => stall.averages[1] = value.parse().unwrap_or(0.0),
                Some(("avg300", value)) => stall.averages[2] = value.parse().unwrap_or(0.0),
                Some(("total", value)) => stall.total_us = value.parse().unwrap_or(0),
                _ => {}
            }
        }
    }
    Some(pressure)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_cgroup_v2_files() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("cpu.stat", "usage_usec 1500\nuser_usec 1000\n"),
            ("memory.current", "1000\n"),
            ("memory.max", "max\n"),
            (
                "memory.stat",
                "anon 300\nfile 600\ninactive_file 400\npgfault 7\npgmajfault 2\n",
            ),
            ("memory.swap.current", "10\n"),
            ("memory.swap.max", "30\n"),
            ("pids.current", "3\n"),
            (
                "cpu.pressure",
                "some avg10=1.50 avg60=0.25 avg300=0.00 total=1234\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=5\n",
            ),
        ] {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let figures = unified(dir.path());
        assert_eq!(figures.cpu_ns, Some(1_500_000));
        let memory = figures.memory.unwrap();
        assert_eq!(
            (memory.usage, memory.working_set, memory.rss, memory.limit),
            (1000, 600, 300, None)
        );
        assert_eq!((memory.faults, memory.major_faults), (7, 2));
        assert_eq!(figures.swap, Some((10, Some(20))));
        assert_eq!(figures.tasks, Some(3));
        let pressure = figures.cpu_pressure.unwrap();
        assert_eq!((pressure.some.total_us, pressure.full.total_us), (1234, 5));
        assert!((pressure.some.averages[0] - 1.5).abs() < f64::EPSILON);
        assert!(figures.io_pressure.is_none());
    }

    #[test]
    fn reads_cgroup_v1_files() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("cpuacct.usage", "42\n"),
            ("memory.usage_in_bytes", "1000\n"),
            ("memory.limit_in_bytes", "9223372036854771712\n"),
            (
                "memory.stat",
                "total_rss 300\ntotal_inactive_file 1\ntotal_pgfault 7\ntotal_pgmajfault 2\ntotal_swap 90\n",
            ),
            ("memory.memsw.usage_in_bytes", "1100\n"),
            ("memory.memsw.limit_in_bytes", "1500\n"),
            ("pids.current", "3\n"),
        ] {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let figures = separate(|_| Some(dir.path()), None);
        assert_eq!((figures.cpu_ns, figures.tasks), (Some(42), Some(3)));
        assert_eq!(figures.memory.unwrap().working_set, 999);
        assert_eq!(figures.memory.unwrap().limit, None);
        assert_eq!(figures.swap, Some((90, Some(400))));
    }
}
