//! kubectl against the cluster that hack/cluster started, in a namespace per test.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use criquet_tests::{Output, workspace};
use serde_json::{Value, json};

/// The plain image of the tests: busybox with bash as its shell.
pub(crate) const BUSYBOX: &str = "registry.k8s.io/e2e-test-images/busybox:1.37.0-2";
/// Servers and clients of every kind.
pub(crate) const AGNHOST: &str = "registry.k8s.io/e2e-test-images/agnhost:2.66.1";
/// The same as another version, for updates.
pub(crate) const AGNHOST_OLD: &str = "registry.k8s.io/e2e-test-images/agnhost:2.55";
/// A pod is up, or gone, within this, in seconds, on a machine that does other things too.
pub(crate) const POD_S: u64 = 300;
/// The cluster's node, as hack/cluster names it, and its address.
pub(crate) const NODE: &str = "node-1";
pub(crate) const NODE_ADDRESS: &str = "192.168.77.1";

/// Tests that stop a component have the cluster for themselves.
pub(crate) static QUIET: RwLock<()> = RwLock::new(());

/// The cluster's name.
pub(crate) fn cluster() -> String {
    std::env::var("CRIQUET_CLUSTER").expect("CRIQUET_CLUSTER names no cluster: run hack/cluster test")
}

/// A folder of the cluster.
pub(crate) fn folder() -> PathBuf {
    Path::new("/var/tmp").join(cluster())
}

/// A command in the node's network namespace.
pub(crate) fn in_node(program: &str, arguments: &[&str]) -> Command {
    let holder = Path::new("/run").join(cluster()).join("holder");
    let holder = std::fs::read_to_string(&holder).expect("the cluster does not run: hack/cluster up");
    let mut command = Command::new("nsenter");
    command
        .args(["-t", holder.trim(), "-n", "--", program])
        .args(arguments)
        .env("KUBECONFIG", folder().join("admin.kubeconfig"))
        .stdin(Stdio::null());
    command
}

/// kubectl, not yet started.
pub(crate) fn kubectl_command(arguments: &[&str]) -> Command {
    let program = workspace().join(".work/bin/tools/kubectl");
    in_node(&program.to_string_lossy(), arguments)
}

/// kubectl's code and output.
pub(crate) fn kubectl(arguments: &[&str]) -> Output {
    Output::of(kubectl_command(arguments).output().expect("run kubectl"))
}

/// `hack/cluster ARGUMENTS` that has to work.
#[track_caller]
pub(crate) fn hack_cluster(arguments: &[&str]) -> String {
    let out = Command::new(workspace().join("hack/cluster"))
        .args(arguments)
        .stdin(Stdio::null())
        .output();
    Output::of(out.expect("run hack/cluster")).ok()
}

/// A namespace of a test's own. Ending it deletes all that is in it.
pub(crate) struct Space {
    pub(crate) name: String,
    shared: Option<RwLockReadGuard<'static, ()>>,
}

impl Space {
    /// A namespace beside others.
    pub(crate) fn new(name: &str) -> Space {
        let shared = QUIET.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut space = Space::alone(name);
        space.shared = Some(shared);
        space
    }

    /// A namespace for a test that holds [`QUIET`] itself.
    pub(crate) fn alone(name: &str) -> Space {
        let name = format!("t-{name}");
        let space = Space { name, shared: None };
        // One of an earlier run may still be on its way out.
        space.until("a namespace", POD_S, || {
            (kubectl(&["create", "namespace", &space.name]).code == 0).then_some(())
        });
        space.until("the service account", POD_S, || {
            (space.kubectl(&["get", "serviceaccount", "default"]).code == 0).then_some(())
        });
        space
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut all = vec!["-n", &self.name];
        all.extend(arguments);
        kubectl_command(&all)
    }

    pub(crate) fn kubectl(&self, arguments: &[&str]) -> Output {
        Output::of(self.command(arguments).output().expect("run kubectl"))
    }

