//! The configuration: one TOML file and its drop-ins. Every key has a default; an unknown key is an error.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

mod driver;

pub use driver::CgroupDriver;

/// Where the configuration is looked for by default.
pub const DEFAULT_PATH: &str = "/etc/criquet/config.toml";
/// Drop-ins: `*.toml` in this folder beside the file, in the order of their names.
pub const DROP_IN_DIR: &str = "config.d";

/// What the daemon is told by its administrator.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Durable state: images, records, writable layers.
    pub root: PathBuf,
    /// Volatile state: sockets, pinned namespaces, shims. Emptied by a reboot.
    pub state: PathBuf,
    /// The CRI socket; its folder is made 0700.
    pub socket: PathBuf,
    /// The daemon's own log.
    pub log: Log,
    /// Pods and containers.
    pub runtime: Runtime,
    /// Images and registries.
    pub image: Image,
    /// Pod networks.
    pub network: Network,
    /// Exec, attach and port-forward.
    pub stream: Stream,
}

/// `[log]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// `error`, `warn`, `info`, `debug`, `trace`, or a tracing filter.
    pub level: String,
    /// Lines for people, or JSON.
    pub format: LogFormat,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// `[runtime]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Runtime {
    /// The shim's binary; empty: `criquet-shim` beside the daemon's own.
    pub shim: PathBuf,
    /// Who makes cgroups.
    pub cgroup_driver: CgroupDriver,
    /// Where pods without a parent of their own go: a path, or with systemd a slice. Empty: `/criquet` or
    /// `criquet.slice`.
    pub cgroup_parent: String,
    /// Names of runtime handlers beside the unnamed one. All behave the same.
    pub handlers: Vec<String>,
    /// Root of relative Localhost seccomp profiles.
    pub seccomp_dir: PathBuf,
    /// Sysctls of every pod that has the namespace they belong to; a pod's own win.
    pub default_sysctls: BTreeMap<String, String>,
}

/// `[image]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Image {
    /// `<host>/hosts.toml`, as containerd's.
    pub hosts_dir: PathBuf,
    /// Layers that one pull downloads at once.
    pub downloads: usize,
    /// Seconds without a byte that end a download.
    pub stall_timeout_s: u64,
    /// References that kubelet must not collect.
    pub pinned: Vec<String>,
}

/// `[network]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Network {
    /// CNI configurations.
    pub conf_dir: PathBuf,
    /// CNI plugin binaries.
    pub bin_dirs: Vec<PathBuf>,
    /// host-local's leases.
    pub lease_dir: PathBuf,
    /// Do the work of known plugins in process.
    pub native: bool,
    /// The network while there is no CNI configuration.
    pub builtin: Builtin,
}

/// `[network.builtin]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Builtin {
    /// Off on a kubelet node: there a missing configuration must show as NetworkReady=false.
    pub enabled: bool,
    /// Its bridge.
    pub bridge: String,
    /// Its addresses.
    pub subnet: ipnet::IpNet,
}

/// `[stream]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Stream {
    /// Where the streaming server listens; port 0: any free one.
    pub address: SocketAddr,
    /// PEM certificate chain; with `tls_key`: serve TLS.
    pub tls_cert: PathBuf,
    /// PEM private key.
    pub tls_key: PathBuf,
    /// Seconds without a byte that end a session.
    pub idle_timeout_s: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            root: "/var/lib/criquet".into(),
            state: "/run/criquet".into(),
            socket: "/run/criquet/criquet.sock".into(),
            log: Log::default(),
            runtime: Runtime::default(),
            image: Image::default(),
            network: Network::default(),
            stream: Stream::default(),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self {
            level: "info".into(),
            format: LogFormat::Text,
        }
    }
}

