//! The metrics of pods and containers: what cAdvisor would tell, from the cgroups and /proc.
//!
//! Only what is known is told: a file that a kernel lacks gives no sample, rather than a zero.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;

use criquet_proto::cri::{self, UInt64Value};
use futures_util::StreamExt as _;

use super::metric_kind::{self as kind, MetricKind};
use crate::container::config::Resources;
use crate::container::record::{Container, State};
use crate::plan;
use crate::runtime::Runtime;
use crate::sandbox::config::Network;
use crate::sandbox::namespaces;
use crate::sandbox::record::{Phase, Sandbox};
use crate::stats::detail::{Detail, detail};
use crate::stats::disk::{self, Disk};
use crate::stats::layer::Used;
use crate::stats::process::{Processes, processes};
use crate::stats::{self, Figures, Pressure, network};

/// Pods that are looked at at once: a scrape must not take every thread that other calls need.
const PODS_AT_ONCE: usize = 8;
/// Nanoseconds and microseconds of a second: the CRI's values are whole numbers, so seconds are rounded down.
const SECOND_NS: u64 = 1_000_000_000;
const SECOND_US: u64 = 1_000_000;
/// What cgroups start with.
const CPU_PERIOD_DEFAULT_US: u64 = 100_000;
const CPU_SHARES_DEFAULT: u64 = 1024;
/// What cAdvisor calls a pod's own samples.
const POD: &str = "POD";

/// All metrics that there are.
#[must_use]
pub fn descriptors() -> Vec<cri::MetricDescriptor> {
    kind::ALL.iter().map(|kind| kind.descriptor()).collect()
}

/// The metrics of all ready pods and their running containers.
pub async fn pods(runtime: &Arc<Runtime>) -> Vec<cri::PodSandboxMetrics> {
    let ready = runtime
        .sandboxes
        .all()
        .into_iter()
        .filter(|sandbox| sandbox.phase() == Phase::Ready);
    let answers = ready.map(|sandbox| pod(Arc::clone(runtime), sandbox));
    futures_util::stream::iter(answers)
        .buffered(PODS_AT_ONCE)
        .filter_map(std::future::ready)
        .collect()
        .await
}

async fn pod(runtime: Arc<Runtime>, sandbox: Arc<Sandbox>) -> Option<cri::PodSandboxMetrics> {
    let mut containers = Vec::new();
    for container in runtime.containers_of(&sandbox.id) {
        if container.is_running() {
            let layer = runtime.writable_layer(&container).await;
            containers.push((container, layer));
        }
    }
    let read = move || cri::PodSandboxMetrics {
        pod_sandbox_id: sandbox.id.clone(),
        metrics: pod_samples(&runtime, &sandbox),
        container_metrics: containers
            .iter()
            .filter_map(|(container, layer)| container_metrics(&runtime, container, *layer))
            .collect(),
    };
    tokio::task::spawn_blocking(read).await.ok()
}

/// The samples of one pod or container.
struct Samples {
    labels: Vec<String>,
    metrics: Vec<cri::Metric>,
}

impl Samples {
    fn put(&mut self, kind: &MetricKind, value: impl Into<Option<u64>>) {
        self.put_with(kind, &[], value);
    }

    /// `labels`: the values of the kind's own labels, in their order.
    fn put_with(&mut self, kind: &MetricKind, labels: &[&str], value: impl Into<Option<u64>>) {
        // The kubelet drops samples that have other labels than their descriptor.
        debug_assert_eq!(labels.len(), kind.labels.len(), "{}", kind.name);
        let Some(value) = value.into() else { return };
        let all = self
            .labels
            .iter()
            .cloned()
            .chain(labels.iter().map(|label| (*label).to_owned()));
        self.metrics.push(cri::Metric {
            name: kind.name.into(),
            // 0: as it is now.
            timestamp: 0,
            metric_type: kind.r#type.into(),
            label_values: all.collect(),
            value: Some(UInt64Value { value }),
        });
    }
}

/// The path of a cgroup below its mount, the same in every hierarchy.
fn cgroup_id(runtime: &Runtime, dirs: &[PathBuf]) -> String {
    let hierarchy = runtime.host.cgroup.hierarchies.first();
    let path = dirs
        .first()
        .zip(hierarchy)
        .and_then(|(dir, hierarchy)| dir.strip_prefix(&hierarchy.mount).ok());
    path.map_or_else(String::new, |path| format!("/{}", path.display()))
}

