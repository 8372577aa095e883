//! Networks of plugin binaries: scripts, and the reference plugins.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::{Duration, Instant};

use criquet_network::{Network, Options};
use serde_json::{Value, json};
use support::{Host, Place, address, ask, on_host};

/// For so long a status is kept.
const STATUS_LIFETIME: Duration = Duration::from_secs(5);

/// Logs its command, environment and input, and answers what the specification asks for.
const LOGGING: &str = r#"
log="$(dirname "$0")/../log"
input=$(cat)
case "$CNI_COMMAND" in
VERSION) echo '{"cniVersion":"1.1.0","supportedVersions":["0.4.0","1.0.0","1.1.0"]}'; exit 0;;
esac
echo "$(basename "$0") $CNI_COMMAND id=$CNI_CONTAINERID netns=$CNI_NETNS if=$CNI_IFNAME args=$CNI_ARGS input=$input" >>"$log"
if [ -e "$(dirname "$0")/../fail-$CNI_COMMAND" ]; then echo '{"code":11,"msg":"not now","details":"busy"}'; exit 1; fi
if [ "$CNI_COMMAND" = ADD ]; then
  echo "{\"cniVersion\":\"1.1.0\",\"interfaces\":[{\"name\":\"eth0\",\"sandbox\":\"$CNI_NETNS\"}],\"ips\":[{\"interface\":0,\"address\":\"10.1.2.3/24\"}]}"
fi
"#;

fn bridge(host: &Host, extra: &[Value]) -> String {
    let mut plugins = vec![json!({
        "type": "bridge", "bridge": "cni0", "isGateway": true, "isDefaultGateway": true, "ipMasq": true, "hairpinMode": true,
        "ipam": {
            "type": "host-local", "dataDir": host.path("leases"),
            "ranges": [[{ "subnet": "10.9.0.0/24", "rangeStart": "10.9.0.10", "rangeEnd": "10.9.0.13" }]],
        },
    })];
    plugins.extend_from_slice(extra);
    json!({ "cniVersion": "1.0.0", "name": "pods", "plugins": plugins }).to_string()
}

fn portmap() -> Value {
    json!({ "type": "portmap", "capabilities": { "portMappings": true } })
}

fn log(host: &Host) -> Vec<String> {
    let text = std::fs::read_to_string(host.path("log")).unwrap_or_default();
    std::fs::remove_file(host.path("log")).ok();
    text.lines().map(str::to_owned).collect()
}

fn scripts(host: &Host, version: &str, extra: Value) {
    for name in ["first", "second"] {
        host.plugin(name, LOGGING);
    }
    let mut list = json!({
        "cniVersion": version, "name": "scripts",
        "plugins": [{ "type": "first" }, { "type": "second", "capabilities": { "portMappings": true } }],
    });
    for (key, value) in extra.as_object().unwrap() {
        list[key] = value.clone();
    }
    host.configure("10-scripts.conflist", &list.to_string());
}

