//! What is told of containers.

use std::collections::HashMap;
use std::sync::Arc;

use criquet_proto::cri;

use super::sandbox_answer::selects;
use super::{container_request, resource_request};
use crate::container::config::{ContainerConfig, Mount, Propagation, Source};
use crate::container::record::{Container, Ended, Record, State};
use crate::runtime::Runtime;
use crate::sandbox::config::IdMap;

/// The reason of a container that the OOM killer ended; the kubelet looks for this word.
const REASON_OOM: &str = "OOMKilled";
/// The reason of an end with code 0.
const REASON_COMPLETED: &str = "Completed";
/// The reason of any other end.
const REASON_ERROR: &str = "Error";

/// The containers that a filter lets through, the newest first.
pub fn list(runtime: &Runtime, filter: Option<&cri::ContainerFilter>) -> Vec<cri::Container> {
    let mut containers: Vec<_> = runtime
        .containers
        .all()
        .into_iter()
        .filter(|container| {
            filter.is_none_or(|filter| {
                (filter.id.is_empty() || container.id.starts_with(&filter.id))
                    && filter
                        .state
                        .as_ref()
                        .is_none_or(|wanted| wanted.state == i32::from(state(&container.state())))
                    && (filter.pod_sandbox_id.is_empty()
                        || container.sandbox.id.starts_with(&filter.pod_sandbox_id))
                    && container.with_record(|record| selects(&filter.label_selector, &record.config.labels))
            })
        })
        .map(|container| item(&container))
        .collect();
    containers.sort_by_key(|container| std::cmp::Reverse(container.created_at));
    containers
}

fn state(state: &State) -> cri::ContainerState {
    match state {
        State::Created => cri::ContainerState::ContainerCreated,
        State::Running { .. } => cri::ContainerState::ContainerRunning,
        State::Exited(_) => cri::ContainerState::ContainerExited,
    }
}

fn metadata(config: &ContainerConfig) -> cri::ContainerMetadata {
    cri::ContainerMetadata {
        name: config.name.clone(),
        attempt: config.attempt,
    }
}

fn image_spec(config: &ContainerConfig) -> cri::ImageSpec {
    cri::ImageSpec {
        image: config.image.clone(),
        annotations: config.image_annotations.clone().into_iter().collect(),
        user_specified_image: config.user_specified_image.clone(),
        ..cri::ImageSpec::default()
    }
}

fn item(container: &Container) -> cri::Container {
    let record = container.record();
    cri::Container {
        id: container.id.clone(),
        pod_sandbox_id: container.sandbox.id.clone(),
        metadata: Some(metadata(&record.config)),
        image: Some(image_spec(&record.config)),
        // Since 1.36 all four names of an image are one: its id.
        image_ref: record.image_id.clone(),
        image_id: record.image_id.clone(),
        state: state(&container.state()).into(),
        created_at: record.created_at_ns,
        labels: record.config.labels.into_iter().collect(),
        annotations: record.config.annotations.into_iter().collect(),
    }
}

/// The status of a container.
pub fn status(runtime: &Runtime, container: &Container) -> cri::ContainerStatus {
    let record = container.record();
    let current = container.state();
    let (started_at, ended) = match &current {
        State::Created => (0, None),
        State::Running { since_ns, .. } => (*since_ns, None),
        State::Exited(ended) => (ended.started_at_ns, Some(ended)),
    };
    let log_path = log_path(container, &record);
    cri::ContainerStatus {
        id: container.id.clone(),
        metadata: Some(metadata(&record.config)),
        state: state(&current).into(),
        created_at: record.created_at_ns,
        started_at,
        finished_at: ended.map_or(0, |ended| ended.finished_at_ns),
        exit_code: ended.map_or(0, |ended| ended.code),
        image: Some(image_spec(&record.config)),
        image_ref: record.image_id.clone(),
        image_id: record.image_id.clone(),
        reason: ended.map_or(String::new(), |ended| reason(ended).to_owned()),
        message: ended.map_or(String::new(), |ended| ended.message.clone()),
        mounts: record
            .config
            .mounts
            .iter()
            .map(|volume| mount(runtime, volume))
            .collect(),
        log_path,
        resources: Some(cri::ContainerResources {
            linux: Some(resource_request::answer(&record.config.resources)),
        }),
        user: Some(cri::ContainerUser {
            linux: Some(cri::LinuxContainerUser {
                uid: record.user.uid.into(),
                gid: record.user.gid.into(),
                supplemental_groups: record.user.groups.iter().map(|group| (*group).into()).collect(),
            }),
        }),
        stop_signal: container_request::stop_signal_answer(record.stop_signal).into(),
        labels: record.config.labels.into_iter().collect(),
        annotations: record.config.annotations.into_iter().collect(),
    }
}

fn reason(ended: &Ended) -> &'static str {
    if ended.oom_killed {
        REASON_OOM
    } else if ended.code == 0 {
        REASON_COMPLETED
    } else {
        REASON_ERROR
    }
}

fn log_path(container: &Container, record: &Record) -> String {
    let directory = &container.sandbox.config.log_directory;
    if directory.is_empty() || record.config.log_path.is_empty() {
        return String::new();
    }
    format!("{}/{}", directory.trim_end_matches('/'), record.config.log_path)
}

fn mount(runtime: &Runtime, volume: &Mount) -> cri::Mount {
    let (host_path, image, image_sub_path) = match &volume.source {
        Source::Host(path) => (path.clone(), None, String::new()),
        Source::Image(image) => {
            // The image as it is now known by: its id, which a tag that moved does not change.
            let id = runtime
                .images
                .find(&image.image)
                .map_or_else(|| image.image.clone(), |found| found.id.clone());
            let spec = cri::ImageSpec {
                image: id,
                user_specified_image: image.user_specified_image.clone(),
                ..cri::ImageSpec::default()
            };
            (String::new(), Some(spec), image.sub_path.clone())
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
    cri::Mount {
        container_path: volume.container_path.clone(),
        host_path,
        readonly: volume.readonly,
        selinux_relabel: volume.selinux_relabel,
        propagation: match volume.propagation {
            Propagation::Private => cri::MountPropagation::PropagationPrivate,
            Propagation::HostToContainer => cri::MountPropagation::PropagationHostToContainer,
            Propagation::Bidirectional => cri::MountPropagation::PropagationBidirectional,
        }
        .into(),
        uid_mappings: maps(&volume.uid_maps),
        gid_mappings: maps(&volume.gid_maps),
        recursive_read_only: volume.recursive_readonly,
        image,
        image_sub_path,
        ..cri::Mount::default()
    }
}

/// The status with, when asked for, what is known beyond it.
pub fn status_response(
    runtime: &Runtime,
    container: &Arc<Container>,
    verbose: bool,
) -> cri::ContainerStatusResponse {
    let info = if verbose { info(container) } else { HashMap::new() };
    cri::ContainerStatusResponse {
        status: Some(status(runtime, container)),
        info,
    }
}

fn info(container: &Container) -> HashMap<String, String> {
    let record = container.record();
    let info = serde_json::json!({
        "sandboxID": container.sandbox.id,
        "pid": container.pid().unwrap_or(0),
        "stateDir": container.dir,
        "config": record.config,
    });
    HashMap::from([("info".to_owned(), info.to_string())])
}
