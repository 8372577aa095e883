//! Volumes and devices of a container request.

use criquet_proto::cri;

use super::{field, sandbox_request};
use crate::container::config::{Device, ImageVolume, Mount, Propagation, Source};
use crate::fault::{Fault, Result};
use crate::limits;

/// Validates volumes, in the order of the request.
pub(crate) fn mounts(requests: &[cri::Mount]) -> Result<Vec<Mount>> {
    if requests.len() > limits::MOUNTS_MAX {
        return Err(Fault::invalid(format!("more than {} mounts", limits::MOUNTS_MAX)));
    }
    requests
        .iter()
        .map(|request| mount(request).map_err(|f| f.while_doing(name(request))))
        .collect()
}

fn name(request: &cri::Mount) -> String {
    format!(
        "mount {:?}",
        request.container_path.chars().take(256).collect::<String>()
    )
}

fn mount(request: &cri::Mount) -> Result<Mount> {
    field::absolute("container_path", &request.container_path)?;
    if request
        .container_path
        .split('/')
        .all(|part| part.is_empty() || part == ".")
    {
        return Err(Fault::invalid("container_path is the root"));
    }
    let propagation = match field::choice("propagation", request.propagation)? {
        cri::MountPropagation::PropagationPrivate => Propagation::Private,
        cri::MountPropagation::PropagationHostToContainer => Propagation::HostToContainer,
        cri::MountPropagation::PropagationBidirectional => Propagation::Bidirectional,
    };
    if request.recursive_read_only && !request.readonly {
        return Err(Fault::invalid("recursive_read_only needs readonly"));
    }
    if request.recursive_read_only && propagation != Propagation::Private {
        return Err(Fault::invalid("recursive_read_only needs private propagation"));
    }
    let maps = |field: &str, maps: &[cri::IdMapping]| {
        maps.iter()
            .map(|map| sandbox_request::id_map(field, map))
            .collect::<Result<Vec<_>>>()
    };
    let (uid_maps, gid_maps) = (
        maps("uidMappings", &request.uid_mappings)?,
        maps("gidMappings", &request.gid_mappings)?,
    );
    if uid_maps.is_empty() != gid_maps.is_empty() {
        return Err(Fault::invalid("uidMappings and gidMappings go together"));
    }
    let mut out = Mount {
        container_path: request.container_path.clone(),
        source: source(request)?,
        readonly: request.readonly,
        recursive_readonly: request.recursive_read_only,
        selinux_relabel: request.selinux_relabel,
        propagation,
        uid_maps,
        gid_maps,
        ..Mount::default()
    };
    for option in &request.mount_options {
        match option.as_str() {
            "nosuid" => out.nosuid = true,
            "nodev" => out.nodev = true,
            "noexec" => out.noexec = true,
            other => return Err(Fault::invalid(format!("mount option {other:?} is not known"))),
        }
    }
    Ok(out)
}

fn source(request: &cri::Mount) -> Result<Source> {
    let Some(image) = request.image.as_ref().filter(|image| !image.image.is_empty()) else {
        if !request.image_sub_path.is_empty() {
            return Err(Fault::invalid("image_sub_path is set without an image"));
        }
        if request.host_path.is_empty() {
            return Err(Fault::invalid("neither host_path nor image is set"));
        }
        return Ok(Source::Host(
            field::absolute("host_path", &request.host_path)?.to_owned(),
        ));
    };
    if !request.host_path.is_empty() {
        return Err(Fault::invalid("host_path and image are both set"));
    }
    if !request.readonly {
        return Err(Fault::invalid(
            "an image volume is always read-only, but readonly is not set",
        ));
    }
    let text =
        |field: &str, value: &str| field::line(field, value, limits::PATH_BYTES_MAX).map(str::to_owned);
    Ok(Source::Image(ImageVolume {
        image: text("image", &image.image)?,
        user_specified_image: text("user_specified_image", &image.user_specified_image)?,
        sub_path: field::relative("image_sub_path", &request.image_sub_path)?.to_owned(),
    }))
}

/// Validates devices, in the order of the request.
pub(crate) fn devices(requests: &[cri::Device]) -> Result<Vec<Device>> {
    if requests.len() > limits::DEVICES_MAX {
        return Err(Fault::invalid(format!(
            "more than {} devices",
            limits::DEVICES_MAX
        )));
    }
    requests
        .iter()
        .map(|request| {
            let host_path = field::absolute("device host_path", &request.host_path)?;
            let container_path = match request.container_path.as_str() {
                "" => host_path,
                path => field::absolute("device container_path", path)?,
            };
            let permissions = match request.permissions.as_str() {
                "" => "rwm",
                some if some.chars().all(|c| "rwm".contains(c)) => some,
                other => {
                    return Err(Fault::invalid(format!(
                        "device permissions {other:?} are not of \"rwm\""
                    )));
                }
            };
            Ok(Device {
                container_path: container_path.to_owned(),
                host_path: host_path.to_owned(),
                permissions: permissions.to_owned(),
            })
        })
        .collect()
}
