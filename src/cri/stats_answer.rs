//! Stats of containers and pods.

use std::os::fd::AsFd;
use std::sync::Arc;

use criquet_proto::cri::{self, UInt64Value};
use futures_util::future::join_all;

use super::sandbox_answer::{metadata, selects};
use crate::container::record::Container;
use crate::fault::{OrFault, Result};
use crate::runtime::Runtime;
use crate::sandbox::config::Network;
use crate::sandbox::namespaces;
use crate::sandbox::record::{Phase, Sandbox};
use crate::stats::rate::Rate;
use crate::stats::{self, Figures, Pressure, Stall, network};

fn value(value: u64) -> Option<UInt64Value> {
    Some(UInt64Value { value })
}

/// Stats of one container; of one that does not run, only its layer.
///
/// # Errors
/// The figures could not be read.
pub async fn container(runtime: &Arc<Runtime>, container: &Arc<Container>) -> Result<cri::ContainerStats> {
    let layer = runtime.writable_layer(container).await;
    let running = container.is_running();
    let dirs = runtime.cgroups_of(container);
    let shared = Arc::clone(runtime);
    let figures = if running {
        let read = tokio::task::spawn_blocking(move || stats::figures(&shared.host, &dirs));
        read.await.or_internal(|| "reading a cgroup".into())?
    } else {
        Figures::default()
    };
    let root = container.root.display().to_string();
    let answer = container.with_record(|record| cri::ContainerStats {
        attributes: Some(cri::ContainerAttributes {
            id: container.id.clone(),
            metadata: Some(cri::ContainerMetadata {
                name: record.config.name.clone(),
                attempt: record.config.attempt,
            }),
            labels: record.config.labels.clone().into_iter().collect(),
            annotations: record.config.annotations.clone().into_iter().collect(),
        }),
        writable_layer: Some(cri::FilesystemUsage {
            timestamp: crate::id::now_ns(),
            fs_id: Some(cri::FilesystemIdentifier { mountpoint: root }),
            used_bytes: value(layer.bytes),
            inodes_used: value(layer.inodes),
        }),
        ..cri::ContainerStats::default()
    });
    Ok(cri::ContainerStats {
        cpu: cpu(&figures, &container.rate),
        memory: memory(&figures),
        swap: swap(&figures),
        io: figures.io_pressure.map(|pressure| cri::IoUsage {
            timestamp: figures.at_ns,
            psi: Some(psi(pressure)),
        }),
        ..answer
    })
}

/// Stats of the running containers that a filter lets through.
pub async fn containers(
    runtime: &Arc<Runtime>,
    filter: Option<&cri::ContainerStatsFilter>,
) -> Vec<cri::ContainerStats> {
    let passes = |item: &Arc<Container>| {
        filter.is_none_or(|filter| {
            (filter.id.is_empty() || item.id.starts_with(&filter.id))
                && (filter.pod_sandbox_id.is_empty() || item.sandbox.id.starts_with(&filter.pod_sandbox_id))
                && item.with_record(|record| selects(&filter.label_selector, &record.config.labels))
        })
    };
    let wanted: Vec<_> = runtime.containers.all().into_iter().filter(passes).collect();
    let all = join_all(wanted.iter().map(|item| container(runtime, item))).await;
    all.into_iter().filter_map(std::result::Result::ok).collect()
}

/// Stats of one pod.
///
/// # Errors
/// The figures could not be read.
pub async fn sandbox(runtime: &Arc<Runtime>, sandbox: &Arc<Sandbox>) -> Result<cri::PodSandboxStats> {
    let own = runtime.containers_of(&sandbox.id);
    let all = join_all(own.iter().map(|item| container(runtime, item))).await;
    let containers: Vec<_> = all.into_iter().filter_map(std::result::Result::ok).collect();
    let (shared, pod) = (Arc::clone(runtime), Arc::clone(sandbox));
    let (figures, interfaces) = tokio::task::spawn_blocking(move || {
        // Only a parent that the pod was given is the pod's own.
        let own = !pod.config.cgroup_parent.is_empty();
        let figures = own.then(|| {
            stats::figures(
                &shared.host,
                &crate::plan::pod_parent_dirs(&shared.host, &pod.config),
            )
        });
        (figures, interfaces(&pod))
    })
    .await
    .or_internal(|| "reading a pod's figures".into())?;
    // A pod without a cgroup of its own is the sum of its containers.
    let figures = figures.unwrap_or_else(|| sum(&containers));
    let (default, others): (Vec<_>, Vec<_>) = interfaces
        .into_iter()
        .partition(|interface| interface.name == sandbox.attachment().interface);
    let at = figures.at_ns;
    let config = &sandbox.config;
    Ok(cri::PodSandboxStats {
        attributes: Some(cri::PodSandboxAttributes {
            id: sandbox.id.clone(),
            metadata: Some(metadata(config)),
            labels: config.labels.clone().into_iter().collect(),
            annotations: config.annotations.clone().into_iter().collect(),
        }),
        linux: Some(cri::LinuxPodSandboxStats {
            cpu: cpu(&figures, &sandbox.rate),
            memory: memory(&figures),
            // None, not an empty one, for a pod without an interface of its own: a kubelet with
            // PodAndContainerStatsFromCRI (1.37) reads default_interface unseen and crashes.
            network: default.first().map(|first| cri::NetworkUsage {
                timestamp: at,
                default_interface: Some(interface(first)),
                interfaces: others.iter().map(interface).collect(),
            }),
            process: figures.tasks.map(|tasks| cri::ProcessUsage {
                timestamp: at,
                process_count: value(tasks),
            }),
            io: figures.io_pressure.map(|pressure| cri::IoUsage {
                timestamp: at,
                psi: Some(psi(pressure)),
            }),
            containers,
        }),
    })
}

