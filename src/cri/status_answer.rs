//! Status and RuntimeConfig. A feature is told only when it works on this host.

use std::collections::HashMap;

use criquet_proto::cri;

use crate::config::CgroupDriver;
use crate::runtime::Runtime;

/// The answer to Status.
pub async fn status(runtime: &Runtime, verbose: bool) -> cri::StatusResponse {
    let network = match runtime.network.ready().await {
        Ok(_) => condition("NetworkReady", None),
        Err(error) => condition("NetworkReady", Some(error.to_string())),
    };
    let features = cri::RuntimeHandlerFeatures {
        recursive_read_only_mounts: true,
        user_namespaces: runtime.user_namespaces,
    };
    let names = std::iter::once(String::new()).chain(runtime.config.runtime.handlers.iter().cloned());
    cri::StatusResponse {
        status: Some(cri::RuntimeStatus {
            conditions: vec![condition("RuntimeReady", None), network],
        }),
        info: if verbose { info(runtime) } else { HashMap::new() },
        runtime_handlers: names
            .map(|name| cri::RuntimeHandler {
                name,
                features: Some(features),
            })
            .collect(),
        features: Some(cri::RuntimeFeatures {
            supplemental_groups_policy: true,
            user_namespaces_host_network: false,
            mount_options: true,
        }),
    }
}

fn condition(kind: &str, problem: Option<String>) -> cri::RuntimeCondition {
    cri::RuntimeCondition {
        r#type: kind.into(),
        status: problem.is_none(),
        reason: if problem.is_some() {
            format!("{}NotReady", kind.trim_end_matches("Ready"))
        } else {
            String::new()
        },
        message: problem.unwrap_or_default(),
    }
}

fn info(runtime: &Runtime) -> HashMap<String, String> {
    let config = serde_json::json!({
        "stateDir": runtime.config.state,
        "rootDir": runtime.config.root,
        "config": runtime.config,
    });
    HashMap::from([
        ("config".to_owned(), config.to_string()),
        ("network".to_owned(), runtime.network.describe().to_string()),
    ])
}

/// The answer to RuntimeConfig.
pub fn runtime_config(runtime: &Runtime) -> cri::RuntimeConfigResponse {
    let driver = match runtime.config.runtime.cgroup_driver {
        CgroupDriver::Systemd => cri::CgroupDriver::Systemd,
        CgroupDriver::Auto | CgroupDriver::Cgroupfs => cri::CgroupDriver::Cgroupfs,
    };
    cri::RuntimeConfigResponse {
        linux: Some(cri::LinuxRuntimeConfiguration {
            cgroup_driver: driver.into(),
        }),
    }
}
