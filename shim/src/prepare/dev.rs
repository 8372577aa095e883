//! /dev, built whole on a tmpfs that nobody else can reach yet. The host's root makes the nodes also for a user
//! namespace, with mapped owners: inside, mknod is refused, and a bound host node would belong to nobody.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use criquet_proto::shim::{Device, Plan};
use criquet_sys::device::{self, Node};
use criquet_sys::errno;
use criquet_sys::mount::{self, Attributes};
use criquet_sys::path::{self, Entry, Root};

use super::spaces::Spaces;
use crate::child::{About as _, Failure};

/// As much as runc gives it: nodes, links and what a careless program writes there.
const SIZE: &str = "64m";
/// Name, major, minor; mode 0666 (the OCI runtime specification's default devices).
const DEFAULT_NODES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];
const FOLDERS: [&str; 3] = ["pts", "shm", "mqueue"];
/// The terminal is bound here.
pub(crate) const CONSOLE: &str = "console";

/// A finished /dev but for the mounts in it.
#[derive(Debug)]
pub(crate) struct Dev {
    pub(crate) tree: OwnedFd,
    /// Host nodes to bind where making them was refused: the name in /dev and the node.
    pub(crate) bound: Vec<(String, OwnedFd)>,
}

impl Dev {
    pub(crate) fn fds(&self) -> Vec<BorrowedFd<'_>> {
        std::iter::once(self.tree.as_fd())
            .chain(self.bound.iter().map(|(_, fd)| fd.as_fd()))
            .collect()
    }
}

pub(crate) fn build(plan: &Plan, spaces: &Spaces<'_>) -> Result<Dev, Failure> {
    let root = spaces.ids.host_owner(0, 0);
    let (uid, gid) = (root.0.to_string(), root.1.to_string());
    let options = [
        ("mode", Some("755")),
        ("size", Some(SIZE)),
        ("uid", Some(uid.as_str())),
        ("gid", Some(gid.as_str())),
    ];
    let tree = mount::new(
        "tmpfs",
        &options,
        Attributes {
            nosuid: true,
            ..Attributes::default()
        },
    )?;
    for folder in FOLDERS {
        path::make_entry(&tree, folder, Entry::Directory(0o755), root)?;
    }
    for (name, target) in LINKS {
        path::make_entry(&tree, name, Entry::Link(target), root)?;
    }
    if plan.process.as_ref().is_some_and(|process| process.terminal) {
        path::make_entry(&tree, CONSOLE, Entry::File(0o620), root)?;
    }
    let mut dev = Dev {
        tree,
        bound: Vec::new(),
    };
    for (name, major, minor) in DEFAULT_NODES {
        let node = Node {
            block: false,
            major,
            minor,
            mode: 0o666,
            owner: root,
        };
        dev.add(name, &node, &format!("/dev/{name}"), root)?;
    }
    for device in &plan.devices {
        if let Some(name) = name(&device.path) {
            dev.add(name, &node(device, spaces)?, &device.host_path, root)
                .about(|| format!("device {}", device.path))?;
        }
    }
    Ok(dev)
}

impl Dev {
    fn add(&mut self, name: &str, node: &Node, host_path: &str, root: (u32, u32)) -> Result<(), Failure> {
        let (folder, last) = match name.rsplit_once('/') {
            None => (None, name),
            Some((parents, last)) => {
                let tree = self
                    .tree
                    .try_clone()
                    .map_err(|e| criquet_sys::Error::new("fcntl", "/dev", e))?;
                (Some(Root::from(tree).directory(Path::new(parents))?), last)
            }
        };
        let folder = folder.as_ref().map_or(self.tree.as_fd(), AsFd::as_fd);
        match device::make(folder, last, node) {
            // A plan that names a default device again (all of a privileged container's) changes nothing.
            Err(error) if error.is(errno::EEXIST) => Ok(()),
            Err(error) if error.is(errno::EPERM) => {
                path::make_entry(folder, last, Entry::File(0o666), root)?;
                self.bound
                    .push((name.to_owned(), mount::clone_path(Path::new(host_path), false)?));
                Ok(())
            }
            done => Ok(done?),
        }
    }
}

fn node(device: &Device, spaces: &Spaces<'_>) -> Result<Node, Failure> {
    let block = match device.r#type.as_str() {
        "b" => true,
        "c" | "u" => false,
        other => {
            return Err(Failure::invalid(format!(
                "device {}: type {other:?}",
                device.path
            )));
        }
    };
    let owner = spaces.ids.host_owner(device.uid, device.gid);
    Ok(Node {
        block,
        major: device.major,
        minor: device.minor,
        mode: device.mode,
        owner,
    })
}

/// The name of a path below /dev, without dots that would lead elsewhere.
pub(crate) fn name(path: &str) -> Option<&str> {
    let name = path.strip_prefix("/dev/")?.trim_start_matches('/');
    let plain = !name.is_empty() && name.split('/').all(|part| !matches!(part, "" | "." | ".."));
    plain.then_some(name)
}

/// The host's node, to be bound.
pub(crate) fn clone_host(device: &Device) -> Result<OwnedFd, Failure> {
    let path = if device.host_path.is_empty() {
        &device.path
    } else {
        &device.host_path
    };
    mount::clone_path(Path::new(path), false).about(|| format!("device {}", device.path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_below_dev() {
        assert_eq!(name("/dev/net/tun"), Some("net/tun"));
        for other in ["/dev", "/dev/", "/dev/../x", "/dev/a//b", "/devil", "/dev/./a"] {
            assert_eq!(name(other), None, "{other}");
        }
    }
}
