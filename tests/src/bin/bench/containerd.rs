//! containerd with folders of its own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use criquet_tests::leak::{self, Place};
use criquet_tests::{Cri, cri, eventually, run, workspace};

use crate::target::conflist;

/// containerd answers within this, in seconds.
const START_S: u64 = 30;
/// Folders that containerd, its shims and libcni make wherever their state is.
const FIXED_FOLDERS: [&str; 5] = [
    "/run/containerd/s",
    "/run/containerd",
    "/var/lib/cni/results",
    "/var/lib/cni",
    "/opt/containerd",
];

/// A running containerd. Everything of it goes when this is dropped.
pub(crate) struct Containerd {
    pub(crate) place: Place,
    pub(crate) client: Cri,
    daemon: Option<Child>,
    made: Vec<PathBuf>,
}

impl Containerd {
    /// Starts it in the thread's network namespace; registries as `certs` says.
    pub(crate) fn start(certs: &Path) -> Containerd {
        // A name that hack/sweep knows.
        let name = format!("criquet-test-{}-900", std::process::id());
        let place = Place {
            folder: PathBuf::from("/var/tmp").join(&name),
            state: PathBuf::from("/run").join(&name),
            cgroup: format!("/{name}"),
            bridge: "cqpeer0".into(),
            addresses: "10.202.".into(),
        };
        for folder in ["cni", "logs", "tmp"] {
            fs::create_dir_all(place.folder.join(folder)).expect("create the peer's folder");
        }
        let leases = place.folder.join("leases");
        let text = conflist(&place.bridge, &format!("{}0.0/16", place.addresses), &leases);
        fs::write(place.folder.join("cni/10-bench.conflist"), text).expect("write the CNI configuration");
        fs::write(place.folder.join("config.toml"), configuration(&place, certs))
            .expect("write the configuration");
        let made = FIXED_FOLDERS
            .iter()
            .map(PathBuf::from)
            .filter(|folder| !folder.exists())
            .collect();
        let client = Cri::new(&place.state.join("containerd.sock"));
        let mut peer = Containerd {
            place,
            client,
            daemon: None,
            made,
        };
        peer.spawn();
        eventually("containerd answers", START_S, || ready(&peer.client));
        peer
    }

    pub(crate) fn pid(&self) -> u32 {
        self.daemon.as_ref().map_or(0, Child::id)
    }

    /// Starts the daemon and does not wait.
    pub(crate) fn spawn(&mut self) {
        let tools = workspace().join(".work/bin/tools");
        let path = format!(
            "{}:{}",
            tools.display(),
            std::env::var("PATH").unwrap_or_default()
        );
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.place.folder.join("daemon.log"));
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(tools.join("containerd"))
            .arg("--config")
            .arg(self.place.folder.join("config.toml"))
            .env("PATH", path)
            .env("TMPDIR", self.place.folder.join("tmp"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.expect("open containerd's log"))
            .spawn()
            .expect("start containerd");
        self.daemon = Some(child);
    }

    /// Kills the daemon as a crash would.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.daemon.take() {
            child.kill().expect("kill containerd");
            child.wait().expect("wait for containerd");
        }
    }
}

/// Whether pods can be run: a runtime may have conditions of its own besides.
pub(crate) fn ready(client: &Cri) -> Option<()> {
    let status = client.status(cri::StatusRequest::default()).ok()?.status?;
    let holds = |kind: &str| {
        status
            .conditions
            .iter()
            .any(|found| found.r#type == kind && found.status)
    };
    (holds("RuntimeReady") && holds("NetworkReady")).then_some(())
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.place.folder.join("daemon.log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!(
                "--- containerd's log ---\n{}",
                lines[lines.len().saturating_sub(30)..].join("\n")
            );
        } else {
            let pods = self
                .client
                .list_pod_sandbox(cri::ListPodSandboxRequest::default());
            for pod in pods.map(|answer| answer.items).unwrap_or_default() {
                let request = cri::RemovePodSandboxRequest {
                    pod_sandbox_id: pod.id,
                };
                let _ = self.client.remove_pod_sandbox(request);
            }
        }
        self.kill();
        leak::sweep(&self.place);
        run("ip", &["link", "del", &self.place.bridge]);
        for folder in &self.made {
            // Only what is empty: another containerd of the machine keeps its own.
            let _ = fs::remove_dir(folder);
        }
    }
}

fn configuration(place: &Place, certs: &Path) -> String {
    let (folder, state) = (place.folder.display(), place.state.display());
    let tools = workspace().join(".work/bin/tools");
    format!(
        r#"version = 3
root = "{folder}/root"
state = "{state}"
[grpc]
address = "{state}/containerd.sock"
[plugins."io.containerd.cri.v1.images".registry]
config_path = "{certs}"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{pause}"
[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["{tools}"]
conf_dir = "{folder}/cni"
[plugins."io.containerd.internal.v1.opt"]
path = "{folder}/opt"
[plugins."io.containerd.nri.v1.nri"]
disable = true
"#,
        pause = criquet_tests::PAUSE,
        certs = certs.display(),
        tools = tools.display(),
    )
}
