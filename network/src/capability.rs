//! What the runtime tells plugins about a pod: `CNI_ARGS` and capability arguments (CNI conventions).

use serde_json::{Map, Value, json};

use crate::{Error, Pod, Protocol, Result};

const INGRESS: &str = "kubernetes.io/ingress-bandwidth";
const EGRESS: &str = "kubernetes.io/egress-bandwidth";
/// As other runtimes do: the burst is as large as the plugin takes it, the rate limits.
const BURST_BITS: i64 = i32::MAX as i64;

/// `CNI_ARGS`, as Kubernetes plugins know them.
///
/// # Errors
/// A value would end its pair and begin another.
pub(crate) fn arguments(pod: &Pod) -> Result<String> {
    let pairs = [
        ("IgnoreUnknown", "1"),
        ("K8S_POD_NAMESPACE", &pod.namespace),
        ("K8S_POD_NAME", &pod.name),
        ("K8S_POD_INFRA_CONTAINER_ID", &pod.id),
        ("K8S_POD_UID", &pod.uid),
    ];
    for (key, value) in pairs {
        if value.contains([';', '=', '\0', '\n']) {
            return Err(Error(format!(
                "{key} {value:?} of the pod has a character that CNI_ARGS cannot hold"
            )));
        }
    }
    Ok(pairs.map(|(key, value)| format!("{key}={value}")).join(";"))
}

/// The capability arguments of a pod; a plugin gets those that it declares.
pub(crate) fn of(pod: &Pod) -> Map<String, Value> {
    let mut all = Map::new();
    let ports: Vec<Value> = pod
        .ports
        .iter()
        .filter(|port| port.host_port != 0)
        .map(|port| {
            json!({
                "hostPort": port.host_port, "containerPort": port.container_port,
                "protocol": match port.protocol { Protocol::Tcp => "tcp", Protocol::Udp => "udp", Protocol::Sctp => "sctp" },
                "hostIP": port.host_ip.map(|ip| ip.to_string()).unwrap_or_default(),
            })
        })
        .collect();
    if !ports.is_empty() {
        all.insert("portMappings".into(), ports.into());
    }
    if let Some(bandwidth) = bandwidth(pod) {
        all.insert("bandwidth".into(), bandwidth);
    }
    if !pod.cgroup.is_empty() {
        all.insert("cgroupPath".into(), pod.cgroup.clone().into());
    }
    if !(pod.dns_servers.is_empty() && pod.dns_searches.is_empty() && pod.dns_options.is_empty()) {
        let dns =
            json!({ "servers": pod.dns_servers, "searches": pod.dns_searches, "options": pod.dns_options });
        all.insert("dns".into(), dns);
    }
    if !pod.annotations.is_empty() {
        all.insert("io.kubernetes.cri.pod-annotations".into(), json!(pod.annotations));
    }
    all
}

fn bandwidth(pod: &Pod) -> Option<Value> {
    let mut limits = Map::new();
    for (annotation, direction) in [(INGRESS, "ingress"), (EGRESS, "egress")] {
        let Some(text) = pod.annotations.get(annotation) else {
            continue;
        };
        let Some(rate) = quantity(text) else {
            tracing::warn!(
                pod = pod.id,
                annotation,
                text,
                "bandwidth is not a quantity and is ignored"
            );
            continue;
        };
        limits.insert(format!("{direction}Rate"), rate.into());
        limits.insert(format!("{direction}Burst"), BURST_BITS.into());
    }
    (!limits.is_empty()).then(|| limits.into())
}

/// A Kubernetes quantity as a whole number, rounded up: `10M`, `1.5Gi`, `100000`.
fn quantity(text: &str) -> Option<u64> {
    const SUFFIXES: [(&str, u64); 13] = [
        ("Ki", 1 << 10),
        ("Mi", 1 << 20),
        ("Gi", 1 << 30),
        ("Ti", 1 << 40),
        ("Pi", 1 << 50),
        ("Ei", 1 << 60),
        ("k", 1_000),
        ("M", 1_000_000),
        ("G", 1_000_000_000),
        ("T", 1_000_000_000_000),
        ("P", 1_000_000_000_000_000),
        ("E", 1_000_000_000_000_000_000),
        ("", 1),
    ];
    let (digits, factor) = SUFFIXES
        .iter()
        .find_map(|(suffix, factor)| Some((text.strip_suffix(suffix)?, u128::from(*factor))))?;
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let is_number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit()) && part.len() <= 18;
    if whole.is_empty() || !is_number(whole) || !is_number(fraction) {
        return None;
    }
    let scale = 10u128.pow(u32::try_from(fraction.len()).ok()?);
    let scaled = format!("{whole}{fraction}").parse::<u128>().ok()?;
    u64::try_from(scaled.checked_mul(factor)?.div_ceil(scale)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_those_of_kubernetes() {
        assert_eq!(quantity("10M"), Some(10_000_000));
        assert_eq!(quantity("1.5Ki"), Some(1536));
        assert_eq!(quantity("100000"), Some(100_000));
        for bad in ["", "M", "-1", "1e3x", "1.2.3", "ten"] {
            assert_eq!(quantity(bad), None, "{bad}");
        }
    }

    #[test]
    fn an_argument_cannot_start_another() {
        let pod = Pod {
            id: "a".into(),
            name: "x;K8S_POD_UID=1".into(),
            ..Pod::default()
        };
        assert!(arguments(&pod).is_err());
    }

    #[test]
    fn only_host_ports_are_mapped() {
        let port = |host_port| crate::PortMapping {
            host_port,
            container_port: 80,
            protocol: Protocol::Udp,
            host_ip: None,
        };
        let pod = Pod {
            ports: vec![port(0), port(8080)],
            ..Pod::default()
        };
        assert_eq!(
            of(&pod)["portMappings"],
            json!([{ "hostPort": 8080, "containerPort": 80, "protocol": "udp", "hostIP": "" }])
        );
    }
}
