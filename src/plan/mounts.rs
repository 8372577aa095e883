//! What is mounted in the container, in order.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use criquet_image::Image;
use criquet_proto::shim;
use criquet_proto::shim::mount::{Kind, Propagation as PlanPropagation};

use super::{Inputs, propagation};
use crate::container::config::{Mount, Propagation, Source};
use crate::fault::{Fault, Kind as FaultKind, OrFault, Result};

/// All mounts: the kernel's file systems, then the pod's files and the volumes, parents first.
///
/// # Errors
/// An image volume's image is not there, or a missing host folder cannot be made.
pub(super) fn mounts(inputs: &Inputs<'_>) -> Result<Vec<shim::Mount>> {
    let requested: Vec<String> = inputs
        .config
        .mounts
        .iter()
        .map(|mount| clean(&mount.container_path))
        .collect();
    let is_free = |target: &str| !requested.iter().any(|path| path == target);
    let mut defaults = kernel_mounts(inputs);
    defaults.retain(|mount| is_free(&mount.target));
    let pod_files = [
        ("/etc/hosts", inputs.hosts_file),
        ("/etc/hostname", inputs.hostname_file),
        ("/etc/resolv.conf", inputs.resolv_conf_file),
    ];
    let mut volumes: Vec<shim::Mount> = pod_files
        .into_iter()
        .filter(|(target, _)| is_free(target))
        .map(|(target, source)| shim::Mount {
            readonly: inputs.config.security.readonly_rootfs,
            ..bind(target.to_owned(), source)
        })
        .collect();
    for (request, target) in inputs.config.mounts.iter().zip(requested) {
        let doing = || format!("mount {target:?}");
        volumes
            .push(volume(request, target.clone(), inputs.volume_images).map_err(|f| f.while_doing(doing()))?);
    }
    // Stable: of two mounts on one path the later one stays on top.
    volumes.sort_by_key(|mount| depth(&mount.target));
    defaults.extend(volumes);
    Ok(defaults)
}

/// What `/` propagates: shared if a volume is, else a slave of the host.
pub(super) fn root_propagation(mounts: &[shim::Mount]) -> PlanPropagation {
    if mounts
        .iter()
        .any(|mount| mount.propagation() == PlanPropagation::Shared)
    {
        return PlanPropagation::Shared;
    }
    PlanPropagation::Slave
}

fn kernel_mounts(inputs: &Inputs<'_>) -> Vec<shim::Mount> {
    let writable = inputs.config.security.privileged;
    let kernel = |kind: Kind, target: &str, readonly| shim::Mount {
        kind: kind.into(),
        target: target.to_owned(),
        readonly,
        nosuid: true,
        nodev: true,
        noexec: true,
        ..shim::Mount::default()
    };
    vec![
        kernel(Kind::Proc, "/proc", false),
        kernel(Kind::Sysfs, "/sys", !writable),
        kernel(Kind::Cgroup, "/sys/fs/cgroup", !writable),
    ]
}

fn bind(target: String, source: &Path) -> shim::Mount {
    shim::Mount {
        kind: Kind::Bind.into(),
        target,
        source: source.to_string_lossy().into_owned(),
        ..shim::Mount::default()
    }
}

fn volume(request: &Mount, target: String, images: &BTreeMap<String, Arc<Image>>) -> Result<shim::Mount> {
    let mut mount = match &request.source {
        Source::Host(path) => {
            must_exist(Path::new(path))?;
            if request.propagation == Propagation::Bidirectional {
                propagation::require_shared(Path::new(path))?;
            }
            bind(target, Path::new(path))
        }
        Source::Image(volume) => {
            let image = images
                .get(&volume.image)
                .ok_or_else(|| Fault::not_found(format!("image {:?} is not on this host", volume.image)))?;
            shim::Mount {
                kind: Kind::Image.into(),
                target,
                lower: layers(image)?,
                sub_path: volume.sub_path.clone(),
                // Device nodes of an image are never wanted; programs are (since CRI 1.36 no noexec).
                nodev: true,
                ..shim::Mount::default()
            }
        }
    };
    mount.readonly = request.readonly || mount.kind() == Kind::Image;
    mount.recursive_readonly = request.recursive_readonly;
    mount.nosuid |= request.nosuid;
    mount.nodev |= request.nodev;
    mount.noexec |= request.noexec;
    mount.uid_maps = request.uid_maps.iter().map(Into::into).collect();
    mount.gid_maps = request.gid_maps.iter().map(Into::into).collect();
    mount.set_propagation(match request.propagation {
        Propagation::Private => PlanPropagation::Private,
        Propagation::HostToContainer => PlanPropagation::Slave,
        Propagation::Bidirectional => PlanPropagation::Shared,
    });
    Ok(mount)
}

/// The CRI: a host path that is missing is an error. The kubelet makes what a pod asks it to make.
fn must_exist(path: &Path) -> Result<()> {
    std::fs::metadata(path)
        .map(drop)
        .or_fault(FaultKind::FailedPrecondition, || {
            format!("looking at the host path {path:?}")
        })
}

