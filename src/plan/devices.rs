//! Device nodes, and which devices the cgroup allows.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use criquet_proto::shim;

use crate::container::config::Device;
use crate::fault::{Fault, Kind, OrFault, Result};
use crate::limits;

/// What init makes in every /dev.
const DEFAULT_NAMES: [&str; 8] = [
    "null", "zero", "full", "random", "urandom", "tty", "console", "ptmx",
];
/// Folders of the host's /dev that hold no devices for containers, or are mounts of their own.
const SKIPPED_FOLDERS: [&str; 8] = [
    "pts",
    "shm",
    "fd",
    "mqueue",
    "hugepages",
    ".lxc",
    ".lxd-mounts",
    ".udev",
];

/// One line of a device cgroup. `None` is any number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    /// Character devices, else block devices.
    pub character: bool,
    pub major: Option<u32>,
    pub minor: Option<u32>,
    /// Some of `r`, `w`, `m`.
    pub access: String,
}

/// Nodes to make and rules to allow them.
#[derive(Debug, Default)]
pub(super) struct Devices {
    pub nodes: Vec<shim::Device>,
    /// Everything else is denied. `None`: nothing is.
    pub rules: Option<Vec<Rule>>,
}

/// The devices of a container.
///
/// # Errors
/// A host path is not there, is no device, or holds too many.
pub(super) fn devices(requests: &[Device], privileged: bool) -> Result<Devices> {
    let mut nodes = Vec::new();
    let mut rules = default_rules();
    for request in requests {
        let first = nodes.len();
        add(request, &mut nodes)?;
        for node in nodes.get(first..).unwrap_or_default() {
            rules.push(Rule {
                character: node.r#type == "c",
                major: Some(node.major),
                minor: Some(node.minor),
                access: request.permissions.clone(),
            });
        }
    }
    if privileged {
        host_devices(&mut nodes)?;
    }
    // Of two nodes with one path the first stays: the requested one.
    let mut seen = std::collections::HashSet::new();
    nodes.retain(|node| seen.insert(node.path.clone()));
    Ok(Devices {
        nodes,
        rules: (!privileged).then_some(rules),
    })
}

/// What every container may use: any mknod (a node alone opens nothing), and the default devices.
fn default_rules() -> Vec<Rule> {
    let rule = |major: Option<u32>, minor: Option<u32>, access: &str| Rule {
        character: true,
        major,
        minor,
        access: access.to_owned(),
    };
    let mut rules = vec![
        rule(None, None, "m"),
        Rule {
            character: false,
            ..rule(None, None, "m")
        },
    ];
    // null, zero, full, random, urandom; tty, ptmx; pts.
    rules.extend([3, 5, 7, 8, 9].map(|minor| rule(Some(1), Some(minor), "rwm")));
    rules.extend([0, 2].map(|minor| rule(Some(5), Some(minor), "rwm")));
    rules.push(rule(Some(136), None, "rwm"));
    rules
}

fn add(request: &Device, nodes: &mut Vec<shim::Device>) -> Result<()> {
    let path = Path::new(&request.host_path);
    let doing = || format!("looking at device {path:?}");
    let metadata = std::fs::metadata(path).or_fault(Kind::Invalid, doing)?;
    if metadata.is_dir() {
        let before = nodes.len();
        walk(path, &request.container_path, 0, nodes)?;
        if nodes.len() == before {
            return Err(Fault::invalid(format!("{path:?} holds no devices")));
        }
        return Ok(());
    }
    let node = node(&request.container_path, path, &metadata)
        .ok_or_else(|| Fault::invalid(format!("{path:?} is not a device")))?;
    push(node, nodes)
}

fn push(node: shim::Device, nodes: &mut Vec<shim::Device>) -> Result<()> {
    if nodes.len() >= limits::DEVICES_MAX {
        return Err(Fault::invalid(format!(
            "more than {} devices",
            limits::DEVICES_MAX
        )));
    }
    nodes.push(node);
    Ok(())
}

