//! A kubelet of Kubernetes 1.32 before today's daemon: its schema has 34 of the calls and fewer fields, and what it
//! does not know must not disturb it.

use std::future::Future;
use std::time::Duration;

use criquet_tests::{BUSYBOX, Node, PATIENCE_S, eventually};
use hyper_util::rt::TokioIo;
use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use k8s_cri::v1::{self as old};
use tokio::net::UnixStream;
use tonic::Response;
use tonic::transport::{Channel, Endpoint, Uri};

/// No call of the walk takes longer, not even the pull.
const CALL: Duration = Duration::from_secs(300);

type Status = tonic::Status;

async fn call<T>(what: &str, work: impl Future<Output = Result<Response<T>, Status>>) -> T {
    match tokio::time::timeout(CALL, work).await {
        Ok(Ok(answer)) => answer.into_inner(),
        Ok(Err(status)) => panic!("{what}: {status:?}"),
        Err(_) => panic!("{what}: no answer within {CALL:?}"),
    }
}

fn connect(node: &Node) -> (RuntimeServiceClient<Channel>, ImageServiceClient<Channel>) {
    let socket = node.socket();
    let connect = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://localhost").connect_with_connector_lazy(connect);
    (
        RuntimeServiceClient::new(channel.clone()),
        ImageServiceClient::new(channel),
    )
}

fn walk(test: impl AsyncFnOnce(&Node, RuntimeServiceClient<Channel>, ImageServiceClient<Channel>)) {
    let node = Node::start();
    let threads = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("runtime");
    threads.block_on(async {
        let (runtime, images) = connect(&node);
        test(&node, runtime, images).await;
    });
}