/// Stats of the ready pods that a filter lets through.
pub async fn sandboxes(
    runtime: &Arc<Runtime>,
    filter: Option<&cri::PodSandboxStatsFilter>,
) -> Vec<cri::PodSandboxStats> {
    let passes = |item: &Arc<Sandbox>| {
        item.phase() == Phase::Ready
            && filter.is_none_or(|filter| {
                (filter.id.is_empty() || item.id.starts_with(&filter.id))
                    && selects(&filter.label_selector, &item.config.labels)
            })
    };
    let wanted: Vec<_> = runtime.sandboxes.all().into_iter().filter(passes).collect();
    let all = join_all(wanted.iter().map(|item| sandbox(runtime, item))).await;
    all.into_iter().filter_map(std::result::Result::ok).collect()
}

fn interfaces(sandbox: &Sandbox) -> Vec<network::Interface> {
    if sandbox.config.namespaces.network == Network::Node {
        return Vec::new();
    }
    let read = namespaces::open(&sandbox.dir, "net").and_then(|netns| network::interfaces(netns.as_fd()));
    read.unwrap_or_default()
}

fn interface(interface: &network::Interface) -> cri::NetworkInterfaceUsage {
    cri::NetworkInterfaceUsage {
        name: interface.name.clone(),
        rx_bytes: value(interface.rx_bytes),
        rx_errors: value(interface.rx_errors),
        tx_bytes: value(interface.tx_bytes),
        tx_errors: value(interface.tx_errors),
    }
}

fn sum(containers: &[cri::ContainerStats]) -> Figures {
    let get = |value: &Option<UInt64Value>| value.as_ref().map_or(0, |value| value.value);
    let mut figures = Figures {
        at_ns: crate::id::now_ns(),
        ..Figures::default()
    };
    for stats in containers {
        if let Some(cpu) = &stats.cpu {
            *figures.cpu_ns.get_or_insert(0) += get(&cpu.usage_core_nano_seconds);
        }
        if let Some(memory) = &stats.memory {
            let sum = figures.memory.get_or_insert_default();
            sum.usage += get(&memory.usage_bytes);
            sum.working_set += get(&memory.working_set_bytes);
            sum.rss += get(&memory.rss_bytes);
            sum.faults += get(&memory.page_faults);
            sum.major_faults += get(&memory.major_page_faults);
        }
    }
    figures
}

fn cpu(figures: &Figures, rate: &Rate) -> Option<cri::CpuUsage> {
    let used = figures.cpu_ns?;
    Some(cri::CpuUsage {
        timestamp: figures.at_ns,
        usage_core_nano_seconds: value(used),
        usage_nano_cores: rate.look(figures.at_ns, used).and_then(value),
        psi: figures.cpu_pressure.map(psi),
    })
}

fn memory(figures: &Figures) -> Option<cri::MemoryUsage> {
    let memory = figures.memory?;
    Some(cri::MemoryUsage {
        timestamp: figures.at_ns,
        working_set_bytes: value(memory.working_set),
        available_bytes: memory
            .limit
            .and_then(|limit| value(limit.saturating_sub(memory.working_set))),
        usage_bytes: value(memory.usage),
        rss_bytes: value(memory.rss),
        page_faults: value(memory.faults),
        major_page_faults: value(memory.major_faults),
        psi: figures.memory_pressure.map(psi),
    })
}

fn swap(figures: &Figures) -> Option<cri::SwapUsage> {
    let (used, available) = figures.swap?;
    Some(cri::SwapUsage {
        timestamp: figures.at_ns,
        swap_available_bytes: available.and_then(value),
        swap_usage_bytes: value(used),
    })
}

fn psi(pressure: Pressure) -> cri::PsiStats {
    let data = |stall: Stall| cri::PsiData {
        total: stall.total_us.saturating_mul(1000),
        avg10: stall.averages[0],
        avg60: stall.averages[1],
        avg300: stall.averages[2],
    };
    cri::PsiStats {
        full: Some(data(pressure.full)),
        some: Some(data(pressure.some)),
    }
}
