//! CreateContainer: the request, validated into a [`ContainerConfig`].

use criquet_proto::cri;

use super::mount_request::{devices, mounts};
use super::{field, profile_request, resource_request, sandbox_request};
use crate::container::config::{Capabilities, ContainerConfig, Pid, Resources, Security};
use crate::fault::{Fault, Result};
use crate::limits;
use crate::plan::capabilities;
use crate::plan::signal;
use crate::sandbox::config::SandboxConfig;

/// Validates a container request for a sandbox.
///
/// # Errors
/// Something in it can never work, or contradicts the sandbox; the sentence names the field.
pub fn container(config: &cri::ContainerConfig, sandbox: &SandboxConfig) -> Result<ContainerConfig> {
    let metadata = config
        .metadata
        .as_ref()
        .ok_or_else(|| Fault::invalid("the container config has no metadata"))?;
    let image = config
        .image
        .as_ref()
        .ok_or_else(|| Fault::invalid("the container config has no image"))?;
    let linux = config.linux.clone().unwrap_or_default();
    if let Some(device) = config.cdi_devices.first() {
        return Err(Fault::unimplemented(format!(
            "CDI device {:?}: CDI devices are not supported",
            device.name
        )));
    }
    if image.image.is_empty() {
        return Err(Fault::invalid("image.image is empty"));
    }
    if !image.runtime_handler.is_empty() && image.runtime_handler != sandbox.runtime_handler {
        return Err(Fault::invalid(format!(
            "image.runtime_handler {:?} is not the sandbox's",
            image.runtime_handler
        )));
    }
    let working_dir = match config.working_dir.as_str() {
        "" => "",
        path => field::absolute("working_dir", path)?,
    };
    command_line(&config.command, &config.args)?;
    Ok(ContainerConfig {
        name: field::required_name("metadata.name", &metadata.name)?.to_owned(),
        attempt: metadata.attempt,
        image: field::line("image.image", &image.image, limits::PATH_BYTES_MAX)?.to_owned(),
        user_specified_image: field::line(
            "image.user_specified_image",
            &image.user_specified_image,
            limits::PATH_BYTES_MAX,
        )?
        .to_owned(),
        image_annotations: field::metadata("image.annotations", &image.annotations)?,
        command: config.command.clone(),
        args: config.args.clone(),
        working_dir: working_dir.to_owned(),
        env: env(&config.envs)?,
        mounts: mounts(&config.mounts)?,
        devices: devices(&config.devices)?,
        labels: field::metadata("labels", &config.labels)?,
        annotations: field::metadata("annotations", &config.annotations)?,
        log_path: field::relative("log_path", &config.log_path)?.to_owned(),
        stdin: config.stdin,
        stdin_once: config.stdin_once,
        tty: config.tty,
        resources: match &linux.resources {
            Some(request) => resource_request::resources(request)?,
            None => Resources::default(),
        },
        security: security(&linux.security_context.unwrap_or_default(), sandbox)?,
        stop_signal: stop_signal(config.stop_signal)?,
    })
}

/// The enum's number to the kernel's; `None`: not asked for.
fn stop_signal(value: i32) -> Result<Option<i32>> {
    let name = field::choice::<cri::Signal>("stop_signal", value)?.as_str_name();
    if value == i32::from(cri::Signal::RuntimeDefault) {
        return Ok(None);
    }
    let name = name.strip_prefix("SIGNAL_").unwrap_or(name);
    signal::number(name)
        .map(Some)
        .ok_or_else(|| Fault::invalid(format!("stop_signal {name} is not a signal of this system")))
}

/// The CRI's enum for a kernel signal number, for status answers.
#[must_use]
pub fn stop_signal_answer(number: i32) -> cri::Signal {
    let name = signal::name(number).replace('+', "PLUS").replace('-', "MINUS");
    cri::Signal::from_str_name(&format!("SIGNAL_{name}")).unwrap_or(cri::Signal::RuntimeDefault)
}

fn command_line(command: &[String], args: &[String]) -> Result<()> {
    let mut bytes = 0usize;
    for word in command.iter().chain(args) {
        field::text("command", word, limits::ARGS_AND_ENV_BYTES_MAX)?;
        bytes = bytes.saturating_add(word.len());
    }
    if bytes > limits::ARGS_AND_ENV_BYTES_MAX {
        return Err(Fault::invalid(format!(
            "command and args exceed {} bytes",
            limits::ARGS_AND_ENV_BYTES_MAX
        )));
    }
    Ok(())
}

fn env(entries: &[cri::KeyValue]) -> Result<Vec<(String, Vec<u8>)>> {
    let mut bytes = 0usize;
    let mut out = Vec::with_capacity(entries.len());
    for entry in entries {
        field::text("env name", &entry.key, limits::TEXT_BYTES_MAX)?;
        if entry.key.is_empty() || entry.key.contains('=') {
            return Err(Fault::invalid(format!(
                "env name {:?} is empty or contains \"=\"",
                entry.key
            )));
        }
        if entry.value.contains(&0) {
            return Err(Fault::invalid(format!("env {:?} contains a NUL byte", entry.key)));
        }
        bytes = bytes
            .saturating_add(entry.key.len())
            .saturating_add(entry.value.len());
        out.push((entry.key.clone(), entry.value.clone()));
    }
    if bytes > limits::ARGS_AND_ENV_BYTES_MAX {
        return Err(Fault::invalid(format!(
            "envs exceed {} bytes",
            limits::ARGS_AND_ENV_BYTES_MAX
        )));
    }
    Ok(out)
}

