//! What is done: pods run and removed, commands executed, images loaded.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use criquet_proto::admin::LoadImagesRequest;
use criquet_proto::cri;

use super::client::{Client, refused};
use super::say;
use crate::fault::{Fault, Kind, OrFault, Result};
use crate::id;

/// What `criquet pod run` is told.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) name: String,
    pub(super) host_network: bool,
    pub(super) log_dir: PathBuf,
    pub(super) image: String,
    pub(super) command: Vec<String>,
}

/// `criquet pod run`.
pub(super) async fn run(socket: &Path, run: Run) -> Result<ExitCode> {
    let mut client = Client::connect(socket).await?;
    let spec = cri::ImageSpec {
        image: run.image.clone(),
        ..cri::ImageSpec::default()
    };
    let known = client.image.image_status(cri::ImageStatusRequest {
        image: Some(spec.clone()),
        verbose: false,
    });
    if known.await.map_err(refused)?.into_inner().image.is_none() {
        eprintln!("pulling {}", run.image);
        let pull = cri::PullImageRequest {
            image: Some(spec.clone()),
            ..cri::PullImageRequest::default()
        };
        client.image.pull_image(pull).await.map_err(refused)?;
    }
    let uid = id::mint().or_internal(|| "making an id".into())?;
    let name = if run.name.is_empty() {
        format!("pod-{}", id::short(&uid))
    } else {
        run.name
    };
    let config = sandbox(&name, &uid, run.host_network, &run.log_dir);
    let request = cri::RunPodSandboxRequest {
        config: Some(config.clone()),
        runtime_handler: String::new(),
    };
    let pod = client
        .runtime
        .run_pod_sandbox(request)
        .await
        .map_err(refused)?
        .into_inner()
        .pod_sandbox_id;
    let started = Box::pin(start(&mut client, &pod, config, spec, run.command)).await;
    match started {
        Ok(container) => {
            say(&format!("{container}\n"));
            Ok(ExitCode::SUCCESS)
        }
        Err(fault) => {
            // Nothing half-made stays; what happened first is what is told.
            let remove = cri::RemovePodSandboxRequest { pod_sandbox_id: pod };
            client.runtime.remove_pod_sandbox(remove).await.ok();
            Err(fault)
        }
    }
}

fn sandbox(name: &str, uid: &str, host_network: bool, log_dir: &Path) -> cri::PodSandboxConfig {
    let network = if host_network {
        cri::NamespaceMode::Node
    } else {
        cri::NamespaceMode::Pod
    };
    let namespaces = cri::NamespaceOption {
        network: network.into(),
        pid: cri::NamespaceMode::Container.into(),
        ..cri::NamespaceOption::default()
    };
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: name.to_owned(),
            uid: uid.to_owned(),
            namespace: "default".into(),
            attempt: 0,
        }),
        log_directory: log_dir.join(name).display().to_string(),
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

async fn start(
    client: &mut Client,
    pod: &str,
    sandbox: cri::PodSandboxConfig,
    image: cri::ImageSpec,
    command: Vec<String>,
) -> Result<String> {
    let namespaces = sandbox
        .linux
        .as_ref()
        .and_then(|linux| linux.security_context.as_ref());
    let namespace_options = namespaces.and_then(|security| security.namespace_options.clone());
    let security = cri::LinuxContainerSecurityContext {
        namespace_options,
        no_new_privs: true,
        seccomp: Some(cri::SecurityProfile {
            profile_type: cri::security_profile::ProfileType::RuntimeDefault.into(),
            localhost_ref: String::new(),
        }),
        ..cri::LinuxContainerSecurityContext::default()
    };
    let config = cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata {
            name: "main".into(),
            attempt: 0,
        }),
        image: Some(image),
        command,
        log_path: "main.log".into(),
        linux: Some(cri::LinuxContainerConfig {
            security_context: Some(security),
            resources: None,
        }),
        ..cri::ContainerConfig::default()
    };
    let request = cri::CreateContainerRequest {
        pod_sandbox_id: pod.to_owned(),
        config: Some(config),
        sandbox_config: Some(sandbox),
    };
    let container_id = client
        .runtime
        .create_container(request)
        .await
        .map_err(refused)?
        .into_inner()
        .container_id;
    let request = cri::StartContainerRequest {
        container_id: container_id.clone(),
    };
    client.runtime.start_container(request).await.map_err(refused)?;
    Ok(container_id)
}

