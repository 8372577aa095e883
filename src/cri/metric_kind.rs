//! The metrics that there are: names, meanings and labels as cAdvisor's users know them (KEP-2371).

use criquet_proto::cri;

/// The labels of every metric, and what the values are.
///
/// `id`: the cgroup. `name`: the container's id, or the pod's. `image`: as the pod's author wrote it, none for a pod.
/// `namespace` and `pod`: the pod. `container`: its name, `POD` for what belongs to the pod as a whole.
pub const LABELS: [&str; 6] = ["id", "name", "image", "namespace", "pod", "container"];

/// A metric.
#[derive(Debug)]
pub struct MetricKind {
    /// Its name.
    pub name: &'static str,
    /// Counter or gauge.
    pub r#type: cri::MetricType,
    /// Labels beyond those that all have.
    pub labels: &'static [&'static str],
    help: &'static str,
}

impl MetricKind {
    /// What the kubelet is told of it.
    #[must_use]
    pub fn descriptor(&self) -> cri::MetricDescriptor {
        cri::MetricDescriptor {
            name: self.name.into(),
            help: self.help.into(),
            label_keys: LABELS
                .iter()
                .chain(self.labels)
                .map(|label| (*label).into())
                .collect(),
        }
    }
}

macro_rules! kinds {
    ($($kind:ident $type:ident $name:literal [$($label:literal)*] $help:literal;)*) => {
        $(
            #[doc = $help]
            pub static $kind: MetricKind = MetricKind {
                name: concat!("container_", $name),
                r#type: cri::MetricType::$type,
                labels: &[$($label),*],
                help: $help,
            };
        )*
        /// All of them.
        pub static ALL: &[&MetricKind] = &[$(&$kind),*];
    };
}