    /// kubectl that has to work, and its output.
    #[track_caller]
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        self.kubectl(arguments).ok()
    }

    /// Applies an object.
    #[track_caller]
    pub(crate) fn apply(&self, object: &Value) {
        let mut child = self
            .command(&["apply", "-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start kubectl");
        let mut stdin = child.stdin.take().expect("stdin");
        stdin.write_all(object.to_string().as_bytes()).expect("write");
        drop(stdin);
        Output::of(child.wait_with_output().expect("kubectl apply")).ok();
    }

    /// Makes a pod of a spec. It ends at once when it is deleted.
    #[track_caller]
    pub(crate) fn create_pod(&self, name: &str, mut spec: Value) {
        if spec.get("terminationGracePeriodSeconds").is_none() {
            spec["terminationGracePeriodSeconds"] = json!(1);
        }
        self.apply(&json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "labels": {"app": name}},
            "spec": spec,
        }));
    }

    /// Makes a pod and waits until it is ready.
    #[track_caller]
    pub(crate) fn pod(&self, name: &str, spec: Value) {
        self.create_pod(name, spec);
        self.ready(name);
    }

    /// Makes a pod of one busybox container with a script, and waits until it is ready.
    #[track_caller]
    pub(crate) fn shell(&self, name: &str, script: &str) {
        self.pod(name, json!({"containers": [shell(script)]}));
    }

    #[track_caller]
    pub(crate) fn ready(&self, pod: &str) {
        self.until(&format!("pod {pod} is ready"), POD_S, || {
            let object = self.find(&format!("pod/{pod}"))?;
            let conditions = object["status"]["conditions"].as_array()?;
            conditions
                .iter()
                .any(|c| c["type"] == "Ready" && c["status"] == "True")
                .then_some(())
        });
    }

    /// Waits until a pod has a phase.
    #[track_caller]
    pub(crate) fn phase(&self, pod: &str, phase: &str) -> Value {
        self.until(&format!("pod {pod} is {phase}"), POD_S, || {
            self.find(&format!("pod/{pod}"))
                .filter(|object| object["status"]["phase"] == phase)
        })
    }

    /// An object, unless there is none.
    pub(crate) fn find(&self, what: &str) -> Option<Value> {
        let out = self.kubectl(&["get", what, "-o", "json"]);
        (out.code == 0).then(|| serde_json::from_str(&out.stdout).expect("kubectl's JSON"))
    }

    /// An object.
    #[track_caller]
    pub(crate) fn get(&self, what: &str) -> Value {
        self.find(what).unwrap_or_else(|| panic!("there is no {what}"))
    }

    /// The objects of a kind with a label `app`.
    pub(crate) fn list(&self, kind: &str, app: &str) -> Vec<Value> {
        let text = self.ok(&["get", kind, "-l", &format!("app={app}"), "-o", "json"]);
        let list: Value = serde_json::from_str(&text).expect("kubectl's JSON");
        list["items"].as_array().cloned().unwrap_or_default()
    }

    /// The status of a pod's container.
    #[track_caller]
    pub(crate) fn container(&self, pod: &str, container: &str) -> Value {
        let object = self.get(&format!("pod/{pod}"));
        [
            "containerStatuses",
            "initContainerStatuses",
            "ephemeralContainerStatuses",
        ]
        .iter()
        .filter_map(|list| object["status"][list].as_array())
        .flatten()
        .find(|status| status["name"] == container)
        .cloned()
        .unwrap_or(Value::Null)
    }

    /// A command in a pod's first container that has to work, and its output.
    #[track_caller]
    pub(crate) fn exec(&self, pod: &str, command: &[&str]) -> String {
        let mut arguments = vec!["exec", pod, "--"];
        arguments.extend(command);
        self.ok(&arguments)
    }

    #[track_caller]
    pub(crate) fn logs(&self, pod: &str) -> String {
        self.ok(&["logs", pod])
    }

    /// Waits until `what` holds; says how the pods are when it does not.
    #[track_caller]
    pub(crate) fn until<T>(&self, what: &str, seconds: u64, mut check: impl FnMut() -> Option<T>) -> T {
        let end = Instant::now() + Duration::from_secs(seconds);
        loop {
            if let Some(found) = check() {
                return found;
            }
            if Instant::now() > end {
                let pods = self.kubectl(&["describe", "pods"]).stdout;
                let last: Vec<&str> = pods.lines().rev().take(120).collect();
                let last: Vec<&str> = last.into_iter().rev().collect();
                panic!("not within {seconds} s: {what}\n{}", last.join("\n"));
            }
            std::thread::sleep(Duration::from_millis(250));
        }
    }

    /// Deletes something and waits until it is gone.
    #[track_caller]
    pub(crate) fn delete(&self, what: &str) {
        self.ok(&["delete", what, "--timeout=300s"]);
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        if std::env::var_os("CRIQUET_TEST_KEEP").is_none() {
            kubectl(&["delete", "namespace", &self.name, "--wait=false"]);
        }
    }
}

/// A container named `main` that runs a script in busybox.
pub(crate) fn shell(script: &str) -> Value {
    json!({"name": "main", "image": BUSYBOX, "command": ["sh", "-c", script]})
}

/// A script's end: sleeps until it is told to end.
pub(crate) const SLEEP: &str = "trap 'exit 0' TERM; while :; do sleep 0.2; done";

/// A container named `main` of agnhost.
pub(crate) fn agnhost(arguments: &[&str]) -> Value {
    json!({"name": "main", "image": AGNHOST, "args": arguments})
}

/// A container named `main` that serves HTTP, and is ready once it does.
pub(crate) fn web(port: u16) -> Value {
    let mut container = agnhost(&["netexec", &format!("--http-port={port}"), "--udp-port=-1"]);
    container["readinessProbe"] = json!({"httpGet": {"path": "/", "port": port}, "periodSeconds": 1});
    container
}