/// The layers of an image as overlayfs wants them.
///
/// # Errors
/// A path is not text.
pub(super) fn layers(image: &Image) -> Result<Vec<String>> {
    image
        .layers
        .iter()
        .map(|path| {
            path.to_str()
                .map(str::to_owned)
                .ok_or_else(|| Fault::internal(format!("layer {path:?} is not UTF-8")))
        })
        .collect()
}

/// A path without empty and `.` components; `..` was refused by validation.
pub(super) fn clean(path: &str) -> String {
    let parts: Vec<&str> = path
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .collect();
    format!("/{}", parts.join("/"))
}

fn depth(path: &str) -> usize {
    path.matches('/').count()
}

#[cfg(test)]
mod tests {
    use super::super::tests::Fixture;
    use super::*;
    use crate::container::config::ImageVolume;

    fn host(container_path: &str, host_path: &str) -> Mount {
        Mount {
            container_path: container_path.into(),
            source: Source::Host(host_path.into()),
            ..Mount::default()
        }
    }

    fn targets(mounts: &[shim::Mount]) -> Vec<&str> {
        mounts.iter().map(|mount| mount.target.as_str()).collect()
    }

    #[test]
    fn parents_come_first_and_ties_keep_their_order() {
        let mut fixture = Fixture::new();
        fixture.config.mounts = vec![
            host("/a/b/c", "/usr"),
            host("/a", "/usr"),
            host("/z/", "/usr"),
            host("//a/./b", "/usr"),
            host("/a", "/tmp"),
        ];
        let mounts = mounts(&fixture.inputs()).unwrap();
        assert_eq!(
            targets(&mounts),
            [
                "/proc",
                "/sys",
                "/sys/fs/cgroup",
                "/a",
                "/z",
                "/a",
                "/etc/hosts",
                "/etc/hostname",
                "/etc/resolv.conf",
                "/a/b",
                "/a/b/c"
            ]
        );
        assert_eq!(mounts[5].source, "/tmp");
        assert!(mounts[1].readonly && mounts[2].readonly && !mounts[0].readonly);
    }

    #[test]
    fn requested_paths_replace_ours() {
        let mut fixture = Fixture::new();
        fixture.config.mounts = vec![host("/etc/hosts", "/usr"), host("/sys/fs/cgroup", "/usr")];
        let mounts = mounts(&fixture.inputs()).unwrap();
        assert_eq!(mounts.iter().filter(|m| m.target == "/etc/hosts").count(), 1);
        let cgroup: Vec<_> = mounts.iter().filter(|m| m.target == "/sys/fs/cgroup").collect();
        assert!(cgroup.len() == 1 && cgroup[0].kind() == Kind::Bind);
    }

    #[test]
    fn privileged_containers_write_to_sys() {
        let mut fixture = Fixture::new();
        fixture.config.security.privileged = true;
        let mounts = mounts(&fixture.inputs()).unwrap();
        assert!(!mounts[1].readonly && !mounts[2].readonly);
    }

    #[test]
    fn the_root_is_shared_when_a_volume_is() {
        let mut mounts = vec![
            bind("/a".into(), Path::new("/usr")),
            bind("/b".into(), Path::new("/usr")),
        ];
        mounts[0].set_propagation(PlanPropagation::Slave);
        assert_eq!(root_propagation(&mounts), PlanPropagation::Slave);
        mounts[1].set_propagation(PlanPropagation::Shared);
        assert_eq!(root_propagation(&mounts), PlanPropagation::Shared);
    }

    #[test]
    fn image_volumes() {
        let mut fixture = Fixture::new();
        let volume = ImageVolume {
            image: "sha256:v".into(),
            sub_path: "etc".into(),
            ..ImageVolume::default()
        };
        fixture.config.mounts = vec![Mount {
            container_path: "/v".into(),
            source: Source::Image(volume),
            readonly: true,
            ..Mount::default()
        }];
        assert!(mounts(&fixture.inputs()).is_err(), "the image is not there");
        let image = fixture.image.clone();
        fixture.volume_images.insert("sha256:v".into(), Arc::new(image));
        let mounts = mounts(&fixture.inputs()).unwrap();
        let mount = mounts.iter().find(|m| m.target == "/v").unwrap();
        assert!(mount.kind() == Kind::Image && mount.readonly && !mount.noexec && mount.sub_path == "etc");
        assert_eq!(mount.lower.len(), fixture.image.layers.len());
    }

    #[test]
    fn missing_host_paths_are_refused_and_not_made() {
        let mut fixture = Fixture::new();
        let missing = fixture.dir.path().join("a/b");
        fixture.config.mounts = vec![host("/a", missing.to_str().unwrap())];
        assert!(mounts(&fixture.inputs()).is_err());
        assert!(!missing.exists());
        let dangling = fixture.dir.path().join("link");
        std::os::unix::fs::symlink("/nonexistent/x", &dangling).unwrap();
        fixture.config.mounts = vec![host("/a", dangling.to_str().unwrap())];
        assert!(mounts(&fixture.inputs()).is_err());
    }
}