kinds! {
    BLKIO_DEVICE_USAGE Counter "blkio_device_usage_total" ["device" "major" "minor" "operation"] "Bytes of block device input and output, by device and operation";
    CPU_CFS_PERIODS Counter "cpu_cfs_periods_total" [] "Enforcement periods of the CPU quota that have passed";
    CPU_CFS_THROTTLED_PERIODS Counter "cpu_cfs_throttled_periods_total" [] "Enforcement periods in which the CPU quota ran out";
    CPU_CFS_THROTTLED_SECONDS Counter "cpu_cfs_throttled_seconds_total" [] "Time that the container was throttled, in seconds";
    CPU_SYSTEM Counter "cpu_system_seconds_total" [] "CPU time spent in the kernel, in seconds";
    CPU_USAGE Counter "cpu_usage_seconds_total" ["cpu"] "CPU time consumed, in seconds";
    CPU_USER Counter "cpu_user_seconds_total" [] "CPU time spent in user mode, in seconds";
    FILE_DESCRIPTORS Gauge "file_descriptors" [] "Open file descriptors of the container's processes";
    FS_INODES_FREE Gauge "fs_inodes_free" ["device"] "Free inodes of the file system that the container writes to";
    FS_INODES Gauge "fs_inodes_total" ["device"] "Inodes of the file system that the container writes to";
    FS_LIMIT Gauge "fs_limit_bytes" ["device"] "Bytes that the file system has that the container writes to";
    FS_READS_BYTES Counter "fs_reads_bytes_total" ["device"] "Bytes read";
    FS_READS Counter "fs_reads_total" ["device"] "Reads completed";
    FS_USAGE Gauge "fs_usage_bytes" ["device"] "Bytes of the container's writable layer";
    FS_WRITES_BYTES Counter "fs_writes_bytes_total" ["device"] "Bytes written";
    FS_WRITES Counter "fs_writes_total" ["device"] "Writes completed";
    HUGETLB_MAX_USAGE Gauge "hugetlb_max_usage_bytes" ["pagesize"] "The most bytes of huge pages ever in use; not known with cgroup v2";
    HUGETLB_USAGE Gauge "hugetlb_usage_bytes" ["pagesize"] "Bytes of huge pages in use";
    LAST_SEEN Gauge "last_seen" [] "When the container was last looked at, in seconds since 1970";
    MEMORY_CACHE Gauge "memory_cache" [] "Bytes of page cache";
    MEMORY_FAILCNT Counter "memory_failcnt" [] "How often memory use hit its limit";
    MEMORY_FAILURES Counter "memory_failures_total" ["failure_type" "scope"] "Page faults, by kind";
    MEMORY_KERNEL_USAGE Gauge "memory_kernel_usage" [] "Bytes of kernel memory";
    MEMORY_MAPPED_FILE Gauge "memory_mapped_file" [] "Bytes of mapped files";
    MEMORY_MAX_USAGE Gauge "memory_max_usage_bytes" [] "The most bytes of memory ever in use";
    MEMORY_RSS Gauge "memory_rss" [] "Bytes of anonymous memory";
    MEMORY_SWAP Gauge "memory_swap" [] "Bytes of swap in use";
    MEMORY_USAGE Gauge "memory_usage_bytes" [] "Bytes of memory in use, whenever they were last touched";
    MEMORY_WORKING_SET Gauge "memory_working_set_bytes" [] "Bytes of memory in use, without inactive page cache";
    NETWORK_RECEIVE_BYTES Counter "network_receive_bytes_total" ["interface"] "Bytes received";
    NETWORK_RECEIVE_ERRORS Counter "network_receive_errors_total" ["interface"] "Errors while receiving";
    NETWORK_RECEIVE_DROPPED Counter "network_receive_packets_dropped_total" ["interface"] "Packets dropped while receiving";
    NETWORK_RECEIVE_PACKETS Counter "network_receive_packets_total" ["interface"] "Packets received";
    NETWORK_TRANSMIT_BYTES Counter "network_transmit_bytes_total" ["interface"] "Bytes transmitted";
    NETWORK_TRANSMIT_ERRORS Counter "network_transmit_errors_total" ["interface"] "Errors while transmitting";
    NETWORK_TRANSMIT_DROPPED Counter "network_transmit_packets_dropped_total" ["interface"] "Packets dropped while transmitting";
    NETWORK_TRANSMIT_PACKETS Counter "network_transmit_packets_total" ["interface"] "Packets transmitted";
    OOM_EVENTS Counter "oom_events_total" [] "Processes of the container that the OOM killer ended";
    PRESSURE_CPU_STALLED Counter "pressure_cpu_stalled_seconds_total" [] "Time in which no task got on for want of CPU, in seconds";
    PRESSURE_CPU_WAITING Counter "pressure_cpu_waiting_seconds_total" [] "Time in which tasks waited for CPU, in seconds";
    PRESSURE_IO_STALLED Counter "pressure_io_stalled_seconds_total" [] "Time in which no task got on for want of I/O, in seconds";
    PRESSURE_IO_WAITING Counter "pressure_io_waiting_seconds_total" [] "Time in which tasks waited for I/O, in seconds";
    PRESSURE_MEMORY_STALLED Counter "pressure_memory_stalled_seconds_total" [] "Time in which no task got on for want of memory, in seconds";
    PRESSURE_MEMORY_WAITING Counter "pressure_memory_waiting_seconds_total" [] "Time in which tasks waited for memory, in seconds";
    PROCESSES Gauge "processes" [] "Processes that run in the container";
    SOCKETS Gauge "sockets" [] "Open sockets of the container's processes";
    SPEC_CPU_PERIOD Gauge "spec_cpu_period" [] "CPU period of the container, in microseconds";
    SPEC_CPU_QUOTA Gauge "spec_cpu_quota" [] "CPU quota of the container, in microseconds; none is told when there is no quota";
    SPEC_CPU_SHARES Gauge "spec_cpu_shares" [] "CPU shares of the container";
    SPEC_MEMORY_LIMIT Gauge "spec_memory_limit_bytes" [] "Memory limit of the container in bytes, 0 when there is none";
    SPEC_MEMORY_RESERVATION Gauge "spec_memory_reservation_limit_bytes" [] "Memory that reclaim leaves to the container in bytes, 0 when there is none";
    SPEC_MEMORY_SWAP_LIMIT Gauge "spec_memory_swap_limit_bytes" [] "Swap limit of the container in bytes, 0 when there is none; with cgroup v1 memory counts too";
    START_TIME Gauge "start_time_seconds" [] "When the container was started, in seconds since 1970";
    THREADS Gauge "threads" [] "Threads that run in the container";
    THREADS_MAX Gauge "threads_max" [] "Threads that may run in the container, 0 when there is no limit";
    ULIMITS_SOFT Gauge "ulimits_soft" ["ulimit"] "Soft resource limits of the container's first process; none is told when there is no limit";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_has_a_name_of_its_own_and_words() {
        let names: std::collections::BTreeSet<&str> = ALL.iter().map(|kind| kind.name).collect();
        assert_eq!((names.len(), ALL.len()), (56, 56));
        for kind in ALL {
            let descriptor = kind.descriptor();
            assert!(
                !descriptor.help.is_empty() && descriptor.label_keys.starts_with(&LABELS.map(str::to_owned))
            );
            let counts = kind.name.ends_with("_total") || kind.name == MEMORY_FAILCNT.name;
            let stands = kind.name == FS_INODES.name;
            assert_eq!(
                counts && !stands,
                kind.r#type == cri::MetricType::Counter,
                "{}",
                kind.name
            );
        }
    }
}
