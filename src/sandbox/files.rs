//! The files that a pod's containers see in /etc, and their /dev/shm: one small tmpfs a pod, so that what a
//! container writes into them is bounded (CVE-2020-8557).

use std::fmt::Write as _;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use criquet_network::Attachment;

use super::config::{Ipc, SandboxConfig};
use crate::fault::{OrFault, Result};

/// Size of the pod's tmpfs: what /dev/shm is expected to hold (as containerd and CRI-O have it).
const TMPFS_OPTIONS: &str = "size=65536k,mode=0755";

/// Mounts the tmpfs at `dir` and makes hostname, resolv.conf and `shm/`.
///
/// # Errors
/// A mount or write failed; what was made is taken away with the sandbox.
pub fn make(dir: &Path, config: &SandboxConfig, hostname: &str) -> Result<()> {
    std::fs::create_dir_all(dir).or_internal(|| format!("making {dir:?}"))?;
    criquet_sys::mount::tmpfs(dir, TMPFS_OPTIONS)
        .or_internal(|| format!("mounting the pod's tmpfs at {dir:?}"))?;
    write(dir, config, "hostname", &format!("{hostname}\n"))?;
    write(dir, config, "resolv.conf", &resolv_conf(config))?;
    if config.namespaces.ipc == Ipc::Pod {
        let shm = dir.join("shm");
        std::fs::create_dir(&shm).or_internal(|| format!("making {shm:?}"))?;
        std::fs::set_permissions(&shm, std::fs::Permissions::from_mode(0o1777))
            .or_internal(|| format!("opening {shm:?} to all"))?;
        give(&shm, config)?;
    }
    Ok(())
}

/// Writes /etc/hosts, which knows the pod's addresses.
///
/// # Errors
/// The write failed.
pub fn make_hosts(dir: &Path, config: &SandboxConfig, hostname: &str, attachment: &Attachment) -> Result<()> {
    let hosts = if config.host_network() {
        std::fs::read_to_string("/etc/hosts").unwrap_or_default()
    } else {
        let mut hosts = String::from(
            "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\n\
             ff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n",
        );
        for ip in &attachment.ips {
            // Writing to a String cannot fail.
            writeln!(hosts, "{ip}\t{hostname}").ok();
        }
        hosts
    };
    write(dir, config, "hosts", &hosts)
}

fn resolv_conf(config: &SandboxConfig) -> String {
    let Some(dns) = &config.dns else {
        return std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    };
    let mut text = String::new();
    if !dns.searches.is_empty() {
        writeln!(text, "search {}", dns.searches.join(" ")).ok();
    }
    for server in &dns.servers {
        writeln!(text, "nameserver {server}").ok();
    }
    if !dns.options.is_empty() {
        writeln!(text, "options {}", dns.options.join(" ")).ok();
    }
    text
}

fn write(dir: &Path, config: &SandboxConfig, name: &str, text: &str) -> Result<()> {
    let path = dir.join(name);
    std::fs::write(&path, text).or_internal(|| format!("writing {path:?}"))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644))
        .or_internal(|| format!("setting the mode of {path:?}"))?;
    give(&path, config)
}

/// With a user namespace, files belong to the pod's root.
fn give(path: &Path, config: &SandboxConfig) -> Result<()> {
    let Some(maps) = &config.user else { return Ok(()) };
    let root = |maps: &[super::config::IdMap]| {
        maps.iter()
            .find(|map| map.container_id == 0)
            .map(|map| map.host_id)
    };
    chown(path, root(&maps.uid), root(&maps.gid)).or_internal(|| format!("giving {path:?} to the pod's root"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::config::Dns;

    #[test]
    fn resolv_conf_has_every_line_that_was_asked_for() {
        let dns = Dns {
            servers: vec!["10.10.10.10".into(), "::1".into()],
            searches: vec!["a.b".into(), "c".into()],
            options: vec!["ndots:8".into()],
        };
        let config = SandboxConfig {
            dns: Some(dns),
            ..SandboxConfig::default()
        };
        assert_eq!(
            resolv_conf(&config),
            "search a.b c\nnameserver 10.10.10.10\nnameserver ::1\noptions ndots:8\n"
        );
    }
}