/// All devices below a folder; links are not followed.
fn walk(folder: &Path, container: &str, depth: usize, nodes: &mut Vec<shim::Device>) -> Result<()> {
    if depth > limits::DEVICE_FOLDER_DEPTH_MAX {
        return Ok(());
    }
    let entries =
        std::fs::read_dir(folder).or_internal(|| format!("reading the device folder {folder:?}"))?;
    let mut names: Vec<_> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.file_name()))
        .collect();
    names.sort();
    for name in names {
        let Some(text) = name.to_str() else { continue };
        let path = folder.join(text);
        // Devices come and go: one that is gone by now is not an error.
        let Ok(metadata) = std::fs::symlink_metadata(&path) else {
            continue;
        };
        let target = format!("{}/{text}", container.trim_end_matches('/'));
        if metadata.is_dir() {
            if !SKIPPED_FOLDERS.contains(&text) {
                walk(&path, &target, depth + 1, nodes)?;
            }
        } else if let Some(node) = node(&target, &path, &metadata) {
            push(node, nodes)?;
        }
    }
    Ok(())
}

fn host_devices(nodes: &mut Vec<shim::Device>) -> Result<()> {
    let mut found = Vec::new();
    walk(Path::new("/dev"), "/dev", 0, &mut found)?;
    found.retain(|node| {
        !DEFAULT_NAMES
            .iter()
            .any(|name| node.path.strip_prefix("/dev/") == Some(name))
    });
    nodes.append(&mut found);
    Ok(())
}

fn node(container_path: &str, host_path: &Path, metadata: &std::fs::Metadata) -> Option<shim::Device> {
    let kind = metadata.file_type();
    let letter = if kind.is_char_device() {
        "c"
    } else if kind.is_block_device() {
        "b"
    } else {
        return None;
    };
    let (major, minor) = numbers(metadata.rdev());
    Some(shim::Device {
        path: super::mounts::clean(container_path),
        host_path: host_path.to_str()?.to_owned(),
        r#type: letter.to_owned(),
        major,
        minor,
        mode: metadata.mode() & 0o777,
        uid: metadata.uid(),
        gid: metadata.gid(),
    })
}

/// makedev(3) backwards: 12 + 20 bits in the kernel's 64-bit encoding of the C library.
#[allow(clippy::cast_possible_truncation)]
fn numbers(device: u64) -> (u32, u32) {
    let major = ((device >> 8) & 0xfff) | ((device >> 32) & 0xffff_f000);
    let minor = (device & 0xff) | ((device >> 12) & 0xffff_ff00);
    (major as u32, minor as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(host: &str, container: &str) -> Device {
        Device {
            host_path: host.into(),
            container_path: container.into(),
            permissions: "rw".into(),
        }
    }

    #[test]
    fn numbers_of_the_c_library() {
        assert_eq!(numbers(0x103), (1, 3));
        assert_eq!(numbers(0x0000_1000_0010_0005), (0x1000, 0x105));
    }

    #[test]
    fn a_device_and_its_rule() {
        let devices = devices(&[request("/dev/null", "/dev/x")], false).unwrap();
        let node = &devices.nodes[0];
        assert_eq!(
            (node.path.as_str(), node.r#type.as_str(), node.major, node.minor),
            ("/dev/x", "c", 1, 3)
        );
        let rules = devices.rules.unwrap();
        let last = rules.last().unwrap();
        assert_eq!(
            (last.character, last.major, last.minor, last.access.as_str()),
            (true, Some(1), Some(3), "rw")
        );
        assert_eq!(rules.len(), 11);
    }

    #[test]
    fn what_is_no_device_is_refused() {
        assert!(devices(&[request("/nonexistent", "/dev/x")], false).is_err());
        assert!(devices(&[request("/etc/passwd", "/dev/x")], false).is_err());
        let empty = tempfile::tempdir().unwrap();
        assert!(devices(&[request(empty.path().to_str().unwrap(), "/dev/x")], false).is_err());
    }

    #[test]
    fn privileged_containers_get_all_of_the_host() {
        let devices = devices(&[], true).unwrap();
        assert!(devices.rules.is_none());
        assert!(
            devices
                .nodes
                .iter()
                .all(|node| node.path != "/dev/null" && !node.path.starts_with("/dev/pts/"))
        );
    }
}
