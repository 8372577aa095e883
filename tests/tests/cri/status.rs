//! Version, Status, RuntimeConfig.

use criquet_tests::{Node, cri};

#[test]
fn version_names_the_runtime_and_the_api() {
    let node = Node::start();
    let version = node.cri().version(cri::VersionRequest::default()).unwrap();
    assert_eq!(version.runtime_name, "criquet");
    assert_eq!(version.runtime_api_version, "v1");
    assert!(!version.runtime_version.is_empty());
}

#[test]
fn status_is_ready_and_names_the_default_handler() {
    let node = Node::start();
    let answer = node.cri().status(cri::StatusRequest { verbose: true }).unwrap();
    let conditions = answer.status.unwrap().conditions;
    for wanted in ["RuntimeReady", "NetworkReady"] {
        let found = conditions.iter().find(|condition| condition.r#type == wanted);
        assert!(
            found.is_some_and(|condition| condition.status),
            "{wanted} in {conditions:?}"
        );
    }
    assert!(
        answer
            .runtime_handlers
            .iter()
            .any(|handler| handler.name.is_empty()),
        "{:?}",
        answer.runtime_handlers
    );
    for (key, text) in answer.info {
        serde_json::from_str::<serde_json::Value>(&text)
            .unwrap_or_else(|e| panic!("info {key} is no JSON: {e}"));
    }
}

#[test]
fn without_any_network_the_node_is_not_network_ready() {
    let node = Node::configured("[network.builtin]\nenabled = false\n");
    let status = node
        .cri()
        .status(cri::StatusRequest::default())
        .unwrap()
        .status
        .unwrap();
    let network = status
        .conditions
        .iter()
        .find(|condition| condition.r#type == "NetworkReady")
        .unwrap();
    assert!(!network.status, "{network:?}");
    assert!(
        !network.reason.is_empty() && !network.message.is_empty(),
        "{network:?}"
    );
}

#[test]
fn the_cgroup_driver_is_told() {
    let node = Node::start();
    let config = node.cri().runtime_config(cri::RuntimeConfigRequest {}).unwrap();
    assert_eq!(config.linux.unwrap().cgroup_driver(), cri::CgroupDriver::Cgroupfs);
}

#[test]
fn what_is_not_served_says_so() {
    let node = Node::start();
    let mut runtime = node.cri().runtime();
    let request = cri::CheckpointContainerRequest {
        container_id: "none".into(),
        ..Default::default()
    };
    let error = node
        .cri()
        .wait(async { runtime.checkpoint_container(request).await })
        .unwrap_err();
    assert!(
        matches!(error.code(), tonic::Code::Unimplemented | tonic::Code::NotFound),
        "{error:?}"
    );
}