fn pod_samples(runtime: &Runtime, sandbox: &Sandbox) -> Vec<cri::Metric> {
    if sandbox.config.namespaces.network == Network::Node {
        return Vec::new();
    }
    let (parent, config) = (&runtime.config.runtime.cgroup_parent, &sandbox.config);
    let dirs = plan::container_cgroup_dirs(&runtime.host, parent, config, &sandbox.id);
    let id = cgroup_id(runtime, &dirs);
    let labels = [&id, &sandbox.id, "", &config.namespace, &config.name, POD].map(str::to_owned);
    let mut samples = Samples {
        labels: labels.into(),
        metrics: Vec::new(),
    };
    let read = namespaces::open(&sandbox.dir, "net").and_then(|netns| network::interfaces(netns.as_fd()));
    for interface in read.unwrap_or_default() {
        let of = [interface.name.as_str()];
        for (kind, value) in [
            (&kind::NETWORK_RECEIVE_BYTES, interface.rx_bytes),
            (&kind::NETWORK_RECEIVE_PACKETS, interface.rx_packets),
            (&kind::NETWORK_RECEIVE_ERRORS, interface.rx_errors),
            (&kind::NETWORK_RECEIVE_DROPPED, interface.rx_dropped),
            (&kind::NETWORK_TRANSMIT_BYTES, interface.tx_bytes),
            (&kind::NETWORK_TRANSMIT_PACKETS, interface.tx_packets),
            (&kind::NETWORK_TRANSMIT_ERRORS, interface.tx_errors),
            (&kind::NETWORK_TRANSMIT_DROPPED, interface.tx_dropped),
        ] {
            samples.put_with(kind, &of, value);
        }
    }
    samples.metrics
}

fn container_metrics(runtime: &Runtime, container: &Container, layer: Used) -> Option<cri::ContainerMetrics> {
    let State::Running { since_ns, pid } = container.state() else {
        return None;
    };
    let dirs = runtime.cgroups_of(container);
    let id = cgroup_id(runtime, &dirs);
    let pod = &container.sandbox.config;
    let (labels, resources) = container.with_record(|record| {
        let config = &record.config;
        let image = Some(&config.user_specified_image)
            .filter(|image| !image.is_empty())
            .unwrap_or(&config.image);
        let labels =
            [&id, &container.id, image, &pod.namespace, &pod.name, &config.name].map(String::to_owned);
        (labels, config.resources.clone())
    });
    let mut samples = Samples {
        labels: labels.into(),
        metrics: Vec::new(),
    };
    let figures = stats::figures(&runtime.host, &dirs);
    let more = detail(&runtime.host, &dirs);
    cpu(&mut samples, &figures, &more);
    memory(&mut samples, &figures, &more);
    block_devices(&mut samples, &more);
    if let Some(disk) = disk::disk(&container.root) {
        file_system(&mut samples, &disk, layer);
    }
    pressure(&mut samples, &figures);
    tasks(
        &mut samples,
        &figures,
        &more,
        &processes(&runtime.host, &dirs, Some(pid)),
    );
    spec(&mut samples, &resources, &figures, &more);
    samples.put(
        &kind::START_TIME,
        u64::try_from(since_ns).ok().map(|ns| ns / SECOND_NS),
    );
    samples.put(
        &kind::LAST_SEEN,
        u64::try_from(figures.at_ns).ok().map(|ns| ns / SECOND_NS),
    );
    Some(cri::ContainerMetrics {
        container_id: container.id.clone(),
        metrics: samples.metrics,
    })
}

fn cpu(samples: &mut Samples, figures: &Figures, more: &Detail) {
    let seconds = |ns: Option<u64>| ns.map(|ns| ns / SECOND_NS);
    samples.put_with(&kind::CPU_USAGE, &["total"], seconds(figures.cpu_ns));
    samples.put(&kind::CPU_USER, seconds(more.cpu_user_ns));
    samples.put(&kind::CPU_SYSTEM, seconds(more.cpu_system_ns));
    if let Some(throttling) = more.throttling {
        samples.put(&kind::CPU_CFS_PERIODS, throttling.periods);
        samples.put(&kind::CPU_CFS_THROTTLED_PERIODS, throttling.throttled);
        samples.put(
            &kind::CPU_CFS_THROTTLED_SECONDS,
            throttling.throttled_ns / SECOND_NS,
        );
    }
}