#[allow(deprecated)]
fn security(request: &cri::LinuxContainerSecurityContext, sandbox: &SandboxConfig) -> Result<Security> {
    let options = request.namespace_options.clone().unwrap_or_default();
    let user = sandbox_request::user(options.userns_options.as_ref())?;
    // A container that says nothing about it gets the sandbox's.
    if options.userns_options.is_some() && user != sandbox.user {
        return Err(Fault::invalid("userns_options differ from the sandbox's"));
    }
    if request.privileged && !sandbox.privileged {
        return Err(Fault::invalid(
            "a privileged container needs a privileged sandbox",
        ));
    }
    if request.privileged && sandbox.user.is_some() {
        return Err(Fault::invalid(
            "a privileged container cannot be in a user namespace",
        ));
    }
    if request.run_as_group.is_some() && request.run_as_user.is_none() && request.run_as_username.is_empty() {
        return Err(Fault::invalid(
            "run_as_group is set without run_as_user or run_as_username",
        ));
    }
    let id =
        |field: &str, value: Option<&cri::Int64Value>| value.map(|v| field::id(field, v.value)).transpose();
    let paths = |field: &str, paths: &[String]| {
        if paths.len() > limits::MOUNTS_MAX {
            return Err(Fault::invalid(format!(
                "{field} has more than {} entries",
                limits::MOUNTS_MAX
            )));
        }
        paths
            .iter()
            .map(|path| field::absolute(field, path).map(str::to_owned))
            .collect::<Result<Vec<_>>>()
    };
    Ok(Security {
        capabilities: capabilities(request.capabilities.as_ref())?,
        privileged: request.privileged,
        pid: pid(&options, sandbox)?,
        run_as_user: id("run_as_user", request.run_as_user.as_ref())?,
        run_as_group: id("run_as_group", request.run_as_group.as_ref())?,
        run_as_username: field::line(
            "run_as_username",
            &request.run_as_username,
            limits::NAME_BYTES_MAX,
        )?
        .to_owned(),
        readonly_rootfs: request.readonly_rootfs,
        supplemental_groups: field::groups("supplemental_groups", &request.supplemental_groups)?,
        supplemental_groups_policy: sandbox_request::groups_policy(request.supplemental_groups_policy)?,
        apparmor: profile_request::apparmor(request.apparmor.as_ref(), &request.apparmor_profile)?,
        seccomp: profile_request::seccomp(request.seccomp.as_ref(), &request.seccomp_profile_path)?,
        no_new_privs: request.no_new_privs,
        masked_paths: paths("masked_paths", &request.masked_paths)?,
        readonly_paths: paths("readonly_paths", &request.readonly_paths)?,
        selinux: profile_request::selinux(request.selinux_options.as_ref())?,
        user,
    })
}

fn pid(options: &cri::NamespaceOption, sandbox: &SandboxConfig) -> Result<Pid> {
    use cri::NamespaceMode as Mode;
    let mode = field::choice("pid namespace mode", options.pid)?;
    if mode == Mode::Node && sandbox.user.is_some() {
        return Err(Fault::invalid(
            "a container in a user namespace cannot share the host's pid namespace",
        ));
    }
    Ok(match mode {
        Mode::Pod => Pid::Pod,
        Mode::Container => Pid::Container,
        Mode::Node => Pid::Node,
        Mode::Target if options.target_id.is_empty() => {
            return Err(Fault::invalid("pid namespace mode TARGET needs a target_id"));
        }
        Mode::Target => Pid::Target(field::name("target_id", &options.target_id)?.to_owned()),
    })
}

fn capabilities(request: Option<&cri::Capability>) -> Result<Capabilities> {
    let Some(request) = request else {
        return Ok(Capabilities::default());
    };
    let mask = |field: &str, names: &[String], all: Option<&mut bool>| {
        let mut mask = 0u64;
        let mut saw_all = false;
        for name in names {
            if name.eq_ignore_ascii_case("ALL") && all.is_some() {
                saw_all = true;
                continue;
            }
            let number = capabilities::number(name)
                .ok_or_else(|| Fault::invalid(format!("{field}: {name:?} is not a capability")))?;
            mask |= 1 << number;
        }
        if let Some(all) = all {
            *all = saw_all;
        }
        Ok::<u64, Fault>(mask)
    };
    let mut out = Capabilities::default();
    out.add = mask(
        "add_capabilities",
        &request.add_capabilities,
        Some(&mut out.add_all),
    )?;
    out.drop = mask(
        "drop_capabilities",
        &request.drop_capabilities,
        Some(&mut out.drop_all),
    )?;
    out.ambient = mask(
        "add_ambient_capabilities",
        &request.add_ambient_capabilities,
        None,
    )?;
    Ok(out)
}

#[cfg(test)]
#[path = "container_request_tests.rs"]
mod tests;
