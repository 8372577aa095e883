//! Network configurations: the files of the configuration folder, as libcni reads them.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::Builtin;

/// What this crate speaks, oldest first (CNI specification, "Released versions").
pub(crate) const VERSIONS: [&str; 7] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// A configuration is a page of text; more is a mistake, not a configuration.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// The name of the network that is used when there is no configuration.
pub(crate) const BUILTIN_NAME: &str = "criquet";

/// A network: its plugins in order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct NetworkConfig {
    /// The file, or `built-in`.
    pub(crate) source: String,
    pub(crate) name: String,
    pub(crate) version: String,
    #[serde(default)]
    pub(crate) disable_check: bool,
    #[serde(default)]
    pub(crate) disable_gc: bool,
    pub(crate) plugins: Vec<Map<String, Value>>,
}

impl NetworkConfig {
    /// Whether the configuration asks for at least `version`.
    pub(crate) fn speaks(&self, version: &str) -> bool {
        let rank = |wanted: &str| VERSIONS.iter().position(|known| *known == wanted);
        rank(&self.version) >= rank(version)
    }

    /// The network of a host without configuration.
    pub(crate) fn builtin(builtin: &Builtin) -> Self {
        let default = if builtin.subnet.addr().is_ipv4() {
            "0.0.0.0/0"
        } else {
            "::/0"
        };
        let plugins = json!([
            {
                "type": "bridge", "bridge": builtin.bridge, "isGateway": true, "ipMasq": true, "hairpinMode": true,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{ "subnet": builtin.subnet.trunc() }]],
                    "routes": [{ "dst": default }],
                },
            },
            { "type": "portmap", "capabilities": { "portMappings": true } },
            { "type": "firewall" },
        ]);
        Self {
            source: "built-in".into(),
            name: BUILTIN_NAME.into(),
            version: "1.0.0".into(),
            disable_check: false,
            disable_gc: false,
            plugins: serde_json::from_value(plugins).unwrap_or_default(),
        }
    }
}

/// The type of a plugin of a checked configuration.
pub(crate) fn plugin_type(plugin: &Map<String, Value>) -> &str {
    plugin.get("type").and_then(Value::as_str).unwrap_or_default()
}

/// The first valid configuration of the folder; `None` when it holds none at all.
///
/// # Errors
/// Every file is invalid, or the folder cannot be read.
pub(crate) fn load(dir: &Path) -> Result<Option<NetworkConfig>, String> {
    let mut first_problem = None;
    for file in files(dir)? {
        match read(dir, &file) {
            Ok(config) => return Ok(Some(config)),
            Err(problem) => {
                let problem = format!("{} is invalid: {problem}", file.display());
                tracing::warn!("network configuration {problem}");
                first_problem.get_or_insert(problem);
            }
        }
    }
    first_problem.map_or(Ok(None), Err)
}

fn files(dir: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(format!("read folder {}: {error}", dir.display())),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry
            .map_err(|error| format!("read folder {}: {error}", dir.display()))?
            .path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        if matches!(extension, Some("conflist" | "conf" | "json")) && !path.is_dir() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read(dir: &Path, file: &Path) -> Result<NetworkConfig, String> {
    let mut text = Vec::new();
    fs::File::open(file)
        .and_then(|opened| opened.take(FILE_BYTES_MAX + 1).read_to_end(&mut text))
        .map_err(|error| error.to_string())?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("it is larger than {FILE_BYTES_MAX} bytes"));
    }
    let value: Map<String, Value> = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    let is_list = file.extension().is_some_and(|extension| extension == "conflist");
    let mut config = parse(value, is_list, &file.display().to_string())?;
    if config.plugins.is_empty() {
        config.plugins = loose_plugins(&dir.join(&config.name))?;
    }
    if config.plugins.is_empty() {
        return Err("it has no plugins".into());
    }
    for plugin in &config.plugins {
        check_type(plugin)?;
    }
    Ok(config)
}

