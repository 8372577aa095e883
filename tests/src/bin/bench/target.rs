//! A running daemon that is measured, and what is asked of it.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use criquet_tests::leak::Place;
use criquet_tests::{BUSYBOX, Cri, Node, PAUSE, Settings, container, cri, image, pod};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::containerd::Containerd;
use crate::figures::Who;

/// What the containers of pods that only exist run: told from the runtimes' own processes by it.
pub(crate) const IDLE: [&str; 2] = ["sleep", "4242424"];
/// A pod's memory limit, bytes: any; both runtimes have to write it.
const MEMORY_BYTES: i64 = 128 << 20;
/// A pod's share of processor time: a tenth of a processor as the kubelet says it.
const CPU_SHARES: i64 = 102;

enum Daemon {
    Criquet(Box<Node>),
    Containerd(Box<Containerd>),
}

/// A daemon under measurement.
pub(crate) struct Target {
    pub(crate) who: Who,
    daemon: Daemon,
}

/// A pod with one container.
#[derive(Debug, Clone)]
pub(crate) struct Running {
    pub(crate) pod: String,
    pub(crate) container: String,
}

impl Target {
    /// criquet with the bridge that it makes itself, from the same CNI configuration.
    pub(crate) fn criquet() -> Target {
        Target::node(Who::Criquet, true)
    }

    /// criquet that runs the CNI plugins' programs.
    pub(crate) fn criquet_with_plugins() -> Target {
        Target::node(Who::CriquetPlugins, false)
    }

    fn node(who: Who, native: bool) -> Target {
        let node = Node::with(Settings {
            config: format!("[log]\nlevel = \"warn\"\n[network]\nnative = {native}\n"),
            ..Settings::default()
        });
        let place = &node.place;
        let folder = place.folder.join("cni");
        let subnet = format!("{}0.0/16", place.addresses);
        let text = conflist(&place.bridge, &subnet, &place.folder.join("leases"));
        fs::write(folder.join("10-bench.conflist"), text).expect("write the CNI configuration");
        Target {
            who,
            daemon: Daemon::Criquet(Box::new(node)),
        }
    }

    /// containerd, in the network namespace and with the registries of `beside`.
    pub(crate) fn containerd(beside: &Target) -> Target {
        let certs = beside.place().folder.join("certs.d");
        Target {
            who: Who::Containerd,
            daemon: Daemon::Containerd(Box::new(Containerd::start(&certs))),
        }
    }

