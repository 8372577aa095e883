//! A registry with the test images, in the test's own network namespace.

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::{eventually, workspace};

/// The hosts whose images the test registry has.
const HOSTS: [&str; 4] = ["registry.k8s.io", "k8s.gcr.io", "gcr.io", "docker.io"];

/// A running docker-registry. It ends when this is dropped.
pub struct Registry {
    process: Child,
    /// Where it listens, `127.0.0.1:PORT`.
    pub address: String,
}

impl Registry {
    /// The images of hack/images, read-only, on `port`.
    pub(crate) fn of_images(folder: &Path, port: u16) -> Registry {
        let storage = workspace().join(".work/registry");
        assert!(
            storage.exists(),
            "{} is missing: run hack/images/build",
            storage.display()
        );
        let settings = "maintenance: {readonly: {enabled: true}}";
        Registry::start(folder, "images", port, &storage, settings, "")
    }

    /// An empty registry that can be pushed to. `extra` is YAML at the top level (auth, middleware, …).
    pub fn empty(folder: &Path, name: &str, port: u16, extra: &str) -> Registry {
        let storage = folder.join(format!("registry-{name}"));
        Registry::start(folder, name, port, &storage, "delete: {enabled: true}", extra)
    }

    fn start(folder: &Path, name: &str, port: u16, storage: &Path, settings: &str, extra: &str) -> Registry {
        let address = format!("127.0.0.1:{port}");
        let config = folder.join(format!("registry-{name}.yml"));
        let text = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
             storage:\n  filesystem: {{rootdirectory: {}}}\n  {settings}\nhttp: {{addr: \"{address}\"}}\n{extra}\n",
            storage.display(),
        );
        fs::write(&config, text).expect("write the registry's configuration");
        let log =
            fs::File::create(folder.join(format!("registry-{name}.log"))).expect("create the registry's log");
        let process = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "docker-registry", "serve"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("start docker-registry");
        let registry = Registry { process, address };
        eventually("the registry listens", 20, || {
            TcpStream::connect(&registry.address).ok()
        });
        registry
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Writes `certs.d` files that send the well-known hosts here.
    pub(crate) fn write_hosts(&self, certs: &Path) {
        for host in HOSTS {
            let folder = certs.join(host);
            fs::create_dir_all(&folder).expect("create a hosts folder");
            // The test registry is the host itself, not only a mirror: nothing looks further.
            let text = format!(
                "server = \"http://{}/v2/{host}\"\noverride_path = true\n",
                self.address
            );
            fs::write(folder.join("hosts.toml"), text).expect("write hosts.toml");
        }
        let own = certs.join(&self.address);
        fs::create_dir_all(&own).expect("create a hosts folder");
        fs::write(
            own.join("hosts.toml"),
            format!("server = \"http://{}\"\n", self.address),
        )
        .expect("write hosts.toml");
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
