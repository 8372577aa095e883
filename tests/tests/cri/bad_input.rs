//! Bad input gives a clear error, at once, and nothing half done.

use criquet_tests::{BUSYBOX, Node, Pod, container, cri, image, pod};
use tonic::Code;

/// The error's code is one of `codes`, and its text names every one of `words`.
#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, tonic::Status>, codes: &[Code], words: &[&str]) {
    let error = result.unwrap_err();
    assert!(codes.contains(&error.code()), "{error:?}");
    for word in words {
        assert!(
            error.message().contains(word),
            "{word:?} is not in {:?}",
            error.message()
        );
    }
}

#[test]
fn images_that_cannot_be_pulled() {
    let node = Node::start();
    let pull = |name: &str| {
        node.cri().pull_image(cri::PullImageRequest {
            image: Some(image(name)),
            ..Default::default()
        })
    };
    refused(
        pull("registry.k8s.io/no-such-image:1"),
        &[Code::NotFound],
        &["no-such-image"],
    );
    refused(
        pull("registry.k8s.io/pause:no-such-tag"),
        &[Code::NotFound],
        &["no-such-tag"],
    );
    let digest = format!("registry.k8s.io/pause@sha256:{}", "0".repeat(64));
    refused(pull(&digest), &[Code::NotFound], &["sha256:0000"]);
    for name in [
        "",
        "UPPER/case:1",
        "a b",
        "registry.k8s.io/pause@sha256:short",
        "registry.k8s.io/../../etc:1",
    ] {
        refused(pull(name), &[Code::InvalidArgument], &[]);
    }
    assert!(pull("127.0.0.1:1/nobody/listens:1").is_err());
    let list = node.cri().list_images(cri::ListImagesRequest::default()).unwrap();
    assert!(list.images.is_empty(), "{list:?}");
}

#[test]
fn pods_that_cannot_run() {
    let node = Node::start();
    let run = |config: Option<cri::PodSandboxConfig>, handler: &str| {
        let request = cri::RunPodSandboxRequest {
            config,
            runtime_handler: handler.into(),
        };
        node.cri().run_pod_sandbox(request)
    };
    refused(run(None, ""), &[Code::InvalidArgument], &["config"]);
    refused(
        run(Some(pod("x")), "no-such-handler"),
        &[Code::InvalidArgument, Code::NotFound],
        &["no-such-handler"],
    );
    let changed = |change: &dyn Fn(&mut cri::PodSandboxConfig)| {
        let mut config = pod("bad");
        change(&mut config);
        run(Some(config), "")
    };
    refused(
        changed(&|c| c.metadata = None),
        &[Code::InvalidArgument],
        &["metadata"],
    );
    refused(
        changed(&|c| {
            c.port_mappings = vec![cri::PortMapping {
                container_port: 70_000,
                ..Default::default()
            }]
        }),
        &[Code::InvalidArgument],
        &["70000"],
    );
    refused(
        changed(&|c| {
            c.linux.as_mut().unwrap().sysctls =
                [("kernel.no_such_sysctl".to_string(), "1".to_string())].into();
        }),
        &[
            Code::InvalidArgument,
            Code::NotFound,
            Code::Internal,
            Code::Unknown,
            Code::FailedPrecondition,
        ],
        &["kernel.no_such_sysctl"],
    );
    assert!(
        node.cri()
            .list_pod_sandbox(Default::default())
            .unwrap()
            .items
            .is_empty()
    );
    node.assert_clean();
}

