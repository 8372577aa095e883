use super::*;
use crate::container::config::{Propagation, SeccompProfile, Source};
use crate::sandbox::config::{IdMap, UserMaps};

fn request(edit: impl FnOnce(&mut cri::ContainerConfig)) -> cri::ContainerConfig {
    let mut config = cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata {
            name: "app".into(),
            attempt: 1,
        }),
        image: Some(cri::ImageSpec {
            image: "sha256:abc".into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    edit(&mut config);
    config
}

fn secured(edit: impl FnOnce(&mut cri::LinuxContainerSecurityContext)) -> cri::ContainerConfig {
    request(|config| {
        let mut security = cri::LinuxContainerSecurityContext::default();
        edit(&mut security);
        config.linux = Some(cri::LinuxContainerConfig {
            security_context: Some(security),
            ..Default::default()
        });
    })
}

fn mounted(edit: impl FnOnce(&mut cri::Mount)) -> cri::ContainerConfig {
    request(|config| {
        let mut mount = cri::Mount {
            container_path: "/data".into(),
            host_path: "/var/data".into(),
            ..Default::default()
        };
        edit(&mut mount);
        config.mounts = vec![mount];
    })
}

fn check(config: &cri::ContainerConfig) -> Result<ContainerConfig> {
    container(config, &SandboxConfig::default())
}

#[test]
fn the_least_request_works_and_survives_its_record() {
    let config = check(&request(|_| {})).unwrap();
    assert_eq!(config.security.seccomp, SeccompProfile::None);
    let json = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<ContainerConfig>(&json).unwrap(), config);
}

#[test]
fn refuses_what_can_never_work() {
    let key = |key: &str, value: &[u8]| cri::KeyValue {
        key: key.into(),
        value: value.to_vec(),
    };
    let cases: Vec<(&str, cri::ContainerConfig)> = vec![
        ("metadata", request(|c| c.metadata = None)),
        ("image", request(|c| c.image = None)),
        ("image", request(|c| c.image = Some(cri::ImageSpec::default()))),
        ("log path", request(|c| c.log_path = "../../etc/passwd".into())),
        ("log path", request(|c| c.log_path = "/etc/passwd".into())),
        ("cwd", request(|c| c.working_dir = "tmp".into())),
        ("cwd", request(|c| c.working_dir = "/proc/self/fd/../7".into())),
        ("command", request(|c| c.command = vec!["a\0b".into()])),
        ("env", request(|c| c.envs = vec![key("A=B", b"x")])),
        ("env", request(|c| c.envs = vec![key("", b"x")])),
        ("env", request(|c| c.envs = vec![key("A", b"x\0y")])),
        ("signal", request(|c| c.stop_signal = 66)),
        (
            "cdi",
            request(|c| {
                c.cdi_devices = vec![cri::CdiDevice {
                    name: "vendor.com/gpu=0".into(),
                }]
            }),
        ),
        (
            "device",
            request(|c| {
                c.devices = vec![cri::Device {
                    host_path: "dev/null".into(),
                    ..Default::default()
                }]
            }),
        ),
        (
            "group",
            secured(|s| s.run_as_group = Some(cri::Int64Value { value: 1 })),
        ),
        (
            "uid",
            secured(|s| s.run_as_user = Some(cri::Int64Value { value: -1 })),
        ),
        (
            "uid",
            secured(|s| s.run_as_user = Some(cri::Int64Value { value: 1 << 32 })),
        ),
        ("gid", secured(|s| s.supplemental_groups = vec![0, 1 << 33])),
        ("privileged", secured(|s| s.privileged = true)),
        ("masked", secured(|s| s.masked_paths = vec!["proc/kcore".into()])),
        (
            "capability",
            secured(|s| {
                s.capabilities = Some(cri::Capability {
                    add_capabilities: vec!["FLY".into()],
                    ..Default::default()
                });
            }),
        ),
        (
            "target",
            secured(|s| {
                s.namespace_options = Some(cri::NamespaceOption {
                    pid: 3,
                    ..Default::default()
                })
            }),
        ),
        ("mount root", mounted(|m| m.container_path = "//.".into())),
        ("mount relative", mounted(|m| m.container_path = "data".into())),
        ("mount source", mounted(|m| m.host_path = String::new())),
        ("mount source", mounted(|m| m.host_path = "/a/../b".into())),
        ("mount option", mounted(|m| m.mount_options = vec!["suid".into()])),
    ];
    for (name, config) in cases {
        assert!(check(&config).is_err(), "{name}");
    }
}