fn memory(samples: &mut Samples, figures: &Figures, more: &Detail) {
    if let Some(memory) = figures.memory {
        samples.put(&kind::MEMORY_USAGE, memory.usage);
        samples.put(&kind::MEMORY_WORKING_SET, memory.working_set);
        samples.put(&kind::MEMORY_RSS, memory.rss);
        samples.put(&kind::MEMORY_CACHE, memory.cache);
        samples.put(&kind::MEMORY_MAPPED_FILE, memory.mapped_file);
        for (labels, value) in [
            (["pgfault", "container"], memory.own_faults),
            (["pgfault", "hierarchy"], memory.faults),
            (["pgmajfault", "container"], memory.own_major_faults),
            (["pgmajfault", "hierarchy"], memory.major_faults),
        ] {
            samples.put_with(&kind::MEMORY_FAILURES, &labels, value);
        }
    }
    samples.put(&kind::MEMORY_SWAP, figures.swap.map(|(used, _)| used));
    samples.put(&kind::MEMORY_MAX_USAGE, more.memory_peak);
    samples.put(&kind::MEMORY_FAILCNT, more.memory_limit_hits);
    samples.put(&kind::MEMORY_KERNEL_USAGE, more.memory_kernel);
    samples.put(&kind::OOM_EVENTS, more.oom_kills);
    for pages in &more.huge {
        samples.put_with(&kind::HUGETLB_USAGE, &[&pages.size], pages.usage);
        samples.put_with(&kind::HUGETLB_MAX_USAGE, &[&pages.size], pages.peak);
    }
}

fn block_devices(samples: &mut Samples, more: &Detail) {
    for io in &more.io {
        let name = disk::name(io.device);
        let (major, minor) = (io.device.0.to_string(), io.device.1.to_string());
        for (operation, bytes) in &io.bytes {
            samples.put_with(
                &kind::BLKIO_DEVICE_USAGE,
                &[&name, &major, &minor, operation],
                *bytes,
            );
        }
        samples.put_with(&kind::FS_READS_BYTES, &[&name], io.bytes.get("Read").copied());
        samples.put_with(&kind::FS_WRITES_BYTES, &[&name], io.bytes.get("Write").copied());
        samples.put_with(&kind::FS_READS, &[&name], io.done.map(|(reads, _)| reads));
        samples.put_with(&kind::FS_WRITES, &[&name], io.done.map(|(_, writes)| writes));
    }
}

fn file_system(samples: &mut Samples, disk: &Disk, layer: Used) {
    let device = [disk.device.as_str()];
    samples.put_with(&kind::FS_USAGE, &device, layer.bytes);
    samples.put_with(&kind::FS_LIMIT, &device, disk.bytes);
    samples.put_with(&kind::FS_INODES, &device, disk.inodes);
    samples.put_with(&kind::FS_INODES_FREE, &device, disk.inodes_free);
}

fn pressure(samples: &mut Samples, figures: &Figures) {
    let mut put = |pressure: Option<Pressure>, stalled: &MetricKind, waiting: &MetricKind| {
        samples.put(
            stalled,
            pressure.map(|pressure| pressure.full.total_us / SECOND_US),
        );
        samples.put(
            waiting,
            pressure.map(|pressure| pressure.some.total_us / SECOND_US),
        );
    };
    put(
        figures.cpu_pressure,
        &kind::PRESSURE_CPU_STALLED,
        &kind::PRESSURE_CPU_WAITING,
    );
    put(
        figures.memory_pressure,
        &kind::PRESSURE_MEMORY_STALLED,
        &kind::PRESSURE_MEMORY_WAITING,
    );
    put(
        figures.io_pressure,
        &kind::PRESSURE_IO_STALLED,
        &kind::PRESSURE_IO_WAITING,
    );
}

fn tasks(samples: &mut Samples, figures: &Figures, more: &Detail, processes: &Processes) {
    samples.put(&kind::PROCESSES, processes.count);
    samples.put(&kind::THREADS, figures.tasks);
    samples.put(&kind::THREADS_MAX, more.tasks_max);
    samples.put(&kind::FILE_DESCRIPTORS, processes.descriptors.map(|(all, _)| all));
    samples.put(&kind::SOCKETS, processes.descriptors.map(|(_, sockets)| sockets));
    samples.put_with(
        &kind::ULIMITS_SOFT,
        &["max_open_files"],
        processes.open_files_soft,
    );
}

/// What was asked for, or the kernel's defaults; limits of memory as the kernel rounded them.
fn spec(samples: &mut Samples, resources: &Resources, figures: &Figures, more: &Detail) {
    samples.put(
        &kind::SPEC_CPU_PERIOD,
        resources.cpu_period.unwrap_or(CPU_PERIOD_DEFAULT_US),
    );
    samples.put(
        &kind::SPEC_CPU_SHARES,
        resources.cpu_shares.unwrap_or(CPU_SHARES_DEFAULT),
    );
    let quota = resources.cpu_quota.and_then(|quota| u64::try_from(quota).ok());
    samples.put(&kind::SPEC_CPU_QUOTA, quota);
    samples.put(
        &kind::SPEC_MEMORY_LIMIT,
        figures.memory.map(|memory| memory.limit.unwrap_or(0)),
    );
    samples.put(&kind::SPEC_MEMORY_SWAP_LIMIT, more.swap_limit);
    samples.put(&kind::SPEC_MEMORY_RESERVATION, more.memory_reservation);
}