    pub(crate) fn cri(&self) -> &Cri {
        match &self.daemon {
            Daemon::Criquet(node) => node.cri(),
            Daemon::Containerd(peer) => &peer.client,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        match &self.daemon {
            Daemon::Criquet(node) => node.pid(),
            Daemon::Containerd(peer) => peer.pid(),
        }
    }

    pub(crate) fn place(&self) -> &Place {
        match &self.daemon {
            Daemon::Criquet(node) => &node.place,
            Daemon::Containerd(peer) => &peer.place,
        }
    }

    /// `kill -9`, and a new start that is not waited for.
    pub(crate) fn crash(&mut self) {
        match &mut self.daemon {
            Daemon::Criquet(node) => {
                node.kill();
                node.spawn();
            }
            Daemon::Containerd(peer) => {
                peer.kill();
                peer.spawn();
            }
        }
    }

    /// Pulls what pods need, and runs one that is not measured.
    pub(crate) fn prepare(&self) {
        for name in [BUSYBOX, PAUSE] {
            let request = cri::PullImageRequest {
                image: Some(image(name)),
                ..cri::PullImageRequest::default()
            };
            self.cri().pull_image(request).expect("PullImage");
        }
        for host_network in [false, true] {
            let running = self.launch(host_network, &IDLE);
            self.exec_true(&running);
            self.remove(&running.pod);
        }
    }

    /// The pod that a kubelet would ask for.
    pub(crate) fn pod_config(&self, host_network: bool) -> cri::PodSandboxConfig {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let mut config = pod(&format!("bench-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        let uid = config
            .metadata
            .as_ref()
            .map(|metadata| metadata.uid.clone())
            .unwrap_or_default();
        config.log_directory = self.logs(&uid).to_string_lossy().into_owned();
        let linux = config.linux.as_mut().expect("linux");
        linux.cgroup_parent.clone_from(&self.place().cgroup);
        if host_network {
            let security = linux.security_context.as_mut().expect("security context");
            let namespaces = security.namespace_options.as_mut().expect("namespaces");
            namespaces.network = cri::NamespaceMode::Node.into();
            config.hostname.clear();
        }
        config
    }

    fn logs(&self, uid: &str) -> PathBuf {
        self.place().folder.join("logs").join(uid)
    }

    /// RunPodSandbox, CreateContainer, StartContainer.
    pub(crate) fn launch(&self, host_network: bool, command: &[&str]) -> Running {
        self.launch_timed(
            &self.pod_config(host_network),
            container_config(host_network, command),
        )
        .0
    }

    /// As [`Target::launch`], with the milliseconds of each of the three calls.
    pub(crate) fn launch_timed(
        &self,
        pod: &cri::PodSandboxConfig,
        config: cri::ContainerConfig,
    ) -> (Running, [f64; 3]) {
        let client = self.cri();
        let start = Instant::now();
        let request = cri::RunPodSandboxRequest {
            config: Some(pod.clone()),
            ..cri::RunPodSandboxRequest::default()
        };
        let id = client
            .run_pod_sandbox(request)
            .expect("RunPodSandbox")
            .pod_sandbox_id;
        let sandbox = ms(start);
        let request = create_request(&id, pod, config);
        let container = client
            .create_container(request)
            .expect("CreateContainer")
            .container_id;
        let created = ms(start);
        let request = cri::StartContainerRequest {
            container_id: container.clone(),
        };
        client.start_container(request).expect("StartContainer");
        let started = ms(start);
        (
            Running { pod: id, container },
            [sandbox, created - sandbox, started - created],
        )
    }

    /// ExecSync of /bin/true, in milliseconds.
    pub(crate) fn exec_true(&self, running: &Running) -> f64 {
        let start = Instant::now();
        let request = cri::ExecSyncRequest {
            container_id: running.container.clone(),
            cmd: vec!["/bin/true".into()],
            timeout: 30,
        };
        let answer = self.cri().exec_sync(request).expect("ExecSync");
        assert_eq!(answer.exit_code, 0, "/bin/true in a container");
        ms(start)
    }

    /// StopPodSandbox and RemovePodSandbox, in milliseconds each: the container is killed and goes with the pod.
    pub(crate) fn remove(&self, pod: &str) -> [f64; 2] {
        let start = Instant::now();
        let request = cri::StopPodSandboxRequest {
            pod_sandbox_id: pod.into(),
        };
        self.cri().stop_pod_sandbox(request).expect("StopPodSandbox");
        let stopped = ms(start);
        let request = cri::RemovePodSandboxRequest {
            pod_sandbox_id: pod.into(),
        };
        self.cri().remove_pod_sandbox(request).expect("RemovePodSandbox");
        [stopped, ms(start) - stopped]
    }

    /// Removes a pod that nothing more is measured on. What a peer cannot remove goes with it in the end.
    pub(crate) fn give_up(&self, pod: &str) {
        if self.who == Who::Containerd {
            let request = cri::RemovePodSandboxRequest {
                pod_sandbox_id: pod.into(),
            };
            if let Err(status) = self.cri().remove_pod_sandbox(request) {
                eprintln!("bench: containerd, RemovePodSandbox: {}", status.message());
            }
        } else {
            self.remove(pod);
        }
    }

    /// Ends the daemon; criquet's node looks for leaks.
    pub(crate) fn finish(self) {
        if let Daemon::Criquet(node) = &self.daemon {
            let namespace =
                File::open(format!("/proc/{}/ns/net", node.pid())).expect("open a network namespace");
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).expect("setns");
        }
    }
}

/// A container with the limits that a kubelet would set.
pub(crate) fn container_config(host_network: bool, command: &[&str]) -> cri::ContainerConfig {
    let mut config = container("main", BUSYBOX, command);
    let linux = config.linux.as_mut().expect("linux");
    linux.resources = Some(cri::LinuxContainerResources {
        cpu_shares: CPU_SHARES,
        memory_limit_in_bytes: MEMORY_BYTES,
        oom_score_adj: 1000,
        ..cri::LinuxContainerResources::default()
    });
    if host_network {
        let security = linux.security_context.as_mut().expect("security context");
        let namespaces = security.namespace_options.as_mut().expect("namespaces");
        namespaces.network = cri::NamespaceMode::Node.into();
    }
    config
}

pub(crate) fn create_request(
    pod: &str,
    sandbox: &cri::PodSandboxConfig,
    config: cri::ContainerConfig,
) -> cri::CreateContainerRequest {
    cri::CreateContainerRequest {
        pod_sandbox_id: pod.into(),
        config: Some(config),
        sandbox_config: Some(sandbox.clone()),
    }
}

/// The same network for all: a bridge with masquerading, leases in files, port mapping.
pub(crate) fn conflist(bridge: &str, subnet: &str, leases: &Path) -> String {
    format!(
        r#"{{"cniVersion": "1.0.0", "name": "bench", "plugins": [
  {{"type": "bridge", "bridge": "{bridge}", "isGateway": true, "ipMasq": true, "hairpinMode": true,
    "ipam": {{"type": "host-local", "dataDir": "{leases}", "ranges": [[{{"subnet": "{subnet}"}}]],
             "routes": [{{"dst": "0.0.0.0/0"}}]}}}},
  {{"type": "portmap", "capabilities": {{"portMappings": true}}}}
]}}"#,
        leases = leases.display(),
    )
}

/// Milliseconds since `start`.
pub(crate) fn ms(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1000.0
}
