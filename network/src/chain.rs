//! The operations on a network whose plugins are binaries (CNI specification, section 3).

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::config::{NetworkConfig, plugin_type};
use crate::native::INTERFACE;
use crate::plugin::{self, Target, Verb};
use crate::record::Record;
use crate::{Error, Result};

/// The input of one plugin.
fn derive(config: &NetworkConfig, plugin: &Map<String, Value>, added: &[(&str, &Value)]) -> Value {
    let mut input = plugin.clone();
    input.remove("capabilities");
    input.retain(|key, _| !key.starts_with("cni.dev/"));
    input.insert("name".into(), config.name.clone().into());
    input.insert("cniVersion".into(), config.version.clone().into());
    for (key, value) in added.iter().filter(|(_, value)| !value.is_null()) {
        input.insert((*key).into(), (*value).clone());
    }
    input.into()
}

/// The capability arguments that the plugin declares.
fn runtime_config(plugin: &Map<String, Value>, arguments: &Map<String, Value>) -> Value {
    let declared = plugin.get("capabilities").and_then(Value::as_object);
    let given: Map<String, Value> = declared
        .into_iter()
        .flatten()
        .filter(|(_, wanted)| **wanted == Value::Bool(true))
        .filter_map(|(name, _)| Some((name.clone(), arguments.get(name)?.clone())))
        .collect();
    if given.is_empty() {
        Value::Null
    } else {
        given.into()
    }
}

fn input(record: &Record, plugin: &Map<String, Value>, previous: &Value) -> Value {
    let runtime = runtime_config(plugin, &record.capabilities);
    derive(
        &record.config,
        plugin,
        &[("runtimeConfig", &runtime), ("prevResult", previous)],
    )
}

fn target<'a>(record: &'a Record, netns: &'a Path) -> Target<'a> {
    Target {
        pod_id: &record.pod_id,
        netns,
        arguments: &record.arguments,
    }
}

fn of(record: &Record) -> String {
    format!("network {} of pod {}", record.config.name, record.pod)
}

/// Runs ADD of all plugins and gives the last one's result.
pub(crate) async fn add(bin_dirs: &[PathBuf], record: &Record) -> Result<Value> {
    let mut result = Value::Null;
    for plugin in &record.config.plugins {
        let input = input(record, plugin, &result);
        let target = target(record, &record.netns);
        result = plugin::run(bin_dirs, plugin_type(plugin), Verb::Add, &input, Some(target))
            .await
            .map_err(|error| Error(format!("{}: {error}", of(record))))?;
        if !result.is_object() {
            return Err(Error(format!(
                "{}: plugin {}: ADD printed no result",
                of(record),
                plugin_type(plugin)
            )));
        }
    }
    Ok(result)
}

/// Runs DEL of all plugins in reverse. One that fails keeps none of the others from its turn: a plugin
/// whose binary is gone must not leak the address of the one below it.
pub(crate) async fn delete(bin_dirs: &[PathBuf], record: &Record, result: Option<&Value>) -> Result<()> {
    let netns = if is_namespace(&record.netns) {
        record.netns.as_path()
    } else {
        Path::new("")
    };
    let null = Value::Null;
    let previous = result.filter(|_| record.config.speaks("0.4.0")).unwrap_or(&null);
    let mut problems = Vec::new();
    for plugin in record.config.plugins.iter().rev() {
        let input = input(record, plugin, previous);
        let run = plugin::run(
            bin_dirs,
            plugin_type(plugin),
            Verb::Del,
            &input,
            Some(target(record, netns)),
        );
        if let Err(error) = run.await {
            problems.push(error.to_string());
        }
    }
    all_well(problems, || of(record))
}

/// Whether the file is a namespace and not what unpinning leaves.
fn is_namespace(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| std::fs::metadata(path).map(|metadata| metadata.dev()).ok();
    let found = device(path);
    found.is_some() && found == device(Path::new("/proc/self/ns/net"))
}

fn all_well(problems: Vec<String>, of: impl Fn() -> String) -> Result<()> {
    if problems.is_empty() {
        Ok(())
    } else {
        Err(Error(format!("{}: {}", of(), problems.join("; "))))
    }
}

