//! CNI results of all versions: which addresses a pod got.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use crate::Attachment;
use crate::native::INTERFACE;

/// What a result says about the pod's main interface.
///
/// # Errors
/// An address is not one.
pub(crate) fn attachment(result: &Value) -> Result<Attachment, String> {
    let mut ips = Vec::new();
    // Before 0.3.0 there was one address per family.
    for family in ["ip4", "ip6"] {
        if let Some(ip) = result.get(family).and_then(|ip| ip.get("ip")) {
            ips.push(address(ip)?);
        }
    }
    let interfaces = result
        .get("interfaces")
        .and_then(Value::as_array)
        .map_or(&[][..], Vec::as_slice);
    for ip in result
        .get("ips")
        .and_then(Value::as_array)
        .map_or(&[][..], Vec::as_slice)
    {
        let interface = ip
            .get("interface")
            .and_then(Value::as_u64)
            .and_then(|index| interfaces.get(usize::try_from(index).ok()?));
        if interface.is_none_or(is_main) {
            ips.push(address(ip.get("address").unwrap_or(&Value::Null))?);
        }
    }
    Ok(Attachment {
        ips,
        interface: INTERFACE.into(),
    })
}

fn is_main(interface: &Value) -> bool {
    let text = |key| interface.get(key).and_then(Value::as_str).unwrap_or_default();
    text("name") == INTERFACE && !text("sandbox").is_empty()
}

fn address(value: &Value) -> Result<IpAddr, String> {
    let text = value.as_str().unwrap_or_default();
    text.parse::<IpNet>()
        .map(|net| net.addr())
        .or_else(|_| text.parse())
        .map_err(|_| format!("its result has {value} for an address"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn addresses_of_the_pods_interface_count() {
        let result = json!({
            "cniVersion": "1.0.0",
            "interfaces": [{ "name": "cni0" }, { "name": "eth0", "sandbox": "/run/netns/x" }],
            "ips": [
                { "interface": 1, "address": "10.0.0.2/24" },
                { "interface": 0, "address": "10.0.0.1/24" },
                { "address": "fd00::2/64" },
            ],
        });
        let got = attachment(&result).unwrap();
        assert_eq!(
            got.ips,
            ["10.0.0.2".parse::<IpAddr>().unwrap(), "fd00::2".parse().unwrap()]
        );
    }

    #[test]
    fn old_results_are_read() {
        let result = json!({ "cniVersion": "0.2.0", "ip4": { "ip": "10.0.0.2/24" } });
        assert_eq!(attachment(&result).unwrap().ips.len(), 1);
        assert!(attachment(&json!({ "ips": [{ "address": "nonsense" }] })).is_err());
        assert!(attachment(&json!({})).unwrap().ips.is_empty());
    }
}
