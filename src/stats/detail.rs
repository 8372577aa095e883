//! What a cgroup tells beyond its figures: read only when somebody asks for metrics.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::files::{Device, by_device, by_operation, keyed, number, read};
use super::{Dirs, limited};
use crate::plan::host::HostFacts;

/// Huge page sizes that are looked for at most; an architecture has five or so.
const PAGE_SIZES_MAX: usize = 16;
/// Devices that are told of at most.
const DEVICES_MAX: usize = 64;
/// One tick of the kernel's figures in files, nanoseconds: USER_HZ is 100 on every architecture that criquet runs on.
const TICK_NS: u64 = 10_000_000;

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Detail {
    /// Nanoseconds of processor time in user mode.
    pub cpu_user_ns: Option<u64>,
    /// Nanoseconds of processor time in the kernel.
    pub cpu_system_ns: Option<u64>,
    /// What the quota did.
    pub throttling: Option<Throttling>,
    /// The most bytes that were ever charged.
    pub memory_peak: Option<u64>,
    /// How often the limit was hit.
    pub memory_limit_hits: Option<u64>,
    /// Bytes of the kernel's own.
    pub memory_kernel: Option<u64>,
    /// Processes that the OOM killer ended.
    pub oom_kills: Option<u64>,
    /// Bytes that reclaim leaves alone; 0: none are kept.
    pub memory_reservation: Option<u64>,
    /// v1: of memory and swap together, v2: of swap alone, in bytes; 0: no limit.
    pub swap_limit: Option<u64>,
    /// Processes and threads that may be; 0: no limit.
    pub tasks_max: Option<u64>,
    /// Input and output, by device.
    pub io: Vec<DeviceIo>,
    /// Huge pages, by size.
    pub huge: Vec<HugePages>,
}

/// CFS bandwidth control.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Throttling {
    /// Periods that passed.
    pub periods: u64,
    /// Periods in which the quota ran out.
    pub throttled: u64,
    /// Nanoseconds of waiting for the next period.
    pub throttled_ns: u64,
}

/// Input and output on one device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceIo {
    /// The device.
    pub device: Device,
    /// Bytes by operation: `Read`, `Write`, and what else the kernel counts.
    pub bytes: BTreeMap<String, u64>,
    /// Operations done: reads and writes.
    pub done: Option<(u64, u64)>,
}

/// Huge pages of one size.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HugePages {
    /// e.g. `2MB`.
    pub size: String,
    /// Bytes in use.
    pub usage: u64,
    /// The most bytes that were ever in use; v2 does not tell.
    pub peak: Option<u64>,
}

/// Reads a cgroup: `dirs` as for [`super::figures`].
#[must_use]
pub fn detail(host: &HostFacts, dirs: &[PathBuf]) -> Detail {
    let dirs = Dirs { host, dirs };
    if host.cgroup.v2 {
        dirs.unified().map(unified).unwrap_or_default()
    } else {
        separate(|controller| dirs.of(controller), dirs.unified())
    }
}

/// A limit that may be `max`: then 0, as cAdvisor tells it.
fn maximum(dir: &Path, name: &str) -> Option<u64> {
    match read(dir, name)?.trim() {
        "max" => Some(0),
        limit => limit.parse().ok(),
    }
}

fn unified(dir: &Path) -> Detail {
    let cpu = keyed(dir, "cpu.stat").unwrap_or_default();
    let ns = |name: &str| cpu.get(name).map(|us| us.saturating_mul(1000));
    let throttling = cpu.get("nr_periods").map(|&periods| Throttling {
        periods,
        throttled: cpu.get("nr_throttled").copied().unwrap_or(0),
        throttled_ns: ns("throttled_usec").unwrap_or(0),
    });
    let events = keyed(dir, "memory.events").unwrap_or_default();
    Detail {
        cpu_user_ns: ns("user_usec"),
        cpu_system_ns: ns("system_usec"),
        throttling,
        memory_peak: number(dir, "memory.peak"),
        memory_limit_hits: events.get("max").copied(),
        memory_kernel: keyed(dir, "memory.stat").map(|stat| kernel_memory(&stat)),
        oom_kills: events.get("oom_kill").copied(),
        memory_reservation: maximum(dir, "memory.low"),
        swap_limit: maximum(dir, "memory.swap.max"),
        tasks_max: maximum(dir, "pids.max"),
        io: unified_io(dir),
        huge: huge(dir, ".current"),
    }
}

/// Kernels before 5.18 tell the parts, not the sum.
fn kernel_memory(stat: &std::collections::HashMap<String, u64>) -> u64 {
    let parts = ["kernel_stack", "pagetables", "percpu", "slab"];
    let sum = || parts.iter().filter_map(|part| stat.get(*part)).sum();
    stat.get("kernel").copied().unwrap_or_else(sum)
}