fn pod(node: &Node) -> old::PodSandboxConfig {
    let namespaces = old::NamespaceOption {
        pid: old::NamespaceMode::Container.into(),
        ..Default::default()
    };
    let security = old::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces),
        ..Default::default()
    };
    old::PodSandboxConfig {
        metadata: Some(old::PodSandboxMetadata {
            name: "old".into(),
            uid: "uid-old".into(),
            namespace: "tests".into(),
            attempt: 0,
        }),
        hostname: "old".into(),
        log_directory: node.work().join("logs").to_string_lossy().into_owned(),
        linux: Some(old::LinuxPodSandboxConfig {
            security_context: Some(security),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn container() -> old::ContainerConfig {
    let namespaces = old::NamespaceOption {
        pid: old::NamespaceMode::Container.into(),
        ..Default::default()
    };
    let security = old::LinuxContainerSecurityContext {
        namespace_options: Some(namespaces),
        ..Default::default()
    };
    let resources = old::LinuxContainerResources {
        memory_limit_in_bytes: 64 << 20,
        cpu_shares: 512,
        ..Default::default()
    };
    old::ContainerConfig {
        metadata: Some(old::ContainerMetadata {
            name: "old".into(),
            attempt: 0,
        }),
        image: Some(image()),
        command: [
            "sh",
            "-c",
            "trap 'exit 3' TERM; echo started as $NAME; while :; do sleep 0.1; done",
        ]
        .map(String::from)
        .to_vec(),
        // Bytes in newer schemas: the same on the wire.
        envs: vec![old::KeyValue {
            key: "NAME".into(),
            value: "gr\u{fc}n".into(),
        }],
        log_path: "old.log".into(),
        linux: Some(old::LinuxContainerConfig {
            resources: Some(resources),
            security_context: Some(security),
        }),
        ..Default::default()
    }
}

fn image() -> old::ImageSpec {
    old::ImageSpec {
        image: BUSYBOX.into(),
        ..Default::default()
    }
}

#[test]
fn versions_and_conditions_are_told() {
    walk(async |_, mut runtime, _| {
        let version = call(
            "Version",
            runtime.version(old::VersionRequest {
                version: "0.1.0".into(),
            }),
        )
        .await;
        assert_eq!(
            (
                version.runtime_name.as_str(),
                version.runtime_api_version.as_str()
            ),
            ("criquet", "v1")
        );
        let status = call("Status", runtime.status(old::StatusRequest { verbose: true })).await;
        let conditions = status.status.expect("a status").conditions;
        for wanted in ["RuntimeReady", "NetworkReady"] {
            assert!(
                conditions.iter().any(|c| c.r#type == wanted && c.status),
                "{wanted}: {conditions:?}"
            );
        }
        let config = call(
            "RuntimeConfig",
            runtime.runtime_config(old::RuntimeConfigRequest {}),
        )
        .await;
        assert!(config.linux.is_some(), "{config:?}");
    });
}

#[test]
fn a_pod_lives_from_its_image_to_its_removal() {
    walk(async |node, mut runtime, mut images| {
        let pull = old::PullImageRequest {
            image: Some(image()),
            ..Default::default()
        };
        let pulled = call("PullImage", images.pull_image(pull)).await.image_ref;
        let list = call(
            "ListImages",
            images.list_images(old::ListImagesRequest::default()),
        )
        .await
        .images;
        assert!(
            list.iter()
                .any(|i| i.id == pulled && i.repo_tags.iter().any(|tag| tag == BUSYBOX)),
            "{list:?}"
        );

        let run = old::RunPodSandboxRequest {
            config: Some(pod(node)),
            ..Default::default()
        };
        let pod_id = call("RunPodSandbox", runtime.run_pod_sandbox(run))
            .await
            .pod_sandbox_id;
        let create = old::CreateContainerRequest {
            pod_sandbox_id: pod_id.clone(),
            config: Some(container()),
            sandbox_config: Some(pod(node)),
        };
        let id = call("CreateContainer", runtime.create_container(create))
            .await
            .container_id;
        let start = old::StartContainerRequest {
            container_id: id.clone(),
        };
        call("StartContainer", runtime.start_container(start)).await;
        let log = node.work().join("logs/old.log");
        eventually("its first line is logged", PATIENCE_S, || {
            std::fs::read_to_string(&log)
                .is_ok_and(|text| text.contains("started as gr\u{fc}n"))
                .then_some(())
        });

        let exec = old::ExecSyncRequest {
            container_id: id.clone(),
            cmd: ["sh", "-c", "echo $NAME; echo err >&2; exit 5"]
                .map(String::from)
                .to_vec(),
            timeout: 120,
        };
        let out = call("ExecSync", runtime.exec_sync(exec)).await;
        assert_eq!(
            (out.exit_code, out.stdout.as_slice(), out.stderr.as_slice()),
            (5, "gr\u{fc}n\n".as_bytes(), &b"err\n"[..])
        );
        running(&mut runtime, &pod_id, &id, &pulled).await;
        gone(&mut runtime, &mut images, &pod_id, &id).await;
    });
}

/// What is told of the pod and its container while they run.
async fn running(runtime: &mut RuntimeServiceClient<Channel>, pod_id: &str, id: &str, pulled: &str) {
    let request = old::PodSandboxStatusRequest {
        pod_sandbox_id: pod_id.into(),
        verbose: true,
    };
    let pod = call("PodSandboxStatus", runtime.pod_sandbox_status(request))
        .await
        .status
        .expect("a status");
    assert_eq!(pod.state(), old::PodSandboxState::SandboxReady);
    assert!(
        pod.network
            .as_ref()
            .is_some_and(|network| network.ip.starts_with("10.201.")),
        "{pod:?}"
    );
    let request = old::ContainerStatusRequest {
        container_id: id.into(),
        verbose: true,
    };
    let status = call("ContainerStatus", runtime.container_status(request))
        .await
        .status
        .expect("a status");
    assert_eq!(status.state(), old::ContainerState::ContainerRunning);
    assert_eq!(
        (
            status.image_ref.as_str(),
            status.image.expect("an image").image.as_str()
        ),
        (pulled, BUSYBOX)
    );
    let limit = status
        .resources
        .and_then(|r| r.linux)
        .map(|linux| linux.memory_limit_in_bytes);
    assert_eq!(limit, Some(64 << 20));
    changed_and_counted(runtime, id).await;
}

/// An update, figures and the address of an exec.
async fn changed_and_counted(runtime: &mut RuntimeServiceClient<Channel>, id: &str) {
    let update = old::UpdateContainerResourcesRequest {
        container_id: id.into(),
        linux: Some(old::LinuxContainerResources {
            memory_limit_in_bytes: 96 << 20,
            ..Default::default()
        }),
        ..Default::default()
    };
    call(
        "UpdateContainerResources",
        runtime.update_container_resources(update),
    )
    .await;
    let stats = call(
        "ListContainerStats",
        runtime.list_container_stats(old::ListContainerStatsRequest::default()),
    )
    .await;
    assert!(
        stats
            .stats
            .iter()
            .any(|s| s.attributes.as_ref().is_some_and(|a| a.id == id) && s.cpu.is_some()),
        "{stats:?}"
    );
    let request = old::ExecRequest {
        container_id: id.into(),
        cmd: vec!["true".into()],
        stdout: true,
        ..Default::default()
    };
    assert!(
        call("Exec", runtime.exec(request))
            .await
            .url
            .starts_with("http://127.0.0.1:")
    );
}

/// Stops and removes all, and looks that it is gone.
async fn gone(
    runtime: &mut RuntimeServiceClient<Channel>,
    images: &mut ImageServiceClient<Channel>,
    pod_id: &str,
    id: &str,
) {
    let stop = old::StopContainerRequest {
        container_id: id.into(),
        timeout: 120,
    };
    call("StopContainer", runtime.stop_container(stop)).await;
    let request = old::ContainerStatusRequest {
        container_id: id.into(),
        verbose: false,
    };
    let status = call("ContainerStatus", runtime.container_status(request))
        .await
        .status
        .expect("a status");
    assert_eq!(
        (status.state(), status.exit_code),
        (old::ContainerState::ContainerExited, 3)
    );
    call(
        "RemoveContainer",
        runtime.remove_container(old::RemoveContainerRequest {
            container_id: id.into(),
        }),
    )
    .await;
    call(
        "StopPodSandbox",
        runtime.stop_pod_sandbox(old::StopPodSandboxRequest {
            pod_sandbox_id: pod_id.into(),
        }),
    )
    .await;
    call(
        "RemovePodSandbox",
        runtime.remove_pod_sandbox(old::RemovePodSandboxRequest {
            pod_sandbox_id: pod_id.into(),
        }),
    )
    .await;
    nothing_is_known(runtime, images).await;
}

async fn nothing_is_known(
    runtime: &mut RuntimeServiceClient<Channel>,
    images: &mut ImageServiceClient<Channel>,
) {
    let pods = call(
        "ListPodSandbox",
        runtime.list_pod_sandbox(old::ListPodSandboxRequest::default()),
    )
    .await;
    let containers = call(
        "ListContainers",
        runtime.list_containers(old::ListContainersRequest::default()),
    )
    .await;
    assert!(
        pods.items.is_empty() && containers.containers.is_empty(),
        "{pods:?} {containers:?}"
    );
    call(
        "RemoveImage",
        images.remove_image(old::RemoveImageRequest { image: Some(image()) }),
    )
    .await;
    assert!(
        call(
            "ListImages",
            images.list_images(old::ListImagesRequest::default())
        )
        .await
        .images
        .is_empty()
    );
}
