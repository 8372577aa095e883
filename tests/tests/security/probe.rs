//! Containers that look around, and what they say.

use std::path::PathBuf;
use std::sync::OnceLock;

use criquet_tests::{BUSYBOX, Node, Pod, container, cri, run};

/// The static program of probe.c, made once.
pub(crate) fn program() -> Vec<u8> {
    static PROGRAM: OnceLock<Vec<u8>> = OnceLock::new();
    PROGRAM
        .get_or_init(|| {
            let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/security/probe.c");
            let folder = tempfile::tempdir().expect("a folder");
            let made = folder.path().join("probe");
            let arguments = [
                "-static",
                "-Os",
                "-o",
                made.to_str().expect("utf-8"),
                source.to_str().expect("utf-8"),
            ];
            run("gcc", &arguments).ok();
            std::fs::read(made).expect("read the probe")
        })
        .clone()
}

/// A mount that brings the probe to `/probe`.
pub(crate) fn mount(node: &Node) -> cri::Mount {
    use std::os::unix::fs::PermissionsExt;
    let file = node.work().join("probe");
    if !file.exists() {
        std::fs::write(&file, program()).expect("write the probe");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).expect("chmod");
    }
    volume(&file.display().to_string(), "/probe")
}

/// A folder or file of the host in the container.
pub(crate) fn volume(host: &str, inside: &str) -> cri::Mount {
    cri::Mount {
        host_path: host.into(),
        container_path: inside.into(),
        ..Default::default()
    }
}

pub(crate) fn security(config: &mut cri::ContainerConfig) -> &mut cri::LinuxContainerSecurityContext {
    config
        .linux
        .as_mut()
        .expect("linux")
        .security_context
        .as_mut()
        .expect("a security context")
}

pub(crate) fn pod_security(config: &mut cri::PodSandboxConfig) -> &mut cri::LinuxSandboxSecurityContext {
    config
        .linux
        .as_mut()
        .expect("linux")
        .security_context
        .as_mut()
        .expect("a security context")
}

/// A container of busybox that sleeps, with the probe, after `change`.
pub(crate) fn sleeper(
    node: &Node,
    pod: &Pod,
    name: &str,
    change: impl FnOnce(&mut cri::LinuxContainerSecurityContext),
) -> String {
    let mut config = container(name, BUSYBOX, &["sleep", "1000"]);
    config.mounts.push(mount(node));
    change(security(&mut config));
    node.launch(pod, config)
}

/// A line of /proc/PID/status, of an exec or of `pid`.
pub(crate) fn status(node: &Node, id: &str, pid: &str, name: &str) -> String {
    let text = node.exec(id, &["cat", &format!("/proc/{pid}/status")]).stdout;
    let line = text
        .lines()
        .find(|line| line.starts_with(&format!("{name}:")))
        .expect("the field");
    line.split_once(':').expect("a colon").1.trim().to_string()
}

/// Creates and starts: the container's id, or the error of the step that refused.
#[allow(clippy::result_large_err)]
pub(crate) fn try_launch(
    node: &Node,
    pod: &Pod,
    config: cri::ContainerConfig,
) -> Result<String, tonic::Status> {
    let id = node.try_create(pod, config)?;
    match node.cri().start_container(cri::StartContainerRequest {
        container_id: id.clone(),
    }) {
        Ok(_) => Ok(id),
        Err(error) => {
            node.remove_container(&id);
            Err(error)
        }
    }
}