fn unified_io(dir: &Path) -> Vec<DeviceIo> {
    let devices = by_device(dir, "io.stat").into_iter().take(DEVICES_MAX);
    let names = [("Read", "rbytes"), ("Write", "wbytes"), ("Discard", "dbytes")];
    let of = |(device, counts): (Device, BTreeMap<String, u64>)| DeviceIo {
        device,
        bytes: names
            .iter()
            .filter_map(|(name, key)| Some(((*name).to_owned(), *counts.get(*key)?)))
            .collect(),
        done: counts.get("rios").copied().zip(counts.get("wios").copied()),
    };
    devices.map(of).collect()
}

/// `with`: the folder of a controller. `v2`: the unified hierarchy beside, on a hybrid host.
fn separate<'a>(with: impl Fn(&str) -> Option<&'a Path>, v2: Option<&'a Path>) -> Detail {
    let get = |controller: &str, name: &str| with(controller).and_then(|dir| number(dir, name));
    let throttling = with("cpu").and_then(|dir| keyed(dir, "cpu.stat")).map(|stat| {
        let count = |name: &str| stat.get(name).copied().unwrap_or(0);
        Throttling {
            periods: count("nr_periods"),
            throttled: count("nr_throttled"),
            throttled_ns: count("throttled_time"),
        }
    });
    let oom = with("memory").and_then(|dir| keyed(dir, "memory.oom_control"));
    let or_none = |limit: u64| limited(limit).unwrap_or(0);
    let huge = match (with("hugetlb"), v2) {
        (Some(dir), _) => huge(dir, ".usage_in_bytes"),
        (None, Some(dir)) => huge(dir, ".current"),
        (None, None) => Vec::new(),
    };
    // Not cpuacct.usage_user and cpuacct.usage_sys: the kernel samples these at its ticks, and under a quota they
    // run ahead of cpuacct.usage. It scales those of cpuacct.stat to what was used (Linux 5.17).
    let ticks = with("cpuacct").and_then(|dir| keyed(dir, "cpuacct.stat"));
    let used = |name: &str| {
        ticks
            .as_ref()
            .and_then(|stat| stat.get(name))
            .map(|ticks| ticks * TICK_NS)
    };
    Detail {
        cpu_user_ns: used("user"),
        cpu_system_ns: used("system"),
        throttling,
        memory_peak: get("memory", "memory.max_usage_in_bytes"),
        memory_limit_hits: get("memory", "memory.failcnt"),
        memory_kernel: get("memory", "memory.kmem.usage_in_bytes"),
        oom_kills: oom.and_then(|oom| oom.get("oom_kill").copied()),
        memory_reservation: get("memory", "memory.soft_limit_in_bytes").map(or_none),
        swap_limit: get("memory", "memory.memsw.limit_in_bytes").map(or_none),
        tasks_max: with("pids").and_then(|dir| maximum(dir, "pids.max")),
        io: with("blkio").map(separate_io).unwrap_or_default(),
        huge,
    }
}

/// The scheduler's counts where it has some, else those of the throttling layer, which counts only on devices
/// for which somebody set a limit (Linux 6.10).
fn separate_io(dir: &Path) -> Vec<DeviceIo> {
    let read = |layer: &str| {
        let name = |what: &str| format!("blkio.{layer}.{what}_recursive");
        (
            by_operation(dir, &name("io_service_bytes")),
            by_operation(dir, &name("io_serviced")),
        )
    };
    let (mut bytes, mut done) = read("bfq");
    if bytes.is_empty() {
        (bytes, done) = read("throttle");
    }
    let of = |(device, mut bytes): (Device, BTreeMap<String, u64>)| {
        bytes.remove("Total");
        let done = done.get(&device);
        let count = |name: &str| done.and_then(|done| done.get(name)).copied();
        DeviceIo {
            device,
            bytes,
            done: count("Read").zip(count("Write")),
        }
    };
    bytes.into_iter().take(DEVICES_MAX).map(of).collect()
}

