use super::*;
use crate::container::config::{Device, SeccompProfile};
use crate::sandbox::config::{IdMap, UserMaps};

/// A container on a cgroup v2 host, to be changed by tests.
pub(super) struct Fixture {
    pub dir: tempfile::TempDir,
    pub config: ContainerConfig,
    pub sandbox: SandboxConfig,
    pub image: Image,
    pub volume_images: BTreeMap<String, Arc<Image>>,
    pub host: host::HostFacts,
    pub namespaces: Joined,
    root: std::path::PathBuf,
}

impl Fixture {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let layer = dir.path().join("layer");
        std::fs::create_dir_all(layer.join("etc")).unwrap();
        std::fs::write(
            layer.join("etc/passwd"),
            "root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/app:\n",
        )
        .unwrap();
        let image = Image {
            id: String::new(),
            repo_tags: vec![],
            repo_digests: vec![],
            size: 1,
            pinned: false,
            config: ImageConfig {
                cmd: vec!["/bin/sh".into()],
                ..ImageConfig::default()
            },
            layers: vec![layer],
            config_json: "".into(),
        };
        Self {
            root: dir.path().join("root"),
            dir,
            config: ContainerConfig::default(),
            sandbox: SandboxConfig {
                log_directory: "/var/log/pods/x".into(),
                ..SandboxConfig::default()
            },
            image,
            volume_images: BTreeMap::new(),
            host: host::tests::v2(),
            namespaces: Joined {
                network: Join::Fd(1),
                ipc: Join::Fd(2),
                uts: Join::Fd(3),
                pid: Join::New,
                user: Join::Host,
            },
        }
    }

    pub(super) fn inputs(&self) -> Inputs<'_> {
        Inputs {
            id: "abc",
            config: &self.config,
            sandbox: &self.sandbox,
            hosts_file: Path::new("/run/criquet/hosts"),
            hostname: "pod-1",
            hostname_file: Path::new("/run/criquet/hostname"),
            resolv_conf_file: Path::new("/run/criquet/resolv.conf"),
            shm: Path::new("/run/criquet/shm"),
            image: &self.image,
            volume_images: &self.volume_images,
            root: &self.root,
            state_dir: Path::new("/run/criquet/abc"),
            host: &self.host,
            cgroup_parent: "/criquet",
            seccomp_dir: Path::new("/var/lib/kubelet/seccomp"),
            namespaces: self.namespaces,
        }
    }
}

fn built(fixture: &Fixture) -> (shim::Plan, shim::Process) {
    let plan = build(&fixture.inputs()).unwrap();
    let process = plan.process.clone().unwrap();
    (plan, process)
}

#[test]
fn the_least_container() {
    let fixture = Fixture::new();
    let (plan, process) = built(&fixture);
    assert_eq!(plan.version, shim::VERSION);
    assert_eq!(process.args, [b"/bin/sh"]);
    assert_eq!(
        (process.uid, process.gid, process.cwd.as_str(), process.umask),
        (0, 0, "/", 0o022)
    );
    assert!(
        process.env.contains(&b"HOSTNAME=pod-1".to_vec()) && process.env.contains(&b"HOME=/root".to_vec())
    );
    assert_eq!(process.bounding, 0xa804_25fb);
    assert!(process.seccomp.is_empty(), "nothing asked for is unconfined");
    assert_eq!(plan.log.unwrap(), shim::Log::default(), "no log path, no log");
    let rootfs = plan.rootfs.unwrap();
    assert!(rootfs.upper.ends_with("/root/upper") && Path::new(&rootfs.upper).is_dir());
    assert!(rootfs.work.ends_with("/root/work") && Path::new(&rootfs.work).is_dir());
    let namespaces = plan.namespaces.unwrap();
    assert_eq!(
        namespaces.network.unwrap(),
        shim::Namespace {
            kind: shim::namespace::Kind::Join.into(),
            fd: 1
        }
    );
    assert_eq!(namespaces.cgroup.unwrap().kind(), shim::namespace::Kind::New);
    assert!(!plan.cgroup.unwrap().device_program.is_empty());
}