#[test]
fn a_chain_is_run_as_specified() {
    on_host(|host| async move {
        scripts(&host, "1.1.0", json!({}));
        let network = host.network();
        let begun = Instant::now();
        assert_eq!(network.ready().await.unwrap(), "scripts");
        assert_eq!(log(&host).len(), 2, "STATUS of both");
        assert_eq!(network.ready().await.unwrap(), "scripts");
        let again = log(&host).len();
        assert!(
            again == 0 || begun.elapsed() > STATUS_LIFETIME,
            "the status is kept a while"
        );
        let one = Place::new("one").port(8080, 80, None);
        let got = network.attach(&one.pod).await.unwrap();
        assert_eq!(got.ips, [address("10.1.2.3")]);
        let lines = log(&host);
        assert!(lines[0].starts_with("first ADD id=one netns=/proc/"), "{lines:?}");
        assert!(lines[0].contains("if=eth0 args=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=name-one;K8S_POD_INFRA_CONTAINER_ID=one;K8S_POD_UID=uid-one"));
        assert!(!lines[0].contains("prevResult") && !lines[0].contains("runtimeConfig"));
        assert!(lines[1].starts_with("second ADD") && lines[1].contains("prevResult"));
        assert!(lines[1].contains("\"hostPort\":8080") && !lines[1].contains("capabilities"));
        network.check("one").await.unwrap();
        assert!(
            log(&host)
                .iter()
                .all(|line| line.contains(" CHECK ") && line.contains("prevResult"))
        );
        network.collect(&["one".into()]).await.unwrap();
        let lines = log(&host);
        assert!(
            lines
                .iter()
                .all(|line| line.contains(" GC ") && line.contains(r#""containerID":"one","ifname":"eth0""#)),
            "{lines:?}"
        );
        network.detach("one").await.unwrap();
        let lines = log(&host);
        assert!(
            lines[0].starts_with("second DEL") && lines[1].starts_with("first DEL"),
            "{lines:?}"
        );
        assert!(lines.iter().all(|line| line.contains("prevResult")));
        assert!(host.records().is_empty());
    });
}

#[test]
fn del_outlives_the_configuration_and_the_namespace() {
    on_host(|host| async move {
        scripts(&host, "1.0.0", json!({ "disableCheck": true }));
        let mut place = Place::new("one");
        let pinned = host.path("pinned");
        std::os::unix::fs::symlink(&place.pod.netns, &pinned).unwrap();
        place.pod.netns.clone_from(&pinned);
        host.network().attach(&place.pod).await.unwrap();
        std::fs::remove_dir_all(host.path("net.d")).unwrap();
        log(&host);
        std::fs::remove_file(pinned).unwrap();
        host.network().detach("one").await.unwrap();
        let lines = log(&host);
        assert_eq!(lines.len(), 2);
        assert!(
            lines.iter().all(|line| line.contains("DEL id=one netns= ")),
            "{lines:?}"
        );
    });
}

#[test]
fn a_failed_del_is_retried() {
    on_host(|host| async move {
        scripts(&host, "1.0.0", json!({}));
        let network = host.network();
        network.attach(&Place::new("one").pod).await.unwrap();
        std::fs::write(host.path("fail-DEL"), "").unwrap();
        let error = network.detach("one").await.unwrap_err().to_string();
        assert!(
            error.contains("plugin second: DEL failed: not now: busy (try again later)"),
            "{error}"
        );
        assert_eq!(
            log(&host).len(),
            4,
            "a failing plugin keeps no other from its turn"
        );
        assert_eq!(host.records().len(), 2);
        std::fs::remove_file(host.path("fail-DEL")).unwrap();
        host.network().collect(&[]).await.unwrap();
        assert!(host.records().is_empty());
    });
}

#[test]
fn a_failed_add_leaves_nothing() {
    on_host(|host| async move {
        host.plugin(
            "broken",
            r#"if [ "$CNI_COMMAND" = ADD ]; then echo '{"code":100,"msg":"no luck"}'; exit 1; fi"#,
        );
        host.configure("10.conflist", &bridge(&host, &[json!({ "type": "broken" })]));
        let place = Place::new("one");
        let error = host.network().attach(&place.pod).await.unwrap_err().to_string();
        assert_eq!(
            error,
            "network pods of pod default/name-one: plugin broken: ADD failed: no luck"
        );
        assert!(host.leases("pods").is_empty() && host.records().is_empty());
    });
}

#[test]
fn what_is_wrong_is_said() {
    on_host(|host| async move {
        let network = Network::open(Options {
            builtin: None,
            ..host.options()
        })
        .unwrap();
        let error = network.ready().await.unwrap_err().to_string();
        assert!(error.starts_with("no network configuration is in "), "{error}");
        for (text, reason) in [
            ("{", "10-bad.conflist is invalid: EOF"),
            (r#"{"name":"x","plugins":[]}"#, "no plugins"),
            (r#"{"name":"../x","plugins":[{"type":"a"}]}"#, "its name"),
            (
                r#"{"name":"x","plugins":[{"type":"../../bin/sh"}]}"#,
                "not the name of a file",
            ),
            (
                r#"{"name":"x","plugins":[{"type":"a","ipam":{"type":"b/c"}}]}"#,
                "not the name of a file",
            ),
            (
                r#"{"name":"x","cniVersion":"9.0.0","plugins":[{"type":"a"}]}"#,
                "9.0.0 is not one of",
            ),
        ] {
            host.configure("10-bad.conflist", text);
            let error = network.ready().await.unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
            let attached = network
                .attach(&Place::new("one").pod)
                .await
                .unwrap_err()
                .to_string();
            assert!(attached.contains(reason), "{attached}");
        }
        host.configure(
            "20-missing.conf",
            r#"{"name":"second","cniVersion":"0.4.0","type":"not-there"}"#,
        );
        let error = network.ready().await.unwrap_err().to_string();
        assert!(
            error.contains("network second: plugin not-there is not in "),
            "the next valid one counts: {error}"
        );
        scripts(&host, "1.1.0", json!({}));
        std::fs::remove_file(host.path("net.d/10-bad.conflist")).unwrap();
        std::fs::write(host.path("fail-STATUS"), "").unwrap();
        let error = network.ready().await.unwrap_err().to_string();
        assert_eq!(
            error,
            "network scripts: plugin first: STATUS failed: not now: busy (try again later)"
        );
        assert_eq!(network.describe()["name"], "scripts");
    });
}

#[test]
fn the_reference_plugins_and_we_do_the_same() {
    on_host(|host| async move {
        host.configure("10.conflist", &bridge(&host, &[portmap()]));
        let (native, binaries) = (host.network(), host.binaries());
        assert_eq!(native.describe()["native"], true, "{}", native.describe());
        if binaries.ready().await.is_err() {
            eprintln!("the reference plugins are not on this machine");
            return;
        }
        let theirs = Place::new("theirs").port(8081, 80, None);
        let ours = Place::new("ours").port(8082, 80, None);
        assert_eq!(
            binaries.attach(&theirs.pod).await.unwrap().ips,
            [address("10.9.0.10")]
        );
        assert_eq!(
            native.attach(&ours.pod).await.unwrap().ips,
            [address("10.9.0.11")]
        );
        theirs.serve(80);
        ours.serve(80);
        assert!(
            ours.ask(address("10.9.0.10"), 80).is_some() && theirs.ask(address("10.9.0.11"), 80).is_some()
        );
        for port in [8081, 8082] {
            assert!(ask(address("127.0.0.1"), port).is_some(), "{port}");
            assert!(ask(address("10.9.0.1"), port).is_some(), "{port}");
            assert!(ours.ask(address("10.9.0.1"), port).is_some(), "{port}");
            assert!(theirs.ask(address("10.9.0.1"), port).is_some(), "{port}");
        }
        same_result(&host);
        // Each takes the other's address next, when it is free, and not before.
        let third = Place::new("third");
        assert_eq!(
            binaries.attach(&third.pod).await.unwrap().ips,
            [address("10.9.0.12")]
        );
        assert_eq!(
            native.attach(&Place::new("fourth").pod).await.unwrap().ips,
            [address("10.9.0.13")]
        );
        let full = native
            .attach(&Place::new("fifth").pod)
            .await
            .unwrap_err()
            .to_string();
        assert!(
            full.contains("no address is free in 10.9.0.10-10.9.0.13"),
            "{full}"
        );
        binaries.detach("theirs").await.unwrap();
        assert_eq!(
            native.attach(&Place::new("fifth").pod).await.unwrap().ips,
            [address("10.9.0.10")]
        );
        native.detach("ours").await.unwrap();
        assert_eq!(
            binaries.attach(&Place::new("sixth").pod).await.unwrap().ips,
            [address("10.9.0.11")]
        );
        for id in ["third", "fourth", "fifth", "sixth"] {
            native.detach(id).await.unwrap();
        }
        assert!(host.leases("pods").is_empty());
    });
}

/// The results differ in what is random and in nothing else.
fn same_result(host: &Host) {
    let mut results = ["theirs", "ours"].map(|id| {
        let text = std::fs::read(host.path("cache").join(format!("{id}.result.json"))).unwrap();
        let mut result: Value = serde_json::from_slice(&text).unwrap();
        for interface in result["interfaces"].as_array_mut().unwrap() {
            for random in ["mac", "sandbox"] {
                if let Some(value) = interface.get_mut(random) {
                    assert!(!value.as_str().unwrap().is_empty());
                    *value = "x".into();
                }
            }
            if interface["name"].as_str().unwrap().starts_with("veth") {
                assert_eq!(interface["name"].as_str().unwrap().len(), 12);
                interface["name"] = "veth".into();
            }
        }
        result["ips"][0]["address"] = "x".into();
        // Older plugins print it empty.
        result
            .as_object_mut()
            .unwrap()
            .retain(|key, value| key != "dns" || *value != json!({}));
        result
    });
    let [theirs, ours] = &mut results;
    assert_eq!(theirs, ours);
}

#[test]
fn two_families_and_routes() {
    on_host(|host| async move {
        let config = json!({
            "cniVersion": "0.4.0", "name": "dual",
            "plugins": [{
                "type": "bridge", "isGateway": true, "ipMasq": true, "mtu": 1400, "hairpinMode": true,
                "ipam": {
                    "type": "host-local", "dataDir": host.path("leases"), "subnet": "10.9.0.0/24", "gateway": "10.9.0.254",
                    "ranges": [[{ "subnet": "fd00:9::/64", "rangeStart": "fd00:9::10" }]],
                    "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }, { "dst": "192.0.2.0/24", "gw": "10.9.0.7" }],
                },
            }, portmap()],
        });
        host.configure("10.conflist", &config.to_string());
        let network = host.network();
        assert_eq!(network.describe()["native"], true, "{}", network.describe());
        let (one, two) = (Place::new("one").port(8080, 80, None), Place::new("two"));
        let first = network.attach(&one.pod).await.unwrap();
        network.attach(&two.pod).await.unwrap();
        assert_eq!(first.ips, [address("10.9.0.1"), address("fd00:9::10")]);
        one.serve(80);
        assert!(two.ask(address("10.9.0.1"), 80).is_some());
        assert!(two.ask(address("fd00:9::10"), 80).is_some(), "IPv6");
        assert!(
            ask(address("fd00:9::1"), 8080).is_some(),
            "IPv6 host port from the host"
        );
        assert!(two.ask(address("fd00:9::1"), 8080).is_some(), "IPv6 host port");
        assert!(one.ask(address("fd00:9::1"), 8080).is_some(), "IPv6 hairpin");
        one.inside(|| {
            let routes = support::ip("route") + &support::ip("-6 route");
            for expected in [
                "default via 10.9.0.254",
                "default via fd00:9::1",
                "192.0.2.0/24 via 10.9.0.7",
            ] {
                assert!(routes.contains(expected), "{expected}: {routes}");
            }
            assert!(support::ip("link show eth0").contains("mtu 1400"));
        });
        network.detach("one").await.unwrap();
        assert_eq!(host.leases("dual").len(), 2);
    });
}