/// Files are named `hugetlb.2MB.current`; those of reservations have one part more.
fn huge(dir: &Path, ending: &str) -> Vec<HugePages> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut sizes: Vec<String> = entries
        .filter_map(Result::ok)
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let size = name.strip_prefix("hugetlb.")?.strip_suffix(ending)?;
            (!size.contains('.')).then(|| size.to_owned())
        })
        .take(PAGE_SIZES_MAX)
        .collect();
    sizes.sort();
    let of = |size: String| {
        let usage = number(dir, &format!("hugetlb.{size}{ending}"))?;
        let peak = number(dir, &format!("hugetlb.{size}.max_usage_in_bytes"));
        Some(HugePages { size, usage, peak })
    };
    sizes.into_iter().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    #[test]
    fn reads_cgroup_v2_files() {
        let dir = folder(&[
            (
                "cpu.stat",
                "usage_usec 5\nuser_usec 3\nsystem_usec 2\nnr_periods 9\nnr_throttled 4\nthrottled_usec 7\n",
            ),
            ("memory.peak", "4096\n"),
            ("memory.events", "low 0\nhigh 0\nmax 6\noom 1\noom_kill 2\n"),
            ("memory.stat", "anon 1\nkernel_stack 10\nslab 30\n"),
            ("memory.low", "0\n"),
            ("memory.swap.max", "max\n"),
            ("pids.max", "77\n"),
            (
                "io.stat",
                "254:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\nbad line\n",
            ),
            ("hugetlb.2MB.current", "8\n"),
            ("hugetlb.2MB.rsvd.current", "9\n"),
        ]);
        let got = unified(dir.path());
        assert_eq!((got.cpu_user_ns, got.cpu_system_ns), (Some(3000), Some(2000)));
        let throttling = Throttling {
            periods: 9,
            throttled: 4,
            throttled_ns: 7000,
        };
        assert_eq!(got.throttling, Some(throttling));
        assert_eq!(
            (got.memory_peak, got.memory_limit_hits, got.oom_kills),
            (Some(4096), Some(6), Some(2))
        );
        assert_eq!(got.memory_kernel, Some(40));
        assert_eq!(
            (got.memory_reservation, got.swap_limit, got.tasks_max),
            (Some(0), Some(0), Some(77))
        );
        assert_eq!(got.io.len(), 1);
        assert_eq!((got.io[0].device, got.io[0].done), ((254, 0), Some((3, 4))));
        let bytes: Vec<_> = got.io[0]
            .bytes
            .iter()
            .map(|(name, value)| (name.as_str(), *value))
            .collect();
        assert_eq!(bytes, [("Discard", 5), ("Read", 1), ("Write", 2)]);
        assert_eq!(
            got.huge,
            [HugePages {
                size: "2MB".into(),
                usage: 8,
                peak: None
            }]
        );
    }

    #[test]
    fn reads_cgroup_v1_files() {
        let dir = folder(&[
            ("cpu.stat", "nr_periods 9\nnr_throttled 4\nthrottled_time 7\n"),
            ("cpuacct.stat", "user 3\nsystem 2\n"),
            ("memory.max_usage_in_bytes", "4096\n"),
            ("memory.failcnt", "6\n"),
            ("memory.kmem.usage_in_bytes", "40\n"),
            (
                "memory.oom_control",
                "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
            ),
            ("memory.soft_limit_in_bytes", "9223372036854771712\n"),
            ("memory.memsw.limit_in_bytes", "8192\n"),
            ("pids.max", "max\n"),
            ("blkio.bfq.io_service_bytes_recursive", "Total 0\n"),
            (
                "blkio.throttle.io_service_bytes_recursive",
                "8:0 Read 1\n8:0 Write 2\n8:0 Sync 3\n8:0 Total 3\nTotal 3\n",
            ),
            (
                "blkio.throttle.io_serviced_recursive",
                "8:0 Read 5\n8:0 Write 6\nTotal 11\n",
            ),
            ("hugetlb.1GB.usage_in_bytes", "0\n"),
            ("hugetlb.1GB.max_usage_in_bytes", "1\n"),
        ]);
        let got = separate(|_| Some(dir.path()), None);
        assert_eq!(
            (got.cpu_user_ns, got.cpu_system_ns),
            (Some(30_000_000), Some(20_000_000))
        );
        let throttling = Throttling {
            periods: 9,
            throttled: 4,
            throttled_ns: 7,
        };
        assert_eq!(got.throttling, Some(throttling));
        assert_eq!(
            (got.memory_peak, got.memory_limit_hits, got.oom_kills),
            (Some(4096), Some(6), Some(2))
        );
        assert_eq!((got.memory_kernel, got.memory_reservation), (Some(40), Some(0)));
        assert_eq!((got.swap_limit, got.tasks_max), (Some(8192), Some(0)));
        let io = DeviceIo {
            device: (8, 0),
            bytes: [("Read", 1), ("Write", 2), ("Sync", 3)]
                .map(|(name, value)| (name.to_owned(), value))
                .into(),
            done: Some((5, 6)),
        };
        assert_eq!(got.io, [io]);
        assert_eq!(
            got.huge,
            [HugePages {
                size: "1GB".into(),
                usage: 0,
                peak: Some(1)
            }]
        );
    }

    #[test]
    fn an_empty_folder_tells_nothing() {
        let dir = folder(&[]);
        for got in [
            unified(dir.path()),
            separate(|_| Some(dir.path()), None),
            separate(|_| None, None),
        ] {
            assert!(got.cpu_user_ns.is_none() && got.throttling.is_none() && got.oom_kills.is_none());
            assert!(got.io.is_empty() && got.huge.is_empty() && got.tasks_max.is_none());
        }
    }
}
