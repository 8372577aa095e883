//! A node of a test's own: network namespace, folders, registry, daemon.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use criquet_proto::cri;

mod process;

use crate::leak::{self, Baseline, Place};
use crate::{Cri, Output, Pod, Registry, eventually, image, namespace, run, tool};

/// The test images' registry listens here in every node's namespace.
const REGISTRY_PORT: u16 = 5000;
/// An exec of a test takes no longer, in seconds.
const EXEC_S: i64 = 120;
/// Lines of the daemon's log that a failed test shows.
const LOG_LINES: usize = 60;

/// What is special about a node.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// A drop-in configuration, TOML.
    pub config: String,
    /// Environment of the daemon.
    pub environment: Vec<(String, String)>,
}

/// A running daemon with all around it. Dropping it checks that nothing is left.
pub struct Node {
    /// Where its things are.
    pub place: Place,
    /// The registry with the test images.
    pub registry: Registry,
    settings: Settings,
    client: Cri,
    daemon: Option<Child>,
    baseline: Baseline,
    ids: Mutex<Vec<String>>,
    /// Where in the log the daemon's own lines begin.
    log_start: usize,
}

impl Node {
    /// A node with the default configuration. The calling thread moves into the node's network namespace.
    pub fn start() -> Node {
        Node::with(Settings::default())
    }

    /// A node with a drop-in configuration.
    pub fn configured(config: &str) -> Node {
        Node::with(Settings {
            config: config.into(),
            ..Settings::default()
        })
    }

    /// A node as `settings` say.
    pub fn with(settings: Settings) -> Node {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let name = format!(
            "criquet-test-{}-{:03}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        namespace::enter_new();
        let place = Place {
            folder: PathBuf::from("/var/tmp").join(&name),
            state: PathBuf::from("/run").join(&name),
            cgroup: format!("/{name}"),
            bridge: "cqtest0".into(),
            addresses: "10.201.".into(),
        };
        for folder in ["", "root", "logs", "certs.d", "cni", "config.d", "work"] {
            fs::create_dir_all(place.folder.join(folder)).expect("create the node's folder");
        }
        fs::create_dir_all(&place.state).expect("create the node's state folder");
        let registry = Registry::of_images(&place.folder, REGISTRY_PORT);
        registry.write_hosts(&place.folder.join("certs.d"));
        fs::write(place.folder.join("config.toml"), configuration(&place)).expect("write the configuration");
        if !settings.config.is_empty() {
            fs::write(place.folder.join("config.d/test.toml"), &settings.config).expect("write the drop-in");
        }
        let client = Cri::new(&place.state.join("criquet.sock"));
        let ids = Mutex::new(Vec::new());
        let mut node = Node {
            place,
            registry,
            settings,
            client,
            daemon: None,
            baseline: Baseline::default(),
            ids,
            log_start: 0,
        };
        node.up();
        node.baseline = Baseline::take(&node.place, node.pid());
        node
    }

    /// The CRI client.
    pub fn cri(&self) -> &Cri {
        &self.client
    }

    /// The daemon's socket.
    pub fn socket(&self) -> PathBuf {
        self.place.state.join("criquet.sock")
    }

    /// The daemon's process id.
    pub fn pid(&self) -> u32 {
        self.daemon.as_ref().map_or(0, Child::id)
    }

    /// A folder for the test's own files.
    pub fn work(&self) -> PathBuf {
        self.place.folder.join("work")
    }

    /// The daemon's log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.place.folder.join("daemon.log")).unwrap_or_default()
    }

    /// Runs `criquet ARGUMENTS` against this node's daemon.
    pub fn criquet(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(tool::daemon());
        command
            .args(arguments)
            .env("CRIQUET_SOCKET", self.socket())
            .stdin(Stdio::null());
        Output::of(command.output().expect("run criquet"))
    }

    /// Runs `criquet ARGUMENTS`, a command that talks to no daemon.
    pub fn criquet_alone(&self, arguments: &[&str]) -> Output {
        run(tool::daemon(), arguments)
    }

    /// Runs `crictl ARGUMENTS` against this node's daemon.
    pub fn crictl(&self, arguments: &[&str]) -> Output {
        let mut command = self.crictl_command(arguments);
        Output::of(command.stdin(Stdio::null()).output().expect("run crictl"))
    }