impl Default for Runtime {
    fn default() -> Self {
        Self {
            shim: PathBuf::new(),
            cgroup_driver: CgroupDriver::Auto,
            cgroup_parent: String::new(),
            handlers: Vec::new(),
            seccomp_dir: "/var/lib/kubelet/seccomp".into(),
            // As containerd's enable_unprivileged_ports and _icmp: inside a pod's own network both harm nobody.
            default_sysctls: [
                ("net.ipv4.ip_unprivileged_port_start", "0"),
                ("net.ipv4.ping_group_range", "0 2147483647"),
            ]
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect(),
        }
    }
}

impl Default for Image {
    fn default() -> Self {
        Self {
            hosts_dir: "/etc/criquet/certs.d".into(),
            downloads: 3,
            stall_timeout_s: 60,
            pinned: Vec::new(),
        }
    }
}

impl Default for Network {
    fn default() -> Self {
        Self {
            conf_dir: "/etc/cni/net.d".into(),
            bin_dirs: vec!["/opt/cni/bin".into()],
            lease_dir: "/var/lib/cni/networks".into(),
            native: true,
            builtin: Builtin::default(),
        }
    }
}

impl Default for Builtin {
    fn default() -> Self {
        let subnet = ipnet::Ipv4Net::new_assert(std::net::Ipv4Addr::new(10, 88, 0, 0), 16);
        Self {
            enabled: true,
            bridge: "criquet0".into(),
            subnet: ipnet::IpNet::V4(subnet),
        }
    }
}

impl Default for Stream {
    fn default() -> Self {
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            tls_cert: PathBuf::new(),
            tls_key: PathBuf::new(),
            idle_timeout_s: 4 * 60 * 60,
        }
    }
}

/// Why a configuration cannot be used: the file, the place in it and what to change.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

impl Config {
    /// Reads `path` and its drop-ins. A missing `path` is the default configuration only when
    /// `required` is false.
    ///
    /// # Errors
    /// A file that cannot be read, an unknown key or a wrong value: with the file and the line.
    pub fn load(path: &Path, required: bool) -> Result<Self, ConfigError> {
        let mut merged = toml::Table::new();
        if required || path.exists() {
            merge(&mut merged, read(path)?);
        }
        for drop_in in drop_ins(path)? {
            merge(&mut merged, read(&drop_in)?);
        }
        let config: Self = merged
            .try_into()
            .map_err(|error| ConfigError(format!("config {} with its drop-ins: {error}", path.display())))?;
        config
            .validate()
            .map_err(|problem| ConfigError(format!("config {}: {problem}", path.display())))?;
        Ok(config)
    }

    fn validate(&self) -> Result<(), String> {
        for (key, path) in [
            ("root", &self.root),
            ("state", &self.state),
            ("socket", &self.socket),
        ] {
            if !path.is_absolute() {
                return Err(format!("{key} = {path:?} is not an absolute path"));
            }
        }
        let parent = &self.runtime.cgroup_parent;
        if !parent.is_empty() {
            self.runtime
                .cgroup_driver
                .check(parent)
                .map_err(|problem| format!("runtime.cgroup_parent: {problem}"))?;
        }
        for (name, value) in &self.runtime.default_sysctls {
            crate::sysctl::owner(name).map_err(|problem| format!("runtime.default_sysctls: {problem}"))?;
            if value.contains(['\n', '\0']) {
                return Err(format!(
                    "runtime.default_sysctls: the value of {name} has more than one line"
                ));
            }
        }
        if !(1..=64).contains(&self.image.downloads) {
            return Err(format!("image.downloads = {}: use 1 to 64", self.image.downloads));
        }
        if self.image.stall_timeout_s == 0 || self.stream.idle_timeout_s == 0 {
            return Err("a timeout of 0 s would end everything at once: use 1 or more".into());
        }
        let bridge = &self.network.builtin.bridge;
        if bridge.is_empty() || bridge.len() > 15 || bridge.contains(['/', ' ']) {
            return Err(format!(
                "network.builtin.bridge = {bridge:?}: a link name has 1 to 15 characters, no '/' or space"
            ));
        }
        if self.stream.tls_cert.as_os_str().is_empty() != self.stream.tls_key.as_os_str().is_empty() {
            return Err("stream.tls_cert and stream.tls_key belong together: set both or none".into());
        }
        Ok(())
    }

