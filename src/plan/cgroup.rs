//! The cgroup of a container: where it is in each hierarchy, and what is written there.

use std::path::{Path, PathBuf};

use criquet_proto::shim;
use criquet_proto::shim::cgroup::{Dir, File};

use super::devices::Rule;
use super::host::{Hierarchy, HostFacts};
use super::{cgroup_v1, cgroup_v2, device_program, scope};
use crate::container::config::Resources;
use crate::fault::{Fault, Result};
use crate::sandbox::config::SandboxConfig;
use crate::systemd::slice;

/// Controllers whose settings a request has.
const CONTROLLERS: [&str; 4] = ["cpu", "cpuset", "memory", "hugetlb"];

/// One setting of one controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    pub name: String,
    pub value: String,
    pub optional: bool,
}

impl Setting {
    pub(super) fn new(name: impl Into<String>, value: impl ToString) -> Self {
        Self {
            name: name.into(),
            value: value.to_string(),
            optional: false,
        }
    }

    pub(super) fn optional(name: impl Into<String>, value: impl ToString) -> Self {
        Self {
            optional: true,
            ..Self::new(name, value)
        }
    }
}

/// A cgroup without settings: that of a pod's init.
#[must_use]
pub fn pod_cgroup(
    host: &HostFacts,
    default_parent: &str,
    sandbox: &SandboxConfig,
    sandbox_id: &str,
) -> shim::Cgroup {
    let layout = &host.cgroup;
    let dirs = layout.hierarchies.iter().map(|hierarchy| Dir {
        path: folder(hierarchy, default_parent, sandbox, sandbox_id)
            .to_string_lossy()
            .into_owned(),
        files: Vec::new(),
        controllers: hierarchy.label(layout.v2),
    });
    shim::Cgroup {
        v2: layout.v2,
        dirs: dirs.collect(),
        device_program: Vec::new(),
    }
}

/// The host paths of a container's cgroup, one a hierarchy.
#[must_use]
pub fn container_cgroup_dirs(
    host: &HostFacts,
    default_parent: &str,
    sandbox: &SandboxConfig,
    container_id: &str,
) -> Vec<PathBuf> {
    let hierarchies = host.cgroup.hierarchies.iter();
    hierarchies
        .map(|hierarchy| folder(hierarchy, default_parent, sandbox, container_id))
        .collect()
}

/// The host paths of the parent cgroup that the pod was given, one a hierarchy.
#[must_use]
pub fn pod_parent_dirs(host: &HostFacts, sandbox: &SandboxConfig) -> Vec<PathBuf> {
    let hierarchies = host.cgroup.hierarchies.iter();
    hierarchies
        .map(|hierarchy| folder(hierarchy, "", sandbox, ""))
        .collect()
}

/// The host path of a container's cgroup in the hierarchy that has `controller`.
#[must_use]
pub fn container_cgroup_dir(
    host: &HostFacts,
    controller: &str,
    default_parent: &str,
    sandbox: &SandboxConfig,
    container_id: &str,
) -> Option<PathBuf> {
    host.cgroup
        .with(controller)
        .map(|hierarchy| folder(hierarchy, default_parent, sandbox, container_id))
}

/// The parent of a pod's cgroups: its own, else the daemon's. A slice means that systemd makes what is below; so a pod
/// keeps its place when the daemon's driver changes.
pub(super) fn parent<'a>(default_parent: &'a str, sandbox: &'a SandboxConfig) -> &'a str {
    if sandbox.cgroup_parent.is_empty() {
        default_parent
    } else {
        &sandbox.cgroup_parent
    }
}

pub(super) fn folder(
    hierarchy: &Hierarchy,
    default_parent: &str,
    sandbox: &SandboxConfig,
    id: &str,
) -> PathBuf {
    let parent = parent(default_parent, sandbox);
    let mut path = hierarchy.mount.clone();
    if slice::is_slice(parent) {
        path.extend(slice::chain(slice::name(parent)));
        if !id.is_empty() {
            path.push(scope::name(id));
        }
        return path;
    }
    // Validation refused `..`; here nothing but names goes on, so the path stays below the mount.
    path.extend(
        parent
            .split('/')
            .filter(|part| !part.is_empty() && *part != "." && *part != ".."),
    );
    path.push(Path::new(id));
    path
}

/// Where a container's settings go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub host: &'a HostFacts,
    pub default_parent: &'a str,
    pub sandbox: &'a SandboxConfig,
    pub id: &'a str,
}

/// The cgroup of a container, with its limits and device rules (`None`: all devices).
///
/// # Errors
/// `unified` settings on a host without a cgroup v2 home.
pub(super) fn cgroup(
    place: Place<'_>,
    resources: &Resources,
    rules: Option<&[Rule]>,
) -> Result<shim::Cgroup> {
    let Place {
        host,
        default_parent,
        sandbox,
        id,
    } = place;
    let mut cgroup = pod_cgroup(host, default_parent, sandbox, id);
    for (at, settings) in settings(host, resources, None)? {
        if let Some(dir) = cgroup.dirs.get_mut(at) {
            dir.files.extend(settings.into_iter().map(file));
        }
    }
    let Some(rules) = rules else { return Ok(cgroup) };
    if host.cgroup.v2 {
        cgroup.device_program = device_program::assemble(rules);
        return Ok(cgroup);
    }
    match host
        .cgroup
        .hierarchies
        .iter()
        .position(|h| !h.unified && h.has("devices"))
    {
        Some(at) => {
            if let Some(dir) = cgroup.dirs.get_mut(at) {
                dir.files.extend(cgroup_v1::devices(rules).into_iter().map(file));
            }
        }
        // v2's program works in the unified hierarchy of a hybrid host, too.
        None => cgroup.device_program = device_program::assemble(rules),
    }
    Ok(cgroup)
}