#[test]
fn recursive_read_only_needs_readonly_and_private() {
    let with = |readonly, propagation| {
        check(&mounted(|m| {
            m.readonly = readonly;
            m.recursive_read_only = true;
            m.propagation = propagation;
        }))
    };
    assert!(with(false, 0).is_err());
    assert!(with(true, 1).is_err());
    assert!(with(true, 2).is_err());
    let mount = with(true, 0).unwrap().mounts.remove(0);
    assert!(mount.recursive_readonly && mount.propagation == Propagation::Private);
}

#[test]
fn image_volumes_are_read_only() {
    let with = |edit: fn(&mut cri::Mount)| {
        check(&mounted(|m| {
            m.host_path = String::new();
            m.readonly = true;
            m.image = Some(cri::ImageSpec {
                image: "sha256:def".into(),
                ..Default::default()
            });
            m.image_sub_path = "etc".into();
            edit(m);
        }))
    };
    assert!(matches!(&with(|_| {}).unwrap().mounts[0].source, Source::Image(v) if v.sub_path == "etc"));
    assert!(with(|m| m.readonly = false).is_err());
    assert!(with(|m| m.host_path = "/x".into()).is_err());
    assert!(with(|m| m.image_sub_path = "../x".into()).is_err());
    assert!(with(|m| m.image_sub_path = "/x".into()).is_err());
    assert!(with(|m| m.image = None).is_err());
}

#[test]
fn stop_signals_round_trip() {
    assert_eq!(check(&request(|_| {})).unwrap().stop_signal, None);
    for (value, number) in [
        (1, 6),
        (8, 1),
        (18, 3),
        (23, 15),
        (35, 34),
        (50, 49),
        (51, 50),
        (65, 64),
    ] {
        assert_eq!(
            check(&request(|c| c.stop_signal = value)).unwrap().stop_signal,
            Some(number),
            "{value}"
        );
        assert_eq!(i32::from(stop_signal_answer(number)), value);
    }
    for value in 1..=65 {
        assert!(
            check(&request(|c| c.stop_signal = value))
                .unwrap()
                .stop_signal
                .is_some(),
            "{value}"
        );
    }
}

#[test]
fn capabilities_with_and_without_prefix() {
    let caps = |add: &[&str], drop: &[&str]| {
        let list = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect();
        cri::Capability {
            add_capabilities: list(add),
            drop_capabilities: list(drop),
            ..Default::default()
        }
    };
    let got = check(&secured(|s| {
        s.capabilities = Some(caps(&["all", "CAP_SYS_TIME"], &["net_raw"]))
    }))
    .unwrap();
    let got = got.security.capabilities;
    assert!(got.add_all && !got.drop_all);
    assert_eq!((got.add, got.drop), (1 << 25, 1 << 13));
}

#[test]
fn the_user_namespace_is_the_sandboxes() {
    let map = |host_id| {
        vec![IdMap {
            container_id: 0,
            host_id,
            length: 65536,
        }]
    };
    let sandbox = SandboxConfig {
        user: Some(UserMaps {
            uid: map(7),
            gid: map(7),
        }),
        ..Default::default()
    };
    let with = |host_id| {
        let ids = vec![cri::IdMapping {
            host_id,
            container_id: 0,
            length: 65536,
        }];
        let userns = cri::UserNamespace {
            mode: 0,
            uids: ids.clone(),
            gids: ids,
        };
        secured(|s| {
            s.namespace_options = Some(cri::NamespaceOption {
                userns_options: Some(userns),
                ..Default::default()
            });
        })
    };
    assert!(container(&with(7), &sandbox).is_ok());
    assert!(container(&with(8), &sandbox).is_err());
    assert!(container(&with(7), &SandboxConfig::default()).is_err());
}