#[test]
fn containers_that_cannot_be_made_or_started() {
    let node = Node::start();
    node.pull(BUSYBOX);
    let pod = node.pod(pod("host"));
    let create = |change: &dyn Fn(&mut cri::ContainerConfig)| {
        let mut config = container("bad", BUSYBOX, &["sleep", "1000"]);
        change(&mut config);
        node.try_create(&pod, config)
    };
    refused(
        create(&|c| c.image = Some(image("no/such:1"))),
        &[Code::NotFound],
        &["no/such"],
    );
    refused(
        create(&|c| c.metadata = None),
        &[Code::InvalidArgument],
        &["metadata"],
    );
    refused(
        create(&|c| c.mounts = vec![mount("/etc", "relative")]),
        &[Code::InvalidArgument],
        &["relative"],
    );
    refused(
        create(&|c| c.log_path = "../../escape.log".into()),
        &[Code::InvalidArgument],
        &["escape.log"],
    );
    refused(
        create(&|c| {
            let security = c.linux.as_mut().unwrap().security_context.as_mut().unwrap();
            security.run_as_group = Some(cri::Int64Value { value: 5 });
        }),
        &[Code::InvalidArgument],
        &["run_as_group"],
    );
    refused(
        create(&|c| {
            let security = c.linux.as_mut().unwrap().security_context.as_mut().unwrap();
            security.run_as_username = "no-such-user".into();
        }),
        &[Code::InvalidArgument, Code::NotFound, Code::FailedPrecondition],
        &["no-such-user"],
    );
    refused(
        create(&|c| {
            let security = c.linux.as_mut().unwrap().security_context.as_mut().unwrap();
            let add = vec!["NO_SUCH_CAP".to_string()];
            security.capabilities = Some(cri::Capability {
                add_capabilities: add,
                ..Default::default()
            });
        }),
        &[Code::InvalidArgument],
        &["NO_SUCH_CAP"],
    );
    assert!(
        node.cri()
            .list_containers(Default::default())
            .unwrap()
            .containers
            .is_empty()
    );
    for command in ["/no/such/program", "no-such-program-in-path", "/etc/passwd"] {
        start_fails(&node, &pod, container("notfound", BUSYBOX, &[command]), command);
    }
    let mut config = container("nopath", BUSYBOX, &["true"]);
    config.mounts = vec![mount("/no/such/host/path", "/mnt")];
    start_fails(&node, &pod, config, "/no/such/host/path");
    assert!(
        !std::path::Path::new("/no").exists(),
        "nothing was made on the host"
    );
}

/// Create or start must fail with an error that names `word`; the container, if it is there, does not run.
fn start_fails(node: &Node, pod: &Pod, config: cri::ContainerConfig, word: &str) {
    let id = match node.try_create(pod, config) {
        Ok(id) => id,
        Err(error) => {
            assert!(error.message().contains(word), "{error:?}");
            return;
        }
    };
    let error = node
        .cri()
        .start_container(cri::StartContainerRequest {
            container_id: id.clone(),
        })
        .unwrap_err();
    assert!(error.message().contains(word), "{error:?}");
    assert_ne!(node.status(&id).state(), cri::ContainerState::ContainerRunning);
    node.remove_container(&id);
}

#[test]
fn unknown_ids() {
    let node = Node::start();
    let cri = node.cri();
    let id = "f".repeat(64);
    refused(
        cri.container_status(cri::ContainerStatusRequest {
            container_id: id.clone(),
            verbose: false,
        }),
        &[Code::NotFound],
        &[&id],
    );
    refused(
        cri.pod_sandbox_status(cri::PodSandboxStatusRequest {
            pod_sandbox_id: id.clone(),
            verbose: false,
        }),
        &[Code::NotFound],
        &[&id],
    );
    refused(
        cri.start_container(cri::StartContainerRequest {
            container_id: id.clone(),
        }),
        &[Code::NotFound],
        &[&id],
    );
    let exec = cri::ExecSyncRequest {
        container_id: id.clone(),
        cmd: vec!["true".into()],
        timeout: 1,
    };
    refused(cri.exec_sync(exec), &[Code::NotFound], &[&id]);
    refused(
        cri.reopen_container_log(cri::ReopenContainerLogRequest {
            container_id: id.clone(),
        }),
        &[Code::NotFound],
        &[&id],
    );
    cri.stop_container(cri::StopContainerRequest {
        container_id: id.clone(),
        timeout: 0,
    })
    .unwrap();
    cri.remove_container(cri::RemoveContainerRequest {
        container_id: id.clone(),
    })
    .unwrap();
    cri.stop_pod_sandbox(cri::StopPodSandboxRequest {
        pod_sandbox_id: id.clone(),
    })
    .unwrap();
    cri.remove_pod_sandbox(cri::RemovePodSandboxRequest { pod_sandbox_id: id })
        .unwrap();
}

#[test]
fn a_config_with_an_unknown_key_is_refused() {
    let node = Node::start();
    let file = node.work().join("bad.toml");
    for (text, word) in [
        ("sate = \"/x\"\n", "sate"),
        ("[image]\ndownloads = \"many\"\n", "downloads"),
    ] {
        std::fs::write(&file, text).unwrap();
        let out = node.criquet_alone(&["config", "check", "--config", file.to_str().unwrap()]);
        assert_ne!(out.code, 0, "{out:?}");
        assert!((out.stdout + &out.stderr).contains(word));
    }
}

fn mount(host: &str, inside: &str) -> cri::Mount {
    cri::Mount {
        host_path: host.into(),
        container_path: inside.into(),
        ..Default::default()
    }
}