fn file(setting: Setting) -> File {
    File {
        name: setting.name,
        value: setting.value,
        optional: setting.optional,
    }
}

/// Settings by the index of their hierarchy. With `old`, what is in force, they are in an order that the kernel
/// takes at every step. A controller that the host lacks is left out, as the peers do.
pub(super) fn settings(
    host: &HostFacts,
    resources: &Resources,
    old: Option<&Resources>,
) -> Result<Vec<(usize, Vec<Setting>)>> {
    let mut out = Vec::new();
    for controller in CONTROLLERS {
        let hierarchies = &host.cgroup.hierarchies;
        let Some(at) = hierarchies.iter().position(|hierarchy| hierarchy.has(controller)) else {
            continue;
        };
        let settings = if hierarchies.get(at).is_some_and(|hierarchy| hierarchy.unified) {
            cgroup_v2::settings(controller, resources)
        } else {
            cgroup_v1::settings(controller, resources, old)
        };
        if !settings.is_empty() {
            out.push((at, settings));
        }
    }
    if resources.unified.is_empty() {
        return Ok(out);
    }
    if !host.cgroup.v2 {
        return Err(Fault::invalid(
            "unified resources need a host with cgroup v2 alone",
        ));
    }
    // Last: what is asked for by file wins over what was worked out.
    out.push((
        0,
        resources
            .unified
            .iter()
            .map(|(name, value)| Setting::new(name, value))
            .collect(),
    ));
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::super::host::tests::{hybrid, v2};
    use super::*;

    fn place<'a>(host: &'a HostFacts, sandbox: &'a SandboxConfig) -> Place<'a> {
        Place {
            host,
            default_parent: "/criquet",
            sandbox,
            id: "abc",
        }
    }

    #[test]
    fn paths_stay_below_the_mount() {
        let host = v2();
        let parents = [
            ("", "criquet"),
            ("/kubepods/pod1", "kubepods/pod1"),
            ("a//./b/", "a/b"),
            ("/../../etc", "etc"),
        ];
        for (parent, want) in parents {
            let sandbox = SandboxConfig {
                cgroup_parent: parent.into(),
                ..SandboxConfig::default()
            };
            let dirs = container_cgroup_dirs(&host, "/criquet", &sandbox, "abc");
            assert_eq!(dirs, [PathBuf::from(format!("/sys/fs/cgroup/{want}/abc"))]);
        }
    }

    #[test]
    fn a_slice_has_scopes_where_its_name_says() {
        let sandbox = SandboxConfig {
            cgroup_parent: "kubepods-burstable.slice".into(),
            ..SandboxConfig::default()
        };
        let below = "/sys/fs/cgroup/kubepods.slice/kubepods-burstable.slice";
        let dirs = container_cgroup_dirs(&v2(), "/criquet", &sandbox, "abc");
        assert_eq!(dirs, [Path::new(below).join("criquet-abc.scope")]);
        assert_eq!(pod_parent_dirs(&v2(), &sandbox), [Path::new(below)]);
        let dirs = container_cgroup_dirs(&v2(), "criquet.slice", &SandboxConfig::default(), "abc");
        assert_eq!(
            dirs,
            [Path::new("/sys/fs/cgroup/criquet.slice/criquet-abc.scope")]
        );
    }

    #[test]
    fn every_hierarchy_of_a_hybrid_host_has_a_folder() {
        let (host, sandbox) = (hybrid(), SandboxConfig::default());
        let resources = Resources {
            memory_limit: Some(1 << 20),
            cpu_shares: Some(2),
            ..Resources::default()
        };
        let cgroup = cgroup(place(&host, &sandbox), &resources, Some(&[])).unwrap();
        assert!(!cgroup.v2 && cgroup.device_program.is_empty());
        assert_eq!(cgroup.dirs.len(), 7);
        let files = |controllers: &str| {
            let dir = cgroup
                .dirs
                .iter()
                .find(|dir| dir.controllers == controllers)
                .unwrap();
            dir.files
                .iter()
                .map(|file| file.name.as_str())
                .collect::<Vec<_>>()
        };
        assert_eq!(files("cpu,cpuacct"), ["cpu.shares"]);
        assert_eq!(
            files("memory"),
            ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"]
        );
        assert_eq!(files("devices"), ["devices.deny"]);
        assert!(files("unified").is_empty());
    }

    #[test]
    fn unified_settings_need_v2_and_come_last() {
        let sandbox = SandboxConfig::default();
        let unified = [("memory.high".to_owned(), "5".to_owned())].into();
        let resources = Resources {
            memory_limit: Some(9),
            unified,
            ..Resources::default()
        };
        let (v2, hybrid) = (v2(), hybrid());
        assert!(cgroup(place(&hybrid, &sandbox), &resources, None).is_err());
        let cgroup = cgroup(place(&v2, &sandbox), &resources, None).unwrap();
        let names: Vec<&str> = cgroup.dirs[0]
            .files
            .iter()
            .map(|file| file.name.as_str())
            .collect();
        assert_eq!(names, ["memory.max", "memory.swap.max", "memory.high"]);
        assert!(cgroup.device_program.is_empty(), "privileged");
    }

    #[test]
    fn controllers_that_the_host_lacks_are_left_out() {
        let mut host = v2();
        host.cgroup.hierarchies[0].controllers = vec!["memory".into()];
        let resources = Resources {
            cpu_shares: Some(2),
            ..Resources::default()
        };
        let cgroup = cgroup(place(&host, &SandboxConfig::default()), &resources, Some(&[])).unwrap();
        assert!(cgroup.dirs[0].files.is_empty() && !cgroup.device_program.is_empty());
    }
}