/// `criquet pod rm`.
pub(super) async fn remove(socket: &Path, pod: String) -> Result<ExitCode> {
    let mut client = Client::connect(socket).await?;
    let status = cri::PodSandboxStatusRequest {
        pod_sandbox_id: pod.clone(),
        verbose: false,
    };
    // An unknown id would be a success for the CRI; a person has mistyped it.
    client.runtime.pod_sandbox_status(status).await.map_err(refused)?;
    let stop = cri::StopPodSandboxRequest {
        pod_sandbox_id: pod.clone(),
    };
    client.runtime.stop_pod_sandbox(stop).await.map_err(refused)?;
    client
        .runtime
        .remove_pod_sandbox(cri::RemovePodSandboxRequest { pod_sandbox_id: pod })
        .await
        .map_err(refused)?;
    Ok(ExitCode::SUCCESS)
}

/// `criquet exec`.
pub(super) async fn exec(
    socket: &Path,
    container: String,
    cmd: Vec<String>,
    timeout: u32,
) -> Result<ExitCode> {
    let mut client = Client::connect(socket).await?;
    let request = cri::ExecSyncRequest {
        container_id: container,
        cmd,
        timeout: timeout.into(),
    };
    let answer = client
        .runtime
        .exec_sync(request)
        .await
        .map_err(refused)?
        .into_inner();
    // A reader that has gone is no error of the command.
    std::io::stdout().write_all(&answer.stdout).ok();
    std::io::stderr().write_all(&answer.stderr).ok();
    Ok(ExitCode::from(u8::try_from(answer.exit_code).unwrap_or(u8::MAX)))
}

/// `criquet image load`.
pub(super) async fn load(socket: &Path, file: &Path) -> Result<ExitCode> {
    let path = file
        .canonicalize()
        .or_fault(Kind::NotFound, || format!("finding the archive {file:?}"))?;
    let path = path
        .into_os_string()
        .into_string()
        .map_err(|_| Fault::invalid(format!("{file:?} is not UTF-8")))?;
    let mut client = Client::connect(socket).await?;
    let answer = client
        .admin
        .load_images(LoadImagesRequest { path })
        .await
        .map_err(refused)?
        .into_inner();
    for image in answer.images {
        say(&format!("{} {}\n", image.id, image.repo_tags.join(" ")));
    }
    Ok(ExitCode::SUCCESS)
}

/// `criquet image pull`.
pub(super) async fn pull(socket: &Path, image: String) -> Result<ExitCode> {
    let mut client = Client::connect(socket).await?;
    let spec = cri::ImageSpec {
        image,
        ..cri::ImageSpec::default()
    };
    let request = cri::PullImageRequest {
        image: Some(spec),
        ..cri::PullImageRequest::default()
    };
    let answer = client
        .image
        .pull_image(request)
        .await
        .map_err(refused)?
        .into_inner();
    say(&format!("{}\n", answer.image_ref));
    Ok(ExitCode::SUCCESS)
}

/// `criquet image rm`.
pub(super) async fn remove_image(socket: &Path, image: String) -> Result<ExitCode> {
    let mut client = Client::connect(socket).await?;
    let spec = cri::ImageSpec {
        image: image.clone(),
        ..cri::ImageSpec::default()
    };
    let status = cri::ImageStatusRequest {
        image: Some(spec.clone()),
        verbose: false,
    };
    if client
        .image
        .image_status(status)
        .await
        .map_err(refused)?
        .into_inner()
        .image
        .is_none()
    {
        return Err(Fault::not_found(format!("image {image:?} is not on this host")));
    }
    client
        .image
        .remove_image(cri::RemoveImageRequest { image: Some(spec) })
        .await
        .map_err(refused)?;
    Ok(ExitCode::SUCCESS)
}
