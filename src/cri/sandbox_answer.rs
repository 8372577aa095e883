//! What is told of pod sandboxes.

use std::collections::HashMap;

use criquet_proto::cri::{self, NamespaceMode};

use crate::runtime::Runtime;
use crate::sandbox::config::{IdMap, Ipc, Network, Pid, SandboxConfig};
use crate::sandbox::record::{Phase, Sandbox};

/// The sandboxes that a filter lets through, the newest first.
pub fn list(runtime: &Runtime, filter: Option<&cri::PodSandboxFilter>) -> Vec<cri::PodSandbox> {
    let mut sandboxes = runtime.sandboxes.all();
    sandboxes.sort_by_key(|sandbox| std::cmp::Reverse(sandbox.created_at_ns));
    sandboxes
        .iter()
        .filter(|sandbox| passes(sandbox, filter))
        .map(|sandbox| item(sandbox))
        .collect()
}

fn passes(sandbox: &Sandbox, filter: Option<&cri::PodSandboxFilter>) -> bool {
    let Some(filter) = filter else { return true };
    (filter.id.is_empty() || sandbox.id.starts_with(&filter.id))
        && filter
            .state
            .as_ref()
            .is_none_or(|wanted| wanted.state == i32::from(state(sandbox)))
        && selects(&filter.label_selector, &sandbox.config.labels)
}

/// Whether labels have every pair of a selector.
pub fn selects<'a>(
    selector: &HashMap<String, String>,
    labels: impl IntoIterator<Item = (&'a String, &'a String)>,
) -> bool {
    if selector.is_empty() {
        return true;
    }
    let labels: HashMap<&String, &String> = labels.into_iter().collect();
    selector
        .iter()
        .all(|(key, value)| labels.get(key) == Some(&value))
}

fn state(sandbox: &Sandbox) -> cri::PodSandboxState {
    match sandbox.phase() {
        Phase::Ready => cri::PodSandboxState::SandboxReady,
        Phase::Creating | Phase::Stopping | Phase::NotReady | Phase::Removing => {
            cri::PodSandboxState::SandboxNotready
        }
    }
}

/// The identity of a pod.
pub fn metadata(config: &SandboxConfig) -> cri::PodSandboxMetadata {
    cri::PodSandboxMetadata {
        name: config.name.clone(),
        uid: config.uid.clone(),
        namespace: config.namespace.clone(),
        attempt: config.attempt,
    }
}

fn item(sandbox: &Sandbox) -> cri::PodSandbox {
    let config = &sandbox.config;
    cri::PodSandbox {
        id: sandbox.id.clone(),
        metadata: Some(metadata(config)),
        state: state(sandbox).into(),
        created_at: sandbox.created_at_ns,
        labels: config.labels.clone().into_iter().collect(),
        annotations: config.annotations.clone().into_iter().collect(),
        runtime_handler: config.runtime_handler.clone(),
    }
}

/// The status of a sandbox.
pub fn status(sandbox: &Sandbox) -> cri::PodSandboxStatus {
    let config = &sandbox.config;
    let mut ips = sandbox.attachment().ips.into_iter().map(|ip| ip.to_string());
    let ip = ips.next().unwrap_or_default();
    cri::PodSandboxStatus {
        id: sandbox.id.clone(),
        metadata: Some(metadata(config)),
        state: state(sandbox).into(),
        created_at: sandbox.created_at_ns,
        network: Some(cri::PodSandboxNetworkStatus {
            ip,
            additional_ips: ips.map(|ip| cri::PodIp { ip }).collect(),
        }),
        linux: Some(cri::LinuxPodSandboxStatus {
            namespaces: Some(cri::Namespace {
                options: Some(namespaces(config)),
            }),
        }),
        labels: config.labels.clone().into_iter().collect(),
        annotations: config.annotations.clone().into_iter().collect(),
        runtime_handler: config.runtime_handler.clone(),
    }
}

fn namespaces(config: &SandboxConfig) -> cri::NamespaceOption {
    let mode = |pod: bool| {
        if pod {
            NamespaceMode::Pod
        } else {
            NamespaceMode::Node
        }
    };
    let maps = |maps: &[IdMap]| {
        let convert = |map: &IdMap| cri::IdMapping {
            host_id: map.host_id,
            container_id: map.container_id,
            length: map.length,
        };
        maps.iter().map(convert).collect()
    };
    cri::NamespaceOption {
        network: mode(config.namespaces.network == Network::Pod).into(),
        pid: match config.namespaces.pid {
            Pid::Pod => NamespaceMode::Pod,
            Pid::Container => NamespaceMode::Container,
            Pid::Node => NamespaceMode::Node,
        }
        .into(),
        ipc: mode(config.namespaces.ipc == Ipc::Pod).into(),
        target_id: String::new(),
        userns_options: config.user.as_ref().map(|user| cri::UserNamespace {
            mode: NamespaceMode::Pod.into(),
            uids: maps(&user.uid),
            gids: maps(&user.gid),
        }),
    }
}

/// The status of a sandbox, without `containers_statuses` and `timestamp`: docs/decisions/0004.
pub fn status_response(sandbox: &Sandbox, verbose: bool) -> cri::PodSandboxStatusResponse {
    cri::PodSandboxStatusResponse {
        status: Some(status(sandbox)),
        info: if verbose { info(sandbox) } else { HashMap::new() },
        containers_statuses: Vec::new(),
        timestamp: 0,
    }
}

fn info(sandbox: &Sandbox) -> HashMap<String, String> {
    let record = sandbox.record();
    let info = serde_json::json!({
        "pid": record.pod_init.map_or(0, |init| init.pid),
        "netns": sandbox.namespace_path("net"),
        "stateDir": sandbox.dir,
        "config": record.config,
    });
    HashMap::from([("info".to_owned(), info.to_string())])
}