/// Runs CHECK of all plugins, where the configuration has it and allows it.
pub(crate) async fn check(bin_dirs: &[PathBuf], record: &Record, result: &Value) -> Result<()> {
    if record.config.disable_check || !record.config.speaks("0.4.0") {
        return Ok(());
    }
    for plugin in &record.config.plugins {
        let input = input(record, plugin, result);
        plugin::run(
            bin_dirs,
            plugin_type(plugin),
            Verb::Check,
            &input,
            Some(target(record, &record.netns)),
        )
        .await
        .map_err(|error| Error(format!("{}: {error}", of(record))))?;
    }
    Ok(())
}

/// Runs GC of all plugins, where the configuration has it and allows it.
pub(crate) async fn collect(bin_dirs: &[PathBuf], config: &NetworkConfig, valid: &[String]) -> Result<()> {
    if config.disable_gc || !config.speaks("1.1.0") {
        return Ok(());
    }
    let attachments: Vec<Value> = valid
        .iter()
        .map(|id| json!({ "containerID": id, "ifname": INTERFACE }))
        .collect();
    let attachments = Value::from(attachments);
    let mut problems = Vec::new();
    for plugin in &config.plugins {
        // The specification's first text had the second name.
        let added = [
            ("cni.dev/valid-attachments", &attachments),
            ("cni.dev/attachments", &attachments),
        ];
        let input = derive(config, plugin, &added);
        if let Err(error) = plugin::run(bin_dirs, plugin_type(plugin), Verb::Gc, &input, None).await {
            problems.push(error.to_string());
        }
    }
    all_well(problems, || format!("network {}", config.name))
}

/// Asks all plugins whether they can attach pods, where the configuration has that.
pub(crate) async fn status(bin_dirs: &[PathBuf], config: &NetworkConfig) -> Result<()> {
    if !config.speaks("1.1.0") {
        return Ok(());
    }
    for plugin in &config.plugins {
        let input = derive(config, plugin, &[]);
        plugin::run(bin_dirs, plugin_type(plugin), Verb::Status, &input, None)
            .await
            .map_err(|error| Error(format!("network {}: {error}", config.name)))?;
    }
    Ok(())
}

/// Whether all plugins are there and speak the configuration's version.
pub(crate) async fn validate(bin_dirs: &[PathBuf], config: &NetworkConfig) -> Result<()> {
    for plugin in &config.plugins {
        let kind = plugin_type(plugin);
        let of = |error: &dyn std::fmt::Display| Error(format!("network {}: {error}", config.name));
        let question = json!({ "cniVersion": config.version });
        let answer = plugin::run(bin_dirs, kind, Verb::Version, &question, None)
            .await
            .map_err(|error| of(&error))?;
        let Some(supported) = answer.get("supportedVersions").and_then(Value::as_array) else {
            continue;
        };
        if !supported.iter().any(|version| version == config.version.as_str()) {
            return Err(of(&format!(
                "plugin {kind} does not speak CNI version {}",
                config.version
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_gets_the_capabilities_that_it_declares() {
        let plugin = json!({
            "type": "x", "capabilities": { "portMappings": true, "dns": false, "mac": true }, "cni.dev/x": 1, "own": 2,
        });
        let plugin = plugin.as_object().unwrap();
        let arguments = json!({ "portMappings": [1], "dns": {}, "bandwidth": {} });
        let runtime = runtime_config(plugin, arguments.as_object().unwrap());
        assert_eq!(runtime, json!({ "portMappings": [1] }));
        let config = NetworkConfig {
            source: String::new(),
            name: "n".into(),
            version: "1.0.0".into(),
            disable_check: false,
            disable_gc: false,
            plugins: vec![],
        };
        assert_eq!(
            derive(
                &config,
                plugin,
                &[("runtimeConfig", &runtime), ("prevResult", &Value::Null)]
            ),
            json!({ "type": "x", "own": 2, "name": "n", "cniVersion": "1.0.0", "runtimeConfig": { "portMappings": [1] } })
        );
    }

    #[test]
    fn an_unpinned_file_is_no_namespace() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(!is_namespace(file.path()));
        assert!(is_namespace(Path::new("/proc/self/ns/net")));
        assert!(!is_namespace(Path::new("/no/such/file")));
    }
}
