//! A CRI client's requests: whatever they say, they are validated or refused.
#![no_main]

use std::sync::LazyLock;

use criquet::cri::{container_request, resource_request, sandbox_request};
use criquet::sandbox::config::SandboxConfig;
use criquet_proto::cri;
use prost::Message as _;

static SANDBOX: LazyLock<SandboxConfig> = LazyLock::new(|| {
    let metadata = cri::PodSandboxMetadata {
        name: "pod".into(),
        uid: "uid".into(),
        namespace: "default".into(),
        attempt: 0,
    };
    let config = cri::PodSandboxConfig {
        metadata: Some(metadata),
        log_directory: "/var/log/pods/pod".into(),
        ..cri::PodSandboxConfig::default()
    };
    let request = cri::RunPodSandboxRequest {
        config: Some(config),
        runtime_handler: String::new(),
    };
    sandbox_request::sandbox(&request).unwrap_or_else(|fault| panic!("the plainest pod: {fault}"))
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(request) = cri::RunPodSandboxRequest::decode(bytes) {
        let _ = sandbox_request::sandbox(&request);
    }
    if let Ok(request) = cri::CreateContainerRequest::decode(bytes)
        && let Some(config) = request.config
    {
        let _ = container_request::container(&config, &SANDBOX);
    }
    if let Ok(resources) = cri::LinuxContainerResources::decode(bytes)
        && let Ok(resources) = resource_request::resources(&resources)
    {
        let _ = resource_request::answer(&resources);
    }
});