#[test]
fn a_privileged_container_is_confined_by_nothing() {
    let mut fixture = Fixture::new();
    fixture.config.security.privileged = true;
    fixture.config.security.masked_paths = vec!["/proc/kcore".into()];
    fixture.config.security.seccomp = SeccompProfile::RuntimeDefault;
    let (plan, process) = built(&fixture);
    assert_eq!(process.bounding, fixture.host.capabilities);
    assert!(process.seccomp.is_empty() && plan.masked_paths.is_empty() && plan.writable_sys);
    assert!(plan.cgroup.unwrap().device_program.is_empty());
    assert_eq!(
        plan.namespaces.unwrap().cgroup.unwrap().kind(),
        shim::namespace::Kind::Host
    );
}

#[test]
fn user_maps_and_devices() {
    let mut fixture = Fixture::new();
    let map = vec![IdMap {
        container_id: 0,
        host_id: 1000,
        length: 65536,
    }];
    fixture.sandbox.user = Some(UserMaps {
        uid: map.clone(),
        gid: map,
    });
    fixture.namespaces.user = Join::Fd(4);
    fixture.config.devices = vec![Device {
        container_path: "/dev/n".into(),
        host_path: "/dev/null".into(),
        permissions: "r".into(),
    }];
    let (plan, _) = built(&fixture);
    let namespaces = plan.namespaces.unwrap();
    assert_eq!(
        namespaces.uid_maps,
        [shim::IdMap {
            container_id: 0,
            host_id: 1000,
            length: 65536
        }]
    );
    assert_eq!(plan.devices[0].host_path, "/dev/null");
}

#[test]
fn oom_scores_are_clamped_to_what_the_host_allows() {
    let mut fixture = Fixture::new();
    fixture.host.oom_score_adj_min = -100;
    fixture.config.resources.oom_score_adj = Some(-999);
    assert_eq!(built(&fixture).1.oom_score_adj, -100);
    fixture.config.resources.oom_score_adj = Some(999);
    assert_eq!(built(&fixture).1.oom_score_adj, 999);
    fixture.config.resources.oom_score_adj = None;
    assert!(!built(&fixture).1.has_oom_score_adj);
}

#[test]
fn logs_need_both_halves() {
    let mut fixture = Fixture::new();
    fixture.config.log_path = "app/0.log".into();
    let log = built(&fixture).0.log.unwrap();
    assert_eq!(
        (log.dir.as_str(), log.path.as_str()),
        ("/var/log/pods/x", "app/0.log")
    );
    fixture.sandbox.log_directory.clear();
    assert_eq!(built(&fixture).0.log.unwrap(), shim::Log::default());
}

#[test]
fn an_exec_keeps_everything_but_its_command() {
    let mut fixture = Fixture::new();
    fixture.config.security.run_as_username = "app".into();
    let (_, process) = built(&fixture);
    let exec = exec_process(process.clone(), vec!["id".into()], true);
    assert_eq!(exec.args, [b"id"]);
    assert!(exec.terminal && exec.env.contains(&b"TERM=xterm".to_vec()));
    let same = |p: &shim::Process| {
        (
            p.uid,
            p.gid,
            p.groups.clone(),
            p.bounding,
            p.effective,
            p.seccomp.clone(),
        )
    };
    assert_eq!(same(&exec), same(&process));
    assert_eq!((exec.uid, exec.effective), (1000, 0));
}

#[test]
fn stop_signals() {
    let image = |text: &str| ImageConfig {
        stop_signal: text.into(),
        ..ImageConfig::default()
    };
    let none = ContainerConfig::default();
    assert_eq!(stop_signal(&none, &image("")).unwrap(), 15);
    assert_eq!(stop_signal(&none, &image("SIGRTMIN+3")).unwrap(), 37);
    assert!(stop_signal(&none, &image("SIGNOPE")).is_err());
    let asked = ContainerConfig {
        stop_signal: Some(9),
        ..ContainerConfig::default()
    };
    assert_eq!(stop_signal(&asked, &image("SIGNOPE")).unwrap(), 9);
}

#[test]
fn working_folders() {
    assert_eq!(cwd("", "").unwrap(), "/");
    assert_eq!(cwd("", "app").unwrap(), "/app");
    assert_eq!(cwd("/x", "app").unwrap(), "/x");
    assert!(cwd("", "a\0b").is_err());
}

#[test]
fn descriptors_fit_one_message() {
    assert_eq!(Join::at(3).unwrap(), Join::Fd(3));
    assert!(Join::at(shim::FDS_MAX).is_err());
}
