use super::*;

fn request(edit: impl FnOnce(&mut cri::PodSandboxConfig)) -> cri::RunPodSandboxRequest {
    let mut config = cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: "web".into(),
            uid: "u-1".into(),
            namespace: "default".into(),
            attempt: 2,
        }),
        ..Default::default()
    };
    edit(&mut config);
    cri::RunPodSandboxRequest {
        config: Some(config),
        runtime_handler: String::new(),
    }
}

fn with_options(options: cri::NamespaceOption) -> cri::RunPodSandboxRequest {
    request(|config| {
        config.linux = Some(cri::LinuxPodSandboxConfig {
            security_context: Some(cri::LinuxSandboxSecurityContext {
                namespace_options: Some(options),
                ..Default::default()
            }),
            ..Default::default()
        });
    })
}

fn mapping(container_id: u32, host_id: u32, length: u32) -> cri::IdMapping {
    cri::IdMapping {
        container_id,
        host_id,
        length,
    }
}

#[test]
fn the_least_request_works() {
    let config = sandbox(&request(|_| {})).unwrap();
    assert_eq!((config.name.as_str(), config.attempt), ("web", 2));
    assert_eq!(config.namespaces, Namespaces::default());
    let json = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<SandboxConfig>(&json).unwrap(), config);
}

#[test]
fn refuses_what_can_never_work() {
    assert!(sandbox(&cri::RunPodSandboxRequest::default()).is_err());
    let cases: Vec<(&str, cri::RunPodSandboxRequest)> = vec![
        ("no metadata", request(|c| c.metadata = None)),
        (
            "name",
            request(|c| c.metadata.as_mut().unwrap().name = "a;K8S_POD_NAME=b".into()),
        ),
        ("hostname", request(|c| c.hostname = "a b".into())),
        ("hostname length", request(|c| c.hostname = "a".repeat(65))),
        ("log directory", request(|c| c.log_directory = "var/log".into())),
        (
            "log directory",
            request(|c| c.log_directory = "/var/../etc".into()),
        ),
        (
            "dns",
            request(|c| {
                c.dns_config = Some(cri::DnsConfig {
                    servers: vec!["1.1.1.1\nx".into()],
                    ..Default::default()
                })
            }),
        ),
        (
            "port",
            request(|c| {
                c.port_mappings = vec![cri::PortMapping {
                    host_port: -1,
                    ..Default::default()
                }]
            }),
        ),
        (
            "port",
            request(|c| {
                c.port_mappings = vec![cri::PortMapping {
                    host_port: 65536,
                    container_port: 1,
                    ..Default::default()
                }];
            }),
        ),
        (
            "cgroup parent",
            request(|c| {
                c.linux = Some(cri::LinuxPodSandboxConfig {
                    cgroup_parent: "/a/../b".into(),
                    ..Default::default()
                });
            }),
        ),
        (
            "cgroup parent of systemd's",
            request(|c| {
                c.linux = Some(cri::LinuxPodSandboxConfig {
                    cgroup_parent: "/b.slice/a-b.slice".into(),
                    ..Default::default()
                });
            }),
        ),
    ];
    for (name, request) in cases {
        assert!(sandbox(&request).is_err(), "{name}");
    }
}

#[test]
fn user_namespaces() {
    use cri::NamespaceMode as Mode;
    let with = |mode: Mode, uids: Vec<cri::IdMapping>, gids: Vec<cri::IdMapping>| {
        let userns = cri::UserNamespace {
            mode: mode.into(),
            uids,
            gids,
        };
        sandbox(&with_options(cri::NamespaceOption {
            userns_options: Some(userns),
            ..Default::default()
        }))
    };
    let good = mapping(0, 1000, 100_000);
    let maps = with(Mode::Pod, vec![good], vec![good]).unwrap().user.unwrap();
    assert_eq!(
        maps.uid,
        [IdMap {
            container_id: 0,
            host_id: 1000,
            length: 100_000
        }]
    );
    assert!(with(Mode::Node, vec![], vec![]).unwrap().user.is_none());
    for (name, result) in [
        ("two", with(Mode::Pod, vec![good, good], vec![good])),
        ("none", with(Mode::Pod, vec![], vec![])),
        (
            "root not mapped",
            with(Mode::Pod, vec![mapping(1, 1000, 9)], vec![mapping(1, 1000, 9)]),
        ),
        ("lengths", with(Mode::Pod, vec![good], vec![mapping(0, 1000, 5)])),
        (
            "overflow",
            with(
                Mode::Pod,
                vec![mapping(0, u32::MAX, 2)],
                vec![mapping(0, u32::MAX, 2)],
            ),
        ),
        ("container", with(Mode::Container, vec![], vec![])),
        ("target", with(Mode::Target, vec![], vec![])),
        ("node", with(Mode::Node, vec![good], vec![good])),
    ] {
        assert!(result.is_err(), "{name}");
    }
}

#[test]
fn sysctls_stay_in_the_pod() {
    let pod = Namespaces::default();
    let check = |key: &str, value: &str, namespaces| {
        sysctls(
            &std::collections::HashMap::from([(key.to_owned(), value.to_owned())]),
            namespaces,
        )
    };
    for good in [
        "kernel.shm_rmid_forced",
        "kernel.msgmax",
        "kernel.sem",
        "fs.mqueue.msg_max",
        "net.ipv4.ip_forward",
    ] {
        assert!(check(good, "1", pod).is_ok(), "{good}");
    }
    for bad in [
        "kernel.core_pattern",
        "kernel.semx",
        "vm.swappiness",
        "net/ipv4/x",
        "net..ipv4",
        "net.../../kernel.core_pattern",
        "net.a b",
        "",
    ] {
        assert!(check(bad, "1", pod).is_err(), "{bad}");
    }
    assert!(check("kernel.shm_rmid_forced", "1+kernel.core_pattern=x\n", pod).is_err());
    let host_network = Namespaces {
        network: Network::Node,
        ..pod
    };
    assert!(check("net.core.somaxconn", "1", host_network).is_err());
    let host_ipc = Namespaces {
        ipc: Ipc::Node,
        ..pod
    };
    assert!(check("kernel.shmmax", "1", host_ipc).is_err());
    assert!(check("net.core.somaxconn", "1", host_ipc).is_ok());
}

#[test]
fn ports_without_a_host_port_are_left_out() {
    let port = |host_port, host_ip: &str| cri::PortMapping {
        protocol: cri::Protocol::Udp.into(),
        container_port: 53,
        host_port,
        host_ip: host_ip.into(),
    };
    let got = ports(&[port(0, ""), port(5353, "0.0.0.0"), port(5354, "127.0.0.1")]).unwrap();
    assert_eq!(got.len(), 2);
    assert_eq!(
        (got[0].host_port, got[0].host_ip, got[0].protocol),
        (5353, None, Protocol::Udp)
    );
    assert!(got[1].host_ip.is_some());
    assert!(ports(&[port(1, "localhost")]).is_err());
}