    /// `crictl ARGUMENTS`, not yet started.
    pub fn crictl_command(&self, arguments: &[&str]) -> Command {
        let endpoint = format!("unix://{}", self.socket().display());
        let mut command = Command::new(tool::go_tool("crictl"));
        command
            .args([
                "--config",
                "/dev/null",
                "--timeout",
                "120s",
                "-r",
                &endpoint,
                "-i",
                &endpoint,
            ])
            .args(arguments);
        command
    }

    /// Pulls an image, unless it is there, and gives its id.
    #[track_caller]
    pub fn pull(&self, name: &str) -> String {
        let request = cri::ImageStatusRequest {
            image: Some(image(name)),
            ..cri::ImageStatusRequest::default()
        };
        if let Some(found) = self.client.image_status(request).expect("ImageStatus").image {
            return found.id;
        }
        let request = cri::PullImageRequest {
            image: Some(image(name)),
            ..cri::PullImageRequest::default()
        };
        self.client.pull_image(request).expect("PullImage").image_ref
    }

    /// RunPodSandbox. The pod gets a log directory of its own unless it names one.
    #[allow(clippy::result_large_err)]
    pub fn try_pod(&self, mut config: cri::PodSandboxConfig) -> Result<Pod, tonic::Status> {
        if config.log_directory.is_empty() {
            let uid = config
                .metadata
                .as_ref()
                .map_or("none", |metadata| metadata.uid.as_str());
            config.log_directory = self
                .place
                .folder
                .join("logs")
                .join(uid)
                .to_string_lossy()
                .into_owned();
        }
        let request = cri::RunPodSandboxRequest {
            config: Some(config.clone()),
            runtime_handler: String::new(),
        };
        let id = self.client.run_pod_sandbox(request)?.pod_sandbox_id;
        self.remember(&id);
        Ok(Pod { id, config })
    }

    /// RunPodSandbox that has to work.
    #[track_caller]
    pub fn pod(&self, config: cri::PodSandboxConfig) -> Pod {
        self.try_pod(config).expect("RunPodSandbox")
    }