    /// The default configuration as TOML.
    ///
    /// # Errors
    /// The configuration cannot be written as TOML, which would be a fault in this program.
    pub fn render(&self) -> Result<String, ConfigError> {
        toml::to_string_pretty(self)
            .map_err(|error| ConfigError(format!("writing the configuration: {error}")))
    }
}

fn read(path: &Path) -> Result<toml::Table, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| ConfigError(format!("config {}: {error}", path.display())))?;
    // Read into the types first: only then does an error know its line.
    toml::from_str::<Config>(&text)
        .map_err(|error| ConfigError(format!("config {}: {error}", path.display())))?;
    toml::from_str(&text).map_err(|error| ConfigError(format!("config {}: {error}", path.display())))
}

fn drop_ins(path: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let dir = path.parent().unwrap_or(Path::new("/")).join(DROP_IN_DIR);
    let entries = match std::fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(ConfigError(format!("config {}: {error}", dir.display()))),
    };
    let mut files: Vec<PathBuf> = entries
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|file| file.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    files.sort();
    Ok(files)
}

fn merge(base: &mut toml::Table, over: toml::Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(toml::Value::Table(below)), toml::Value::Table(above)) => merge(below, above),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        std::fs::write(&path, text).unwrap();
        Config::load(&path, true)
    }

    #[test]
    fn an_empty_file_is_the_default() {
        assert_eq!(
            load("").unwrap().render().unwrap(),
            Config::default().render().unwrap()
        );
    }

    #[test]
    fn the_rendered_default_is_accepted() {
        assert!(load(&Config::default().render().unwrap()).is_ok());
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line() {
        let error = load("root = \"/x\"\n[runtime]\nshimm = \"/y\"\n")
            .unwrap_err()
            .to_string();
        assert!(error.contains("shimm") && error.contains("line 3"), "{error}");
    }

    #[test]
    fn wrong_values_say_what_to_use() {
        for (text, part) in [
            ("root = \"relative\"", "not an absolute path"),
            ("[runtime]\ncgroup_parent = \"/a/../b\"", "absolute cgroup path"),
            (
                "[runtime]\ncgroup_driver = \"systemd\"\ncgroup_parent = \"/a\"",
                "is not a slice",
            ),
            (
                "[runtime]\ncgroup_driver = \"cgroupfs\"\ncgroup_parent = \"a.slice\"",
                "absolute cgroup path",
            ),
            ("[runtime]\ncgroup_parent = \"a--b.slice\"", "between two parts"),
            ("[image]\ndownloads = 0", "use 1 to 64"),
            (
                "[runtime.default_sysctls]\n\"vm.swappiness\" = \"0\"",
                "no namespace of a pod",
            ),
            (
                "[network.builtin]\nbridge = \"a-name-that-is-far-too-long\"",
                "1 to 15",
            ),
            ("[stream]\ntls_cert = \"/c\"", "belong together"),
            ("[log]\nformat = \"xml\"", "line 2"),
        ] {
            let error = load(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn drop_ins_win_in_the_order_of_their_names() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        std::fs::write(&path, "root = \"/a\"\n[image]\ndownloads = 2\n").unwrap();
        std::fs::create_dir(dir.path().join(DROP_IN_DIR)).unwrap();
        std::fs::write(dir.path().join("config.d/10.toml"), "[image]\ndownloads = 5\n").unwrap();
        std::fs::write(dir.path().join("config.d/20.toml"), "[image]\ndownloads = 7\n").unwrap();
        let config = Config::load(&path, true).unwrap();
        assert_eq!((config.root, config.image.downloads), (PathBuf::from("/a"), 7));
    }
}
