//! Builders for what a kubelet would send, and a pod that runs.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};

use criquet_proto::cri;

/// A pod as the kubelet asks for one: a network of its own, a PID namespace per container.
pub fn pod(name: &str) -> cri::PodSandboxConfig {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let uid = format!("uid-{name}-{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let namespaces = cri::NamespaceOption {
        pid: cri::NamespaceMode::Container.into(),
        ..cri::NamespaceOption::default()
    };
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: name.into(),
            uid,
            namespace: "tests".into(),
            attempt: 0,
        }),
        hostname: name.into(),
        labels: HashMap::from([("app".into(), name.into())]),
        linux: Some(cri::LinuxPodSandboxConfig {
            security_context: Some(cri::LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces),
                ..cri::LinuxSandboxSecurityContext::default()
            }),
            ..cri::LinuxPodSandboxConfig::default()
        }),
        ..cri::PodSandboxConfig::default()
    }
}

/// A container that runs `command` in `image`.
pub fn container(name: &str, image_name: &str, command: &[&str]) -> cri::ContainerConfig {
    let namespaces = cri::NamespaceOption {
        pid: cri::NamespaceMode::Container.into(),
        ..cri::NamespaceOption::default()
    };
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata {
            name: name.into(),
            attempt: 0,
        }),
        image: Some(image(image_name)),
        command: command.iter().map(ToString::to_string).collect(),
        log_path: format!("{name}.log"),
        linux: Some(cri::LinuxContainerConfig {
            security_context: Some(cri::LinuxContainerSecurityContext {
                namespace_options: Some(namespaces),
                ..cri::LinuxContainerSecurityContext::default()
            }),
            ..cri::LinuxContainerConfig::default()
        }),
        ..cri::ContainerConfig::default()
    }
}

/// An image by its reference.
pub fn image(name: &str) -> cri::ImageSpec {
    cri::ImageSpec {
        image: name.into(),
        user_specified_image: name.into(),
        ..cri::ImageSpec::default()
    }
}

/// A pod that was run, and the containers that were made in it.
#[derive(Debug, Clone)]
pub struct Pod {
    /// The pod's id.
    pub id: String,
    /// What it was made from.
    pub config: cri::PodSandboxConfig,
}