    /// CreateContainer.
    #[allow(clippy::result_large_err)]
    pub fn try_create(&self, pod: &Pod, config: cri::ContainerConfig) -> Result<String, tonic::Status> {
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: pod.id.clone(),
            config: Some(config),
            sandbox_config: Some(pod.config.clone()),
        };
        let id = self.client.create_container(request)?.container_id;
        self.remember(&id);
        Ok(id)
    }

    /// Pulls what the container needs, creates and starts it.
    #[track_caller]
    pub fn launch(&self, pod: &Pod, config: cri::ContainerConfig) -> String {
        self.pull(&config.image.as_ref().expect("an image").image);
        let id = self.try_create(pod, config).expect("CreateContainer");
        self.start_container(&id);
        id
    }

    /// StartContainer that has to work.
    #[track_caller]
    pub fn start_container(&self, id: &str) {
        let request = cri::StartContainerRequest {
            container_id: id.into(),
        };
        self.client.start_container(request).expect("StartContainer");
    }

    /// StopContainer that has to work.
    #[track_caller]
    pub fn stop_container(&self, id: &str, grace_s: i64) {
        let request = cri::StopContainerRequest {
            container_id: id.into(),
            timeout: grace_s,
        };
        self.client.stop_container(request).expect("StopContainer");
    }

    /// RemoveContainer that has to work.
    #[track_caller]
    pub fn remove_container(&self, id: &str) {
        let request = cri::RemoveContainerRequest {
            container_id: id.into(),
        };
        self.client.remove_container(request).expect("RemoveContainer");
    }

    /// StopPodSandbox and RemovePodSandbox that have to work.
    #[track_caller]
    pub fn remove_pod(&self, id: &str) {
        let request = cri::StopPodSandboxRequest {
            pod_sandbox_id: id.into(),
        };
        self.client.stop_pod_sandbox(request).expect("StopPodSandbox");
        let request = cri::RemovePodSandboxRequest {
            pod_sandbox_id: id.into(),
        };
        self.client.remove_pod_sandbox(request).expect("RemovePodSandbox");
    }

    /// ContainerStatus that has to work.
    #[track_caller]
    pub fn status(&self, id: &str) -> cri::ContainerStatus {
        let request = cri::ContainerStatusRequest {
            container_id: id.into(),
            verbose: false,
        };
        self.client
            .container_status(request)
            .expect("ContainerStatus")
            .status
            .expect("a status")
    }

    /// Waits until a container has exited.
    #[track_caller]
    pub fn wait_exit(&self, id: &str, seconds: u64) -> cri::ContainerStatus {
        eventually("the container exits", seconds, || {
            let status = self.status(id);
            (status.state() == cri::ContainerState::ContainerExited).then_some(status)
        })
    }

    /// ExecSync: exit code and output.
    #[track_caller]
    pub fn exec(&self, id: &str, command: &[&str]) -> Output {
        let request = cri::ExecSyncRequest {
            container_id: id.into(),
            cmd: command.iter().map(ToString::to_string).collect(),
            timeout: EXEC_S,
        };
        let out = self.client.exec_sync(request).expect("ExecSync");
        Output {
            code: out.exit_code,
            stdout: String::from_utf8_lossy(&out.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
        }
    }

    /// The messages of a container's log, of both streams, without time stamps; partial lines are joined.
    pub fn messages(&self, pod: &Pod, file: &str) -> String {
        let text = fs::read_to_string(Path::new(&pod.config.log_directory).join(file)).unwrap_or_default();
        let mut joined = String::new();
        for line in text.lines() {
            let mut parts = line.splitn(4, ' ');
            let (_, _, tag, message) = (parts.next(), parts.next(), parts.next(), parts.next());
            joined.push_str(message.unwrap_or_default());
            if tag == Some("F") {
                joined.push('\n');
            }
        }
        joined
    }

    /// Removes every pod.
    pub fn remove_pods(&self) {
        let pods = self
            .client
            .list_pod_sandbox(cri::ListPodSandboxRequest::default())
            .expect("ListPodSandbox");
        for pod in pods.items {
            self.remove_pod(&pod.id);
        }
    }

    /// Panics with a list of what is left once every pod was removed.
    #[track_caller]
    pub fn assert_clean(&self) {
        let ids = self.ids.lock().expect("ids").clone();
        let daemon = self.daemon.as_ref().map(Child::id);
        let left = leak::after_pods(&self.place, &self.baseline, daemon, &ids);
        assert!(
            left.is_empty(),
            "left behind after all pods were removed:\n  {}",
            left.join("\n  ")
        );
    }

    fn remember(&self, id: &str) {
        self.ids.lock().expect("ids").push(id.into());
    }

    /// The last part of a test that went well: remove, look, end, look again.
    fn finish(&mut self) {
        if self.daemon.is_none() {
            self.up();
        }
        self.remove_pods();
        self.assert_clean();
        let status = self.stop();
        assert!(status.success(), "the daemon ended with {status} after SIGTERM");
        let known = format!("process {} ", self.registry.pid());
        let left = leak::settled(|| {
            let mut found = leak::after_end(&self.place);
            found.retain(|line| !line.starts_with(&known));
            found
        });
        assert!(
            left.is_empty(),
            "left behind by a daemon that ended:\n  {}",
            left.join("\n  ")
        );
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        let outcome = if failed {
            Ok(())
        } else {
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.finish()))
        };
        if failed || outcome.is_err() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
            let _ = writeln!(std::io::stderr(), "--- the daemon's log ---\n{tail}\n---");
        }
        if std::env::var_os("CRIQUET_TEST_KEEP").is_some() {
            let _ = writeln!(std::io::stderr(), "kept: {}", self.place.folder.display());
        } else {
            self.kill();
            leak::sweep(&self.place);
        }
        if let Err(cause) = outcome {
            std::panic::resume_unwind(cause);
        }
    }
}

fn configuration(place: &Place) -> String {
    let (folder, state) = (place.folder.display(), place.state.display());
    let tools = tool::workspace().join(".work/bin/tools");
    format!(
        "root = \"{folder}/root\"\nstate = \"{state}\"\nsocket = \"{state}/criquet.sock\"\n\
         [log]\nlevel = \"debug,h2=info,hyper_util=info,rustls=info,tower=info\"\n\
         [runtime]\ncgroup_driver = \"cgroupfs\"\ncgroup_parent = \"{cgroup}\"\n\
         seccomp_dir = \"{folder}/seccomp\"\n\
         [image]\nhosts_dir = \"{folder}/certs.d\"\nstall_timeout_s = 60\n\
         [network]\nconf_dir = \"{folder}/cni\"\nbin_dirs = [\"{tools}\"]\nlease_dir = \"{folder}/leases\"\n\
         [network.builtin]\nbridge = \"{bridge}\"\nsubnet = \"{addresses}0.0/16\"\n",
        cgroup = place.cgroup,
        bridge = place.bridge,
        addresses = place.addresses,
        tools = tools.display(),
    )
}