/// CNI 1.1: a list without inlined plugins finds them in the folder that has its name.
fn loose_plugins(dir: &Path) -> Result<Vec<Map<String, Value>>, String> {
    let mut plugins = Vec::new();
    for file in files(dir)?
        .iter()
        .filter(|file| file.extension().is_some_and(|extension| extension == "conf"))
    {
        let text = fs::read(file).map_err(|error| format!("read {}: {error}", file.display()))?;
        plugins.push(serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", file.display()))?);
    }
    Ok(plugins)
}

fn parse(value: Map<String, Value>, is_list: bool, source: &str) -> Result<NetworkConfig, String> {
    let name = match value.get("name") {
        Some(Value::String(name)) => name.clone(),
        Some(_) => return Err("its name is not a text".into()),
        None => return Err("it has no name".into()),
    };
    if !is_name(&name) {
        return Err(format!(
            "its name {name:?} has characters other than letters, digits, _, . and -"
        ));
    }
    let mut config = NetworkConfig {
        source: source.into(),
        name,
        version: version(&value)?,
        disable_check: flag(&value, "disableCheck")?,
        disable_gc: flag(&value, "disableGC")?,
        plugins: Vec::new(),
    };
    if !is_list {
        if value.contains_key("plugins") {
            return Err("it is a list of plugins, whose file name must end in .conflist".into());
        }
        config.plugins = vec![value];
        return Ok(config);
    }
    match value.get("plugins") {
        Some(Value::Array(plugins)) => {
            for plugin in plugins {
                let Value::Object(plugin) = plugin else {
                    return Err("a plugin is not an object".into());
                };
                config.plugins.push(plugin.clone());
            }
        }
        Some(_) => return Err("its plugins are not a list".into()),
        None if flag(&value, "loadOnlyInlinedPlugins")? => return Err("it has no plugins".into()),
        None => {}
    }
    Ok(config)
}

/// The newest version of `cniVersion` and `cniVersions` that we know.
fn version(value: &Map<String, Value>) -> Result<String, String> {
    let mut offered = Vec::new();
    match value.get("cniVersion") {
        Some(Value::String(version)) if !version.is_empty() => offered.push(version.as_str()),
        None | Some(Value::String(_)) => {}
        Some(_) => return Err("its cniVersion is not a text".into()),
    }
    match value.get("cniVersions") {
        Some(Value::Array(versions)) => {
            for version in versions {
                offered.push(version.as_str().ok_or("one of its cniVersions is not a text")?);
            }
        }
        Some(_) => return Err("its cniVersions are not a list".into()),
        None => {}
    }
    if offered.is_empty() {
        return Ok(VERSIONS[0].into());
    }
    let newest = VERSIONS.iter().rev().find(|known| offered.contains(known));
    newest.map(|version| (*version).to_owned()).ok_or_else(|| {
        format!(
            "its cniVersion {} is not one of {}",
            offered.join(", "),
            VERSIONS.join(", ")
        )
    })
}

/// libcni takes `"true"` for `true`.
fn flag(value: &Map<String, Value>, key: &str) -> Result<bool, String> {
    match value.get(key) {
        None => Ok(false),
        Some(Value::Bool(flag)) => Ok(*flag),
        Some(Value::String(text)) if text.eq_ignore_ascii_case("true") => Ok(true),
        Some(Value::String(text)) if text.eq_ignore_ascii_case("false") => Ok(false),
        Some(other) => Err(format!("its {key} is {other}, neither true nor false")),
    }
}

/// A name that is one harmless path component: a letter or digit, then also `_`, `.` and `-`
/// (CNI specification, section 1; CVE-2021-20206).
pub(crate) fn is_name(name: &str) -> bool {
    /// `NAME_MAX` of Linux, less a suffix of ours.
    const NAME_BYTES_MAX: usize = 200;
    name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.len() <= NAME_BYTES_MAX
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

fn check_type(plugin: &Map<String, Value>) -> Result<(), String> {
    let named = |value: Option<&Value>| match value {
        Some(Value::String(kind)) if is_name(kind) => Ok(()),
        Some(Value::String(kind)) if kind.is_empty() => Err("a plugin has no type".to_owned()),
        Some(kind) => Err(format!("a plugin's type is {kind}: not the name of a file")),
        None => Err("a plugin has no type".to_owned()),
    };
    named(plugin.get("type"))?;
    match plugin.get("ipam").and_then(|ipam| ipam.get("type")) {
        Some(Value::String(kind)) if kind.is_empty() => Ok(()),
        None => Ok(()),
        kind => named(kind),
    }
}
